//! A directory whose log never fails, and file servers that adopt, equalise and propose at once.

use crate::governor::{Action, Answer, Call, Called, Event, Governor, LinkId, Pace, Reply, Ticket};
use crate::namespace::{Format, NamespaceCommand};
use crate::placement::{Placed, PlacementCommand};
use crate::state::memory::MemoryTables;
use crate::state::{self, Change, Command, Outcome};
use dfs_proto::attr::Timestamp;
use dfs_proto::cluster::GroupConfig;
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::{ClusterId, Epoch, GroupId, Incarnation, NodeId, ServerId, ServerRun};
use dfs_proto::msg::control::{EpochsAdopted, GroupsEqualised, GroupsReleased};
use dfs_proto::msg::registry::{
    DataDirPast, ProposeInSync, RegisterServer, RepairWork, ReportSuspect, ServerHeartbeat, Space,
};
use dfs_proto::timing::SERVER_HEARTBEAT;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// One run of a file server.
#[derive(Debug)]
pub(super) struct Played {
    pub(super) run: ServerRun,
    link: LinkId,
    pub(super) configs: BTreeMap<GroupId, GroupConfig>,
    pub(super) told: BTreeMap<GroupId, Epoch>,
    pub(super) released: Vec<(GroupId, Epoch)>,
    beats: Duration,
    /// Gives signs of life, but leaves calls unanswered.
    pub(super) deaf: bool,
    /// Does not say that joining members are up to date.
    pub(super) idle: bool,
    proposed: BTreeMap<GroupId, Epoch>,
}

pub(super) struct World {
    pub(super) now: Duration,
    pub(super) governor: Governor,
    tables: MemoryTables,
    pub(super) servers: BTreeMap<ServerId, Played>,
    numbers: u64,
    /// Commits are held back while it is set.
    pub(super) log_stands: bool,
    held: Vec<PlacementCommand>,
    pub(super) commands: Vec<PlacementCommand>,
    pub(super) replies: BTreeMap<Ticket, Reply>,
    pub(super) closed: Vec<LinkId>,
    /// What servers say of their disks.
    pub(super) failing: BTreeMap<ServerId, String>,
    /// Reaches the directory and no other server.
    pub(super) alone: Option<ServerId>,
}

impl World {
    pub(super) fn new(replicas: u8, groups: u32) -> Self {
        let format = Format {
            replicas,
            groups,
            min_in_sync: if replicas >= 3 { 2 } else { 1 },
            ..Format::defaults(ClusterId(1))
        };
        let mut tables = MemoryTables::default();
        let change = Change::Namespace(NamespaceCommand::Format(format));
        apply(&mut tables, Duration::ZERO, change);
        let now = Duration::from_secs(1_000);
        let placed = Arc::new(Placed::load(&tables).expect("readable"));
        Self {
            now,
            governor: Governor::new(Pace::default(), placed, now),
            tables,
            servers: BTreeMap::new(),
            numbers: 0,
            log_stands: false,
            held: Vec::new(),
            commands: Vec::new(),
            replies: BTreeMap::new(),
            closed: Vec::new(),
            failing: BTreeMap::new(),
            alone: None,
        }
    }

    /// With servers 1 to `count`, serving.
    pub(super) fn started(replicas: u8, groups: u32, count: u32) -> Self {
        let mut world = Self::new(replicas, groups);
        for node in 1..=count {
            world.register(node, 1);
        }
        world.run_until("all groups serve", |w| {
            let placed = w.placed();
            placed.groups.len() == groups as usize
                && placed.groups.values().all(|g| g.is_effective())
        });
        world
    }

    /// The leader dies, and another one begins with what is logged.
    pub(super) fn restart(&mut self) {
        self.held.clear();
        let placed = Arc::new(Placed::load(&self.tables).expect("readable"));
        self.governor = Governor::new(Pace::default(), placed, self.now);
        let runs: Vec<ServerRun> = self.servers.values().map(|s| s.run).collect();
        for run in runs {
            self.register(run.server.0, run.incarnation.0);
        }
    }

    pub(super) fn placed(&self) -> Arc<Placed> {
        self.governor.placed().clone()
    }

    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn request(node: u32, incarnation: u64) -> RegisterServer {
        RegisterServer {
            node: NodeId(u128::from(node)),
            incarnation: Incarnation(incarnation),
            address: format!("s{node}:1"),
            past: DataDirPast {
                runs: (1..incarnation).map(Incarnation).collect(),
                ..DataDirPast::default()
            },
            epochs: (0..64)
                .map(|group| (GroupId(group), Epoch(u64::MAX)))
                .collect(),
            space: space(),
        }
    }

    /// Node `node` comes with this run; its server id is the node's number here.
    pub(super) fn register(&mut self, node: u32, incarnation: u64) {
        let (link, ticket) = (LinkId(self.number()), Ticket(self.number()));
        let request = Self::request(node, incarnation);
        self.event(Event::Register {
            link,
            request,
            ticket,
        });
        let registered = match self.replies.remove(&ticket) {
            Some(Reply::Registered(Ok(registered))) => registered,
            other => panic!("not registered: {other:?}"),
        };
        let server = registered.server;
        let run = ServerRun {
            server,
            incarnation: Incarnation(incarnation),
        };
        let old = self.servers.remove(&server).filter(|old| old.run == run);
        let new = Played {
            run,
            link,
            configs: old.map(|old| old.configs).unwrap_or_default(),
            told: BTreeMap::new(),
            released: Vec::new(),
            beats: self.now + SERVER_HEARTBEAT,
            deaf: false,
            idle: false,
            proposed: BTreeMap::new(),
        };
        self.servers.insert(server, new);
    }

    /// The process dies, and its connection with it.
    pub(super) fn kill(&mut self, server: u32) {
        let dead = self.servers.remove(&ServerId(server)).expect("alive");
        self.event(Event::Closed { link: dead.link });
    }

    pub(super) fn suspect(&mut self, from: u32, suspect: ServerRun) {
        let own = &self.servers[&ServerId(from)];
        let report = ReportSuspect {
            from: own.run,
            suspect,
            groups: own.configs.values().map(|c| (c.group, c.epoch)).collect(),
            reason: "does not answer".into(),
        };
        self.event(Event::Suspect(report));
    }

    pub(super) fn event(&mut self, event: Event) {
        let now = self.now;
        self.governor.take(now, event);
        self.settle();
    }

    /// Lets the log go on.
    pub(super) fn log_goes_on(&mut self) {
        self.log_stands = false;
        for command in std::mem::take(&mut self.held) {
            self.commit(command);
        }
        self.settle();
    }

    /// All that follows without time passing.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let actions = self.governor.step(self.now);
            if actions.is_empty() {
                return;
            }
            for action in actions {
                self.act(action);
            }
        }
        panic!("never at rest");
    }

    fn act(&mut self, action: Action) {
        let now = self.now;
        match action {
            Action::Read => {
                let placed = Arc::new(Placed::load(&self.tables).expect("readable"));
                self.governor.take(now, Event::Read { placed });
            }
            Action::Commit(command) if self.log_stands => self.held.push(command),
            Action::Commit(command) => self.commit(command),
            Action::Call {
                called, request, ..
            } => {
                if let Some(answer) = self.called(&called, request) {
                    self.governor.take(now, Event::Answered { called, answer });
                }
            }
            Action::Reply { ticket, reply } => drop(self.replies.insert(ticket, reply)),
            Action::Close { link, .. } => self.closed.push(link),
            Action::Publish => {}
        }
    }

    fn commit(&mut self, command: PlacementCommand) {
        self.commands.push(command.clone());
        let outcome = match apply(&mut self.tables, self.now, Change::Placement(command)) {
            Outcome::Placement(outcome) => Ok(outcome),
            other => panic!("a strange outcome: {other:?}"),
        };
        let placed = Arc::new(Placed::load(&self.tables).expect("readable"));
        let now = self.now;
        self.governor.take(now, Event::Logged { outcome, placed });
    }

    /// A server's answer; a deaf one gives none.
    fn called(&mut self, called: &Called, request: Call) -> Option<Answer> {
        let alone = self.alone;
        let server = self.servers.get_mut(&called.run.server);
        let Some(server) = server.filter(|s| s.link == called.link) else {
            let gone = || Error::from(ErrorCode::Disconnected);
            return Some(match request {
                Call::Adopt(_) => Answer::Adopted(Err(gone())),
                Call::Equalise(_) => Answer::Equalised(Err(gone())),
                Call::Tell(_) => Answer::Told(Err(gone())),
                Call::Release(_) => Answer::Released(Err(gone())),
            });
        };
        if server.deaf {
            return None;
        }
        Some(match request {
            Call::Adopt(adopt) => {
                for config in adopt.configs {
                    server.configs.insert(config.group, config);
                }
                let epochs = server.configs.values().map(|c| (c.group, c.epoch));
                Answer::Adopted(Ok(EpochsAdopted {
                    epochs: epochs.collect(),
                }))
            }
            Call::Equalise(equalise) => {
                let (own, mut suspects) = (server.run, Vec::new());
                for (group, _) in &equalise.groups {
                    let others = server.configs[group].in_sync().filter(|run| *run != own);
                    suspects.extend(
                        others
                            .filter(|run| !reaches(alone, own, *run))
                            .map(|run| (*group, run)),
                    );
                }
                let mut groups = equalise.groups;
                groups.retain(|(group, _)| suspects.iter().all(|(other, _)| other != group));
                Answer::Equalised(Ok(GroupsEqualised { groups, suspects }))
            }
            Call::Tell(tell) => {
                server.told.extend(tell.groups);
                Answer::Told(Ok(()))
            }
            Call::Release(release) => {
                let groups: Vec<GroupId> = release.configs.iter().map(|c| c.group).collect();
                for config in release.configs {
                    let known = server.configs.remove(&config.group);
                    assert!(
                        known.is_none_or(|k| k.epoch < config.epoch),
                        "it is a member"
                    );
                    server.released.push((config.group, config.epoch));
                }
                Answer::Released(Ok(GroupsReleased { groups, chunks: 0 }))
            }
        })
    }

    /// Time passes, in small steps.
    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.governor.wake_at(self.now).min(end);
            self.beat();
            self.propose();
            self.settle();
        }
    }

    /// Time passes until something holds.
    pub(super) fn run_until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        self.run_until_within(Duration::from_secs(60), what, holds);
    }

    pub(super) fn run_until_within(
        &mut self,
        time: Duration,
        what: &str,
        holds: impl Fn(&Self) -> bool,
    ) {
        let end = self.now + time;
        while !holds(self) {
            assert!(
                self.now < end,
                "never seen: {what}; groups: {:#?}",
                self.placed().groups
            );
            self.run_for(Duration::from_millis(50));
        }
    }

    fn beat(&mut self) {
        let now = self.now;
        let due = self.servers.values_mut().filter(|s| s.beats <= now);
        let beating: Vec<(LinkId, ServerRun)> = due
            .map(|server| {
                server.beats = now + SERVER_HEARTBEAT;
                (server.link, server.run)
            })
            .collect();
        for (link, run) in beating {
            let ticket = Ticket(self.number());
            let space = space();
            let request = ServerHeartbeat {
                run,
                space,
                repair: RepairWork::default(),
                failure: self.failing.get(&run.server).cloned().unwrap_or_default(),
            };
            self.governor.take(
                now,
                Event::Heartbeat {
                    link,
                    request,
                    ticket,
                },
            );
        }
    }

    /// Primaries say of joining members that they are up to date.
    fn propose(&mut self) {
        let mut proposals = Vec::new();
        let alone = self.alone;
        for server in self.servers.values_mut().filter(|s| !s.deaf && !s.idle) {
            for config in server.configs.values() {
                let leads = config.primary == Some(server.run.server);
                let serves = server.told.get(&config.group) == Some(&config.epoch);
                let said = server.proposed.get(&config.group) == Some(&config.epoch);
                let reached =
                    |run: &ServerRun| leads && serves && !said && reaches(alone, server.run, *run);
                let Some(joined) = config.joining().find(reached) else {
                    continue;
                };
                server.proposed.insert(config.group, config.epoch);
                proposals.push(ProposeInSync {
                    from: server.run,
                    group: config.group,
                    epoch: config.epoch,
                    joined,
                });
            }
        }
        for request in proposals {
            let ticket = Ticket(self.number());
            let now = self.now;
            self.governor.take(now, Event::Propose { request, ticket });
        }
    }

    /// All groups serve with exactly these in-sync.
    pub(super) fn serves_with(&self, servers: &[u32]) -> bool {
        self.placed().groups.values().all(|group| {
            let mut in_sync: Vec<u32> = group.config.in_sync().map(|run| run.server.0).collect();
            in_sync.sort_unstable();
            group.is_effective() && in_sync == servers
        })
    }
}

fn reaches(alone: Option<ServerId>, from: ServerRun, to: ServerRun) -> bool {
    alone.is_none_or(|alone| from.server != alone && to.server != alone)
}

fn space() -> Space {
    Space {
        total_bytes: 1 << 40,
        free_bytes: 1 << 39,
        chunks: 0,
    }
}

fn apply(tables: &mut MemoryTables, now: Duration, change: Change) -> Outcome {
    let now = Timestamp {
        seconds: now.as_secs() as i64,
        nanoseconds: now.subsec_nanos(),
    };
    state::apply(tables, &Command { now, change }).expect("the state machine works")
}
