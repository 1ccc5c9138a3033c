//! Locks that mounts believe to hold. Two that exclude each other are never believed in at once,
//! unless the session of one of them is fenced: what it still believes does no harm then.

use dfs_proto::ids::{InodeId, SessionId};
use dfs_proto::lock::{HeldLock, LockKind};

#[derive(Debug, Default)]
pub(crate) struct Holds {
    locks: Vec<(InodeId, HeldLock)>,
    /// Locks that were taken.
    pub(crate) taken: u64,
}

fn excludes(a: &HeldLock, b: &HeldLock) -> bool {
    a.holder != b.holder
        && a.space.is_ranges() == b.space.is_ranges()
        && a.range.overlaps(&b.range)
        && (a.kind == LockKind::Exclusive || b.kind == LockKind::Exclusive)
}

impl Holds {
    /// A mount has learnt that it holds a lock.
    pub(crate) fn locked(
        &mut self,
        inode: InodeId,
        lock: HeldLock,
        is_fenced: impl Fn(SessionId) -> bool,
    ) -> Result<(), String> {
        self.taken += 1;
        // A grant may reach a mount that was cut off long after its session has ended.
        let harmless = is_fenced(lock.holder.session);
        let other = self.locks.iter().find(|(at, held)| {
            *at == inode && !harmless && excludes(held, &lock) && !is_fenced(held.holder.session)
        });
        let found = match other {
            Some((_, held)) => Err(format!("{inode}: {lock:?} is held beside {held:?}")),
            None => Ok(()),
        };
        self.locks.push((inode, lock));
        found
    }

    /// A mount is about to give a lock back.
    pub(crate) fn unlocked(&mut self, inode: InodeId, lock: &HeldLock) {
        self.locks.retain(|(at, held)| {
            *at != inode
                || held.holder != lock.holder
                || held.space != lock.space
                || held.range != lock.range
        });
    }

    /// A mount has heard of the end of its session, or has died.
    pub(crate) fn lost(&mut self, session: SessionId) {
        self.locks
            .retain(|(_, held)| held.holder.session != session);
    }
}
