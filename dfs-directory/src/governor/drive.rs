//! Carries epochs out: adopted by all in-sync members, made equal by the primary, effective.
//!
//! It compares what should be with what it knows to be, and makes the calls that are missing:
//! for each server at most one of a kind at a time, with all groups that need it. So a lost
//! answer, a restart of the directory or a change half-way needs no case of its own.

use super::event::{Action, Answer, Call, Called, Link, LinkId, Links};
use crate::placement::{GroupRecord, Placed};
use dfs_proto::cluster::{GroupConfig, MemberState};
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{Epoch, GroupId, ServerId, ServerRun};
use dfs_proto::msg::control::{
    AdoptEpochs, EpochsAdopted, EpochsEffective, EqualiseGroups, GroupsEqualised, GroupsReleased,
    ReleaseGroups,
};
use dfs_proto::msg::registry::ReportSuspect;
use dfs_proto::timing::SERVER_SILENT;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// An adoption is one small durable write; a server that takes longer than this for it is no
/// better than a silent one.
const ADOPT_DEADLINE: Duration = SERVER_SILENT;

/// Between the tries of a call that failed.
const RETRY: Duration = Duration::from_millis(50);

/// Failed adoptions in a row after which a server is suspected.
const FAILURES_MAX: u32 = 3;

/// What is known of one connected run.
#[derive(Clone, Debug)]
struct Lane {
    link: LinkId,
    adopted: BTreeMap<GroupId, Epoch>,
    told: BTreeMap<GroupId, Epoch>,
    /// Groups that are not its own and of which it holds nothing.
    released: BTreeSet<GroupId>,
    releasing: bool,
    adopting: bool,
    telling: bool,
    failures: u32,
    retry_at: Duration,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Drive {
    lanes: BTreeMap<ServerId, Lane>,
    /// Epochs whose members are equal.
    equalised: BTreeMap<GroupId, Epoch>,
    equalising: BTreeMap<GroupId, (Epoch, LinkId)>,
    equalise_at: BTreeMap<GroupId, Duration>,
}

/// What an answer asks the governor to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// Did not do what this process asked of them.
    pub(super) suspects: Vec<(GroupId, Epoch, ServerRun)>,
    /// Did not answer a primary that was to make its members equal.
    pub(super) reports: Vec<ReportSuspect>,
    /// A run that failed repeatedly: not to be taken as joining for a while.
    pub(super) unable: Option<ServerId>,
}

impl Drive {
    /// Makes the calls that are missing. Returns the epochs that may be logged as effective.
    pub(super) fn step(
        &mut self,
        placed: &Placed,
        links: &Links,
        now: Duration,
        out: &mut Vec<Action>,
    ) -> Vec<(GroupId, Epoch)> {
        self.lanes
            .retain(|server, lane| links.get(server).is_some_and(|link| link.link == lane.link));
        for (server, link) in links {
            let lane = self
                .lanes
                .entry(*server)
                .or_insert_with(|| Lane::new(*link));
            lane.adopt(placed, *link, now, out);
            lane.tell(placed, *link, now, out);
            lane.release(placed, *link, now, out);
        }
        self.equalise(placed, links, now, out);
        placed
            .groups
            .iter()
            .filter(|(group, record)| {
                !record.is_effective() && self.equalised.get(group) == Some(&record.config.epoch)
            })
            .map(|(group, record)| (*group, record.config.epoch))
            .collect()
    }

    fn equalise(&mut self, placed: &Placed, links: &Links, now: Duration, out: &mut Vec<Action>) {
        let mut ready: BTreeMap<ServerId, Vec<(GroupId, Epoch)>> = BTreeMap::new();
        for (group, record) in &placed.groups {
            let epoch = record.config.epoch;
            let begun = self
                .equalising
                .get(group)
                .is_some_and(|(at, _)| *at == epoch);
            let waits = self.equalise_at.get(group).is_some_and(|at| *at > now);
            let done = self.equalised.get(group) == Some(&epoch);
            if record.is_effective() || begun || waits || done {
                continue;
            }
            if let Some(primary) = self.adopted_by_all(&record.config, links) {
                ready.entry(primary).or_default().push((*group, epoch));
            }
        }
        for (primary, groups) in ready {
            let Some(link) = links.get(&primary) else {
                continue;
            };
            for (group, epoch) in &groups {
                self.equalising.insert(*group, (*epoch, link.link));
            }
            // No deadline: after an end of all members everything is compared. It ends with the
            // connection, and a silent server's connection is closed.
            out.push(Action::Call {
                called: Called::new(*link, groups.clone()),
                request: Call::Equalise(EqualiseGroups { groups }),
                deadline: None,
            });
        }
    }

    /// The primary, once every in-sync member has adopted the epoch.
    fn adopted_by_all(&self, config: &GroupConfig, links: &Links) -> Option<ServerId> {
        let has_adopted = |run: ServerRun| {
            let linked = links.get(&run.server).is_some_and(|link| link.run == run);
            let lane = self.lanes.get(&run.server).filter(|_| linked);
            lane.and_then(|lane| lane.adopted.get(&config.group)) == Some(&config.epoch)
        };
        let primary = config.primary?;
        config.in_sync().all(has_adopted).then_some(primary)
    }

    /// An answer to a call.
    pub(super) fn answered(
        &mut self,
        placed: &Placed,
        called: &Called,
        answer: Answer,
        now: Duration,
    ) -> Findings {
        match answer {
            Answer::Adopted(answer) => self.adopted(placed, called, answer, now),
            Answer::Equalised(answer) => self.equalised(called, answer, now),
            Answer::Told(answer) => {
                self.told(called, &answer, now);
                Findings::default()
            }
            Answer::Released(answer) => {
                self.released(called, answer, now);
                Findings::default()
            }
        }
    }

    fn adopted(
        &mut self,
        placed: &Placed,
        called: &Called,
        answer: Result<EpochsAdopted>,
        now: Duration,
    ) -> Findings {
        let Some(lane) = self.lane_of(called) else {
            return Findings::default();
        };
        lane.adopting = false;
        let failed = match answer {
            Ok(answer) => {
                lane.adopted.extend(answer.epochs);
                let missing = |(group, epoch): &&(GroupId, Epoch)| {
                    lane.adopted.get(group).is_none_or(|at| at < epoch)
                };
                for (group, epoch) in &called.asked {
                    if let Some(ahead) = lane.adopted.get(group).filter(|at| *at > epoch) {
                        log::error!(
                            "{} is at {ahead} of {group}, the log only at {epoch}: was the \
                             directory's data dir set back?",
                            called.run
                        );
                    }
                }
                let missing = called.asked.iter().filter(missing).count();
                (missing > 0).then(|| {
                    Error::new(
                        ErrorCode::WrongEpoch,
                        format!("{missing} groups not adopted"),
                    )
                })
            }
            Err(e) => Some(e),
        };
        let Some(error) = failed else {
            lane.failures = 0;
            return Findings::default();
        };
        lane.failures += 1;
        lane.retry_at = now + RETRY;
        if error.code == ErrorCode::Disconnected {
            return Findings::default();
        }
        log::warn!(
            "{} did not adopt {} epochs: {error}",
            called.run,
            called.asked.len()
        );
        if lane.failures < FAILURES_MAX && error.code != ErrorCode::DeadlineExceeded {
            return Findings::default();
        }
        // Epochs that serve already are not in need of this member's adoption.
        let waiting = |(group, epoch): &&(GroupId, Epoch)| {
            placed
                .groups
                .get(group)
                .is_some_and(|r| r.config.epoch == *epoch && !r.is_effective())
        };
        Findings {
            suspects: called
                .asked
                .iter()
                .filter(waiting)
                .map(|(group, epoch)| (*group, *epoch, called.run))
                .collect(),
            reports: Vec::new(),
            unable: Some(called.run.server),
        }
    }

    fn equalised(
        &mut self,
        called: &Called,
        answer: Result<GroupsEqualised>,
        now: Duration,
    ) -> Findings {
        for (group, epoch) in &called.asked {
            if self.equalising.get(group) == Some(&(*epoch, called.link)) {
                self.equalising.remove(group);
                self.equalise_at.insert(*group, now + RETRY);
            }
        }
        match answer {
            Ok(answer) => {
                for (group, epoch) in &answer.groups {
                    if called.asked.contains(&(*group, *epoch)) {
                        self.equalised.insert(*group, *epoch);
                        self.equalise_at.remove(group);
                    }
                }
                let missing = called.asked.len().saturating_sub(answer.groups.len());
                if missing > 0 {
                    log::warn!(
                        "{} made {missing} of {} groups not equal, {} suspects: again",
                        called.run,
                        called.asked.len(),
                        answer.suspects.len()
                    );
                }
                let epoch_of = |group| {
                    called
                        .asked
                        .iter()
                        .find(|(g, _)| *g == group)
                        .map(|(_, epoch)| *epoch)
                };
                let mut unequal: BTreeMap<ServerRun, Vec<(GroupId, Epoch)>> = BTreeMap::new();
                for (group, run) in &answer.suspects {
                    if let Some(epoch) = epoch_of(*group) {
                        unequal.entry(*run).or_default().push((*group, epoch));
                    }
                }
                let report = |(suspect, groups)| ReportSuspect {
                    from: called.run,
                    suspect,
                    groups,
                    reason: "it does not answer while the members are made equal".into(),
                };
                Findings {
                    reports: unequal.into_iter().map(report).collect(),
                    ..Findings::default()
                }
            }
            Err(e) => {
                if e.code != ErrorCode::Disconnected {
                    log::warn!(
                        "{} did not equalise {} groups: {e}",
                        called.run,
                        called.asked.len()
                    );
                }
                Findings::default()
            }
        }
    }

    fn told(&mut self, called: &Called, answer: &Result<()>, now: Duration) {
        let Some(lane) = self.lane_of(called) else {
            return;
        };
        lane.telling = false;
        match answer {
            Ok(()) => lane.told.extend(called.asked.iter().copied()),
            Err(e) => {
                lane.retry_at = now + RETRY;
                if e.code != ErrorCode::Disconnected {
                    log::warn!("{} did not hear of its effective epochs: {e}", called.run);
                }
            }
        }
    }

    fn released(&mut self, called: &Called, answer: Result<GroupsReleased>, now: Duration) {
        let Some(lane) = self.lane_of(called) else {
            return;
        };
        lane.releasing = false;
        match answer {
            Ok(answer) => {
                if answer.chunks > 0 {
                    log::info!(
                        "{} deleted {} chunks of {} groups that are not its own any more",
                        called.run,
                        answer.chunks,
                        answer.groups.len()
                    );
                }
                lane.released.extend(answer.groups);
                if called.asked.iter().any(|(g, _)| !lane.released.contains(g)) {
                    lane.retry_at = now + RETRY;
                }
            }
            Err(e) => {
                lane.retry_at = now + RETRY;
                if e.code != ErrorCode::Disconnected {
                    log::warn!("{} did not delete what it left: {e}", called.run);
                }
            }
        }
    }

    fn lane_of(&mut self, called: &Called) -> Option<&mut Lane> {
        let lane = self.lanes.get_mut(&called.run.server)?;
        (lane.link == called.link).then_some(lane)
    }
}

impl Called {
    fn new(link: Link, asked: Vec<(GroupId, Epoch)>) -> Self {
        Self {
            run: link.run,
            link: link.link,
            asked,
        }
    }
}

impl Lane {
    fn new(link: Link) -> Self {
        Self {
            link: link.link,
            adopted: BTreeMap::new(),
            told: BTreeMap::new(),
            released: BTreeSet::new(),
            releasing: false,
            adopting: false,
            telling: false,
            failures: 0,
            retry_at: Duration::ZERO,
        }
    }

    fn adopt(&mut self, placed: &Placed, link: Link, now: Duration, out: &mut Vec<Action>) {
        if self.adopting || self.retry_at > now {
            return;
        }
        let wanted: Vec<&GroupConfig> = placed
            .groups
            .values()
            .map(|record| &record.config)
            .filter(|config| takes_part(config, link.run))
            .filter(|config| {
                self.adopted
                    .get(&config.group)
                    .is_none_or(|at| *at < config.epoch)
            })
            .collect();
        if wanted.is_empty() {
            return;
        }
        self.adopting = true;
        let called = Called::new(link, wanted.iter().map(|c| (c.group, c.epoch)).collect());
        let request = AdoptEpochs {
            configs: wanted.into_iter().cloned().collect(),
            servers: placed.server_entries(),
            fenced: placed.fenced.clone(),
        };
        out.push(Action::Call {
            called,
            request: Call::Adopt(request),
            deadline: Some(ADOPT_DEADLINE),
        });
    }

    fn tell(&mut self, placed: &Placed, link: Link, now: Duration, out: &mut Vec<Action>) {
        if self.telling || self.retry_at > now {
            return;
        }
        let groups: Vec<(GroupId, Epoch)> = placed
            .groups
            .values()
            .filter(|record| self.is_to_be_told(record, link.run))
            .map(|record| (record.config.group, record.config.epoch))
            .collect();
        if groups.is_empty() {
            return;
        }
        self.telling = true;
        out.push(Action::Call {
            called: Called::new(link, groups.clone()),
            request: Call::Tell(EpochsEffective { groups }),
            deadline: Some(ADOPT_DEADLINE),
        });
    }

    /// What a server holds of groups that serve without it, and in which nobody wants it, is
    /// garbage: it has left them, or comes back after it was replaced. Each run is asked once
    /// for each such group, so nothing needs to be remembered.
    fn release(&mut self, placed: &Placed, link: Link, now: Duration, out: &mut Vec<Action>) {
        let server = link.run.server;
        self.released.retain(|group| {
            let record = placed.groups.get(group);
            record.is_none_or(|record| !is_named(record, server))
        });
        if self.releasing || self.retry_at > now {
            return;
        }
        let configs: Vec<GroupConfig> = placed
            .groups
            .values()
            .filter(|record| record.is_effective() && !is_named(record, server))
            .map(|record| &record.config)
            .filter(|config| !self.released.contains(&config.group))
            .cloned()
            .collect();
        if configs.is_empty() {
            return;
        }
        self.releasing = true;
        // No deadline: there may be much to delete. It ends with the connection.
        out.push(Action::Call {
            called: Called::new(link, configs.iter().map(|c| (c.group, c.epoch)).collect()),
            request: Call::Release(ReleaseGroups { configs }),
            deadline: None,
        });
    }

    fn is_to_be_told(&self, record: &GroupRecord, run: ServerRun) -> bool {
        let config = &record.config;
        record.is_effective()
            && takes_part(config, run)
            && self.adopted.get(&config.group) == Some(&config.epoch)
            && self.told.get(&config.group) != Some(&config.epoch)
    }
}

/// Whether the epoch names this run as a member that receives writes.
fn takes_part(config: &GroupConfig, run: ServerRun) -> bool {
    let active = |state| matches!(state, MemberState::InSync | MemberState::Joining);
    config.primary.is_some()
        && config
            .member(run.server)
            .is_some_and(|m| m.run == run && active(m.state))
}

/// Whether a server has anything to do with a group: as a member, in whatever state, or wanted.
fn is_named(record: &GroupRecord, server: ServerId) -> bool {
    let effective = record.effective.iter();
    record.home.contains(&server)
        || effective
            .chain([&record.config])
            .any(|config| config.member(server).is_some())
}
