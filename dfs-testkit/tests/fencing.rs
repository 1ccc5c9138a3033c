//! Who lost a lock writes nothing any more.
//!
//! Processes on one mount hold exclusive flocks and change the locked files without pause. Their
//! mount falls silent: stopped, or cut off from the directory, while it still reaches the file
//! servers. When its time is over others get the locks on the other mount and write. Then the first
//! mount goes on: not one byte of it lands after the grant, its processes get EIO, and opening the
//! files again works.

#![allow(clippy::unwrap_used)]

use dfs_testkit::cluster::Cluster;
use dfs_testkit::random::Random;
use dfs_testkit::rounds;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Locked files in a round: each is a case of its own.
const FILES: usize = 6;

/// A session's time to live, and what may come on top before others get its locks.
const GRANTED: Duration = Duration::from_secs(13);

/// For what a busy machine may take.
const LONG: Duration = Duration::from_secs(60);

/// Locks, says so, and changes the file until it is told that it must not. Then, when asked, opens
/// the file again, locks it and says what is in it.
const HOLDER: &str = r#"
import errno, fcntl, hashlib, os, random, sys
path, chance = sys.argv[1], random.Random(int(sys.argv[2]))
fd = os.open(path, os.O_RDWR)
fcntl.flock(fd, fcntl.LOCK_EX)
print("locked", flush=True)
try:
    while True:
        at, length = chance.randrange(60000), chance.randrange(1, 20000)
        what = chance.randrange(10)
        if what == 0:
            os.ftruncate(fd, at)
        elif what == 1:
            os.fsync(fd)
        else:
            os.pwrite(fd, b"A" * length, at)
except OSError as e:
    print(errno.errorcode[e.errno], flush=True)
try:
    # Nor does the same handle work again.
    os.pwrite(fd, b"A", 0)
    print("written", flush=True)
except OSError as e:
    print(errno.errorcode[e.errno], flush=True)
sys.stdin.readline()
os.close(fd)
fd = os.open(path, os.O_RDWR)
fcntl.flock(fd, fcntl.LOCK_EX)
print(hashlib.sha256(os.pread(fd, 1 << 20, 0)).hexdigest(), flush=True)
"#;

/// Waits for the lock, writes, and looks at what it wrote until it is told to stop.
const WAITER: &str = r#"
import fcntl, hashlib, os, random, select, sys
path, chance = sys.argv[1], random.Random(int(sys.argv[2]))
fd = os.open(path, os.O_RDWR)
print("waits", flush=True)
fcntl.flock(fd, fcntl.LOCK_EX)
print("locked", flush=True)
content = chance.randbytes(chance.randrange(1, 60000))
os.ftruncate(fd, 0)
os.pwrite(fd, content, 0)
os.fsync(fd)
while not select.select([sys.stdin], [], [], 0.01)[0]:
    found = os.pread(fd, 1 << 20, 0)
    if found != content:
        print("changed: %d bytes instead of %d" % (len(found), len(content)), flush=True)
        sys.exit(1)
print(hashlib.sha256(content).hexdigest(), flush=True)
"#;

/// A process of the test; killed at the end of its life.
struct Script {
    process: Child,
    input: ChildStdin,
    said: Receiver<String>,
}

impl Script {
    fn new(text: &str, path: &Path, seed: u64) -> Self {
        let mut process = Command::new("python3")
            .args(["-c", text])
            .arg(path)
            .arg(seed.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (tell, said) = channel();
        // Ends with the process's output.
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            process,
            input,
            said,
        }
    }

    fn says(&self, within: Duration) -> String {
        match self.said.recv_timeout(within) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("it says nothing within {within:?}"),
            Err(RecvTimeoutError::Disconnected) => panic!("it ended without a word"),
        }
    }

    fn go_on(&mut self) {
        writeln!(self.input).unwrap();
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One round: `silence` makes the first mount silent, `end` ends that.
fn round(cluster: &Cluster, number: usize, silence: impl Fn(), end: impl Fn()) {
    let mut random = Random::new(number as u64);
    let (a, b) = (cluster.mount(1), cluster.mount(2));
    let names: Vec<String> = (0..FILES).map(|i| format!("r{number}-{i}")).collect();
    let mut holders = Vec::new();
    for name in &names {
        std::fs::write(a.join(name), "").unwrap();
        holders.push(Script::new(HOLDER, &a.join(name), random.next_number()));
    }
    for holder in &holders {
        assert_eq!(holder.says(LONG), "locked");
    }
    let mut waiters: Vec<Script> = (names.iter())
        .map(|name| Script::new(WAITER, &b.join(name), random.next_number()))
        .collect();
    for waiter in &waiters {
        assert_eq!(waiter.says(LONG), "waits");
    }
    std::thread::sleep(random.micros(0, 400_000));
    silence();
    let silent = Instant::now();
    for waiter in &waiters {
        assert_eq!(waiter.says(LONG), "locked");
    }
    let granted = silent.elapsed();
    println!("round {number}: granted after {granted:.1?}");
    assert!(granted < GRANTED, "granted after {granted:?}");
    // Before, while and after the new holders write.
    std::thread::sleep(random.micros(0, 1_500_000));
    end();
    for holder in &holders {
        assert_eq!(holder.says(LONG), "EIO", "what a fenced holder is told");
        assert_eq!(holder.says(LONG), "EIO", "what it is told again");
    }
    for holder in &mut holders {
        holder.go_on();
    }
    // Time for whatever may still be on its way.
    std::thread::sleep(Duration::from_secs(1));
    for (waiter, holder) in waiters.iter_mut().zip(&holders) {
        assert!(
            holder.said.try_recv().is_err(),
            "two hold an exclusive lock"
        );
        waiter.go_on();
        let written = waiter.says(LONG);
        // The waiter's end lets the reopened file have its lock.
        assert_eq!(holder.says(LONG), written, "after a reopen");
    }
}

#[test]
fn a_stopped_mount_writes_nothing_after_its_locks_are_others() {
    let cluster = Cluster::with_mounts(2);
    for number in 0..rounds(1) {
        let stop = || cluster.node("pause", "mount-1");
        round(&cluster, number, stop, || cluster.node("resume", "mount-1"));
    }
    let log = cluster.log("mount-1");
    assert!(log.contains("session has ended"), "no word to the user");
    // Which file, and what to do.
    let file = cluster.mount(1).join("r0-0");
    let number = std::fs::metadata(&file).unwrap().ino();
    let told = log
        .lines()
        .find(|line| line.contains(&format!("-inum {number})")));
    let told = told.unwrap_or_else(|| panic!("no word of {}: {log}", file.display()));
    assert!(told.contains("a lock on it is lost") && told.contains("open it again"));
}

#[test]
fn a_mount_that_is_cut_off_writes_nothing_after_its_locks_are_others() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root may cut networks");
        return;
    }
    let cluster = Cluster::up(&["--isolated", "--mounts", "2"]);
    // The mount hears the directory and is not heard; the reverse; both; and nobody hears it.
    let cuts: [&[(&str, &str)]; 4] = [
        &[("mount-1", "directory-1")],
        &[("directory-1", "mount-1")],
        &[("mount-1", "directory-1"), ("directory-1", "mount-1")],
        &[("mount-1", "directory-1"), ("mount-1", "servers")],
    ];
    for number in 0..rounds(2) {
        let silence = || {
            for (from, to) in cuts[number % cuts.len()] {
                cluster.cut(from, to);
            }
        };
        round(&cluster, number, silence, || cluster.heal());
    }
}
