//! Three members of the directory: any of them may die, and nothing acknowledged is lost, done
//! twice or forgotten; callers wait for an election at most.

#![allow(clippy::unwrap_used)]

use dfs_testkit::cluster::Cluster;
use dfs_testkit::eventually;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The promise is 3 s; a machine that is busy with other tests gets more.
const STALL_MAX: Duration = Duration::from_secs(10);

/// What one worker did.
struct Work {
    dir: PathBuf,
    files: u64,
    counted: u64,
    longest: Duration,
    longest_what: &'static str,
}

/// Creates, renames, looks and counts under a lock until it is told to stop. Every call must
/// succeed.
fn work(mount: &Path, name: &str, stop: &AtomicBool) -> Work {
    let dir = mount.join(name);
    fs::create_dir(&dir).unwrap();
    let mut work = Work {
        dir: dir.clone(),
        files: 0,
        counted: 0,
        longest: Duration::ZERO,
        longest_what: "",
    };
    let counter = OpenOptions::new()
        .read(true)
        .write(true)
        .open(mount.join("counter"))
        .unwrap();
    while !stop.load(Ordering::Relaxed) {
        let number = work.files;
        let (new, named) = (
            dir.join(format!("new-{number}")),
            dir.join(format!("{number}")),
        );
        work.timed("create", || File::create_new(&new).unwrap());
        work.timed("rename", || fs::rename(&new, &named).unwrap());
        work.timed("stat", || fs::metadata(&named).unwrap());
        work.files += 1;
        work.timed("count", || count(&counter));
        work.counted += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    work
}

impl Work {
    fn timed<T>(&mut self, what: &'static str, call: impl FnOnce() -> T) {
        let begun = Instant::now();
        call();
        if begun.elapsed() > self.longest {
            self.longest = begun.elapsed();
            self.longest_what = what;
        }
    }
}

/// Reads a number, adds one and writes it back, under the lock.
fn count(mut file: &File) {
    file.lock().unwrap();
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    let number: u64 = text.trim().parse().unwrap();
    file.rewind().unwrap();
    file.write_all(format!("{:20}\n", number + 1).as_bytes())
        .unwrap();
    file.unlock().unwrap();
}

/// Ends the workers also when a test fails between them.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn any_member_of_the_directory_may_die() {
    let cluster = Cluster::up(&["--directories", "3", "--mounts", "2"]);
    let (a, b) = (cluster.mount(1), cluster.mount(2));
    fs::write(a.join("counter"), format!("{:20}\n", 0)).unwrap();
    let stop = AtomicBool::new(false);
    let done: Vec<Work> = std::thread::scope(|scope| {
        let workers = [(&a, "a1"), (&a, "a2"), (&b, "b1"), (&b, "b2")];
        let running: Vec<_> = workers
            .iter()
            .map(|(mount, name)| scope.spawn(|| work(mount, name, &stop)))
            .collect();
        {
            let _stops = Stops(&stop);
            faults(&cluster);
        }
        running.into_iter().map(|w| w.join().unwrap()).collect()
    });
    let counted: u64 = done.iter().map(|work| work.counted).sum();
    for mount in [&a, &b] {
        let text = fs::read_to_string(mount.join("counter")).unwrap();
        assert_eq!(
            text.trim(),
            counted.to_string(),
            "an increment was lost or done twice"
        );
    }
    for work in &done {
        println!(
            "{}: {} files, {} counted, longest call {:?} ({})",
            work.dir.display(),
            work.files,
            work.counted,
            work.longest,
            work.longest_what
        );
        assert!(
            work.longest < STALL_MAX,
            "{} took {:?}",
            work.longest_what,
            work.longest
        );
        let name = work.dir.file_name().unwrap();
        for mount in [&a, &b] {
            let mut names: Vec<u64> = fs::read_dir(mount.join(name))
                .unwrap()
                .map(|entry| {
                    entry
                        .unwrap()
                        .file_name()
                        .into_string()
                        .unwrap()
                        .parse()
                        .unwrap()
                })
                .collect();
            names.sort_unstable();
            assert_eq!(names, (0..work.files).collect::<Vec<_>>());
        }
    }
}

/// What happens while everybody works.
fn faults(cluster: &Cluster) {
    std::thread::sleep(Duration::from_millis(500));
    // The leader dies, twice.
    for _ in 0..2 {
        let node = cluster.leader();
        cluster.node("kill", &node);
        cluster.leader();
        cluster.node("start", &node);
        cluster.wait_for_members(3);
    }
    // It is paused for longer than an election, and goes on believing that it leads.
    let node = cluster.leader();
    cluster.node("pause", &node);
    std::thread::sleep(Duration::from_secs(3));
    cluster.node("resume", &node);
    cluster.wait_for_members(3);
    // A follower loses its disk: a new member takes its place.
    let lost = (1..=3)
        .map(|n| format!("directory-{n}"))
        .find(|node| *node != cluster.leader())
        .unwrap();
    cluster.node("kill", &lost);
    fs::remove_dir_all(cluster.data(&lost)).unwrap();
    fs::create_dir(cluster.data(&lost)).unwrap();
    cluster.node("start", &lost);
    cluster.wait_for_members(3);
    // Every member is stopped and started again, one after the other.
    for number in 1..=3 {
        let node = format!("directory-{number}");
        cluster.node("stop", &node);
        cluster.node("start", &node);
        cluster.wait_for_members(3);
    }
}

#[test]
fn everything_is_there_after_the_end_of_all_members() {
    let cluster = Cluster::up(&["--directories", "3"]);
    let mount = cluster.mount(1);
    for number in 0..50 {
        fs::write(mount.join(format!("f{number}")), number.to_string()).unwrap();
    }
    let lock = File::create(mount.join("lock")).unwrap();
    lock.lock().unwrap();
    for number in 1..=3 {
        cluster.node("kill", &format!("directory-{number}"));
    }
    for number in 1..=3 {
        cluster.node("start", &format!("directory-{number}"));
    }
    for number in 0..50 {
        let read = fs::read_to_string(mount.join(format!("f{number}"))).unwrap();
        assert_eq!(read, number.to_string());
    }
    // Still held: another holder of the same file is refused.
    let other = File::open(mount.join("lock")).unwrap();
    assert!(other.try_lock().is_err());
    drop(lock);
    eventually("the lock is free", Duration::from_secs(5), || {
        other.try_lock().is_ok()
    });
}

#[test]
fn a_member_is_taken_out_by_hand() {
    let cluster = Cluster::up(&["--directories", "3"]);
    let mount = cluster.mount(1);
    fs::write(mount.join("before"), "x").unwrap();
    let gone = cluster.leader();
    let address = cluster.address(&gone);
    let number = cluster
        .members()
        .iter()
        .find(|m| m["address"] == *address)
        .unwrap()["member"]
        .to_string();
    let removed = cluster
        .ctl(&["directory", "remove", &number])
        .output()
        .unwrap();
    assert!(removed.status.success(), "{removed:?}");
    eventually("two members are left", Duration::from_secs(20), || {
        let members = cluster.members();
        members.len() == 2
            && members
                .iter()
                .any(|m| m["leader"] == true && m["address"] != *address)
    });
    cluster.node("kill", &gone);
    fs::write(mount.join("after"), "y").unwrap();
    assert_eq!(fs::read_to_string(mount.join("before")).unwrap(), "x");
}
