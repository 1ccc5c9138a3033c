//! After a change of the leader: waiting, reclaim, and what is served meanwhile.

use super::harness::{Directory, Mount, run, until};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{InodeId, LockOwner, ROOT};
use dfs_proto::lock::LockKind::Exclusive;
use dfs_proto::lock::{HeldLock, LockHolder, LockRange, LockSpace};
use dfs_proto::msg::namespace::{GetAttr, Mutation};
use dfs_proto::msg::session::{LeaseKind, OpenInode, Reclaim, Reclaimed};
use dfs_proto::timing::SESSION_TTL;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn page(mount: &Mount, life: u64) -> Reclaim {
    Reclaim {
        session: mount.session,
        leader_life: life,
        opens: Vec::new(),
        leases: Vec::new(),
        locks: Vec::new(),
        last: true,
    }
}

fn flock(mount: &Mount, owner: u64) -> HeldLock {
    HeldLock {
        space: LockSpace::Flock,
        holder: LockHolder {
            session: mount.session,
            owner: LockOwner(owner),
        },
        kind: Exclusive,
        range: LockRange::WHOLE,
        pid: 1,
    }
}

async fn reclaim(
    mount: &Mount,
    leases: Vec<InodeId>,
    locks: Vec<(InodeId, HeldLock)>,
) -> Reclaimed {
    let life = mount.heartbeat().await.expect("alive").leader_life;
    assert_ne!(life, mount.life);
    mount
        .call(Reclaim {
            leases,
            locks,
            ..page(mount, life)
        })
        .await
        .expect("reclaimed")
}

#[test]
fn leases_and_locks_survive_by_reclaim() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        let before = a.lease(file, LeaseKind::Exclusive).await.expect("granted");
        a.locks(a.flock(file, 1, Exclusive, false))
            .await
            .expect("locked");
        directory.restart().await;

        // What is somebody's waits, everything else is served.
        let free = b.file("g").await;
        b.call(GetAttr {
            session: b.session,
            inode: free,
        })
        .await
        .expect("served");
        let locking = b.start(b.flock(file, 2, Exclusive, false));
        let looking = b.start(GetAttr {
            session: b.session,
            inode: file,
        });
        let reading = b.start(b.wants(file, LeaseKind::Shared));
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!locking.is_finished() && !looking.is_finished() && !reading.is_finished());

        let kept = reclaim(&a, vec![file], vec![(file, flock(&a, 1))]).await;
        let grant = kept.leases[0].expect("kept");
        assert!(grant.kind == LeaseKind::Exclusive && grant.grant > before.grant);
        let refused = locking.await.expect("no panic").expect_err("locked");
        assert_eq!(refused.code, ErrorCode::WouldBlock);
        looking.await.expect("no panic").expect("seen");
        reading.await.expect("no panic").expect("granted");
        assert_eq!(a.kernel.recalled()[0].grant, grant.grant);
    });
}

#[test]
fn a_generation_is_given_out_when_its_cut_is_made_also_after_a_restart() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        let before = a.lease(file, LeaseKind::Exclusive).await.expect("granted");
        let set = |size| Mutation::SetSize {
            inode: file,
            size,
            modified: true,
        };
        a.mutate(set(1 << 20)).await.expect("extended");
        directory.servers.away.store(true, Ordering::SeqCst);
        let _cutting = a.start(a.mutation(set(5)));
        let asked = || directory.servers.cut.lock().expect("unpoisoned").len();
        until("the cut is logged", || asked() == 1).await;
        directory.restart().await;

        let life = a.heartbeat().await.expect("alive").leader_life;
        let reclaiming = a.start(Reclaim {
            leases: vec![file],
            ..page(&a, life)
        });
        // Nobody else waits for it.
        reclaim(&b, Vec::new(), Vec::new()).await;
        let other = b.file("g").await;
        b.lease(other, LeaseKind::Exclusive).await.expect("granted");
        assert!(!reclaiming.is_finished());

        directory.servers.away.store(false, Ordering::SeqCst);
        let kept = reclaiming.await.expect("no panic").expect("reclaimed");
        let attr = kept.leases[0].expect("kept").attr;
        assert!(attr.size == 5 && attr.generation > before.attr.generation);
        assert_eq!(asked(), 2);
    });
}

#[test]
fn a_lease_without_a_record_is_not_kept() {
    run(async {
        let directory = Directory::start().await;
        let a = directory.mount().await;
        let file = a.file("f").await;
        directory.restart().await;
        assert_eq!(reclaim(&a, vec![file], Vec::new()).await.leases, [None]);
        let life = a.heartbeat().await.expect("alive").leader_life;
        let wrong = a.call(page(&a, life - 1)).await.expect_err("another life");
        assert_eq!(wrong.code, ErrorCode::StaleGrant);
    });
}

#[test]
fn writers_wait_for_cached_rights_of_mounts_that_are_away() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        a.lease(file, LeaseKind::Shared).await.expect("granted");
        a.connection.close("away");
        directory.restart().await;
        reclaim(&b, Vec::new(), Vec::new()).await;
        b.lease(file, LeaseKind::Shared)
            .await
            .expect("reading disturbs nobody");
        let writing = b.start(b.wants(file, LeaseKind::Exclusive));
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!writing.is_finished());
        directory.advance(Duration::from_millis(2_200));
        writing.await.expect("no panic").expect("granted");
    });
}

#[test]
fn what_a_lost_mount_may_hold_is_settled_before_it_is_given_away() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        a.lease(file, LeaseKind::Exclusive).await.expect("granted");
        a.connection.close("killed");
        directory.restart().await;
        reclaim(&b, Vec::new(), Vec::new()).await;
        let reading = b.start(b.wants(file, LeaseKind::Shared));
        directory.advance(SESSION_TTL - Duration::from_secs(1));
        b.heartbeat().await.expect("alive");
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert!(!reading.is_finished());
        directory.advance(Duration::from_secs(1));
        b.heartbeat().await.expect("alive");
        let grant = reading.await.expect("no panic").expect("granted");
        let cuts = directory.servers.cut.lock().expect("unpoisoned").clone();
        assert_eq!(cuts, [(file, grant.attr.generation)]);
        assert_eq!(
            *directory.servers.fenced.lock().expect("unpoisoned"),
            [a.session]
        );
    });
}

#[test]
fn orphans_wait_for_everybody_who_may_have_them_open() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let (kept, freed) = (a.file("f").await, a.file("g").await);
        for (mount, inode) in [(&a, kept), (&b, freed)] {
            let open = OpenInode {
                stamp: mount.stamp(),
                inode,
                lease: None,
            };
            mount.call(open).await.expect("opened");
        }
        for file in ["f", "g"] {
            let name = super::harness::name(file);
            b.mutate(Mutation::Unlink {
                parent: ROOT,
                name,
                caller: 0,
            })
            .await
            .expect("unlinked");
        }
        directory.restart().await;
        let exists = |inode| {
            directory
                .raft
                .read_local(move |tables| crate::namespace::read::exists(tables, inode))
                .expect("read")
        };
        // b has lost its open meanwhile; that a has reclaimed nothing yet keeps both.
        reclaim(&b, Vec::new(), Vec::new()).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(exists(kept) && exists(freed));
        let life = a.heartbeat().await.expect("alive").leader_life;
        a.call(Reclaim {
            opens: vec![kept],
            ..page(&a, life)
        })
        .await
        .expect("reclaimed");
        until("the one that nobody has open is freed", || !exists(freed)).await;
        assert!(exists(kept));
    });
}

#[test]
fn a_waiter_is_sent_to_the_new_leader() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        a.lease(file, LeaseKind::Exclusive).await.expect("granted");
        a.kernel.answer_recalls(super::harness::OnRecall::Working);
        let waiting = b.start(b.wants(file, LeaseKind::Exclusive));
        until("it waits", || !a.kernel.recalled().is_empty()).await;
        directory.restart().await;
        let sent_away = waiting.await.expect("no panic").expect_err("another reign");
        assert_eq!(sent_away.code, ErrorCode::NotLeader);
    });
}

#[test]
fn a_request_for_a_lock_does_not_reach_into_the_next_life() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        a.locks(a.flock(file, 1, Exclusive, false))
            .await
            .expect("locked");
        // The try-lock waits for a moment for A to say whether it is still there.
        *a.kernel.deaf.lock().expect("unpoisoned") = true;
        let trying = b.start(b.flock(file, 2, Exclusive, false));
        until("A is asked", || {
            a.kernel.confirms.load(Ordering::SeqCst) == 1
        })
        .await;
        directory.restart().await;
        // A has not told the new life yet that it holds the file. (On a busy machine the wait may be
        // over before that life begins: then it was refused for the lock.)
        let refused = trying.await.expect("no panic").expect_err("held by A");
        let codes = [ErrorCode::NotLeader, ErrorCode::WouldBlock];
        assert!(codes.contains(&refused.code), "{refused}");
        reclaim(&b, Vec::new(), Vec::new()).await;
        reclaim(&a, Vec::new(), vec![(file, flock(&a, 1))]).await;
        let again = b.locks(b.flock(file, 2, Exclusive, false)).await;
        assert_eq!(again, Err(ErrorCode::WouldBlock));
    });
}
