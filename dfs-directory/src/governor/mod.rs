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
//! | `drive` | carrying epochs out: adopt, equalise, effective |
//! | `reach` | who cannot reach whom: suspicions judged together, what mounts say |
//! | `repair` | who is lost, and when groups move |
//! | `cuts` | carrying cuts and frees out |
//! | `fences` | fencing ended sessions |
//!
//! Everything that is needed to go on after a restart is in the log; what is here can be lost at
//! any moment.

pub mod cuts;
mod drive;
mod event;
pub mod fences;
mod reach;
mod registry;
mod repair;
mod slow;

#[cfg(test)]
mod tests;

pub use event::{Action, Answer, Call, Called, Event, Link, LinkId, Links, Order, Reply, Ticket};
pub use registry::{Sign, Signs};

use crate::placement::transition::{self, Servers};
use crate::placement::{self, Conditions, Placed, PlacementCommand, PlacementOutcome};
use dfs_proto::attr::{StatFs, Timestamp};
use dfs_proto::cluster::GroupConfig;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{Epoch, GroupId, ServerId, ServerRun};
use dfs_proto::msg::registry::{
    Heard, ProposeInSync, RegisterServer, ReportSuspect, ServerRegistered, Space,
};
use dfs_proto::timing::{LAST_SERVING_WAIT, RETURN_WAIT};
use drive::{Drive, Findings};
use reach::Reach;
use registry::Registry;
use slow::SlowServers;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// How patient the governor is. The simulation lives faster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    /// Silence, waits and retries are looked at this often.
    pub tick: Duration,
    /// Groups get their first members when enough servers are there and no other one has come
    /// for this long: servers are usually started together, and all of them are to have a share.
    pub place_after: Duration,
    /// After this long without a change, groups whose primary is not the preferred one get it
    /// back, so that a server that was away has its share of the work again.
    pub quiet: Duration,
    /// A server that is alive but did not answer is not taken back as joining for this long.
    pub withhold: Duration,
    /// A new leader counts nobody as lost before it has led for this long, however long the log
    /// says that a server was gone: all may have been down, and be coming back.
    pub returns: Duration,
    /// Moves of groups are looked for this often.
    pub repair: Duration,
    /// Groups that may be on the move at a time.
    pub moving_max: usize,
    /// When all has been well for this long, one group moves to where there are few.
    pub rebalance: Duration,
    /// All members of a group were gone, and only such are back that may have lost what was not
    /// synced: the missing ones are waited for this long.
    pub return_wait: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(50),
            place_after: Duration::from_millis(300),
            quiet: Duration::from_secs(10),
            withhold: Duration::from_secs(5),
            returns: Duration::from_secs(60),
            repair: Duration::from_millis(250),
            moving_max: 8,
            rebalance: Duration::from_secs(5),
            return_wait: LAST_SERVING_WAIT,
        }
    }
}

/// A registration that is not logged yet.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Registration {
    link: LinkId,
    request: RegisterServer,
    ticket: Ticket,
    /// Its connection has ended meanwhile.
    closed: bool,
}

/// What is on its way to the log. One change at a time: the next one is decided on what this one
/// has made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
enum Logging {
    #[default]
    Nothing,
    /// The logged state is read, since something that it lacks may be there now.
    Reading(Registration),
    Registering(Registration),
    /// A change that answers these proposals.
    Changing(Vec<(ProposeInSync, Ticket)>),
    Effective,
    /// New homes of groups.
    Moving,
    Ordered(Ticket),
}

/// How long a group waits for those that served last.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Return {
    /// The first of them was seen.
    since: Duration,
    /// For whom it was said that they are waited for.
    told: Vec<ServerId>,
    /// A person does not wait any more.
    go_on: bool,
}

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

    fn commit(&mut self, what: Logging, command: PlacementCommand) {
        self.logging = what;
        self.out.push(Action::Commit(command));
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

    fn log_registration(&mut self) {
        let Some(registration) = self.registrations.pop_front() else {
            return;
        };
        if self.placed.format.is_none() {
            self.logging = Logging::Reading(registration);
            self.out.push(Action::Read);
            return;
        }
        let request = &registration.request;
        let command = PlacementCommand::RegisterServer {
            node: request.node,
            incarnation: request.incarnation,
            address: request.address.clone(),
            past: request.past.clone(),
            epochs: request.epochs.clone(),
        };
        self.commit(Logging::Registering(registration), command);
    }

    fn log_order(&mut self) {
        let Some((order, ticket)) = self.orders.pop_front() else {
            return;
        };
        let command = match order {
            Order::SetLife { server, life } => PlacementCommand::SetLife { server, life },
            Order::Configure(settings) => PlacementCommand::Configure { settings },
        };
        self.commit(Logging::Ordered(ticket), command);
    }

    /// What was sent to the log has an outcome, or none that is known.
    fn logged(&mut self, outcome: Result<PlacementOutcome>, placed: Arc<Placed>, now: Duration) {
        self.placed = placed;
        let logging = std::mem::take(&mut self.logging);
        if let Err(e) = &outcome {
            log::warn!("a change of servers or groups was not logged, again: {e}");
        }
        match logging {
            Logging::Registering(registration) => self.registered(registration, outcome, now),
            Logging::Changing(proposals) => {
                match outcome {
                    Ok(_) => self.answer_proposals(proposals),
                    Err(e) => {
                        for (_, ticket) in proposals {
                            self.reply(ticket, Reply::Done(Err(e.clone())));
                        }
                        return;
                    }
                }
                self.changed = now;
                self.publish = true;
            }
            Logging::Effective | Logging::Moving => {
                self.changed = now;
                self.publish = true;
            }
            Logging::Ordered(ticket) => {
                let answer = match outcome {
                    Ok(PlacementOutcome::Unknown) => {
                        Err(Error::new(ErrorCode::InvalidArgument, "no such server"))
                    }
                    Ok(_) => Ok(()),
                    Err(e) => Err(e),
                };
                self.reply(ticket, Reply::Done(answer));
                self.repair_at = now;
                self.publish = true;
            }
            Logging::Nothing | Logging::Reading(_) => {}
        }
    }

    fn registered(
        &mut self,
        registration: Registration,
        outcome: Result<PlacementOutcome>,
        now: Duration,
    ) {
        let Registration {
            link,
            request,
            ticket,
            closed,
        } = registration;
        let server = match outcome {
            Ok(PlacementOutcome::Registered { server, set_back }) => Ok((server, set_back)),
            Ok(_) => Err(Error::new(
                ErrorCode::Internal,
                "a registration had no server id",
            )),
            Err(e) => Err(e),
        };
        let answer = server.map(|(server, set_back)| {
            let run = ServerRun {
                server,
                incarnation: request.incarnation,
            };
            report_return(run, &request, &set_back);
            self.registry.add(Link { run, link }, request.space, now);
            if closed {
                self.registry.remove(link, now);
            }
            self.publish = true;
            ServerRegistered {
                server,
                groups: self.placed.format.map_or(0, |format| format.groups),
                fenced: self.placed.fenced.clone(),
            }
        });
        if let Err(e) = &answer {
            log::warn!("a file server was not registered: {e}");
        }
        self.reply(ticket, Reply::Registered(answer));
    }

    /// The changes that all of what is known asks for, as one command.
    fn decide(&mut self, now: Duration) {
        let gone = self.registry.gone(&self.placed, now, &mut self.out);
        self.judge(now);
        let mut servers = self.registry.servers(&self.placed, &gone, now);
        self.leave_aside(&mut servers, now);
        let mut events = std::mem::take(&mut self.pending);
        events.extend(self.slow.decide(&self.placed, &mut servers, now));
        events.extend(self.proposals.iter().map(|(p, _)| (p.group, proposal(p))));
        events.extend(self.over(&servers, now));
        if now.saturating_sub(self.changed) > self.pace.quiet {
            let all = self.placed.groups.keys();
            events.extend(all.map(|group| (*group, transition::Event::Rebalance)));
            self.changed = now;
        }
        let groups = if self.placed.groups.is_empty() {
            self.first_epochs(&servers, now)
        } else {
            placement::plan(&self.placed, &events, &servers)
        };
        let proposals = std::mem::take(&mut self.proposals);
        if gone.is_empty() && groups.is_empty() {
            self.answer_proposals(proposals);
            return;
        }
        report(&gone, &groups);
        self.commit(
            Logging::Changing(proposals),
            PlacementCommand::Change { gone, groups },
        );
    }

    /// Groups whose wait for the servers that served last is over.
    fn over(&mut self, servers: &Servers, now: Duration) -> Vec<(GroupId, transition::Event)> {
        let mut over = Vec::new();
        let mut waiting: BTreeMap<Vec<ServerId>, usize> = BTreeMap::new();
        for (group, record) in &self.placed.groups {
            let awaited = transition::awaited(record, servers);
            let Some(awaited) = awaited.filter(|awaited| !awaited.back.is_empty()) else {
                self.returns.remove(group);
                continue;
            };
            let wait = self.returns.entry(*group).or_insert_with(|| Return {
                since: now,
                told: Vec::new(),
                go_on: false,
            });
            if wait.go_on || now >= wait.since + self.pace.return_wait {
                over.push((*group, transition::Event::GoOn));
            } else if now >= wait.since + RETURN_WAIT {
                over.push((*group, transition::Event::ReturnWaitOver));
                if !awaited.complete && wait.told != awaited.missing {
                    wait.told.clone_from(&awaited.missing);
                    *waiting.entry(awaited.missing).or_default() += 1;
                }
            }
        }
        for (missing, groups) in waiting {
            let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
            log::error!(
                "{groups} groups wait for {}: those that are back were not stopped orderly, and \
                 may lack what was acknowledged and not synced. They go on after {:?}, or at once \
                 with `dfsctl go-on` if these servers will not come back",
                missing.join(", "),
                self.pace.return_wait
            );
        }
        over
    }

    /// A person does not wait any more for servers that served last: the groups of which anybody
    /// is back. How many those are.
    fn go_on(&mut self) -> u32 {
        let waiting = self.returns.values_mut().filter(|wait| !wait.go_on);
        waiting.map(|wait| wait.go_on = true).count() as u32
    }

    fn first_epochs(&self, servers: &Servers, now: Duration) -> Vec<(Epoch, GroupConfig)> {
        let Some(format) = &self.placed.format else {
            return Vec::new();
        };
        if now < self.registry.registered + self.pace.place_after {
            return Vec::new();
        }
        let alive = |server: &ServerId| servers.get(server).is_some_and(|view| view.alive);
        let links = self.registry.links.values().map(|link| link.run);
        let runs: Vec<ServerRun> = links.filter(|run| alive(&run.server)).collect();
        let first = placement::first_epochs(format, &runs).unwrap_or_default();
        first.into_iter().map(|config| (Epoch(0), config)).collect()
    }

    fn answer_proposals(&mut self, proposals: Vec<(ProposeInSync, Ticket)>) {
        for (proposal, ticket) in proposals {
            let config = self.placed.groups.get(&proposal.group).map(|r| &r.config);
            let taken = config.is_some_and(|c| c.in_sync().any(|member| member == proposal.joined));
            let answer = if taken {
                Ok(())
            } else {
                let present = config.map_or(0, |c| c.epoch.0);
                Err(Error::new(
                    ErrorCode::WrongEpoch,
                    format!(
                        "{} cannot be in-sync in {} now",
                        proposal.joined, proposal.group
                    ),
                )
                .with_detail(present))
            };
            self.reply(ticket, Reply::Done(answer));
        }
    }
}

fn proposal(request: &ProposeInSync) -> transition::Event {
    transition::Event::Propose {
        from: request.from,
        epoch: request.epoch,
        joined: request.joined,
    }
}

/// One line for what happened to all groups.
fn report(gone: &[ServerRun], groups: &[(Epoch, GroupConfig)]) {
    for run in gone {
        log::warn!("{run} is gone");
    }
    let down = groups
        .iter()
        .filter(|(_, config)| config.primary.is_none())
        .count();
    let waiting = groups
        .iter()
        .filter(|(_, config)| config.primary.is_some() && !config.is_writable())
        .count();
    if !groups.is_empty() {
        log::info!("{} groups get a new epoch", groups.len());
    }
    if down > 0 {
        log::error!("{down} groups have no server left: they wait for those that served last");
    }
    if waiting > 0 {
        log::warn!("{waiting} groups are below their least number of replicas: writes wait");
    }
}

/// With which data dir a server has come.
fn report_return(run: ServerRun, request: &RegisterServer, set_back: &[GroupId]) {
    let past = &request.past;
    let stopped = match (past.runs.is_empty(), past.intact > 0) {
        (true, _) => "with a new data dir",
        (_, true) => "with all that it had",
        (_, false) => "after a stop that may have lost what was not synced",
    };
    log::info!("{run} at {} registered, {stopped}", request.address);
    if past.accept_rollback {
        log::warn!(
            "{} is to count in all groups that are down: a person says so",
            run.server
        );
    }
    if !set_back.is_empty() {
        log::warn!(
            "the data dir of {} at {} is not the one with which it served {} groups: it was \
             emptied or is an older copy. It counts for nothing there until it has been brought \
             up to date from the others; if none of them has the data, put the right dir back, \
             or start the server that has the best with --accept-rollback",
            run.server,
            request.address,
            set_back.len()
        );
    }
}
