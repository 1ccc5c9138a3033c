//! Groups move: away from servers that are lost or to be emptied, and to new ones.

use super::world::World;
use crate::governor::{Event, Order, Reply, Ticket};
use crate::placement::PlacementCommand;
use dfs_proto::cluster::{ClusterSettings, ServerLife};
use dfs_proto::ids::ServerId;
use std::collections::BTreeSet;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(600);

impl World {
    fn order(&mut self, order: Order) {
        let ticket = Ticket(1_000_000 + self.number());
        self.event(Event::Order { order, ticket });
        let answer = self.replies.remove(&ticket);
        assert!(matches!(answer, Some(Reply::Done(Ok(())))), "{answer:?}");
    }

    fn set_life(&mut self, server: u32, life: ServerLife) {
        let server = ServerId(server);
        self.order(Order::SetLife { server, life });
    }

    /// Wanted on, in-sync on, and named nowhere else.
    fn is_whole_without(&self, server: u32) -> bool {
        self.placed().groups.values().all(|record| {
            let in_sync: BTreeSet<ServerId> =
                record.config.in_sync().map(|run| run.server).collect();
            record.is_effective()
                && in_sync == record.home.iter().copied().collect()
                && record.config.members.len() == record.home.len()
                && !record.home.contains(&ServerId(server))
        })
    }

    fn rehomed(&self) -> usize {
        let rehomes = self.commands.iter().filter_map(|command| match command {
            PlacementCommand::Rehome { groups } => Some(groups.len()),
            _ => None,
        });
        rehomes.sum()
    }
}

#[test]
fn a_server_that_is_lost_is_replaced_after_a_while_and_told_when_it_returns() {
    let mut world = World::started(3, 8, 4);
    world.kill(1);
    world.run_for(LONG - Duration::from_secs(5));
    assert_eq!(world.rehomed(), 0, "it may still come back");
    world.run_until("it is replaced", |w| w.is_whole_without(1));
    let moved = world.rehomed();
    assert_eq!(moved, 6, "each of its groups once");
    world.register(1, 2);
    world.run_until("it is told to delete all", |w| {
        w.servers[&ServerId(1)].released.len() >= 8
    });
    let placed = world.placed();
    let all_gone = world.servers[&ServerId(1)]
        .released
        .iter()
        .all(|(g, e)| placed.groups[g].config.epoch >= *e);
    assert!(all_gone);
}

#[test]
fn a_removed_server_is_replaced_at_once_and_gets_nothing_when_it_returns() {
    let mut world = World::started(3, 8, 4);
    world.kill(2);
    world.run_until("it is out", |w| {
        w.placed().groups.values().all(|g| g.is_effective())
    });
    world.set_life(2, ServerLife::Removed);
    world.run_until("it is replaced", |w| w.is_whole_without(2));
    world.register(2, 2);
    world.run_for(Duration::from_secs(120));
    assert!(world.is_whole_without(2));
    world.set_life(2, ServerLife::Active);
    world.run_until_within(LONG, "it has its share again", |w| {
        let shares = shares(w);
        shares[&ServerId(2)] == 6
    });
}

#[test]
fn a_drained_server_leaves_its_groups_without_a_copy_missing() {
    let mut world = World::started(3, 8, 4);
    world.set_life(3, ServerLife::Draining);
    let end = world.now + Duration::from_secs(60);
    while !world.is_whole_without(3) {
        world.run_for(Duration::from_millis(10));
        assert!(world.now < end, "{:#?}", world.placed().groups);
        for record in world.placed().groups.values() {
            assert!(record.config.in_sync().count() >= 3, "{:?}", record.config);
        }
    }
    let drained = &world.servers[&ServerId(3)];
    assert_eq!(
        drained.released.len(),
        8,
        "it was told to delete everything"
    );
}

#[test]
fn few_groups_move_at_a_time_and_those_with_the_fewest_copies_first() {
    let mut world = World::started(3, 60, 5);
    for server in world.servers.values_mut() {
        server.idle = true;
    }
    world.set_life(1, ServerLife::Draining);
    world.run_for(Duration::from_secs(10));
    let joining = |w: &World| {
        let placed = w.placed();
        let groups = placed.groups.values();
        groups
            .filter(|g| g.config.joining().next().is_some())
            .count()
    };
    assert_eq!(joining(&world), 8, "{:?}", world.rehomed());
    for server in world.servers.values_mut() {
        server.idle = false;
    }
    world.run_until("it is empty", |w| w.is_whole_without(1));
}

#[test]
fn a_move_goes_on_after_the_death_of_everybody_in_it() {
    let mut world = World::started(3, 8, 5);
    for server in world.servers.values_mut() {
        server.idle = true;
    }
    world.set_life(1, ServerLife::Draining);
    world.run_for(Duration::from_secs(2));
    world.restart();
    for server in world.servers.values_mut() {
        server.idle = false;
    }
    // Who is drained dies in the middle: it is lost at once, since nobody wants it back.
    world.kill(1);
    world.run_until_within(LONG * 2, "whole without it", |w| w.is_whole_without(1));
}

#[test]
fn without_another_server_a_group_stays_degraded_and_says_so() {
    let mut world = World::started(3, 4, 3);
    world.kill(1);
    world.run_for(LONG + Duration::from_secs(10));
    assert!(world.serves_with(&[2, 3]));
    assert_eq!(world.rehomed(), 0);
    let placed = world.placed();
    for (group, record) in &placed.groups {
        let why = crate::placement::stuck(*group, record, world.governor.conditions());
        assert!(why.is_some_and(|why| why.contains("no other server")));
    }
    // A new one takes the place.
    world.register(4, 1);
    world.run_until("whole", |w| w.serves_with(&[2, 3, 4]));
}

fn shares(world: &World) -> std::collections::BTreeMap<ServerId, usize> {
    let placed = world.placed();
    let mut shares = std::collections::BTreeMap::new();
    for server in placed.servers.keys() {
        let holds = |g: &&crate::placement::GroupRecord| g.home.contains(server);
        shares.insert(*server, placed.groups.values().filter(holds).count());
    }
    shares
}

#[test]
fn a_server_that_comes_later_gets_its_share_slowly() {
    let mut world = World::started(3, 12, 3);
    world.register(4, 1);
    world.run_for(Duration::from_secs(12));
    assert!(world.rehomed() <= 3, "not all at once");
    world.run_until_within(LONG, "even", |w| shares(w).values().all(|n| *n == 9));
    world.run_for(Duration::from_secs(120));
    let placed = world.placed();
    let led = |server| {
        let leads = |g: &&crate::placement::GroupRecord| g.config.primary == Some(server);
        placed.groups.values().filter(leads).count()
    };
    let most = placed.servers.keys().map(|s| led(*s)).max().unwrap();
    assert!(most <= 4, "{:?}", placed.groups);
    let before = world.rehomed();
    world.run_for(LONG);
    assert_eq!(world.rehomed(), before, "it comes to rest");
}

#[test]
fn a_new_leader_gives_servers_time_to_come_back() {
    let mut world = World::started(3, 4, 4);
    let settings = ClusterSettings {
        replace_after_seconds: 30,
        ..ClusterSettings::default()
    };
    world.order(Order::Configure(settings));
    world.kill(1);
    world.run_for(Duration::from_secs(1));
    world.now += Duration::from_secs(5_000);
    world.restart();
    world.run_for(Duration::from_secs(25));
    assert_eq!(world.rehomed(), 0);
    world.run_until("it is replaced", |w| w.is_whole_without(1));
}
