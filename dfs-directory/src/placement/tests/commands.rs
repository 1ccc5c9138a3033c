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

fn run(tables: &mut MemoryTables, command: &PlacementCommand) -> PlacementOutcome {
    apply(tables, Timestamp::default(), command).unwrap()
}

fn register(tables: &mut MemoryTables, node: u128, incarnation: u64, clean: bool) -> ServerId {
    let command = PlacementCommand::RegisterServer {
        node: NodeId(node),
        incarnation: Incarnation(incarnation),
        address: format!("host:{node}"),
        clean,
    };
    match run(tables, &command) {
        PlacementOutcome::Registered { server } => server,
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
fn clean_restarts_count_from_the_last_unclean_one() {
    let mut tables = MemoryTables::default();
    let intact = |tables: &MemoryTables| load(tables).servers[&ServerId(1)].intact_since.clone();
    register(&mut tables, 70, 1, false);
    assert!(intact(&tables).is_empty());
    register(&mut tables, 70, 2, true);
    register(&mut tables, 70, 3, true);
    assert_eq!(intact(&tables), [Incarnation(1), Incarnation(2)]);
    // The same run again, on a new connection, says nothing new.
    register(&mut tables, 70, 3, false);
    assert_eq!(intact(&tables), [Incarnation(1), Incarnation(2)]);
    register(&mut tables, 70, 4, false);
    assert!(intact(&tables).is_empty());
    for incarnation in 5..40 {
        register(&mut tables, 70, incarnation, true);
    }
    assert_eq!(intact(&tables).len(), 16);
    assert_eq!(intact(&tables).last(), Some(&Incarnation(38)));
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
