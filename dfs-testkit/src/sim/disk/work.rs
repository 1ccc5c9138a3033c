//! The work that a replica core asks for.

use super::{Copy, Damage, Disk, Stored};
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::{ChunkKey, Epoch, Generation, GroupId, InodeId};
use dfs_proto::layout::FileLayout;
use dfs_proto::msg::chunk::ChunkRead;
use dfs_proto::msg::peer::ChunkImage;
use dfs_proto::msg::scrub::CheckedCopy;
use dfs_proto::payload::{Payload, block_checksums};
use dfs_server::replica::{DiskDone, DiskOp, Holdings};
use std::ops::Range;

impl Disk {
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
            holes: Vec::new(),
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
