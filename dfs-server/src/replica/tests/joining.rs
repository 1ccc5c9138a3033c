//! Joining members.

use super::world::*;
use crate::replica::Request;
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::*;

/// Server 3 was away while these changed: new, overwritten, cut, and one that it alone has.
fn behind(seed: Option<u64>) -> World {
    let mut world = World::new(3, seed);
    world.enter(world.config(1, &[1, 2, 3], &[]));
    for index in 0..8 {
        let put = Put {
            key: key(1, index),
            len: 9000,
            ..Put::new(index + 1, 1)
        };
        put.send(&mut world, 1);
        world.settle();
    }
    world.enter(world.config(2, &[1, 2], &[]));
    for index in [1, 3, 9] {
        let put = Put {
            key: key(1, index),
            epoch: 2,
            ..Put::new(20 + index, 2)
        };
        put.send(&mut world, 1);
        world.settle();
    }
    for id in [1, 2] {
        world
            .nodes
            .get_mut(&id)
            .unwrap()
            .store
            .chunks
            .remove(&key(1, 5));
    }
    world
}

#[test]
fn a_joining_member_is_brought_up_to_date_by_comparison_and_proposed() {
    let mut world = behind(None);
    world.enter(world.config(3, &[1, 2], &[3]));
    let reader = read(&mut world, 3, 3, key(1, 0));
    assert_eq!(
        world.code(reader),
        ErrorCode::WrongRole,
        "it serves no reads"
    );
    let mut copied = 0;
    loop {
        let installs = |m: &Mail| matches!(m, Mail::Request { request: crate::replica::Request::Install(i), .. } if i.last);
        if world.mail.first().is_some_and(installs) {
            copied += 1;
        }
        if !world.step() {
            break;
        }
    }
    assert_eq!(copied, 4, "only what differs: 1, 3, 9 and the removal of 5");
    world.settle_with_ticks(1);
    assert_eq!(world.proposals.first(), Some(&(Epoch(3), world.run(3))));
    world.assert_equal(&[1, 2, 3]);
    assert_eq!(world.suspects, []);
    // Taken in, nothing is compared but what is in doubt.
    world.enter(world.config(4, &[3, 1, 2], &[]));
    let put = Put {
        epoch: 4,
        ..Put::new(99, 9)
    };
    let caller = put.send(&mut world, 3);
    world.settle();
    assert!(world.answer(caller).is_ok());
    world.assert_equal(&[1, 2, 3]);
}

#[test]
fn writes_during_a_join_reach_the_member_whatever_the_order() {
    for seed in 1..60 {
        let mut world = behind(Some(seed));
        world.enter(world.config(3, &[1, 2], &[3]));
        for round in 0..40u64 {
            for _ in 0..world.random(12) {
                world.step();
            }
            let put = Put {
                key: key(1, world.random(10) as u64),
                epoch: 3,
                offset: world.random(5000) as u32,
                ..Put::new(100 + round, round as u8)
            };
            put.send(&mut world, 1);
        }
        world.settle_with_ticks(6);
        assert!(!world.proposals.is_empty(), "seed {seed}");
        assert_eq!(world.suspects, [], "seed {seed}");
        world.assert_equal(&[1, 2, 3]);
        // Proposed at some point, it may be promoted at any later one.
        world.enter(world.config(4, &[3], &[]));
        let chunks = world.nodes[&1].store.chunks.clone();
        assert_eq!(world.nodes[&3].store.chunks, chunks, "seed {seed}");
    }
}

#[test]
fn a_member_that_fails_while_it_joins_does_not_hold_writes_up() {
    let mut world = behind(None);
    world.enter(world.config(3, &[1, 2], &[3]));
    for _ in 0..6 {
        world.step();
    }
    world.kill(3);
    let put = Put {
        epoch: 3,
        ..Put::new(50, 5)
    };
    let caller = put.send(&mut world, 1);
    world.settle();
    assert!(world.answer(caller).is_ok());
    assert!(world.suspects.iter().all(|run| *run == world.run(3)));
    assert!(!world.suspects.is_empty());
    assert_eq!(world.proposals, []);
    world.assert_equal(&[1, 2]);
    // It comes back in the same epoch (only its connection was gone): a new attempt begins.
    world.nodes.get_mut(&3).unwrap().up = true;
    world.settle_with_ticks(12);
    assert_eq!(world.proposals.first(), Some(&(Epoch(3), world.run(3))));
    world.assert_equal(&[1, 2, 3]);
}

#[test]
fn a_proposed_member_that_fails_holds_writes_up_until_a_new_epoch() {
    let mut world = behind(None);
    world.enter(world.config(3, &[1, 2], &[3]));
    world.settle_with_ticks(2);
    assert!(!world.proposals.is_empty());
    world.kill(3);
    let put = Put {
        epoch: 3,
        ..Put::new(50, 5)
    };
    let caller = put.send(&mut world, 1);
    world.settle_with_ticks(8);
    assert!(!world.is_answered(caller));
    world.enter(world.config(4, &[1, 2], &[]));
    assert_eq!(world.code(caller), ErrorCode::WrongEpoch);
    world.assert_equal(&[1, 2]);
}

#[test]
fn chunks_before_a_cut_keep_their_generation_and_still_join() {
    let mut world = World::new(3, None);
    world.enter(world.config(1, &[1, 2], &[]));
    for index in 0..3 {
        Put {
            key: key(1, index),
            len: 9000,
            ..Put::new(index + 1, 1)
        }
        .send(&mut world, 1);
        world.settle();
    }
    for id in [1, 2] {
        let cut = dfs_proto::msg::control::CutInode {
            inode: InodeId(1),
            generation: Generation(1),
            from: 16384 + 50,
            to: u64::MAX,
            layout: LAYOUT,
            groups: vec![(GROUP, Epoch(1))],
        };
        world.direct(id, crate::replica::Request::Cut(cut));
        world.settle();
    }
    let mut config = world.config(2, &[1, 2], &[3]);
    config.epoch = Epoch(2);
    world.enter(config);
    world.settle_with_ticks(3);
    world.assert_equal(&[1, 2, 3]);
    assert_eq!(world.nodes[&3].store.chunks.len(), 2);
    assert!(!world.proposals.is_empty());
}

#[test]
fn a_lone_primary_repairs_its_damaged_chunk_from_whichever_joining_member_has_it() {
    let mut world = World::new(3, None);
    world.enter(world.config(1, &[1, 2], &[]));
    Put::new(1, 1).send(&mut world, 1);
    world.settle();
    let store = &mut world.nodes.get_mut(&1).unwrap().store;
    store.chunks.get_mut(&key(1, 0)).unwrap().damaged = true;
    // The first one that could be asked has nothing.
    world.enter(world.config(2, &[1], &[3, 2]));
    world.settle_with_ticks(100);
    world.assert_equal(&[1, 2, 3]);
    let reader = read(&mut world, 1, 2, key(1, 0));
    world.settle();
    assert!(world.answer(reader).is_ok());
}

#[test]
fn a_cut_that_comes_late_leaves_no_floor_that_keeps_its_member_out() {
    let mut world = World::new(3, None);
    world.enter(world.config(1, &[1, 2], &[3]));
    Put::new(1, 1).send(&mut world, 1);
    world.settle();
    let cut = |generation| {
        Request::Cut(dfs_proto::msg::control::CutInode {
            inode: InodeId(1),
            generation: Generation(generation),
            from: 16384,
            to: u64::MAX,
            layout: LAYOUT,
            groups: vec![(GROUP, Epoch(1))],
        })
    };
    for id in [1, 2] {
        world.direct(id, cut(1));
        world.settle();
    }
    // Its disk is at one cut, and another one waits, when a new epoch comes.
    let begun = world.direct(3, cut(1));
    let waits = world.direct(3, cut(1));
    let config = world.config(2, &[1, 2], &[3]);
    let adopted = world.direct(3, adopt_only(config.clone()));
    assert!(!world.is_answered(adopted), "the disk is waited for");
    world.settle();
    assert!(world.is_answered(begun) && world.is_answered(adopted));
    assert_eq!(world.code(waits), ErrorCode::WrongEpoch);
    let late = world.direct(3, cut(2));
    assert_eq!(world.code(late), ErrorCode::WrongEpoch);
    // Nobody but it has made a cut in this epoch: no floor of it refuses what it lacks.
    world.nodes.get_mut(&3).unwrap().store.chunks.clear();
    world.enter(config);
    world.settle_with_ticks(100);
    world.assert_equal(&[1, 2, 3]);
    assert!(world.nodes[&3].store.chunks.contains_key(&key(1, 0)));
}

fn adopt_only(config: dfs_proto::cluster::GroupConfig) -> Request {
    Request::Adopt(dfs_proto::msg::control::AdoptEpochs {
        configs: vec![config],
        servers: Vec::new(),
        fenced: Vec::new(),
    })
}
