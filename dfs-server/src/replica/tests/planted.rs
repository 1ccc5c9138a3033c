//! Each planted bug has the effect that the simulation is to find.

use super::world::*;
use crate::replica::*;
use dfs_proto::error::ErrorCode;

fn with(bug: Planted) -> World {
    let mut world = World::new(3, None);
    for node in world.nodes.values_mut() {
        node.core.plant(bug);
    }
    world.enter(world.config(1, &[1, 2, 3], &[]));
    world
}

#[test]
fn acknowledged_before_the_backups_have_it() {
    let mut world = with(Planted::AckBeforeBackups);
    world.hold = Some(|mail| matches!(mail, Mail::Request { .. }));
    let caller = Put::new(1, 1).send(&mut world, 1);
    world.settle();
    assert!(world.answer(caller).is_ok());
    assert!(world.nodes[&2].store.chunks.is_empty());
}

#[test]
fn an_older_epoch_is_accepted() {
    let mut world = with(Planted::SkipEpochCheck);
    world.enter(world.config(2, &[1, 2, 3], &[]));
    let caller = Put::new(1, 1).send(&mut world, 1);
    world.settle();
    assert!(world.answer(caller).is_ok());
}

#[test]
fn a_repeat_is_executed_again() {
    let mut world = with(Planted::ForgetRecords);
    for (sequence, byte) in [(1, 1), (2, 2), (1, 1)] {
        let caller = Put::new(sequence, byte).send(&mut world, 1);
        world.settle();
        assert!(world.answer(caller).is_ok());
    }
    assert_eq!(world.nodes[&2].store.chunks[&key(1, 0)].bytes[0], 1);
    let refused = Put {
        epoch: 2,
        ..Put::new(3, 3)
    }
    .send(&mut world, 1);
    assert_eq!(world.code(refused), ErrorCode::WrongEpoch);
}
