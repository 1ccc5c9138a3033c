//! Changes of the namespace against leases and opens of others.

use super::harness::{Directory, OnRecall, name, run, until};
use crate::namespace::read;
use dfs_proto::attr::SetAttr;
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{InodeId, ROOT};
use dfs_proto::msg::namespace::{GetAttr, GetStatFs, Mutation, RenameFlags};
use dfs_proto::msg::session::LeaseKind::{Exclusive, Shared};
use dfs_proto::msg::session::{CloseInode, OpenInode};

fn unlink(file: &str) -> Mutation {
    Mutation::Unlink {
        parent: ROOT,
        name: name(file),
        caller: 0,
    }
}

fn chmod(inode: InodeId, mode: u16) -> Mutation {
    Mutation::SetAttr {
        inode,
        set: SetAttr {
            mode: Some(mode),
            ..SetAttr::default()
        },
    }
}

async fn exists(directory: &Directory, inode: InodeId) -> bool {
    directory
        .raft
        .read(move |tables| read::exists(tables, inode))
        .await
        .expect("read")
}

#[test]
fn a_create_brings_the_open_and_the_lease() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let made = a.create("f").await.expect("made");
        let grant = made.lease.expect("its lease");
        assert!(made.created && grant.kind == Exclusive);
        let inode = made.attr.expect("attributes").inode;
        let status = directory.api.list_sessions().expect("leads");
        assert_eq!((status[0].opens, status[0].leases_exclusive), (1, 1));
        // Another mount opens what is there.
        let opened = b.create("f").await.expect("opened");
        assert!(!opened.created && opened.lease.is_none());
        assert_eq!(opened.attr.expect("attributes").inode, inode);
    });
}

#[test]
fn a_change_of_attributes_takes_the_leases_of_others_away_first() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        a.lease(file, Shared).await.expect("granted");
        b.lease(file, Shared).await.expect("granted");
        a.kernel.answer_recalls(OnRecall::Working);
        let changing = b.start(b.mutation(chmod(file, 0o600)));
        until("the reader is asked", || !a.kernel.recalled().is_empty()).await;
        let mode = |attr: dfs_proto::attr::FileAttr| attr.mode & 0o777;
        let look = || {
            a.call(GetAttr {
                session: a.session,
                inode: file,
            })
        };
        assert_eq!(
            mode(look().await.expect("seen").attr),
            0o644,
            "not before the caches are gone"
        );
        a.kernel.answer_recalls(OnRecall::Return);
        changing.await.expect("no panic").expect("changed");
        assert_eq!(mode(look().await.expect("seen").attr), 0o600);
        assert!(b.kernel.recalled().is_empty(), "its own lease stays");
    });
}

#[test]
fn an_unlink_takes_the_leases_of_the_target_away() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        a.lease(file, Exclusive).await.expect("granted");
        b.mutate(unlink("f")).await.expect("unlinked");
        assert_eq!(a.kernel.recalled()[0].inode, file);
    });
}

#[test]
fn a_rename_over_a_file_takes_the_leases_of_both_away() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let (f, g) = (a.file("f").await, a.file("g").await);
        a.lease(f, Exclusive).await.expect("granted");
        a.lease(g, Shared).await.expect("granted");
        b.mutate(Mutation::Rename {
            parent: ROOT,
            name: name("f"),
            new_parent: ROOT,
            new_name: name("g"),
            flags: RenameFlags::default(),
            caller: 0,
        })
        .await
        .expect("renamed");
        let mut recalled: Vec<InodeId> = a.kernel.recalled().iter().map(|r| r.inode).collect();
        recalled.sort_unstable();
        assert_eq!(recalled, [f, g]);
    });
}

#[test]
fn a_truncate_is_answered_after_its_cut_also_when_it_is_repeated() {
    run(async {
        let directory = Directory::start().await;
        let a = directory.mount().await;
        let file = a.file("f").await;
        a.lease(file, Exclusive).await.expect("granted");
        let set = |size| Mutation::SetSize {
            inode: file,
            size,
            modified: true,
        };
        a.mutate(set(1 << 20)).await.expect("extended");
        assert!(directory.servers.cut.lock().expect("unpoisoned").is_empty());
        let shrink = a.mutation(set(5));
        let first = a.call(shrink.clone()).await.expect("cut");
        let attr = first.attr.expect("attributes");
        assert_eq!(attr.size, 5);
        let cuts = directory.servers.cut.lock().expect("unpoisoned").clone();
        assert_eq!(cuts, [(file, attr.generation)]);
        assert_eq!(a.call(shrink).await.expect("the same answer"), first);
        assert_eq!(directory.servers.cut.lock().expect("unpoisoned").len(), 2);
    });
}

#[test]
fn a_truncate_by_the_holder_does_not_wait_for_those_who_wait_for_its_lease() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        a.lease(file, Exclusive).await.expect("granted");
        // The mount gives the lease back only after the truncate that uses it.
        a.kernel.answer_recalls(OnRecall::Working);
        let waiting = b.start(b.wants(file, Exclusive));
        until("it is asked", || !a.kernel.recalled().is_empty()).await;
        a.mutate(Mutation::SetSize {
            inode: file,
            size: 3,
            modified: true,
        })
        .await
        .expect("set");
        a.kernel.answer_recalls(OnRecall::Return);
        let grant = waiting.await.expect("no panic").expect("granted");
        assert_eq!(grant.attr.size, 3);
    });
}

#[test]
fn a_deleted_file_lives_until_the_last_mount_closes_it() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        for mount in [&a, &b] {
            let open = OpenInode {
                stamp: mount.stamp(),
                inode: file,
                lease: None,
            };
            mount.call(open).await.expect("opened");
        }
        a.mutate(unlink("f")).await.expect("unlinked");
        b.lease(file, Shared).await.expect("granted");
        a.call(CloseInode {
            stamp: a.stamp(),
            inode: file,
            share: None,
        })
        .await
        .expect("closed");
        let seen = b
            .call(GetAttr {
                session: b.session,
                inode: file,
            })
            .await
            .expect("there");
        assert_eq!(seen.attr.links, 0);
        let close = CloseInode {
            stamp: b.stamp(),
            inode: file,
            share: None,
        };
        b.call(close).await.expect("closed");
        b.call(close).await.expect("a repeat");
        let mut gone = false;
        for _ in 0..1000 {
            if !exists(&directory, file).await {
                gone = true;
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        assert!(gone);
        until("its leases are gone", || {
            let status = directory.api.list_sessions().expect("leads");
            status.iter().all(|s| s.leases_shared == 0)
        })
        .await;
        let late = OpenInode {
            stamp: b.stamp(),
            inode: file,
            lease: Some(Exclusive),
        };
        assert_eq!(b.call(late).await.expect_err("gone").code, ErrorCode::Stale);
        let status = directory.api.list_sessions().expect("leads");
        assert!(
            status
                .iter()
                .all(|s| s.opens == 0 && s.leases_exclusive == 0)
        );
    });
}

#[test]
fn refusals_and_repeats_are_the_same_answer() {
    run(async {
        let directory = Directory::start().await;
        let a = directory.mount().await;
        a.file("f").await;
        let missing = a.mutation(unlink("g"));
        let refused = a.call(missing.clone()).await.expect_err("no such file");
        assert_eq!(refused.code, ErrorCode::NotFound);
        a.file("g").await;
        assert_eq!(
            a.call(missing).await.expect_err("as before").code,
            ErrorCode::NotFound
        );
        let unlinked = a.mutation(unlink("f"));
        let first = a.call(unlinked.clone()).await.expect("unlinked");
        assert_eq!(a.call(unlinked).await.expect("as before"), first);
        assert!(a.call(GetStatFs).await.expect("served").inodes > 0);
    });
}
