//! Moves of groups, over random clusters: every one is allowed, none is missing, loads are even.

use crate::namespace::Format;
use crate::placement::{
    Condition, Conditions, GroupRecord, NewHome, Placed, first_epochs, is_left, is_settled, moves,
    rebalance, stuck,
};
use dfs_proto::cluster::{GroupMember, MemberState, ServerLife};
use dfs_proto::ids::{ClusterId, Incarnation, ServerId, ServerRun};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const MOVING_MAX: usize = 4;

fn run(server: ServerId) -> ServerRun {
    ServerRun {
        server,
        incarnation: Incarnation(7),
    }
}

/// A cluster at rest over the first `holders` of the servers.
fn placed(replicas: u8, groups: u32, holders: u32) -> Placed {
    let format = Format {
        replicas,
        groups,
        min_in_sync: replicas.div_ceil(2),
        ..Format::defaults(ClusterId(1))
    };
    let runs: Vec<ServerRun> = (1..=holders).map(|s| run(ServerId(s))).collect();
    let configs = first_epochs(&format, &runs).expect("enough servers");
    let records = configs.into_iter().map(|config| {
        let record = GroupRecord {
            home: config.members.iter().map(|m| m.run.server).collect(),
            effective: Some(config.clone()),
            config,
            lost: Vec::new(),
        };
        (record.config.group, record)
    });
    Placed {
        format: Some(format),
        groups: records.collect(),
        ..Placed::default()
    }
}

fn fit() -> Condition {
    Condition {
        life: ServerLife::Active,
        alive: true,
        gone_for: Duration::ZERO,
        lost: false,
        roomy: true,
    }
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        6 => Just(fit()),
        1 => Just(Condition { roomy: false, ..fit() }),
        1 => Just(Condition { life: ServerLife::Draining, ..fit() }),
        1 => Just(Condition { life: ServerLife::Removed, ..fit() }),
        1 => Just(Condition { alive: false, lost: true, ..fit() }),
        1 => Just(Condition { alive: false, ..fit() }),
    ]
}

/// The group's epoch as it is when nobody is on the way: wanted servers that are alive are
/// in-sync. Without any of them it keeps what it has.
fn come_to_rest(record: &mut GroupRecord, conditions: &Conditions) {
    let alive = |server: &ServerId| conditions[server].alive;
    if !record.home.iter().any(alive) {
        return;
    }
    let member = |server: &ServerId| GroupMember {
        run: run(*server),
        state: match alive(server) {
            true => MemberState::InSync,
            false => MemberState::Offline,
        },
    };
    record.config.members = record.home.iter().map(member).collect();
    record.config.primary = record.home.iter().copied().find(alive);
    record.effective = Some(record.config.clone());
}

fn check(new: &NewHome, record: &GroupRecord, conditions: &Conditions) {
    let old: BTreeSet<_> = record.home.iter().copied().collect();
    let home: BTreeSet<_> = new.home.iter().copied().collect();
    assert_eq!(new.expect, record.home);
    assert_eq!(home.len(), record.home.len(), "distinct servers, as many");
    let come: Vec<_> = home.difference(&old).collect();
    assert!(come.len() <= 1, "one at a time");
    for server in come {
        let to = conditions[server];
        assert!(
            to.alive && to.life == ServerLife::Active,
            "{server} takes groups"
        );
        let others = conditions.iter().filter(|(s, c)| {
            !record.home.contains(s) && c.alive && c.life == ServerLife::Active && c.roomy
        });
        assert!(
            to.roomy || others.count() == 0,
            "one with room is taken first"
        );
    }
}

fn loads(placed: &Placed, conditions: &Conditions) -> Vec<usize> {
    let takes = conditions
        .iter()
        .filter(|(_, c)| c.alive && c.life == ServerLife::Active);
    let load = |server: &ServerId| {
        let holds = |record: &&GroupRecord| record.home.contains(server);
        placed.groups.values().filter(holds).count()
    };
    takes.map(|(server, _)| load(server)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn groups_leave_whom_they_are_to_leave_and_loads_get_even(
        replicas in 1u8..=3,
        groups in 1u32..40,
        holders in 3u32..6,
        conditions in proptest::collection::vec(condition(), 3..9),
    ) {
        prop_assume!(conditions.len() >= holders as usize);
        let conditions: Conditions = (1..).map(ServerId).zip(conditions).collect();
        let mut placed = placed(replicas, groups, holders);
        for record in placed.groups.values_mut() {
            come_to_rest(record, &conditions);
        }
        // Each round moves up to MOVING_MAX groups by one server each.
        for _ in 0..groups * u32::from(replicas) + 1 {
            let new = moves(&placed, &conditions, MOVING_MAX);
            if new.is_empty() {
                break;
            }
            let urgent = |new: &&NewHome| !placed.groups[&new.group].config.is_writable();
            prop_assert!(new.iter().filter(|n| !urgent(n)).count() <= MOVING_MAX);
            let fewest: Vec<usize> = new
                .iter()
                .map(|n| placed.groups[&n.group].config.in_sync().count())
                .collect();
            prop_assert!(fewest.is_sorted(), "fewest copies first: {fewest:?}");
            for new in new {
                let record = placed.groups.get_mut(&new.group).expect("known");
                check(&new, record, &conditions);
                record.home = new.home;
                come_to_rest(record, &conditions);
            }
        }
        prop_assert_eq!(moves(&placed, &conditions, MOVING_MAX), vec![]);
        for (group, record) in &placed.groups {
            let left = record.home.iter().any(|server| is_left(&conditions, *server));
            let served = record.config.in_sync().any(|run| conditions[&run.server].alive);
            if left && served {
                prop_assert!(stuck(*group, record, &conditions).is_some(), "{record:?}");
            }
        }
        if !is_settled(&placed, &conditions) {
            return Ok(());
        }
        let mut steps = 0;
        while let Some(new) = rebalance(&placed, &conditions) {
            let record = placed.groups.get_mut(&new.group).expect("known");
            check(&new, record, &conditions);
            record.home = new.home;
            come_to_rest(record, &conditions);
            steps += 1;
            prop_assert!(steps < 1_000, "it never comes to rest");
        }
        let loads = loads(&placed, &conditions);
        let roomy = conditions.values().all(|c| c.roomy);
        let spread = loads.iter().max().unwrap_or(&0) - loads.iter().min().unwrap_or(&0);
        prop_assert!(spread <= 1 || !roomy, "{loads:?}");
    }
}

#[test]
fn a_member_that_counts_is_replaced_only_when_nobody_else_is_on_its_leave() {
    let mut placed = placed(3, 1, 3);
    let mut conditions: Conditions = (1..=5).map(|s| (ServerId(s), fit())).collect();
    let drained = Condition {
        life: ServerLife::Draining,
        ..fit()
    };
    conditions.insert(ServerId(1), drained);
    conditions.insert(ServerId(2), drained);
    let first = moves(&placed, &conditions, MOVING_MAX);
    assert_eq!(first.len(), 1);
    let record = placed.groups.values_mut().next().unwrap();
    let leaving: Vec<ServerId> = record
        .home
        .iter()
        .copied()
        .filter(|server| !first[0].home.contains(server))
        .collect();
    record.home = first[0].home.clone();
    let by_server: BTreeMap<ServerId, GroupMember> = record
        .config
        .members
        .iter()
        .map(|member| (member.run.server, *member))
        .collect();
    let joining = |server: &ServerId| GroupMember {
        run: run(*server),
        state: MemberState::Joining,
    };
    let named = record.home.iter().chain(&leaving);
    record.config.members = named
        .map(|server| by_server.get(server).copied().unwrap_or(joining(server)))
        .collect();
    record.effective = Some(record.config.clone());
    assert_eq!(moves(&placed, &conditions, MOVING_MAX), []);
    // The one that joins dies for good: it holds nothing that counts, and is replaced at once.
    let dead = *first[0]
        .home
        .iter()
        .find(|s| !by_server.contains_key(s))
        .unwrap();
    let lost = Condition {
        alive: false,
        lost: true,
        ..fit()
    };
    conditions.insert(dead, lost);
    let record = placed.groups.values_mut().next().unwrap();
    for member in &mut record.config.members {
        if member.run.server == dead {
            member.state = MemberState::Offline;
        }
    }
    record.effective = Some(record.config.clone());
    let second = moves(&placed, &conditions, MOVING_MAX);
    assert_eq!(second.len(), 1);
    assert!(!second[0].home.contains(&dead));
}

#[test]
fn a_group_of_which_nobody_is_left_is_stuck_until_one_is_back() {
    let mut placed = placed(3, 1, 3);
    let dead = Condition {
        alive: false,
        ..fit()
    };
    let mut conditions: Conditions = (1..=4).map(|s| (ServerId(s), dead)).collect();
    conditions.insert(ServerId(4), fit());
    let (group, record) = placed.groups.iter_mut().next().unwrap();
    record.config.primary = None;
    for member in &mut record.config.members {
        member.state = MemberState::LastServing;
    }
    let why = stuck(*group, record, &conditions);
    assert!(why.is_some_and(|why| why.contains("must come back")));
    conditions.insert(ServerId(2), fit());
    assert_eq!(stuck(*group, record, &conditions), None);
}
