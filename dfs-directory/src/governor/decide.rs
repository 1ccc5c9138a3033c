//! What all that is known asks for: one command, with new epochs for groups.

use super::Governor;
use super::logging::Logging;
use crate::placement::transition::{self, Servers};
use crate::placement::{self, PlacementCommand};
use dfs_proto::cluster::GroupConfig;
use dfs_proto::ids::{Epoch, GroupId, ServerId, ServerRun};
use dfs_proto::msg::registry::ProposeInSync;
use dfs_proto::timing::RETURN_WAIT;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a group waits for those that served last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Return {
    /// The first of them was seen.
    since: Duration,
    /// For whom it was said that they are waited for.
    told: Vec<ServerId>,
    /// A person does not wait any more.
    go_on: bool,
}

impl Governor {
    /// The changes that all of what is known asks for, as one command.
    pub(super) fn decide(&mut self, now: Duration) {
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
    pub(super) fn go_on(&mut self) -> u32 {
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
