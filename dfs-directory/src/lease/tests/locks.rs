//! Locks by example, as a local Linux file system behaves.

use super::super::lock_table::{LockGrant, LockRequest, LockTable, SetAnswer, WaitKey};
use dfs_proto::ids::{InodeId, LockOwner, Sequence, SessionId};
use dfs_proto::lock::LockKind::{Exclusive, Shared};
use dfs_proto::lock::{HeldLock, LockHolder, LockKind, LockRange, LockSpace};

const F: InodeId = InodeId(7);
const G: InodeId = InodeId(8);

/// A table, numbered requests, and who was granted after waiting.
#[derive(Default)]
struct Bench {
    table: LockTable,
    last: u64,
    grants: Vec<LockGrant>,
}

fn holder(n: u64) -> LockHolder {
    // Odd and even owners come from different mounts.
    LockHolder {
        session: SessionId(n % 2 + 1),
        owner: LockOwner(n),
    }
}

fn lock(space: LockSpace, owner: u64, kind: LockKind, range: LockRange) -> HeldLock {
    HeldLock {
        space,
        holder: holder(owner),
        kind,
        range,
        pid: owner as u32,
    }
}

fn bytes(start: u64, last: u64) -> LockRange {
    LockRange { start, last }
}

impl Bench {
    fn set(&mut self, inode: InodeId, lock: HeldLock, wait: bool) -> (SetAnswer, WaitKey) {
        self.last += 1;
        let key = WaitKey {
            session: lock.holder.session,
            sequence: Sequence(self.last),
        };
        let request = LockRequest {
            key,
            inode,
            lock,
            wait,
        };
        (self.table.set(&request, &mut self.grants), key)
    }

    fn flock(&mut self, owner: u64, kind: LockKind, wait: bool) -> (SetAnswer, WaitKey) {
        self.set(
            F,
            lock(LockSpace::Flock, owner, kind, LockRange::WHOLE),
            wait,
        )
    }

    fn posix(&mut self, owner: u64, kind: LockKind, range: LockRange) -> SetAnswer {
        self.set(F, lock(LockSpace::Posix, owner, kind, range), false)
            .0
    }

    fn posix_wait(
        &mut self,
        inode: InodeId,
        owner: u64,
        kind: LockKind,
        range: LockRange,
    ) -> (SetAnswer, WaitKey) {
        self.set(inode, lock(LockSpace::Posix, owner, kind, range), true)
    }

    fn unflock(&mut self, owner: u64) {
        let grants = &mut self.grants;
        self.table
            .unlock(F, LockSpace::Flock, holder(owner), LockRange::WHOLE, grants);
    }

    fn unposix(&mut self, inode: InodeId, owner: u64, range: LockRange) {
        self.table.unlock(
            inode,
            LockSpace::Posix,
            holder(owner),
            range,
            &mut self.grants,
        );
    }

    fn was_granted(&self, key: WaitKey) -> bool {
        self.grants.iter().any(|grant| grant.key == key)
    }

    fn ranges(&self, owner: u64) -> Vec<(u64, u64, LockKind)> {
        let mut all: Vec<_> = self
            .table
            .list(Some(F))
            .into_iter()
            .filter(|(_, l, waits)| {
                !waits && l.space == LockSpace::Posix && l.holder == holder(owner)
            })
            .map(|(_, l, _)| (l.range.start, l.range.last, l.kind))
            .collect();
        all.sort_unstable();
        all
    }
}

#[test]
fn the_two_spaces_do_not_see_each_other() {
    let mut bench = Bench::default();
    assert_eq!(bench.flock(1, Exclusive, false).0, SetAnswer::Done);
    assert_eq!(bench.posix(2, Exclusive, LockRange::WHOLE), SetAnswer::Done);
    assert_eq!(bench.flock(2, Shared, false).0, SetAnswer::WouldBlock);
    assert_eq!(bench.posix(1, Shared, bytes(5, 5)), SetAnswer::WouldBlock);
}

#[test]
fn ranges_split_merge_and_change_their_kind() {
    let mut bench = Bench::default();
    bench.posix(1, Exclusive, bytes(0, 99));
    bench.unposix(F, 1, bytes(40, 59));
    assert_eq!(bench.ranges(1), [(0, 39, Exclusive), (60, 99, Exclusive)]);
    bench.posix(1, Shared, bytes(20, 79));
    assert_eq!(
        bench.ranges(1),
        [(0, 19, Exclusive), (20, 79, Shared), (80, 99, Exclusive)]
    );
    bench.posix(1, Exclusive, bytes(20, 79));
    assert_eq!(bench.ranges(1), [(0, 99, Exclusive)]);
    bench.posix(1, Exclusive, bytes(100, u64::MAX));
    assert_eq!(bench.ranges(1), [(0, u64::MAX, Exclusive)]);
    bench.unposix(F, 1, bytes(u64::MAX, u64::MAX));
    assert_eq!(bench.ranges(1), [(0, u64::MAX - 1, Exclusive)]);
}

#[test]
fn getlk_names_the_lowest_lock_in_the_way() {
    let mut bench = Bench::default();
    bench.posix(1, Shared, bytes(50, 59));
    bench.posix(2, Shared, bytes(20, 29));
    let wanted = |kind| lock(LockSpace::Posix, 3, kind, bytes(25, 100));
    let found = bench.table.test(F, &wanted(Exclusive)).expect("in the way");
    assert_eq!(
        (found.range, found.pid, found.kind),
        (bytes(20, 29), 2, Shared)
    );
    assert_eq!(bench.table.test(F, &wanted(Shared)), None);
    let own = lock(LockSpace::Posix, 2, Exclusive, bytes(20, 29));
    assert_eq!(bench.table.test(F, &own), None);
}

#[test]
fn waiters_are_granted_in_order_and_readers_do_not_starve_a_writer() {
    let mut bench = Bench::default();
    bench.flock(1, Shared, false);
    let (_, writer) = bench.flock(2, Exclusive, true);
    let (answer, reader) = bench.flock(3, Shared, true);
    assert_eq!(answer, SetAnswer::Queued, "behind the writer");
    // A try-lock looks at what is held only, as on a local file system.
    assert_eq!(bench.flock(5, Shared, false).0, SetAnswer::Done);
    bench.unflock(1);
    assert!(!bench.was_granted(writer));
    bench.unflock(5);
    assert!(bench.was_granted(writer) && !bench.was_granted(reader));
    bench.unflock(2);
    assert!(bench.was_granted(reader));
}

#[test]
fn readers_that_wait_are_granted_together() {
    let mut bench = Bench::default();
    bench.flock(1, Exclusive, false);
    let waits: Vec<WaitKey> = (2..6).map(|n| bench.flock(n, Shared, true).1).collect();
    bench.unflock(1);
    assert!(waits.iter().all(|key| bench.was_granted(*key)));
}

#[test]
fn a_downgrade_never_waits_and_lets_readers_in() {
    let mut bench = Bench::default();
    bench.flock(1, Exclusive, false);
    let (_, reader) = bench.flock(2, Shared, true);
    assert_eq!(bench.flock(1, Shared, true).0, SetAnswer::Done);
    assert!(bench.was_granted(reader));
}

#[test]
fn an_upgrade_that_must_wait_loses_the_old_flock() {
    let mut bench = Bench::default();
    bench.flock(1, Shared, false);
    bench.flock(2, Shared, false);
    // Alone it would be had at once; with another reader the old lock goes, also for LOCK_NB.
    assert_eq!(bench.flock(1, Exclusive, false).0, SetAnswer::WouldBlock);
    assert_eq!(bench.flock(2, Exclusive, false).0, SetAnswer::Done);
    let (answer, waits) = bench.flock(1, Exclusive, true);
    assert_eq!(answer, SetAnswer::Queued);
    bench.unflock(2);
    assert!(bench.was_granted(waits));
}

#[test]
fn two_flock_upgrades_pass_each_other() {
    let mut bench = Bench::default();
    bench.flock(1, Shared, false);
    bench.flock(2, Shared, false);
    let (first, key) = bench.flock(1, Exclusive, true);
    assert_eq!(first, SetAnswer::Queued);
    // The first has lost its lock by waiting: the second finds nobody in the way but its order.
    let (second, _) = bench.flock(2, Exclusive, true);
    assert_eq!(second, SetAnswer::Done);
    bench.unflock(2);
    assert!(bench.was_granted(key));
}

#[test]
fn a_posix_upgrade_keeps_the_old_lock_while_it_waits() {
    let mut bench = Bench::default();
    bench.posix(1, Shared, bytes(0, 9));
    bench.posix(2, Shared, bytes(0, 9));
    let (answer, key) = bench.posix_wait(F, 1, Exclusive, bytes(0, 9));
    assert_eq!(answer, SetAnswer::Queued);
    assert_eq!(bench.ranges(1), [(0, 9, Shared)]);
    assert_eq!(
        bench.posix_wait(F, 2, Exclusive, bytes(0, 9)).0,
        SetAnswer::Deadlock
    );
    bench.unposix(F, 2, bytes(0, 9));
    assert!(bench.was_granted(key));
    assert_eq!(bench.ranges(1), [(0, 9, Exclusive)]);
}

#[test]
fn circles_across_files_and_mounts_are_refused_and_nothing_else() {
    let mut bench = Bench::default();
    let whole = LockRange::WHOLE;
    bench.posix_wait(F, 1, Exclusive, whole);
    bench.posix_wait(G, 2, Exclusive, whole);
    assert_eq!(
        bench.posix_wait(G, 3, Exclusive, whole).0,
        SetAnswer::Queued
    );
    let (answer, one_waits) = bench.posix_wait(G, 1, Exclusive, whole);
    assert_eq!(answer, SetAnswer::Queued);
    assert_eq!(
        bench.posix_wait(F, 3, Exclusive, whole).0,
        SetAnswer::Queued
    );
    assert_eq!(
        bench.posix_wait(F, 2, Exclusive, whole).0,
        SetAnswer::Deadlock
    );
    // The refused one holds on; when it lets go, the others follow in order: 3 before 1.
    bench.unposix(G, 2, whole);
    bench.unposix(G, 3, whole);
    assert!(bench.was_granted(one_waits));
}

#[test]
fn order_alone_never_makes_a_deadlock() {
    let mut bench = Bench::default();
    let whole = LockRange::WHOLE;
    // 1 reads F; 2 waits to write F; 3 holds G and wants to read F: locally it could.
    bench.posix_wait(F, 1, Shared, whole);
    bench.posix_wait(G, 3, Exclusive, whole);
    let (_, writer) = bench.posix_wait(F, 2, Exclusive, whole);
    let (answer, reader) = bench.posix_wait(F, 3, Shared, whole);
    assert_eq!(
        answer,
        SetAnswer::Queued,
        "behind the writer, which is no deadlock yet"
    );
    // Now 1 waits for 3, which order holds behind 2, which waits for 1.
    let (answer, first) = bench.posix_wait(G, 1, Exclusive, whole);
    assert_eq!(answer, SetAnswer::Queued);
    assert!(bench.was_granted(reader), "the reader goes ahead");
    bench.unposix(G, 3, whole);
    assert!(bench.was_granted(first));
    bench.unposix(F, 3, whole);
    bench.unposix(F, 1, whole);
    assert!(bench.was_granted(writer));
}

#[test]
fn what_is_held_is_granted_again_although_others_wait() {
    let mut bench = Bench::default();
    bench.posix(1, Shared, bytes(0, 9));
    bench.posix_wait(F, 2, Exclusive, bytes(0, 9));
    assert_eq!(
        bench.posix_wait(F, 1, Shared, bytes(2, 3)).0,
        SetAnswer::Done
    );
    // A wider one is not held: order would make a deadlock, so it goes ahead.
    assert_eq!(
        bench.posix_wait(F, 1, Shared, bytes(0, 19)).0,
        SetAnswer::Done
    );
    assert_eq!(bench.ranges(1), [(0, 19, Shared)]);
    assert!(bench.grants.is_empty());
}

#[test]
fn a_cancelled_wait_is_over_and_frees_those_behind_it() {
    let mut bench = Bench::default();
    bench.flock(1, Shared, false);
    let (_, writer) = bench.flock(2, Exclusive, true);
    let (_, reader) = bench.flock(3, Shared, true);
    assert!(bench.table.cancel(writer, &mut bench.grants));
    assert!(bench.was_granted(reader));
    assert!(!bench.table.cancel(reader, &mut bench.grants), "too late");
    assert!(!bench.table.cancel(writer, &mut bench.grants));
    bench.unflock(1);
    bench.unflock(3);
    assert!(!bench.was_granted(writer));
}

#[test]
fn the_end_of_a_session_frees_its_locks_and_waits() {
    let mut bench = Bench::default();
    // Owners 1 and 3 are of the same session, 2 of another.
    bench.flock(1, Exclusive, false);
    bench.posix(3, Exclusive, bytes(0, 9));
    let (_, other) = bench.flock(2, Exclusive, true);
    let (_, mine) = bench.flock(3, Exclusive, true);
    assert_eq!(bench.table.count(holder(1).session), (2, 1));
    assert!(bench.table.needs_interest(holder(1).session, F));
    bench
        .table
        .end_session(holder(1).session, &mut bench.grants);
    assert!(bench.was_granted(other) && !bench.was_granted(mine));
    assert_eq!(bench.posix(2, Exclusive, bytes(0, 9)), SetAnswer::Done);
    assert_eq!(bench.table.count(holder(1).session), (0, 0));
    assert!(!bench.table.needs_interest(holder(1).session, F));
}

#[test]
fn reclaimed_locks_stand_against_others() {
    let mut bench = Bench::default();
    let kept = lock(LockSpace::Posix, 1, Exclusive, bytes(0, 9));
    assert!(bench.table.reassert(F, &kept));
    assert!(bench.table.reassert(F, &kept));
    assert!(
        !bench
            .table
            .reassert(F, &lock(LockSpace::Posix, 2, Shared, bytes(9, 9)))
    );
    assert_eq!(bench.posix(2, Shared, bytes(9, 9)), SetAnswer::WouldBlock);
    let wanted = lock(LockSpace::Posix, 2, Shared, bytes(9, 9));
    assert_eq!(
        bench.table.opponents(F, &wanted),
        [(holder(1), LockSpace::Posix)]
    );
}

#[test]
fn sessions_that_are_waited_for_are_named() {
    let mut bench = Bench::default();
    bench.flock(1, Exclusive, false);
    assert!(bench.table.blocking_sessions().is_empty());
    bench.flock(2, Exclusive, true);
    let blocking: Vec<SessionId> = bench.table.blocking_sessions().into_iter().collect();
    assert_eq!(blocking, [holder(1).session]);
}

#[test]
fn a_circle_of_held_locks_hides_none_that_order_closes() {
    let mut bench = Bench::default();
    let (ofd, first, second) = (5, 1, 0);
    let posix = |owner, kind, range| lock(LockSpace::Posix, owner, kind, range);
    let open_file = |kind, range| lock(LockSpace::OpenFile, ofd, kind, range);
    assert_eq!(
        bench.set(F, open_file(Shared, bytes(5, 11)), false).0,
        SetAnswer::Done
    );
    assert_eq!(
        bench
            .set(F, posix(first, Exclusive, bytes(12, 12)), false)
            .0,
        SetAnswer::Done
    );
    let (queued, wait) = bench.set(F, open_file(Shared, bytes(9, 12)), true);
    assert_eq!(queued, SetAnswer::Queued);
    assert_eq!(
        bench.set(F, posix(second, Shared, bytes(10, 12)), true).0,
        SetAnswer::Queued
    );
    // It waits for the open file, which waits for it: that circle is the callers' own. But it also
    // stands behind the second process, which waits for it.
    assert_eq!(
        bench.set(F, posix(first, Exclusive, bytes(6, 10)), true).0,
        SetAnswer::Queued
    );
    assert!(bench.table.cancel(wait, &mut bench.grants));
    assert!(bench.grants.is_empty());
    let held = holder(ofd);
    let grants = &mut bench.grants;
    bench
        .table
        .unlock(F, LockSpace::OpenFile, held, LockRange::WHOLE, grants);
    let granted: Vec<SessionId> = grants.iter().map(|grant| grant.key.session).collect();
    assert_eq!(
        granted,
        [holder(first).session],
        "it goes before the second"
    );
}
