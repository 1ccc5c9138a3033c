//! The same processes on a local file system and on a cluster, and the locks that each says are
//! held.

use super::agent::Agent;
use super::calls::{Act, Call};
use dfs_testkit::cluster;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a cluster may take to come to what a local file system has at once.
const DEADLINE: Duration = Duration::from_secs(20);

/// What a call led to.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Seen {
    /// Calls that ended with it, by process: the call itself, and waits of others.
    pub(super) ended: BTreeMap<usize, String>,
    /// Processes that wait.
    pub(super) waiting: BTreeSet<usize>,
    /// All locks that are held, in order, as `KIND exclusive|shared FIRST LAST`.
    pub(super) locks: Vec<String>,
}

/// Who knows the locks of the file, held and waited for.
pub(super) trait Locks {
    fn held_and_waits(&self) -> (Vec<String>, usize);
}

pub(super) struct Local {
    inode: String,
}

impl Local {
    pub(super) fn new(path: &Path) -> Self {
        let inode = std::fs::metadata(path).unwrap().ino();
        Self {
            inode: format!(":{inode}"),
        }
    }
}

impl Locks for Local {
    fn held_and_waits(&self) -> (Vec<String>, usize) {
        // `1: POSIX ADVISORY WRITE PID MAJOR:MINOR:INODE FIRST LAST`, `1: -> POSIX ...`
        let text = std::fs::read_to_string("/proc/locks").unwrap();
        let mut held = Vec::new();
        let mut waits = 0;
        for line in text.lines() {
            let mut words: Vec<&str> = line.split_whitespace().skip(1).collect();
            let waiting = words.first() == Some(&"->");
            if waiting {
                words.remove(0);
            }
            let [space, _, kind, _, file, first, last] = words[..] else {
                panic!("/proc/locks says: {line}");
            };
            if !file.ends_with(&self.inode) {
                continue;
            }
            if waiting {
                waits += 1;
                continue;
            }
            let space = match space {
                "FLOCK" => "flock",
                "POSIX" => "posix",
                "OFDLCK" => "ofd",
                other => panic!("a lock of kind {other}"),
            };
            let kind = if kind == "WRITE" {
                "exclusive"
            } else {
                "shared"
            };
            held.push(format!("{space} {kind} {first} {last}"));
        }
        held.sort();
        (held, waits)
    }
}

pub(super) struct Cluster<'a> {
    cluster: &'a cluster::Cluster,
    inode: u64,
}

impl<'a> Cluster<'a> {
    pub(super) fn new(cluster: &'a cluster::Cluster, path: &Path) -> Self {
        std::fs::write(path, "").unwrap();
        let inode = std::fs::metadata(path).unwrap().ino();
        Self { cluster, inode }
    }
}

impl Locks for Cluster<'_> {
    fn held_and_waits(&self) -> (Vec<String>, usize) {
        let locks = self.cluster.ask("locks");
        let of_file = locks.as_array().unwrap().iter();
        let (waits, held): (Vec<_>, Vec<_>) = of_file
            .filter(|lock| lock["inode"] == self.inode)
            .partition(|lock| lock["waiting"] == true);
        let mut held: Vec<String> = held
            .iter()
            .map(|lock| {
                let last = match lock["last"].as_u64().unwrap() {
                    u64::MAX => "EOF".to_owned(),
                    last => last.to_string(),
                };
                let word = |name: &str| lock[name].as_str().unwrap().to_owned();
                let (space, kind, first) = (word("space"), word("kind"), &lock["start"]);
                format!("{space} {kind} {first} {last}")
            })
            .collect();
        held.sort();
        (held, waits.len())
    }
}

/// The processes.
pub(super) struct Host<L> {
    locks: L,
    paths: Vec<PathBuf>,
    agents: Vec<Agent>,
    /// Calls that have no answer yet.
    open: BTreeSet<usize>,
}

impl<L: Locks> Host<L> {
    /// One process for each path, which all name the same file.
    pub(super) fn new(locks: L, paths: &[PathBuf]) -> Self {
        Self {
            locks,
            paths: paths.to_vec(),
            agents: paths.iter().map(|path| Agent::new(path)).collect(),
            open: BTreeSet::new(),
        }
    }

    fn begin(&mut self, call: Call) -> Seen {
        let mut seen = Seen::default();
        let agent = &mut self.agents[call.agent];
        match call.act {
            Act::Kill => {
                *agent = Agent::new(&self.paths[call.agent]);
                self.open.remove(&call.agent);
                seen.ended.insert(call.agent, "killed".to_owned());
            }
            Act::EndChild => {
                agent.end_child();
                seen.ended.insert(call.agent, "ended".to_owned());
                if self.open.contains(&call.agent) {
                    seen.ended.clear();
                }
            }
            act => {
                agent.tell(&act.to_string());
                self.open.insert(call.agent);
            }
        }
        seen
    }

    fn look(&mut self, seen: &mut Seen) {
        for agent in self.open.clone() {
            if let Some(answer) = self.agents[agent].answer() {
                self.open.remove(&agent);
                seen.ended.insert(agent, answer);
            }
        }
        seen.waiting = self.open.clone();
    }

    /// On a local file system: a call has its effect at once, so that whoever is asleep in a lock
    /// call after it waits.
    pub(super) fn run(&mut self, call: Call) -> Seen {
        let mut seen = self.begin(call);
        let start = Instant::now();
        loop {
            let settled = (self.open.iter()).all(|agent| self.agents[*agent].is_in_lock_call());
            self.look(&mut seen);
            if settled {
                break;
            }
            assert!(start.elapsed() < DEADLINE, "{call:?} does not end locally");
            std::thread::sleep(Duration::from_micros(100));
        }
        let (locks, waits) = self.locks.held_and_waits();
        assert_eq!(waits, seen.waiting.len(), "{call:?}: waits");
        seen.locks = locks;
        seen
    }

    /// On a cluster: it must come to the same. No other answer than the expected one ever.
    pub(super) fn run_until(&mut self, call: Call, expected: &Seen) -> Result<(), String> {
        let mut seen = self.begin(call);
        let start = Instant::now();
        let mut waits = 0;
        loop {
            self.look(&mut seen);
            let wrong = (seen.ended.iter())
                .any(|(agent, answer)| expected.ended.get(agent) != Some(answer));
            if !wrong && seen.ended == expected.ended {
                (seen.locks, waits) = self.locks.held_and_waits();
                if seen == *expected && waits == expected.waiting.len() {
                    return Ok(());
                }
            }
            if wrong || start.elapsed() > DEADLINE {
                return Err(format!(
                    "after {:?}, with {waits} waits, it is\n{seen:?}",
                    start.elapsed()
                ));
            }
            std::thread::sleep(Duration::from_micros(500));
        }
    }
}
