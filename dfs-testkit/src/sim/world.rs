//! The whole cluster in one thread: takes event after event, and ends with everything well or
//! with a violation.

use super::chaos::Mood;
use super::client::{self, Client};
use super::directory::Directory;
use super::invariants::{Seen, convergence};
use super::message::{Node, Process};
use super::schedule::{Event, Schedule};
use super::server::{self, Server};
use super::shape::Shape;
use super::{Options, Report, Violation};
use dfs_proto::cluster::Equalise;
use dfs_proto::ids::{ChunkIndex, ChunkKey, Epoch, GroupId, InodeId, MapVersion, ServerId};
use std::collections::BTreeMap;
use std::time::Duration;

/// After the last fault everything must be well within this.
const RECOVERY: Duration = Duration::from_secs(60);

/// A message that meets a cut link comes again (as a kernel sends again) or is lost.
const RESENT: u64 = 700;

#[derive(Debug)]
pub(crate) struct World {
    pub(super) schedule: Schedule,
    pub(super) directory: Directory,
    pub(super) servers: Vec<Server>,
    pub(super) clients: Vec<Client>,
    pub(super) mood: Mood,
    pub(super) shape: Shape,
    /// The map that was looked at last, and the epochs that served then.
    looked: MapVersion,
    serving: BTreeMap<GroupId, Epoch>,
    /// The in-sync servers of each group's last epoch that served.
    served: BTreeMap<GroupId, Vec<ServerId>>,
    /// Processes that will be started again.
    pub(super) returns: Vec<(Duration, Node)>,
    options: Options,
    healing: bool,
}

impl World {
    pub(crate) fn new(seed: u64, options: Options) -> Self {
        let mut schedule = Schedule::new(seed, &options);
        if options.clients_only {
            schedule.invariants.turn_off();
        }
        let shape = Shape::of(&mut schedule.random);
        let mood = Mood::of(&mut schedule.random);
        if mood.full_disks {
            // A copy of a write that was refused would be a new one: connections make no copies.
            schedule.net.weather.doubled = 0;
        }
        for node in shape.nodes() {
            let now = schedule.now;
            schedule.clocks.add(&mut schedule.random, node, now);
        }
        schedule.trace(|| format!("{shape:?} {mood:?}"));
        let directory = Directory::start(&mut schedule, Directory::format(&shape));
        let mut servers: Vec<Server> = (0..shape.servers).map(Server::new).collect();
        for server in &mut servers {
            server.start(&mut schedule, options.plant);
        }
        let clients = 0..shape.clients;
        let mut clients: Vec<Client> = clients.map(|at| Client::new(at, shape.groups)).collect();
        for client in &mut clients {
            client.start(&mut schedule);
        }
        schedule.push(Duration::from_millis(500), Event::Chaos);
        Self {
            schedule,
            directory,
            servers,
            clients,
            mood,
            shape,
            looked: MapVersion(0),
            serving: BTreeMap::new(),
            served: BTreeMap::new(),
            returns: Vec::new(),
            options,
            healing: false,
        }
    }

    /// Runs to the end.
    pub(crate) fn run(mut self) -> Result<Report, Violation> {
        let begin = self.schedule.now;
        let heal_at = begin + self.options.chaos;
        let end_at = heal_at + RECOVERY;
        while self.schedule.violation().is_none() {
            if !self.healing && self.schedule.now >= heal_at {
                self.heal();
            }
            if self.healing && self.is_well() {
                self.compare();
                break;
            }
            if self.schedule.now >= end_at {
                self.stuck();
                break;
            }
            self.revive();
            let Some(event) = self.schedule.pop() else {
                self.schedule.violate("nothing happens any more".into());
                break;
            };
            self.happen(event);
            self.look_at_epochs();
        }
        self.finish(begin)
    }

    fn finish(self, begin: Duration) -> Result<Report, Violation> {
        let s = self.schedule;
        match s.violation() {
            None => Ok(Report {
                digest: s.digest(),
                steps: s.steps,
                time: s.now - begin,
                reads: s.oracle.reads,
                writes: s.oracle.writes,
                cuts: s.oracle.cuts,
                syncs: s.oracle.syncs,
                losses: s.oracle.losses,
                epochs: self
                    .directory
                    .placed
                    .groups
                    .values()
                    .map(|r| r.config.epoch.0)
                    .sum(),
            }),
            Some(what) => Err(Violation {
                what: what.to_owned(),
                at: s.now - begin,
                trace: s.trace_lines(),
            }),
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Request {
                call,
                from,
                to,
                ask,
            } => {
                let event = Event::Request {
                    call,
                    from,
                    to,
                    ask,
                };
                let Some(Event::Request { ask, .. }) = self.passes(from.node, to, event) else {
                    return;
                };
                let s = &mut self.schedule;
                if !s.is_alive(to) {
                    return s.refuse_connection(call, from, to);
                }
                match to.node {
                    Node::Directory => self.directory.requested(s, call, from, ask),
                    Node::Client(at) => self.clients[at].requested(s, call, ask),
                    Node::Server(at) => self.with_server(at, |server, s, world| {
                        server.requested(s, call, from, ask, world);
                    }),
                }
            }
            Event::Answer { call, from, answer } => {
                let Some(caller) = self.schedule.caller(call) else {
                    return;
                };
                let event = Event::Answer { call, from, answer };
                let event = self.passes(from.node, caller, event);
                if let Some(Event::Answer { answer, .. }) = event {
                    self.answered(call, answer);
                }
            }
            Event::Fail { call, code } => {
                let Some(caller) = self.schedule.caller(call) else {
                    return;
                };
                let event = Event::Fail { call, code };
                if self.passes(caller.node, caller, event).is_some() {
                    self.answered(call, Err(code.into()));
                }
            }
            Event::Closed { at, peer } => {
                if self
                    .passes(at.node, at, Event::Closed { at, peer })
                    .is_none()
                {
                    return;
                }
                let s = &mut self.schedule;
                match at.node {
                    _ if !s.is_alive(at) => {}
                    Node::Directory => self.directory.closed(s, peer),
                    Node::Server(place) => self.servers[place].closed(s, peer),
                    Node::Client(_) => {}
                }
            }
            Event::Timer { at, timer } => {
                let event = Event::Timer { at, timer };
                let Some(Event::Timer { timer, .. }) = self.passes(at.node, at, event) else {
                    return;
                };
                let s = &mut self.schedule;
                match at.node {
                    _ if !s.is_alive(at) => {}
                    Node::Directory => self.directory.woken(s, timer),
                    Node::Client(place) => self.clients[place].woken(s, timer),
                    Node::Server(place) => self.with_server(place, |server, s, world| {
                        server.woken(s, timer, world);
                    }),
                }
            }
            Event::Chaos => {
                if !self.healing {
                    self.chaos();
                }
            }
            Event::Relieved(place, relief) => self.relieve(place, relief),
            Event::DiskReplaced(place) => self.replace_disk(place),
        }
    }

    /// The event, if it reaches `to` now. If not it is put off, or lost.
    fn passes(&mut self, from: Node, to: Process, event: Event) -> Option<Event> {
        let s = &mut self.schedule;
        if s.net.is_cut(from, to.node, s.now) {
            if s.random.chance(RESENT) {
                let delay = s.random.micros(20_000, 400_000);
                s.push(delay, event);
            }
            return None;
        }
        if let Some(until) = s.net.paused(to.node, s.now).filter(|_| s.is_alive(to)) {
            let delay = until - s.now;
            s.push(delay, event);
            return None;
        }
        Some(event)
    }

    fn answered(&mut self, call: u64, answer: super::message::Answer) {
        let Some((caller, then)) = self.schedule.end_call(call) else {
            return;
        };
        let s = &mut self.schedule;
        match caller.node {
            _ if !s.is_alive(caller) => {}
            Node::Directory => self.directory.answered(s, then, answer),
            Node::Client(at) => self.clients[at].answered(s, then, answer),
            Node::Server(at) => self.with_server(at, |server, s, world| {
                server.answered(s, then, answer, world);
            }),
        }
    }

    fn with_server(
        &mut self,
        at: usize,
        step: impl FnOnce(&mut Server, &mut Schedule, &server::World<'_>),
    ) {
        let (before, rest) = self.servers.split_at_mut(at);
        let Some((server, after)) = rest.split_first_mut() else {
            return;
        };
        let world = server::World {
            placed: &self.directory.placed,
            groups: self.shape.groups,
            others: before.iter().chain(after.iter()).collect(),
        };
        step(server, &mut self.schedule, &world);
        // Whoever is in-sync in an epoch that serves has everything again.
        if let Some(run) = server.run().filter(|_| !server.lost.is_empty()) {
            let groups = &self.directory.placed.groups;
            server.lost.retain(|group| {
                let record = groups.get(group).filter(|r| r.is_effective());
                !record.is_some_and(|r| r.config.in_sync().any(|member| member == run))
            });
        }
    }

    /// Checks epochs that serve from now on.
    fn look_at_epochs(&mut self) {
        let placed = &self.directory.placed;
        if placed.map_version == self.looked {
            return;
        }
        self.looked = placed.map_version;
        for (group, record) in placed.groups.iter().filter(|(_, r)| r.is_effective()) {
            let epoch = record.config.epoch;
            if self.serving.insert(*group, epoch) == Some(epoch) {
                continue;
            }
            if record.config.equalise == Equalise::Everything && self.may_have_lost(*group) {
                self.schedule
                    .trace(|| format!("{group} may have lost what was not synced"));
                let blocks = client::blocks_of(*group, self.shape.groups);
                self.schedule.oracle.lost(blocks);
                self.schedule.invariants.lost(*group);
            }
            let seen: Vec<Seen<'_>> = self.servers.iter().map(Server::seen).collect();
            let checked = self.schedule.invariants.serves(*group, record, &seen);
            self.schedule.check(checked);
        }
        for (group, record) in &placed.groups {
            let served = record.effective.as_ref();
            let served = served.map(|c| c.in_sync().map(|run| run.server).collect());
            if record.is_effective() {
                self.served.insert(*group, served.unwrap_or_default());
            }
        }
    }

    /// Whether none of the servers that served a group last and are there has everything.
    fn may_have_lost(&self, group: GroupId) -> bool {
        let placed = &self.directory.placed;
        let whole = |server: &Server| {
            let Some(run) = server.run().filter(|_| !server.is_poor(group)) else {
                return false;
            };
            let record = placed.servers.get(&run.server);
            let known = record.is_some_and(|r| r.alive && r.incarnation == run.incarnation);
            let served = self.served.get(&group);
            known && served.is_some_and(|served| served.contains(&run.server))
        };
        self.mood.blackouts && !self.servers.iter().any(whole)
    }

    fn revive(&mut self) {
        let now = self.schedule.now;
        let stopping = |node: &Node| match node {
            Node::Server(at) => self.servers[*at].is_stopping(),
            _ => false,
        };
        let (due, later) = std::mem::take(&mut self.returns)
            .into_iter()
            .partition(|(at, node)| *at <= now && !stopping(node));
        self.returns = later;
        let due: Vec<(Duration, Node)> = due;
        for (_, node) in due {
            match node {
                Node::Server(at) if !self.servers[at].is_up() => {
                    self.servers[at].start(&mut self.schedule, self.options.plant);
                }
                Node::Client(at) if !self.clients[at].is_up() => {
                    self.clients[at].start(&mut self.schedule);
                }
                _ => {}
            }
        }
    }

    /// All faults are over.
    fn heal(&mut self) {
        self.healing = true;
        let s = &mut self.schedule;
        s.trace(|| "--- everything is well from now on".into());
        s.net.heal();
        for (at, _) in &mut self.returns {
            *at = s.now;
        }
        for server in &mut self.servers {
            server.disk.trouble.full = false;
            server.disk.trouble.low = false;
            server.disk.trouble.slow = 1;
            server.disk.trouble.sync_fails = false;
            server.disk.trouble.write_fails = false;
            // Somebody replaces a disk that has failed.
            if server.disk.trouble.failed && server.is_up() {
                server.kill(s, false);
                self.returns.push((s.now, Node::Server(server.place)));
            }
        }
        for client in &mut self.clients {
            client.close();
        }
    }

    fn seen(&self) -> Vec<Seen<'_>> {
        self.servers.iter().map(Server::seen).collect()
    }

    fn is_well(&self) -> bool {
        self.clients.iter().all(Client::is_done)
            && convergence::missing(&self.directory.placed, &self.seen()).is_ok()
    }

    /// All is quiet: all replicas hold the same, and what clients may see.
    fn compare(&mut self) {
        let mut checked = Ok(());
        if !self.options.clients_only {
            checked = convergence::equal(&self.directory.placed, &self.seen());
        }
        self.schedule.check(checked);
        for inode in (1..=client::INODES).map(InodeId) {
            for block in 0..client::CHUNKS * client::BLOCKS {
                let key = ChunkKey {
                    inode,
                    index: ChunkIndex(block / client::BLOCKS),
                };
                let at = (block % client::BLOCKS) as usize * client::BLOCK;
                let group = client::layout(inode, self.shape.groups).group_of(key.index);
                let record = self.directory.placed.groups.get(&group);
                let primary = record.and_then(|r| r.config.primary);
                let place = primary.and_then(|server| self.schedule.places.get(&server));
                let stored = place.and_then(|at| self.servers[*at].disk.stored(key));
                let bytes = stored.and_then(|stored| stored.bytes.get(at..at + client::BLOCK));
                let value = bytes
                    .and_then(|b| b.try_into().ok())
                    .map_or(0, u64::from_le_bytes);
                self.schedule.note(value);
                let checked = self.schedule.oracle.read((inode, block), value);
                self.schedule.check(checked);
            }
        }
    }

    fn stuck(&mut self) {
        let clients: Vec<String> = self.clients.iter().map(Client::describe).collect();
        let missing = convergence::missing(&self.directory.placed, &self.seen());
        self.schedule.violate(format!(
            "not well {RECOVERY:?} after the last fault: {missing:?}\n{}",
            clients.join("\n")
        ));
    }
}
