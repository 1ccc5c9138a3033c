//! flock and byte-range locks: decided by the directory (`lock_requests`), remembered for a reclaim,
//! released.

use super::call::Wait;
use super::core::Core;
use super::guard::lock;
use super::held_locks::{HeldLocks, Lent, OwnerKey};
use super::types::LockRequest;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{InodeId, LockOwner, Sequence, SessionId};
use dfs_proto::lock::{HeldLock, LockKind, LockRange, LockSpace};
use dfs_proto::msg::callback::ConfirmLocks;
use dfs_proto::msg::session::{ReleaseOwner, TestLock};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};

/// A release that is on its way is waited for at most so long by a `ConfirmLocks`.
const RELEASE_WAIT: Duration = Duration::from_millis(1_000);

/// Tells a wait to end: the caller was interrupted.
#[derive(Clone, Debug)]
pub struct Cancel(Arc<watch::Sender<bool>>);

impl Default for Cancel {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Cancel {
    pub fn cancel(&self) {
        self.0.send_replace(true);
    }

    pub(super) async fn cancelled(&self) {
        let mut watching = self.0.subscribe();
        // The sender lives in `self`: an error cannot come.
        let _ = watching.wait_for(|cancelled| *cancelled).await;
    }
}

/// How a queued wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WaitEnd {
    Granted,
    /// The directory's leader changed, or the session: the wait is asked for anew.
    Moved,
}

#[derive(Debug)]
struct Waiter {
    key: OwnerKey,
    request: LockRequest,
    end: oneshot::Sender<WaitEnd>,
}

/// Locks that a request under way may share, and under which leader it was said first.
#[derive(Debug, Default)]
pub(super) struct LentIn {
    life: u64,
    pub(super) pieces: Vec<Lent>,
}

/// The locks of this mount.
#[derive(Debug, Default)]
pub(super) struct Locks {
    inner: Mutex<Inner>,
    released: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    held: HeldLocks,
    waiters: BTreeMap<(InodeId, Sequence), Waiter>,
    /// Requests under way that may give the owner a lock.
    setting: BTreeMap<OwnerKey, u32>,
    /// Releases under way.
    releasing: BTreeMap<OwnerKey, u32>,
    /// The life of the directory's leader that all this belongs to.
    life: u64,
}

impl Inner {
    fn move_waiters(&mut self) {
        for (_, waiter) in std::mem::take(&mut self.waiters) {
            // A caller that went away in the same moment needs no news.
            let _ = waiter.end.send(WaitEnd::Moved);
        }
    }
}

impl Locks {
    /// Another leader: every wait is asked for anew; returns what is held, to be reclaimed.
    pub(super) fn begin_life(&self, life: u64, session: SessionId) -> Vec<(InodeId, HeldLock)> {
        let mut inner = lock(&self.inner);
        inner.life = life;
        inner.move_waiters();
        inner.held.all(session)
    }

    /// The session has ended: no lock is left. Returns the inodes that had some.
    pub(super) fn lose_all(&self, life: u64) -> BTreeSet<InodeId> {
        let mut inner = lock(&self.inner);
        inner.life = life;
        inner.move_waiters();
        inner.held.lose_all()
    }

    /// The directory has granted what was waited for.
    pub(super) fn granted(&self, inode: InodeId, wait: Sequence) {
        let mut inner = lock(&self.inner);
        if let Some(waiter) = inner.waiters.remove(&(inode, wait)) {
            let request = waiter.request;
            inner
                .held
                .set(waiter.key, request.range, request.kind, request.pid);
            // A caller that went away is cancelling: its cancel will find the lock held.
            let _ = waiter.end.send(WaitEnd::Granted);
        }
    }

    /// Waits until releases of these owners that are under way have been answered.
    pub(super) async fn releases_done(&self, confirm: &ConfirmLocks) {
        let done = async {
            loop {
                let released = self.released.notified();
                tokio::pin!(released);
                released.as_mut().enable();
                let waiting = {
                    let inner = lock(&self.inner);
                    confirm.owners.iter().any(|owner| {
                        inner.releasing.contains_key(&OwnerKey {
                            inode: confirm.inode,
                            space: confirm.space,
                            owner: *owner,
                        })
                    })
                };
                if !waiting {
                    return;
                }
                released.await;
            }
        };
        let _ = tokio::time::timeout(RELEASE_WAIT, done).await;
    }

    /// A request is about to be sent; with `end` it may be queued, and is told there how that ends: the
    /// grant may be here before the answer. Returns what may be shared from now on.
    pub(super) fn begin(
        &self,
        key: OwnerKey,
        wait: Sequence,
        request: LockRequest,
        end: oneshot::Sender<WaitEnd>,
    ) -> LentIn {
        let mut inner = lock(&self.inner);
        let (range, kind) = (request.range, request.kind);
        let pieces = inner.held.give_up(key, range, kind, request.pid);
        if request.wait {
            let waiter = Waiter { key, request, end };
            inner.waiters.insert((key.inode, wait), waiter);
        }
        let life = inner.life;
        LentIn { life, pieces }
    }

    /// The request was refused. `false`: another leader was told meanwhile what may be shared.
    pub(super) fn take_back(&self, key: OwnerKey, lent: &LentIn) -> bool {
        let mut inner = lock(&self.inner);
        let known = lent.pieces.is_empty() || inner.life == lent.life;
        if known {
            inner.held.take_back(key, &lent.pieces);
        }
        known
    }

    /// Nothing queued is waited for any more.
    pub(super) fn forget_wait(&self, inode: InodeId, wait: Sequence) {
        lock(&self.inner).waiters.remove(&(inode, wait));
    }

    /// The life of the directory's leader that all this belongs to.
    pub(super) fn life(&self) -> u64 {
        lock(&self.inner).life
    }

    /// A definite answer under the leader's life `life`: false if that is over.
    pub(super) fn note(&self, life: u64, key: OwnerKey, request: &LockRequest) -> bool {
        let mut inner = lock(&self.inner);
        if inner.life != life {
            return false;
        }
        inner
            .held
            .set(key, request.range, request.kind, request.pid);
        true
    }
}

/// Counts a request of an owner while it is under way.
pub(super) struct Underway {
    core: Arc<Core>,
    key: OwnerKey,
    release: bool,
}

impl Underway {
    pub(super) fn new(core: &Arc<Core>, key: OwnerKey, release: bool) -> Self {
        let mut inner = lock(&core.locks.inner);
        let counts = match release {
            true => &mut inner.releasing,
            false => &mut inner.setting,
        };
        *counts.entry(key).or_default() += 1;
        drop(inner);
        Self {
            core: core.clone(),
            key,
            release,
        }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let mut inner = lock(&self.core.locks.inner);
        let counts = match self.release {
            true => &mut inner.releasing,
            false => &mut inner.setting,
        };
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
        drop(inner);
        self.core.locks.released.notify_waiters();
    }
}

impl Core {
    /// Which lock would conflict.
    pub(super) async fn test_lock(
        &self,
        inode: InodeId,
        space: LockSpace,
        owner: LockOwner,
        kind: LockKind,
        range: LockRange,
    ) -> Result<Option<HeldLock>> {
        let (conflict, up) = self
            .ask(Wait::Short, |session| TestLock {
                session,
                inode,
                space,
                owner,
                kind,
                range,
            })
            .await?;
        // A process id means something on its own host only.
        Ok(conflict.map(|mut held| {
            if held.holder.session != up.session.id {
                held.pid = 0;
            }
            held
        }))
    }

    /// Releases what an owner holds of an inode in a space: at a close. From the call on, not
    /// only from the first poll, a `ConfirmLocks` waits for it.
    pub(super) fn release_owner(
        self: &Arc<Self>,
        key: OwnerKey,
    ) -> impl Future<Output = Result<()>> + Send + 'static {
        let needed = {
            let inner = lock(&self.locks.inner);
            // What this mount does not know to hold, it does not hold.
            inner.held.holds_any(key) || inner.setting.contains_key(&key)
        };
        let release = needed.then(|| (self.clone(), Underway::new(self, key, true)));
        async move {
            match release {
                Some((core, underway)) => core.release_now(key, underway).await,
                None => Ok(()),
            }
        }
    }

    /// Whether the owner is known to hold anything of the inode in the space.
    pub(super) fn holds_locks(&self, key: OwnerKey) -> bool {
        lock(&self.locks.inner).held.holds_any(key)
    }

    async fn release_now(self: Arc<Self>, key: OwnerKey, underway: Underway) -> Result<()> {
        let core = self.clone();
        // Not told to a new leader from now on: the old one may have released it already.
        lock(&self.locks.inner).held.release(key);
        let released = self.names.spawn(async move {
            let _underway = underway;
            let released = core.stamped(Wait::Short, |stamp| ReleaseOwner {
                stamp,
                inode: key.inode,
                space: key.space,
                owner: key.owner,
            });
            let result = released.await.map(|_| ());
            lock(&core.locks.inner).held.release(key);
            result
        });
        let result = released.await;
        result.unwrap_or_else(|e| Err(Error::new(ErrorCode::Internal, e.to_string())))
    }
}
