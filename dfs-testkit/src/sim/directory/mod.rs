//! The directory: its real state machine and lease table in one process that never fails, with
//! a plain loop around them that does what the real leader's tasks do. A change is in the log
//! when it is decided.
//!
//! | module | part |
//! | --- | --- |
//! | `registry` | who is there: connections, signs of life |
//! | `drive` | carrying epochs out: adopt, equalise, effective |
//! | `sessions` | mounts: their lives, leases and recalls, the fence at a session's end |

mod drive;
mod registry;
mod sessions;

use super::message::{Answer, Ask, Called, Node, Process, Then, Timer, Told};
use super::schedule::{Schedule, error};
use super::shape::Shape;
use dfs_directory::namespace::{Format, NamespaceCommand};
use dfs_directory::placement::transition::{self, Event as Change};
use dfs_directory::placement::{self, Placed, PlacementCommand, PlacementOutcome};
use dfs_directory::session::{SessionCommand, SessionOutcome};
use dfs_directory::state::memory::MemoryTables;
use dfs_directory::state::{self, Command, Outcome};
use dfs_proto::attr::Timestamp;
use dfs_proto::cluster::{ClusterMap, GroupConfig};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{ClusterId, Epoch, GroupId, Incarnation, NodeId, ServerRun};
use dfs_proto::msg::registry::DataDirPast;
use dfs_proto::timing::RETURN_WAIT;
use drive::Drive;
use registry::Registry;
pub(crate) use sessions::CACHE_RIGHT;
use sessions::Sessions;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// Silence, waits and retries are looked at this often.
const TICK: Duration = Duration::from_millis(20);

/// The first members are given out when nobody new has come for this long.
const PLACE_AFTER: Duration = Duration::from_millis(100);

/// Preferred primaries lead again after this long without a change.
const QUIET: Duration = Duration::from_millis(1_500);

/// How long the directory waits for a mount.
const MOUNT_DEADLINE: Duration = Duration::from_millis(300);

#[derive(Debug)]
pub(crate) struct Directory {
    process: Process,
    tables: MemoryTables,
    pub(crate) placed: Placed,
    pub(crate) map: Rc<ClusterMap>,
    registry: Registry,
    drive: Drive,
    sessions: Sessions,
    pending: Vec<(GroupId, Change)>,
    returns: BTreeMap<GroupId, Duration>,
    /// The last change of groups.
    changed: Duration,
}

impl Directory {
    pub(crate) fn start(s: &mut Schedule, format: Format) -> Self {
        let process = s.start(Node::Directory);
        s.timer(process, TICK, Timer::Tick);
        let mut new = Self {
            process,
            tables: MemoryTables::default(),
            placed: Placed::default(),
            map: Rc::default(),
            registry: Registry::new(s.directory_now()),
            drive: Drive::default(),
            sessions: Sessions::default(),
            pending: Vec::new(),
            returns: BTreeMap::new(),
            changed: s.directory_now(),
        };
        new.commit(
            s,
            state::Change::Namespace(NamespaceCommand::Format(format)),
        );
        new.reload(s);
        new
    }

    /// What a cluster of the simulation is formatted with.
    pub(crate) fn format(shape: &Shape) -> Format {
        Format {
            groups: shape.groups,
            replicas: shape.replicas,
            min_in_sync: shape.min_in_sync,
            chunk_bytes: 4096,
            ..Format::defaults(ClusterId(1))
        }
    }

    /// Executes one command of the log.
    fn commit(&mut self, s: &mut Schedule, change: state::Change) -> Option<Outcome> {
        let now = Timestamp {
            seconds: s.directory_now().as_secs() as i64,
            nanoseconds: s.directory_now().subsec_nanos(),
        };
        match state::apply(&mut self.tables, &Command { now, change }) {
            Ok(outcome) => Some(outcome),
            Err(failed) => {
                s.violate(format!("the state machine failed: {failed}"));
                None
            }
        }
    }

    fn reload(&mut self, s: &mut Schedule) {
        match Placed::load(&self.tables) {
            Ok(placed) => self.placed = placed,
            Err(failed) => s.violate(format!("the state cannot be read: {failed}")),
        }
    }

    fn commit_placement(&mut self, s: &mut Schedule, command: PlacementCommand) {
        self.commit(s, state::Change::Placement(command));
        self.reload(s);
    }

    fn commit_session(
        &mut self,
        s: &mut Schedule,
        command: SessionCommand,
    ) -> Option<SessionOutcome> {
        let outcome = self.commit(s, state::Change::Session(command));
        self.reload(s);
        match outcome {
            Some(Outcome::Session(outcome)) => Some(outcome),
            _ => None,
        }
    }

    pub(crate) fn requested(&mut self, s: &mut Schedule, call: u64, from: Process, ask: Ask) {
        let answer: Answer = match ask {
            Ask::Register {
                incarnation,
                past,
                epochs,
            } => self.register(s, from, incarnation, past, epochs),
            Ask::Alive(run) => match self.registry.heard(run, from, s.directory_now()) {
                true => Ok(Told::Done),
                false => Err(error(ErrorCode::NotRegistered)),
            },
            Ask::Suspect { suspect, groups } => {
                for (group, epoch) in groups {
                    self.suspect(group, epoch, suspect);
                }
                Ok(Told::Done)
            }
            Ask::Propose {
                from,
                group,
                epoch,
                joined,
            } => {
                let proposal = Change::Propose {
                    from,
                    epoch,
                    joined,
                };
                self.pending.push((group, proposal));
                Ok(Told::Done)
            }
            Ask::Map => Ok(Told::Map(self.map.clone())),
            Ask::OpenSession(incarnation) => self.open_session(s, from, incarnation),
            Ask::Beat(session) => self.beaten(session, s.directory_now()),
            Ask::Lease {
                session,
                inode,
                kind,
            } => return self.lease(s, call, session, inode, kind),
            Ask::Chunk { .. } | Ask::MapChanged(_) | Ask::Recall { .. } => {
                Err(error(ErrorCode::UnknownMethod))
            }
        };
        s.answer(self.process, call, answer);
        self.step(s);
    }

    pub(crate) fn answered(&mut self, s: &mut Schedule, then: Then, answer: Answer) {
        match then {
            Then::Adopted(called) => {
                let suspects = self
                    .drive
                    .adopted(&self.placed, &called, answer, s.directory_now());
                self.found(s, &called, suspects);
            }
            Then::Equalised(called) => {
                let suspects = self.drive.equalised(&called, answer, s.directory_now());
                self.found(s, &called, (suspects, false));
            }
            Then::Informed(called) => self.drive.informed(&called, &answer, s.directory_now()),
            Then::Fenced(run, sessions) => self.fence_answered(s, run, &sessions, answer),
            Then::Recalled(session, inode, grant) => {
                self.recall_answered(s, session, inode, grant, answer);
            }
            _ => {}
        }
        self.step(s);
    }

    pub(crate) fn woken(&mut self, s: &mut Schedule, timer: Timer) {
        if let Timer::Tick = timer {
            s.timer(self.process, TICK, Timer::Tick);
            self.step(s);
        }
    }

    /// A file server whose connection has ended counts as gone.
    pub(crate) fn closed(&mut self, s: &mut Schedule, peer: Process) {
        self.registry.closed(peer);
        self.step(s);
    }

    fn register(
        &mut self,
        s: &mut Schedule,
        from: Process,
        incarnation: Incarnation,
        past: DataDirPast,
        epochs: Vec<(GroupId, Epoch)>,
    ) -> Answer {
        let Node::Server(place) = from.node else {
            return Err(error(ErrorCode::InvalidArgument));
        };
        let command = PlacementCommand::RegisterServer {
            node: NodeId(place as u128 + 1),
            incarnation,
            address: format!("place {place}"),
            past,
            epochs,
        };
        // Its connection may be over by the time that the directory reads from it.
        if !s.is_alive(from) {
            return Err(error(ErrorCode::Disconnected));
        }
        let outcome = self.commit(s, state::Change::Placement(command));
        self.reload(s);
        let Some(Outcome::Placement(PlacementOutcome::Registered { server, .. })) = outcome else {
            return Err(error(ErrorCode::Internal));
        };
        s.places.insert(server, place);
        let run = ServerRun {
            server,
            incarnation,
        };
        s.trace(|| format!("directory: {run} registered from place {place}"));
        self.registry.add(run, from, s.directory_now());
        Ok(Told::Registered(server))
    }

    /// A suspicion counts for the epoch in which it arose.
    fn suspect(&mut self, group: GroupId, epoch: Epoch, run: ServerRun) {
        let present = self.placed.groups.get(&group);
        if present.is_some_and(|record| record.config.epoch == epoch) {
            self.pending.push((group, Change::Suspect(run)));
        }
    }

    fn found(
        &mut self,
        s: &Schedule,
        called: &Called,
        (suspects, unable): (Vec<(GroupId, Epoch, ServerRun)>, bool),
    ) {
        for (group, epoch, run) in suspects {
            self.suspect(group, epoch, run);
        }
        if unable {
            self.registry.withhold(called.run.server, s.directory_now());
        }
    }

    /// A run that does not acknowledge what it must leaves its groups.
    fn expel(&mut self, now: Duration, run: ServerRun) {
        self.registry.withhold(run.server, now);
        for (group, record) in &self.placed.groups {
            if record.config.in_sync().any(|member| member == run) {
                self.pending.push((*group, Change::Expel(run)));
            }
        }
    }

    /// Decides, logs, and carries out what is logged.
    fn step(&mut self, s: &mut Schedule) {
        let gone = self.registry.gone(&self.placed, s.directory_now());
        let servers = self
            .registry
            .servers(&self.placed, &gone, s.directory_now());
        let mut events = std::mem::take(&mut self.pending);
        events.extend(self.over(&servers, s.directory_now()));
        if s.directory_now() > self.changed + QUIET {
            let all = self.placed.groups.keys();
            events.extend(all.map(|group| (*group, Change::Rebalance)));
            self.changed = s.directory_now();
        }
        let mut groups = placement::plan(&self.placed, &events, &servers);
        if self.placed.groups.is_empty() {
            groups = self.first_epochs(s.directory_now());
        }
        if !gone.is_empty() || !groups.is_empty() {
            self.changed = s.directory_now();
            for run in &gone {
                s.trace(|| format!("directory: {run} is gone"));
            }
            for (_, config) in &groups {
                s.trace(|| format!("directory: {config:?}"));
            }
            self.commit_placement(s, PlacementCommand::Change { gone, groups });
        }
        let effective = self
            .drive
            .step(s, self.process, &self.placed, &self.registry);
        if !effective.is_empty() {
            s.trace(|| format!("directory: effective {effective:?}"));
            self.commit_placement(s, PlacementCommand::Effective { groups: effective });
            self.drive
                .step(s, self.process, &self.placed, &self.registry);
        }
        self.publish(s);
        self.step_sessions(s);
    }

    fn over(&mut self, servers: &transition::Servers, now: Duration) -> Vec<(GroupId, Change)> {
        let mut over = Vec::new();
        for (group, record) in &self.placed.groups {
            match transition::awaited(record, servers) {
                Some(awaited) if !awaited.back.is_empty() => {
                    let until = *self.returns.entry(*group).or_insert(now + RETURN_WAIT);
                    if now >= until {
                        over.push((*group, Change::ReturnWaitOver));
                    }
                }
                _ => {
                    self.returns.remove(group);
                }
            }
        }
        over
    }

    fn first_epochs(&self, now: Duration) -> Vec<(Epoch, GroupConfig)> {
        let Some(format) = &self.placed.format else {
            return Vec::new();
        };
        if now < self.registry.last_came() + PLACE_AFTER {
            return Vec::new();
        }
        let runs: Vec<ServerRun> = self.registry.runs().collect();
        let first = placement::first_epochs(format, &runs).unwrap_or_default();
        first.into_iter().map(|config| (Epoch(0), config)).collect()
    }

    /// Mounts are told of a new map.
    fn publish(&mut self, s: &mut Schedule) {
        if self.map.version == self.placed.map_version && !self.map.groups.is_empty() {
            return;
        }
        self.map = Rc::new(self.placed.cluster_map());
        for mount in self.sessions.mounts() {
            let ask = Ask::MapChanged(self.map.clone());
            s.call(self.process, mount, ask, MOUNT_DEADLINE, Then::Nothing);
        }
    }
}
