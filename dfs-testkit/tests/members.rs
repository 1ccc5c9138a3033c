//! The members of the directory in operation: they are updated, run out of disk, sessions are
//! evicted; and random changes of the namespace while their leader dies.

#![allow(clippy::unwrap_used)]

use dfs_testkit::cluster::{Cluster, binary, output};
use dfs_testkit::loop_disk::{Format, LoopDisk};
use dfs_testkit::subtree::Subtree;
use dfs_testkit::{eventually, rounds};
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

fn json(command: &mut Command) -> Value {
    let asked = output(command);
    serde_json::from_slice(&asked.stdout).unwrap_or_default()
}

fn directory(cluster: &Cluster) -> Value {
    json(&mut cluster.ctl(&["--json", "directory"]))
}

/// Four threads on two mounts, each with a subtree and a model of it; the leader of the directory
/// is killed meanwhile. `DFS_TEST_CALLS` calls in all, and `DFS_TEST_ROUNDS` kills.
#[test]
fn random_changes_agree_with_their_models_through_kills_of_the_leader() {
    let calls: u64 = std::env::var("DFS_TEST_CALLS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(2000);
    let kills = rounds(2);
    let cluster = Cluster::up(&["--directories", "3", "--mounts", "2"]);
    let mounts = [cluster.mount(1), cluster.mount(2)];
    let running = AtomicUsize::new(4);
    let (cluster, mounts, running) = (&cluster, &mounts, &running);
    let done: Vec<Subtree> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|thread: usize| {
                let root = mounts[thread % 2].join(format!("t{thread}"));
                scope.spawn(move || {
                    let mut tree = Subtree::new(root, 77 + thread as u64);
                    while tree.calls < calls / 4 {
                        tree.step();
                    }
                    running.fetch_sub(1, Ordering::SeqCst);
                    tree
                })
            })
            .collect();
        for _ in 0..kills {
            std::thread::sleep(Duration::from_secs(1));
            let node = cluster.leader();
            cluster.node("kill", &node);
            cluster.leader();
            cluster.node("start", &node);
            cluster.wait_for_members(3);
        }
        println!(
            "{} of 4 threads were still at work after the last kill",
            running.load(Ordering::SeqCst)
        );
        workers.into_iter().map(|w| w.join().unwrap()).collect()
    });
    for (thread, tree) in done.iter().enumerate() {
        println!(
            "{} calls, the longest {:?}: {}",
            tree.calls, tree.longest, tree.longest_what
        );
        for mount in mounts {
            tree.check(&mounts[thread % 2], mount);
        }
    }
    let fsck = output(&mut cluster.ctl(&["fsck"]));
    assert!(fsck.status.success(), "{fsck:?}");
    println!("{}", String::from_utf8_lossy(&fsck.stdout));
}

#[test]
fn a_session_is_evicted_and_its_lock_goes_to_the_next() {
    let cluster = Cluster::up(&["--directories", "3", "--mounts", "2"]);
    let (a, b) = (cluster.mount(1), cluster.mount(2));
    let mut held = File::create(a.join("locked")).unwrap();
    held.lock().unwrap();
    held.write_all(b"unsynced").unwrap();
    let mut synced = File::create(a.join("other")).unwrap();
    synced.write_all(b"kept").unwrap();
    synced.sync_all().unwrap();
    drop(synced);
    let mut quiet = OpenOptions::new()
        .append(true)
        .open(a.join("other"))
        .unwrap();
    let path = b.join("locked");
    let waiter = std::thread::spawn(move || {
        let other = OpenOptions::new().write(true).open(path).unwrap();
        other.lock().unwrap();
        other
    });
    // Who waits for whom is told, by host and process, and the file is named.
    let mut holder = Value::Null;
    eventually("the wait is shown", SOON, || {
        let status = json(&mut cluster.ctl(&["--json", "status"]));
        let sessions = status["session_list"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let waits = sessions
            .iter()
            .find_map(|s| s["waiting_for"].get(0).cloned());
        holder = waits.map_or(Value::Null, |wait| wait["holder"].clone());
        !holder.is_null()
    });
    assert_eq!(holder["pid"], std::process::id());
    let locks = json(&mut cluster.ctl(&["--json", "locks", "/locked"]));
    assert_eq!(locks.as_array().unwrap().len(), 2, "{locks}");
    assert!(locks[0]["path"].as_str().unwrap().ends_with("locked"));
    let table = output(&mut cluster.ctl(&["status"]));
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    for words in [
        "leads",
        "follows",
        "APPLIED",
        "LEASES S/X",
        "waits for a lock",
        "64 healthy",
    ] {
        assert!(table.contains(words), "{words}: {table}");
    }
    let session = holder["session"].to_string();
    let evicted = output(&mut cluster.ctl(&["session", "evict", &session]));
    assert!(evicted.status.success(), "{evicted:?}");
    let other = waiter.join().unwrap();
    // The handle that held the lock is told so, until it is opened again; others go on.
    let lost = held.write_all(b"late").unwrap_err();
    assert_eq!(lost.raw_os_error(), Some(libc_eio()));
    quiet.write_all(b" and more").unwrap();
    assert_eq!(
        fs::read_to_string(b.join("other")).unwrap(),
        "kept and more"
    );
    drop(other);
    let again = File::open(a.join("locked")).unwrap();
    eventually("the lock is free again", SOON, || again.try_lock().is_ok());
    let said = cluster.log("mount-1");
    assert!(said.contains("evicted by an administrator"), "{said}");
    let again = output(&mut cluster.ctl(&["session", "evict", &session]));
    assert!(!again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains("there is no session"));
}

fn libc_eio() -> i32 {
    rustix::io::Errno::IO.raw_os_error()
}

#[test]
fn members_of_two_versions_run_side_by_side() {
    let cluster = Cluster::up(&["--directories", "1", "--mounts", "1"]);
    let mount = cluster.mount(1);
    let level = || directory(&cluster)["feature_level"].as_u64();
    eventually("the level of the only member", SOON, || level() == Some(2));
    // An older program is not taken in, and does not start on newer data; both in words.
    let other = tempfile::tempdir().unwrap();
    let mut older = Command::new(binary("dfs-directory"));
    older.args([
        "--feature-level",
        "1",
        "--join",
        &cluster.address("directory-1"),
    ]);
    let refused = output(older.arg("--data").arg(other.path().join("d")));
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains("feature level 2, this program knows up to 1"),
        "{said}"
    );
    fs::write(mount.join("f"), "x").unwrap();
    cluster.node("stop", "directory-1");
    let mut older = Command::new(binary("dfs-directory"));
    older.args(["--feature-level", "1"]);
    let refused = output(older.arg("--data").arg(cluster.data("directory-1")));
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains("feature level 2, this program knows up to 1"),
        "{said}"
    );
    cluster.node("start", "directory-1");
    assert_eq!(fs::read_to_string(mount.join("f")).unwrap(), "x");
}

#[test]
fn a_full_disk_of_a_member_stops_nobody_else() {
    if let Some(why) = LoopDisk::missing(Format::Ext4) {
        println!("skipped: {why}");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let disk = LoopDisk::make(home.path(), "disk", Format::Ext4, 256);
    let cluster = Cluster::up_on(&["--directories", "3", "--mounts", "1"], |dir| {
        fs::create_dir_all(dir.join("data")).unwrap();
        std::os::unix::fs::symlink(disk.dir(), dir.join("data/directory-1")).unwrap();
    });
    let mount = cluster.mount(1);
    cluster.wait_for_members(3);
    for leads in [true, false] {
        // directory-1 leads, or follows.
        eventually("the wanted role", SOON, || {
            let present = cluster.leader();
            if (present == "directory-1") != leads {
                cluster.node("stop", &present);
                cluster.node("start", &present);
                cluster.wait_for_members(3);
            }
            (cluster.leader() == "directory-1") == leads
        });
        let filler = cluster.data("directory-1").join("filler");
        fill(&filler);
        for number in 0..300 {
            let name = mount.join(format!("{leads}-{number}"));
            fs::write(name, number.to_string()).unwrap();
        }
        eventually("the full member says so", SOON, || {
            cluster
                .log("directory-1")
                .matches("is full: this member")
                .count()
                > usize::from(!leads)
        });
        assert_ne!(cluster.leader(), "directory-1");
        fs::remove_file(&filler).unwrap();
        // It comes back by itself.
        cluster.wait_for_members(3);
        for number in 0..300 {
            let name = mount.join(format!("{leads}-{number}"));
            assert_eq!(fs::read_to_string(name).unwrap(), number.to_string());
        }
    }
}

/// Takes all that is left of the disk on which `path` is.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    let block = vec![0xaa; 64 << 10];
    for size in [block.len(), 4096, 512, 1] {
        while file.write_all(&block[..size]).is_ok() {}
    }
    let _ = file.sync_all();
}
