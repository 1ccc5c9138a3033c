//! What a server holds of groups that it left is deleted; joining keeps to its limit.

use super::world::*;
use crate::replica::{Caller, Request, Response};
use dfs_proto::cluster::GroupConfig;
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::*;
use dfs_proto::msg::control::ReleaseGroups;
use std::time::Duration;

/// Three servers with eight chunks; server 3 is not in the second epoch.
fn left_by_three(seed: Option<u64>) -> World {
    let mut world = World::new(3, seed);
    world.enter(world.config(1, &[1, 2, 3], &[]));
    for index in 0..8 {
        let put = Put {
            key: key(1, index),
            ..Put::new(index + 1, 1)
        };
        put.send(&mut world, 1);
        world.settle();
    }
    world.enter(world.config(2, &[1, 2], &[]));
    world
}

fn release(world: &mut World, from: u32, config: GroupConfig) -> Caller {
    let request = ReleaseGroups {
        configs: vec![config],
    };
    world.direct(from, Request::Release(request))
}

fn released(world: &World, caller: Caller) -> (Vec<GroupId>, u64) {
    match world.answer(caller) {
        Ok(Response::Released(released)) => (released.groups, released.chunks),
        other => panic!("not released: {other:?}"),
    }
}

#[test]
fn a_server_deletes_what_it_left_and_refuses_first() {
    let mut world = left_by_three(None);
    let two = world.config(2, &[1, 2], &[]);
    let caller = release(&mut world, 3, two.clone());
    // The epoch without it comes first: from now on nobody reads a hole here.
    let reader = read(&mut world, 3, 1, key(1, 0));
    assert_eq!(world.code(reader), ErrorCode::WrongEpoch);
    assert_eq!(world.nodes[&3].store.chunks.len(), 8);
    world.settle();
    assert_eq!(released(&world, caller), (vec![GROUP], 8));
    assert!(world.nodes[&3].store.chunks.is_empty());
    assert_eq!(
        world.nodes[&3].store.epochs[&GROUP].epoch,
        Epoch(2),
        "durably"
    );
    // Said again: nothing to do.
    let again = release(&mut world, 3, two);
    world.settle();
    assert_eq!(released(&world, again), (vec![GROUP], 0));
    world.assert_equal(&[1, 2]);
}

#[test]
fn a_restarted_server_deletes_what_its_former_run_held() {
    let mut world = left_by_three(None);
    world.kill(3);
    world.restart(3);
    let two = world.config(2, &[1, 2], &[]);
    let caller = release(&mut world, 3, two);
    world.settle();
    assert_eq!(released(&world, caller).1, 8);
    assert!(world.nodes[&3].store.chunks.is_empty());
}

#[test]
fn a_member_deletes_nothing() {
    let mut world = left_by_three(None);
    // Late, from before it joined again.
    let late = world.config(2, &[1, 2], &[]);
    world.enter(world.config(3, &[1, 2], &[3]));
    world.settle_with_ticks(2);
    let caller = release(&mut world, 3, late);
    world.settle();
    assert_eq!(released(&world, caller), (vec![], 0));
    // Of an epoch that names it, which nobody sends.
    let own = world.config(9, &[1, 2], &[3]);
    let caller = release(&mut world, 3, own);
    world.settle();
    assert_eq!(released(&world, caller), (vec![], 0));
    assert_eq!(world.nodes[&3].store.chunks.len(), 8);
}

#[test]
fn a_server_that_is_wanted_again_in_the_middle_keeps_nothing_wrong() {
    for seed in 1..=200 {
        let mut world = left_by_three(Some(seed));
        let two = world.config(2, &[1, 2], &[]);
        let caller = release(&mut world, 3, two);
        for _ in 0..seed % 12 {
            world.step();
        }
        world.enter(world.config(3, &[1, 2], &[3]));
        for byte in [40, 41] {
            let put = Put {
                key: key(1, seed % 8),
                epoch: 3,
                ..Put::new(byte, 7)
            };
            put.send(&mut world, 1);
        }
        world.settle_with_ticks(20);
        assert!(world.is_answered(caller), "seed {seed}");
        assert_eq!(
            world.proposals.first(),
            Some(&(Epoch(3), world.run(3))),
            "seed {seed}"
        );
        world.assert_equal(&[1, 2, 3]);
    }
}

#[test]
fn copies_keep_to_the_rate_and_progress_is_told() {
    let mut world = left_by_three(None);
    world.kill(3);
    world.restart(3);
    for chunk in world.nodes.get_mut(&3).unwrap().store.chunks.values_mut() {
        chunk.version = Version {
            epoch: Epoch(1),
            counter: 100,
        };
    }
    let bytes: u64 = {
        let chunks = world.nodes[&1].store.chunks.values();
        chunks.map(|chunk| chunk.bytes.len() as u64).sum()
    };
    // One chunk in about a second.
    let rate = bytes / 8;
    world.nodes.get_mut(&1).unwrap().core.limit_repair(rate);
    world.enter(world.config(3, &[1, 2], &[3]));
    world.settle();
    let begun = world.now;
    let work = world.nodes[&1].core.repair_work();
    assert_eq!(work.joins.len(), 1);
    assert_eq!(work.joins[0].server, ServerId(3));
    assert_eq!(work.joins[0].chunks_left + work.joins[0].chunks_copied, 8);
    assert!(work.joins[0].compared);
    while world.proposals.is_empty() {
        world.settle_with_ticks(1);
        assert!(world.now - begun < Duration::from_secs(30), "it never ends");
    }
    let took = world.now - begun;
    assert!(took >= Duration::from_secs(6), "not limited: {took:?}");
    let done = world.nodes[&1].core.repair_work();
    assert_eq!(
        (done.joins[0].chunks_left, done.joins[0].bytes_left),
        (0, 0)
    );
    assert_eq!(done.joins[0].bytes_copied, bytes);
    world.assert_equal(&[1, 2, 3]);
}
