//! A handle whose state lives in memory and whose changes are applied at once: for tests of the
//! services, without disk, threads or elections.

use super::handle::{Inner, RaftHandle};
use super::status::RaftStatus;
use crate::state::memory::MemoryTables;
use crate::state::tables::{Read, TableError};
use crate::state::{self, Change, Command, Outcome};
use dfs_proto::attr::Timestamp;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::MemberId;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

const MEMBER: MemberId = MemberId(1);

/// The present time, for the commands.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

#[derive(Clone)]
pub(super) struct InMemory {
    tables: Arc<Mutex<MemoryTables>>,
    status: Arc<watch::Sender<RaftStatus>>,
    clock: Clock,
}

impl InMemory {
    fn new(clock: Clock) -> Self {
        let status = RaftStatus {
            member: MEMBER,
            ..RaftStatus::default()
        };
        let new = Self {
            tables: Arc::default(),
            status: Arc::new(watch::Sender::new(status)),
            clock,
        };
        new.set_leading(true);
        new
    }

    fn tables(&self) -> MutexGuard<'_, MemoryTables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_leading(&self) -> Result<()> {
        let status = self.status.borrow();
        if status.failed.is_some() {
            return Err(Error::bare(ErrorCode::ShuttingDown));
        }
        if !status.leading {
            return Err(Error::bare(ErrorCode::NotLeader));
        }
        Ok(())
    }

    pub(super) fn commit(&self, change: Change) -> Result<Outcome> {
        self.check_leading()?;
        let now = (self.clock)();
        let outcome = state::apply(&mut *self.tables(), &Command { now, change })
            .map_err(|e| Error::new(ErrorCode::StorageFailed, e.to_string()))?;
        self.status.send_modify(|s| s.applied += 1);
        Ok(outcome)
    }

    pub(super) fn read<T>(&self, f: impl FnOnce(&dyn Read) -> Result<T, TableError>) -> Result<T> {
        self.check_leading()?;
        self.read_local(f)
    }

    pub(super) fn read_local<T>(
        &self,
        f: impl FnOnce(&dyn Read) -> Result<T, TableError>,
    ) -> Result<T> {
        f(&*self.tables()).map_err(|e| Error::new(ErrorCode::StorageFailed, e.to_string()))
    }

    pub(super) fn status(&self) -> RaftStatus {
        self.status.borrow().clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<RaftStatus> {
        self.status.subscribe()
    }

    pub(super) fn shutdown(&self) {
        self.status.send_modify(|s| {
            s.leading = false;
            s.life = 0;
            s.failed = Some("shut down".to_owned());
        });
    }

    fn set_leading(&self, leading: bool) {
        self.status.send_modify(|s| {
            if leading && !s.leading {
                s.term += 1;
            }
            s.leading = leading;
            s.leader = leading.then_some(MEMBER);
            s.life = if leading {
                RaftStatus::life_of(s.term, MEMBER)
            } else {
                0
            };
        });
    }
}

impl RaftHandle {
    /// A member that leads, over empty tables in memory, with the host's clock.
    pub fn in_memory() -> Self {
        Self::in_memory_at(Arc::new(super::batcher::wall_clock))
    }

    /// The same with a clock of the caller's.
    pub fn in_memory_at(clock: Clock) -> Self {
        Self(Inner::InMemory(InMemory::new(clock)))
    }

    /// Takes the lead from an in-memory member or gives it back, under a new life. No effect on
    /// a member with a disk.
    pub fn set_leading(&self, leading: bool) {
        if let Inner::InMemory(memory) = &self.0 {
            memory.set_leading(leading);
        }
    }
}
