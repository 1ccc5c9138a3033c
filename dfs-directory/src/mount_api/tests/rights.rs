//! Rights to keep names: who is told of a change before it is answered, and what is waited for.

use super::harness::{DEADLINE, Directory, Mount, OnRecall, name, run, until};
use dfs_proto::attr::Keep;
use dfs_proto::error::{Applied, ErrorCode};
use dfs_proto::ids::{InodeId, ROOT};
use dfs_proto::msg::namespace::{GetAttr, LookedUp, Lookup, Mutation, ReadDir};
use dfs_proto::msg::session::{LeaseKind, Reclaim};
use dfs_proto::timing::{CACHE_RIGHT, HOT_CHANGES, HOT_TERM_MIN, RECALL_DEADLINE};
use std::time::Duration;

async fn look(mount: &Mount, text: &str) -> LookedUp {
    let lookup = Lookup {
        session: mount.session,
        parent: ROOT,
        name: Some(name(text)),
    };
    mount.call(lookup).await.expect("answered")
}

fn making(mount: &Mount, text: &str) -> dfs_proto::msg::namespace::Mutate {
    mount.mutation(Mutation::MakeDir {
        parent: ROOT,
        name: name(text),
        mode: 0o755,
        creator: dfs_proto::msg::namespace::Creator {
            uid: 0,
            gid: 0,
            umask: 0,
        },
    })
}

/// The names of the root dir that the mount was told of.
fn told(mount: &Mount) -> Vec<String> {
    let news = mount.kernel.news();
    let of_root = news
        .iter()
        .flat_map(|n| &n.changes)
        .filter(|c| c.dir == ROOT);
    of_root
        .flat_map(|c| &c.names)
        .map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned())
        .collect()
}

#[test]
fn a_change_is_answered_when_whoever_may_keep_the_name_has_answered() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let absent = look(&b, "x").await;
        assert!(absent.seen.is_none() && absent.names);
        b.kernel.hold_news(true);
        let making = a.start(making(&a, "x"));
        until("B is told", || told(&b) == ["x"]).await;
        // B's look sees the change already, A's program does not know of it yet.
        assert!(look(&b, "x").await.seen.is_some());
        assert!(!making.is_finished());
        b.kernel.hold_news(false);
        making.await.expect("no panic").expect("made");
        // The right goes on; whoever made the change is not told.
        a.create("y").await.expect("made");
        assert_eq!(told(&b), ["x", "y"]);
        b.create("z").await.expect("made");
        assert_eq!(told(&b), ["x", "y"]);
    });
}

#[test]
fn a_change_that_is_made_and_cannot_be_answered_is_in_doubt() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        look(&b, "x").await;
        b.kernel.hold_news(true);
        let making = a.start(making(&a, "x"));
        until("B is told", || told(&b) == ["x"]).await;
        directory.restart().await;
        // `NotLeader` would say that it was never made.
        let error = making.await.expect("no panic").expect_err("another reign");
        assert_eq!(error.code, ErrorCode::AnswerLost);
        assert_eq!(error.applied(), Applied::Unknown);
    });
}

#[test]
fn attributes_come_with_the_right_to_keep_them() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        let seen = look(&b, "f").await.seen.expect("there");
        assert!(matches!(seen.keep, Keep::Lease { .. }));
        let root = b
            .call(GetAttr {
                session: b.session,
                inode: ROOT,
            })
            .await
            .expect("seen");
        assert_eq!(root.keep, Keep::Dir);
        // A change of the file takes the lease away before it is made.
        let set = dfs_proto::attr::SetAttr {
            mode: Some(0o600),
            ..Default::default()
        };
        b.kernel.answer_recalls(OnRecall::Working);
        let changing = a.start(a.mutation(Mutation::SetAttr { inode: file, set }));
        until("it is recalled", || !b.kernel.recalled().is_empty()).await;
        assert!(!changing.is_finished());
        b.kernel.answer_recalls(OnRecall::Return);
        changing.await.expect("no panic").expect("changed");
        // A listing brings the same for every entry, a file that is being written excepted.
        let written = a.file("w").await;
        a.lease(written, LeaseKind::Exclusive)
            .await
            .expect("granted");
        let listing = ReadDir {
            session: b.session,
            inode: ROOT,
            cookie: 0,
            entries_max: 100,
            with_attr: true,
        };
        let page = b.call(listing).await.expect("listed");
        assert!(page.names);
        let keeps: Vec<(InodeId, bool)> = page
            .entries
            .iter()
            .filter_map(|entry| match entry {
                dfs_proto::msg::namespace::DirPageEntry::Entry(e) => {
                    Some((e.inode, e.keep != Keep::Nothing))
                }
                _ => None,
            })
            .collect();
        assert_eq!(keeps, [(file, true), (written, false)]);
    });
}

#[test]
fn who_is_silent_is_waited_for_until_its_cache_is_over() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        look(&b, "x").await;
        b.kernel.hold_news(true);
        let making = a.start(making(&a, "x"));
        until("B is told", || !told(&b).is_empty()).await;
        directory.advance(CACHE_RIGHT);
        a.heartbeat().await.expect("alive");
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!making.is_finished(), "its kernel may still serve it");
        directory.advance(Duration::from_millis(300));
        a.heartbeat().await.expect("alive");
        making.await.expect("no panic").expect("made");
    });
}

#[test]
fn a_session_that_is_ended_keeps_what_it_cached_until_its_right_is_over() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        let file = a.file("f").await;
        b.lease(file, LeaseKind::Shared).await.expect("granted");
        b.kernel.answer_recalls(OnRecall::Silent);
        let writing = a.start(a.wants(file, LeaseKind::Exclusive));
        until("it is recalled", || !b.kernel.recalled().is_empty()).await;
        // B's heartbeats go on, so its kernel serves what it has; but it never gives back.
        let second = Duration::from_secs(1);
        for _ in 0..=RECALL_DEADLINE.as_secs() {
            directory.advance(second);
            for mount in [&a, &b] {
                mount.heartbeat().await.expect("alive");
            }
        }
        // Its heartbeats go on until its end has begun.
        let limit = tokio::time::Instant::now() + DEADLINE;
        while directory.api.core().clock.is_alive(b.session) {
            assert!(tokio::time::Instant::now() < limit, "its end never begins");
            let _ = (a.heartbeat().await, b.heartbeat().await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        until("it is fenced", || {
            let fenced = directory.servers.fenced.lock().expect("unpoisoned");
            fenced.contains(&b.session)
        })
        .await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!writing.is_finished());
        directory.advance(CACHE_RIGHT + Duration::from_millis(200));
        a.heartbeat().await.expect("alive");
        writing.await.expect("no panic").expect("granted");
    });
}

#[test]
fn a_hot_dir_is_kept_by_nobody() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        assert!(look(&b, "x").await.names);
        for i in 0..=HOT_CHANGES {
            a.create(&format!("f{i}")).await.expect("made");
        }
        let last = b.kernel.news().pop().expect("told");
        assert!(!last.changes[0].keep);
        assert!(!look(&b, "x").await.names);
        // Its kernel keeps what it was given before: until that has run out it is told.
        let before = told(&b).len();
        a.create("g").await.expect("made");
        assert_eq!(told(&b).len(), before + 1);
        directory.advance(CACHE_RIGHT + Duration::from_millis(300));
        for mount in [&a, &b] {
            mount.heartbeat().await.expect("alive");
        }
        until("it has faded", || {
            directory.api.core().rights.held(b.session) == 0
        })
        .await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        a.create("h").await.expect("made");
        assert_eq!(told(&b).len(), before + 1);
        directory.advance(HOT_TERM_MIN);
        for mount in [&a, &b] {
            mount.heartbeat().await.expect("alive");
        }
        assert!(look(&b, "x").await.names, "it has cooled down");
    });
}

#[test]
fn after_a_change_of_the_leader_nothing_is_answered_before_old_caches_are_over() {
    run(async {
        let directory = Directory::start().await;
        let (a, b) = (directory.mount().await, directory.mount().await);
        look(&b, "x").await;
        directory.restart().await;
        let life = a.heartbeat().await.expect("alive").leader_life;
        let reclaimed = |mount: &Mount| Reclaim {
            session: mount.session,
            leader_life: life,
            opens: Vec::new(),
            leases: Vec::new(),
            locks: Vec::new(),
            last: true,
        };
        a.call(reclaimed(&a)).await.expect("reclaimed");
        let making = a.start(making(&a, "x"));
        until("it is made", || {
            let made = crate::namespace::read::entry_exists;
            let root = directory
                .raft
                .read_local(move |tables| made(tables, ROOT, &name("x")));
            root.expect("readable")
        })
        .await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(
            !making.is_finished(),
            "B has not told that it keeps nothing"
        );
        b.heartbeat().await.expect("alive");
        b.call(reclaimed(&b)).await.expect("reclaimed");
        making.await.expect("no panic").expect("made");
    });
}
