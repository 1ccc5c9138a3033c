//! POSIX locks against a model that knows a lock for every single byte.

use super::super::lock_table::{LockRequest, LockTable, SetAnswer, WaitKey};
use dfs_proto::ids::{InodeId, LockOwner, Sequence, SessionId};
use dfs_proto::lock::{HeldLock, LockHolder, LockKind, LockRange, LockSpace};
use proptest::prelude::*;
use std::collections::BTreeMap;

const F: InodeId = InodeId(7);
const BYTES: u64 = 24;
const OWNERS: u64 = 4;

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

fn range(start: u64, len: u64) -> LockRange {
    LockRange {
        start,
        last: (start + len - 1).min(BYTES - 1),
    }
}

/// For each byte and owner, the kind of its lock.
#[derive(Default)]
struct Model {
    bytes: BTreeMap<(u64, LockHolder), LockKind>,
    waiting: BTreeMap<WaitKey, HeldLock>,
}

impl Model {
    fn is_free(&self, lock: &HeldLock) -> bool {
        self.bytes.iter().all(|((byte, holder), kind)| {
            *holder == lock.holder
                || *byte < lock.range.start
                || *byte > lock.range.last
                || (lock.kind == LockKind::Shared && *kind == LockKind::Shared)
        })
    }

    fn lock(&mut self, lock: &HeldLock) {
        for byte in lock.range.start..=lock.range.last {
            self.bytes.insert((byte, lock.holder), lock.kind);
        }
    }

    fn unlock(&mut self, holder: LockHolder, range: LockRange) {
        for byte in range.start..=range.last {
            self.bytes.remove(&(byte, holder));
        }
    }

    fn granted(&mut self, key: WaitKey) {
        let lock = self.waiting.remove(&key).expect("it waited");
        assert!(self.is_free(&lock), "granted over another lock: {lock:?}");
        self.lock(&lock);
    }

    fn check(&self, table: &LockTable) {
        let mut shown = BTreeMap::new();
        let mut last_of: BTreeMap<LockHolder, (u64, LockKind)> = BTreeMap::new();
        let mut waits = 0;
        for (_, lock, waiting) in table.list(Some(F)) {
            if waiting {
                waits += 1;
                continue;
            }
            for byte in lock.range.start..=lock.range.last {
                let before = shown.insert((byte, lock.holder), lock.kind);
                assert_eq!(before, None, "two locks of one owner on byte {byte}");
            }
            let neighbour = last_of.insert(lock.holder, (lock.range.last, lock.kind));
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

    /// Whether owners that wait and hold can all get on if those that don't wait let go.
    fn can_all_get_on(&self) -> bool {
        let mut stuck: Vec<HeldLock> = self.waiting.values().copied().collect();
        loop {
            let before = stuck.len();
            let holders: Vec<LockHolder> = stuck.iter().map(|w| w.holder).collect();
            stuck.retain(|wait| {
                self.bytes.iter().any(|((byte, owner), kind)| {
                    *owner != wait.holder
                        && holders.contains(owner)
                        && *byte >= wait.range.start
                        && *byte <= wait.range.last
                        && (wait.kind == LockKind::Exclusive || *kind == LockKind::Exclusive)
                })
            });
            if stuck.is_empty() {
                return true;
            }
            if stuck.len() == before {
                return false;
            }
        }
    }
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
                    if model.waiting.values().any(|w| w.holder == holder(owner)) {
                        continue;
                    }
                    let range = range(start, len);
                    let holder = holder(owner);
                    let lock = HeldLock { space: LockSpace::Posix, holder, kind, range, pid: 1 };
                    let sequence = Sequence(number as u64 + 1);
                    let key = WaitKey { session: holder.session, sequence };
                    let free = model.is_free(&lock);
                    let answer = table.set(&LockRequest { key, inode: F, lock, wait }, &mut grants);
                    match answer {
                        SetAnswer::Done => {
                            prop_assert!(free);
                            model.lock(&lock);
                        }
                        SetAnswer::WouldBlock => prop_assert!(!free && !wait),
                        SetAnswer::Queued => {
                            prop_assert!(wait);
                            model.waiting.insert(key, lock);
                            prop_assert!(model.can_all_get_on(), "a deadlock was let in");
                        }
                        SetAnswer::Deadlock => {
                            prop_assert!(wait && !free);
                            model.waiting.insert(key, lock);
                            prop_assert!(!model.can_all_get_on(), "a false deadlock");
                            model.waiting.remove(&key);
                        }
                        SetAnswer::NoLocks => prop_assert!(false, "far from the bound"),
                    }
                }
                Step::Unlock { owner, start, len } => {
                    // One that waits does nothing else.
                    if model.waiting.values().any(|w| w.holder == holder(owner)) {
                        continue;
                    }
                    let range = range(start, len);
                    model.unlock(holder(owner), range);
                    table.unlock(F, LockSpace::Posix, holder(owner), range, &mut grants);
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
                    model.bytes.retain(|(_, holder), _| holder.session != session);
                    model.waiting.retain(|key, _| key.session != session);
                    table.end_session(session, &mut grants);
                }
            }
            for grant in grants.drain(..) {
                model.granted(grant.key);
            }
            model.check(&table);
        }
        // Everybody who does not wait lets go, until nobody waits.
        for _ in 0..=OWNERS {
            for owner in 0..OWNERS {
                if model.waiting.values().any(|w| w.holder == holder(owner)) {
                    continue;
                }
                model.unlock(holder(owner), LockRange { start: 0, last: BYTES });
                table.unlock(F, LockSpace::Posix, holder(owner), LockRange::WHOLE, &mut grants);
                for grant in grants.drain(..) {
                    model.granted(grant.key);
                }
                model.check(&table);
            }
        }
        prop_assert!(model.waiting.is_empty(), "{:?} wait for ever", model.waiting);
    }
}
