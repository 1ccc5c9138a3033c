//! The store against a model of it: random operations, orderly and other restarts.

use super::*;
use dfs_proto::msg::peer::WriteRecord;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Clone, Debug)]
enum Op {
    Write { at: usize, offset: u32, len: u32 },
    Install { at: usize, len: u32 },
    Remove { at: usize },
    Cut { inode: u64, from: u64 },
    Punch { inode: u64, from: u64, len: u64 },
    Sync { at: usize },
    SyncAged,
    Restart { orderly: bool },
}

const BLOCK: u32 = 4096;

const KEYS: [(u64, u64); 5] = [(1, 0), (1, 1), (1, 2), (2, 0), (2, 3)];

#[derive(Clone, Debug, PartialEq)]
struct Copy {
    generation: u64,
    counter: u64,
    bytes: Vec<u8>,
    records: Vec<WriteRecord>,
    /// Blocks that are stored.
    stored: BTreeSet<u32>,
}

#[derive(Default)]
struct Model {
    chunks: BTreeMap<ChunkKey, Copy>,
    generations: BTreeMap<u64, u64>,
    counter: u64,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let at = 0..KEYS.len();
    let small = (at.clone(), 0..CHUNK, 1u32..9000);
    let large = (at.clone(), 0u32..40, 16u32..40);
    let op = prop_oneof![
        6 => small.prop_map(|(at, offset, len)| Op::Write { at, offset, len: len.min(CHUNK - offset) }),
        4 => large.prop_map(|(at, first, blocks)| Op::Write {
            at,
            offset: first * 4096,
            len: (blocks * 4096).min(CHUNK - first * 4096),
        }),
        1 => (at.clone(), 0u32..CHUNK).prop_map(|(at, len)| Op::Install { at, len }),
        1 => at.clone().prop_map(|at| Op::Remove { at }),
        2 => (1u64..3, 0..u64::from(CHUNK) * 4).prop_map(|(inode, from)| Op::Cut { inode, from }),
        2 => (1u64..3, 0..u64::from(CHUNK) * 4, prop_oneof![1..9000u64, 1..u64::from(CHUNK) * 3])
            .prop_map(|(inode, from, len)| Op::Punch { inode, from, len }),
        3 => at.prop_map(|at| Op::Sync { at }),
        1 => Just(Op::SyncAged),
        2 => any::<bool>().prop_map(|orderly| Op::Restart { orderly }),
    ];
    proptest::collection::vec(op, 1..40)
}

impl Model {
    fn apply(&mut self, op: &Op, store: &ChunkStore) {
        self.counter += 1;
        let counter = self.counter;
        match *op {
            Op::Write { at, offset, len } => {
                let at = key(KEYS[at].0, KEYS[at].1);
                let generation = *self.generations.entry(at.inode.0).or_default();
                let data = bytes(counter, len as usize);
                write_at(store, at, generation, counter, offset, &data).expect("writes");
                let chunk = self.chunks.entry(at).or_insert(Copy {
                    generation,
                    counter,
                    bytes: Vec::new(),
                    records: Vec::new(),
                    stored: BTreeSet::new(),
                });
                (chunk.generation, chunk.counter) = (generation, counter);
                let end = offset as usize + data.len();
                if chunk.bytes.len() < end {
                    chunk.bytes.resize(end, 0);
                }
                chunk.bytes[offset as usize..end].copy_from_slice(&data);
                let blocks = offset / BLOCK..(end as u32).div_ceil(BLOCK);
                chunk.stored.extend(blocks);
                chunk
                    .records
                    .retain(|record| record.session != SessionId(7));
                chunk.records.push(record(7, counter));
            }
            Op::Install { at, len } => {
                let at = key(KEYS[at].0, KEYS[at].1);
                let generation = *self.generations.entry(at.inode.0).or_default();
                let mut data = bytes(counter, len as usize);
                // A part of it is zeros.
                let zeros = data.len() / 3..data.len() / 2;
                let hole = (zeros.start as u32).div_ceil(BLOCK)..zeros.end as u32 / BLOCK;
                let holes: &[_] = match hole.is_empty() {
                    true => &[],
                    false => &[(hole.start, hole.end)],
                };
                data[zeros].fill(0);
                let image = Image {
                    generation: Generation(generation),
                    version: version(counter),
                    len,
                    records: vec![record(1, counter), record(2, counter)],
                };
                let mut offset = 0;
                loop {
                    let end = (offset + 100 * 1024).min(data.len());
                    let part = &data[offset..end];
                    store
                        .install(&InstallPart {
                            key: at,
                            group: group_of(at),
                            image: &image,
                            offset: offset as u32,
                            data: part,
                            checksums: &block_checksums(offset as u32, part),
                            holes,
                            last: end == data.len(),
                        })
                        .expect("installs");
                    offset = end;
                    if end == data.len() {
                        break;
                    }
                }
                let installed = Copy {
                    generation,
                    counter,
                    bytes: data.to_vec(),
                    records: image.records,
                    stored: (0..len.div_ceil(BLOCK))
                        .filter(|block| !hole.contains(block))
                        .collect(),
                };
                self.chunks.insert(at, installed);
            }
            Op::Remove { at } => {
                let at = key(KEYS[at].0, KEYS[at].1);
                store.remove(at).expect("removes");
                self.chunks.remove(&at);
            }
            Op::Cut { inode, from } => {
                let generation = self.generations.entry(inode).or_default();
                *generation += 1;
                let groups = [GroupId(0), GroupId(1), GroupId(2)];
                let generation = *generation;
                store
                    .cut(
                        InodeId(inode),
                        Generation(generation),
                        from..u64::MAX,
                        LAYOUT,
                        &groups,
                    )
                    .expect("cuts");
                let chunk_start = |at: &ChunkKey| at.index.0 * u64::from(CHUNK);
                self.chunks
                    .retain(|at, _| at.inode.0 != inode || chunk_start(at) < from);
                for (at, chunk) in self.chunks.iter_mut().filter(|(at, _)| at.inode.0 == inode) {
                    let left = (from - chunk_start(at)) as usize;
                    if left < chunk.bytes.len() {
                        chunk.bytes.truncate(left);
                        chunk.stored.split_off(&(left as u32).div_ceil(BLOCK));
                        chunk.generation = generation;
                    }
                }
            }
            Op::Punch { inode, from, len } => {
                let generation = self.generations.entry(inode).or_default();
                *generation += 1;
                let generation = *generation;
                let groups = [GroupId(0), GroupId(1), GroupId(2)];
                let range = from..from + len;
                store
                    .cut(
                        InodeId(inode),
                        Generation(generation),
                        range.clone(),
                        LAYOUT,
                        &groups,
                    )
                    .expect("punches");
                self.chunks.retain(|at, chunk| {
                    let start = at.index.0 * u64::from(CHUNK);
                    let end = start + u64::from(CHUNK);
                    if at.inode.0 != inode || end <= range.start || range.end <= start {
                        return true;
                    }
                    if range.start <= start && end <= range.end {
                        return false;
                    }
                    if range.start < start + chunk.bytes.len() as u64 {
                        chunk.generation = generation;
                    }
                    chunk.stored.retain(|block| {
                        let from = start + u64::from(block * BLOCK);
                        range.start > from || range.end < from + u64::from(BLOCK)
                    });
                    for (at, byte) in chunk.bytes.iter_mut().enumerate() {
                        if range.contains(&(start + at as u64)) {
                            *byte = 0;
                        }
                    }
                    true
                });
            }
            Op::Sync { at } => store.sync(&[key(KEYS[at].0, KEYS[at].1)]).expect("syncs"),
            Op::SyncAged => {
                store.sync_aged(Duration::ZERO, 100).expect("syncs");
            }
            Op::Restart { .. } => unreachable!("made by the test"),
        }
    }

    fn compare(&self, store: &ChunkStore, probe: u32) -> Result<(), TestCaseError> {
        for at in KEYS.map(|(inode, index)| key(inode, index)) {
            let Some(chunk) = self.chunks.get(&at) else {
                prop_assert_eq!(store.state(at), None);
                continue;
            };
            let state = ChunkState {
                generation: Generation(chunk.generation),
                version: version(chunk.counter),
                len: chunk.bytes.len() as u32,
                stored: chunk.stored.len() as u32,
                damaged: false,
            };
            prop_assert_eq!(store.state(at), Some(state));
            prop_assert!(
                content(store, at) == Ok(chunk.bytes.clone()),
                "content of {}",
                at
            );
            let first = probe / BLOCK;
            let next = |stored| store.find_block(at, first, stored).expect("looks");
            prop_assert_eq!(next(true), chunk.stored.range(first..).next().copied());
            prop_assert_eq!(
                next(false),
                (first..).find(|block| !chunk.stored.contains(block))
            );
            let image = store.image(at).expect("reads").expect("is there");
            prop_assert_eq!(&image.records, &chunk.records);
            // A part at an odd place.
            let mut part = vec![0; 5000];
            let read = store.read(at, probe, &mut part).expect("reads");
            let expected = &chunk.bytes[chunk.bytes.len().min(probe as usize)..];
            let expected = &expected[..expected.len().min(5000)];
            prop_assert!(part[..read.len] == *expected);
            prop_assert_eq!(read.checksums, block_checksums(probe, expected));
        }
        let mut listed = Vec::new();
        for group in 0..3 {
            let (page, end) = store.list(GroupId(group), None, 100);
            prop_assert!(end);
            listed.extend(page.into_iter().map(|(at, _)| at));
        }
        listed.sort_unstable();
        prop_assert!(listed.iter().eq(self.chunks.keys()));
        Ok(())
    }
}

fn record(session: u64, counter: u64) -> WriteRecord {
    WriteRecord {
        session: SessionId(session),
        sequence: Sequence(counter),
        version: version(counter),
    }
}

proptest! {
    #![proptest_config(config(24))]

    /// A process that is killed loses nothing that it had answered: the kernel has it.
    #[test]
    fn the_store_does_what_the_model_does(ops in ops(), probe in 0..CHUNK) {
        let dir = scratch();
        let mut model = Model::default();
        let (mut store, _) = open(dir.path());
        for op in &ops {
            if let Op::Restart { orderly } = op {
                if *orderly {
                    store.close_clean().expect("closes");
                }
                drop(store);
                let opened;
                (store, opened) = open(dir.path());
                prop_assert_eq!(opened.clean, *orderly);
                model.compare(&store, probe)?;
            } else {
                model.apply(op, &store);
            }
        }
        model.compare(&store, probe)?;
        for at in model.chunks.keys() {
            let verified = store.verify(*at).expect("checks").expect("is there");
            prop_assert!(verified.digest.is_ok(), "{:?}", verified);
        }
    }
}
