//! Gives groups their epochs and carries them out: the one part of the directory that decides
//! about servers and groups while this member leads.
//!
//! Pure: events go in with their time, actions come out. The tokio task that feeds it is
//! `crate::tasks`; the simulation drives the same code. Which epoch a group gets is
//! `crate::placement`'s decision; here is when, with what knowledge, and that it is logged before
//! anything is done.
//!
//! | module | part |
//! | --- | --- |
//! | `event` | what goes in and what comes out |
//! | `registry` | who is there: connections, signs of life, who counts as gone |
//! | `slow` | members that hold everybody up, and when they are taken back |
//! | `pace` | how long it waits for what |
//! | `decide` | what all that is known asks for, as one command |
//! | `logging` | the one change that is on its way to the log, and its outcome |
//! | `drive` | carrying epochs out: adopt, equalise, effective |
//! | `reach` | who cannot reach whom: suspicions judged together, what mounts say |
//! | `repair` | who is lost, and when groups move |
//! | `cuts` | carrying cuts and frees out |
//! | `fences` | fencing ended sessions |
//!
//! Everything that is needed to go on after a restart is in the log; what is here can be lost at
//! any moment.

pub mod cuts;
mod decide;
mod drive;
mod event;
pub mod fences;
mod logging;
mod pace;
mod reach;
mod registry;
mod repair;
mod slow;

#[cfg(test)]
mod tests;

pub use event::{Action, Answer, Call, Called, Event, Link, LinkId, Links, Order, Reply, Ticket};
pub use pace::Pace;
pub use registry::{Sign, Signs};

use crate::placement::transition;
use crate::placement::{Conditions, Placed, PlacementCommand};
use decide::Return;
use dfs_proto::attr::{StatFs, Timestamp};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{Epoch, GroupId, ServerId, ServerRun};
use dfs_proto::msg::registry::{Heard, ProposeInSync, ReportSuspect, Space};
use drive::{Drive, Findings};
use logging::{Logging, Registration};
use reach::Reach;
use registry::Registry;
use slow::SlowServers;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// The state machine. Hand it what happened (`take`), then ask what to do (`step`).
#[derive(Clone, Debug)]
pub struct Governor {
    pace: Pace,
    placed: Arc<Placed>,
    registry: Registry,
    reach: Reach,
    slow: SlowServers,
    drive: Drive,
    pending: Vec<(GroupId, transition::Event)>,
    proposals: Vec<(ProposeInSync, Ticket)>,
    registrations: VecDeque<Registration>,
    orders: VecDeque<(Order, Ticket)>,
    logging: Logging,
    /// The directory's clock when this began, and that moment here.
    wall: Option<(i64, Duration)>,
    began: Duration,
    /// Since when this leader has seen a server gone.
    missing: BTreeMap<ServerId, Duration>,
    conditions: Conditions,
    repair_at: Duration,
    rebalance_at: Duration,
    /// Groups without a primary of which somebody is back.
    returns: BTreeMap<GroupId, Return>,
    /// Servers or groups have changed since the last publication.
    publish: bool,
    /// The last time that anything about groups was logged.
    changed: Duration,
    out: Vec<Action>,
}

impl Governor {
    /// Begins with what is logged.
    pub fn new(pace: Pace, placed: Arc<Placed>, now: Duration) -> Self {
        Self {
            pace,
            placed,
            registry: Registry::new(pace.withhold, now),
            reach: Reach::default(),
            slow: SlowServers::default(),
            drive: Drive::default(),
            pending: Vec::new(),
            proposals: Vec::new(),
            registrations: VecDeque::new(),
            orders: VecDeque::new(),
            logging: Logging::Nothing,
            wall: None,
            began: now,
            missing: BTreeMap::new(),
            conditions: Conditions::new(),
            repair_at: now,
            rebalance_at: now + pace.rebalance,
            returns: BTreeMap::new(),
            publish: true,
            changed: now,
            out: Vec::new(),
        }
    }

    /// Tells the directory's clock at the beginning. Without it, time in which a server was gone
    /// counts only since then.
    #[must_use]
    pub fn at_clock(mut self, clock: Timestamp) -> Self {
        self.wall = Some((clock.seconds, self.began));
        self
    }

    /// How each server is, for moves of groups.
    pub fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    /// The logged state, as of the last change that was logged from here.
    pub fn placed(&self) -> &Arc<Placed> {
        &self.placed
    }

    /// Who is connected.
    pub fn links(&self) -> &Links {
        &self.registry.links
    }

    /// The servers' last signs of life.
    pub fn signs(&self) -> &Signs {
        &self.registry.signs
    }

    /// When `step` should be called next if nothing happens before.
    pub fn wake_at(&self, now: Duration) -> Duration {
        let tick = now + self.pace.tick;
        let tick = self.reach.due_at().map_or(tick, |at| at.clamp(now, tick));
        self.registry.next_loss(now).map_or(tick, |at| at.min(tick))
    }

    /// Usable space after replication, as the servers last reported it; inode counts are 0.
    pub fn space(&self) -> StatFs {
        let replicas = self
            .placed
            .format
            .map_or(1, |f| u64::from(f.replicas.max(1)));
        let sum = |of: fn(&Space) -> u64| {
            let signs = self.registry.signs.values();
            signs.map(|sign| of(&sign.space)).sum::<u64>() / replicas
        };
        StatFs {
            total_bytes: sum(|space| space.total_bytes),
            free_bytes: sum(|space| space.free_bytes),
            ..StatFs::default()
        }
    }

    /// Something has happened.
    pub fn take(&mut self, now: Duration, event: Event) {
        match event {
            Event::Register {
                link,
                request,
                ticket,
            } => self.registrations.push_back(Registration {
                link,
                request,
                ticket,
                closed: false,
            }),
            Event::Heartbeat {
                link,
                request,
                ticket,
            } => {
                let known = self.registry.heartbeat(link, request, now);
                let heard = Heard {
                    repair_rate: self.placed.settings.repair_rate,
                };
                let answer = known
                    .then_some(heard)
                    .ok_or(ErrorCode::NotRegistered.into());
                self.reply(ticket, Reply::Heard(answer));
            }
            Event::GoOn { ticket } => {
                let groups = self.go_on();
                log::warn!("{groups} groups are told to go on without the servers they wait for");
                self.reply(ticket, Reply::GoesOn(groups));
            }
            Event::Closed { link } => self.closed(link, now),
            Event::Suspect(report) => self.suspected(report, now),
            Event::Unreachable { session, runs } => self.unreachable(session, &runs, now),
            Event::Slow(report) => self.slow.report(report),
            Event::Propose { request, ticket } => self.proposals.push((request, ticket)),
            Event::Unanswered { run } => self.expel(run, now),
            Event::Unable { server } => self.registry.withhold(server, now),
            Event::Order { order, ticket } => self.orders.push_back((order, ticket)),
            Event::Answered { called, answer } => {
                let findings = self.drive.answered(&self.placed, &called, answer, now);
                self.take_findings(findings, now);
            }
            Event::Read { placed } => {
                self.placed = placed;
                if let Logging::Reading(registration) = std::mem::take(&mut self.logging) {
                    self.registrations.push_front(registration);
                }
            }
            Event::Logged { outcome, placed } => self.logged(outcome, placed, now),
        }
    }

    /// What is to be done now.
    pub fn step(&mut self, now: Duration) -> Vec<Action> {
        self.registry.running(now);
        if self.logging == Logging::Nothing {
            self.log_registration();
        }
        if self.logging == Logging::Nothing {
            self.log_order();
        }
        if self.logging == Logging::Nothing {
            self.decide(now);
        }
        if self.logging == Logging::Nothing {
            self.repair(now);
        }
        let effective = self
            .drive
            .step(&self.placed, &self.registry.links, now, &mut self.out);
        if self.logging == Logging::Nothing && !effective.is_empty() {
            log::info!("{} groups serve in a new epoch", effective.len());
            self.commit(
                Logging::Effective,
                PlacementCommand::Effective { groups: effective },
            );
        }
        if std::mem::take(&mut self.publish) {
            self.out.push(Action::Publish);
        }
        std::mem::take(&mut self.out)
    }

    fn reply(&mut self, ticket: Ticket, reply: Reply) {
        self.out.push(Action::Reply { ticket, reply });
    }

    fn closed(&mut self, link: LinkId, now: Duration) {
        if let Some(run) = self.registry.remove(link, now) {
            log::info!("the connection of {run} has ended");
            self.publish = true;
        }
        let on_its_way = match &mut self.logging {
            Logging::Reading(registration) | Logging::Registering(registration) => {
                Some(registration)
            }
            _ => None,
        };
        for registration in self.registrations.iter_mut().chain(on_its_way) {
            registration.closed |= registration.link == link;
        }
    }

    fn suspected(&mut self, report: ReportSuspect, now: Duration) {
        log::warn!(
            "{} suspects {} in {} groups: {}",
            report.from,
            report.suspect,
            report.groups.len(),
            report.reason
        );
        if self.registry.confirm_loss(report.suspect) {
            // Out of all its groups at once, instead of being asked to join this one.
            self.publish = true;
            return;
        }
        let of_now = |(group, epoch): &(GroupId, Epoch)| {
            let record = self.placed.groups.get(group);
            record.is_some_and(|record| record.config.epoch == *epoch)
        };
        if report.groups.iter().any(of_now) {
            self.reach.suspected(report, now);
        }
    }

    /// A suspicion counts for the epoch in which it arose; it says nothing about a later one.
    fn suspect(&mut self, group: GroupId, epoch: Epoch, run: ServerRun) {
        let record = self.placed.groups.get(&group);
        if record.is_some_and(|record| record.config.epoch == epoch) {
            self.pending.push((group, transition::Event::Suspect(run)));
        }
    }

    fn take_findings(&mut self, findings: Findings, now: Duration) {
        for (group, epoch, run) in findings.suspects {
            self.suspect(group, epoch, run);
        }
        for report in findings.reports {
            self.suspected(report, now);
        }
        if let Some(server) = findings.unable {
            self.registry.withhold(server, now);
        }
    }

    fn expel(&mut self, run: ServerRun, now: Duration) {
        log::warn!("{run} does not acknowledge what it must: it leaves its groups for now");
        self.registry.withhold(run.server, now);
        for (group, record) in &self.placed.groups {
            if record.config.in_sync().any(|member| member == run) {
                self.pending.push((*group, transition::Event::Expel(run)));
            }
        }
    }
}
