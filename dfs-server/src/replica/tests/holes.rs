//! Holes that are punched in the middle of a file, against a model of the file in memory: through
//! deaths in the middle of a cut, epochs that come between, and members that return.

use super::world::*;
use crate::replica::Request;
use dfs_proto::ids::*;
use dfs_proto::msg::control::CutInode;
use std::ops::Range;

const CHUNK: u64 = LAYOUT.chunk_bytes as u64;
const CHUNKS: u64 = 3;

fn punch(epoch: u64, generation: u64, range: &Range<u64>) -> Request {
    Request::Cut(CutInode {
        inode: InodeId(1),
        generation: Generation(generation),
        from: range.start,
        to: range.end,
        layout: LAYOUT,
        groups: vec![(GROUP, Epoch(epoch))],
    })
}

/// A file of one mount, written and punched.
struct File {
    bytes: Vec<u8>,
    epoch: u64,
    generation: u64,
    sequence: u64,
    members: Vec<u32>,
    away: Option<u32>,
}

impl File {
    fn write(&mut self, world: &mut World) {
        self.sequence += 1;
        let index = world.random(CHUNKS as usize) as u64;
        let offset = world.random(CHUNK as usize) as u32;
        let put = Put {
            key: key(1, index),
            epoch: self.epoch,
            generation: self.generation,
            offset,
            len: (1 + world.random(6000)).min(CHUNK as usize - offset as usize),
            ..Put::new(self.sequence, self.sequence as u8)
        };
        let caller = put.send(world, self.members[0]);
        world.settle();
        assert!(world.answer(caller).is_ok());
        let start = (index * CHUNK) as usize + offset as usize;
        self.bytes[start..start + put.len].fill(put.byte);
    }

    fn punch(&mut self, world: &mut World) {
        let from = world.random((CHUNKS * CHUNK) as usize) as u64;
        let most = [50, 5000, 2 * CHUNK][world.random(3)];
        let to = (from + 1 + world.random(most as usize) as u64).min(CHUNKS * CHUNK);
        let range = from..to;
        self.generation += 1;
        // Some make it, and then one of them or of the others may die.
        let mut first = self.members.clone();
        first.truncate(world.random(self.members.len() + 1));
        for id in first {
            world.direct(id, punch(self.epoch, self.generation, &range));
            if world.random(2) == 0 {
                world.settle();
            }
        }
        if self.away.is_none() && world.random(2) == 0 {
            let victim = self.members.remove(world.random(self.members.len()));
            world.kill(victim);
            self.away = Some(victim);
            self.enter(world);
        }
        // The directory asks until all have made it in one epoch that serves.
        for id in self.members.clone() {
            world.direct(id, punch(self.epoch, self.generation, &range));
            world.settle();
        }
        self.bytes[range.start as usize..range.end as usize].fill(0);
    }

    fn enter(&mut self, world: &mut World) {
        self.epoch += 1;
        world.settle();
        let at = world.random(self.members.len());
        self.members.rotate_left(at);
        world.enter(world.config(self.epoch, &self.members, &[]));
        world.settle();
    }

    /// Who was away comes back, is brought up to date, and counts again.
    fn take_back(&mut self, world: &mut World) {
        let Some(id) = self.away.take() else { return };
        world.restart(id);
        self.epoch += 1;
        world.enter(world.config(self.epoch, &self.members, &[id]));
        self.write(world);
        world.settle_with_ticks(3);
        let proposed = world
            .proposals
            .contains(&(Epoch(self.epoch), world.run(id)));
        assert!(proposed, "{id} was not proposed");
        self.members.push(id);
        self.enter(world);
    }

    fn check(&self, world: &World, seed: u64) {
        world.assert_equal(&self.members);
        for index in 0..CHUNKS {
            let chunk = world.nodes[&self.members[0]]
                .store
                .chunks
                .get(&key(1, index));
            let mut found = chunk.map_or(Vec::new(), |chunk| chunk.bytes.clone());
            found.resize(CHUNK as usize, 0);
            let start = (index * CHUNK) as usize;
            let expected = &self.bytes[start..start + CHUNK as usize];
            assert!(found == expected, "seed {seed}: chunk {index} differs");
        }
    }
}

#[test]
fn holes_stay_and_nothing_else_goes_through_deaths_and_returns() {
    for seed in 1..150 {
        let mut world = World::new(3, Some(seed));
        world.enter(world.config(1, &[1, 2, 3], &[]));
        let mut file = File {
            bytes: vec![0; (CHUNKS * CHUNK) as usize],
            epoch: 1,
            generation: 0,
            sequence: 0,
            members: vec![1, 2, 3],
            away: None,
        };
        for _ in 0..25 {
            match world.random(8) {
                0..5 => file.write(&mut world),
                5 | 6 => file.punch(&mut world),
                _ => file.take_back(&mut world),
            }
            file.check(&world, seed);
        }
        file.take_back(&mut world);
        file.check(&world, seed);
    }
}

#[test]
fn a_write_of_before_the_hole_does_not_fill_it_and_a_late_hole_takes_nothing() {
    let mut world = World::new(3, None);
    world.enter(world.config(1, &[1, 2, 3], &[]));
    Put::new(1, 1).send(&mut world, 1);
    world.settle();
    let cuts = |world: &mut World| {
        for id in [1, 2, 3] {
            world.direct(id, punch(1, 1, &(10..20)));
            world.settle();
        }
    };
    cuts(&mut world);
    let late = Put::new(2, 2).send(&mut world, 1);
    world.settle();
    assert_eq!(
        world.code(late),
        dfs_proto::error::ErrorCode::StaleGeneration
    );
    let put = Put {
        generation: 1,
        offset: 15,
        len: 10,
        ..Put::new(3, 3)
    };
    let caller = put.send(&mut world, 1);
    world.settle();
    assert!(world.answer(caller).is_ok());
    cuts(&mut world);
    world.assert_equal(&[1, 2, 3]);
    let mut expected = vec![1; 100];
    expected[10..15].fill(0);
    expected[15..25].fill(3);
    assert_eq!(world.nodes[&2].store.chunks[&key(1, 0)].bytes, expected);
}
