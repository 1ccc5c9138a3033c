//! Random orders of delivery, deaths of servers at random moments: what was acknowledged stays,
//! and the members of an effective epoch are equal when they are at rest.

use super::world::*;
use crate::replica::Caller;
use dfs_proto::error::{ErrorCode, Retry};

/// A client that writes whole chunks, one write of a chunk at a time, and repeats what is in
/// doubt under the same sequence.
struct Client {
    epoch: u64,
    primary: u32,
    sequence: u64,
    open: Vec<(Put, Caller)>,
    /// For each chunk the byte that was acknowledged last, and one that may be there as well.
    acknowledged: [u8; 3],
}

impl Client {
    fn write(&mut self, world: &mut World) {
        let index = world.random(3) as u64;
        if self.open.iter().any(|(put, _)| put.key == key(1, index)) {
            return;
        }
        self.sequence += 1;
        let put = Put {
            key: key(1, index),
            epoch: self.epoch,
            len: 5000,
            ..Put::new(self.sequence, self.sequence as u8)
        };
        let caller = put.send(world, self.primary);
        self.open.push((put, caller));
    }

    fn look(&mut self, world: &mut World, repeat: bool) {
        for (put, caller) in std::mem::take(&mut self.open) {
            let answer = world.answers.get(&caller).map(|(result, _)| result.clone());
            match answer {
                Some(Ok(_)) => self.acknowledged[put.key.index.0 as usize] = put.byte,
                Some(Err(error)) => {
                    assert_ne!(error.retry(), Retry::Never, "{error}");
                    let again = Put {
                        epoch: self.epoch,
                        ..put
                    };
                    let caller = again.send(world, self.primary);
                    self.open.push((again, caller));
                }
                None if repeat => {
                    let again = Put {
                        epoch: self.epoch,
                        ..put
                    };
                    let caller = again.send(world, self.primary);
                    self.open.push((again, caller));
                }
                None => self.open.push((put, caller)),
            }
        }
    }
}

#[test]
fn what_was_acknowledged_survives_deaths_at_any_moment() {
    for seed in 1..250 {
        let mut world = World::new(3, Some(seed));
        world.enter(world.config(1, &[1, 2, 3], &[]));
        let mut client = Client {
            epoch: 1,
            primary: 1,
            sequence: 0,
            open: Vec::new(),
            acknowledged: [0; 3],
        };
        let mut members = vec![1, 2, 3];
        for round in 0..2 {
            for _ in 0..world.random(80) {
                if world.random(4) == 0 {
                    client.write(&mut world);
                }
                world.step();
                client.look(&mut world, false);
            }
            let victim = members.remove(world.random(members.len()));
            world.kill(victim);
            for _ in 0..world.random(20) {
                world.step();
                client.look(&mut world, false);
            }
            let at = world.random(members.len());
            members.rotate_left(at);
            client.epoch += 1;
            client.primary = members[0];
            world.enter(world.config(client.epoch, &members, &[]));
            world.assert_equal(&members);
            let bytes = |index| {
                let chunk = world.nodes[&members[0]].store.chunks.get(&key(1, index));
                chunk.map_or(0, |chunk| chunk.bytes[0])
            };
            for index in 0..3u64 {
                let found = bytes(index);
                let pending = client.open.iter().find(|(put, _)| put.key == key(1, index));
                let allowed = found == client.acknowledged[index as usize]
                    || pending.is_some_and(|(put, _)| put.byte == found);
                assert!(
                    allowed,
                    "seed {seed} round {round}: chunk {index} is {found}"
                );
            }
            client.look(&mut world, true);
        }
        for _ in 0..5 {
            world.settle();
            client.look(&mut world, false);
        }
        assert!(client.open.is_empty(), "seed {seed}: {:?}", client.open);
        world.assert_equal(&members);
        for index in 0..3u64 {
            let chunk = world.nodes[&members[0]].store.chunks.get(&key(1, index));
            let found = chunk.map_or(0, |chunk| chunk.bytes[0]);
            assert_eq!(found, client.acknowledged[index as usize], "seed {seed}");
        }
    }
}

#[test]
fn a_primary_that_is_cut_off_can_commit_nothing() {
    for seed in 1..100 {
        let mut world = World::new(3, Some(seed));
        world.enter(world.config(1, &[1, 2, 3], &[]));
        let before = Put::new(1, 1).send(&mut world, 1);
        let steps = world.random(8);
        for _ in 0..steps {
            world.step();
        }
        // It still reaches the others, and believes in its epoch.
        let config = world.config(2, &[2, 3], &[]);
        world.enter(config);
        let acknowledged = world.answers.get(&before).is_some_and(|(r, _)| r.is_ok());
        let after = Put::new(2, 2).send(&mut world, 1);
        world.settle_with_ticks(5);
        assert!(
            !world.answers.get(&after).is_some_and(|(r, _)| r.is_ok()),
            "seed {seed}"
        );
        world.assert_equal(&[2, 3]);
        if acknowledged {
            let chunk = &world.nodes[&2].store.chunks[&key(1, 0)];
            assert_eq!(chunk.bytes[0], 1, "seed {seed}");
        }
        let reader = read(&mut world, 1, 2, key(1, 0));
        assert_eq!(world.code(reader), ErrorCode::WrongEpoch);
    }
}

/// The directory's part: who is what, and the random things that happen to them.
struct Fate {
    epoch: u64,
    in_sync: Vec<u32>,
    joining: Vec<u32>,
    down: Vec<u32>,
}

impl Fate {
    fn strike(&mut self, world: &mut World) {
        let proposed = self.joining.iter().position(|id| {
            let proposal = (dfs_proto::ids::Epoch(self.epoch), world.run(*id));
            world.proposals.contains(&proposal)
        });
        match (world.random(4), proposed) {
            // A death.
            (0, _) if self.in_sync.len() > 1 => {
                let id = self.in_sync.remove(world.random(self.in_sync.len()));
                world.kill(id);
                self.down.push(id);
            }
            (0, _) if !self.joining.is_empty() => {
                let id = self.joining.remove(world.random(self.joining.len()));
                world.kill(id);
                self.down.push(id);
            }
            // A wrong suspicion.
            (1, _) if self.in_sync.len() > 1 => {
                let id = self.in_sync.remove(world.random(self.in_sync.len()));
                self.joining.push(id);
            }
            (2, Some(at)) => {
                let id = self.joining.remove(at);
                self.in_sync.push(id);
            }
            (3, _) if !self.down.is_empty() => {
                let id = self.down.remove(world.random(self.down.len()));
                world.restart(id);
                self.joining.push(id);
            }
            _ => return,
        }
        for _ in 0..world.random(10) {
            world.step();
        }
        self.epoch += 1;
        let at = world.random(self.in_sync.len());
        self.in_sync.rotate_left(at);
        world.enter(world.config(self.epoch, &self.in_sync, &self.joining));
        world.assert_equal(&self.in_sync);
    }
}

#[test]
fn deaths_suspicions_returns_and_promotions_in_any_order_lose_nothing() {
    for seed in 1..60 {
        let mut world = World::new(3, Some(seed * 7919));
        world.enter(world.config(1, &[1, 2, 3], &[]));
        let mut fate = Fate {
            epoch: 1,
            in_sync: vec![1, 2, 3],
            joining: Vec::new(),
            down: Vec::new(),
        };
        let mut client = Client {
            epoch: 1,
            primary: 1,
            sequence: 0,
            open: Vec::new(),
            acknowledged: [0; 3],
        };
        for _ in 0..12 {
            for _ in 0..world.random(120) {
                if world.random(5) == 0 {
                    client.write(&mut world);
                }
                if world.random(10) == 0 {
                    world.tick();
                }
                world.step();
                client.look(&mut world, false);
            }
            fate.strike(&mut world);
            client.epoch = fate.epoch;
            client.primary = fate.in_sync[0];
            client.look(&mut world, true);
        }
        for _ in 0..4 {
            world.settle_with_ticks(8);
            client.look(&mut world, false);
        }
        assert!(client.open.is_empty(), "seed {seed}: {:?}", client.open);
        let mut all = fate.in_sync.clone();
        all.extend(&fate.joining);
        world.assert_equal(&all);
        for index in 0..3u64 {
            let chunk = world.nodes[&all[0]].store.chunks.get(&key(1, index));
            let found = chunk.map_or(0, |chunk| chunk.bytes[0]);
            assert_eq!(found, client.acknowledged[index as usize], "seed {seed}");
        }
    }
}
