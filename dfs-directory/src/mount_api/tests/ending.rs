//! Sessions begin and end.

use super::harness::{Directory, OnRecall, run, until};
use crate::namespace::NamespaceCommand;
use crate::session::{SessionCommand, read};
use crate::state::Change;
use dfs_proto::error::ErrorCode;
use dfs_proto::lock::LockKind::Exclusive;
use dfs_proto::msg::session::{EndSession, LeaseKind, LockAnswer};
use dfs_proto::timing::{RECALL_DEADLINE, SESSION_TTL};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

#[test]
fn the_locks_of_a_killed_mount_are_free_after_its_time_to_live() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        a.locks(a.flock(file, 1, Exclusive, false))
            .await
            .expect("locked");
        let written = a.lease(file, LeaseKind::Exclusive).await.expect("granted");
        let wait = b.flock(file, 2, Exclusive, true);
        assert_eq!(b.locks(wait).await, Ok(LockAnswer::Queued));
        a.connection.close("killed");
        directory.advance(SESSION_TTL - Duration::from_secs(2));
        b.heartbeat().await.expect("alive");
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(
            !b.kernel.was_granted(wait.stamp.sequence),
            "it might come back"
        );
        directory.advance(Duration::from_secs(2));
        b.heartbeat().await.expect("alive");
        until("the lock is free", || {
            b.kernel.was_granted(wait.stamp.sequence)
        })
        .await;
        // Before that it was fenced, and what it may have written beyond the size is cut.
        assert_eq!(
            *directory.servers.fenced.lock().expect("unpoisoned"),
            [a.session]
        );
        let cuts = directory.servers.cut.lock().expect("unpoisoned").clone();
        assert_eq!(cuts.len(), 1);
        assert!(cuts[0].0 == file && cuts[0].1 > written.attr.generation);
    });
}

#[test]
fn the_end_cuts_nothing_that_another_mount_writes_now() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        a.lease(file, LeaseKind::Exclusive).await.expect("granted");
        // Given back by a recall: only the interest record is left.
        b.lease(file, LeaseKind::Exclusive).await.expect("granted");
        let other = a.file("g").await;
        a.lease(other, LeaseKind::Exclusive).await.expect("granted");
        a.connection.close("killed");
        directory.advance(SESSION_TTL);
        b.heartbeat().await.expect("alive");
        b.lease(other, LeaseKind::Exclusive).await.expect("granted");
        let cuts = directory.servers.cut.lock().expect("unpoisoned").clone();
        assert_eq!(cuts.iter().map(|cut| cut.0).collect::<Vec<_>>(), [other]);
    });
}

#[test]
fn what_a_dead_mount_was_answered_stays_although_its_size_was_not_told() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let (grown, kept) = (a.file("f").await, a.file("g").await);
        for file in [grown, kept] {
            a.lease(file, LeaseKind::Exclusive).await.expect("granted");
        }
        directory
            .servers
            .ends
            .lock()
            .expect("unpoisoned")
            .insert(grown, 5000);
        // A cut that is logged and not made: what it takes away must not be counted.
        let cut = NamespaceCommand::Settle {
            inode: kept,
            end: 0,
        };
        let logged = directory.raft.commit(Change::Namespace(cut)).await;
        logged.expect("logged");
        a.connection.close("killed");
        directory.advance(SESSION_TTL);
        b.heartbeat().await.expect("alive");
        let sizes = async |file| {
            let granted = b.lease(file, LeaseKind::Exclusive).await;
            granted.expect("granted").attr.size
        };
        assert_eq!((sizes(grown).await, sizes(kept).await), (5000, 0));
        // From there on nothing of before comes back.
        let left = directory.raft.read(crate::namespace::read::intent_count);
        assert_eq!(left.await, Ok(0));
        let measured = directory.servers.measured.lock().expect("unpoisoned");
        assert_eq!(*measured, [(grown, 0), (kept, 0)]);
    });
}

#[test]
fn a_mount_that_never_answers_a_recall_is_ended_although_it_lives() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        a.lease(file, LeaseKind::Exclusive).await.expect("granted");
        a.kernel.answer_recalls(OnRecall::Silent);
        let waiting = b.start(b.wants(file, LeaseKind::Exclusive));
        until("it was asked", || !a.kernel.recalled().is_empty()).await;
        directory.advance(RECALL_DEADLINE);
        a.heartbeat().await.expect("alive still");
        b.heartbeat().await.expect("alive");
        waiting.await.expect("no panic").expect("granted");
        assert_eq!(
            a.heartbeat().await.expect_err("ended").code,
            ErrorCode::SessionEnded
        );
    });
}

#[test]
fn a_mount_that_has_lost_its_session_gives_nothing_back_before_it_is_fenced() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        a.lease(file, LeaseKind::Exclusive).await.expect("granted");
        a.kernel.answer_recalls(OnRecall::Silent);
        let waiting = b.start(b.wants(file, LeaseKind::Exclusive));
        until("it was asked", || !a.kernel.recalled().is_empty()).await;
        directory.servers.away.store(true, Ordering::SeqCst);
        directory.api.end_session(a.session, "for a test");
        let fenced = || directory.servers.fenced.lock().expect("unpoisoned").clone();
        until("the fence is asked for", || fenced() == [a.session]).await;
        // It has heard of the end and forgotten its leases, and its last write is on its way.
        a.kernel.answer_kept_recalls();
        a.kernel.answer_recalls(OnRecall::Return);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!waiting.is_finished(), "granted before the fence stands");
        directory.servers.away.store(false, Ordering::SeqCst);
        directory.advance(SESSION_TTL);
        waiting.await.expect("no panic").expect("granted");
        // What was written beyond the recorded size is gone, too.
        let cuts = directory.servers.cut.lock().expect("unpoisoned").clone();
        assert_eq!(cuts.iter().map(|cut| cut.0).collect::<Vec<_>>(), [file]);
    });
}

#[test]
fn a_goodbye_frees_everything_at_once() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        a.lease(file, LeaseKind::Exclusive).await.expect("granted");
        a.locks(a.flock(file, 1, Exclusive, false))
            .await
            .expect("locked");
        a.call(EndSession { session: a.session })
            .await
            .expect("ended");
        a.call(EndSession { session: a.session })
            .await
            .expect("a repeat");
        let locked = b.locks(b.flock(file, 2, Exclusive, false)).await;
        assert_eq!(locked, Ok(LockAnswer::Done));
        b.lease(file, LeaseKind::Exclusive).await.expect("granted");
        assert!(a.kernel.recalled().is_empty());
        assert!(directory.servers.cut.lock().expect("unpoisoned").is_empty());
        let refused = a.lease(file, LeaseKind::Shared).await.expect_err("ended");
        assert_eq!(refused.code, ErrorCode::SessionEnded);
        let left = a.session;
        let records = directory
            .raft
            .read(move |tables| read::interest_of(tables, left))
            .await;
        assert_eq!(records, Ok(Vec::new()));
        let fenced = || directory.servers.fenced.lock().expect("unpoisoned").clone();
        until("file servers refuse it", || fenced() == [left]).await;
    });
}

#[test]
fn maps_are_pushed_to_every_mount() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let mut map = (**directory.map.borrow()).clone();
        map.version.0 += 1;
        directory.map.send_replace(Arc::new(map.clone()));
        for mount in [&a, &b] {
            until("it is told", || {
                mount.kernel.maps.load(Ordering::SeqCst) > 0
            })
            .await;
        }
        let ack = a.heartbeat().await.expect("alive");
        assert_eq!(ack.map_version, map.version);
    });
}

#[test]
fn records_of_files_that_are_no_longer_used_are_dropped() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let (file, used) = (a.file("f").await, a.file("g").await);
        a.lease(file, LeaseKind::Exclusive).await.expect("granted");
        a.lease(used, LeaseKind::Exclusive).await.expect("granted");
        b.lease(file, LeaseKind::Exclusive).await.expect("granted");
        let of = a.session;
        let records = || {
            directory
                .raft
                .read_local(move |tables| read::interest_of(tables, of))
        };
        assert_eq!(records().expect("read").len(), 2);
        directory.advance(Duration::from_secs(6));
        until("it is dropped", || records() == Ok(vec![used])).await;
        // And logged anew before the next use.
        a.heartbeat().await.expect("alive");
        b.heartbeat().await.expect("alive");
        a.lease(file, LeaseKind::Exclusive).await.expect("granted");
        assert_eq!(records().expect("read").len(), 2);
    });
}

#[test]
fn a_session_has_ended_when_the_log_says_so() {
    run(async {
        let directory = Directory::start().await;
        let a = directory.mount().await;
        let file = a.file("f").await;
        // As a leader does that has been deposed, and can log nothing any more.
        assert!(directory.api.core().clock.begin_end(a.session));
        let refused = a.heartbeat().await.expect_err("not served");
        assert_eq!(refused.code, ErrorCode::NotLeader);
        let refused = a.lease(file, LeaseKind::Shared).await;
        assert_eq!(refused.expect_err("not served").code, ErrorCode::NotLeader);
        let session = a.session;
        let begin = Change::Session(SessionCommand::BeginEnd { session });
        directory.raft.commit(begin).await.expect("logged");
        let ended = a.heartbeat().await.expect_err("ended");
        assert_eq!(ended.code, ErrorCode::SessionEnded);
    });
}
