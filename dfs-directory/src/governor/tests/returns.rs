//! All servers of the groups were gone: who is waited for, and for how long.

use super::world::World;
use crate::governor::{Event, Reply, Ticket};
use dfs_proto::timing::{LAST_SERVING_WAIT, RETURN_WAIT};
use std::time::Duration;

/// Both servers were gone at once; the first one is back after a stop without order.
fn one_is_back() -> World {
    let mut world = World::started(2, 4, 2);
    world.kill(1);
    world.kill(2);
    world.run_until("nobody serves", nobody_serves);
    world.register(1, 2);
    world
}

fn nobody_serves(world: &World) -> bool {
    let placed = world.placed();
    let mut groups = placed.groups.values();
    groups.all(|group| group.config.primary.is_none())
}

#[test]
fn one_that_may_have_lost_writes_waits_for_the_one_that_is_only_cut_off() {
    let mut world = one_is_back();
    world.run_for(Duration::from_secs(30));
    assert!(nobody_serves(&world), "the other one may have everything");
    // The same run as before: it has.
    world.register(2, 1);
    world.run_until("it serves", |w| {
        w.serves_with(&[1, 2]) || w.serves_with(&[2])
    });
    world.run_until("both serve", |w| w.serves_with(&[1, 2]));
}

#[test]
fn one_that_has_everything_waits_a_moment_only() {
    let mut world = World::started(2, 4, 2);
    world.kill(1);
    world.kill(2);
    world.run_until("nobody serves", nobody_serves);
    let back = world.now;
    world.register(1, 1);
    world.run_until("it serves", |w| w.serves_with(&[1]));
    let waited = world.now - back;
    assert!(waited >= RETURN_WAIT && waited < RETURN_WAIT * 2);
}

#[test]
fn the_wait_has_an_end() {
    let mut world = one_is_back();
    world.run_for(LAST_SERVING_WAIT - Duration::from_secs(5));
    assert!(nobody_serves(&world));
    world.run_until("it goes on alone", |w| w.serves_with(&[1]));
}

#[test]
fn a_person_can_end_the_wait() {
    let mut world = one_is_back();
    world.run_for(RETURN_WAIT * 3);
    assert!(nobody_serves(&world));
    let ticket = Ticket(world.number());
    world.event(Event::GoOn { ticket });
    assert_eq!(world.replies.get(&ticket), Some(&Reply::GoesOn(4)));
    world.run_until("it goes on alone", |w| w.serves_with(&[1]));
    // The other one comes back as joining.
    world.register(2, 1);
    world.run_until("both serve", |w| w.serves_with(&[1, 2]));
}
