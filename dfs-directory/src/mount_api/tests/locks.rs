//! Locks between mounts.

use super::harness::{Directory, run, until};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{LockOwner, Sequence};
use dfs_proto::lock::LockKind::{Exclusive, Shared};
use dfs_proto::lock::{LockRange, LockSpace};
use dfs_proto::msg::session::{CancelAnswer, CancelLock, LockAnswer, SetLock, TestLock};
use std::sync::atomic::Ordering;

#[test]
fn a_wait_is_granted_by_push_when_the_lock_is_released() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        assert_eq!(
            a.locks(a.flock(file, 1, Exclusive, false)).await,
            Ok(LockAnswer::Done)
        );
        let wait = b.flock(file, 2, Exclusive, true);
        assert_eq!(b.locks(wait).await, Ok(LockAnswer::Queued));
        assert_eq!(
            b.locks(wait).await,
            Ok(LockAnswer::Queued),
            "a repeat of the same wait"
        );
        assert!(!b.kernel.was_granted(wait.stamp.sequence));
        a.call(a.release(file, 1)).await.expect("released");
        until("it is granted", || {
            b.kernel.was_granted(wait.stamp.sequence)
        })
        .await;
        assert_eq!(b.locks(wait).await, Ok(LockAnswer::Done));
        assert_eq!(
            a.locks(a.flock(file, 1, Shared, false)).await,
            Err(ErrorCode::WouldBlock)
        );
    });
}

#[test]
fn a_push_goes_to_the_new_connection_after_a_reconnect() {
    run(async {
        let directory = Directory::start().await;
        let (a, mut b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        a.locks(a.flock(file, 1, Exclusive, false))
            .await
            .expect("locked");
        let wait = b.flock(file, 2, Exclusive, true);
        b.locks(wait).await.expect("queued");
        b.connection.close("for a test");
        a.call(a.release(file, 1)).await.expect("released");
        directory.reconnect(&mut b).await;
        until("it is granted", || {
            b.kernel.was_granted(wait.stamp.sequence)
        })
        .await;
    });
}

#[test]
fn a_cancel_is_answered_with_what_is_true() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        a.locks(a.flock(file, 1, Exclusive, false))
            .await
            .expect("locked");
        let cancel = |wait: Sequence| CancelLock {
            session: b.session,
            inode: file,
            wait,
        };
        let first = b.flock(file, 2, Exclusive, true);
        b.locks(first).await.expect("queued");
        let answer = b.call(cancel(first.stamp.sequence)).await;
        assert_eq!(answer, Ok(CancelAnswer::Cancelled));
        assert_eq!(
            b.locks(first).await,
            Err(ErrorCode::Interrupted),
            "never again"
        );
        let second = b.flock(file, 2, Exclusive, true);
        b.locks(second).await.expect("queued");
        a.call(a.release(file, 1)).await.expect("released");
        until("it is granted", || {
            b.kernel.was_granted(second.stamp.sequence)
        })
        .await;
        let answer = b.call(cancel(second.stamp.sequence)).await;
        assert_eq!(answer, Ok(CancelAnswer::TooLate));
        // A cancel that overtakes its request.
        let third = b.flock(file, 3, Exclusive, true);
        let answer = b.call(cancel(third.stamp.sequence)).await;
        assert_eq!(answer, Ok(CancelAnswer::Cancelled));
        assert_eq!(b.locks(third).await, Err(ErrorCode::Interrupted));
    });
}

#[test]
fn a_cancel_of_a_grant_that_is_on_its_way_comes_too_late() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        a.locks(a.flock(file, 1, Exclusive, false))
            .await
            .expect("locked");
        let wait = b.flock(file, 2, Exclusive, true);
        b.locks(wait).await.expect("queued");
        // Pushes to this mount are not answered.
        *b.kernel.deaf.lock().expect("unpoisoned") = true;
        a.call(a.release(file, 1)).await.expect("released");
        // The request was answered: its sequence is below the lowest unanswered one now.
        let mut other = b.flock(file, 3, Shared, false);
        other.stamp.lowest_unanswered = other.stamp.sequence;
        assert_eq!(b.locks(other).await, Err(ErrorCode::WouldBlock));
        let wait = wait.stamp.sequence;
        let cancel = CancelLock {
            session: b.session,
            inode: file,
            wait,
        };
        assert_eq!(b.call(cancel).await, Ok(CancelAnswer::TooLate));
    });
}

#[test]
fn a_try_lock_asks_for_a_flock_that_is_on_its_way_out() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        a.locks(a.flock(file, 1, Exclusive, false))
            .await
            .expect("locked");
        let attempt = b.locks(b.flock(file, 2, Exclusive, false)).await;
        assert_eq!(attempt, Err(ErrorCode::WouldBlock));
        assert_eq!(a.kernel.confirms.load(Ordering::SeqCst), 1);
        // The program has closed the file; its mount has not said so yet.
        let closing = (a.release(file, 1), a.connection.clone());
        a.kernel.closing.lock().expect("unpoisoned").push(closing);
        let attempt = b.locks(b.flock(file, 2, Exclusive, false)).await;
        assert_eq!(attempt, Ok(LockAnswer::Done));
    });
}

#[test]
fn ranges_of_two_mounts_conflict_and_are_told() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        let posix = |mount: &super::harness::Mount, kind, start, last, wait| SetLock {
            space: LockSpace::Posix,
            range: LockRange { start, last },
            kind,
            ..mount.flock(file, 9, Exclusive, wait)
        };
        a.locks(posix(&a, Some(Exclusive), 0, 99, false))
            .await
            .expect("locked");
        let attempt = b.locks(posix(&b, Some(Shared), 50, 60, false)).await;
        assert_eq!(attempt, Err(ErrorCode::WouldBlock));
        let test = TestLock {
            session: b.session,
            inode: file,
            space: LockSpace::Posix,
            owner: LockOwner(9),
            kind: Shared,
            range: LockRange {
                start: 50,
                last: 60,
            },
        };
        let found = b.call(test).await.expect("answered").expect("in the way");
        assert_eq!((found.range.last, found.holder.session), (99, a.session));
        a.locks(posix(&a, None, 40, 70, false))
            .await
            .expect("unlocked");
        assert_eq!(b.call(test).await, Ok(None));
        b.locks(posix(&b, Some(Exclusive), 50, 60, false))
            .await
            .expect("locked");
        // Each waits for the other: the second is told.
        let wait = b.locks(posix(&b, Some(Exclusive), 0, 9, true)).await;
        assert_eq!(wait, Ok(LockAnswer::Queued));
        let wait = a.locks(posix(&a, Some(Exclusive), 55, 55, true)).await;
        assert_eq!(wait, Err(ErrorCode::Deadlock));
        let listed = directory
            .api
            .list_locks(&dfs_proto::msg::admin::ListLocks { inode: Some(file) })
            .expect("leads");
        assert_eq!(listed.iter().filter(|lock| lock.waiting).count(), 1);
        let bad = b.locks(posix(&b, Some(Shared), 9, 3, false)).await;
        assert_eq!(bad, Err(ErrorCode::InvalidArgument));
    });
}

#[test]
fn an_unlock_that_is_repeated_late_does_not_undo_a_later_lock() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        a.locks(a.flock(file, 1, Exclusive, false))
            .await
            .expect("locked");
        let release = a.release(file, 1);
        a.call(release).await.expect("released");
        a.locks(a.flock(file, 1, Exclusive, false))
            .await
            .expect("locked");
        a.call(release).await.expect("a repeat");
        let attempt = b.locks(b.flock(file, 2, Shared, false)).await;
        assert_eq!(attempt, Err(ErrorCode::WouldBlock));
        // Below the lowest unanswered one nothing is executed at all.
        let mut forgotten = a.flock(file, 1, Exclusive, false);
        let mut later = a.flock(file, 1, Exclusive, false);
        later.stamp.lowest_unanswered = later.stamp.sequence;
        a.locks(later).await.expect("held already");
        forgotten.kind = None;
        assert_eq!(a.locks(forgotten).await, Err(ErrorCode::SequenceForgotten));
    });
}
