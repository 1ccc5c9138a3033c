//! What conflicts with each other: the flocks, or the byte ranges, of one inode, and who waits for them.

use super::WaitKey;
use crate::lease::lock_ranges::LockRanges;
use dfs_proto::lock::{HeldLock, LockHolder, LockKind, LockRange, LockSpace};
use std::collections::BTreeMap;

/// When a wait came: the place of a waiter in its queue.
pub(super) type Turn = u64;

#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub(super) key: WaitKey,
    pub(super) lock: HeldLock,
    /// Goes ahead of earlier waiters, since order would be a deadlock.
    pub(super) skips: bool,
}

/// What one owner holds in one place.
#[derive(Debug)]
pub(super) struct Holding {
    pub(super) space: LockSpace,
    pub(super) ranges: LockRanges,
}

#[derive(Default, Debug)]
pub(super) struct InodeLocks {
    pub(super) held: BTreeMap<LockHolder, Holding>,
    /// In the order in which they came.
    pub(super) queue: BTreeMap<Turn, Waiter>,
}

fn opposes(kind: LockKind, other: LockKind) -> bool {
    kind == LockKind::Exclusive || other == LockKind::Exclusive
}

impl InodeLocks {
    /// Owners of locks that stand against this one.
    pub(super) fn opponents(
        &self,
        lock: &HeldLock,
    ) -> impl Iterator<Item = (LockHolder, LockSpace)> {
        let lock = *lock;
        self.held
            .iter()
            .filter(move |(holder, held)| {
                let stands = held.ranges.first_conflict(lock.range, lock.kind);
                **holder != lock.holder && stands.is_some()
            })
            .map(|(holder, held)| (*holder, held.space))
    }

    pub(super) fn is_opposed(&self, lock: &HeldLock) -> bool {
        self.opponents(lock).next().is_some()
    }

    /// Owners of waits before turn `end` that this lock has to let go first. One that stands
    /// for all before it ends the list: reachability is all that counts.
    pub(super) fn ahead_of(&self, lock: &HeldLock, end: Turn) -> Vec<LockHolder> {
        let mut owners = Vec::new();
        for (_, waiter) in self.queue.range(..end).rev() {
            if !in_the_way(&waiter.lock, lock) {
                continue;
            }
            owners.push(waiter.lock.holder);
            let covers = waiter.lock.range.start <= lock.range.start
                && waiter.lock.range.last >= lock.range.last;
            if covers && waiter.lock.kind == LockKind::Exclusive && !waiter.skips {
                break;
            }
        }
        owners
    }

    /// Who may go on when something in `freed` has gone.
    pub(super) fn touched_by(&self, freed: LockRange) -> Vec<Turn> {
        let mut turns = Vec::new();
        // An exclusive wait for the whole file stands before everybody of another owner, whether it
        // is granted now or not.
        let mut wall: Option<LockHolder> = None;
        for (turn, waiter) in &self.queue {
            let lock = &waiter.lock;
            if !waiter.skips && wall.is_some_and(|holder| holder != lock.holder) {
                continue;
            }
            if lock.range.overlaps(&freed) {
                turns.push(*turn);
            }
            if lock.kind == LockKind::Exclusive && lock.range == LockRange::WHOLE {
                wall = wall.or(Some(lock.holder));
            }
        }
        turns
    }
}

/// Whether an earlier wait for `first` goes before `second`.
pub(super) fn in_the_way(first: &HeldLock, second: &HeldLock) -> bool {
    first.holder != second.holder
        && first.range.overlaps(&second.range)
        && opposes(first.kind, second.kind)
}
