//! What the governor makes of what happens.

use super::world::World;
use crate::governor::{Event, LinkId, Reply, Ticket};
use crate::placement::PlacementCommand;
use dfs_proto::cluster::MemberState;
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{Epoch, Incarnation, ServerId, ServerRun, SessionId};
use dfs_proto::msg::registry::ServerHeartbeat;
use std::time::Duration;

#[test]
fn a_server_that_dies_is_out_after_the_lingering_and_comes_back_as_joining() {
    let mut world = World::started(3, 6, 3);
    let begun = world.now;
    world.kill(1);
    assert!(world.serves_with(&[1, 2, 3]), "it may be back in a moment");
    world.run_until("the others serve", |w| w.serves_with(&[2, 3]));
    // The wake-up is for the end of the lingering, not for the next tick.
    assert!(world.now - begun <= Duration::from_millis(50));
    for server in world.servers.values_mut() {
        server.idle = true;
    }
    world.register(1, 2);
    world.run_until("it is asked to join", |w| {
        w.servers[&ServerId(1)].configs.len() == 6
    });
    let config = world.servers[&ServerId(1)].configs.values().next().unwrap();
    assert_eq!(
        config.member(ServerId(1)).unwrap().state,
        MemberState::Joining
    );
    for server in world.servers.values_mut() {
        server.idle = false;
    }
    world.run_until("all serve", |w| w.serves_with(&[1, 2, 3]));
}

#[test]
fn one_change_at_a_time_is_on_its_way_to_the_log() {
    let mut world = World::started(3, 6, 4);
    world.commands.clear();
    world.log_stands = true;
    world.kill(1);
    world.run_for(Duration::from_millis(200));
    // Decided, not logged: nothing of what follows is decided on it, and signs of life are heard.
    world.kill(2);
    world.run_for(Duration::from_millis(3_000));
    assert!(world.closed.is_empty(), "nobody was silent");
    assert_eq!(world.commands, []);
    world.log_goes_on();
    let gone: Vec<Vec<ServerId>> = world
        .commands
        .iter()
        .filter_map(|command| match command {
            PlacementCommand::Change { gone, .. } => {
                Some(gone.iter().map(|run| run.server).collect())
            }
            _ => None,
        })
        .collect();
    assert_eq!(gone[..2], [vec![ServerId(1)], vec![ServerId(2)]]);
    world.run_until("groups serve", |w| {
        let placed = w.placed();
        placed.groups.values().all(|g| g.is_effective())
    });
}

#[test]
fn a_connection_that_ends_before_its_registration_is_logged_is_no_link() {
    let mut world = World::started(3, 2, 3);
    world.kill(3);
    world.run_until("it is out", |w| w.serves_with(&[1, 2]));
    world.register(3, 2);
    world.log_stands = true;
    let link = LinkId(9_000);
    world.servers.remove(&ServerId(3));
    world.event(Event::Register {
        link,
        request: World::request(3, 3),
        ticket: Ticket(9_001),
    });
    world.event(Event::Closed { link });
    world.log_goes_on();
    assert!(matches!(
        world.replies.get(&Ticket(9_001)),
        Some(Reply::Registered(Ok(_)))
    ));
    assert!(
        world.governor.links().get(&ServerId(3)).map(|l| l.link) != Some(link),
        "calls would wait for a connection that is gone"
    );
    world.run_until("it counts as gone", |w| {
        !w.placed().servers[&ServerId(3)].alive
    });
}

#[test]
fn a_server_whose_disk_failed_is_left_out_until_it_is_started_again() {
    let mut world = World::started(3, 4, 3);
    let broken = world.servers[&ServerId(2)].run;
    let why = "read data/00/1.0: Input/output error".to_owned();
    world.failing.insert(ServerId(2), why);
    world.run_for(Duration::from_millis(600));
    world.suspect(2, broken);
    world.run_until("it is out", |w| w.serves_with(&[1, 3]));
    let before = world.placed().groups.clone();
    world.run_for(Duration::from_secs(30));
    let after = world.placed().groups.clone();
    assert_eq!(before, after, "it is alive, and not taken back");
    assert!(world.placed().servers[&ServerId(2)].alive);
    world.kill(2);
    world.failing.clear();
    world.register(2, 2);
    world.run_until("it is back", |w| w.serves_with(&[1, 2, 3]));
}

#[test]
fn a_suspicion_counts_only_for_the_epoch_in_which_it_arose() {
    let mut world = World::started(3, 4, 3);
    let suspect = world.servers[&ServerId(2)].run;
    for server in world.servers.values_mut() {
        server.idle = true;
    }
    world.suspect(1, suspect);
    world.run_until("it is out", |w| w.serves_with(&[1, 3]));
    let before = world.placed();
    // Said again, late, of the epoch that is over.
    for (group, config) in &before.groups {
        let own = world.servers.get_mut(&ServerId(3)).unwrap();
        let mut old = config.config.clone();
        old.epoch = Epoch(1);
        own.configs.insert(*group, old);
    }
    world.suspect(3, world.servers[&ServerId(1)].run);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.placed().groups, before.groups);
}

#[test]
fn one_that_has_lost_all_others_leaves_and_not_they() {
    let mut world = World::started(3, 4, 3);
    let runs: Vec<_> = world.servers.values().map(|s| s.run).collect();
    // Each names those of its groups in which it waits for the other.
    world.suspect(1, runs[1]);
    world.suspect(1, runs[2]);
    world.suspect(3, runs[0]);
    world.run_until("it is out", |w| w.serves_with(&[2, 3]));
    world.run_for(Duration::from_secs(3));
    assert!(world.serves_with(&[2, 3]), "it is left alone for a while");
    world.run_until("it is back", |w| w.serves_with(&[1, 2, 3]));
}

#[test]
fn one_that_can_be_made_equal_to_nobody_leaves_and_not_they() {
    let mut world = World::started(3, 4, 3);
    world.run_for(Duration::from_secs(12));
    world.alone = Some(ServerId(1));
    // The first word decides between two. What follows from it, that members cannot be made equal,
    // says of the same server that it has lost another one.
    let third = world.servers[&ServerId(3)].run;
    world.suspect(1, third);
    world.run_until_within(Duration::from_secs(2), "the others go on", |w| {
        w.serves_with(&[2, 3])
    });
}

#[test]
fn a_server_that_a_mount_cannot_reach_is_out_for_as_long() {
    let mut world = World::started(3, 4, 3);
    let lost = world.servers[&ServerId(2)].run;
    let session = SessionId(7);
    let says = |runs: &[ServerRun]| Event::Unreachable {
        session,
        runs: runs.to_vec(),
    };
    for _ in 0..8 {
        world.event(says(&[lost]));
        world.run_for(Duration::from_millis(500));
        assert!(world.serves_with(&[1, 3]));
    }
    world.run_until("it is back", |w| w.serves_with(&[1, 2, 3]));
    // Of a run that is over nothing is believed.
    let mut old = lost;
    old.incarnation = Incarnation(old.incarnation.0 + 1000);
    world.event(says(&[old]));
    world.run_for(Duration::from_secs(1));
    assert!(world.serves_with(&[1, 2, 3]));
}

#[test]
fn a_server_that_a_mount_cannot_reach_is_taken_when_nobody_else_is_left() {
    let mut world = World::started(3, 4, 3);
    let lost = world.servers[&ServerId(2)].run;
    let event = || Event::Unreachable {
        session: SessionId(7),
        runs: vec![lost],
    };
    world.event(event());
    world.run_until("it is out", |w| w.serves_with(&[1, 3]));
    world.kill(3);
    world.event(event());
    world.run_until("it is needed", |w| w.serves_with(&[1, 2]));
}

#[test]
fn a_silent_server_is_gone_and_its_heartbeats_are_refused() {
    let mut world = World::started(3, 2, 3);
    let silent = world.servers.remove(&ServerId(2)).unwrap();
    world.run_until("it is out", |w| w.serves_with(&[1, 3]));
    assert_eq!(world.closed.len(), 1);
    let ticket = Ticket(9_000);
    world.event(Event::Heartbeat {
        link: world.closed[0],
        request: ServerHeartbeat {
            run: silent.run,
            space: Default::default(),
            repair: Default::default(),
            failure: String::new(),
        },
        ticket,
    });
    let refused = match world.replies.get(&ticket) {
        Some(Reply::Heard(Err(e))) => e.code,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused, ErrorCode::NotRegistered);
}

#[test]
fn time_in_which_this_process_stood_still_is_nobodys_silence() {
    let mut world = World::started(3, 2, 3);
    world.now += Duration::from_secs(30);
    world.run_for(Duration::from_secs(2));
    assert!(world.serves_with(&[1, 2, 3]));
    assert!(
        world
            .placed()
            .groups
            .values()
            .all(|g| g.config.epoch == Epoch(1))
    );
}

#[test]
fn another_leader_goes_on_with_what_is_logged() {
    let mut world = World::started(3, 4, 3);
    for server in world.servers.values_mut() {
        server.deaf = true;
    }
    world.kill(1);
    world.run_for(Duration::from_millis(100));
    assert!(
        world
            .placed()
            .groups
            .values()
            .all(|g| g.config.epoch == Epoch(2) && !g.is_effective())
    );
    world.restart();
    world.run_until("the epoch serves", |w| w.serves_with(&[2, 3]));
    let placed = world.placed();
    assert!(placed.groups.values().all(|g| g.config.epoch == Epoch(2)));
}
