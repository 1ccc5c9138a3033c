//! Sessions: the registered lives of mounts, what they may have changed, and what they were
//! answered.
//!
//! This is the part of a session that outlives the directory's leader. Leases, locks, opens and
//! heartbeats are the leader's memory and are not here.
//!
//! | module | what |
//! | --- | --- |
//! | `lifecycle` | opening; ending in two steps; the fence list |
//! | `interest` | which inodes a session may hold a lease, lock or write-open on |
//! | `ledger` | exactly-once execution: the answers to stamped commands |
//! | `read` | everything that only looks |
//!
//! The life of a session: `Open` -> alive -> `BeginEnd` -> ending: none of its commands is
//! executed any more, and file servers are told to refuse it (it is on the fence list) -> the
//! service fences it and settles what it left -> `FinishEnd` -> ended: interest and ledger are
//! gone, the fence entry stays -> `ForgetFence` -> nothing is left of it.

pub mod fsck;
mod import;
mod interest;
mod keys;
pub mod ledger;
mod lifecycle;
pub mod read;
mod records;

#[cfg(test)]
mod tests;

pub use import::imported;

use crate::state::tables::{TableError, Write};
use dfs_proto::attr::Timestamp;
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{Incarnation, InodeId, SessionId};
use serde::{Deserialize, Serialize};

pub(crate) use interest::{add as add_interest, forget_inode};

/// Longest host name of a session.
pub const HOST_BYTES_MAX: usize = 255;

/// Longest mount point of a session (PATH_MAX).
pub const MOUNT_POINT_BYTES_MAX: usize = 4096;

/// Sessions there can be, ended ones that are still fenced among them.
pub const SESSIONS_MAX: usize = 10_000;

/// Inodes in one `AddInterest` or `DropInterest`.
pub const INTEREST_BATCH_MAX: usize = 4096;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SessionCommand {
    /// Begins a session, or returns the one that this incarnation has alive.
    Open {
        incarnation: Incarnation,
        host: String,
        pid: u32,
        mount_point: String,
    },
    /// From now on the session's commands are refused and it is on the fence list. Repeated:
    /// nothing more.
    BeginEnd { session: SessionId },
    /// Everything of an ending session goes but its fence entry. Repeated: nothing more.
    FinishEnd { session: SessionId },
    /// Nothing of the ended session can arrive any more: its fence entry goes. `Busy` before
    /// `FinishEnd`.
    ForgetFence { session: SessionId },
    /// Before the session's first exclusive lease, write-open or lock on these inodes. `Stale`
    /// (and nothing recorded) if one of them is gone. Repeated: nothing more.
    AddInterest {
        session: SessionId,
        inodes: Vec<InodeId>,
    },
    /// After the last release; ordered after it by the log.
    DropInterest {
        session: SessionId,
        inodes: Vec<InodeId>,
    },
}

/// What a command did, or why it was refused. A refused command changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionOutcome(pub Result<SessionChanged, ErrorCode>);

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SessionChanged {
    Opened {
        session: SessionId,
        /// False: the incarnation had this session already.
        fresh: bool,
    },
    Done,
}

/// Where a session is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SessionPhase {
    Alive,
    /// Being fenced and settled: its interest records say what is left to do.
    Ending,
    /// Only its fence entry is left.
    Ended,
}

/// One session, as the log knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionInfo {
    pub session: SessionId,
    pub phase: SessionPhase,
    pub incarnation: Incarnation,
    pub host: String,
    pub pid: u32,
    pub mount_point: String,
    /// When it began, in seconds since 1970; `None` for one from before that was stored.
    pub began: Option<i64>,
}

/// Applies one command.
pub fn apply(
    tables: &mut dyn Write,
    now: Timestamp,
    command: &SessionCommand,
) -> Result<SessionOutcome, TableError> {
    use SessionCommand as C;
    let done = |result: Result<(), ErrorCode>| result.map(|()| SessionChanged::Done);
    Ok(SessionOutcome(match command {
        C::Open {
            incarnation,
            host,
            pid,
            mount_point,
        } => lifecycle::open(tables, now, *incarnation, host, *pid, mount_point)?,
        C::BeginEnd { session } => done(lifecycle::begin_end(tables, *session)?),
        C::FinishEnd { session } => done(lifecycle::finish_end(tables, *session)?),
        C::ForgetFence { session } => done(lifecycle::forget_fence(tables, *session)?),
        C::AddInterest { session, inodes } => done(interest::add_all(tables, *session, inodes)?),
        C::DropInterest { session, inodes } => done(interest::drop_all(tables, *session, inodes)?),
    }))
}
