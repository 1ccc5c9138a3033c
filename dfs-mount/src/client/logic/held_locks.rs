//! The locks that this mount holds, so that they can be reclaimed. Pure.

use dfs_proto::ids::{InodeId, LockOwner, SessionId};
use dfs_proto::lock::{HeldLock, LockHolder, LockKind, LockRange, LockSpace};
use std::collections::{BTreeMap, BTreeSet};

/// One owner in one space of one inode.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OwnerKey {
    pub inode: InodeId,
    pub space: LockSpace,
    pub owner: LockOwner,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Piece {
    range: LockRange,
    kind: LockKind,
    pid: u32,
}

/// A part of an exclusive lock that a request under way may share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lent {
    pub range: LockRange,
    pub pid: u32,
}

/// By owner, disjoint pieces.
#[derive(Debug, Default)]
pub struct HeldLocks {
    owners: BTreeMap<OwnerKey, Vec<Piece>>,
}

impl HeldLocks {
    /// The owner's locks in the range are replaced by one of `kind`, or (`None`) are gone.
    pub fn set(&mut self, key: OwnerKey, range: LockRange, kind: Option<LockKind>, pid: u32) {
        let pieces = self.owners.entry(key).or_default();
        let mut left = Vec::with_capacity(pieces.len() + 2);
        for piece in pieces.drain(..) {
            if !piece.range.overlaps(&range) {
                left.push(piece);
                continue;
            }
            if piece.range.start < range.start {
                left.push(Piece {
                    range: LockRange {
                        start: piece.range.start,
                        last: range.start - 1,
                    },
                    ..piece
                });
            }
            if piece.range.last > range.last {
                left.push(Piece {
                    range: LockRange {
                        start: range.last + 1,
                        last: piece.range.last,
                    },
                    ..piece
                });
            }
        }
        if let Some(kind) = kind {
            left.push(Piece { range, kind, pid });
        }
        if left.is_empty() {
            self.owners.remove(&key);
        } else {
            *pieces = left;
        }
    }

    /// A request is about to be sent: what it takes away is not told to a new leader any more. The old
    /// one may have carried it out, and may have given the range to another owner, before its answer
    /// was lost. Returns what was held exclusively, is told as shared from now on, and is still held
    /// exclusively should the request be refused.
    pub fn give_up(
        &mut self,
        key: OwnerKey,
        range: LockRange,
        kind: Option<LockKind>,
        pid: u32,
    ) -> Vec<Lent> {
        match kind {
            None => self.set(key, range, None, pid),
            // It can't be refused where all of it is held, and only there.
            Some(LockKind::Shared) if self.holds_all(key, range) => {
                self.set(key, range, kind, pid);
            }
            Some(LockKind::Shared) => {
                let lent = self.exclusive_in(key, range);
                for piece in &lent {
                    self.set(key, piece.range, kind, piece.pid);
                }
                return lent;
            }
            // flock(2): a conversion that can't be had at once has lost the old lock.
            Some(LockKind::Exclusive) if key.space == LockSpace::Flock => {
                if self.exclusive_in(key, range).is_empty() {
                    self.release(key);
                }
            }
            Some(LockKind::Exclusive) => {}
        }
        Vec::new()
    }

    /// A request to share was refused: what was lent for it is held exclusively as before.
    pub fn take_back(&mut self, key: OwnerKey, lent: &[Lent]) {
        for piece in lent {
            self.set(key, piece.range, Some(LockKind::Exclusive), piece.pid);
        }
    }

    /// What of the range is held exclusively.
    fn exclusive_in(&self, key: OwnerKey, range: LockRange) -> Vec<Lent> {
        let pieces = self.owners.get(&key).into_iter().flatten();
        let exclusive = pieces
            .filter(|piece| piece.kind == LockKind::Exclusive && piece.range.overlaps(&range));
        let lent = exclusive.map(|piece| Lent {
            range: LockRange {
                start: piece.range.start.max(range.start),
                last: piece.range.last.min(range.last),
            },
            pid: piece.pid,
        });
        lent.collect()
    }

    fn holds_all(&self, key: OwnerKey, range: LockRange) -> bool {
        let mut pieces: Vec<LockRange> = match self.owners.get(&key) {
            Some(pieces) => pieces.iter().map(|piece| piece.range).collect(),
            None => return false,
        };
        pieces.sort_unstable();
        let mut from = range.start;
        for piece in pieces {
            if piece.start <= from && from <= piece.last {
                match piece.last.checked_add(1) {
                    Some(next) if piece.last < range.last => from = next,
                    _ => return true,
                }
            }
        }
        false
    }

    pub fn holds_any(&self, key: OwnerKey) -> bool {
        self.owners.contains_key(&key)
    }

    pub fn release(&mut self, key: OwnerKey) {
        self.owners.remove(&key);
    }

    /// All locks, to be told to a new leader.
    pub fn all(&self, session: SessionId) -> Vec<(InodeId, HeldLock)> {
        let mut all = Vec::new();
        for (key, pieces) in &self.owners {
            for piece in pieces {
                let lock = HeldLock {
                    space: key.space,
                    holder: LockHolder {
                        session,
                        owner: key.owner,
                    },
                    kind: piece.kind,
                    range: piece.range,
                    pid: piece.pid,
                };
                all.push((key.inode, lock));
            }
        }
        all
    }

    /// Forgets all; says which inodes had some.
    pub fn lose_all(&mut self) -> BTreeSet<InodeId> {
        let lost = std::mem::take(&mut self.owners);
        lost.into_keys().map(|key| key.inode).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: OwnerKey = OwnerKey {
        inode: InodeId(1),
        space: LockSpace::Posix,
        owner: LockOwner(9),
    };

    fn range(start: u64, last: u64) -> LockRange {
        LockRange { start, last }
    }

    #[test]
    fn an_unlock_in_the_middle_leaves_both_ends() {
        let mut locks = HeldLocks::default();
        locks.set(KEY, LockRange::WHOLE, Some(LockKind::Exclusive), 1);
        locks.set(KEY, range(10, 19), None, 1);
        let held: Vec<LockRange> = locks
            .all(SessionId(3))
            .iter()
            .map(|(_, l)| l.range)
            .collect();
        assert_eq!(held, [range(0, 9), range(20, u64::MAX)]);
        locks.set(KEY, LockRange::WHOLE, None, 1);
        assert!(!locks.holds_any(KEY));
    }

    #[test]
    fn what_is_being_given_up_is_not_told_to_a_new_leader() {
        let told = |locks: &HeldLocks| -> Vec<(LockKind, LockRange)> {
            let all = locks.all(SessionId(3));
            all.iter()
                .map(|(_, lock)| (lock.kind, lock.range))
                .collect()
        };
        let exclusive = Some(LockKind::Exclusive);
        let shared = Some(LockKind::Shared);
        let mut locks = HeldLocks::default();
        locks.set(KEY, range(0, 9), exclusive, 1);
        locks.set(KEY, range(10, 19), exclusive, 1);
        // This may be refused, for the last byte: then all of it is still held as it was.
        let lent = locks.give_up(KEY, range(5, 20), shared, 1);
        let shared_of = |locks: &HeldLocks| {
            let mut all = told(locks);
            all.retain(|(kind, _)| *kind == LockKind::Shared);
            all
        };
        let both = [range(5, 9), range(10, 19)].map(|range| (LockKind::Shared, range));
        assert_eq!(shared_of(&locks), both);
        locks.take_back(KEY, &lent);
        assert_eq!(shared_of(&locks), []);
        assert_eq!(locks.give_up(KEY, range(5, 14), shared, 1), []);
        let left = [
            (LockKind::Exclusive, range(0, 4)),
            (LockKind::Shared, range(5, 14)),
            (LockKind::Exclusive, range(15, 19)),
        ];
        let told = |locks: &HeldLocks| {
            let mut all = told(locks);
            all.sort_unstable_by_key(|(_, range)| range.start);
            all
        };
        assert_eq!(told(&locks), left);
        // More is asked for: what there is stays.
        locks.give_up(KEY, range(5, 14), exclusive, 1);
        assert_eq!(told(&locks), left);
        locks.give_up(KEY, LockRange::WHOLE, None, 1);
        assert_eq!(told(&locks), []);
        locks.set(KEY, LockRange::WHOLE, exclusive, 1);
        locks.give_up(KEY, LockRange::WHOLE, shared, 1);
        assert_eq!(told(&locks), [(LockKind::Shared, LockRange::WHOLE)]);
        // It is refused where somebody else shares it, and then the old lock is gone; but not of what
        // is held already.
        let flock = OwnerKey {
            space: LockSpace::Flock,
            ..KEY
        };
        let mut locks = HeldLocks::default();
        locks.set(flock, LockRange::WHOLE, exclusive, 1);
        locks.give_up(flock, LockRange::WHOLE, exclusive, 1);
        assert_eq!(told(&locks), [(LockKind::Exclusive, LockRange::WHOLE)]);
        locks.set(flock, LockRange::WHOLE, shared, 1);
        locks.give_up(flock, LockRange::WHOLE, exclusive, 1);
        assert_eq!(told(&locks), []);
    }

    proptest! {
        #[test]
        fn bytes_are_locked_as_in_an_array(ops in prop::collection::vec((0u64..32, 0u64..32, 0u8..3), 1..60)) {
            let mut locks = HeldLocks::default();
            let mut model = [None; 32];
            for (a, b, kind) in ops {
                let range = range(a.min(b), a.max(b));
                let kind = [None, Some(LockKind::Shared), Some(LockKind::Exclusive)][kind as usize];
                locks.set(KEY, range, kind, 1);
                model[range.start as usize..=range.last as usize].fill(kind);
            }
            let held = locks.all(SessionId(1));
            for (byte, expected) in model.iter().enumerate() {
                let found: Vec<LockKind> = held
                    .iter()
                    .filter(|(_, l)| (l.range.start..=l.range.last).contains(&(byte as u64)))
                    .map(|(_, l)| l.kind)
                    .collect();
                prop_assert_eq!(found, expected.iter().copied().collect::<Vec<_>>());
            }
        }
    }
}
