//! Random histories of one group: servers die, come back with and without their latest data,
//! are suspected and proposed, epochs become effective or don't. After every step the rules
//! hold, and no epoch ever serves without what was acknowledged.

use crate::placement::GroupRecord;
use crate::placement::transition::{Event, Primaries, ServerView, Servers, next};
use dfs_proto::cluster::{Equalise, GroupConfig, GroupMember, MemberState};
use dfs_proto::ids::{Epoch, GroupId, Incarnation, ServerId, ServerRun};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug)]
enum Step {
    Die(u32),
    /// After a power failure: what was not synced is gone.
    ReturnLossy(u32),
    /// After a kill: everything is there, but nobody can know.
    ReturnUnclean(u32),
    ReturnClean(u32),
    /// With a data dir that was emptied, or an older copy of it that stopped orderly.
    ReturnSetBack(u32),
    /// Only the connection was lost.
    Reconnect(u32),
    Withhold(u32, bool),
    Suspect(u32),
    Expel(u32),
    Propose(u32),
    WaitOver,
    /// Nobody waits for the others any longer.
    GoOn,
    Rebalance,
    Effective,
    /// The group is to move from one server to another.
    Move(u32, u32),
}

fn step(servers: u32) -> impl Strategy<Value = Step> {
    let one = 1..=servers;
    prop_oneof![
        3 => one.clone().prop_map(Step::Die),
        1 => one.clone().prop_map(Step::ReturnLossy),
        2 => one.clone().prop_map(Step::ReturnUnclean),
        1 => one.clone().prop_map(Step::ReturnClean),
        1 => one.clone().prop_map(Step::ReturnSetBack),
        1 => one.clone().prop_map(Step::Reconnect),
        1 => (one.clone(), any::<bool>()).prop_map(|(s, on)| Step::Withhold(s, on)),
        2 => one.clone().prop_map(Step::Suspect),
        1 => one.clone().prop_map(Step::Expel),
        1 => (one.clone(), one.clone()).prop_map(|(from, to)| Step::Move(from, to)),
        4 => one.prop_map(Step::Propose),
        2 => Just(Step::WaitOver),
        1 => Just(Step::GoOn),
        1 => Just(Step::Rebalance),
        6 => Just(Step::Effective),
    ]
}

/// The world around one group.
struct World {
    record: GroupRecord,
    servers: Servers,
    /// Servers whose disks hold every acknowledged write.
    complete: BTreeSet<ServerId>,
    epochs: BTreeMap<Epoch, GroupConfig>,
    /// Since an epoch served, what was there was told to do.
    gave_up: bool,
}

impl World {
    /// `count` servers, the first `replicas` of which are wanted.
    fn new(count: u32, replicas: u32) -> Self {
        let run = |server| ServerRun {
            server: ServerId(server),
            incarnation: Incarnation(1),
        };
        let config = GroupConfig {
            group: GroupId(0),
            epoch: Epoch(1),
            primary: Some(ServerId(1)),
            members: (1..=replicas)
                .map(|server| GroupMember {
                    run: run(server),
                    state: MemberState::InSync,
                })
                .collect(),
            min_in_sync: if replicas >= 3 { 2 } else { 1 },
            equalise: Equalise::Marked,
        };
        let view = ServerView {
            incarnation: Incarnation(1),
            alive: true,
            intact_since: Vec::new(),
            may_join: true,
        };
        Self {
            servers: (1..=count)
                .map(|server| (ServerId(server), view.clone()))
                .collect(),
            complete: (1..=replicas).map(ServerId).collect(),
            epochs: BTreeMap::from([(config.epoch, config.clone())]),
            gave_up: false,
            record: GroupRecord {
                home: (1..=replicas).map(ServerId).collect(),
                config,
                effective: None,
                lost: Vec::new(),
            },
        }
    }

    fn present(&self, server: ServerId) -> ServerRun {
        ServerRun {
            server,
            incarnation: self.servers[&server].incarnation,
        }
    }

    fn is_alive(&self, run: ServerRun) -> bool {
        self.servers[&run.server].alive && self.present(run.server) == run
    }

    fn base(&self) -> Vec<ServerRun> {
        match &self.record.effective {
            Some(effective) => effective
                .in_sync()
                .filter(|run| !self.record.lost.contains(&run.server))
                .collect(),
            None => self.record.home.iter().map(|s| self.present(*s)).collect(),
        }
    }

    fn restart(&mut self, server: ServerId, clean: bool) {
        let view = self.servers.get_mut(&server).unwrap();
        if !view.alive {
            if clean {
                view.intact_since.push(view.incarnation);
            } else {
                view.intact_since.clear();
            }
            view.incarnation.0 += 1;
            view.alive = true;
        }
    }

    fn act(&mut self, step: Step) -> Event {
        match step {
            Step::Die(s) => self.servers.get_mut(&ServerId(s)).unwrap().alive = false,
            Step::ReturnLossy(s) => {
                if !self.servers[&ServerId(s)].alive && self.record.effective.is_some() {
                    self.complete.remove(&ServerId(s));
                }
                self.restart(ServerId(s), false);
            }
            Step::ReturnUnclean(s) => self.restart(ServerId(s), false),
            Step::ReturnClean(s) => self.restart(ServerId(s), true),
            Step::ReturnSetBack(s) => {
                let server = ServerId(s);
                let served = self.base().iter().any(|run| run.server == server);
                if !self.servers[&server].alive && served && self.record.effective.is_some() {
                    self.complete.remove(&server);
                    self.record.lost.push(server);
                }
                self.restart(server, true);
            }
            Step::Reconnect(s) => self.servers.get_mut(&ServerId(s)).unwrap().alive = true,
            Step::Withhold(s, on) => {
                self.servers.get_mut(&ServerId(s)).unwrap().may_join = !on;
            }
            Step::Suspect(s) => return Event::Suspect(self.present(ServerId(s))),
            Step::Expel(s) => return Event::Expel(self.present(ServerId(s))),
            Step::WaitOver => return Event::ReturnWaitOver,
            Step::GoOn => {
                self.gave_up |= !self.record.is_effective();
                return Event::GoOn;
            }
            Step::Rebalance => return Event::Rebalance,
            Step::Effective => self.make_effective(),
            Step::Move(from, to) => self.rehome(ServerId(from), ServerId(to)),
            Step::Propose(s) => {
                let joined = self.present(ServerId(s));
                let config = &self.record.config;
                let from = config.primary.and_then(|p| config.member(p)).map(|m| m.run);
                let Some(from) = from else {
                    return Event::Review;
                };
                let joining = config.joining().any(|run| run == joined);
                if self.record.is_effective() && self.is_alive(from) && joining {
                    // The primary has brought it up to date before it proposes.
                    self.complete.insert(joined.server);
                }
                return Event::Propose {
                    from,
                    epoch: config.epoch,
                    joined,
                };
            }
        }
        Event::Review
    }

    /// As a move does it: between two epochs that serve, and one that counts only when nobody
    /// else is on its leave.
    fn rehome(&mut self, from: ServerId, to: ServerId) {
        let record = &mut self.record;
        let counts = record.config.in_sync().any(|run| run.server == from);
        let leaving = record.config.members.len() > record.home.len();
        let serves = record.is_effective() && record.config.primary.is_some();
        let at = record.home.iter().position(|server| *server == from);
        if let Some(at) = at
            && serves
            && !(counts && leaving)
            && !record.home.contains(&to)
        {
            record.home[at] = to;
        }
    }

    /// All in-sync members adopt and are made equal; then a write is acknowledged.
    fn make_effective(&mut self) {
        let config = self.record.config.clone();
        let all_there = config.in_sync().all(|run| self.is_alive(run));
        if config.primary.is_none() || self.record.is_effective() || !all_there {
            return;
        }
        let in_sync: BTreeSet<ServerId> = config.in_sync().map(|run| run.server).collect();
        let someone = in_sync.iter().any(|s| self.complete.contains(s));
        let everyone = in_sync.iter().all(|s| self.complete.contains(s));
        match config.equalise {
            Equalise::Marked => assert!(
                everyone || self.nobody_complete(),
                "{config:?} serves with a member that lacks data, complete: {:?}",
                self.complete
            ),
            Equalise::Everything => assert!(
                someone || self.nobody_complete(),
                "{config:?} serves without data that {:?} has",
                self.complete
            ),
        }
        self.complete = in_sync;
        self.gave_up = false;
        self.record.lost.clear();
        self.record.effective = Some(config);
    }

    /// All who served last lost data, or they were not waited for.
    fn nobody_complete(&self) -> bool {
        let mut base = self.base().into_iter().map(|run| run.server);
        self.gave_up || !base.any(|s| self.complete.contains(&s))
    }

    fn check(&self, event: Event, new: &GroupConfig) {
        let old = &self.record.config;
        let base = self.base();
        let based = |run: &ServerRun| base.contains(run);
        let in_sync: Vec<ServerRun> = new.in_sync().collect();
        assert_eq!(new.epoch, old.epoch.next());
        let named: Vec<ServerId> = new.members.iter().map(|m| m.run.server).collect();
        let (wanted, leaving) = named.split_at(self.record.home.len());
        assert_eq!(
            wanted, self.record.home,
            "the wanted ones come first, in order"
        );
        for server in leaving {
            let counted = base.iter().any(|run| run.server == *server);
            assert!(counted, "{server} is not wanted and never counted");
        }
        let alive_base = base.iter().filter(|run| self.is_alive(**run)).count();
        assert!(
            in_sync.len() >= alive_base.min(self.record.home.len())
                || !matches!(event, Event::Review)
                || old.primary.is_none()
                || !self.record.is_effective(),
            "a move has cost a copy"
        );
        assert_eq!(new.primary.is_some(), !in_sync.is_empty());
        if let Some(primary) = new.primary {
            assert!(
                in_sync.iter().any(|run| run.server == primary),
                "a primary is in-sync"
            );
            assert!(
                base.iter().any(|run| run.server == primary),
                "a joining member never becomes primary"
            );
        }
        let proposed = match event {
            Event::Propose { joined, .. } => Some(joined),
            _ => None,
        };
        for run in &in_sync {
            assert!(self.is_alive(*run), "only runs that are there are in-sync");
            let promoted = old.in_sync().any(|r| r == *run) && !self.record.is_effective();
            let comparing = !self.record.is_effective() && old.equalise == Equalise::Everything;
            if old.primary.is_some() && !comparing {
                assert!(
                    based(run) || proposed == Some(*run) || promoted,
                    "{run} is in-sync and was neither before nor proposed"
                );
            } else {
                assert!(
                    base.iter().any(|b| b.server == run.server),
                    "{run} was promoted over the last serving"
                );
            }
        }
        if let Event::Suspect(run) = event
            && old.in_sync().any(|r| r == run)
            && !in_sync.contains(&run)
            && self.is_alive(run)
            && old.in_sync().all(|r| self.is_alive(r))
        {
            let ready = old.joining().any(|r| r != run && self.is_alive(r));
            assert!(
                in_sync.len() >= usize::from(old.min_in_sync) || ready,
                "a suspicion took the group below min_in_sync"
            );
        }
        for member in &new.members {
            let view = &self.servers[&member.run.server];
            match member.state {
                MemberState::InSync | MemberState::Joining => {
                    assert!(self.is_alive(member.run));
                }
                MemberState::LastServing => {
                    assert!(in_sync.is_empty(), "last serving only while nobody serves");
                }
                MemberState::Offline => {
                    assert!(in_sync.is_empty() || !view.alive || !view.may_join);
                }
            }
        }
    }

    fn run(&mut self, steps: &[Step]) {
        for step in steps {
            let event = self.act(*step);
            if let Some(new) = next(&self.record, event, &self.servers, &Primaries::new()) {
                self.check(event, &new);
                let known = self.epochs.insert(new.epoch, new.clone());
                assert_eq!(known, None, "an epoch is given once");
                self.record.config = new;
            }
            let quiet = next(
                &self.record,
                Event::Review,
                &self.servers,
                &Primaries::new(),
            );
            if !matches!(event, Event::Review) {
                continue;
            }
            assert_eq!(quiet, None, "a review right after a review changes nothing");
        }
    }

    /// Everybody comes back and nothing happens any more: the group is whole again.
    fn heal(&mut self) {
        for server in self.servers.keys().copied().collect::<Vec<_>>() {
            self.servers.get_mut(&server).unwrap().may_join = true;
            self.restart(server, false);
        }
        if self.base().is_empty() {
            // A person accepts one of the old copies.
            self.record.lost.pop();
        }
        for _ in 0..20 {
            self.run(&[Step::WaitOver, Step::GoOn, Step::Effective]);
            let joining: Vec<_> = self.record.config.joining().map(|r| r.server.0).collect();
            for server in joining {
                self.run(&[Step::Effective, Step::Propose(server), Step::Effective]);
            }
        }
        assert!(self.record.is_effective());
        let mut in_sync: Vec<_> = self.record.config.in_sync().map(|r| r.server).collect();
        let mut home = self.record.home.clone();
        in_sync.sort_unstable();
        home.sort_unstable();
        assert_eq!(in_sync, home, "whole, and nobody is on its leave");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn rules_hold_and_every_group_heals(
        (count, replicas, steps) in (1u32..=5, 1u32..=4).prop_flat_map(|(count, replicas)| {
            let steps = proptest::collection::vec(step(count), 1..60);
            (Just(count), Just(replicas.min(count)), steps)
        })
    ) {
        let mut world = World::new(count, replicas);
        world.run(&steps);
        world.heal();
    }
}
