//! What happens at the limits: disks that are full, read-only or slow, too few replicas, too many
//! files. Calls fail with the errno that says it, or wait and can be killed; nothing is lost; and
//! all is well again when the cause has gone.

#![allow(clippy::unwrap_used)]

use dfs_testkit::cluster::Cluster;
use dfs_testkit::eventually;
use dfs_testkit::loop_disk::{Format, LoopDisk};
use dfs_testkit::powered::Powered;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const RETURN: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(20);

fn no_disks() -> bool {
    let missing = LoopDisk::missing(Format::Ext4);
    if let Some(why) = &missing {
        println!("SKIPPED: {why}");
    }
    missing.is_some()
}

/// Fills the file system with files of 4 MiB; says how many there are and why it ended.
fn fill(dir: &Path) -> (usize, std::io::Error) {
    let data = vec![0x5a; 1 << 20];
    for number in 0..10_000 {
        let mut file = File::create(dir.join(format!("fill-{number}"))).unwrap();
        for _ in 0..4 {
            if let Err(error) = file.write_all(&data) {
                return (number, error);
            }
        }
    }
    panic!("it is never full");
}

/// A process that writes to a file and ends; it waits as long as the write does. It handles no
/// signal, unlike `dd`, so that each one is fatal.
fn writer(path: &Path) -> Child {
    Command::new("sh")
        .args(["-c", "exec printf '%4096s' x 1<>\"$0\""])
        .arg(path)
        .spawn()
        .unwrap()
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// One disk much smaller than the others, or all of them alike: the fullest one decides.
fn full_and_free_again(sizes: &[(&str, u64)]) {
    let powered = Powered::up(&["--mounts", "2"], Format::Ext4, sizes);
    let cluster = &powered.cluster;
    let (a, b) = (cluster.mount(1), cluster.mount(2));
    let kept = vec![7; 100_000];
    fs::write(a.join("kept"), &kept).unwrap();
    let (files, error) = fill(&a);
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    println!("full after {files} files of 4 MiB");
    assert!(files > 5, "full much too early");
    // Nobody left a group because of it.
    assert!(cluster.is_healthy());
    // What is there can be read, and changed in place.
    assert!(fs::read(b.join("kept")).unwrap() == kept);
    let whole = vec![0x5a; 4 << 20];
    assert!(fs::read(b.join("fill-0")).unwrap() == whole);
    let file = OpenOptions::new().write(true).open(b.join("kept")).unwrap();
    file.write_all_at(&[8; 1000], 0).unwrap();
    file.sync_all().unwrap();
    // Names need no space of the servers; and room that is made is there by itself.
    for number in 0..=files {
        fs::remove_file(b.join(format!("fill-{number}"))).unwrap();
    }
    eventually("room for new data", SOON, || {
        let written = File::create(a.join("new")).and_then(|mut f| f.write_all(&whole));
        written.is_ok()
    });
    assert!(fs::read(b.join("new")).unwrap() == whole);
    cluster.wait_healthy(SOON);
}

#[test]
fn full_disks_refuse_new_data_and_recover() {
    if !no_disks() {
        full_and_free_again(&[("server-1", 192), ("server-2", 192), ("server-3", 192)]);
    }
}

#[test]
fn one_full_disk_is_as_if_all_were() {
    if !no_disks() {
        full_and_free_again(&[("server-2", 192)]);
    }
}

#[test]
fn a_disk_that_turns_read_only_takes_its_server_out() {
    if no_disks() {
        return;
    }
    let powered = Powered::up(&["--mounts", "2"], Format::Ext4, &[("server-2", 512)]);
    let cluster = &powered.cluster;
    let path = cluster.mount(1).join("steady");
    let mut file = File::create(&path).unwrap();
    let mut longest = Duration::ZERO;
    for number in 0..200u32 {
        if number == 50 {
            powered.disk("server-2").turn_read_only();
        }
        let start = Instant::now();
        file.write_all(&[number as u8; 65_536]).unwrap();
        if number % 10 == 0 {
            file.sync_all().unwrap();
        }
        longest = longest.max(start.elapsed());
    }
    println!("longest write and sync: {longest:?}");
    eventually("the server has said what is wrong", SOON, || {
        let log = cluster.log("server-2");
        log.contains("Read-only file system") && log.contains("data/server-2")
    });
    let seen = fs::read(cluster.mount(2).join("steady")).unwrap();
    assert_eq!(seen.len(), 200 * 65_536);
    assert!(
        seen.chunks(65_536)
            .zip(0..)
            .all(|(c, n)| c.iter().all(|x| *x == n))
    );
    // It does not come back by itself before somebody has seen to the disk.
    assert!(!cluster.is_healthy());
    dfs_testkit::powered::kill_if_running(cluster, "server-2");
    powered.disk("server-2").restore();
    cluster.node("start", "server-2");
    cluster.wait_healthy(RETURN);
}

#[test]
fn too_few_replicas_hold_writes_and_not_reads() {
    let options = ["--mounts", "2", "--mount-opts", "io_timeout=4"];
    let limited = Cluster::up(&options);
    let patient = Cluster::with_mounts(1);
    for cluster in [&limited, &patient] {
        fs::write(cluster.mount(1).join("file"), vec![1; 10_000]).unwrap();
        fs::write(cluster.mount(1).join("other"), "read me").unwrap();
        for node in ["server-2", "server-3"] {
            cluster.node("kill", node);
        }
    }

    // By default the caller waits, and can be killed: by the keyboard's signal, and for certain.
    let path = patient.mount(1).join("file");
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::KILL] {
        let mut waiting = writer(&path);
        std::thread::sleep(Duration::from_secs(2));
        assert!(waiting.try_wait().unwrap().is_none(), "it did not wait");
        // Not of what is being written: that waits for the write.
        let other = fs::read_to_string(patient.mount(1).join("other"));
        assert_eq!(other.unwrap(), "read me", "reads go on");
        let pid = rustix::process::Pid::from_child(&waiting);
        rustix::process::kill_process(pid, signal).unwrap();
        eventually(
            "the end of a waiting writer",
            Duration::from_secs(5),
            || waiting.try_wait().unwrap().is_some(),
        );
        assert_eq!(waiting.wait().unwrap().signal(), Some(signal.as_raw()));
    }

    // With a time-out the caller is told, and what it asked for goes on to its end.
    let path = limited.mount(1).join("file");
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let start = Instant::now();
    let error = file.write_all_at(&[2; 10_000], 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT), "{error}");
    let waited = start.elapsed();
    assert!(
        waited > Duration::from_secs(3) && waited < SOON,
        "{waited:?}"
    );
    let other = fs::read_to_string(limited.mount(2).join("other"));
    assert_eq!(other.unwrap(), "read me", "reads go on, on all mounts");
    let held = fs::read(limited.mount(2).join("file")).unwrap_err();
    assert_eq!(held.raw_os_error(), Some(libc::ETIMEDOUT), "not half of it");
    for cluster in [&limited, &patient] {
        for node in ["server-2", "server-3"] {
            cluster.node("start", node);
        }
        cluster.wait_healthy(RETURN);
    }
    // The lease was kept until the request was resolved: the other mount sees all of it or, had
    // it been given up, nothing; and it is the last word.
    let seen = fs::read(limited.mount(2).join("file")).unwrap();
    assert!(seen.iter().all(|x| *x == seen[0]), "half a write");
    assert_eq!(seen[0], 2, "what the mount kept is done by now");
    fs::write(limited.mount(2).join("file"), vec![3; 10_000]).unwrap();
    assert_eq!(fs::read(&path).unwrap(), vec![3; 10_000]);
}

#[test]
fn without_servers_many_requests_wait_within_bounds() {
    let cluster = Cluster::with_mounts(1);
    let files: Vec<_> = (0..60)
        .map(|n| cluster.mount(1).join(format!("file-{n}")))
        .collect();
    for path in &files {
        fs::write(path, [0; 4096]).unwrap();
    }
    let before = resident_kib(cluster.pid("mount-1"));
    for node in ["server-1", "server-2", "server-3"] {
        cluster.node("kill", node);
    }
    let mut waiting: Vec<Child> = files.iter().map(|path| writer(path)).collect();
    std::thread::sleep(Duration::from_secs(3));
    assert!(waiting.iter_mut().all(|c| c.try_wait().unwrap().is_none()));
    let grown = resident_kib(cluster.pid("mount-1")).saturating_sub(before);
    println!("{} KiB for {} requests that wait", grown, files.len());
    assert!(grown < 128 << 10, "{grown} KiB");
    for child in &mut waiting {
        child.kill().unwrap();
    }
    for child in &mut waiting {
        eventually("the end of a killed writer", Duration::from_secs(5), || {
            child.try_wait().unwrap().is_some()
        });
    }
    for node in ["server-1", "server-2", "server-3"] {
        cluster.node("start", node);
    }
    cluster.wait_healthy(RETURN);
    fs::write(&files[0], "again").unwrap();
}

#[test]
fn a_mount_ends_without_its_directory() {
    let cluster = Cluster::with_mounts(1);
    let path = cluster.mount(1).join("open");
    let mut file = File::create(&path).unwrap();
    file.write_all(&[1; 5000]).unwrap();
    cluster.node("kill", "directory-1");
    let start = Instant::now();
    cluster.node("stop", "mount-1");
    let took = start.elapsed();
    println!("it ended after {took:.1?}");
    assert!(
        took < Duration::from_secs(19),
        "killed in the end: {took:?}"
    );
    let log = cluster.log("mount-1");
    assert!(log.contains("the session did not end"), "{log}");
}

#[test]
fn a_full_disk_under_the_directory_is_named_and_recovers() {
    if no_disks() {
        return;
    }
    let powered = Powered::up(&["--mounts", "2"], Format::Ext4, &[("directory-1", 64)]);
    let cluster = &powered.cluster;
    fs::write(cluster.mount(1).join("before"), "x").unwrap();
    let ballast = powered.disk("directory-1").dir().join("../ballast");
    let mut filled = File::create(&ballast).unwrap();
    while filled.write_all(&[0; 4096]).is_ok() {}
    let dir = cluster.mount(1);
    let maker = std::thread::spawn(move || {
        // Each name is a log entry: some may still fit.
        for number in 0..3000 {
            fs::write(dir.join(format!("new-{number}")), "").unwrap();
        }
    });
    eventually("the directory says what is wrong", SOON, || {
        cluster
            .log("directory-1")
            .contains("No space left on device")
    });
    // A member that can't log stops serving, and begins anew by itself when there is room.
    drop(filled);
    fs::remove_file(&ballast).unwrap();
    maker.join().unwrap();
    let names = fs::read_dir(cluster.mount(2)).unwrap().count();
    assert_eq!(
        names, 3001,
        "a caller waits, and nothing is lost or done twice"
    );
}

/// `DFS_TEST_FILES` says how many.
#[test]
fn many_files_need_few_descriptors() {
    let files: usize = std::env::var("DFS_TEST_FILES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1200);
    let cluster = Cluster::with_mounts(1);
    let dir = cluster.mount(1);
    std::thread::scope(|scope| {
        for part in 0..8 {
            let dir = &dir;
            scope.spawn(move || {
                for number in (part..files).step_by(8) {
                    fs::write(dir.join(format!("f{number}")), number.to_string()).unwrap();
                }
            });
        }
    });
    for number in 0..files {
        let text = fs::read_to_string(dir.join(format!("f{number}"))).unwrap();
        assert_eq!(text, number.to_string());
    }
    for (node, most) in [
        ("server-1", 1400),
        ("server-2", 1400),
        ("server-3", 1400),
        ("mount-1", 200),
        ("directory-1", 200),
    ] {
        let open = descriptors(cluster.pid(node));
        println!("{node}: {open} descriptors after {files} files");
        assert!(open < most, "{node}: {open} descriptors");
    }
}

/// Freezes the file system most of the time, until the value goes.
struct SlowDisk {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl SlowDisk {
    fn begin(dir: std::path::PathBuf) -> Self {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let freeze = |how: &str| {
                let _ = Command::new("fsfreeze").arg(how).arg(&dir).status();
            };
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                freeze("--freeze");
                std::thread::sleep(Duration::from_millis(300));
                freeze("--unfreeze");
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let thread = Some(thread);
        Self { stop, thread }
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn a_slow_disk_does_not_hold_everybody_for_long() {
    if no_disks() {
        return;
    }
    let powered = Powered::up(&["--mounts", "1"], Format::Ext4, &[("server-2", 512)]);
    let cluster = &powered.cluster;
    let mut file = File::create(cluster.mount(1).join("file")).unwrap();
    let mut write = |number: u32| {
        let start = Instant::now();
        // Anew each time: the chunks are spread over the groups.
        file.write_all(&[number as u8; 65_536]).unwrap();
        start.elapsed()
    };
    let quick: Duration = (0..50).map(&mut write).sum();
    let slow = SlowDisk::begin(powered.disk("server-2").dir().join(".."));
    let start = Instant::now();
    let (mut held, mut number) = (0, 0);
    eventually("the slow server is out", Duration::from_secs(90), || {
        number += 1;
        held += u32::from(write(number) > Duration::from_millis(100));
        cluster.log("directory-1").contains("holds everybody up")
    });
    println!(
        "out after {:.1?}; {held} of {number} writes were held",
        start.elapsed()
    );
    assert!(held > 10, "the disk was not slow");
    eventually("writes are quick again", SOON, || {
        (0..50).map(&mut write).sum::<Duration>() < quick * 4 + Duration::from_secs(1)
    });
    assert!(!cluster.is_healthy(), "it is left aside for a while");
    drop(slow);
    cluster.wait_healthy(Duration::from_secs(90));
    assert_eq!(
        cluster
            .log("directory-1")
            .matches("holds everybody up")
            .count(),
        1,
        "it does not come and go"
    );
}
