//! Thousands of waiters: what a change of one lock costs then. By hand, with `DFS_TEST_WAITERS=10000`,
//! `--release` and `--nocapture`, it tells the time of each operation.

use super::super::lock_table::{LockGrant, LockRequest, LockTable, SetAnswer, WaitKey};
use dfs_proto::ids::{InodeId, LockOwner, Sequence, SessionId};
use dfs_proto::lock::LockKind::{Exclusive, Shared};
use dfs_proto::lock::{HeldLock, LockHolder, LockKind, LockRange, LockSpace};
use std::time::{Duration, Instant};

/// For all operations on one table: generous, for a busy machine and a slow build.
const BOUND: Duration = Duration::from_secs(60);

fn waiters() -> u64 {
    let named = std::env::var("DFS_TEST_WAITERS").ok();
    named.map_or(1000, |n| n.parse().expect("a number"))
}

const F: InodeId = InodeId(1);
const G: InodeId = InodeId(2);

fn holder(owner: u64) -> LockHolder {
    LockHolder {
        session: SessionId(owner % 20 + 1),
        owner: LockOwner(owner),
    }
}

fn request(
    inode: InodeId,
    space: LockSpace,
    owner: u64,
    kind: LockKind,
    range: LockRange,
) -> LockRequest {
    let holder = holder(owner);
    LockRequest {
        key: WaitKey {
            session: holder.session,
            sequence: Sequence(owner),
        },
        inode,
        lock: HeldLock {
            space,
            holder,
            kind,
            range,
            pid: 1,
        },
        wait: true,
    }
}

fn byte(at: u64) -> LockRange {
    LockRange {
        start: at,
        last: at,
    }
}

/// Runs a part and says what it took for each of the waiters.
fn timed(what: &str, since: Instant, part: impl FnOnce()) {
    let begun = Instant::now();
    part();
    let each = begun.elapsed().as_secs_f64() * 1e6 / waiters() as f64;
    println!("{what}: {each:.1} us each");
    assert!(since.elapsed() < BOUND, "{what}: {:?}", since.elapsed());
}

/// Builds a queue behind the whole file, lets every second waiter go, then all others in turn.
fn queue(name: &str, before: impl Fn(&mut LockTable), wanted: impl Fn(u64) -> LockRequest) {
    let mut table = LockTable::default();
    let mut grants: Vec<LockGrant> = Vec::new();
    before(&mut table);
    let space = wanted(1).lock.space;
    let first = request(F, space, waiters() + 1, Exclusive, LockRange::WHOLE);
    assert_eq!(table.set(&first, &mut grants), SetAnswer::Done);
    let begun = Instant::now();
    timed(&format!("{name}: a wait"), begun, || {
        for owner in 1..=waiters() {
            assert_eq!(table.set(&wanted(owner), &mut grants), SetAnswer::Queued);
        }
    });
    timed(
        &format!("{name}: a cancel (of every second)"),
        begun,
        || {
            for owner in (1..=waiters()).step_by(2) {
                assert!(table.cancel(wanted(owner).key, &mut grants));
            }
        },
    );
    assert!(grants.is_empty());
    timed(
        &format!("{name}: a grant and its unlock (of the rest)"),
        begun,
        || {
            table.unlock(F, space, first.lock.holder, LockRange::WHOLE, &mut grants);
            let mut granted = 0;
            while granted < grants.len() {
                let owner = grants[granted].key.sequence.0;
                let held = wanted(owner).lock;
                assert!(table.unlock(F, space, held.holder, held.range, &mut grants));
                granted += 1;
            }
        },
    );
    // In their order, and nobody twice.
    let order: Vec<u64> = grants.iter().map(|grant| grant.key.sequence.0).collect();
    let all: Vec<u64> = (2..=waiters()).step_by(2).collect();
    assert_eq!(order, all);
}

#[test]
fn waiters_for_one_flock() {
    let flock = |owner| request(F, LockSpace::Flock, owner, Exclusive, LockRange::WHOLE);
    queue("flock", |_| {}, flock);
}

#[test]
fn waiters_that_hold_another_lock() {
    let holds = |table: &mut LockTable| {
        for owner in 1..=waiters() {
            let own = request(G, LockSpace::Posix, owner, Exclusive, byte(owner));
            assert_eq!(table.set(&own, &mut Vec::new()), SetAnswer::Done);
        }
    };
    let whole = |owner| request(F, LockSpace::Posix, owner, Exclusive, LockRange::WHOLE);
    queue("posix, with another lock", holds, whole);
}

#[test]
fn waiters_for_bytes_of_their_own() {
    let own = |owner| request(F, LockSpace::OpenFile, owner, Exclusive, byte(owner));
    queue("bytes", |_| {}, own);
}

#[test]
fn waiters_for_bytes_that_others_hold() {
    let mut table = LockTable::default();
    let mut grants = Vec::new();
    let begun = Instant::now();
    let half = waiters() / 2;
    timed("held bytes: a lock, a wait", begun, || {
        for owner in 1..=half {
            let own = request(F, LockSpace::Posix, owner, Exclusive, byte(owner));
            assert_eq!(table.set(&own, &mut grants), SetAnswer::Done);
        }
        for owner in 1..=half {
            let next = request(F, LockSpace::Posix, half + owner, Shared, byte(owner));
            assert_eq!(table.set(&next, &mut grants), SetAnswer::Queued);
        }
    });
    timed("held bytes: who is in the way", begun, || {
        assert_eq!(table.blocking_sessions().len(), 20);
    });
    timed("held bytes: an unlock", begun, || {
        for owner in 1..=half {
            table.unlock(F, LockSpace::Posix, holder(owner), byte(owner), &mut grants);
            assert_eq!(grants.len() as u64, owner);
        }
    });
}

#[test]
fn a_session_with_half_of_the_waits_ends() {
    let mut table = LockTable::default();
    let mut grants = Vec::new();
    let begun = Instant::now();
    for owner in 1..=waiters() {
        let session = SessionId(owner % 2 + 1);
        let mut wanted = request(
            InodeId(owner / 10),
            LockSpace::Flock,
            owner,
            Exclusive,
            LockRange::WHOLE,
        );
        wanted.key.session = session;
        wanted.lock.holder.session = session;
        table.set(&wanted, &mut grants);
    }
    timed("the end of a session", begun, || {
        table.end_session(SessionId(1), &mut grants)
    });
    assert_eq!(table.count(SessionId(1)), (0, 0));
    let (held, waits) = table.count(SessionId(2));
    assert_eq!(held + waits, waiters() / 2);
}
