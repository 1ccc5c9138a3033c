//! A file server's disk that holds the one chunk: what it has, and what a power cut leaves of it.

use super::options::Rule;
use super::{CHUNK, GROUP};
use dfs_proto::cluster::GroupConfig;
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::{ChunkKey, Epoch, Generation, GroupId, InodeId, SessionId, Version};
use dfs_proto::msg::chunk::ChunkRead;
use dfs_proto::msg::peer::{ChunkImage, ChunkState, WriteRecord};
use dfs_proto::payload::{Payload, block_checksums};
use dfs_server::replica::{DiskDone, DiskOp, Holdings};
use std::collections::{BTreeMap, BTreeSet};

/// The chunk as it is stored: a register.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Stored {
    pub(super) generation: Generation,
    pub(super) version: Version,
    pub(super) value: u8,
    pub(super) records: BTreeMap<SessionId, WriteRecord>,
}

#[derive(Clone, Hash, Debug, Default)]
pub(super) struct Disk {
    /// `None`: a hole.
    pub(super) chunk: Option<Stored>,
    /// What a power cut goes back to.
    synced: Option<Stored>,
    pub(super) config: Option<GroupConfig>,
    pub(super) fenced: BTreeSet<SessionId>,
    /// Up to which generation the inode was cut, and the epoch of that cut.
    floor: Option<(Generation, Epoch)>,
}

impl Disk {
    /// The power goes: what was not synced is lost.
    pub(super) fn lose_power(&mut self) {
        self.chunk = self.synced.clone();
    }

    /// Whether a power cut would lose anything.
    pub(super) fn is_dirty(&self) -> bool {
        self.chunk != self.synced
    }

    /// Does the work, at once.
    pub(super) fn work(&mut self, op: DiskOp, rule: Rule) -> Result<DiskDone, Error> {
        match op {
            DiskOp::Read { .. } => {
                let payload = self.payload();
                let checksums = block_checksums(0, &payload);
                return Ok(DiskDone::Read(ChunkRead { checksums }, payload));
            }
            DiskOp::Write {
                generation,
                record,
                payload,
                ..
            } => {
                let mut records = self
                    .chunk
                    .as_ref()
                    .map(|chunk| chunk.records.clone())
                    .unwrap_or_default();
                match rule {
                    Rule::NoRecords => records.clear(),
                    Rule::RecordPerChunk => {
                        records.clear();
                        records.insert(record.session, record);
                    }
                    _ => {
                        records.insert(record.session, record);
                    }
                }
                self.chunk = Some(Stored {
                    generation,
                    version: record.version,
                    value: payload.first().copied().unwrap_or(0),
                    records,
                });
            }
            DiskOp::Sync { .. } | DiskOp::SyncGroup { .. } => self.synced = self.chunk.clone(),
            DiskOp::Adopt { configs, fenced } => {
                for config in configs {
                    let known = self.config.as_ref();
                    if rule != Rule::AdoptionNotDurable
                        && known.is_none_or(|known| known.epoch < config.epoch)
                    {
                        self.config = Some(config);
                    }
                }
                self.fenced.extend(fenced);
            }
            DiskOp::Fetch { .. } => {
                let payload = self.payload();
                return Ok(DiskDone::Image(self.image(&payload), payload));
            }
            DiskOp::Install {
                hole,
                image,
                payload,
                ..
            } => {
                let mut records: BTreeMap<_, _> =
                    image.records.iter().map(|r| (r.session, *r)).collect();
                if rule == Rule::RecordsNotCopied {
                    let own = self.chunk.as_ref().map(|chunk| chunk.records.clone());
                    records = own.unwrap_or_default();
                }
                if hole {
                    // A removal is durable when it is answered.
                    self.synced = None;
                }
                self.chunk = (!hole).then(|| Stored {
                    generation: image.generation,
                    version: image.version,
                    value: payload.first().copied().unwrap_or(0),
                    records,
                });
            }
            DiskOp::Cut { generation, .. } => self.cut(generation, rule),
            DiskOp::InstallFloors { floors, .. } => {
                for (_, generation) in floors {
                    self.raise(generation, rule);
                }
            }
            DiskOp::DropFloors { epoch, .. } => {
                self.floor = self.floor.filter(|(_, made)| *made >= epoch);
            }
            // No damage is explored.
            DiskOp::AdoptTorn { .. } | DiskOp::Check { .. } | DiskOp::Release { .. } => {
                return Err(Error::bare(ErrorCode::Internal));
            }
        }
        Ok(DiskDone::Done)
    }

    fn raise(&mut self, generation: Generation, rule: Rule) -> bool {
        let epoch = self.config.as_ref().map_or(Epoch(0), |config| config.epoch);
        let raises = self.floor.is_none_or(|floor| floor < (generation, epoch));
        if raises && rule != Rule::NoFloors {
            self.floor = Some((generation, epoch));
        }
        raises
    }

    /// Durable when it is answered, done once for each epoch, and never to what is later.
    fn cut(&mut self, generation: Generation, rule: Rule) {
        let late = rule == Rule::LateCuts;
        if !self.raise(generation, rule) && !late {
            return;
        }
        let goes = |chunk: &Stored| chunk.generation < generation || late;
        self.chunk.take_if(|chunk| goes(chunk));
        self.synced.take_if(|chunk| goes(chunk));
    }

    fn floor(&self) -> Generation {
        self.floor
            .map_or(Generation(0), |(generation, _)| generation)
    }

    fn payload(&self) -> Payload {
        match &self.chunk {
            Some(chunk) => Payload::copy_from(&[chunk.value]),
            None => Payload::default(),
        }
    }

    fn image(&self, payload: &Payload) -> ChunkImage {
        let chunk = self.chunk.as_ref();
        ChunkImage {
            floor: self.floor(),
            generation: chunk.map_or(Generation(0), |c| c.generation),
            version: chunk.map_or(Version::HOLE, |c| c.version),
            len: payload.len() as u32,
            records: chunk
                .map(|c| c.records.values().copied().collect())
                .unwrap_or_default(),
            checksums: block_checksums(0, payload),
            holes: Vec::new(),
        }
    }
}

impl Holdings for Disk {
    fn chunk(&self, key: ChunkKey) -> Option<ChunkState> {
        let chunk = self.chunk.as_ref()?;
        Some(ChunkState {
            key,
            generation: chunk.generation,
            version: chunk.version,
            damaged: false,
        })
    }

    fn record(&self, _: ChunkKey, session: SessionId) -> Result<Option<WriteRecord>, Error> {
        let chunk = self.chunk.as_ref();
        Ok(chunk.and_then(|chunk| chunk.records.get(&session).copied()))
    }

    fn floor(&self, _: GroupId, _: InodeId) -> Generation {
        self.floor()
    }

    fn floor_since(&self, _: GroupId, _: InodeId, epoch: Epoch) -> Generation {
        let since = self.floor.filter(|(_, made)| *made >= epoch);
        since.map_or(Generation(0), |(generation, _)| generation)
    }

    fn chunks(&self, group: GroupId, after: Option<ChunkKey>, _: usize) -> (Vec<ChunkState>, bool) {
        let wanted = group == GROUP && after.is_none_or(|after| after < CHUNK);
        let page = self.chunk(CHUNK).filter(|_| wanted);
        (page.into_iter().collect(), true)
    }

    fn floors(
        &self,
        _: GroupId,
        after: Option<InodeId>,
        _: usize,
    ) -> (Vec<(InodeId, Generation)>, bool) {
        let floor = self.floor.filter(|_| after.is_none());
        let page = floor.map(|(generation, _)| (CHUNK.inode, generation));
        (page.into_iter().collect(), true)
    }

    fn is_low(&self) -> bool {
        false
    }
}
