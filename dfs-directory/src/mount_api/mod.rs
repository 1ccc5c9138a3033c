//! What mounts call: sessions, leases, opens, locks, reclaim and the namespace; and what the
//! directory calls mounts for.
//!
//! The rules are in the pure tables of `lease` and in the replicated state; this module carries
//! them out over connections. It holds no state of its own but [`core::Core`], which lives as
//! long as this member leads: a new life starts from the log and the mounts reclaim.
//!
//! | module | serves |
//! | --- | --- |
//! | `changes` | telling those who wait that something has changed |
//! | `core` | the leader's memory and the waits in it |
//! | `dispatch` | from a frame to a handler and back |
//! | `sessions` | open, heartbeat, goodbye, connections, map pushes |
//! | `ending` | the end of a session without goodbye |
//! | `epitaphs` | why sessions were ended |
//! | `leases` | acquire, release, push, open, close |
//! | `recalls` | recalls and questions to holders |
//! | `holds` | operations: other sessions' leases out of the way of a change |
//! | `mutations` | changes of the namespace |
//! | `rights` | rights to keep names and attributes; telling of changes |
//! | `reads` | lookup, attributes, listings, statfs |
//! | `locks` | set, cancel, test, release, grants by push |
//! | `reclaim` | re-assertion after a change of the leader |
//! | `orphans` | freeing of inodes without a name and without an open |
//! | `ticker` | everything that time causes |
//! | `report` | answers for `dfsctl` |

mod changes;
mod core;
mod dispatch;
mod ending;
mod epitaphs;
mod holds;
mod leases;
mod locks;
mod mutations;
mod orphans;
mod reads;
mod recalls;
mod reclaim;
mod report;
mod rights;
mod sessions;
mod settling;
mod ticker;

#[cfg(test)]
mod tests;

use crate::lease::{Moment, Token};
use crate::raft::RaftHandle;
use crate::tasks::Placement;
use changes::{Changes, Follower, next_change};
use core::Core;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::SessionId;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The present moment; CLOCK_BOOTTIME outside of tests.
pub type Clock = Arc<dyn Fn() -> Moment + Send + Sync>;

/// The service for mounts. Clones are handles of the same service.
#[derive(Clone)]
pub struct MountApi {
    shared: Arc<Shared>,
}

struct Shared {
    raft: RaftHandle,
    placement: Placement,
    clock: Clock,
    /// Never held over an await.
    core: Mutex<Core>,
    next_token: AtomicU64,
    /// The ticker has something to do earlier than it thinks.
    sooner: Notify,
    /// Orphans wait to be freed.
    orphans: Notify,
    /// Counts what others may wait for without a token: a reclaim, a new connection, the end of
    /// a session, a recall, a dropped record.
    changes: Changes,
}

impl std::fmt::Debug for MountApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MountApi")
            .field("raft", &self.shared.raft)
            .finish_non_exhaustive()
    }
}

impl MountApi {
    /// Starts the service and its tasks in the present tokio runtime. It serves while the
    /// member leads and answers `NotLeader` else.
    pub fn start(raft: RaftHandle, placement: Placement) -> Self {
        Self::start_at(Arc::new(boot_time), raft, placement)
    }

    /// The same with a clock of the caller's: for tests and simulations.
    pub fn start_at(clock: Clock, raft: RaftHandle, placement: Placement) -> Self {
        let api = Self {
            shared: Arc::new(Shared {
                raft,
                placement,
                clock,
                core: Mutex::new(Core::idle()),
                next_token: AtomicU64::new(1),
                sooner: Notify::new(),
                orphans: Notify::new(),
                changes: Changes::default(),
            }),
        };
        tokio::spawn(api.clone().follow_leadership());
        tokio::spawn(api.clone().tick_for_ever());
        tokio::spawn(api.clone().free_orphans_for_ever());
        api
    }

    fn raft(&self) -> &RaftHandle {
        &self.shared.raft
    }

    fn placement(&self) -> &Placement {
        &self.shared.placement
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        // The tables' methods don't panic half-way.
        self.shared
            .core
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The leader's memory; `NotLeader` on any other member.
    fn leading(&self) -> Result<MutexGuard<'_, Core>> {
        let core = self.core();
        if core.life == 0 {
            let leader = self.raft().status().leader.map_or(0, |member| member.0);
            return Err(Error::bare(ErrorCode::NotLeader).with_detail(leader));
        }
        Ok(core)
    }

    /// The leader's memory, if the session is alive in it.
    fn alive(&self, session: SessionId) -> Result<MutexGuard<'_, Core>> {
        let core = self.leading()?;
        if !core.clock.is_alive(session) {
            return Err(
                Error::new(ErrorCode::SessionEnded, core.ended.read(session))
                    .with_detail(session.0),
            );
        }
        Ok(core)
    }

    fn now(&self) -> Moment {
        (self.shared.clock)()
    }

    fn token(&self) -> Token {
        Token(self.shared.next_token.fetch_add(1, Ordering::Relaxed))
    }

    /// Something changed that waits without a token look at.
    fn changed(&self) {
        self.shared.changes.tell();
    }

    fn changes(&self) -> Follower {
        self.shared.changes.follow()
    }
}

/// CLOCK_BOOTTIME: it goes on while the machine sleeps.
fn boot_time() -> Moment {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Moment::new(
        time.tv_sec.unsigned_abs(),
        time.tv_nsec.unsigned_abs() as u32,
    )
}
