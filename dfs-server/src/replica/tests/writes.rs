//! Writes and reads in one epoch.

use super::world::*;
use crate::replica::*;
use dfs_proto::cluster::GroupConfig;
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::*;
use dfs_proto::msg::chunk::{ChunkWritten, SyncChunks};
use dfs_proto::msg::control::FenceSessions;
use dfs_proto::payload::Payload;

fn three() -> World {
    let mut world = World::new(3, None);
    world.enter(world.config(1, &[1, 2, 3], &[]));
    world
}

fn written(epoch: u64, counter: u64) -> Response {
    Response::Written(ChunkWritten {
        version: Version {
            epoch: Epoch(epoch),
            counter,
        },
        epoch: Epoch(epoch),
    })
}

#[test]
fn a_write_goes_to_the_backups_before_the_own_disk_and_is_answered_when_all_have_it() {
    let mut world = three();
    let put = Put::new(1, 5);
    let caller = put.send(&mut world, 1);
    let shape: Vec<&str> = world
        .mail
        .iter()
        .map(|mail| match mail {
            Mail::Request {
                request: Request::Forward(_),
                ..
            } => "forward",
            Mail::Disk {
                op: DiskOp::Write { .. },
                ..
            } => "write",
            _ => "other",
        })
        .collect();
    assert_eq!(shape, ["forward", "forward", "write"]);
    let Mail::Request {
        request: Request::Forward(forward),
        ..
    } = &world.mail[0]
    else {
        panic!("a forwarded write");
    };
    assert_eq!(forward.predecessor, Version::HOLE);
    assert_eq!(forward.committed, 0);
    while world.mail.len() > 1 {
        assert!(!world.is_answered(caller));
        world.step();
    }
    world.settle();
    assert_eq!(world.answer(caller), Ok(written(1, 1)));
    world.assert_equal(&[1, 2, 3]);
    let chunk = &world.nodes[&3].store.chunks[&put.key];
    assert_eq!(chunk.bytes, put.bytes());
}

#[test]
fn a_repeat_gets_the_first_answer_and_an_older_write_is_never_executed() {
    let mut world = three();
    let first = Put::new(4, 5).send(&mut world, 1);
    // While it is in flight.
    let repeat = Put::new(4, 5).send(&mut world, 1);
    assert!(!world.is_answered(repeat));
    world.settle();
    assert_eq!(world.answer(first), Ok(written(1, 1)));
    assert_eq!(world.answer(repeat), Ok(written(1, 1)));
    // Later, and after another session's write.
    let mut other = Put::new(9, 6);
    other.session = 8;
    other.send(&mut world, 1);
    world.settle();
    let late = Put::new(4, 5).send(&mut world, 1);
    let older = Put::new(3, 1).send(&mut world, 1);
    world.settle();
    assert_eq!(world.answer(late), Ok(written(1, 1)));
    assert_eq!(world.code(older), ErrorCode::WriteForgotten);
    assert_eq!(world.nodes[&2].store.chunks[&key(1, 0)].bytes[0], 6);
}

#[test]
fn what_may_not_be_served_is_refused_with_its_reason() {
    let mut world = three();
    Put::new(1, 1).send(&mut world, 1);
    world.settle();
    world.direct(
        1,
        Request::Fence(FenceSessions {
            sessions: vec![SessionId(66)],
        }),
    );
    world.settle();
    let table: [(Put, u32, ErrorCode, u64); 6] = [
        (
            Put {
                epoch: 2,
                ..Put::new(2, 1)
            },
            1,
            ErrorCode::WrongEpoch,
            1,
        ),
        (
            Put {
                epoch: 0,
                ..Put::new(2, 1)
            },
            1,
            ErrorCode::WrongEpoch,
            1,
        ),
        (Put::new(2, 1), 2, ErrorCode::WrongRole, 0),
        (
            Put {
                session: 66,
                ..Put::new(2, 1)
            },
            1,
            ErrorCode::Fenced,
            0,
        ),
        (
            Put {
                len: 0,
                ..Put::new(2, 1)
            },
            1,
            ErrorCode::InvalidArgument,
            0,
        ),
        (
            Put {
                offset: u32::MAX,
                ..Put::new(2, 1)
            },
            1,
            ErrorCode::InvalidArgument,
            0,
        ),
    ];
    for (put, server, code, detail) in table {
        let caller = put.send(&mut world, server);
        let error = world.answer(caller).expect_err("a refusal");
        assert_eq!((error.code, error.detail), (code, detail), "{put:?}");
    }
    let damaged = Put::new(2, 1);
    let request = Request::Write(damaged.request());
    let caller = world.ask(1, Sender::Mount, request.clone(), &[9; 100]);
    assert_eq!(world.code(caller), ErrorCode::PayloadDamaged);
    let by_a_server = Sender::Server(Incarnation(103));
    let forward = Request::Forward(forward_of(&world, 9));
    let caller = world.ask(2, by_a_server, forward, &[1; 100]);
    assert_eq!(world.code(caller), ErrorCode::WrongRole, "not the primary");
    assert!(world.mail.is_empty(), "nothing of it had an effect");
}

fn forward_of(world: &World, counter: u64) -> dfs_proto::msg::peer::ForwardWrite {
    let put = Put::new(2, 1).request();
    let held = &world.nodes[&2].store.chunks[&put.key];
    dfs_proto::msg::peer::ForwardWrite {
        key: put.key,
        group: put.group,
        epoch: put.epoch,
        generation: put.generation,
        session: put.session,
        sequence: put.sequence,
        version: Version {
            epoch: put.epoch,
            counter,
        },
        predecessor: held.version,
        predecessor_generation: held.generation,
        committed: 0,
        offset: put.offset,
        checksums: put.checksums,
    }
}

#[test]
fn a_group_that_is_not_effective_or_too_small_makes_writes_wait() {
    let mut world = World::new(3, None);
    let early = Put::new(1, 1).send(&mut world, 1);
    assert_eq!(world.code(early), ErrorCode::WrongEpoch);
    let small = GroupConfig {
        min_in_sync: 2,
        ..world.config(1, &[1], &[])
    };
    world.enter(small);
    let caller = Put::new(1, 1).send(&mut world, 1);
    assert_eq!(world.code(caller), ErrorCode::GroupUnavailable);
    // Reads go on.
    let caller = read(&mut world, 1, 1, key(1, 0));
    world.settle();
    assert!(world.answer(caller).is_ok());
}

#[test]
fn a_full_disk_is_told_before_anybody_applies() {
    let mut world = three();
    Put::new(1, 1).send(&mut world, 1);
    world.settle();
    world.nodes.get_mut(&2).unwrap().store.low = true;
    // The primary learns it with the next write that it forwards.
    Put::new(2, 2).send(&mut world, 1);
    world.settle();
    let new_chunk = Put {
        key: key(1, 1),
        ..Put::new(3, 3)
    };
    let caller = new_chunk.send(&mut world, 1);
    assert_eq!(world.code(caller), ErrorCode::NoSpace);
    assert!(world.mail.is_empty());
    let overwrite = Put::new(4, 4).send(&mut world, 1);
    world.settle();
    assert!(world.answer(overwrite).is_ok());
    assert_eq!(world.suspects, []);
}

#[test]
fn when_every_disk_is_full_the_answer_is_no_space() {
    let mut world = three();
    for node in world.nodes.values_mut() {
        node.store.broken = Some(ErrorCode::NoSpace);
    }
    let caller = Put::new(1, 1).send(&mut world, 1);
    world.settle();
    assert_eq!(world.code(caller), ErrorCode::NoSpace);
    assert_eq!(world.suspects, []);
}

#[test]
fn a_failed_disk_leaves_the_write_in_doubt_and_is_reported() {
    let mut world = three();
    world.nodes.get_mut(&3).unwrap().store.broken = Some(ErrorCode::DiskFailed);
    let caller = Put::new(1, 1).send(&mut world, 1);
    world.settle();
    assert!(!world.is_answered(caller));
    assert_eq!(world.suspects, [world.run(3)]);
    world.enter(world.config(2, &[1, 2], &[]));
    assert_eq!(world.code(caller), ErrorCode::WrongEpoch);
    let repeat = Put {
        epoch: 2,
        ..Put::new(1, 1)
    };
    let caller = repeat.send(&mut world, 1);
    world.settle();
    // Executed in the first epoch, on both that are left.
    assert_eq!(
        world.answer(caller),
        Ok(Response::Written(ChunkWritten {
            version: Version {
                epoch: Epoch(1),
                counter: 1
            },
            epoch: Epoch(2),
        }))
    );
    world.assert_equal(&[1, 2]);
}

#[test]
fn a_lost_connection_alone_is_healed_by_a_repetition() {
    let mut world = three();
    let caller = Put::new(1, 1).send(&mut world, 1);
    // The forward to server 2 arrives, its answer does not.
    let Mail::Request { to, token, .. } = world.mail[0].clone() else {
        panic!("a forwarded write");
    };
    assert_eq!(to, world.run(2));
    world.step();
    world.settle_without_answers_to(token);
    assert!(!world.is_answered(caller));
    let event = Event::Reply {
        token,
        result: Err(ErrorCode::Disconnected.into()),
        payload: Payload::default(),
    };
    world.feed(1, event);
    assert_eq!(world.suspects, [world.run(2)]);
    world.settle_with_ticks(2);
    assert_eq!(world.answer(caller), Ok(written(1, 1)));
    world.assert_equal(&[1, 2, 3]);
}

#[test]
fn a_sync_that_names_a_version_that_is_not_held_is_told_so() {
    let mut world = three();
    Put::new(1, 1).send(&mut world, 1);
    world.settle();
    let sync = |counter| {
        Request::Sync(SyncChunks {
            session: SessionId(7),
            inode: InodeId(1),
            group: GROUP,
            epoch: Epoch(1),
            generation: Generation(0),
            chunks: vec![(
                ChunkIndex(0),
                Version {
                    epoch: Epoch(1),
                    counter,
                },
            )],
        })
    };
    let held = world.ask(2, Sender::Mount, sync(1), &[]);
    let lost = world.ask(2, Sender::Mount, sync(2), &[]);
    world.settle();
    assert_eq!(world.answer(held), Ok(Response::Done));
    assert_eq!(world.code(lost), ErrorCode::WriteLost);
    let run = world.run(2);
    let store = &mut world.nodes.get_mut(&2).unwrap().store;
    store.broken = Some(ErrorCode::DiskFailed);
    let failed = world.ask(2, Sender::Mount, sync(1), &[]);
    world.settle();
    assert_eq!(world.code(failed), ErrorCode::DiskFailed);
    assert_eq!(world.suspects, [run], "it reports itself");
}

#[test]
fn a_damaged_copy_is_reported_to_the_reader_and_replaced() {
    for server in [1, 2] {
        let mut world = three();
        Put {
            len: 9000,
            ..Put::new(1, 1)
        }
        .send(&mut world, 1);
        world.settle();
        let store = &mut world.nodes.get_mut(&server).unwrap().store;
        store.chunks.get_mut(&key(1, 0)).unwrap().damaged = true;
        let caller = read(&mut world, server, 1, key(1, 0));
        world.settle();
        assert_eq!(world.code(caller), ErrorCode::Rotten);
        world.assert_equal(&[1, 2, 3]);
        let caller = read(&mut world, server, 1, key(1, 0));
        world.settle();
        assert!(world.answer(caller).is_ok());
    }
}

#[test]
fn a_write_onto_a_damaged_copy_replaces_it() {
    for server in [1, 2] {
        let mut world = three();
        Put::new(1, 1).send(&mut world, 1);
        world.settle();
        let store = &mut world.nodes.get_mut(&server).unwrap().store;
        store.chunks.get_mut(&key(1, 0)).unwrap().damaged = true;
        let caller = Put {
            offset: 50,
            ..Put::new(2, 2)
        }
        .send(&mut world, 1);
        world.settle();
        assert_eq!(world.answer(caller), Ok(written(1, 2)));
        world.assert_equal(&[1, 2, 3]);
        assert_eq!(world.suspects, []);
    }
}

#[test]
fn a_damaged_copy_that_a_cut_passed_over_is_replaced_before_it_is_written() {
    let mut world = three();
    Put::new(1, 1).send(&mut world, 1);
    world.settle();
    let chunk = |world: &mut World, server| {
        let store = &mut world.nodes.get_mut(&server).unwrap().store;
        store.chunks.remove(&key(1, 0)).unwrap()
    };
    // What a cut leaves: the others are shorter, the primary's copy could not be read.
    for server in 1..=3 {
        let mut left = chunk(&mut world, server);
        match server {
            1 => left.damaged = true,
            _ => {
                left.generation = Generation(1);
                left.bytes.truncate(60);
            }
        }
        let store = &mut world.nodes.get_mut(&server).unwrap().store;
        store.chunks.insert(key(1, 0), left);
    }
    let put = Put {
        generation: 1,
        offset: 80,
        ..Put::new(2, 2)
    };
    let refused = put.send(&mut world, 1);
    world.settle();
    assert_eq!(world.code(refused), ErrorCode::GroupUnavailable);
    world.assert_equal(&[1, 2, 3]);
    let repeated = put.send(&mut world, 1);
    world.settle();
    assert!(world.answer(repeated).is_ok());
    world.assert_equal(&[1, 2, 3]);
    assert_eq!(world.suspects, []);
}

#[test]
fn the_last_member_takes_the_copy_that_it_had_no_room_for_when_there_is_some() {
    let mut world = three();
    Put::new(1, 1).send(&mut world, 1);
    world.settle();
    // Server 1 alone is in-sync, its copy is damaged; server 2 has it whole, and joins.
    world.enter(world.config(2, &[1], &[2]));
    world.hold = Some(|mail| {
        let pull = |request: &Request| matches!(request, Request::Fetch(_));
        matches!(mail, Mail::Request { request, .. } if pull(request))
    });
    world.settle();
    let store = &mut world.nodes.get_mut(&1).unwrap().store;
    store.chunks.get_mut(&key(1, 0)).unwrap().damaged = true;
    let write = Put {
        epoch: 2,
        ..Put::new(2, 2)
    }
    .send(&mut world, 1);
    world.settle();
    world.nodes.get_mut(&1).unwrap().store.broken = Some(ErrorCode::NoSpace);
    world.hold = None;
    world.settle_with_ticks(3);
    assert!(!world.is_answered(write));
    assert_eq!(world.suspects.last(), Some(&world.run(1)));
    world.nodes.get_mut(&1).unwrap().store.broken = None;
    world.settle_with_ticks(3);
    assert!(world.answer(write).is_ok());
    world.assert_equal(&[1, 2]);
}

#[test]
fn too_many_writes_of_one_chunk_are_turned_away() {
    let mut world = three();
    let callers: Vec<Caller> = (1..=200)
        .map(|sequence| Put::new(sequence, 1).send(&mut world, 1))
        .collect();
    let refused = callers.iter().filter(|c| world.is_answered(**c)).count();
    assert_eq!(refused, 200 - 1 - crate::replica::lane::LANE_MAX);
    assert_eq!(world.code(callers[199]), ErrorCode::Overloaded);
    world.settle();
    assert!(callers.iter().all(|caller| world.is_answered(*caller)));
    assert!(world.nodes[&1].core.is_idle());
}

#[test]
fn a_write_that_all_have_lost_is_hidden_by_no_later_one() {
    let mut world = three();
    let mut mine = Put::new(1, 1);
    let first = mine.send(&mut world, 1);
    world.settle();
    assert_eq!(world.answer(first), Ok(written(1, 1)));
    // A power cut of all members takes it, and another session writes on what is left.
    for node in world.nodes.values_mut() {
        node.store.chunks.clear();
    }
    let other = Put {
        session: 8,
        ..Put::new(1, 2)
    };
    let second = other.send(&mut world, 1);
    world.settle();
    assert_eq!(world.answer(second), Ok(written(1, 2)));
    let sync = |session, counter| {
        let epoch = Epoch(1);
        Request::Sync(SyncChunks {
            session: SessionId(session),
            inode: InodeId(1),
            group: GROUP,
            epoch,
            generation: Generation(0),
            chunks: vec![(ChunkIndex(0), Version { epoch, counter })],
        })
    };
    for member in 1..=3 {
        let lost = world.ask(member, Sender::Mount, sync(7, 1), &[]);
        let kept = world.ask(member, Sender::Mount, sync(8, 2), &[]);
        world.settle();
        assert_eq!(world.code(lost), ErrorCode::WriteLost);
        assert_eq!(world.answer(kept), Ok(Response::Done));
    }
    // Nor by the next one of the session that lost it.
    mine.sequence = 2;
    let mut request = mine.request();
    request.after = Version {
        epoch: Epoch(1),
        counter: 1,
    };
    let bytes = mine.bytes();
    let told = world.ask(1, Sender::Mount, Request::Write(request), &bytes);
    world.settle();
    assert_eq!(world.code(told), ErrorCode::WriteLost);
    let again = mine.send(&mut world, 1);
    world.settle();
    assert_eq!(world.answer(again), Ok(written(1, 3)));
    world.assert_equal(&[1, 2, 3]);
}
