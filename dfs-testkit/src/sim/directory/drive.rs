//! Carries epochs out: adopted by all in-sync members, made equal by the primary, effective.

use super::registry::{Link, Registry};
use crate::sim::message::{Answer, Ask, Called, Process, Then, Told};
use crate::sim::schedule::Schedule;
use dfs_directory::placement::{GroupRecord, Placed};
use dfs_proto::cluster::{GroupConfig, MemberState};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{Epoch, GroupId, ServerId, ServerRun};
use dfs_proto::msg::control::{AdoptEpochs, EpochsEffective, EqualiseGroups};
use dfs_proto::payload::Payload;
use dfs_proto::timing::SERVER_SILENT;
use dfs_server::replica::{Request, Response, Sender};
use std::collections::BTreeMap;
use std::time::Duration;

const ADOPT_DEADLINE: Duration = SERVER_SILENT;

/// Ends with the connection in the real directory; here a lost one is noticed by then.
const EQUALISE_DEADLINE: Duration = Duration::from_millis(4_000);

const RETRY: Duration = Duration::from_millis(50);

/// Failed adoptions in a row after which a server is suspected.
const FAILURES_MAX: u32 = 3;

/// What is known of one connected run.
#[derive(Debug, Default)]
struct Lane {
    number: u64,
    adopted: BTreeMap<GroupId, Epoch>,
    told: BTreeMap<GroupId, Epoch>,
    adopting: bool,
    telling: bool,
    failures: u32,
    retry_at: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Drive {
    lanes: BTreeMap<ServerId, Lane>,
    equalised: BTreeMap<GroupId, Epoch>,
    equalising: BTreeMap<GroupId, (Epoch, u64)>,
    equalise_at: BTreeMap<GroupId, Duration>,
}

impl Drive {
    /// Makes the calls that are missing; the epochs that may be logged as effective.
    pub(super) fn step(
        &mut self,
        s: &mut Schedule,
        own: Process,
        placed: &Placed,
        registry: &Registry,
    ) -> Vec<(GroupId, Epoch)> {
        self.lanes.retain(|server, lane| {
            registry
                .link(*server)
                .is_some_and(|link| link.number == lane.number)
        });
        for link in registry.links() {
            let lane = self.lanes.entry(link.run.server).or_insert_with(|| Lane {
                number: link.number,
                ..Lane::default()
            });
            lane.adopt(s, own, placed, link);
            lane.tell(s, own, placed, link);
        }
        self.equalise(s, own, placed, registry);
        placed
            .groups
            .iter()
            .filter(|(group, record)| {
                !record.is_effective() && self.equalised.get(group) == Some(&record.config.epoch)
            })
            .map(|(group, record)| (*group, record.config.epoch))
            .collect()
    }

    fn equalise(&mut self, s: &mut Schedule, own: Process, placed: &Placed, registry: &Registry) {
        // A call that went with its connection is made again.
        self.equalising
            .retain(|_, (_, number)| registry.links().any(|link| link.number == *number));
        let mut ready: BTreeMap<ServerId, Vec<(GroupId, Epoch)>> = BTreeMap::new();
        for (group, record) in &placed.groups {
            let epoch = record.config.epoch;
            let begun = self
                .equalising
                .get(group)
                .is_some_and(|(at, _)| *at == epoch);
            let waits = self
                .equalise_at
                .get(group)
                .is_some_and(|at| *at > s.directory_now());
            let done = self.equalised.get(group) == Some(&epoch);
            if record.is_effective() || begun || waits || done {
                continue;
            }
            if let Some(primary) = self.adopted_by_all(&record.config, registry) {
                ready.entry(primary).or_default().push((*group, epoch));
            }
        }
        for (primary, groups) in ready {
            let Some(link) = registry.link(primary) else {
                continue;
            };
            for (group, epoch) in &groups {
                self.equalising.insert(*group, (*epoch, link.number));
            }
            let called = called(link, groups.clone());
            let request = Request::Equalise(EqualiseGroups { groups });
            let then = Then::Equalised(called);
            s.call(own, link.process, control(request), EQUALISE_DEADLINE, then);
        }
    }

    fn adopted_by_all(&self, config: &GroupConfig, registry: &Registry) -> Option<ServerId> {
        let has_adopted = |run: ServerRun| {
            let linked = registry
                .link(run.server)
                .is_some_and(|link| link.run == run);
            let lane = self.lanes.get(&run.server).filter(|_| linked);
            lane.and_then(|lane| lane.adopted.get(&config.group)) == Some(&config.epoch)
        };
        config.in_sync().all(has_adopted).then_some(config.primary?)
    }

    /// An answer to `AdoptEpochs`: whom to suspect, and whether not to take it as joining.
    pub(super) fn adopted(
        &mut self,
        placed: &Placed,
        called: &Called,
        answer: Answer,
        now: Duration,
    ) -> (Vec<(GroupId, Epoch, ServerRun)>, bool) {
        let Some(lane) = self.lane_of(called) else {
            return (Vec::new(), false);
        };
        lane.adopting = false;
        let code = match answer {
            Ok(Told::Chunk(Response::Adopted(adopted), _)) => {
                lane.adopted.extend(adopted.epochs);
                let behind = |(group, epoch): &&(GroupId, Epoch)| {
                    lane.adopted.get(group).is_none_or(|at| at < epoch)
                };
                match called.asked.iter().filter(behind).count() {
                    0 => {
                        lane.failures = 0;
                        return (Vec::new(), false);
                    }
                    _ => ErrorCode::WrongEpoch,
                }
            }
            Ok(_) => ErrorCode::Malformed,
            Err(error) => error.code,
        };
        lane.failures += 1;
        lane.retry_at = now + RETRY;
        let patient = lane.failures < FAILURES_MAX && code != ErrorCode::DeadlineExceeded;
        if code == ErrorCode::Disconnected || patient {
            return (Vec::new(), false);
        }
        let waiting = |(group, epoch): &&(GroupId, Epoch)| {
            let record = placed.groups.get(group);
            record.is_some_and(|r| r.config.epoch == *epoch && !r.is_effective())
        };
        let suspects = called.asked.iter().filter(waiting);
        (
            suspects
                .map(|(group, epoch)| (*group, *epoch, called.run))
                .collect(),
            true,
        )
    }

    /// An answer to `EqualiseGroups`: whom to suspect.
    pub(super) fn equalised(
        &mut self,
        called: &Called,
        answer: Answer,
        now: Duration,
    ) -> Vec<(GroupId, Epoch, ServerRun)> {
        for (group, epoch) in &called.asked {
            if self.equalising.get(group) == Some(&(*epoch, called.link)) {
                self.equalising.remove(group);
                self.equalise_at.insert(*group, now + RETRY);
            }
        }
        let Ok(Told::Chunk(Response::Equalised(done), _)) = answer else {
            return Vec::new();
        };
        for (group, epoch) in &done.groups {
            if called.asked.contains(&(*group, *epoch)) {
                self.equalised.insert(*group, *epoch);
                self.equalise_at.remove(group);
            }
        }
        let epoch_of = |group| {
            called
                .asked
                .iter()
                .find(|(g, _)| *g == group)
                .map(|(_, e)| *e)
        };
        let suspects = done.suspects.iter();
        suspects
            .filter_map(|(group, run)| Some((*group, epoch_of(*group)?, *run)))
            .collect()
    }

    /// An answer to `EpochsEffective`.
    pub(super) fn informed(&mut self, called: &Called, answer: &Answer, now: Duration) {
        let Some(lane) = self.lane_of(called) else {
            return;
        };
        lane.telling = false;
        match answer {
            Ok(_) => lane.told.extend(called.asked.iter().copied()),
            Err(_) => lane.retry_at = now + RETRY,
        }
    }

    fn lane_of(&mut self, called: &Called) -> Option<&mut Lane> {
        let lane = self.lanes.get_mut(&called.run.server)?;
        (lane.number == called.link).then_some(lane)
    }
}

impl Lane {
    fn adopt(&mut self, s: &mut Schedule, own: Process, placed: &Placed, link: &Link) {
        if self.adopting || self.retry_at > s.directory_now() {
            return;
        }
        let configs: Vec<GroupConfig> = placed
            .groups
            .values()
            .map(|record| &record.config)
            .filter(|config| takes_part(config, link.run))
            .filter(|c| self.adopted.get(&c.group).is_none_or(|at| *at < c.epoch))
            .cloned()
            .collect();
        if configs.is_empty() {
            return;
        }
        self.adopting = true;
        let called = called(link, configs.iter().map(|c| (c.group, c.epoch)).collect());
        let request = Request::Adopt(AdoptEpochs {
            configs,
            servers: placed.server_entries(),
            fenced: placed.fenced.clone(),
        });
        let then = Then::Adopted(called);
        s.call(own, link.process, control(request), ADOPT_DEADLINE, then);
    }

    fn tell(&mut self, s: &mut Schedule, own: Process, placed: &Placed, link: &Link) {
        if self.telling || self.retry_at > s.directory_now() {
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
        let then = Then::Informed(called(link, groups.clone()));
        let request = Request::Effective(EpochsEffective { groups });
        s.call(own, link.process, control(request), ADOPT_DEADLINE, then);
    }

    fn is_to_be_told(&self, record: &GroupRecord, run: ServerRun) -> bool {
        let config = &record.config;
        record.is_effective()
            && takes_part(config, run)
            && self.adopted.get(&config.group) == Some(&config.epoch)
            && self.told.get(&config.group) != Some(&config.epoch)
    }
}

fn called(link: &Link, asked: Vec<(GroupId, Epoch)>) -> Called {
    Called {
        run: link.run,
        link: link.number,
        asked,
    }
}

/// A request of the directory to a file server.
pub(super) fn control(request: Request) -> Ask {
    Ask::Chunk {
        from: Sender::Directory,
        request,
        payload: Payload::default(),
    }
}

fn takes_part(config: &GroupConfig, run: ServerRun) -> bool {
    let active = |state| matches!(state, MemberState::InSync | MemberState::Joining);
    let member = config.member(run.server);
    config.primary.is_some() && member.is_some_and(|m| m.run == run && active(m.state))
}
