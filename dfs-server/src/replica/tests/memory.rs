//! A chunk store in memory, for the tests of the core.

use crate::replica::{DiskDone, DiskOp, Holdings};
use dfs_proto::cluster::GroupConfig;
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::*;
use dfs_proto::msg::chunk::ChunkRead;
use dfs_proto::msg::peer::{ChunkImage, ChunkState, WriteRecord};
use dfs_proto::msg::scrub::CheckedCopy;
use dfs_proto::payload::{Payload, block_checksums, verify_checksums};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) group: GroupId,
    pub(super) generation: Generation,
    pub(super) version: Version,
    pub(super) bytes: Vec<u8>,
    pub(super) records: BTreeMap<SessionId, WriteRecord>,
    pub(super) damaged: bool,
}

impl std::fmt::Debug for Chunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (len, first) = (self.bytes.len(), self.bytes.first());
        write!(f, "{} {} {len} x {first:?}", self.generation, self.version)
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct MemoryStore {
    pub(super) chunks: BTreeMap<ChunkKey, Chunk>,
    pub(super) floors: BTreeMap<(GroupId, InodeId), (Generation, Epoch)>,
    pub(super) epochs: BTreeMap<GroupId, GroupConfig>,
    pub(super) fenced: BTreeSet<SessionId>,
    staged: BTreeMap<ChunkKey, Vec<u8>>,
    pub(super) low: bool,
    /// Every write and install fails with this.
    pub(super) broken: Option<ErrorCode>,
}

impl MemoryStore {
    pub(super) fn perform(&mut self, op: DiskOp) -> Result<DiskDone, Error> {
        match op {
            DiskOp::Read { key, offset, len } => self.read(key, offset, len),
            DiskOp::Write {
                key,
                group,
                generation,
                record,
                offset,
                checksums,
                payload,
            } => {
                self.fail_if_broken()?;
                if !verify_checksums(offset, &payload, &checksums) {
                    return Err(ErrorCode::PayloadDamaged.into());
                }
                if self.chunks.get(&key).is_some_and(|chunk| chunk.damaged) {
                    return Err(ErrorCode::Rotten.into());
                }
                let chunk = self.chunks.entry(key).or_insert_with(|| Chunk {
                    group,
                    generation,
                    version: Version::HOLE,
                    bytes: Vec::new(),
                    records: BTreeMap::new(),
                    damaged: false,
                });
                assert!(chunk.version < record.version, "{key}: versions only rise");
                let end = offset as usize + payload.len();
                if chunk.bytes.len() < end {
                    chunk.bytes.resize(end, 0);
                }
                chunk.bytes[offset as usize..end].copy_from_slice(&payload);
                chunk.generation = generation;
                chunk.version = record.version;
                chunk.records.insert(record.session, record);
                Ok(DiskDone::Done)
            }
            DiskOp::Sync { .. } | DiskOp::SyncGroup { .. } => {
                self.fail_if_broken()?;
                Ok(DiskDone::Done)
            }
            DiskOp::Adopt { configs, fenced } => {
                for config in configs {
                    let kept = self.epochs.entry(config.group).or_insert(config.clone());
                    if kept.epoch < config.epoch {
                        *kept = config;
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
                for group in &groups {
                    if self.floor(*group, inode) > generation {
                        continue;
                    }
                    self.raise(*group, inode, generation);
                    self.chunks.retain(|key, chunk| {
                        let start = key.index.0 * u64::from(layout.chunk_bytes);
                        let end = start + u64::from(layout.chunk_bytes);
                        let old = key.inode == inode
                            && chunk.group == *group
                            && chunk.generation < generation;
                        if !old || end <= from || start >= to {
                            return true;
                        }
                        if from <= start && end <= to {
                            return false;
                        }
                        let stored = start + chunk.bytes.len() as u64;
                        if from < stored {
                            let gone = from.max(start) - start..to.min(stored) - start;
                            match to {
                                u64::MAX => chunk.bytes.truncate(gone.start as usize),
                                _ => chunk.bytes[gone.start as usize..gone.end as usize].fill(0),
                            }
                            chunk.generation = generation;
                        }
                        true
                    });
                }
                Ok(DiskDone::Done)
            }
            DiskOp::InstallFloors { group, floors } => {
                for (inode, generation) in floors {
                    self.raise(group, inode, generation);
                }
                Ok(DiskDone::Done)
            }
            DiskOp::DropFloors { group, epoch } => {
                self.floors
                    .retain(|(id, _), (_, made)| *id != group || *made >= epoch);
                Ok(DiskDone::Done)
            }
            DiskOp::Fetch {
                key,
                group,
                offset,
                len,
            } => self.fetch(key, group, offset, len),
            DiskOp::Install {
                key, hole: true, ..
            } => {
                self.chunks.remove(&key);
                Ok(DiskDone::Done)
            }
            DiskOp::Install {
                key,
                group,
                image,
                offset,
                last,
                payload,
                ..
            } => {
                self.fail_if_broken()?;
                let staged = self.staged.entry(key).or_default();
                staged.truncate(offset as usize);
                assert_eq!(staged.len(), offset as usize, "parts come in order");
                staged.extend_from_slice(&payload);
                if last {
                    let bytes = self.staged.remove(&key).unwrap_or_default();
                    assert_eq!(bytes.len(), image.len as usize);
                    let records = image.records.into_iter().map(|r| (r.session, r)).collect();
                    let chunk = Chunk {
                        group,
                        generation: image.generation,
                        version: image.version,
                        bytes,
                        records,
                        damaged: false,
                    };
                    self.chunks.insert(key, chunk);
                }
                Ok(DiskDone::Done)
            }
            DiskOp::Check { key } => {
                let copy = self.chunks.get(&key).map(|chunk| CheckedCopy {
                    generation: chunk.generation,
                    version: chunk.version,
                    len: chunk.bytes.len() as u32,
                    digest: match chunk.damaged {
                        true => Err("rotten".into()),
                        false => Ok(crc32c::crc32c(&chunk.bytes)),
                    },
                });
                Ok(DiskDone::Checked(copy))
            }
            DiskOp::Release { group, epoch } => {
                // One at a time, so that something can come between.
                let held = self.chunks.iter().filter(|(_, c)| c.group == group);
                let keys: Vec<ChunkKey> = held.map(|(key, _)| *key).collect();
                let chunks = keys.first().map_or(0, |key| {
                    self.chunks.remove(key);
                    1
                });
                let end = keys.len() <= 1;
                if end {
                    self.floors
                        .retain(|(id, _), (_, made)| *id != group || *made >= epoch);
                }
                Ok(DiskDone::Released { chunks, end })
            }
            DiskOp::AdoptTorn { key, version } => {
                if let Some(chunk) = self.chunks.get_mut(&key) {
                    chunk.damaged = false;
                    chunk.version = version;
                }
                Ok(DiskDone::Done)
            }
        }
    }

    fn fail_if_broken(&self) -> Result<(), Error> {
        self.broken.map_or(Ok(()), |code| Err(code.into()))
    }

    fn raise(&mut self, group: GroupId, inode: InodeId, generation: Generation) {
        let epoch = self.epochs.get(&group).map_or(Epoch(0), |c| c.epoch);
        let floor = self
            .floors
            .entry((group, inode))
            .or_insert((generation, epoch));
        if *floor < (generation, epoch) {
            *floor = (generation, epoch);
        }
    }

    fn read(&self, key: ChunkKey, offset: u32, len: u32) -> Result<DiskDone, Error> {
        let bytes = match self.chunks.get(&key) {
            Some(chunk) if chunk.damaged => return Err(ErrorCode::Rotten.into()),
            Some(chunk) => &chunk.bytes[..],
            None => &[],
        };
        let start = bytes.len().min(offset as usize);
        let end = bytes.len().min(offset as usize + len as usize);
        let checksums = block_checksums(offset, &bytes[start..end]);
        let payload = Payload::copy_from(&bytes[start..end]);
        Ok(DiskDone::Read(ChunkRead { checksums }, payload))
    }

    fn fetch(
        &self,
        key: ChunkKey,
        group: GroupId,
        offset: u32,
        len: u32,
    ) -> Result<DiskDone, Error> {
        let floor = self.floor(group, key.inode);
        // Smaller parts than asked for, so that images come in several.
        let DiskDone::Read(read, payload) = self.read(key, offset, len.min(4096))? else {
            return Err(ErrorCode::Internal.into());
        };
        let image = match self.chunks.get(&key) {
            Some(chunk) => ChunkImage {
                floor,
                generation: chunk.generation,
                version: chunk.version,
                len: chunk.bytes.len() as u32,
                records: chunk.records.values().copied().collect(),
                checksums: read.checksums,
                holes: Vec::new(),
            },
            None => ChunkImage {
                floor,
                generation: Generation(0),
                version: Version::HOLE,
                len: 0,
                records: Vec::new(),
                checksums: Vec::new(),
                holes: Vec::new(),
            },
        };
        Ok(DiskDone::Image(image, payload))
    }

    fn state(key: ChunkKey, chunk: &Chunk) -> ChunkState {
        ChunkState {
            key,
            generation: chunk.generation,
            version: chunk.version,
            damaged: chunk.damaged,
        }
    }
}

impl Holdings for MemoryStore {
    fn chunk(&self, key: ChunkKey) -> Option<ChunkState> {
        self.chunks.get(&key).map(|chunk| Self::state(key, chunk))
    }

    fn chunk_bytes(&self, key: ChunkKey) -> u64 {
        self.chunks.get(&key).map_or(0, |c| c.bytes.len() as u64)
    }

    fn record(&self, key: ChunkKey, session: SessionId) -> Result<Option<WriteRecord>, Error> {
        let chunk = self.chunks.get(&key);
        Ok(chunk.and_then(|chunk| chunk.records.get(&session).copied()))
    }

    fn floor(&self, group: GroupId, inode: InodeId) -> Generation {
        self.floors
            .get(&(group, inode))
            .map_or(Generation(0), |f| f.0)
    }

    fn floor_since(&self, group: GroupId, inode: InodeId, epoch: Epoch) -> Generation {
        let floor = self.floors.get(&(group, inode));
        let since = floor.filter(|(_, made)| *made >= epoch);
        since.map_or(Generation(0), |floor| floor.0)
    }

    fn chunks(
        &self,
        group: GroupId,
        after: Option<ChunkKey>,
        max: usize,
    ) -> (Vec<ChunkState>, bool) {
        let mut rest = self
            .chunks
            .iter()
            .filter(|(key, chunk)| chunk.group == group && after.is_none_or(|after| **key > after));
        // Small pages, so that inventories come in several.
        let page = rest.by_ref().take(max.min(3));
        let page: Vec<ChunkState> = page.map(|(key, chunk)| Self::state(*key, chunk)).collect();
        (page, rest.next().is_none())
    }

    fn floors(
        &self,
        group: GroupId,
        after: Option<InodeId>,
        max: usize,
    ) -> (Vec<(InodeId, Generation)>, bool) {
        let mut rest = self
            .floors
            .iter()
            .filter(|((id, inode), _)| *id == group && after.is_none_or(|after| *inode > after));
        let page = rest.by_ref().take(max.min(3));
        let page = page.map(|((_, inode), floor)| (*inode, floor.0)).collect();
        (page, rest.next().is_none())
    }

    fn is_low(&self) -> bool {
        self.low
    }
}
