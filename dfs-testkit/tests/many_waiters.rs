//! Five hundred waiters for one lock through one mount: they cost next to nothing while they wait, each gets
//! the lock in its turn, and a signal still ends a wait soon.

#![allow(clippy::unwrap_used)]

use dfs_testkit::cluster::Cluster;
use dfs_testkit::eventually;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const WAITERS: usize = 500;

/// How long the waiting is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Of a core. An unoptimised mount takes several times as long for each look at a caller.
const SHARE_MAX: f64 = if cfg!(debug_assertions) { 0.4 } else { 0.1 };

const LONG: Duration = Duration::from_secs(60);

/// Threads that wait for the lock, each through an open of its own; each counts what is in the file up by one.
const SCRIPT: &str = r#"
import fcntl, os, sys, threading
path, count = sys.argv[1], int(sys.argv[2])
threading.stack_size(128 * 1024)
def wait():
    fd = os.open(path, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    number = int(os.pread(fd, 20, 0))
    os.pwrite(fd, b"%d" % (number + 1), 0)
    os.close(fd)
threads = [threading.Thread(target=wait) for _ in range(count)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("all", flush=True)
"#;

/// Time that a process has had on a core.
fn used(pid: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = text.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    // utime and stime, in hundredths of a second.
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// Threads of a process that are in flock(2).
fn in_flock(pid: u32) -> usize {
    let call = libc::SYS_flock.to_string();
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("syscall")).ok())
        .filter(|text| text.split_whitespace().next() == Some(call.as_str()))
        .count()
}

#[test]
fn five_hundred_waiters_cost_little_and_all_get_their_turn() {
    let cluster = Cluster::with_mounts(2);
    let (a, b) = (cluster.mount(1).join("f"), cluster.mount(2).join("f"));
    fs::write(&a, "0").unwrap();
    let holder = File::open(&b).unwrap();
    holder.lock().unwrap();
    let mut waiters = Command::new("python3")
        .args(["-c", SCRIPT])
        .arg(&a)
        .arg(WAITERS.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let pid = waiters.id();
    eventually("all wait", LONG, || in_flock(pid) == WAITERS);
    let nodes = ["mount-1", "directory-1"].map(|node| (node, cluster.pid(node)));
    // What their coming has cost is over.
    std::thread::sleep(Duration::from_secs(1));
    let (before, begun) = (nodes.map(|(_, pid)| used(pid)), Instant::now());
    std::thread::sleep(LOOK);
    let looked = begun.elapsed();
    for ((node, pid), before) in nodes.into_iter().zip(before) {
        let share = (used(pid) - before).as_secs_f64() / looked.as_secs_f64();
        println!(
            "{node}: {:.1} % of a core while {WAITERS} wait",
            share * 100.0
        );
        assert!(
            share < SHARE_MAX,
            "{node} uses {:.1} % of a core",
            share * 100.0
        );
    }
    // One more comes and is told to go away.
    let mut late = Command::new("flock").arg(&a).arg("true").spawn().unwrap();
    let late_pid = late.id();
    eventually("one more waits", LONG, || in_flock(late_pid) == 1);
    let told = Instant::now();
    late.kill().unwrap();
    late.wait().unwrap();
    println!("a signal ends a wait after {:?}", told.elapsed());
    assert!(told.elapsed() < Duration::from_secs(2));

    let begun = Instant::now();
    holder.unlock().unwrap();
    let mut said = String::new();
    let output = waiters.stdout.take().unwrap();
    BufReader::new(output).read_line(&mut said).unwrap();
    assert_eq!(said, "all\n");
    assert!(waiters.wait().unwrap().success());
    println!("all had their turn after {:.1?}", begun.elapsed());
    assert_eq!(fs::read_to_string(&b).unwrap(), WAITERS.to_string());
}
