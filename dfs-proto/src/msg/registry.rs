//! File server -> directory.

use super::requests;
use crate::ids::{Epoch, GroupId, Incarnation, NodeId, ServerId, ServerRun, SessionId};
use serde::{Deserialize, Serialize};

/// Announces a run of a file server. Sent on every connection; the directory calls back on it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RegisterServer {
    pub node: NodeId,
    pub incarnation: Incarnation,
    /// `HOST:PORT` for mounts and other servers.
    pub address: String,
    pub past: DataDirPast,
    /// Durable adopted epochs, one for each group held.
    pub epochs: Vec<(GroupId, Epoch)>,
    pub space: Space,
}

/// What a data dir remembers of the runs that used it before. It tells a dir that was set back to
/// an older state, or emptied, from the one that the log remembers (R1).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DataDirPast {
    /// Earlier runs, the oldest first; the very oldest may be forgotten.
    pub runs: Vec<Incarnation>,
    /// Since each of the last so many of `runs` every stop was orderly: what they wrote is all
    /// there.
    pub intact: u32,
    /// A person says that the dir is to count although it was set back: nothing newer is left.
    pub accept_rollback: bool,
}

impl DataDirPast {
    /// The runs of which everything is there.
    pub fn intact_since(&self) -> &[Incarnation] {
        let intact = usize::try_from(self.intact).unwrap_or(usize::MAX);
        &self.runs[self.runs.len().saturating_sub(intact)..]
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Space {
    pub total_bytes: u64,
    pub free_bytes: u64,
    pub chunks: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServerRegistered {
    pub server: ServerId,
    pub groups: u32,
    /// All ended sessions whose fence may not be forgotten yet.
    pub fenced: Vec<SessionId>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServerHeartbeat {
    pub run: ServerRun,
    pub space: Space,
    pub repair: RepairWork,
    /// Why its disk cannot be used any more; empty: it can.
    pub failure: String,
}

/// What a server does as a primary to bring members up to date.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RepairWork {
    /// One for each joining member of each group that it leads.
    pub joins: Vec<JoinProgress>,
    /// Bytes copied in the last second.
    pub bytes_per_second: u64,
}

/// How far a joining member is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct JoinProgress {
    pub group: GroupId,
    pub server: ServerId,
    /// Its inventory has been compared to the end: the numbers below do not grow any more, but
    /// for what is written meanwhile.
    pub compared: bool,
    /// Chunks that differ and wait to be copied, or are being copied.
    pub chunks_left: u64,
    pub bytes_left: u64,
    pub chunks_copied: u64,
    pub bytes_copied: u64,
}

/// What a server is to keep to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Heard {
    /// Bytes a second that it may copy to joining members; 0 does not limit it.
    pub repair_rate: u64,
}

/// A member of a group does not answer, or answered with a disk error.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReportSuspect {
    pub from: ServerRun,
    pub suspect: ServerRun,
    pub groups: Vec<(GroupId, Epoch)>,
    pub reason: String,
}

/// Writes of one member take much longer than those of each other member, for long: it holds
/// everybody up. Repeated for as long as it is so.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReportSlow {
    /// The primary of the groups that this is about.
    pub from: ServerRun,
    /// May be `from` itself.
    pub slow: ServerRun,
    /// Mean time of a write there, and at the slowest other member.
    pub mean_millis: u32,
    pub others_millis: u32,
}

/// The primary has brought a joining member up to date (R4): it may become in-sync.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProposeInSync {
    pub from: ServerRun,
    pub group: GroupId,
    pub epoch: Epoch,
    pub joined: ServerRun,
}

requests! {
    0x0401 RegisterServer => ServerRegistered;
    0x0402 ServerHeartbeat => Heard;
    0x0403 ReportSuspect => ();
    0x0404 ProposeInSync => ();
    0x0405 ReportSlow => ();
}
