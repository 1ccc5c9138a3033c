//! Changes of epochs, fences and cuts.

use super::world::*;
use crate::replica::*;
use dfs_proto::cluster::{Equalise, GroupConfig};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::*;
use dfs_proto::msg::control::{
    AdoptEpochs, CutInode, CutMade, EpochsAdopted, FenceSessions, SessionsFenced,
};

fn three() -> World {
    let mut world = World::new(3, None);
    world.enter(world.config(1, &[1, 2, 3], &[]));
    world
}

fn adopt(config: GroupConfig) -> Request {
    Request::Adopt(AdoptEpochs {
        configs: vec![config],
        servers: Vec::new(),
        fenced: vec![SessionId(99)],
    })
}

fn cut(generation: u64, from: u64) -> Request {
    cut_in(1, generation, from)
}

fn cut_in(epoch: u64, generation: u64, from: u64) -> Request {
    Request::Cut(CutInode {
        inode: InodeId(1),
        generation: Generation(generation),
        from,
        to: u64::MAX,
        layout: LAYOUT,
        groups: vec![(GROUP, Epoch(epoch))],
    })
}

fn made(epoch: u64) -> Result<Response, dfs_proto::error::Error> {
    Ok(Response::Cut(CutMade {
        epochs: vec![(GROUP, Epoch(epoch))],
    }))
}

#[test]
fn an_adoption_waits_for_the_disk_and_is_durable_before_its_answer() {
    let mut world = three();
    let write = Put::new(1, 1).send(&mut world, 1);
    let config = world.config(2, &[1, 2], &[]);
    let caller = world.direct(1, adopt(config.clone()));
    // The old epoch's write is given back at once, and the disk is waited for.
    assert_eq!(world.code(write), ErrorCode::WrongEpoch);
    assert!(!world.is_answered(caller));
    let puts = |world: &World| {
        let is_put = |m: &&Mail| {
            matches!(
                m,
                Mail::Disk {
                    op: DiskOp::Adopt { .. },
                    ..
                }
            )
        };
        world.mail.iter().filter(is_put).count()
    };
    assert_eq!(puts(&world), 0);
    world.hold = Some(|mail| {
        !matches!(
            mail,
            Mail::Disk {
                op: DiskOp::Write { .. },
                ..
            }
        )
    });
    world.settle();
    assert_eq!(puts(&world), 1);
    assert!(!world.is_answered(caller));
    // Old and new requests are refused meanwhile.
    let old = Put::new(2, 1).send(&mut world, 1);
    assert_eq!(world.code(old), ErrorCode::WrongEpoch);
    let new = Put {
        epoch: 2,
        ..Put::new(2, 1)
    }
    .send(&mut world, 1);
    assert_eq!(world.code(new), ErrorCode::GroupUnavailable);
    world.hold = None;
    world.settle();
    let adopted = EpochsAdopted {
        epochs: vec![(GROUP, Epoch(2))],
    };
    assert_eq!(world.answer(caller), Ok(Response::Adopted(adopted.clone())));
    assert_eq!(world.nodes[&1].store.epochs[&GROUP], config);
    assert!(world.nodes[&1].store.fenced.contains(&SessionId(99)));
    // An older epoch changes nothing any more, and the answer says where the group is.
    let older = world.direct(1, adopt(world.config(1, &[1, 2, 3], &[])));
    world.settle();
    assert_eq!(world.answer(older), Ok(Response::Adopted(adopted)));
}

#[test]
fn forwarded_writes_of_an_older_epoch_are_refused() {
    let mut world = three();
    let write = Put::new(1, 1).send(&mut world, 1);
    let callers = [2, 3].map(|id| world.direct(id, adopt(world.config(2, &[2, 3], &[]))));
    world.settle();
    assert!(callers.iter().all(|caller| world.is_answered(*caller)));
    assert!(
        !world.is_answered(write),
        "the old primary can commit nothing"
    );
    assert!(!world.nodes[&2].store.chunks.contains_key(&key(1, 0)));
    assert_eq!(world.suspects, [], "who knows a newer epoch is no suspect");
}

#[test]
fn a_restarted_server_has_no_part_in_its_epoch() {
    let mut world = three();
    Put::new(1, 1).send(&mut world, 1);
    world.settle();
    world.restart(1);
    let write = Put::new(2, 1).send(&mut world, 1);
    assert_eq!(world.code(write), ErrorCode::WrongRole);
    let reader = read(&mut world, 1, 1, key(1, 0));
    assert_eq!(world.code(reader), ErrorCode::WrongRole);
    // Its old run's name in a later epoch does not help either.
    let mut config = world.config(2, &[1, 2], &[]);
    config.members[0].run.incarnation = Incarnation(101);
    world.direct(1, adopt(config));
    world.settle();
    let write = Put {
        epoch: 2,
        ..Put::new(2, 1)
    }
    .send(&mut world, 1);
    assert_eq!(world.code(write), ErrorCode::WrongRole);
    assert_eq!(world.nodes[&1].core.epochs(), [(GROUP, Epoch(2))]);
}

#[test]
fn a_write_that_reached_one_backup_only_is_made_equal_by_the_new_primary() {
    // Which of the two others has it: the new primary, or the other one.
    for has_it in [2, 3] {
        let mut world = three();
        Put::new(1, 1).send(&mut world, 1);
        world.settle();
        let write = Put {
            len: 9000,
            ..Put::new(2, 2)
        }
        .send(&mut world, 1);
        let mail = world.mail.clone();
        world.mail.clear();
        for mail in mail {
            if matches!(&mail, Mail::Request { to, .. } if to.server.0 == has_it) {
                world.deliver(mail);
            }
        }
        world.kill(1);
        world.settle();
        assert!(!world.is_answered(write));
        world.enter(world.config(2, &[2, 3], &[]));
        world.assert_equal(&[2, 3]);
        let bytes = &world.nodes[&3].store.chunks[&key(1, 0)].bytes;
        assert_eq!(bytes.len(), if has_it == 2 { 9000 } else { 100 });
        // The repeat is executed exactly where it was not.
        let repeat = Put {
            epoch: 2,
            len: 9000,
            ..Put::new(2, 2)
        };
        let caller = repeat.send(&mut world, 2);
        world.settle();
        assert!(world.answer(caller).is_ok());
        world.assert_equal(&[2, 3]);
        assert_eq!(
            world.nodes[&2].store.chunks[&key(1, 0)].bytes,
            repeat.bytes()
        );
    }
}

#[test]
fn marks_survive_an_epoch_that_was_never_effective() {
    let mut world = three();
    Put::new(1, 1).send(&mut world, 1);
    let mail = world.mail.remove(1);
    world.mail.clear();
    world.deliver(mail);
    world.kill(1);
    world.settle();
    assert!(world.nodes[&3].store.chunks.contains_key(&key(1, 0)));
    for id in [2, 3] {
        world.direct(id, adopt(world.config(2, &[2, 3], &[])));
    }
    world.settle();
    world.enter(world.config(3, &[2, 3], &[]));
    world.assert_equal(&[2, 3]);
}

#[test]
fn after_an_end_of_all_the_highest_version_of_each_chunk_wins() {
    let mut world = three();
    for (index, byte) in [(0, 1), (1, 2), (2, 3)] {
        Put {
            key: key(1, index),
            ..Put::new(index + 1, byte)
        }
        .send(&mut world, 1);
        world.settle();
    }
    // Each lost something else.
    let lost = |world: &mut World, id: u32, index: u64| {
        let store = &mut world.nodes.get_mut(&id).unwrap().store;
        store.chunks.remove(&key(1, index));
    };
    lost(&mut world, 1, 0);
    lost(&mut world, 2, 1);
    let store = &mut world.nodes.get_mut(&1).unwrap().store;
    store.chunks.get_mut(&key(1, 2)).unwrap().damaged = true;
    for id in [1, 2, 3] {
        world.restart(id);
    }
    let config = GroupConfig {
        equalise: Equalise::Everything,
        ..world.config(2, &[1, 2, 3], &[])
    };
    world.enter(config);
    world.assert_equal(&[1, 2, 3]);
    let held: Vec<_> = world.nodes[&1].store.chunks.keys().copied().collect();
    assert_eq!(held, [key(1, 0), key(1, 1), key(1, 2)]);
}

#[test]
fn an_accepted_torn_copy_is_a_version_of_its_own() {
    let mut world = three();
    Put::new(1, 1).send(&mut world, 1);
    world.settle();
    // The power went everywhere; the copies of one version have come to differ.
    let store = &mut world.nodes.get_mut(&1).unwrap().store;
    let torn = store.chunks.get_mut(&key(1, 0)).unwrap();
    torn.damaged = true;
    torn.bytes[0] = 9;
    for id in [1, 2] {
        world.restart(id);
    }
    let config = GroupConfig {
        equalise: Equalise::Everything,
        ..world.config(2, &[1], &[2])
    };
    world.enter(config);
    world.settle();
    world.assert_equal(&[1, 2]);
    assert_eq!(world.nodes[&2].store.chunks[&key(1, 0)].bytes[0], 9);
}

#[test]
fn a_joining_member_gives_back_what_rots_on_the_only_other_one() {
    let mut world = three();
    Put::new(1, 1).send(&mut world, 1);
    world.settle();
    let store = &mut world.nodes.get_mut(&1).unwrap().store;
    store.chunks.get_mut(&key(1, 0)).unwrap().damaged = true;
    world.enter(world.config(2, &[1], &[2]));
    world.settle();
    world.assert_equal(&[1, 2]);
    assert!(!world.nodes[&1].store.chunks[&key(1, 0)].damaged);
}

#[test]
fn restarted_members_compare_everything_even_where_marks_are_asked_for() {
    let mut world = three();
    Put::new(1, 1).send(&mut world, 1);
    let mail = world.mail.remove(1);
    world.mail.clear();
    world.deliver(mail);
    world.settle();
    for id in [1, 2, 3] {
        world.restart(id);
    }
    world.enter(world.config(2, &[2, 3], &[]));
    world.assert_equal(&[2, 3]);
}

#[test]
fn a_fence_waits_for_what_is_in_progress_and_refuses_what_comes_later() {
    let mut world = three();
    world.hold = Some(|mail| matches!(mail, Mail::Request { to, .. } if to.server.0 == 3));
    let write = Put::new(1, 1).send(&mut world, 1);
    let queued = Put::new(2, 2).send(&mut world, 1);
    world.settle();
    let fence = |world: &mut World, id| {
        let sessions = vec![SessionId(7)];
        world.direct(id, Request::Fence(FenceSessions { sessions }))
    };
    let callers = [1, 2, 3].map(|id| fence(&mut world, id));
    world.settle();
    assert_eq!(world.code(queued), ErrorCode::Fenced);
    assert!(
        !world.is_answered(callers[0]),
        "its write is not on server 3"
    );
    let fenced = Ok(Response::Fenced(SessionsFenced {
        epochs: vec![(GROUP, Epoch(1))],
    }));
    assert_eq!(world.answer(callers[1]), fenced);
    assert_eq!(world.answer(callers[2]), fenced);
    assert!(!world.nodes[&3].store.chunks.contains_key(&key(1, 0)));
    // Server 3 refuses the late forward; the primary repairs its copy, then the fence holds.
    world.hold = None;
    world.settle();
    assert_eq!(world.answer(callers[0]), fenced);
    assert!(world.answer(write).is_ok());
    world.assert_equal(&[1, 2, 3]);
    assert!(world.nodes[&1].store.fenced.contains(&SessionId(7)));
    let late = Put::new(3, 3).send(&mut world, 1);
    assert_eq!(world.code(late), ErrorCode::Fenced);
    assert_eq!(world.suspects, []);
}

#[test]
fn a_cut_waits_for_writes_of_its_inode_and_holds_later_ones_back() {
    let mut world = three();
    let before = Put {
        len: 16384,
        ..Put::new(1, 1)
    }
    .send(&mut world, 1);
    let behind = Put {
        key: key(1, 1),
        ..Put::new(2, 1)
    }
    .send(&mut world, 1);
    let cutting = world.direct(1, cut(1, 100));
    let after = Put {
        generation: 1,
        ..Put::new(3, 3)
    }
    .send(&mut world, 1);
    assert!(!world.is_answered(cutting));
    world.settle();
    assert!(world.answer(before).is_ok() && world.answer(behind).is_ok());
    assert_eq!(world.answer(cutting), made(1));
    assert!(!world.answer(after).is_ok_and(|r| r == Response::Done));
    let chunks = &world.nodes[&1].store.chunks;
    assert!(!chunks.contains_key(&key(1, 1)));
    for id in [2, 3] {
        let caller = world.direct(id, cut(1, 100));
        world.settle();
        assert_eq!(world.answer(caller), made(1));
    }
    world.settle_with_ticks(3);
    world.assert_equal(&[1, 2, 3]);
}

#[test]
fn a_late_write_does_not_survive_a_cut_and_a_late_cut_removes_no_later_write() {
    let mut world = three();
    Put {
        key: key(1, 1),
        ..Put::new(1, 1)
    }
    .send(&mut world, 1);
    world.settle();
    for id in [1, 2, 3] {
        world.direct(id, cut(1, 0));
        world.settle();
    }
    let late = Put {
        key: key(1, 1),
        ..Put::new(2, 2)
    }
    .send(&mut world, 1);
    let error = world.answer(late).expect_err("cut");
    assert_eq!((error.code, error.detail), (ErrorCode::StaleGeneration, 1));
    let next = Put {
        key: key(1, 1),
        generation: 1,
        ..Put::new(3, 3)
    }
    .send(&mut world, 1);
    world.settle();
    assert!(world.answer(next).is_ok());
    for id in [1, 2, 3] {
        let caller = world.direct(id, cut(1, 0));
        world.settle();
        assert_eq!(world.answer(caller), made(1));
    }
    world.assert_equal(&[1, 2, 3]);
    assert!(world.nodes[&2].store.chunks.contains_key(&key(1, 1)));
}

#[test]
fn a_cut_that_reached_a_backup_only_is_not_undone_by_equalising() {
    let mut world = three();
    Put {
        key: key(1, 1),
        ..Put::new(1, 1)
    }
    .send(&mut world, 1);
    world.settle();
    // In doubt on the chunk, so that it is marked; then the cut reaches server 3 alone.
    world.hold = Some(|mail| matches!(mail, Mail::Request { to, .. } if to.server.0 != 2));
    Put {
        key: key(1, 1),
        ..Put::new(2, 2)
    }
    .send(&mut world, 1);
    world.settle();
    world.mail.clear();
    world.hold = None;
    world.direct(3, cut(1, 0));
    world.settle();
    world.kill(1);
    world.enter(world.config(2, &[2, 3], &[]));
    world.assert_equal(&[2, 3]);
    assert!(world.nodes[&2].store.chunks.is_empty());
    for id in [2, 3] {
        let caller = world.direct(id, cut_in(2, 1, 0));
        world.settle();
        assert_eq!(world.answer(caller), made(2));
    }
}

#[test]
fn a_layout_that_cannot_be_is_refused() {
    let mut world = three();
    let mut layout = LAYOUT;
    layout.chunk_bytes = 0;
    let request = Request::Cut(CutInode {
        inode: InodeId(1),
        generation: Generation(1),
        from: 0,
        to: u64::MAX,
        layout,
        groups: vec![(GROUP, Epoch(1))],
    });
    let caller = world.direct(1, request);
    assert_eq!(world.code(caller), ErrorCode::InvalidArgument);
}

#[test]
fn a_server_whose_disk_failed_leaves_every_group_without_being_asked() {
    let mut world = three();
    let reason = || "Input/output error".to_owned();
    let (me, now) = (world.run(2), world.now);
    let feed = |world: &mut World, now| {
        let node = world.nodes.get_mut(&2).unwrap();
        let event = Event::DiskFailed { reason: reason() };
        node.core.handle(now, event, &node.store)
    };
    match &feed(&mut world, now)[..] {
        [
            Action::Suspect {
                suspect,
                groups,
                reason,
            },
        ] => {
            assert_eq!((*suspect, &groups[..]), (me, &[(GROUP, Epoch(1))][..]));
            assert!(reason.contains("Input/output"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(feed(&mut world, now), [], "not all the time");
    let later = now + std::time::Duration::from_secs(5);
    assert_eq!(feed(&mut world, later).len(), 1, "but again");
    let config = world.config(2, &[1, 3], &[2]);
    world.direct(2, adopt(config));
    let later = now + std::time::Duration::from_secs(9);
    assert_eq!(feed(&mut world, later), [], "until it is out");
}
