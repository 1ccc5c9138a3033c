//! Locks of all kinds against a model that knows a lock for every single byte.
//!
//! `PROPTEST_CASES` sets the number of histories; each has about forty steps.

use super::super::lock_table::{LockRequest, LockTable, SetAnswer, WaitKey};
use dfs_proto::ids::{InodeId, LockOwner, Sequence, SessionId};
use dfs_proto::lock::{HeldLock, LockHolder, LockKind, LockRange, LockSpace};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const F: InodeId = InodeId(7);
const BYTES: u64 = 24;
/// Processes, open file descriptions that lock ranges, and those that lock with flock.
const PROCESSES: u64 = 4;
const OPEN_FILES: u64 = 2;
const FLOCKERS: u64 = 3;
const OWNERS: u64 = PROCESSES + OPEN_FILES + FLOCKERS;

#[derive(Clone, Copy, Debug)]
enum Step {
    Set {
        owner: u64,
        kind: LockKind,
        start: u64,
        len: u64,
        wait: bool,
    },
    Unlock {
        owner: u64,
        start: u64,
        len: u64,
    },
    Cancel {
        owner: u64,
    },
    End {
        session: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let owner = 0..OWNERS;
    let start = 0..BYTES;
    let len = 1u64..10;
    let kind = prop_oneof![Just(LockKind::Shared), Just(LockKind::Exclusive)];
    let step = prop_oneof![
        6 => (owner.clone(), kind, start.clone(), len.clone(), any::<bool>()).prop_map(
            |(owner, kind, start, len, wait)| Step::Set { owner, kind, start, len, wait }
        ),
        4 => (owner.clone(), start, len)
            .prop_map(|(owner, start, len)| Step::Unlock { owner, start, len }),
        1 => owner.prop_map(|owner| Step::Cancel { owner }),
        1 => (1u64..3).prop_map(|session| Step::End { session }),
    ];
    prop::collection::vec(step, 1..80)
}

fn holder(owner: u64) -> LockHolder {
    LockHolder {
        session: SessionId(owner % 2 + 1),
        owner: LockOwner(owner),
    }
}

fn space(owner: u64) -> LockSpace {
    if owner < PROCESSES {
        LockSpace::Posix
    } else if owner < PROCESSES + OPEN_FILES {
        LockSpace::OpenFile
    } else {
        LockSpace::Flock
    }
}

fn range(owner: u64, start: u64, len: u64) -> LockRange {
    match space(owner) {
        LockSpace::Flock => LockRange::WHOLE,
        _ => LockRange {
            start,
            last: (start + len - 1).min(BYTES - 1),
        },
    }
}

fn bytes(range: LockRange) -> impl Iterator<Item = u64> {
    range.start..=range.last.min(BYTES - 1)
}

/// For each byte and owner, the kind of its lock; flocks lie on bytes of their own.
#[derive(Default)]
struct Model {
    bytes: BTreeMap<(bool, u64, LockHolder), LockKind>,
    waiting: BTreeMap<WaitKey, HeldLock>,
}

impl Model {
    fn waits(&self, owner: u64) -> bool {
        self.waiting.values().any(|w| w.holder == holder(owner))
    }

    /// Owners of locks that stand against this one.
    fn opponents(&self, lock: &HeldLock) -> BTreeSet<LockHolder> {
        let opposed = self.bytes.iter().filter(|((ranges, byte, holder), kind)| {
            *ranges == lock.space.is_ranges()
                && *holder != lock.holder
                && *byte >= lock.range.start
                && *byte <= lock.range.last
                && (lock.kind == LockKind::Exclusive || **kind == LockKind::Exclusive)
        });
        opposed.map(|((_, _, holder), _)| *holder).collect()
    }

    fn is_free(&self, lock: &HeldLock) -> bool {
        self.opponents(lock).is_empty()
    }

    fn lock(&mut self, lock: &HeldLock) {
        for byte in bytes(lock.range) {
            let key = (lock.space.is_ranges(), byte, lock.holder);
            self.bytes.insert(key, lock.kind);
        }
    }

    fn unlock(&mut self, owner: u64, range: LockRange) {
        for byte in bytes(range) {
            let key = (space(owner).is_ranges(), byte, holder(owner));
            self.bytes.remove(&key);
        }
    }

    fn granted(&mut self, key: WaitKey) {
        let lock = self.waiting.remove(&key).expect("it waited");
        assert!(self.is_free(&lock), "granted over another lock: {lock:?}");
        self.lock(&lock);
    }

    fn check(&self, table: &LockTable) {
        let mut shown = BTreeMap::new();
        let mut last_of: BTreeMap<(bool, LockHolder), (u64, LockKind)> = BTreeMap::new();
        let mut waits = 0;
        for (_, lock, waiting) in table.list(Some(F)) {
            if waiting {
                waits += 1;
                continue;
            }
            assert_eq!(lock.space, space(lock.holder.owner.0));
            let ranges = lock.space.is_ranges();
            for byte in bytes(lock.range) {
                let before = shown.insert((ranges, byte, lock.holder), lock.kind);
                assert_eq!(before, None, "two locks of one owner on byte {byte}");
            }
            let neighbour = last_of.insert((ranges, lock.holder), (lock.range.last, lock.kind));
            if let Some((last, kind)) = neighbour {
                assert!(last < lock.range.start);
                assert!(
                    last + 1 < lock.range.start || kind != lock.kind,
                    "not merged"
                );
            }
        }
        assert_eq!(shown, self.bytes);
        assert_eq!(waits, self.waiting.len());
    }

    /// Whether processes that wait for POSIX locks wait for each other in a circle, from `start` on.
    fn is_deadlocked(&self, start: LockHolder) -> bool {
        let mut seen = BTreeSet::new();
        let mut next = vec![start];
        while let Some(at) = next.pop() {
            let waits = self.waiting.values();
            for wait in waits.filter(|w| w.holder == at && w.space == LockSpace::Posix) {
                for opponent in self.opponents(wait) {
                    if opponent == start {
                        return true;
                    }
                    if seen.insert(opponent) {
                        next.push(opponent);
                    }
                }
            }
        }
        false
    }

    /// Those who go on waiting however many of those that don't wait let go: in circles, and
    /// behind them in the queue.
    fn stuck(&self) -> Vec<HeldLock> {
        let mut stuck: BTreeMap<Sequence, HeldLock> = BTreeMap::new();
        for (key, wait) in &self.waiting {
            stuck.insert(key.sequence, *wait);
        }
        loop {
            let before = stuck.clone();
            let holders: BTreeSet<LockHolder> = before.values().map(|w| w.holder).collect();
            stuck.retain(|sequence, wait| {
                let mut ahead = before.range(..*sequence).map(|(_, first)| first);
                !self.opponents(wait).is_disjoint(&holders)
                    || ahead.any(|first| in_the_way(first, wait))
            });
            if stuck == before {
                return stuck.into_values().collect();
            }
        }
    }
}

/// Whether an earlier wait for `first` goes before `second`.
fn in_the_way(first: &HeldLock, second: &HeldLock) -> bool {
    first.space.is_ranges() == second.space.is_ranges()
        && first.holder != second.holder
        && first.range.overlaps(&second.range)
        && (first.kind == LockKind::Exclusive || second.kind == LockKind::Exclusive)
}

proptest! {
    #[test]
    fn the_table_agrees_with_locks_byte_by_byte(steps in steps()) {
        let mut table = LockTable::default();
        let mut model = Model::default();
        let mut grants = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Set { owner, kind, start, len, wait } => {
                    // A program waits for one lock at a time.
                    if model.waits(owner) {
                        continue;
                    }
                    let range = range(owner, start, len);
                    let (holder, space) = (holder(owner), space(owner));
                    let lock = HeldLock { space, holder, kind, range, pid: 1 };
                    let sequence = Sequence(number as u64 + 1);
                    let key = WaitKey { session: holder.session, sequence };
                    let free = model.is_free(&lock);
                    let held = model.bytes.contains_key(&(space.is_ranges(), 0, holder));
                    if space == LockSpace::Flock && held && !free {
                        // flock(2): a conversion that can't be had at once has lost the old lock.
                        model.unlock(owner, range);
                    }
                    let answer = table.set(&LockRequest { key, inode: F, lock, wait }, &mut grants);
                    // Others whom a downgrade or a lost flock let in come behind it. But one that it
                    // let pass may have shared what it stood against.
                    let first = answer == SetAnswer::Done && model.is_free(&lock);
                    if first {
                        model.lock(&lock);
                    }
                    for grant in grants.drain(..) {
                        model.granted(grant.key);
                    }
                    if answer == SetAnswer::Done && !first {
                        prop_assert!(model.is_free(&lock));
                        model.lock(&lock);
                    }
                    match answer {
                        SetAnswer::Done => {}
                        SetAnswer::WouldBlock => prop_assert!(!free && !wait),
                        SetAnswer::Queued => {
                            prop_assert!(wait);
                            model.waiting.insert(key, lock);
                            prop_assert!(
                                space != LockSpace::Posix || !model.is_deadlocked(holder),
                                "a deadlock was let in"
                            );
                        }
                        SetAnswer::Deadlock => {
                            prop_assert!(wait && !free && space == LockSpace::Posix);
                            model.waiting.insert(key, lock);
                            prop_assert!(model.is_deadlocked(holder), "a false deadlock");
                            model.waiting.remove(&key);
                        }
                        SetAnswer::NoLocks => prop_assert!(false, "far from the bound"),
                    }
                }
                Step::Unlock { owner, start, len } => {
                    // One that waits does nothing else.
                    if model.waits(owner) {
                        continue;
                    }
                    let range = range(owner, start, len);
                    model.unlock(owner, range);
                    table.unlock(F, space(owner), holder(owner), range, &mut grants);
                }
                Step::Cancel { owner } => {
                    let wait = model.waiting.iter().find(|(_, w)| w.holder == holder(owner));
                    if let Some(key) = wait.map(|(key, _)| *key) {
                        model.waiting.remove(&key);
                        prop_assert!(table.cancel(key, &mut grants));
                    }
                }
                Step::End { session } => {
                    let session = SessionId(session);
                    model.bytes.retain(|(_, _, holder), _| holder.session != session);
                    model.waiting.retain(|key, _| key.session != session);
                    table.end_session(session, &mut grants);
                }
            }
            for grant in grants.drain(..) {
                model.granted(grant.key);
            }
            model.check(&table);
        }
        // Everybody who does not wait lets go, until nobody waits but those in circles of their
        // own making, which only locks of open files can be in.
        for _ in 0..=OWNERS {
            for owner in 0..OWNERS {
                if model.waits(owner) {
                    continue;
                }
                model.unlock(owner, LockRange { start: 0, last: BYTES });
                table.unlock(F, space(owner), holder(owner), LockRange::WHOLE, &mut grants);
                for grant in grants.drain(..) {
                    model.granted(grant.key);
                }
                model.check(&table);
            }
        }
        let stuck = model.stuck();
        prop_assert_eq!(model.waiting.len(), stuck.len(), "some wait for nobody for ever");
        prop_assert!(
            stuck.is_empty() || stuck.iter().any(|w| w.space == LockSpace::OpenFile),
            "processes wait for ever: {:?}", stuck
        );
    }
}
