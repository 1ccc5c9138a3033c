//! Machines die: nothing acknowledged is lost, callers see a pause and never an error.

#![allow(clippy::unwrap_used)]

use dfs_testkit::cluster::Cluster;
use dfs_testkit::eventually;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Callers never wait longer for a file server's death.
const STALL_MAX: Duration = Duration::from_secs(3);

fn pattern(number: u64, len: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// Writes `blocks` blocks of 256 KiB at a steady rate, and does `at` between; returns the longest
/// single write.
fn write_steadily(path: &Path, blocks: u64, pause: Duration, mut at: impl FnMut(u64)) -> Duration {
    let mut file = File::create(path).unwrap();
    let mut longest = Duration::ZERO;
    for number in 0..blocks {
        at(number);
        let data = pattern(number, 256 << 10);
        let start = Instant::now();
        file.write_all(&data).unwrap();
        longest = longest.max(start.elapsed());
        std::thread::sleep(pause);
    }
    file.sync_all().unwrap();
    longest
}

fn check_pattern(path: &Path, blocks: u64) {
    let file = File::open(path).unwrap();
    assert_eq!(file.metadata().unwrap().len(), blocks << 18);
    let mut seen = vec![0; 256 << 10];
    for number in 0..blocks {
        file.read_exact_at(&mut seen, number << 18).unwrap();
        assert!(seen == pattern(number, 256 << 10), "block {number} differs");
    }
}

#[test]
fn a_file_server_dies_and_comes_back() {
    let cluster = Cluster::with_mounts(2);
    let path = cluster.mount(1).join("steady");
    let longest = write_steadily(
        &path,
        256,
        Duration::from_millis(30),
        |number| match number {
            64 => cluster.node("kill", "server-1"),
            100 => cluster.node("start", "server-1"),
            130 => {
                cluster.wait_healthy(Duration::from_secs(30));
                cluster.node("kill", "server-2");
            }
            200 => cluster.node("start", "server-2"),
            _ => {}
        },
    );
    println!("longest single write: {longest:?}");
    assert!(longest < STALL_MAX, "a write took {longest:?}");
    check_pattern(&cluster.mount(2).join("steady"), 256);
    cluster.wait_healthy(Duration::from_secs(30));
    let verify = dfs_testkit::cluster::output(&mut cluster.ctl(&["verify"]));
    assert!(
        verify.status.success(),
        "{}",
        String::from_utf8_lossy(&verify.stdout)
    );
}

#[test]
fn readers_go_on_while_servers_die() {
    let cluster = Cluster::with_mounts(2);
    let data = pattern(1, 12 << 20);
    fs::write(cluster.mount(1).join("read"), &data).unwrap();
    let mut longest = Duration::ZERO;
    for round in 0..6 {
        let node = format!("server-{}", round % 3 + 1);
        cluster.node("kill", &node);
        // Direct reads: each goes to a server.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(cluster.mount(2).join("read"))
            .unwrap();
        let mut seen = vec![0; 1 << 20];
        for at in (0..12u64).map(|n| n << 20) {
            let start = Instant::now();
            file.read_exact_at(&mut seen, at).unwrap();
            longest = longest.max(start.elapsed());
            assert!(
                seen == data[at as usize..][..1 << 20],
                "round {round}, byte {at}"
            );
        }
        cluster.node("start", &node);
        cluster.wait_healthy(Duration::from_secs(30));
    }
    println!("longest single read: {longest:?}");
    assert!(longest < STALL_MAX, "a read took {longest:?}");
}

#[test]
fn the_directory_is_restarted() {
    let cluster = Cluster::with_mounts(2);
    let (a, b) = (cluster.mount(1), cluster.mount(2));
    let mut file = File::create(a.join("kept")).unwrap();
    file.write_all(b"before ").unwrap();
    let lock = File::create(a.join("lock")).unwrap();
    lock.lock().unwrap();
    // Deleted but open, and not pushed yet.
    let mut open = OpenOptions::new();
    open.create(true).read(true).write(true).truncate(true);
    let orphan = open.open(a.join("orphan")).unwrap();
    orphan.write_all_at(b"still here", 0).unwrap();
    fs::remove_file(b.join("orphan")).unwrap();
    for verb in ["kill", "stop"] {
        cluster.node(verb, "directory-1");
        cluster.node("start", "directory-1");
        // Locks, leases and opens are kept.
        let taken = Command::new("flock")
            .arg("-n")
            .arg(b.join("lock"))
            .arg("true")
            .status();
        assert_eq!(taken.unwrap().code(), Some(1), "{verb}: the lock was lost");
        file.write_all(b"after ").unwrap();
        let mut seen = [0; 10];
        orphan.read_exact_at(&mut seen, 0).unwrap();
        assert_eq!(&seen, b"still here");
        fs::write(a.join(verb), verb).unwrap();
        assert_eq!(fs::read_to_string(b.join(verb)).unwrap(), verb);
    }
    assert_eq!(
        fs::read_to_string(b.join("kept")).unwrap(),
        "before after after "
    );
    lock.unlock().unwrap();
    let taken = Command::new("flock")
        .arg("-n")
        .arg(b.join("lock"))
        .arg("true")
        .status();
    assert_eq!(taken.unwrap().code(), Some(0));
}

#[test]
fn a_mount_dies() {
    let cluster = Cluster::with_mounts(2);
    let (a, b) = (cluster.mount(1), cluster.mount(2));
    // Synced, then written beyond without a sync, and one that is closed in the moment before: every
    // write that was answered stays.
    let mut file = File::create(a.join("partly")).unwrap();
    file.write_all(&[1; 10_000]).unwrap();
    file.sync_all().unwrap();
    file.write_all(&[2; 10_000]).unwrap();
    let lock = File::create(a.join("lock")).unwrap();
    lock.lock().unwrap();
    fs::write(a.join("closed"), [3; 5_000]).unwrap();
    cluster.node("kill", "mount-1");
    let start = Instant::now();
    let status = Command::new("flock")
        .arg("-x")
        .arg(b.join("lock"))
        .arg("true")
        .status()
        .unwrap();
    assert!(status.success());
    let waited = start.elapsed();
    println!("the dead mount's lock was free after {waited:.1?}");
    assert!(
        waited < Duration::from_secs(13),
        "TTL + 3 s have passed: {waited:?}"
    );
    let seen = fs::read(b.join("partly")).unwrap();
    assert_eq!(seen.len(), 20_000, "what was answered");
    assert!(seen[..10_000].iter().all(|x| *x == 1));
    assert!(seen[10_000..].iter().all(|x| *x == 2));
    assert_eq!(fs::read(b.join("closed")).unwrap(), [3; 5_000]);
    let grown = OpenOptions::new()
        .write(true)
        .open(b.join("partly"))
        .unwrap();
    grown.set_len(40_000).unwrap();
    let after = fs::read(b.join("partly")).unwrap();
    assert!(
        after[seen.len()..].iter().all(|x| *x == 0),
        "bytes of the dead came back"
    );
    // The same mount point again, over what the dead process left.
    cluster.node("start", "mount-1");
    assert_eq!(fs::read(a.join("partly")).unwrap(), after);
}

#[test]
fn mounts_end_cleanly() {
    let cluster = Cluster::with_mounts(2);
    let (a, b) = (cluster.mount(1), cluster.mount(2));
    fs::write(a.join("left"), "behind").unwrap();
    let lock = File::create(a.join("lock")).unwrap();
    lock.lock().unwrap();
    // SIGTERM with a lock held and a file open: unmounted, and the lock is free at once.
    let start = Instant::now();
    cluster.node("stop", "mount-1");
    let status = Command::new("flock")
        .args(["-w", "1"])
        .arg(b.join("lock"))
        .arg("true")
        .status();
    assert!(status.unwrap().success(), "the lock outlived its mount");
    assert!(start.elapsed() < Duration::from_secs(10));
    drop(lock);
    assert_eq!(fs::read_to_string(b.join("left")).unwrap(), "behind");
    assert!(!a.join("left").exists(), "still mounted");
    // umount ends the process.
    let pid = cluster.pid("mount-2");
    let status = Command::new("umount").arg(&b).status().unwrap();
    assert!(status.success());
    eventually(
        "the end of the unmounted process",
        Duration::from_secs(10),
        || {
            fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |s| {
                s.rsplit(") ").next().is_some_and(|r| r.starts_with('Z'))
            })
        },
    );
    cluster.node("start", "mount-1");
    assert_eq!(fs::read_to_string(a.join("left")).unwrap(), "behind");
}
