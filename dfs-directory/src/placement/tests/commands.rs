//! The commands on the tables: compare-and-set, idempotence, what is remembered of servers.

use crate::namespace::{Format, NamespaceCommand};
use crate::placement::{Placed, PlacementCommand, PlacementOutcome, apply, first_epochs};
use crate::state::memory::MemoryTables;
use crate::state::{self, Change, Command};
use dfs_proto::attr::Timestamp;
use dfs_proto::cluster::{GroupConfig, MemberState};
use dfs_proto::ids::{
    ClusterId, Epoch, GroupId, Incarnation, MapVersion, NodeId, ServerId, ServerRun,
};
use dfs_proto::msg::registry::DataDirPast;

fn run(tables: &mut MemoryTables, command: &PlacementCommand) -> PlacementOutcome {
    apply(tables, Timestamp::default(), command).unwrap()
}

/// A run whose dir knows all runs before it, and has adopted everything.
fn register(tables: &mut MemoryTables, node: u128, incarnation: u64, clean: bool) -> ServerId {
    let past = DataDirPast {
        runs: (1..incarnation).map(Incarnation).collect(),
        intact: if clean { incarnation as u32 - 1 } else { 0 },
        accept_rollback: false,
    };
    let adopted = [0, 1].map(|group| (GroupId(group), Epoch(100)));
    come(tables, node, incarnation, past, &adopted).0
}

fn come(
    tables: &mut MemoryTables,
    node: u128,
    incarnation: u64,
    past: DataDirPast,
    epochs: &[(GroupId, Epoch)],
) -> (ServerId, Vec<GroupId>) {
    let command = PlacementCommand::RegisterServer {
        node: NodeId(node),
        incarnation: Incarnation(incarnation),
        address: format!("host:{}", node % 1000),
        past,
        epochs: epochs.to_vec(),
    };
    match run(tables, &command) {
        PlacementOutcome::Registered { server, set_back } => (server, set_back),
        other => panic!("{other:?}"),
    }
}

fn load(tables: &MemoryTables) -> Placed {
    Placed::load(tables).unwrap()
}

/// Two groups on two servers.
fn placed() -> MemoryTables {
    let mut tables = MemoryTables::default();
    let format = Format {
        replicas: 2,
        groups: 2,
        min_in_sync: 1,
        ..Format::defaults(ClusterId(3))
    };
    let command = Command {
        now: Timestamp::default(),
        change: Change::Namespace(NamespaceCommand::Format(format)),
    };
    state::apply(&mut tables, &command).unwrap();
    let runs: Vec<ServerRun> = (1..=2)
        .map(|node| ServerRun {
            server: register(&mut tables, node, 1, true),
            incarnation: Incarnation(1),
        })
        .collect();
    let first = first_epochs(&format, &runs).unwrap();
    let groups = first.into_iter().map(|config| (Epoch(0), config)).collect();
    let outcome = run(
        &mut tables,
        &PlacementCommand::Change {
            gone: Vec::new(),
            groups,
        },
    );
    let both = vec![GroupId(0), GroupId(1)];
    assert_eq!(outcome, PlacementOutcome::Changed { groups: both });
    tables
}

fn later(placed: &Placed, group: u32, epoch: u64) -> GroupConfig {
    GroupConfig {
        epoch: Epoch(epoch),
        ..placed.groups[&GroupId(group)].config.clone()
    }
}

#[test]
fn a_node_keeps_its_server_id_and_a_repeat_changes_nothing() {
    let mut tables = MemoryTables::default();
    assert_eq!(register(&mut tables, 70, 1, true), ServerId(1));
    assert_eq!(register(&mut tables, 80, 1, true), ServerId(2));
    let before = tables.clone();
    assert_eq!(register(&mut tables, 70, 1, true), ServerId(1));
    assert_eq!(tables, before);
    assert_eq!(register(&mut tables, 70, 2, true), ServerId(1));
    assert_eq!(
        load(&tables).servers[&ServerId(1)].incarnation,
        Incarnation(2)
    );
}

#[test]
fn what_a_dir_says_of_its_past_is_kept_within_bounds() {
    let mut tables = MemoryTables::default();
    let intact = |tables: &MemoryTables| load(tables).servers[&ServerId(1)].intact_since.clone();
    register(&mut tables, 70, 1, true);
    assert!(intact(&tables).is_empty());
    register(&mut tables, 70, 3, true);
    assert_eq!(intact(&tables), [Incarnation(1), Incarnation(2)]);
    register(&mut tables, 70, 4, false);
    assert!(intact(&tables).is_empty());
    register(&mut tables, 70, 40, true);
    assert_eq!(intact(&tables).len(), 16);
    assert_eq!(intact(&tables).last(), Some(&Incarnation(39)));
}

/// Both groups have served; then nobody is left.
fn all_gone() -> MemoryTables {
    let mut tables = placed();
    let both = vec![(GroupId(0), Epoch(1)), (GroupId(1), Epoch(1))];
    run(&mut tables, &PlacementCommand::Effective { groups: both });
    let gone = [1, 2].map(|server| ServerRun {
        server: ServerId(server),
        incarnation: Incarnation(1),
    });
    let change = PlacementCommand::Change {
        gone: gone.to_vec(),
        groups: Vec::new(),
    };
    run(&mut tables, &change);
    tables
}

fn past(runs: &[u64], intact: u32) -> DataDirPast {
    DataDirPast {
        runs: runs.iter().copied().map(Incarnation).collect(),
        intact,
        accept_rollback: false,
    }
}

fn lost(tables: &MemoryTables) -> Vec<Vec<ServerId>> {
    let groups = load(tables).groups;
    groups.into_values().map(|group| group.lost).collect()
}

#[test]
fn a_dir_that_was_emptied_or_set_back_is_told_from_the_one_that_served() {
    let both = [GroupId(0), GroupId(1)];
    let adopted = both.map(|group| (group, Epoch(1)));
    let server = ServerId(1);
    // Emptied, but for its identity.
    let mut tables = all_gone();
    assert_eq!(
        come(&mut tables, 1, 2, past(&[], 0), &[]),
        (server, both.to_vec())
    );
    assert_eq!(lost(&tables), [[server], [server]]);
    // An older copy does not know the run that served, however cleanly it was stopped.
    let mut tables = all_gone();
    let older = past(&[77], 1);
    assert_eq!(come(&mut tables, 1, 2, older, &adopted).1, both);
    // A snapshot of that run, from before it adopted the epoch in one group.
    let mut tables = all_gone();
    let early = [(GroupId(0), Epoch(1)), (GroupId(1), Epoch(0))];
    assert_eq!(
        come(&mut tables, 1, 2, past(&[1], 0), &early).1,
        [GroupId(1)]
    );
    assert_eq!(lost(&tables), [vec![], vec![server]]);
    // The same run again, on a new connection, changes nothing of it.
    come(&mut tables, 1, 2, past(&[1], 0), &adopted);
    assert_eq!(lost(&tables), [vec![], vec![server]]);
    // The right dir was put back after all.
    assert_eq!(come(&mut tables, 1, 3, past(&[1], 1), &adopted).1, []);
    assert_eq!(lost(&tables), [vec![], Vec::<ServerId>::new()]);
    // The older copy, which took part since: it still does not know the run that served.
    come(&mut tables, 1, 4, past(&[77], 1), &[]);
    let later = both.map(|group| (group, Epoch(9)));
    assert_eq!(come(&mut tables, 1, 5, past(&[77, 4], 2), &later).1, both);
    // A person says that nothing better is left.
    let accepted = DataDirPast {
        accept_rollback: true,
        ..past(&[77, 4, 5], 0)
    };
    assert_eq!(come(&mut tables, 1, 6, accepted, &later).1, []);
    assert_eq!(lost(&tables), [vec![], Vec::<ServerId>::new()]);
}

#[test]
fn an_epoch_that_serves_without_a_lost_dir_ends_the_matter() {
    let mut tables = all_gone();
    come(&mut tables, 1, 2, past(&[], 0), &[]);
    let mut next = later(&load(&tables), 0, 2);
    next.members[0].state = MemberState::Joining;
    next.primary = Some(ServerId(2));
    let groups = vec![(Epoch(1), next)];
    let gone = Vec::new();
    run(&mut tables, &PlacementCommand::Change { gone, groups });
    assert_eq!(lost(&tables)[0], [ServerId(1)], "it does not serve yet");
    let groups = vec![(GroupId(0), Epoch(2))];
    run(&mut tables, &PlacementCommand::Effective { groups });
    assert_eq!(lost(&tables), [vec![], vec![ServerId(1)]]);
}

#[test]
fn a_person_may_let_another_server_count_where_all_that_served_last_are_lost() {
    let mut tables = all_gone();
    let down = |state| {
        let mut next = later(&load(&all_gone()), 0, 2);
        next.primary = None;
        next.members[1].state = state;
        next.members[0].state = MemberState::LastServing;
        next
    };
    // Server 1 served alone at the end; server 2 was offline before.
    let mut alone = down(MemberState::Offline);
    alone.primary = Some(ServerId(1));
    alone.members[0].state = MemberState::InSync;
    let gone = Vec::new();
    let groups = vec![(Epoch(1), alone)];
    run(&mut tables, &PlacementCommand::Change { gone, groups });
    let groups = vec![(GroupId(0), Epoch(2))];
    run(&mut tables, &PlacementCommand::Effective { groups });
    let mut nobody = down(MemberState::Offline);
    nobody.epoch = Epoch(3);
    let (gone, groups) = (Vec::new(), vec![(Epoch(2), nobody)]);
    run(&mut tables, &PlacementCommand::Change { gone, groups });
    come(&mut tables, 1, 2, past(&[], 0), &[]);
    let served_last = |tables: &MemoryTables| {
        let group = load(tables).groups[&GroupId(0)].clone();
        let servers = group.effective.unwrap();
        let servers = servers.in_sync().map(|run| run.server);
        let servers = servers.filter(|server| !group.lost.contains(server));
        servers.collect::<Vec<_>>()
    };
    assert_eq!(served_last(&tables), []);
    let adopted = [(GroupId(0), Epoch(1)), (GroupId(1), Epoch(1))];
    come(&mut tables, 2, 2, past(&[1], 1), &adopted);
    assert_eq!(served_last(&tables), [], "not by itself");
    let accepted = DataDirPast {
        accept_rollback: true,
        ..past(&[1, 2], 2)
    };
    come(&mut tables, 2, 3, accepted, &adopted);
    assert_eq!(served_last(&tables), [ServerId(2)]);
}

#[test]
fn an_empty_dir_takes_over_the_place_of_a_server_that_nobody_needs() {
    // Node 1001 has the address of node 1.
    let mut tables = all_gone();
    let (new, _) = come(&mut tables, 1001, 7, past(&[], 0), &[]);
    assert_eq!(new, ServerId(3), "the dir that is gone may be the last one");
    // Server 2 serves without server 1.
    let mut tables = placed();
    let mut groups = Vec::new();
    for group in [0, 1] {
        let mut next = later(&load(&tables), group, 2);
        next.primary = Some(ServerId(2));
        for member in &mut next.members {
            if member.run.server == ServerId(1) {
                member.state = MemberState::Offline;
            }
        }
        groups.push((Epoch(1), next));
    }
    let gone = vec![ServerRun {
        server: ServerId(1),
        incarnation: Incarnation(1),
    }];
    let alive = tables.clone();
    run(&mut tables, &PlacementCommand::Change { gone, groups });
    let both = vec![(GroupId(0), Epoch(2)), (GroupId(1), Epoch(2))];
    run(&mut tables, &PlacementCommand::Effective { groups: both });
    let used = come(&mut tables.clone(), 1001, 7, past(&[6], 1), &[]);
    assert_eq!(used.0, ServerId(3), "a dir with a past is not empty");
    let (taken, _) = come(&mut tables, 1001, 7, past(&[], 0), &[]);
    assert_eq!(taken, ServerId(1));
    assert_eq!(load(&tables).servers[&taken].node, NodeId(1001));
    // The old dir, should it come back, is a new server with nothing that counts.
    assert_eq!(register(&mut tables, 1, 2, true), ServerId(3));
    let (other, _) = come(&mut alive.clone(), 1001, 7, past(&[], 0), &[]);
    assert_eq!(other, ServerId(3), "an address that is in use");
}

#[test]
fn a_change_counts_only_for_the_epoch_that_it_names() {
    let mut tables = placed();
    let before = load(&tables);
    let groups = vec![
        (Epoch(1), later(&before, 0, 2)),
        (Epoch(7), later(&before, 1, 8)),
    ];
    let gone = vec![ServerRun {
        server: ServerId(2),
        incarnation: Incarnation(1),
    }];
    let outcome = run(&mut tables, &PlacementCommand::Change { gone, groups });
    assert_eq!(
        outcome,
        PlacementOutcome::Changed {
            groups: vec![GroupId(0)]
        }
    );
    let after = load(&tables);
    assert_eq!(after.groups[&GroupId(0)].config.epoch, Epoch(2));
    assert_eq!(after.groups[&GroupId(1)].config.epoch, Epoch(1));
    assert!(!after.servers[&ServerId(2)].alive);
    assert!(after.map_version > before.map_version);
    // Registered again it is alive again; a late word of its former run's end is not about it.
    register(&mut tables, 2, 2, false);
    let gone = vec![ServerRun {
        server: ServerId(2),
        incarnation: Incarnation(1),
    }];
    run(
        &mut tables,
        &PlacementCommand::Change {
            gone,
            groups: Vec::new(),
        },
    );
    assert!(load(&tables).servers[&ServerId(2)].alive);
}

#[test]
fn only_the_last_epoch_becomes_effective_and_the_map_shows_effective_ones() {
    let mut tables = placed();
    assert!(
        load(&tables)
            .cluster_map()
            .groups
            .iter()
            .all(|g| g.primary.is_none())
    );
    let both = vec![(GroupId(0), Epoch(1)), (GroupId(1), Epoch(1))];
    run(
        &mut tables,
        &PlacementCommand::Effective {
            groups: both.clone(),
        },
    );
    let served = load(&tables);
    let map = served.cluster_map();
    assert_eq!(map.groups.len(), 2);
    assert!(
        map.groups
            .iter()
            .all(|g| g.primary.is_some() && g.in_sync.len() == 2)
    );
    // A repeat says nothing new.
    let outcome = run(&mut tables, &PlacementCommand::Effective { groups: both });
    assert_eq!(outcome, PlacementOutcome::Changed { groups: Vec::new() });
    assert_eq!(load(&tables), served);

    let mut next = later(&served, 0, 2);
    next.members[1].state = MemberState::Offline;
    run(
        &mut tables,
        &PlacementCommand::Change {
            gone: Vec::new(),
            groups: vec![(Epoch(1), next)],
        },
    );
    let between = load(&tables);
    assert_eq!(
        between.cluster_map().groups[0].in_sync.len(),
        2,
        "the new one does not serve yet"
    );
    let late = vec![(GroupId(0), Epoch(1))];
    run(&mut tables, &PlacementCommand::Effective { groups: late });
    assert!(!load(&tables).groups[&GroupId(0)].is_effective());
    let now = vec![(GroupId(0), Epoch(2))];
    run(&mut tables, &PlacementCommand::Effective { groups: now });
    let map = load(&tables).cluster_map();
    assert_eq!(
        (map.groups[0].epoch, map.groups[0].in_sync.len()),
        (Epoch(2), 1)
    );
    assert!(map.version > MapVersion(0));
}

#[test]
fn a_group_without_a_primary_is_in_the_map_with_nobody() {
    let mut tables = placed();
    let both = vec![(GroupId(0), Epoch(1)), (GroupId(1), Epoch(1))];
    run(&mut tables, &PlacementCommand::Effective { groups: both });
    let mut down = later(&load(&tables), 0, 2);
    down.primary = None;
    for member in &mut down.members {
        member.state = MemberState::LastServing;
    }
    let groups = vec![(Epoch(1), down)];
    run(
        &mut tables,
        &PlacementCommand::Change {
            gone: Vec::new(),
            groups,
        },
    );
    let map = load(&tables).cluster_map();
    assert_eq!(map.groups[0].primary, None);
    assert_eq!(map.groups[0].epoch, Epoch(1));
    assert!(map.groups[0].in_sync.is_empty() && !map.groups[0].writable);
    assert!(map.groups[1].primary.is_some());
}
