//! A file server: the replica core with a simulated disk and network around it. What is here is
//! what the real server's service does besides: carry requests, disk work and answers, register,
//! give signs of life.
//!
//! | module | part |
//! | --- | --- |
//! | `requests` | what comes in: requests, answers, timers |
//! | `driver` | the core's events and actions; what the server asks of itself |

mod driver;
mod requests;

use crate::sim::Around;
use crate::sim::disk::Disk;
use crate::sim::invariants::{Admission, Seen};
use crate::sim::message::{Node, Process, Timer};
use crate::sim::schedule::Schedule;
use dfs_directory::placement::Placed;
use dfs_proto::ids::{Epoch, GroupId, Incarnation, ServerId, ServerRun};
use dfs_proto::msg::registry::{DataDirPast, Space};
use dfs_proto::timing::SERVER_HEARTBEAT;
use dfs_server::replica::{Caller, DiskOp, ReplicaCore, Token};
use dfs_server::service::told_and_kept;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Time of the core's tick.
const TICK: Duration = Duration::from_millis(100);

/// As every server tells it.
const SPACE: Space = Space {
    total_bytes: 1 << 40,
    free_bytes: 1 << 39,
    chunks: 0,
};

/// Everything held is read and verified this often.
const PATROL: Duration = Duration::from_millis(300);

/// An orderly stop waits so long for what is in progress.
const STOP_PATIENCE: Duration = Duration::from_millis(500);

/// How often, of a thousand, what a killed process was writing is there in part.
const TORN: u64 = 300;

/// How long the server waits for the directory.
const DIRECTORY_DEADLINE: Duration = Duration::from_millis(500);

/// A request that the core has not answered.
#[derive(Debug)]
struct Asked {
    call: u64,
    from: Process,
    admission: Admission,
}

/// A machine with a disk, and the process on it.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) place: usize,
    pub(crate) disk: Disk,
    process: Option<Process>,
    core: Option<ReplicaCore>,
    me: Incarnation,
    /// As the directory numbered it.
    id: Option<ServerId>,
    /// What this run tells of the earlier ones that used the disk, and what the disk keeps for the
    /// next one.
    told: DataDirPast,
    kept: DataDirPast,
    /// The last stop was orderly, as the disk says.
    clean: bool,
    /// Changes that the disk has not begun.
    waiting: BTreeMap<Token, DiskOp>,
    registered: bool,
    asked: BTreeMap<Caller, Asked>,
    callers: u64,
    /// Reads that the server asks of itself.
    patrols: BTreeSet<Caller>,
    /// Groups of which un-synced data were lost, and in which it was not in-sync since.
    pub(crate) lost: BTreeSet<GroupId>,
    /// An orderly stop has begun: until when it waits for what is in progress.
    stopping: Option<Duration>,
}

impl Server {
    pub(crate) fn new(place: usize) -> Self {
        Self {
            place,
            disk: Disk::default(),
            process: None,
            core: None,
            me: Incarnation::default(),
            id: None,
            told: DataDirPast::default(),
            kept: DataDirPast::default(),
            clean: true,
            waiting: BTreeMap::new(),
            registered: false,
            asked: BTreeMap::new(),
            callers: 0,
            patrols: BTreeSet::new(),
            lost: BTreeSet::new(),
            stopping: None,
        }
    }

    /// The run that lives here.
    pub(crate) fn run(&self) -> Option<ServerRun> {
        self.process?;
        Some(ServerRun {
            server: self.id?,
            incarnation: self.me,
        })
    }

    /// The last run that the directory knows to have used the disk.
    pub(crate) fn last_run(&self) -> Option<ServerRun> {
        Some(ServerRun {
            server: self.id?,
            incarnation: self.me,
        })
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    pub(crate) fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Why its disk is of no use any more, as its signs of life tell it.
    fn failure(&self) -> String {
        match self.disk.trouble.failed {
            true => "it has failed".into(),
            false => String::new(),
        }
    }

    fn adopted(&self) -> Vec<(GroupId, Epoch)> {
        let configs = self.disk.configs().into_iter();
        configs.map(|config| (config.group, config.epoch)).collect()
    }

    /// Whether copies of a group here are not what the group was told that they are.
    pub(crate) fn is_poor(&self, group: GroupId) -> bool {
        let mut damaged = self.disk.damaged().into_iter();
        self.lost.contains(&group)
            || self.disk.trouble.is_failing()
            || damaged.any(|(of, _)| of == group)
    }

    pub(crate) fn seen(&self) -> Seen<'_> {
        Seen {
            place: self.place,
            run: self.run(),
            disk: &self.disk,
        }
    }

    /// A process begins, with what the disk has. `plant` may break a rule of its core.
    pub(crate) fn start(&mut self, s: &mut Schedule, plant: fn(&mut ReplicaCore)) {
        let process = s.start(Node::Server(self.place));
        let me = s.incarnation(process);
        let mut core = ReplicaCore::new(me, self.disk.configs(), self.disk.fenced());
        plant(&mut core);
        self.core = Some(core);
        self.disk.late_cuts = s.around == Around::LateCuts;
        self.disk.keeps_witness = s.around == Around::WitnessBelieved;
        self.me = me;
        self.look_back(s);
        self.process = Some(process);
        self.registered = false;
        s.trace(|| format!("server {} starts as {me:?}", self.place));
        s.timer(process, Duration::ZERO, Timer::Register);
        s.own_timer(process, TICK, Timer::Tick);
        s.own_timer(process, SERVER_HEARTBEAT, Timer::Beat);
        s.own_timer(process, PATROL, Timer::Patrol);
    }

    /// What the new run says about the one before it, by the product's rules.
    fn look_back(&mut self, s: &mut Schedule) {
        let clean = std::mem::take(&mut self.clean);
        let proven = self.disk.is_proven(s.around == Around::WitnessBelieved);
        if !clean && proven {
            s.kept += 1;
        }
        let kept = std::mem::take(&mut self.kept);
        (self.told, self.kept) = told_and_kept(kept, self.me, clean || proven);
        s.trace(|| {
            let place = self.place;
            format!("server {place} stopped orderly: {clean}, lost nothing: {proven}")
        });
    }

    /// An orderly stop begins: nothing new is taken, what is in progress ends.
    pub(crate) fn stop(&mut self, s: &mut Schedule) {
        if let Some(process) = self.process {
            s.trace(|| format!("server {} stops", self.place));
            self.stopping = Some(s.now + STOP_PATIENCE);
            s.timer(process, Duration::ZERO, Timer::Stop);
        }
    }

    fn stop_goes_on(&mut self, s: &mut Schedule, process: Process, until: Duration) {
        let idle = self.core.as_ref().is_none_or(ReplicaCore::is_idle);
        if !idle && s.now < until {
            return s.timer(process, Duration::from_millis(5), Timer::Stop);
        }
        let clean = !self.disk.trouble.failed;
        self.end(s);
        if clean {
            self.disk.sync_all();
            self.clean = true;
        }
    }

    /// The process is killed. What it had written is in the kernel; what it is writing may be
    /// there in part, if `tears`.
    pub(crate) fn kill(&mut self, s: &mut Schedule, tears: bool) {
        s.trace(|| format!("server {} is killed", self.place));
        let waiting = std::mem::take(&mut self.waiting);
        let failed = self.end(s);
        for op in waiting.into_values().filter(|_| tears && !failed) {
            if s.random.chance(TORN) {
                self.disk.tear(op, &mut s.random);
            }
        }
    }

    /// The machine loses its power, whether a process is there or not.
    pub(crate) fn lose_power(&mut self, s: &mut Schedule) {
        if self.is_up() {
            self.end(s);
        }
        self.lose_unsynced(s);
        if s.around == Around::CleanAfterPowerLoss {
            self.clean = true;
        }
    }

    fn lose_unsynced(&mut self, s: &mut Schedule) {
        let lost = self.disk.lose_power(&mut s.random);
        s.trace(|| format!("server {} loses power, of {lost:?}", self.place));
        self.lost.extend(lost);
    }

    /// The process is no more; says whether its disk had failed.
    fn end(&mut self, s: &mut Schedule) -> bool {
        self.process = None;
        self.core = None;
        self.stopping = None;
        self.asked.clear();
        self.patrols.clear();
        self.waiting.clear();
        s.kill(Node::Server(self.place));
        // What a disk did not take is gone as well, at the latest with the process.
        let failed = std::mem::take(&mut self.disk.trouble.failed);
        self.disk.trouble.sync_fails = false;
        self.disk.trouble.write_fails = false;
        match failed {
            true => self.lose_unsynced(s),
            false => self.disk.process_ends(),
        }
        failed
    }
}

/// What a server's step may look at to be checked: everything else.
#[derive(Debug)]
pub(crate) struct World<'a> {
    pub(crate) placed: &'a Placed,
    pub(crate) groups: u32,
    pub(crate) others: Vec<&'a Server>,
}
