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
