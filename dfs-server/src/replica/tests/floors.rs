//! What a cut's floor refuses, and what it must not.

use super::memory::Chunk;
use super::world::*;
use crate::replica::*;
use dfs_proto::cluster::{Equalise, GroupConfig};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::*;
use dfs_proto::msg::control::{AdoptEpochs, CutInode};

const CHUNK: u64 = 1;

fn two() -> World {
    let mut world = World::new(2, None);
    world.enter(world.config(1, &[1, 2], &[]));
    world
}

fn cut(world: &mut World, at: u32, epoch: u64, generation: u64) -> Caller {
    let request = CutInode {
        inode: InodeId(1),
        generation: Generation(generation),
        from: 0,
        to: u64::MAX,
        layout: LAYOUT,
        groups: vec![(GROUP, Epoch(epoch))],
    };
    world.direct(at, Request::Cut(request))
}

fn put(epoch: u64, generation: u64, sequence: u64) -> Put {
    Put {
        key: key(1, CHUNK),
        epoch,
        generation,
        ..Put::new(sequence, sequence as u8)
    }
}

fn floor(world: &World, id: u32) -> Option<(Generation, Epoch)> {
    let floors = &world.nodes[&id].store.floors;
    floors.get(&(GROUP, InodeId(1))).copied()
}

/// All lost their power, and compare everything.
fn after_an_end_of_all(world: &mut World, epoch: u64) -> GroupConfig {
    for id in [1, 2] {
        world.kill(id);
        world.restart(id);
    }
    world.mail.clear();
    GroupConfig {
        equalise: Equalise::Everything,
        ..world.config(epoch, &[1, 2], &[])
    }
}

#[test]
fn a_floor_that_the_others_have_forgotten_refuses_no_copy() {
    let mut world = two();
    for id in [1, 2] {
        cut(&mut world, id, 1, 4);
    }
    world.settle();
    put(1, 4, 1).send(&mut world, 1);
    world.settle();
    // The next epoch serves; server 2 does not hear of it, and keeps its floor.
    world.make_equal(world.config(2, &[1, 2], &[]));
    world.tell(1, Epoch(2));
    world.settle();
    assert_eq!(floor(&world, 1), None);
    assert_eq!(floor(&world, 2), Some((Generation(4), Epoch(1))));
    // It loses what it had not synced.
    let lost = &mut world.nodes.get_mut(&2).unwrap().store;
    lost.chunks.clear();
    let config = after_an_end_of_all(&mut world, 3);
    world.enter(config);
    world.settle();
    world.assert_equal(&[1, 2]);
    assert!(world.nodes[&2].store.chunks.contains_key(&key(1, CHUNK)));
}

#[test]
fn a_torn_copy_gives_way_to_one_in_which_a_cut_is_still_to_be_made() {
    let mut world = two();
    put(1, 0, 1).send(&mut world, 1);
    world.settle();
    // The cut passes over a damaged copy, and does not reach server 1 before the end of all.
    let store = &mut world.nodes.get_mut(&2).unwrap().store;
    let torn = store.chunks.get_mut(&key(1, CHUNK)).unwrap().clone();
    cut(&mut world, 2, 1, 4);
    world.settle();
    let store = &mut world.nodes.get_mut(&2).unwrap().store;
    let damaged = true;
    store
        .chunks
        .insert(key(1, CHUNK), Chunk { damaged, ..torn });
    let config = after_an_end_of_all(&mut world, 2);
    world.enter(config);
    world.settle();
    world.assert_equal(&[1, 2]);
    // The directory has not seen its end, and asks for it again.
    for id in [1, 2] {
        let caller = cut(&mut world, id, 2, 4);
        world.settle();
        assert!(world.answer(caller).is_ok());
        assert!(world.nodes[&id].store.chunks.is_empty());
    }
}

#[test]
fn who_lost_what_a_cut_had_left_alone_does_not_take_it_from_the_others() {
    let mut world = two();
    for (sequence, index) in [(1, 0), (2, 1)] {
        let key = key(1, index);
        Put {
            key,
            ..put(1, 0, sequence)
        }
        .send(&mut world, 1);
        world.settle();
    }
    // Server 2 alone makes a cut behind the first chunk, and loses that chunk with its power.
    let request = |epoch| {
        Request::Cut(CutInode {
            inode: InodeId(1),
            generation: Generation(4),
            from: 16384,
            to: u64::MAX,
            layout: LAYOUT,
            groups: vec![(GROUP, Epoch(epoch))],
        })
    };
    world.direct(2, request(1));
    world.settle();
    let lost = &mut world.nodes.get_mut(&2).unwrap().store;
    assert_eq!(lost.chunks.keys().collect::<Vec<_>>(), [&key(1, 0)]);
    lost.chunks.clear();
    let config = after_an_end_of_all(&mut world, 2);
    world.enter(config);
    world.settle();
    world.assert_equal(&[1, 2]);
    // The cut has not ended, and is made again.
    for id in [1, 2] {
        world.direct(id, request(2));
        world.settle();
    }
    world.assert_equal(&[1, 2]);
    let held: Vec<_> = world.nodes[&2].store.chunks.keys().collect();
    assert_eq!(held, [&key(1, 0)]);
}

#[test]
fn a_copy_from_before_a_cut_does_not_undo_it() {
    let mut world = World::new(3, None);
    world.enter(world.config(1, &[1, 3], &[]));
    put(1, 0, 1).send(&mut world, 1);
    world.settle();
    // Server 2 joins; the copy for it is on its way when it makes the cut.
    let is_copy = |mail: &Mail| {
        let install = |request: &Request| matches!(request, Request::Install(_));
        matches!(mail, Mail::Request { request, .. } if install(request))
    };
    world.hold = Some(is_copy);
    world.enter(world.config(2, &[1, 3], &[2]));
    world.settle();
    assert!(world.mail.iter().any(is_copy));
    let caller = cut(&mut world, 2, 2, 4);
    world.settle();
    assert!(world.answer(caller).is_ok());
    world.hold = None;
    world.settle();
    assert!(world.nodes[&2].store.chunks.is_empty());
    for id in [1, 3] {
        cut(&mut world, id, 2, 4);
    }
    world.settle_with_ticks(8);
    world.assert_equal(&[1, 2, 3]);
    assert_eq!(world.proposals.last(), Some(&(Epoch(2), world.run(2))));
}

#[test]
fn floors_that_are_taken_over_late_do_not_count_as_those_of_the_next_epoch() {
    let mut world = World::new(2, None);
    world.enter(world.config(1, &[1], &[]));
    cut(&mut world, 1, 1, 4);
    world.settle();
    // A member joins, and its disk is at the floors when the next epoch comes.
    let at_floors = |mail: &Mail| {
        let floors = |op: &DiskOp| matches!(op, DiskOp::InstallFloors { .. });
        matches!(mail, Mail::Disk { op, .. } if floors(op))
    };
    world.make_equal(world.config(2, &[1], &[2]));
    world.hold = Some(at_floors);
    let floors = vec![(InodeId(1), Generation(4))];
    let request = dfs_proto::msg::peer::InstallFloors {
        group: GROUP,
        epoch: Epoch(2),
        floors,
    };
    let from = Sender::Server(world.run(1).incarnation);
    world.ask(2, from, Request::InstallFloors(request), &[]);
    let configs = vec![world.config(3, &[1], &[2])];
    let adopt = AdoptEpochs {
        configs,
        servers: Vec::new(),
        fenced: Vec::new(),
    };
    let adopted = world.direct(2, Request::Adopt(adopt));
    world.settle();
    assert!(world.mail.iter().any(at_floors) && !world.is_answered(adopted));
    world.hold = None;
    world.settle();
    assert!(world.is_answered(adopted));
    assert_eq!(floor(&world, 2), Some((Generation(4), Epoch(2))));
}

#[test]
fn a_cut_waits_for_its_epoch_to_be_durable() {
    let mut world = two();
    let configs = vec![world.config(2, &[1], &[2])];
    let adopt = AdoptEpochs {
        configs,
        servers: Vec::new(),
        fenced: Vec::new(),
    };
    // The adoption is at the disk.
    world.direct(2, Request::Adopt(adopt));
    let caller = cut(&mut world, 2, 2, 4);
    assert_eq!(world.code(caller), ErrorCode::WrongEpoch);
    world.settle();
    let caller = cut(&mut world, 2, 2, 4);
    world.settle();
    assert!(world.answer(caller).is_ok());
    assert_eq!(floor(&world, 2), Some((Generation(4), Epoch(2))));
}
