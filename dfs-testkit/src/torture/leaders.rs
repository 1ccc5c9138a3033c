//! The directory's leader dies, is paused or cut off, or dies together with a file server and a
//! mount; or all members and servers are restarted in turn: the longest stall of a single call for each of these, many times.
//!
//! Meanwhile both mounts work: on files of their own, whose every answer is compared; in turn on
//! shared ones under flock; and on a few names and a lock that all fight for, whose history must
//! have an order in the end. A lock on each mount is held all the time.

use super::calls::Calls;
use super::faults::{WAYS, Way};
use super::files::Worker;
use super::machine::Third;
use super::names::{Fighter, Histories, Keeper};
use super::shared::{LastTurn, Sharer};
use super::table::Row;
use super::{Ending, MOUNTS, Result, SERVERS};
use crate::cluster::{Cluster, output};
use crate::random::Random;
use rustix::process::{Pid, Signal, kill_process};
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Members of the directory.
const MEMBERS: usize = 3;

/// All members vote, have the log, and all replicas are in-sync again within this.
const HEALED: Duration = Duration::from_secs(120);

/// Workers that fight for names, on each mount.
const FIGHTERS: usize = 2;

/// What to run.
#[derive(Clone, Debug)]
pub struct Leaders {
    pub seed: u64,
    pub kills: u64,
    pub pauses: u64,
    /// Of each direction.
    pub cuts: u64,
    /// Deaths of the leader, a file server and a mount at once.
    pub machines: u64,
    /// Restarts of all members and servers, one after the other.
    pub rolls: u64,
    pub pause: Duration,
    pub cut: Duration,
    /// Only the kinds whose name contains this.
    pub only: Option<String>,
    /// The longest stall that passes, at the 95th percentile.
    pub bound: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Kill,
    Pause,
    Cut(Way),
    Machine,
    Roll,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill -9 of the leader",
            Self::Pause => "pause of the leader",
            Self::Cut(Way::Both) => "cut of the leader, both ways",
            Self::Cut(Way::From) => "cut of the leader, from it",
            Self::Cut(Way::To) => "cut of the leader, to it",
            Self::Machine => "kill -9 of leader, server and mount at once",
            Self::Roll => "restart of all members and servers in turn",
        })
    }
}

/// Runs it and prints the table; an error if anything was wrong or a bound was missed.
pub fn leaders(run: &Leaders) -> Result<()> {
    let mut kinds = vec![(Kind::Kill, run.kills), (Kind::Pause, run.pauses)];
    kinds.extend(WAYS.map(|way| (Kind::Cut(way), run.cuts)));
    kinds.push((Kind::Machine, run.machines));
    kinds.push((Kind::Roll, run.rolls));
    let wanted = |kind: &Kind| {
        let name = kind.to_string();
        run.only.as_ref().is_none_or(|only| name.contains(only))
    };
    kinds.retain(|(kind, rounds)| wanted(kind) && *rounds > 0);
    let machines = kinds.iter().any(|(kind, _)| *kind == Kind::Machine);
    let cluster = cluster(machines);
    let judged = judge(&cluster, run, &kinds);
    if judged.is_err() {
        cluster.keep_logs();
    }
    judged
}

fn judge(cluster: &Cluster, run: &Leaders, kinds: &[(Kind, u64)]) -> Result<()> {
    let rows = under_load(cluster, run, kinds)?;
    Row::print_all(&rows, "all members and replicas whole after its end, s");
    for question in ["verify", "fsck"] {
        let answer = output(&mut cluster.ctl(&[question]));
        if !answer.status.success() {
            let told = String::from_utf8_lossy(&answer.stdout).into_owned();
            return Err(format!("dfsctl {question}: {told}"));
        }
    }
    Row::missed(&rows)
}

fn cluster(machines: bool) -> Cluster {
    let (members, servers) = (MEMBERS.to_string(), SERVERS.to_string());
    let mounts = (MOUNTS + usize::from(machines)).to_string();
    Cluster::up(&[
        "--isolated",
        "--directories",
        &members,
        "--mounts",
        &mounts,
        "--servers",
        &servers,
    ])
}

fn under_load(cluster: &Cluster, run: &Leaders, kinds: &[(Kind, u64)]) -> Result<Vec<Row>> {
    let calls = Calls::default();
    let histories = Histories::begin();
    let turns = LastTurn::default();
    let mounts: Vec<PathBuf> = (1..=MOUNTS).map(|n| cluster.mount(n)).collect();
    let fight = |mount: &PathBuf| mount.join("fight");
    std::fs::create_dir(fight(&mounts[0])).map_err(|e| format!("a dir to fight in: {e}"))?;
    let mut seeds = Random::new(run.seed);
    let rows = std::thread::scope(|scope| {
        let ending = Ending::of(cluster, &calls);
        let mut keepers = Vec::new();
        for mount in 0..MOUNTS {
            let both = (&mounts[mount], &mounts[(mount + 1) % MOUNTS]);
            let others = [both.1.clone()];
            let kept = Keeper::take(&format!("kept-{mount}"), both.0, &others);
            keepers.push(kept.map_err(|e| format!("a lock to keep: {e}"))?);
            let name = format!("worker-{}", mount + 1);
            let worker = Worker::new(&calls, seeds.next_number(), both, &name)?;
            scope.spawn(move || worker.run());
            let sharer = Sharer {
                calls: &calls,
                random: Random::new(seeds.next_number()),
                path: both.0.join("shared"),
                last: &turns,
            };
            scope.spawn(move || sharer.run());
            for number in 0..FIGHTERS {
                let fighter = Fighter {
                    calls: &calls,
                    histories: &histories,
                    random: Random::new(seeds.next_number()),
                    mount,
                    dir: fight(both.0),
                    number: mount * FIGHTERS + number,
                };
                scope.spawn(move || fighter.run());
            }
        }
        let mut rounds = Rounds {
            cluster,
            calls: &calls,
            run,
            keepers,
            random: seeds,
        };
        ending.went(rounds.all(kinds))
    })?;
    // What the workers found when they looked at everything.
    calls.check()?;
    println!("{} calls; {}", calls.count(), histories.check()?);
    println!("\n{calls}");
    Ok(rows)
}

struct Rounds<'a> {
    cluster: &'a Cluster,
    calls: &'a Calls,
    run: &'a Leaders,
    keepers: Vec<Keeper>,
    random: Random,
}

impl Rounds<'_> {
    fn all(&mut self, kinds: &[(Kind, u64)]) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        self.healed()?;
        for (kind, rounds) in kinds {
            let mut row = Row::new(kind.to_string(), "mixed", self.run.bound);
            for _ in 0..*rounds {
                self.one(*kind, &mut row)?;
            }
            rows.push(row);
        }
        Ok(rows)
    }

    fn one(&mut self, kind: Kind, row: &mut Row) -> Result<()> {
        self.pause(self.random.clone().micros(300_000, 1_500_000))?;
        self.random.next_number();
        let leader = self.cluster.present_leader().ok_or("nobody leads")?;
        let third = match kind {
            Kind::Machine => Some(Third::begin(self.cluster, self.random.next_number())?),
            _ => None,
        };
        self.calls.set_fault(Some(&row.name));
        self.calls.take_longest();
        let since = Instant::now();
        match kind {
            Kind::Kill => self.cluster.node("kill", &leader),
            Kind::Pause => self.cluster.node("pause", &leader),
            Kind::Cut(way) => {
                if way != Way::To {
                    self.cluster.cut(&leader, "all");
                }
                if way != Way::From {
                    self.cluster.cut("all", &leader);
                }
            }
            Kind::Machine => {}
            Kind::Roll => self.roll()?,
        }
        let mut ended = None;
        if let Some(third) = third {
            let server = format!("server-{}", 1 + self.random.below(SERVERS));
            kill_at_once(self.cluster, &[&leader, &server, third.node()])?;
            ended = Some((third.killed(), server));
        }
        let lasts = match kind {
            Kind::Pause => self.run.pause,
            Kind::Cut(_) => self.run.cut,
            // The others have elected by then.
            Kind::Kill | Kind::Machine => Duration::from_secs(4),
            Kind::Roll => Duration::ZERO,
        };
        self.pause(lasts.saturating_sub(since.elapsed()))?;
        match kind {
            Kind::Kill => self.cluster.node("start", &leader),
            Kind::Pause => self.cluster.node("resume", &leader),
            Kind::Cut(_) => self.cluster.heal(),
            Kind::Machine | Kind::Roll => {}
        }
        if let Some((dead, server)) = ended {
            // While they are dead: nothing acknowledged is on them alone.
            println!("{}", dead.check(&self.cluster.mount(1))?);
            for node in [&leader, &server] {
                self.cluster.node("start", node);
            }
            self.cluster.node("start", dead.node());
        }
        let healed = self.healed()?;
        for keeper in &self.keepers {
            keeper.check()?;
        }
        let stall = self.calls.take_longest();
        self.calls.set_fault(None);
        println!(
            "{}: {leader}, longest call {} ms, whole {:.1} s after its end",
            row.name,
            stall.as_millis(),
            healed.as_secs_f64()
        );
        row.stalls.push(stall);
        row.healed.push(healed);
        Ok(())
    }

    /// Stops and starts every member and every server, each when the last one is back.
    fn roll(&self) -> Result<()> {
        let members = (1..=MEMBERS).map(|n| format!("directory-{n}"));
        let servers = (1..=SERVERS).map(|n| format!("server-{n}"));
        for node in members.chain(servers) {
            self.cluster.node("stop", &node);
            self.cluster.node("start", &node);
            self.healed()?;
        }
        Ok(())
    }

    /// Waits, but not when something is wrong.
    fn pause(&self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        loop {
            self.calls.check()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    /// Waits for all members and replicas; returns how long that took.
    fn healed(&self) -> Result<Duration> {
        let began = Instant::now();
        while !self.cluster.has_members(MEMBERS) {
            if began.elapsed() > HEALED {
                return Err(format!("not all members are there after {HEALED:?}"));
            }
            self.pause(Duration::from_millis(50))?;
        }
        let members = began.elapsed();
        let replicas = super::in_sync_for_good(self.cluster, HEALED, |time| self.pause(time))?;
        Ok(members + replicas)
    }
}

/// SIGKILL to all of them, before any of them can notice that another one is gone.
fn kill_at_once(cluster: &Cluster, nodes: &[&str]) -> Result<()> {
    let number = |node: &&str| {
        i32::try_from(cluster.pid(node))
            .ok()
            .and_then(Pid::from_raw)
    };
    let pids: Vec<Pid> = nodes.iter().filter_map(number).collect();
    for pid in pids {
        kill_process(pid, Signal::KILL).map_err(|e| format!("{nodes:?}: {e}"))?;
    }
    Ok(())
}
