//! The replicated log of directory changes: the only place that knows openraft.
//!
//! What it is: commands of `crate::state` go in through a `RaftHandle`, are logged on a majority
//! of the members' disks, applied in the same order everywhere, and their outcomes come back.
//! What it is not: it does not look into commands, and it keeps no leases, locks or connections.
//!
//! ```text
//!  callers (any thread)         the raft thread
//!  commit ----> queue -----> batcher -----> openraft ---> log_store      append + fdatasync
//!                                              |-------> state_machine  apply, no flush
//!  read ------> queue -----> reader (proof of the lead, shared)
//!     `-------> tables (redb, a view of one moment)
//!                            election: asks whether it is time, then stands (`contact`)
//!                            keeper: checkpoints of the tables, then purges of the log
//! ```
//!
//! One thread with a runtime of its own runs openraft and the log; a flush blocks it, which was
//! measured to be faster than handing the flush to another thread. Its connections to the other
//! members live there too (`network`); their calls come in through the member's port and are
//! handed over (`desk`). Who is a member follows what the log wants (`membership`).
//!
//! **Durability.** A change is answered when its log entry is flushed (on a majority) and it is
//! applied. The tables are flushed later, by checkpoints; the log is purged only up to what a
//! checkpoint has made durable. After a crash the tables stand at the last checkpoint and the
//! log is applied again from there.

mod batcher;
mod candidacy;
mod contact;
mod desk;
mod election;
mod hand_over;
mod handle;
#[cfg(any(test, feature = "testing"))]
mod in_memory;
mod keeper;
mod log_store;
mod membership;
mod network;
mod reader;
mod runtime;
#[cfg(any(test, feature = "testing"))]
mod simulated;
mod snapshot_data;
mod state_machine;
mod status;
#[cfg(test)]
mod tests;
mod types;
mod wire;

pub use handle::RaftHandle;
#[cfg(any(test, feature = "testing"))]
pub use in_memory::Clock;
#[cfg(any(test, feature = "testing"))]
pub use simulated::{Pending, SimulatedMember};
pub use status::{PeerStatus, RaftStatus};

use crate::state::level::FEATURE_LEVEL;
use crate::state::tables::TableError;
use crate::storage::DataDir;
use crate::storage::identity::IdentityError;
use crate::storage::log::{LogError, SEGMENT_BYTES};
use crate::storage::snapshot::SnapshotError;
use dfs_proto::transport::Identity;
use std::fmt;
use std::io;
use std::sync::Arc;

/// How to start a member.
#[derive(Debug)]
pub struct RaftOptions {
    /// The member's data dir, formatted and held by this process.
    pub data: DataDir,
    /// `HOST:PORT` at which other members reach this one.
    pub address: String,
    /// Shown to other members; `None` for a member that will stay alone.
    pub identity: Option<Arc<Identity>>,
    /// Bytes of a log segment.
    pub segment_bytes: u64,
    /// The log is purged when it has grown to this many bytes.
    pub log_bytes_max: u64,
    /// The highest feature level that this member takes part in.
    pub supports: u16,
}

impl RaftOptions {
    pub fn new(data: DataDir, address: impl Into<String>) -> Self {
        Self {
            data,
            address: address.into(),
            identity: None,
            segment_bytes: SEGMENT_BYTES,
            log_bytes_max: 64 << 20,
            supports: FEATURE_LEVEL,
        }
    }
}

/// Why a member does not start.
#[derive(Debug)]
pub enum StartError {
    Identity(IdentityError),
    Log(LogError),
    Tables(TableError),
    Snapshot(SnapshotError),
    Thread(io::Error),
    /// The data are of a newer version.
    Level(String),
    /// The parts of the data dir don't belong together.
    Inconsistent(String),
    /// openraft refused.
    Raft(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(e) => e.fmt(f),
            Self::Log(e) => e.fmt(f),
            Self::Tables(e) => e.fmt(f),
            Self::Snapshot(e) => e.fmt(f),
            Self::Thread(e) => write!(f, "the raft thread can't be started: {e}"),
            Self::Inconsistent(why) => write!(
                f,
                "the data dir is not whole: {why}; restore it as a whole from a backup"
            ),
            Self::Level(why) => f.write_str(why),
            Self::Raft(why) => write!(f, "raft: {why}"),
        }
    }
}

impl std::error::Error for StartError {}

impl From<IdentityError> for StartError {
    fn from(e: IdentityError) -> Self {
        Self::Identity(e)
    }
}

impl From<LogError> for StartError {
    fn from(e: LogError) -> Self {
        Self::Log(e)
    }
}

impl From<TableError> for StartError {
    fn from(e: TableError) -> Self {
        Self::Tables(e)
    }
}

impl From<SnapshotError> for StartError {
    fn from(e: SnapshotError) -> Self {
        Self::Snapshot(e)
    }
}

/// Starts a member: opens its log and tables, applies what the tables lack, and takes its part
/// in the group. A founding member makes the group of itself first; a joining one is called by the
/// others.
///
/// It may not lead yet when this returns; see `RaftHandle::leading`.
pub async fn start(options: RaftOptions) -> Result<RaftHandle, StartError> {
    runtime::start(options).await
}
