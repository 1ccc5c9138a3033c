//! A file server's chunk store in memory. It has the two parts that matter: what a power cut
//! leaves, and what is lost with it.

use super::random::Random;
use dfs_proto::cluster::GroupConfig;
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::{ChunkKey, Epoch, Generation, GroupId, InodeId, SessionId, Version};
use dfs_proto::layout::FileLayout;
use dfs_proto::msg::chunk::ChunkRead;
use dfs_proto::msg::peer::{ChunkImage, ChunkState, WriteRecord};
use dfs_proto::msg::scrub::CheckedCopy;
use dfs_proto::payload::{Payload, block_checksums};
use dfs_server::replica::{DiskDone, DiskOp, Holdings};
use std::collections::{BTreeMap, BTreeSet};

/// One chunk as it is stored.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Stored {
    pub(crate) generation: Generation,
    pub(crate) version: Version,
    pub(crate) bytes: Vec<u8>,
    pub(crate) records: BTreeMap<SessionId, WriteRecord>,
}

#[derive(Clone, Debug)]
struct Slot {
    group: GroupId,
    /// `None`: a hole.
    present: Option<Stored>,
    /// What a power cut may go back to: the last synced state and those since, oldest first.
    past: Vec<Option<Stored>>,
}

/// The disk of one server; it outlives its processes.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    slots: BTreeMap<ChunkKey, Slot>,
    /// With the epoch in which it was raised.
    floors: BTreeMap<(GroupId, InodeId), (Generation, Epoch)>,
    configs: BTreeMap<GroupId, GroupConfig>,
    fenced: BTreeSet<SessionId>,
}

impl Disk {
    /// The epochs that were made durable.
    pub(crate) fn configs(&self) -> Vec<GroupConfig> {
        self.configs.values().cloned().collect()
    }

    pub(crate) fn fenced(&self) -> Vec<SessionId> {
        self.fenced.iter().copied().collect()
    }

    pub(crate) fn stored(&self, key: ChunkKey) -> Option<&Stored> {
        self.slots.get(&key)?.present.as_ref()
    }

    /// Every chunk that is no hole.
    pub(crate) fn inventory(&self) -> impl Iterator<Item = (ChunkKey, &Stored)> {
        self.slots
            .iter()
            .filter_map(|(key, slot)| Some((*key, slot.present.as_ref()?)))
    }

    /// The power goes: each chunk falls back to some state between its last sync and now.
    pub(crate) fn lose_power(&mut self, random: &mut Random) -> usize {
        let mut lost = 0;
        for slot in self.slots.values_mut() {
            let choices = slot.past.len() + 1;
            let chosen = random.index(choices);
            if chosen < slot.past.len() {
                slot.present = slot.past.swap_remove(chosen);
                lost += 1;
            }
            // What is read after the boot is what the disk has.
            slot.past.clear();
        }
        lost
    }

    fn change(&mut self, key: ChunkKey, group: GroupId, new: Option<Stored>) {
        let slot = self.slots.entry(key).or_insert_with(|| Slot {
            group,
            present: None,
            past: Vec::new(),
        });
        let old = std::mem::replace(&mut slot.present, new);
        slot.past.push(old);
    }

    fn sync(&mut self, which: impl Fn(ChunkKey, GroupId) -> bool) {
        for (key, slot) in &mut self.slots {
            if which(*key, slot.group) {
                slot.past.clear();
            }
        }
    }

    fn floor_of(&self, group: GroupId, inode: InodeId) -> Generation {
        self.floors
            .get(&(group, inode))
            .map_or(Generation(0), |f| f.0)
    }

    fn raise_floor(&mut self, group: GroupId, inode: InodeId, generation: Generation) -> bool {
        let epoch = self.configs.get(&group).map_or(Epoch(0), |c| c.epoch);
        let floor = self.floors.entry((group, inode)).or_default();
        let higher = generation > floor.0;
        if higher {
            *floor = (generation, epoch);
        }
        higher
    }

    /// Does the work.
    pub(crate) fn work(&mut self, op: DiskOp) -> Result<DiskDone, Error> {
        match op {
            DiskOp::Read { key, offset, len } => {
                let bytes = self.stored(key).map(|s| s.bytes.as_slice());
                let part = part(bytes.unwrap_or_default(), offset, len);
                let checksums = block_checksums(offset, part);
                let read = ChunkRead { checksums };
                Ok(DiskDone::Read(read, Payload::copy_from(part)))
            }
            DiskOp::Write {
                key,
                group,
                generation,
                record,
                offset,
                payload,
                ..
            } => {
                let mut new = self.stored(key).cloned().unwrap_or_default();
                if generation < new.generation.max(self.floor_of(group, key.inode)) {
                    return Err(Error::bare(ErrorCode::StaleGeneration));
                }
                let end = offset as usize + payload.len();
                new.bytes.resize(new.bytes.len().max(end), 0);
                new.bytes[offset as usize..end].copy_from_slice(&payload);
                new.generation = generation;
                new.version = record.version;
                new.records.insert(record.session, record);
                self.change(key, group, Some(new));
                Ok(DiskDone::Done)
            }
            DiskOp::Sync { inode, group, .. } => {
                self.sync(|key, of| of == group && key.inode == inode);
                Ok(DiskDone::Done)
            }
            DiskOp::SyncGroup { group } => {
                self.sync(|_, of| of == group);
                Ok(DiskDone::Done)
            }
            DiskOp::Adopt { configs, fenced } => {
                for config in configs {
                    let known = self.configs.get(&config.group);
                    if known.is_none_or(|known| known.epoch < config.epoch) {
                        self.configs.insert(config.group, config);
                    }
                }
                self.fenced.extend(fenced);
                Ok(DiskDone::Done)
            }
            DiskOp::Cut {
                inode,
                generation,
                from,
                layout,
                groups,
            } => {
                self.cut(inode, generation, from, layout, &groups);
                Ok(DiskDone::Done)
            }
            DiskOp::InstallFloors { group, floors } => {
                for (inode, generation) in floors {
                    self.raise_floor(group, inode, generation);
                }
                Ok(DiskDone::Done)
            }
            DiskOp::DropFloors { group, epoch } => {
                self.floors
                    .retain(|(of, _), (_, made)| *of != group || *made >= epoch);
                Ok(DiskDone::Done)
            }
            DiskOp::Fetch {
                key,
                group,
                offset,
                len,
            } => Ok(self.fetch(key, group, offset, len)),
            DiskOp::Install {
                key,
                group,
                hole,
                image,
                payload,
                ..
            } => {
                self.raise_floor(group, key.inode, image.floor);
                let new = (!hole).then(|| Stored {
                    generation: image.generation,
                    version: image.version,
                    bytes: payload.to_vec(),
                    records: image.records.iter().map(|r| (r.session, *r)).collect(),
                });
                self.change(key, group, new);
                Ok(DiskDone::Done)
            }
            DiskOp::AdoptTorn { .. } => Ok(DiskDone::Done),
            DiskOp::Check { key } => Ok(DiskDone::Checked(self.stored(key).map(|stored| {
                CheckedCopy {
                    generation: stored.generation,
                    version: stored.version,
                    len: stored.bytes.len() as u32,
                    digest: Ok(block_checksums(0, &stored.bytes)
                        .into_iter()
                        .fold(0, |sum: u32, block| sum.rotate_left(1) ^ block)),
                }
            }))),
            DiskOp::Release { group, epoch } => Ok(self.release(group, epoch)),
        }
    }

    /// Removes a chunk of a group that is not this server's any more, or its floors.
    fn release(&mut self, group: GroupId, epoch: Epoch) -> DiskDone {
        let (held, _) = self.chunks(group, None, 1);
        match held.first() {
            Some(state) => self.change(state.key, group, None),
            None => self
                .floors
                .retain(|(of, _), (_, made)| *of != group || *made >= epoch),
        }
        DiskDone::Released {
            chunks: held.len() as u32,
            end: held.is_empty(),
        }
    }

    fn fetch(&self, key: ChunkKey, group: GroupId, offset: u32, len: u32) -> DiskDone {
        let nothing = Stored::default();
        let stored = self.stored(key).unwrap_or(&nothing);
        let part = part(&stored.bytes, offset, len);
        let image = ChunkImage {
            floor: self.floor_of(group, key.inode),
            generation: stored.generation,
            version: stored.version,
            len: stored.bytes.len() as u32,
            records: stored.records.values().copied().collect(),
            checksums: block_checksums(offset, part),
        };
        DiskDone::Image(image, Payload::copy_from(part))
    }

    /// As the chunk store does it: durable, once for each generation.
    fn cut(
        &mut self,
        inode: InodeId,
        generation: Generation,
        from: u64,
        layout: FileLayout,
        groups: &[GroupId],
    ) {
        let size = u64::from(layout.chunk_bytes);
        for group in groups {
            if !self.raise_floor(*group, inode, generation) {
                continue;
            }
            for (key, slot) in &mut self.slots {
                if key.inode != inode || slot.group != *group {
                    continue;
                }
                let start = key.index.0 * size;
                let Some(stored) = &mut slot.present else {
                    continue;
                };
                if stored.generation >= generation {
                    continue;
                }
                if start >= from {
                    slot.present = None;
                } else if stored.bytes.len() as u64 > from - start {
                    stored.bytes.truncate((from - start) as usize);
                    stored.generation = generation;
                } else {
                    continue;
                }
                slot.past.clear();
            }
        }
    }
}

fn part(bytes: &[u8], offset: u32, len: u32) -> &[u8] {
    let start = (offset as usize).min(bytes.len());
    let end = (offset as usize)
        .saturating_add(len as usize)
        .min(bytes.len());
    &bytes[start..end]
}

fn state(key: ChunkKey, stored: &Stored) -> ChunkState {
    ChunkState {
        key,
        generation: stored.generation,
        version: stored.version,
        damaged: false,
    }
}

impl Holdings for Disk {
    fn chunk(&self, key: ChunkKey) -> Option<ChunkState> {
        self.stored(key).map(|stored| state(key, stored))
    }

    fn record(&self, key: ChunkKey, session: SessionId) -> Result<Option<WriteRecord>, Error> {
        let stored = self.stored(key);
        Ok(stored.and_then(|stored| stored.records.get(&session).copied()))
    }

    fn floor(&self, group: GroupId, inode: InodeId) -> Generation {
        self.floor_of(group, inode)
    }

    fn chunks(
        &self,
        group: GroupId,
        after: Option<ChunkKey>,
        max: usize,
    ) -> (Vec<ChunkState>, bool) {
        let mut of_group = self
            .slots
            .iter()
            .filter(|(key, slot)| slot.group == group && after.is_none_or(|after| **key > after))
            .filter_map(|(key, slot)| Some(state(*key, slot.present.as_ref()?)));
        let page: Vec<_> = of_group.by_ref().take(max).collect();
        let end = of_group.next().is_none();
        (page, end)
    }

    fn floors(
        &self,
        group: GroupId,
        after: Option<InodeId>,
        max: usize,
    ) -> (Vec<(InodeId, Generation)>, bool) {
        let mut of_group = self
            .floors
            .iter()
            .filter(|((of, inode), _)| *of == group && after.is_none_or(|after| *inode > after))
            .map(|((_, inode), (generation, _))| (*inode, *generation));
        let page: Vec<_> = of_group.by_ref().take(max).collect();
        let end = of_group.next().is_none();
        (page, end)
    }

    fn is_low(&self) -> bool {
        false
    }
}
