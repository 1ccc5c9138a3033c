//! Gives groups their epochs: the one task that decides about servers and groups while this
//! member leads. What it decides is `placement`'s; here is when, with what knowledge, and that
//! it is logged before anything is done.

use super::drive::{Drive, Findings};
use super::events::Event;
use super::registry::{LINGER, Registry};
use super::view::{Link, Signs, View, now};
use crate::placement::transition::{self, Servers};
use crate::placement::{self, Placed, PlacementCommand, PlacementOutcome};
use crate::raft::RaftHandle;
use crate::state::{Change, Outcome};
use dfs_proto::attr::StatFs;
use dfs_proto::cluster::{ClusterMap, GroupConfig};
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{Epoch, GroupId, ServerId, ServerRun};
use dfs_proto::msg::registry::{ProposeInSync, RegisterServer, ServerRegistered};
use dfs_proto::timing::RETURN_WAIT;
use dfs_proto::transport::Connection;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Silence, waits and retries are looked at this often.
const TICK: Duration = Duration::from_millis(50);

/// Groups get their first members when enough servers are there and no other one has come for
/// this long: servers are usually started together, and all of them are to have a share.
const PLACE_AFTER: Duration = Duration::from_millis(300);

/// After this long without a change, groups whose primary is not the preferred one get it back,
/// so that a server that was away has its share of the work again.
const QUIET: Duration = Duration::from_secs(10);

/// Where the governor publishes what it knows.
#[derive(Debug)]
pub(super) struct Outlets {
    pub(super) map: watch::Sender<Arc<ClusterMap>>,
    pub(super) space: watch::Sender<StatFs>,
    pub(super) view: watch::Sender<Arc<View>>,
    pub(super) signs: watch::Sender<Signs>,
}

pub(super) struct Governor<'a> {
    raft: RaftHandle,
    sender: mpsc::Sender<Event>,
    outlets: &'a Outlets,
    placed: Arc<Placed>,
    registry: Registry,
    drive: Drive,
    pending: Vec<(GroupId, transition::Event)>,
    proposals: Vec<(ProposeInSync, oneshot::Sender<Result<()>>)>,
    /// Groups without a primary of which somebody is back: until when the others are waited for.
    returns: BTreeMap<GroupId, Duration>,
    links_changed: bool,
    /// The last time that anything about groups was logged.
    changed: Duration,
}

impl<'a> Governor<'a> {
    /// Reads what is logged and begins.
    pub(super) async fn begin(
        raft: RaftHandle,
        sender: mpsc::Sender<Event>,
        outlets: &'a Outlets,
    ) -> Result<Self> {
        let mut new = Self {
            raft,
            sender,
            outlets,
            placed: Arc::default(),
            registry: Registry::new(now()),
            drive: Drive::default(),
            pending: Vec::new(),
            proposals: Vec::new(),
            returns: BTreeMap::new(),
            links_changed: true,
            changed: now(),
        };
        new.reload().await?;
        new.publish();
        Ok(new)
    }

    /// Works until this member does not lead any more, or its log fails; returns why.
    pub(super) async fn run(mut self, events: &mut mpsc::Receiver<Event>) -> Error {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.take(event).await,
                    None => return super::events::stopping(),
                },
                _ = tick.tick() => {}
            }
            while let Ok(event) = events.try_recv() {
                self.take(event).await;
            }
            if let Err(e) = self.step().await {
                match e.code {
                    ErrorCode::NotLeader | ErrorCode::StorageFailed | ErrorCode::ShuttingDown => {
                        return e;
                    }
                    _ => log::warn!("a change of groups was not logged, again: {e}"),
                }
                // Its outcome is unknown, so what follows is decided on what is really there.
                if let Err(e) = self.reload().await {
                    return e;
                }
            }
        }
    }

    async fn take(&mut self, event: Event) {
        match event {
            Event::Register {
                connection,
                request,
                reply,
            } => {
                let answer = self.register(connection, request).await;
                if let Err(e) = &answer {
                    log::warn!("a file server was not registered: {e}");
                }
                let _ = reply.send(answer);
            }
            Event::Heartbeat {
                connection,
                request,
                reply,
            } => {
                let known = self
                    .registry
                    .heartbeat(connection, request.run, request.space, now());
                let answer = if known {
                    Ok(())
                } else {
                    Err(ErrorCode::NotRegistered.into())
                };
                let _ = reply.send(answer);
            }
            Event::Closed { connection } => {
                if let Some(run) = self.registry.remove(connection, now()) {
                    log::info!("the connection of {run} has ended");
                    self.links_changed = true;
                }
            }
            Event::Look => {}
            Event::Suspect(report) => {
                log::warn!(
                    "{} suspects {} in {} groups: {}",
                    report.from,
                    report.suspect,
                    report.groups.len(),
                    report.reason
                );
                if self.registry.confirm_loss(report.suspect) {
                    // Out of all its groups at once, instead of being asked to join this one.
                    self.links_changed = true;
                    return;
                }
                for (group, epoch) in report.groups {
                    self.suspect(group, epoch, report.suspect);
                }
            }
            Event::Propose { request, reply } => self.proposals.push((request, reply)),
            Event::Unanswered { server, run } => self.expel(server, run),
            Event::Unable { server } => self.registry.withhold(server, now()),
            Event::Adopted(called, answer) => {
                let findings = self.drive.adopted(&self.placed, &called, answer, now());
                self.take_findings(findings);
            }
            Event::Equalised(called, answer) => {
                let findings = self.drive.equalised(&called, answer, now());
                self.take_findings(findings);
            }
            Event::Told(called, answer) => self.drive.told(&called, &answer, now()),
        }
    }

    async fn register(
        &mut self,
        connection: Connection,
        request: RegisterServer,
    ) -> Result<ServerRegistered> {
        if self.placed.format.is_none() {
            self.reload().await?;
        }
        let format = self.placed.format.ok_or_else(|| {
            Error::new(
                ErrorCode::NotRegistered,
                "this directory is not formatted yet",
            )
        })?;
        let space = request.space;
        let clean = if request.clean { "clean" } else { "unclean" };
        let command = PlacementCommand::RegisterServer {
            node: request.node,
            incarnation: request.incarnation,
            address: request.address.clone(),
            clean: request.clean,
        };
        let outcome = self.commit(command).await?;
        self.reload().await?;
        let PlacementOutcome::Registered { server } = outcome else {
            return Err(Error::new(
                ErrorCode::Internal,
                "a registration had no server id",
            ));
        };
        let run = ServerRun {
            server,
            incarnation: request.incarnation,
        };
        log::info!("{run} at {} registered, {clean}", request.address);
        let sender = self.sender.clone();
        let watched = connection.clone();
        tokio::spawn(async move {
            watched.closed().await;
            let connection = watched.id();
            let _ = sender.send(Event::Closed { connection }).await;
            tokio::time::sleep(LINGER).await;
            let _ = sender.send(Event::Look).await;
        });
        self.registry.add(Link { run, connection }, space, now());
        self.links_changed = true;
        Ok(ServerRegistered {
            server,
            groups: format.groups,
            fenced: self.placed.fenced.clone(),
        })
    }

    /// A suspicion counts for the epoch in which it arose; it says nothing about a later one.
    fn suspect(&mut self, group: GroupId, epoch: Epoch, run: ServerRun) {
        if self
            .placed
            .groups
            .get(&group)
            .is_some_and(|r| r.config.epoch == epoch)
        {
            self.pending.push((group, transition::Event::Suspect(run)));
        }
    }

    fn take_findings(&mut self, findings: Findings) {
        for (group, epoch, run) in findings.suspects {
            self.suspect(group, epoch, run);
        }
        if let Some(server) = findings.unable {
            self.registry.withhold(server, now());
        }
    }

    fn expel(&mut self, server: ServerId, run: ServerRun) {
        log::warn!("{run} does not acknowledge what it must: it leaves its groups for now");
        self.registry.withhold(server, now());
        for (group, record) in &self.placed.groups {
            if record.config.in_sync().any(|member| member == run) {
                self.pending.push((*group, transition::Event::Expel(run)));
            }
        }
    }

    /// Decides, logs, and carries out what is logged.
    async fn step(&mut self) -> Result<()> {
        let at = now();
        let gone = self.registry.gone(&self.placed, at);
        let servers = self.registry.servers(&self.placed, &gone, at);
        let mut events = std::mem::take(&mut self.pending);
        events.extend(self.proposals.iter().map(|(p, _)| (p.group, proposal(p))));
        events.extend(self.over(&servers, at));
        if at.saturating_sub(self.changed) > QUIET {
            let all = self.placed.groups.keys();
            events.extend(all.map(|group| (*group, transition::Event::Rebalance)));
            self.changed = at;
        }
        let mut groups = placement::plan(&self.placed, &events, &servers);
        if self.placed.groups.is_empty() {
            groups = self.first_epochs(&servers, at);
        }
        let mut changed = false;
        if !gone.is_empty() || !groups.is_empty() {
            report(&gone, &groups);
            let logged = self.commit(PlacementCommand::Change { gone, groups }).await;
            let logged = match logged {
                Ok(_) => self.reload().await,
                Err(e) => Err(e),
            };
            if let Err(e) = logged {
                for (_, reply) in self.proposals.drain(..) {
                    let _ = reply.send(Err(e.clone()));
                }
                return Err(e);
            }
            changed = true;
        }
        self.answer_proposals();
        let effective = self
            .drive
            .step(&self.placed, &self.registry.links, at, &self.sender);
        if !effective.is_empty() {
            log::info!("{} groups serve in a new epoch", effective.len());
            self.commit(PlacementCommand::Effective { groups: effective })
                .await?;
            self.reload().await?;
            self.drive
                .step(&self.placed, &self.registry.links, at, &self.sender);
            changed = true;
        }
        if changed {
            self.changed = at;
        }
        if changed || self.links_changed {
            self.publish();
        }
        self.publish_signs();
        Ok(())
    }

    /// Groups whose wait for the servers that served last is over.
    fn over(&mut self, servers: &Servers, at: Duration) -> Vec<(GroupId, transition::Event)> {
        let mut over = Vec::new();
        for (group, record) in &self.placed.groups {
            match transition::awaited(record, servers) {
                Some((back, _)) if back > 0 => {
                    let until = *self.returns.entry(*group).or_insert(at + RETURN_WAIT);
                    if at >= until {
                        over.push((*group, transition::Event::ReturnWaitOver));
                    }
                }
                _ => {
                    self.returns.remove(group);
                }
            }
        }
        over
    }

    fn first_epochs(&self, servers: &Servers, at: Duration) -> Vec<(Epoch, GroupConfig)> {
        let Some(format) = &self.placed.format else {
            return Vec::new();
        };
        if at < self.registry.registered + PLACE_AFTER {
            return Vec::new();
        }
        let alive = |run: &ServerRun| servers.get(&run.server).is_some_and(|view| view.alive);
        let runs: Vec<ServerRun> = self
            .registry
            .links
            .values()
            .map(|link| link.run)
            .filter(alive)
            .collect();
        let first = placement::first_epochs(format, &runs).unwrap_or_default();
        first.into_iter().map(|config| (Epoch(0), config)).collect()
    }

    fn answer_proposals(&mut self) {
        for (proposal, reply) in self.proposals.drain(..) {
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
            let _ = reply.send(answer);
        }
    }

    async fn commit(&self, command: PlacementCommand) -> Result<PlacementOutcome> {
        match self.raft.commit(Change::Placement(command)).await? {
            Outcome::Placement(outcome) => Ok(outcome),
            other => Err(Error::new(
                ErrorCode::Internal,
                format!("a strange outcome: {other:?}"),
            )),
        }
    }

    async fn reload(&mut self) -> Result<()> {
        self.placed = Arc::new(self.raft.read(Placed::load).await?);
        Ok(())
    }

    fn publish(&mut self) {
        self.links_changed = false;
        let placed = self.placed.clone();
        if self.outlets.map.borrow().version != placed.map_version
            || self.outlets.map.borrow().groups.is_empty()
        {
            self.outlets
                .map
                .send_replace(Arc::new(placed.cluster_map()));
        }
        let links = self.registry.links.clone();
        self.outlets
            .view
            .send_replace(Arc::new(View { placed, links }));
    }

    fn publish_signs(&self) {
        self.outlets.signs.send_replace(self.registry.signs.clone());
        let replicas = self
            .placed
            .format
            .map_or(1, |f| u64::from(f.replicas.max(1)));
        let sum = |of: fn(&dfs_proto::msg::registry::Space) -> u64| {
            self.registry
                .signs
                .values()
                .map(|sign| of(&sign.space))
                .sum::<u64>()
                / replicas
        };
        self.outlets.space.send_replace(StatFs {
            total_bytes: sum(|space| space.total_bytes),
            free_bytes: sum(|space| space.free_bytes),
            ..StatFs::default()
        });
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
