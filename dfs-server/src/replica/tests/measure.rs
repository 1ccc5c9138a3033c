//! Where the data of inodes end.

use super::world::*;
use crate::replica::*;
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::*;
use dfs_proto::msg::control::{InodesMeasured, MeasureInodes};

fn three() -> World {
    let mut world = World::new(3, None);
    world.enter(world.config(1, &[1, 2, 3], &[]));
    world
}

/// The inodes 1 and 2, from a chunk on.
fn measure(epoch: u64, from: u64) -> Request {
    let from = ChunkIndex(from);
    Request::Measure(MeasureInodes {
        groups: vec![(GROUP, Epoch(epoch)), (GroupId(77), Epoch(1))],
        inodes: vec![(InodeId(1), from), (InodeId(2), from)],
    })
}

fn ends(world: &World, caller: Caller) -> InodesMeasured {
    match world.answer(caller) {
        Ok(Response::Measured(measured)) => measured,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_last_chunks_are_told_by_who_serves_in_that_epoch() {
    let mut world = three();
    // Inode 1 has many chunks, and inode 3 comes behind the others.
    for (sequence, key) in (0..200).map(|i| key(1, i)).chain([key(3, 0)]).enumerate() {
        let put = Put {
            key,
            len: 4096,
            ..Put::new(sequence as u64 + 1, 1)
        };
        put.send(&mut world, 1);
        world.settle();
    }
    let last = |from| match from {
        ..200 => vec![(InodeId(1), ChunkIndex(199), 4096)],
        _ => Vec::new(),
    };
    for from in [0, 1, 135, 136, 199, 200] {
        let caller = world.direct(1, measure(1, from));
        let told = ends(&world, caller);
        assert_eq!(
            told.groups,
            [(GROUP, Epoch(1))],
            "of others it knows nothing"
        );
        assert_eq!(told.last, last(from), "from {from}");
    }
    let other = world.direct(1, measure(2, 0));
    assert_eq!(ends(&world, other), InodesMeasured::default());
    // A member that is not in-sync may have too little.
    world.enter(world.config(2, &[1, 2], &[3]));
    let joining = world.direct(3, measure(2, 0));
    assert_eq!(ends(&world, joining), InodesMeasured::default());
}

#[test]
fn only_the_directory_may_ask() {
    let mut world = three();
    let asked = world.ask(1, Sender::Mount, measure(1, 0), &[]);
    assert_eq!(world.code(asked), ErrorCode::UnknownMethod);
}
