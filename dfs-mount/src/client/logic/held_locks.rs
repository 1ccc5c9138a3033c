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

    /// A request to unlock the range, or to share it, is about to be sent: what it takes is not told
    /// to a new leader any more. The old one may have carried it out, and may have given the range to
    /// another owner, before its answer was lost.
    pub fn give_up(&mut self, key: OwnerKey, range: LockRange, kind: Option<LockKind>, pid: u32) {
        match kind {
            None => self.set(key, range, None, pid),
            // It can't be refused where all of it is held, and only there.
            Some(LockKind::Shared) if self.holds_all(key, range) => {
                self.set(key, range, kind, pid);
            }
            Some(_) => {}
        }
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
        // This may be refused, for the last byte: then all of it is still held.
        locks.give_up(KEY, range(0, 20), shared, 1);
        assert_eq!(told(&locks).len(), 2);
        locks.give_up(KEY, range(5, 14), shared, 1);
        let left = [
            (LockKind::Exclusive, range(0, 4)),
            (LockKind::Exclusive, range(15, 19)),
            (LockKind::Shared, range(5, 14)),
        ];
        assert_eq!(told(&locks), left);
        // More is asked for: what there is stays.
        locks.give_up(KEY, range(5, 14), exclusive, 1);
        assert_eq!(told(&locks), left);
        locks.give_up(KEY, LockRange::WHOLE, None, 1);
        assert_eq!(told(&locks), []);
        locks.set(KEY, LockRange::WHOLE, exclusive, 1);
        locks.give_up(KEY, LockRange::WHOLE, shared, 1);
        assert_eq!(told(&locks), [(LockKind::Shared, LockRange::WHOLE)]);
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
