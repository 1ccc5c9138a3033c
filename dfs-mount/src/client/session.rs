//! One session of this mount with the directory, and the stamps of its changes.

use super::guard::lock;
use super::window::Window;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{Sequence, SessionId};
use dfs_proto::limits::SESSION_UNANSWERED_MAX;
use dfs_proto::msg::session::Stamp;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// A session. When it has ended, another one takes its place.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    /// Counts this mount's sessions, from 1.
    pub(super) life: u64,
    window: Mutex<Window>,
    slots: Arc<Semaphore>,
    answered: Notify,
    writes: AtomicU64,
    ended: AtomicBool,
}

impl Session {
    pub(super) fn new(id: SessionId, life: u64) -> Self {
        Self {
            id,
            life,
            window: Mutex::default(),
            slots: Arc::new(Semaphore::new(SESSION_UNANSWERED_MAX)),
            answered: Notify::new(),
            writes: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        }
    }

    /// The sequence of a chunk write: they rise, so they do for every chunk.
    pub(super) fn next_write(&self) -> Sequence {
        Sequence(self.writes.fetch_add(1, Ordering::Relaxed) + 1)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// A number for one change, when there is room for one more unanswered.
    pub(super) async fn begin(self: &Arc<Self>) -> Result<Stamped> {
        let slot = self.slots.clone().acquire_owned().await;
        let slot = slot.map_err(|_| Error::bare(ErrorCode::ShuttingDown))?;
        loop {
            let answered = self.answered.notified();
            tokio::pin!(answered);
            answered.as_mut().enable();
            if let Some(sequence) = lock(&self.window).begin() {
                return Ok(Stamped {
                    session: self.clone(),
                    sequence,
                    _slot: slot,
                });
            }
            answered.await;
        }
    }
}

/// The number of one change, until its answer has come.
#[derive(Debug)]
pub(super) struct Stamped {
    pub(super) session: Arc<Session>,
    pub(super) sequence: Sequence,
    _slot: OwnedSemaphorePermit,
}

impl Stamped {
    pub(super) fn stamp(&self) -> Stamp {
        Stamp {
            session: self.session.id,
            sequence: self.sequence,
            lowest_unanswered: lock(&self.session.window).lowest_unanswered(),
        }
    }
}

impl Drop for Stamped {
    fn drop(&mut self) {
        lock(&self.session.window).finish(self.sequence);
        self.session.answered.notify_waiters();
    }
}
