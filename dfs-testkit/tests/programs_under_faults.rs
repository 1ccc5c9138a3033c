//! Programs that check their own data, while what they stand on is killed.

#![allow(clippy::unwrap_used)]

use dfs_testkit::cluster::{Cluster, output, run};
use dfs_testkit::rounds;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

const SERVERS: [&str; 3] = ["server-1", "server-2", "server-3"];
const RETURN: Duration = Duration::from_secs(60);

#[test]
fn fio_verifies_while_a_server_dies_and_returns() {
    if !output(Command::new("sh").args(["-c", "command -v fio"]))
        .status
        .success()
    {
        println!("SKIPPED: the package fio is missing");
        return;
    }
    let cluster = Cluster::with_mounts(1);
    let mut fio = Command::new("fio")
        .args([
            "--name=verified",
            "--rw=randwrite",
            "--bsrange=4k-128k",
            "--size=48m",
        ])
        .args([
            "--rate=6m",
            "--fsync=32",
            "--verify=crc32c",
            "--verify_fatal=1",
        ])
        .args(["--numjobs=2", "--group_reporting", "--minimal"])
        .arg(format!("--directory={}", cluster.mount(1).display()))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut deaths = 0;
    let status = loop {
        let node = SERVERS[deaths % SERVERS.len()];
        std::thread::sleep(Duration::from_secs(1));
        cluster.node("kill", node);
        std::thread::sleep(Duration::from_secs(1));
        cluster.node("start", node);
        cluster.wait_healthy(RETURN);
        deaths += 1;
        if let Some(status) = fio.try_wait().unwrap() {
            break status;
        }
    };
    println!("fio ended after {deaths} deaths: {status}");
    assert!(status.success() && deaths > 1);
}

/// Transactions of ten rows, each number printed after its commit.
const WRITER: &str = r#"
import sqlite3, sys, time
path, mode, who = sys.argv[1], sys.argv[2], int(sys.argv[3])
c = sqlite3.connect(path, timeout=120, isolation_level=None)
# Two that change the mode at once would get "locked", whatever the time-out.
if mode != "wal":
    c.execute("pragma journal_mode=" + mode)
c.execute("pragma synchronous=full")
n = (c.execute("select max(n) from t where who = ?", (who,)).fetchone()[0] or 0)
while True:
    n += 1
    c.execute("begin immediate")
    for row in range(10):
        c.execute("insert into t values (?, ?, ?, ?)", (who, n, row, "x" * 900))
    if n % 5 == 0:
        c.execute("update t set text = text || 'y' where who = ? and n % 7 = 0", (who,))
    c.execute("commit")
    print(n, flush=True)
    # SQLite asks for a busy lock again and again, not in turn: without a pause one of two starves,
    # on any file system.
    time.sleep(0.03)
"#;

const CREATE: &str = r#"
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], timeout=120, isolation_level=None)
assert c.execute("pragma journal_mode=" + sys.argv[2]).fetchone() == (sys.argv[2],)
c.execute("create table t (who, n, row, text)")
"#;

const CHECK: &str = r#"
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], timeout=120)
print(c.execute("pragma integrity_check").fetchone()[0])
torn = c.execute("select count(*) from (select n from t group by who, n having count(*) != 10)").fetchone()[0]
last = [c.execute("select coalesce(max(n), 0) from t where who = ?", (who,)).fetchone()[0] for who in range(2)]
print(torn, *last)
"#;

/// A process that writes, and the last transaction that it said to be committed.
struct Writer {
    process: Child,
    committed: std::sync::Arc<AtomicI64>,
}

impl Writer {
    fn start(base: &Path, mode: &str, who: usize) -> Self {
        let mut process = Command::new("python3")
            .args(["-c", WRITER])
            .arg(base)
            .args([mode, &who.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let committed = std::sync::Arc::new(AtomicI64::new(0));
        let told = committed.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                told.store(line.parse().unwrap(), Ordering::SeqCst);
            }
        });
        Self { process, committed }
    }

    fn last(&self) -> i64 {
        self.committed.load(Ordering::SeqCst)
    }

    fn end(mut self) -> i64 {
        let _ = self.process.kill();
        self.process.wait().unwrap();
        self.last()
    }
}

/// Writers on some mounts, a strike in mid-transaction, and a look at what is left.
fn sqlite_survives(mode: &str, writers_on: &[usize], strike: impl Fn(&Cluster)) {
    let cluster = Cluster::with_mounts(2);
    let base = |mount: usize| -> PathBuf { cluster.mount(mount).join(format!("base-{mode}")) };
    let rounds = rounds(1);
    run(Command::new("python3")
        .args(["-c", CREATE])
        .arg(base(1))
        .arg(mode));
    for round in 0..rounds {
        let writers: Vec<Writer> = writers_on
            .iter()
            .enumerate()
            .map(|(who, mount)| Writer::start(&base(*mount), mode, who))
            .collect();
        dfs_testkit::eventually("all writers write", RETURN, || {
            writers.iter().all(|w| w.last() > 3)
        });
        std::thread::sleep(Duration::from_millis(100 + 37 * round as u64 % 400));
        strike(&cluster);
        let committed: Vec<i64> = writers.into_iter().map(Writer::end).collect();
        cluster.wait_healthy(RETURN);
        // Through the mount that was struck, or not: WAL is for the processes of one host.
        let checked = if mode == "wal" { 1 } else { 2 };
        let text = run(Command::new("python3")
            .args(["-c", CHECK])
            .arg(base(checked)));
        let (integrity, numbers) = text.trim().split_once('\n').unwrap();
        assert_eq!(integrity, "ok", "round {round}");
        let numbers: Vec<i64> = numbers.split(' ').map(|n| n.parse().unwrap()).collect();
        assert_eq!(numbers[0], 0, "round {round}: parts of transactions");
        for (who, last) in committed.iter().enumerate() {
            let seen = numbers[1 + who];
            assert!(
                seen >= *last,
                "round {round}: {seen} is there, {last} was committed"
            );
        }
    }
    println!("{mode}: {rounds} rounds");
}

fn kill_mount(cluster: &Cluster) {
    cluster.node("kill", "mount-1");
    cluster.node("start", "mount-1");
}

fn kill_servers(cluster: &Cluster) {
    for node in SERVERS {
        cluster.node("kill", node);
    }
    for node in SERVERS {
        cluster.node("start", node);
    }
}

#[test]
fn sqlite_survives_the_death_of_its_mount() {
    sqlite_survives("delete", &[1, 2], kill_mount);
    sqlite_survives("wal", &[1, 1], kill_mount);
}

#[test]
fn sqlite_survives_the_death_of_all_servers() {
    sqlite_survives("delete", &[1, 2], kill_servers);
    sqlite_survives("wal", &[1, 1], kill_servers);
}
