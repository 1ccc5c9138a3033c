//! The directory: `placement::transition` decides, this drives what it decided, and gives the
//! chunk's lease to one mount at a time. It is one process that never fails, but it may hold
//! anybody for gone, and suspects whom it likes.

use super::options::{Options, Rule};
use dfs_directory::placement::GroupRecord;
use dfs_directory::placement::transition::{self, Event, Primaries, ServerView, Servers};
use dfs_proto::cluster::{Equalise, GroupConfig, GroupMember, MemberState};
use dfs_proto::ids::{Epoch, Generation, Incarnation, ServerId, ServerRun};
use std::hash::{Hash, Hasher};

/// How far the last epoch is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Equalising {
    No,
    Asked,
    Done,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Session {
    Alive,
    /// Its end is logged, it is being fenced.
    Ending,
    /// Its leases are free.
    Over,
}

#[derive(Clone, Debug)]
pub(super) struct Directory {
    pub(super) record: GroupRecord,
    pub(super) servers: Servers,
    /// Members that said that they adopted the last epoch, as bits.
    pub(super) adopted: u8,
    pub(super) equalising: Equalising,
    /// The mount with the lease.
    pub(super) holder: Option<u8>,
    pub(super) sessions: [Session; 2],
    /// Servers that are being asked to fence, as bits, and in which epoch each has done it.
    pub(super) fence_asked: u8,
    pub(super) fenced: Vec<Epoch>,
    /// Of the chunk's inode: cuts raise it.
    pub(super) generation: Generation,
    pub(super) cut: Option<Cut>,
    /// Servers that are being asked to cut, as bits.
    pub(super) cut_asked: u8,
}

/// A cut that has not ended.
#[derive(Clone, Hash, Debug)]
pub(super) struct Cut {
    pub(super) client: u8,
    /// Its number in the history.
    pub(super) value: u8,
    /// In which epoch each server has made it.
    pub(super) made: Vec<Epoch>,
}

impl Hash for Directory {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (&self.record.config, &self.record.effective).hash(hasher);
        for view in self.servers.values() {
            (view.incarnation, view.alive, view.may_join).hash(hasher);
            view.intact_since.hash(hasher);
        }
        (self.adopted, self.equalising, self.holder).hash(hasher);
        (self.sessions, self.fence_asked).hash(hasher);
        self.fenced.hash(hasher);
        (self.generation, &self.cut, self.cut_asked).hash(hasher);
    }
}

impl Directory {
    /// The first epoch, which serves; the third server is offline if it is to join later.
    pub(super) fn new(options: &Options) -> Self {
        let home: Vec<ServerId> = (1..=u32::from(options.replicas)).map(ServerId).collect();
        let members = home.iter().map(|server| GroupMember {
            run: ServerRun {
                server: *server,
                incarnation: Incarnation(u64::from(server.0) * 100 + 1),
            },
            state: match options.stale_joiner && server.0 == 3 {
                true => MemberState::Offline,
                false => MemberState::InSync,
            },
        });
        let members: Vec<GroupMember> = members.collect();
        let servers = members
            .iter()
            .map(|member| {
                let view = ServerView {
                    incarnation: member.run.incarnation,
                    alive: member.state == MemberState::InSync,
                    intact_since: Vec::new(),
                    may_join: true,
                };
                (member.run.server, view)
            })
            .collect();
        let config = GroupConfig {
            group: super::GROUP,
            epoch: Epoch(1),
            primary: Some(ServerId(1)),
            members,
            min_in_sync: if options.replicas > 2 { 2 } else { 1 },
            equalise: Equalise::Marked,
        };
        Self {
            record: GroupRecord {
                home,
                config,
                effective: None,
                lost: Vec::new(),
            },
            servers,
            adopted: 0,
            equalising: Equalising::No,
            holder: None,
            sessions: [Session::Alive; 2],
            fence_asked: 0,
            fenced: vec![Epoch(0); usize::from(options.replicas)],
            generation: Generation(1),
            cut: None,
            cut_asked: 0,
        }
    }

    pub(super) fn config(&self) -> &GroupConfig {
        &self.record.config
    }

    pub(super) fn is_effective(&self) -> bool {
        self.record.is_effective()
    }

    fn enter(&mut self, config: GroupConfig) {
        self.record.config = config;
        self.adopted = 0;
        self.equalising = Equalising::No;
    }

    /// The epochs that an event may lead to: which member leads is a matter of how many other
    /// groups each leads, so all choices are.
    pub(super) fn outcomes(&self, event: Event, rule: Rule) -> Vec<GroupConfig> {
        let mut found: Vec<GroupConfig> = Vec::new();
        let mut record = self.record.clone();
        if rule == Rule::NewSetFromLastEffective
            && let Some(effective) = &record.effective
            && record.config.primary.is_some()
        {
            // As if the epochs since had not been.
            let epoch = record.config.epoch;
            record.config = effective.clone();
            record.config.epoch = epoch;
            record.effective = Some(record.config.clone());
        }
        for preferred in &self.record.home {
            let rank = |server: &ServerId| (*server, u32::from(server != preferred));
            let primaries: Primaries = self.record.home.iter().map(rank).collect();
            let Some(mut config) = transition::next(&record, event, &self.servers, &primaries)
            else {
                continue;
            };
            match rule {
                Rule::HighestVersionWins => config.equalise = Equalise::Everything,
                Rule::NewSetFromAnybody => {
                    for member in &mut config.members {
                        if member.state == MemberState::Joining {
                            member.state = MemberState::InSync;
                        }
                    }
                }
                _ => {}
            }
            if !found.contains(&config) {
                found.push(config);
            }
        }
        found
    }

    /// Takes the chosen one of the epochs that an event may lead to. False: there is no such
    /// one, or it is one too many.
    pub(super) fn decide(&mut self, event: Event, choice: usize, options: &Options) -> bool {
        let outcomes = self.outcomes(event, options.rule);
        let Some(config) = outcomes.into_iter().nth(choice) else {
            return false;
        };
        if config.epoch.0 > u64::from(options.epochs) {
            return false;
        }
        self.enter(config);
        true
    }

    /// A run registers.
    pub(super) fn registers(&mut self, run: ServerRun, rule: Rule) {
        if let Some(view) = self.servers.get_mut(&run.server) {
            view.incarnation = run.incarnation;
            view.alive = true;
        }
        if rule == Rule::RestartedStaysInSync {
            for member in &mut self.record.config.members {
                if member.run.server == run.server {
                    member.run = run;
                }
            }
        }
    }

    pub(super) fn run(&self, server: ServerId) -> Option<ServerRun> {
        let view = self.servers.get(&server).filter(|view| view.alive)?;
        Some(ServerRun {
            server,
            incarnation: view.incarnation,
        })
    }

    /// Whether the last epoch names this run as a member that receives writes, and the
    /// directory can reach it.
    pub(super) fn takes_part(&self, run: ServerRun) -> bool {
        let config = self.config();
        let active = |state| matches!(state, MemberState::InSync | MemberState::Joining);
        let member = config.member(run.server);
        config.primary.is_some()
            && self.run(run.server) == Some(run)
            && member.is_some_and(|m| m.run == run && active(m.state))
    }

    /// Whether the primary may be asked to make the members equal.
    pub(super) fn is_adopted_by_all(&self) -> bool {
        let config = self.config();
        config.primary.is_some()
            && config
                .in_sync()
                .all(|run| self.takes_part(run) && self.adopted & bit(run.server) != 0)
    }

    /// In-sync members that have not acknowledged the fence in the epoch that serves.
    pub(super) fn unfenced(&self) -> impl Iterator<Item = ServerRun> {
        let config = self.config();
        config
            .in_sync()
            .filter(|run| self.fenced[run.server.0 as usize - 1] != config.epoch)
    }

    /// The connection to a server is gone, and with it what it was asked.
    pub(super) fn disconnected(&mut self, server: ServerId) {
        self.fence_asked &= !bit(server);
        self.cut_asked &= !bit(server);
        if self.config().primary == Some(server) && self.equalising == Equalising::Asked {
            self.equalising = Equalising::No;
        }
    }

    pub(super) fn is_fencing(&self) -> bool {
        self.sessions.contains(&Session::Ending)
    }
}

pub(super) fn bit(server: ServerId) -> u8 {
    1 << (server.0 - 1)
}
