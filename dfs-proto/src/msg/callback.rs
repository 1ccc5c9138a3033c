//! Directory -> mount, on the connection that the mount made.

use super::requests;
use crate::attr::SizeTimes;
use crate::cluster::ClusterMap;
use crate::ids::{GrantId, InodeId, LockOwner, Sequence};
use crate::lock::LockSpace;
use crate::msg::session::LeaseKind;
use crate::name::FileName;
use serde::{Deserialize, Serialize};

/// Asks for a lease back. The mount flushes what is dirty, resolves what is in doubt,
/// invalidates the kernel's caches, and then answers `Returned`; while it is still at it, it
/// answers `Working` at least every `timing::RECALL_PROGRESS`, and the directory asks again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Recall {
    pub inode: InodeId,
    pub grant: GrantId,
    /// What the session may keep: an exclusive lease can become a shared one.
    pub keep: Option<LeaseKind>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RecallAnswer {
    /// Given back (also: this grant is not held any more). The push is logged before anybody
    /// else is granted.
    Returned {
        push: Option<SizeTimes>,
    },
    Working,
}

/// Asks the holder of the exclusive lease for size and times, because another mount looks. The
/// holder keeps its lease; the answer counts every write that it has acknowledged. `None`: that
/// grant is not held (any more) and everything was pushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AskAttr {
    pub inode: InodeId,
    pub grant: GrantId,
}

/// A lock that the mount waits for is now held by it. Repeated until acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LockGranted {
    pub inode: InodeId,
    pub wait: Sequence,
}

/// Another mount's try-lock conflicts with these owners: does the mount still hold them? The
/// kernel does not wait for RELEASE, so a closed file's flock may be on its way out. Answers
/// with the owners that are gone (their `ReleaseOwner` has been answered by then).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConfirmLocks {
    pub inode: InodeId,
    pub space: LockSpace,
    pub owners: Vec<LockOwner>,
}

/// The cluster map has changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MapChanged {
    pub map: ClusterMap,
}

/// Names in dirs, or attributes of dirs, have changed: answered when neither the mount nor its
/// kernel serves what was there before. A change waits for this answer before it is answered
/// itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NamesChanged {
    /// At most `limits::DIR_CHANGES_MAX`.
    pub changes: Vec<DirChange>,
}

/// What has changed in one dir: its attributes, and these names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DirChange {
    pub dir: InodeId,
    pub names: Vec<FileName>,
    /// False: nothing more of this dir is to be kept. What the kernel was allowed to keep runs
    /// out by itself; until then the mount goes on to be told.
    pub keep: bool,
}

requests! {
    0x0301 Recall => RecallAnswer;
    0x0302 AskAttr => Option<SizeTimes>;
    0x0303 LockGranted => ();
    0x0304 ConfirmLocks => ();
    0x0305 MapChanged => ();
    0x0306 NamesChanged => ();
}
