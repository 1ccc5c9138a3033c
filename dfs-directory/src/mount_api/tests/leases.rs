//! Leases between mounts.

use super::harness::{Directory, OnRecall, name, run, until};
use crate::namespace::NamespaceCommand;
use crate::state::Change;
use dfs_proto::attr::{Keep, SizeTimes};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::ROOT;
use dfs_proto::msg::namespace::{GetAttr, Lookup};
use dfs_proto::msg::session::LeaseKind::{Exclusive, Shared};
use dfs_proto::msg::session::{OpenInode, PushAttr, ReleaseLease};
use dfs_proto::payload::Payload;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn size(size: u64) -> SizeTimes {
    SizeTimes {
        size,
        wrote: true,
        ..SizeTimes::default()
    }
}

#[test]
fn a_writer_waits_for_the_reader_and_a_reader_for_the_writers_size() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        let read = a.lease(file, Shared).await.expect("granted");
        assert_eq!(read.kind, Shared);
        let write = b.lease(file, Exclusive).await.expect("granted");
        assert_eq!(write.kind, Exclusive);
        assert!(write.grant > read.grant);
        let recalls = a.kernel.recalled();
        assert_eq!(
            (recalls.len(), recalls[0].grant, recalls[0].keep),
            (1, read.grant, None)
        );

        b.kernel.answer_recalls(OnRecall::Push(size(1234)));
        let read = a.lease(file, Shared).await.expect("granted");
        assert_eq!(read.attr.size, 1234, "what was pushed is in the grant");
        assert_eq!(b.kernel.recalled()[0].keep, Some(Shared));
    });
}

#[test]
fn mounts_that_hunt_one_lease_all_get_on() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        let rounds = |mount: super::harness::Mount| async move {
            for _ in 0..20 {
                mount.lease(file, Exclusive).await.expect("granted");
            }
        };
        tokio::join!(rounds(a), rounds(b));
    });
}

#[test]
fn a_holder_that_works_is_waited_for() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        a.lease(file, Exclusive).await.expect("granted");
        a.kernel.answer_recalls(OnRecall::Working);
        let waiting = b.start(b.wants(file, Exclusive));
        until("it is asked again", || a.kernel.recalled().len() > 2).await;
        assert!(!waiting.is_finished());
        a.kernel.answer_recalls(OnRecall::Return);
        waiting.await.expect("no panic").expect("granted");
    });
}

#[test]
fn a_recall_is_repeated_after_a_reconnect() {
    run(async {
        let directory = Directory::start().await;
        let (mut a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        a.lease(file, Exclusive).await.expect("granted");
        a.kernel.answer_recalls(OnRecall::Silent);
        let waiting = b.start(b.wants(file, Exclusive));
        until("it was asked", || !a.kernel.recalled().is_empty()).await;
        a.kernel.answer_recalls(OnRecall::Return);
        directory.reconnect(&mut a).await;
        waiting.await.expect("no panic").expect("granted");
        assert!(a.kernel.recalled().len() > 1);
    });
}

#[test]
fn others_see_the_writers_size_at_once() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        a.lease(file, Exclusive).await.expect("granted");
        *a.kernel.on_ask.lock().expect("unpoisoned") = Some(size(77));
        let seen = b
            .call(GetAttr {
                session: b.session,
                inode: file,
            })
            .await
            .expect("seen");
        assert_eq!(seen.attr.size, 77);
        *a.kernel.on_ask.lock().expect("unpoisoned") = Some(size(78));
        let lookup = Lookup {
            session: b.session,
            parent: ROOT,
            name: Some(name("f")),
        };
        let seen = b.call(lookup).await.expect("served").seen.expect("there");
        assert_eq!((seen.attr.size, seen.keep), (78, Keep::Nothing));
        assert!(a.kernel.recalled().is_empty(), "it keeps its lease");
        // The holder itself is not asked.
        let asked = a.kernel.asks.load(Ordering::SeqCst);
        a.call(GetAttr {
            session: a.session,
            inode: file,
        })
        .await
        .expect("seen");
        assert_eq!(a.kernel.asks.load(Ordering::SeqCst), asked);
    });
}

#[test]
fn a_push_counts_only_under_the_present_grant() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        let old = a.lease(file, Exclusive).await.expect("granted").grant;
        let push = |grant, to| PushAttr {
            stamp: a.stamp(),
            inode: file,
            grant,
            push: size(to),
        };
        assert_eq!(a.call(push(old, 10)).await.expect("pushed").size, 10);
        b.lease(file, Exclusive).await.expect("granted");
        let refused = a.call(push(old, 20)).await.expect_err("not any more");
        assert_eq!(refused.code, ErrorCode::StaleGrant);
    });
}

#[test]
fn a_grant_whose_answer_failed_is_still_that_of_another_answer() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        let cut = NamespaceCommand::Settle {
            inode: file,
            end: 0,
        };
        let logged = directory.raft.commit(Change::Namespace(cut)).await;
        logged.expect("logged");
        // Both answers wait for the cut; the first one can't be made.
        directory.servers.unproven.store(1, Ordering::SeqCst);
        directory.servers.away.store(true, Ordering::SeqCst);
        let ask = || {
            let (connection, wants) = (a.connection.clone(), a.wants(file, Exclusive));
            let deadline = Duration::from_secs(5);
            tokio::spawn(async move { connection.call(&wants, Payload::default(), deadline).await })
        };
        let first = ask();
        let asked = || directory.servers.cut.lock().expect("unpoisoned").len();
        until("the first waits for the cut", || asked() == 1).await;
        let second = ask();
        let waiting = &directory.api.placement().cuts;
        until("the second, too", || {
            waiting.capacity() < waiting.max_capacity()
        })
        .await;
        directory.servers.away.store(false, Ordering::SeqCst);
        let failed = first.await.expect("no panic").expect_err("unproven");
        assert_eq!(failed.code, ErrorCode::NotLeader);
        let (held, _) = second.await.expect("no panic").expect("granted");
        b.lease(file, Exclusive).await.expect("granted");
        let recalled = a.kernel.recalled();
        assert!(
            recalled.iter().any(|recall| recall.grant == held.grant),
            "{recalled:?}"
        );
    });
}

#[test]
fn a_released_lease_costs_the_next_one_no_recall() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        let grant = a.lease(file, Exclusive).await.expect("granted").grant;
        let push = Some(size(9));
        let release = ReleaseLease {
            stamp: a.stamp(),
            inode: file,
            grant,
            push,
        };
        a.call(release).await.expect("released");
        assert_eq!(b.lease(file, Shared).await.expect("granted").attr.size, 9);
        assert!(a.kernel.recalled().is_empty());
    });
}

#[test]
fn an_open_brings_a_lease_only_if_that_disturbs_nobody() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        let open = |mount: &super::harness::Mount| OpenInode {
            stamp: mount.stamp(),
            inode: file,
            lease: Some(Exclusive),
        };
        let opened = a.call(open(&a)).await.expect("opened");
        assert_eq!(opened.lease.expect("free").kind, Exclusive);
        let opened = b.call(open(&b)).await.expect("opened");
        assert_eq!(opened.lease, None);
        assert!(a.kernel.recalled().is_empty());
    });
}

#[test]
fn a_silent_reader_holds_nobody_up_for_long() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        a.lease(file, Shared).await.expect("granted");
        a.kernel.answer_recalls(OnRecall::Silent);
        let waiting = b.start(b.wants(file, Exclusive));
        until("the reader was asked", || !a.kernel.recalled().is_empty()).await;
        assert!(!waiting.is_finished());
        directory.advance(Duration::from_millis(2_200));
        waiting.await.expect("no panic").expect("granted");
        // It lives, it only has to ask again.
        a.heartbeat().await.expect("alive");
        a.kernel.answer_recalls(OnRecall::Return);
        a.lease(file, Shared).await.expect("granted");
    });
}

#[test]
fn a_wait_that_is_given_up_leaves_nothing_behind() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        a.lease(file, Exclusive).await.expect("granted");
        a.kernel.answer_recalls(OnRecall::Working);
        let waiting = b.start(b.wants(file, Exclusive));
        until("it waits", || !a.kernel.recalled().is_empty()).await;
        waiting.abort();
        until("nobody waits", || {
            directory.api.core().lease_waits.is_empty()
        })
        .await;
        a.kernel.answer_recalls(OnRecall::Return);
        let lookup = Lookup {
            session: b.session,
            parent: ROOT,
            name: Some(name("f")),
        };
        let seen = b.call(lookup).await.expect("served").seen.expect("there");
        assert_eq!(seen.attr.inode, file);
    });
}

#[test]
fn dirs_have_no_leases() {
    run(async {
        let directory = Directory::start().await;
        let a = directory.mount().await;
        let refused = a.lease(ROOT, Shared).await.expect_err("a dir");
        assert_eq!(refused.code, ErrorCode::IsADir);
        assert_eq!(
            directory.api.list_sessions().expect("leads")[0].leases_shared,
            0
        );
    });
}
