//! The whole cluster in one thread: takes event after event, and ends with everything well or
//! with a violation.
//!
//! | module | part |
//! | --- | --- |
//! | `delivery` | who gets an event |
//! | `verdict` | what the whole is looked at for |

mod delivery;
mod verdict;

use crate::sim::chaos::Mood;
use crate::sim::client::Client;
use crate::sim::directory::Directory;
use crate::sim::message::Node;
use crate::sim::schedule::{Event, Schedule};
use crate::sim::server::Server;
use crate::sim::shape::Shape;
use crate::sim::{Options, Report, Violation};
use dfs_proto::ids::{Epoch, GroupId, MapVersion, ServerId};
use std::collections::BTreeMap;
use std::time::Duration;

/// After the last fault everything must be well within this.
const RECOVERY: Duration = Duration::from_secs(60);

/// A message that meets a cut link comes again (as a kernel sends again) or is lost.
const RESENT: u64 = 700;

#[derive(Debug)]
pub(crate) struct World {
    pub(in crate::sim) schedule: Schedule,
    pub(in crate::sim) directory: Directory,
    pub(in crate::sim) servers: Vec<Server>,
    pub(in crate::sim) clients: Vec<Client>,
    pub(in crate::sim) mood: Mood,
    pub(in crate::sim) shape: Shape,
    /// The map that was looked at last, and the epochs that served then.
    looked: MapVersion,
    serving: BTreeMap<GroupId, Epoch>,
    /// The in-sync servers of each group's last epoch that served.
    served: BTreeMap<GroupId, Vec<ServerId>>,
    /// Processes that will be started again.
    pub(in crate::sim) returns: Vec<(Duration, Node)>,
    /// The sum of all epochs when faults were taken back last.
    pub(in crate::sim) spared: u64,
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
            // The granter's margin covers the first two; of the third nothing depends.
            let most = match node {
                Node::Directory => 10_000,
                Node::Client(_) => 30_000,
                Node::Server(_) => 50_000,
            };
            schedule.clocks.add(&mut schedule.random, node, most, now);
        }
        schedule.trace(|| format!("{shape:?} {mood:?}"));
        let directory = Directory::start(&mut schedule, Directory::format(&shape));
        let mut servers: Vec<Server> = (0..shape.servers).map(Server::new).collect();
        for server in &mut servers {
            server.start(&mut schedule, options.plant);
        }
        let clients = 0..shape.clients;
        let mut clients: Vec<Client> = clients.map(Client::new).collect();
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
            spared: 0,
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
            self.spare_last_copies();
            self.look_at_epochs();
            self.look_at_cuts();
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
                kept: s.kept,
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
}
