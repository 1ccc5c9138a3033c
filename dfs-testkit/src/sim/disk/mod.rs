//! A file server's chunk store in memory. It has the parts that matter: what is on disk and what
//! a power cut would take, damage, full disks and failures (`trouble`).

mod trouble;

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
use std::ops::Range;
pub(crate) use trouble::Trouble;

/// One chunk as it is stored.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Stored {
    pub(crate) generation: Generation,
    pub(crate) version: Version,
    pub(crate) bytes: Vec<u8>,
    pub(crate) records: BTreeMap<SessionId, WriteRecord>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Damage {
    #[default]
    None,
    /// Not read since.
    Hidden,
    Rot,
    /// A power cut left neither the old nor the new state.
    Torn,
}

/// A state of a chunk on disk.
#[derive(Clone, Debug, Default)]
struct Copy {
    /// `None`: a hole.
    stored: Option<Stored>,
    damage: Damage,
}

impl Copy {
    fn is_whole(&self) -> bool {
        self.stored.is_some() && self.damage == Damage::None
    }

    /// It is read: damage is noticed.
    fn found(&mut self) {
        if self.damage == Damage::Hidden {
            self.damage = Damage::Rot;
        }
    }

    fn is_known_damaged(&self) -> bool {
        matches!(self.damage, Damage::Rot | Damage::Torn)
    }
}

#[derive(Clone, Debug)]
struct Slot {
    group: GroupId,
    now: Copy,
    /// What a power cut may go back to: the last synced state and those since, oldest first.
    past: Vec<Copy>,
}

/// The disk of one server; it outlives its processes.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    slots: BTreeMap<ChunkKey, Slot>,
    /// With the epoch in which it was raised.
    floors: BTreeMap<(GroupId, InodeId), (Generation, Epoch)>,
    configs: BTreeMap<GroupId, GroupConfig>,
    fenced: BTreeSet<SessionId>,
    pub(crate) trouble: Trouble,
    /// A planted bug: cuts take what was written after them.
    pub(crate) late_cuts: bool,
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
        self.slots.get(&key)?.now.stored.as_ref()
    }

    /// What a power cut would leave at least.
    pub(crate) fn durable(&self, key: ChunkKey) -> Option<&Stored> {
        let slot = self.slots.get(&key)?;
        slot.past.first().unwrap_or(&slot.now).stored.as_ref()
    }

    /// Whether a chunk is damaged, known or not.
    pub(crate) fn is_damaged(&self, key: ChunkKey) -> bool {
        let slot = self.slots.get(&key);
        slot.is_some_and(|slot| slot.now.damage != Damage::None)
    }

    /// Every chunk of a group that is no hole.
    pub(crate) fn of_group(&self, group: GroupId) -> impl Iterator<Item = (ChunkKey, &Stored)> {
        let slots = self.slots.iter().filter(move |(_, s)| s.group == group);
        slots.filter_map(|(key, slot)| Some((*key, slot.now.stored.as_ref()?)))
    }

    /// An orderly stop has everything on disk.
    pub(crate) fn sync_all(&mut self) {
        self.sync(|_, _| true);
    }

    fn change(&mut self, key: ChunkKey, group: GroupId, new: Option<Stored>) {
        let slot = self.slots.entry(key).or_insert_with(|| Slot {
            group,
            now: Copy::default(),
            past: Vec::new(),
        });
        let new = Copy {
            stored: new,
            damage: Damage::None,
        };
        slot.past.push(std::mem::replace(&mut slot.now, new));
    }

    /// Reads a chunk: damage is noticed.
    fn look(&mut self, key: ChunkKey) -> Result<Option<&Stored>, Error> {
        let Some(slot) = self.slots.get_mut(&key) else {
            return Ok(None);
        };
        slot.now.found();
        match slot.now.damage {
            Damage::None => Ok(slot.now.stored.as_ref()),
            _ => Err(Error::bare(ErrorCode::Rotten)),
        }
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
        // A cut that is made again in a later epoch counts as made in that one.
        let floor = self.floors.entry((group, inode)).or_default();
        let higher = (generation, epoch) > *floor;
        if higher {
            *floor = (generation, epoch);
        }
        higher
    }

    /// Does the work.
    pub(crate) fn work(&mut self, op: DiskOp) -> Result<DiskDone, Error> {
        self.trouble.strikes(&op)?;
        match op {
            DiskOp::Read { key, offset, len } => {
                let bytes = self.look(key)?.map(|s| s.bytes.as_slice());
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
                let mut new = self.look(key)?.cloned().unwrap_or_default();
                if generation < new.generation.max(self.floor_of(group, key.inode)) {
                    return Err(Error::bare(ErrorCode::StaleGeneration));
                }
                let end = offset as usize + payload.len();
                if self.trouble.full && end > new.bytes.len() {
                    return Err(Error::bare(ErrorCode::NoSpace));
                }
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
                to,
                layout,
                groups,
            } => {
                self.cut(inode, generation, from..to, layout, &groups);
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
            } => self.fetch(key, group, offset, len),
            DiskOp::Install {
                key,
                group,
                hole,
                image,
                payload,
                ..
            } => {
                if self.trouble.full && !hole {
                    return Err(Error::bare(ErrorCode::NoSpace));
                }
                let new = (!hole).then(|| Stored {
                    generation: image.generation,
                    version: image.version,
                    bytes: payload.to_vec(),
                    records: image.records.iter().map(|r| (r.session, *r)).collect(),
                });
                self.change(key, group, new);
                if hole {
                    // A removal is durable when it is answered.
                    self.sync(|changed, _| changed == key);
                }
                Ok(DiskDone::Done)
            }
            DiskOp::AdoptTorn { key, version } => match self.slots.get_mut(&key) {
                Some(slot) if slot.now.damage == Damage::Torn => {
                    slot.now.damage = Damage::None;
                    if let Some(stored) = &mut slot.now.stored {
                        stored.version = version;
                    }
                    Ok(DiskDone::Done)
                }
                _ => self.look(key).map(|_| DiskDone::Done),
            },
            DiskOp::Release { group, epoch } => Ok(self.release(group, epoch)),
            DiskOp::Check { key } => {
                let damaged = self.look(key).is_err();
                let copy = self.stored(key).map(|stored| checked(stored, damaged));
                Ok(DiskDone::Checked(copy))
            }
        }
    }

    /// Removes a chunk of a group that is not this server's any more, or its floors.
    fn release(&mut self, group: GroupId, epoch: Epoch) -> DiskDone {
        let (held, _) = self.chunks(group, None, 1);
        match held.first() {
            Some(state) => {
                let key = state.key;
                self.change(key, group, None);
                self.sync(|changed, _| changed == key);
            }
            None => self
                .floors
                .retain(|(of, _), (_, made)| *of != group || *made >= epoch),
        }
        DiskDone::Released {
            chunks: held.len() as u32,
            end: held.is_empty(),
        }
    }

    fn fetch(
        &mut self,
        key: ChunkKey,
        group: GroupId,
        offset: u32,
        len: u32,
    ) -> Result<DiskDone, Error> {
        let floor = self.floor_of(group, key.inode);
        let nothing = Stored::default();
        let stored = self.look(key)?.unwrap_or(&nothing);
        let part = part(&stored.bytes, offset, len);
        let image = ChunkImage {
            floor,
            generation: stored.generation,
            version: stored.version,
            len: stored.bytes.len() as u32,
            records: stored.records.values().copied().collect(),
            checksums: block_checksums(offset, part),
        };
        Ok(DiskDone::Image(image, Payload::copy_from(part)))
    }

    /// As the chunk store does it: durable, once for each generation.
    fn cut(
        &mut self,
        inode: InodeId,
        generation: Generation,
        range: Range<u64>,
        layout: FileLayout,
        groups: &[GroupId],
    ) {
        let size = u64::from(layout.chunk_bytes);
        for group in groups {
            if !self.raise_floor(*group, inode, generation) && !self.late_cuts {
                continue;
            }
            for (key, slot) in &mut self.slots {
                if key.inode != inode || slot.group != *group {
                    continue;
                }
                let start = key.index.0 * size;
                if start + size <= range.start || range.end <= start {
                    continue;
                }
                let damaged = slot.now.damage != Damage::None;
                let Some(stored) = &mut slot.now.stored else {
                    continue;
                };
                if stored.generation >= generation && !self.late_cuts {
                    continue;
                }
                let stored_end = start + stored.bytes.len() as u64;
                if range.start <= start && start + size <= range.end {
                    slot.now = Copy::default();
                } else if damaged {
                    // To be replaced by a copy of which a part was taken.
                    slot.now.found();
                    continue;
                } else if range.start < stored_end {
                    let first = (range.start.max(start) - start) as usize;
                    match range.end {
                        u64::MAX => stored.bytes.truncate(first),
                        end => stored.bytes[first..(end.min(stored_end) - start) as usize].fill(0),
                    }
                    stored.generation = generation;
                } else {
                    continue;
                }
                slot.past.clear();
            }
        }
    }
}

fn checked(stored: &Stored, damaged: bool) -> CheckedCopy {
    let blocks = block_checksums(0, &stored.bytes).into_iter();
    let digest = blocks.fold(0, |sum: u32, block| sum.rotate_left(1) ^ block);
    CheckedCopy {
        generation: stored.generation,
        version: stored.version,
        len: stored.bytes.len() as u32,
        digest: match damaged {
            true => Err("damaged".into()),
            false => Ok(digest),
        },
    }
}

fn part(bytes: &[u8], offset: u32, len: u32) -> &[u8] {
    let start = (offset as usize).min(bytes.len());
    let end = (offset as usize)
        .saturating_add(len as usize)
        .min(bytes.len());
    &bytes[start..end]
}

fn state(key: ChunkKey, copy: &Copy) -> Option<ChunkState> {
    let stored = copy.stored.as_ref()?;
    Some(ChunkState {
        key,
        generation: stored.generation,
        version: stored.version,
        damaged: copy.is_known_damaged(),
    })
}

impl Holdings for Disk {
    fn chunk(&self, key: ChunkKey) -> Option<ChunkState> {
        state(key, &self.slots.get(&key)?.now)
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
            .filter_map(|(key, slot)| state(*key, &slot.now));
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
        self.trouble.low || self.trouble.full
    }
}
