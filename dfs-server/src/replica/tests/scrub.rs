//! Copies that differ without anybody having noticed: found by a comparison, and replaced.

use super::memory::Chunk;
use super::world::*;
use crate::replica::*;
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::*;
use dfs_proto::msg::control::CutInode;
use dfs_proto::msg::scrub::ScrubFinding;
use std::collections::BTreeSet;

fn world(servers: u32) -> World {
    let mut world = World::new(servers, None);
    let all: Vec<u32> = (1..=servers).collect();
    world.enter(world.config(1, &all, &[]));
    Put::new(1, 1).send(&mut world, 1);
    world.settle();
    world
}

fn scrub(world: &mut World, key: ChunkKey, insist: bool) -> Caller {
    let request = ScrubChunk {
        group: GROUP,
        key,
        insist,
    };
    world.ask(1, Sender::Own, Request::ScrubChunk(request), &[])
}

fn found(world: &mut World, key: ChunkKey) -> Vec<ScrubFinding> {
    let caller = scrub(world, key, false);
    world.settle();
    match world.answer(caller) {
        Ok(Response::Scrubbed(scrubbed)) => scrubbed.findings,
        other => panic!("{other:?}"),
    }
}

fn change(world: &mut World, server: u32, change: impl FnOnce(&mut Chunk)) {
    let store = &mut world.nodes.get_mut(&server).unwrap().store;
    change(store.chunks.get_mut(&key(1, 0)).unwrap());
}

fn remove(world: &mut World, server: u32) {
    let store = &mut world.nodes.get_mut(&server).unwrap().store;
    store.chunks.remove(&key(1, 0));
}

#[test]
fn equal_copies_are_left_alone() {
    let mut world = world(3);
    assert_eq!(found(&mut world, key(1, 0)), []);
    assert_eq!(found(&mut world, key(9, 9)), [], "a hole everywhere");
    let caller = scrub(&mut world, key(1, 0), false);
    world.settle();
    let read = Scrubbed {
        bytes: 300,
        findings: Vec::new(),
    };
    assert_eq!(world.answer(caller), Ok(Response::Scrubbed(read)));
    assert!(world.nodes[&1].core.is_idle());
}

#[test]
fn whatever_is_wrong_with_one_copy_it_is_replaced() {
    type Fault = fn(&mut World, u32);
    let faults: [(&str, Fault); 5] = [
        ("rotten", |world, server| {
            change(world, server, |chunk| chunk.damaged = true);
        }),
        ("content", |world, server| {
            change(world, server, |chunk| chunk.bytes[7] ^= 1);
        }),
        ("missing", remove),
        ("is v", |world, server| {
            change(world, server, |chunk| chunk.version.counter -= 1);
        }),
        ("is v", |world, server| {
            change(world, server, |chunk| chunk.bytes.truncate(50));
            change(world, server, |chunk| chunk.version.counter += 0);
            change(world, server, |chunk| chunk.generation = Generation(0));
            change(world, server, |chunk| chunk.version.epoch = Epoch(0));
        }),
    ];
    for server in 1..=3 {
        for (what, fault) in faults {
            let mut world = world(3);
            fault(&mut world, server);
            let found = found(&mut world, key(1, 0));
            assert_eq!(found.len(), 1, "{what} on {server}: {found:?}");
            assert_eq!(found[0].server, ServerId(server));
            assert!(found[0].what.contains(what), "{found:?}");
            assert_eq!(found[0].repaired, Ok(()), "{what} on {server}");
            world.assert_equal(&[1, 2, 3]);
            assert!(world.nodes[&2].store.chunks.contains_key(&key(1, 0)));
            assert!(world.nodes[&1].core.is_idle());
            // Writes go on upon it.
            let caller = Put::new(2, 2).send(&mut world, 1);
            world.settle();
            assert!(world.answer(caller).is_ok());
            world.assert_equal(&[1, 2, 3]);
        }
    }
}

#[test]
fn a_chunk_that_one_member_alone_holds_is_what_the_others_removed() {
    let mut world = world(3);
    remove(&mut world, 1);
    remove(&mut world, 3);
    // Of this epoch: refused like a late copy, and told.
    let first = found(&mut world, key(1, 0));
    assert!(first.len() == 1 && first[0].repaired.is_err());
    // Of an earlier one: it came back from the dead.
    change(&mut world, 2, |chunk| chunk.version.epoch = Epoch(0));
    let found = found(&mut world, key(1, 0));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].server, ServerId(2));
    assert_eq!(found[0].repaired, Ok(()));
    assert!(world.nodes[&2].store.chunks.is_empty());
}

#[test]
fn of_two_copies_the_one_that_is_there_counts() {
    for gone in [1, 2] {
        let mut world = world(2);
        remove(&mut world, gone);
        assert_eq!(found(&mut world, key(1, 0)).len(), 1);
        world.assert_equal(&[1, 2]);
        assert_eq!(world.nodes[&1].store.chunks.len(), 1);
    }
}

#[test]
fn without_a_good_copy_everything_stays_and_is_said() {
    // Rotten on all; rotten on the one and gone from the other: not to become zeros.
    for alone in [false, true] {
        let mut world = world(2);
        change(&mut world, 2, |chunk| chunk.damaged = true);
        if alone {
            remove(&mut world, 1);
        } else {
            change(&mut world, 1, |chunk| chunk.damaged = true);
        }
        let found = found(&mut world, key(1, 0));
        assert!(!found.is_empty());
        assert!(found.iter().all(|f| f.repaired.is_err()), "{found:?}");
        assert!(world.nodes[&2].store.chunks[&key(1, 0)].damaged);
        assert!(world.nodes[&1].core.is_idle());
    }
}

#[test]
fn a_write_does_not_wait_for_a_comparison_unless_it_insists() {
    let mut world = world(3);
    let caller = scrub(&mut world, key(1, 0), false);
    assert!(!world.is_answered(caller));
    let write = Put::new(2, 2).send(&mut world, 1);
    assert_eq!(world.code(caller), ErrorCode::Overloaded);
    world.settle();
    assert!(world.answer(write).is_ok());

    let caller = scrub(&mut world, key(1, 0), true);
    let write = Put::new(3, 3).send(&mut world, 1);
    assert!(!world.is_answered(caller));
    world.settle();
    assert!(world.answer(caller).is_ok());
    assert!(world.answer(write).is_ok());
    world.assert_equal(&[1, 2, 3]);
}

#[test]
fn a_cut_on_its_way_is_no_fault() {
    let cut = |generation| {
        Request::Cut(CutInode {
            inode: InodeId(1),
            generation: Generation(generation),
            from: 10,
            to: u64::MAX,
            layout: LAYOUT,
            groups: vec![(GROUP, Epoch(1))],
        })
    };
    let mut world = world(3);
    // One of them has made it already.
    world.direct(3, cut(1));
    world.settle();
    let caller = scrub(&mut world, key(1, 0), true);
    world.settle();
    assert_eq!(world.code(caller), ErrorCode::Overloaded);
    world.direct(1, cut(1));
    world.direct(2, cut(1));
    world.settle();
    assert_eq!(found(&mut world, key(1, 0)), []);
    // A cut that comes meanwhile does not wait.
    let caller = scrub(&mut world, key(1, 0), false);
    let made = world.direct(1, cut(2));
    assert_eq!(world.code(caller), ErrorCode::Overloaded);
    world.settle();
    assert!(world.answer(made).is_ok());
}

#[test]
fn a_comparison_ends_with_its_epoch() {
    let mut world = world(3);
    change(&mut world, 3, |chunk| chunk.damaged = true);
    // Before anything is read, and while the repair is on its way.
    for steps in [0, 8] {
        let caller = scrub(&mut world, key(1, 0), true);
        for _ in 0..steps {
            world.step();
        }
        let epoch = world.nodes[&1].core.view(GROUP).unwrap().epoch.0 + 1;
        if !world.is_answered(caller) {
            world.enter(world.config(epoch, &[1, 2, 3], &[]));
            assert_eq!(world.code(caller), ErrorCode::WrongEpoch);
        }
        world.settle();
        assert!(world.nodes[&1].core.is_idle());
    }
    found(&mut world, key(1, 0));
    world.assert_equal(&[1, 2, 3]);
}

#[test]
fn only_the_primary_compares_and_a_member_that_is_away_ends_it() {
    let mut world = world(3);
    let request = ScrubChunk {
        group: GROUP,
        key: key(1, 0),
        insist: false,
    };
    let caller = world.ask(2, Sender::Own, Request::ScrubChunk(request), &[]);
    assert_eq!(world.code(caller), ErrorCode::WrongRole);
    let caller = world.ask(1, Sender::Mount, Request::ScrubChunk(request), &[]);
    assert_eq!(world.code(caller), ErrorCode::UnknownMethod);
    world.kill(3);
    let caller = scrub(&mut world, key(1, 0), false);
    world.settle();
    assert!(world.answer(caller).is_err());
    assert!(world.nodes[&1].core.is_idle());
}

#[test]
fn the_page_names_what_any_member_holds() {
    let mut world = world(3);
    let sample = world.nodes[&1].store.chunks[&key(1, 0)].clone();
    let stray = key(3, 5);
    let store = &mut world.nodes.get_mut(&2).unwrap().store;
    store.chunks.insert(stray, sample);
    let all = |after| ScrubKeys {
        group: GROUP,
        after,
    };
    let mut pages = |after| {
        let caller = world.ask(1, Sender::Own, Request::ScrubKeys(all(after)), &[]);
        world.settle();
        match world.answer(caller) {
            Ok(Response::Keys(page)) => (page.keys.into_iter().collect(), page.next),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(pages(None), (BTreeSet::from([key(1, 0), stray]), None));
    assert_eq!(pages(Some(key(1, 0))), (BTreeSet::from([stray]), None));
}
