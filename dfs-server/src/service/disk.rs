//! The core's disk operations on the chunk store.

use crate::chunk::{ChunkStore, Image, InstallPart, StoreError, WriteRequest};
use crate::replica::{DiskDone, DiskOp, Holdings};
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::{ChunkKey, Epoch, Generation, GroupId, InodeId, SessionId, Version};
use dfs_proto::limits::BLOCK_BYTES;
use dfs_proto::msg::chunk::ChunkRead;
use dfs_proto::msg::peer::{ChunkImage, ChunkState, WriteRecord};
use dfs_proto::msg::scrub::CheckedCopy;
use dfs_proto::payload::{Payload, PayloadMut};

const BLOCK: u32 = BLOCK_BYTES as u32;

/// From this size on a transfer is worth a hand-over to another thread.
const LARGE_BYTES: usize = 64 << 10;

/// With less than this above the reserve, no new chunks are taken: what the other members still
/// send, and what existing chunks still grow, must find room.
const LOW_BYTES: u64 = 32 << 20;

/// Times that a part is read again because the chunk changed between its head and its bytes.
const FETCH_ATTEMPTS: u32 = 5;

/// The store as the core looks at it.
#[derive(Debug)]
pub(super) struct StoreHoldings<'a>(pub(super) &'a ChunkStore);

fn wire_state(key: ChunkKey, state: &crate::chunk::ChunkState) -> ChunkState {
    ChunkState {
        key,
        generation: state.generation,
        version: state.version,
        damaged: state.damaged,
    }
}

impl Holdings for StoreHoldings<'_> {
    fn chunk(&self, key: ChunkKey) -> Option<ChunkState> {
        self.0.state(key).map(|state| wire_state(key, &state))
    }

    fn chunk_bytes(&self, key: ChunkKey) -> u64 {
        self.0.state(key).map_or(0, |state| u64::from(state.len))
    }

    fn stored_blocks(&self, key: ChunkKey) -> u32 {
        self.0.state(key).map_or(0, |state| state.stored)
    }

    fn stored_bytes(&self, inode: InodeId, group: GroupId) -> u64 {
        self.0.stored(inode, group)
    }

    fn find_block(&self, key: ChunkKey, from: u32, stored: bool) -> Result<Option<u32>, Error> {
        Ok(self.0.find_block(key, from, stored)?)
    }

    fn record(&self, key: ChunkKey, session: SessionId) -> Result<Option<WriteRecord>, Error> {
        Ok(self.0.record(key, session)?)
    }

    fn floor(&self, group: GroupId, inode: InodeId) -> Generation {
        self.0.floor(group, inode).unwrap_or_default()
    }

    fn floor_since(&self, group: GroupId, inode: InodeId, epoch: Epoch) -> Generation {
        let floor = self.0.floor_since(group, inode, epoch);
        floor.unwrap_or_default()
    }

    fn chunks(
        &self,
        group: GroupId,
        after: Option<ChunkKey>,
        max: usize,
    ) -> (Vec<ChunkState>, bool) {
        let (chunks, end) = self.0.list(group, after, max);
        let states = chunks.iter().map(|(key, state)| wire_state(*key, state));
        (states.collect(), end)
    }

    fn floors(
        &self,
        group: GroupId,
        after: Option<InodeId>,
        max: usize,
    ) -> (Vec<(InodeId, Generation)>, bool) {
        self.0.floors(group, after, max)
    }

    fn is_low(&self) -> bool {
        self.0.space().available < LOW_BYTES
    }
}

/// Whether an operation is so short that a hand-over to another thread would cost more.
pub(super) fn is_short(store: &ChunkStore, op: &DiskOp) -> bool {
    match op {
        DiskOp::Read { key, len, .. } => {
            (*len as usize) < LARGE_BYTES && !store.read_may_wait(*key)
        }
        DiskOp::Write {
            key,
            offset,
            payload,
            ..
        } => payload.len() < LARGE_BYTES && !store.write_may_wait(*key, *offset, payload.len()),
        DiskOp::Sync { .. }
        | DiskOp::SyncGroup { .. }
        | DiskOp::Adopt { .. }
        | DiskOp::Cut { .. }
        | DiskOp::InstallFloors { .. }
        | DiskOp::DropFloors { .. }
        | DiskOp::Fetch { .. }
        | DiskOp::Install { .. }
        | DiskOp::Release { .. }
        | DiskOp::AdoptTorn { .. }
        | DiskOp::Check { .. } => false,
    }
}

/// Whether an operation may take long because it moves much or waits for the disk, and nobody's
/// single write or read waits for it.
pub(super) fn is_long(op: &DiskOp) -> bool {
    match op {
        DiskOp::Sync { .. }
        | DiskOp::SyncGroup { .. }
        | DiskOp::Fetch { .. }
        | DiskOp::Install { .. }
        | DiskOp::Release { .. }
        | DiskOp::AdoptTorn { .. }
        | DiskOp::Check { .. } => true,
        DiskOp::Read { .. }
        | DiskOp::Write { .. }
        | DiskOp::Adopt { .. }
        | DiskOp::Cut { .. }
        | DiskOp::InstallFloors { .. }
        | DiskOp::DropFloors { .. } => false,
    }
}

/// Carries an operation out. Blocks.
pub(super) fn perform(store: &ChunkStore, op: &DiskOp) -> Result<DiskDone, Error> {
    match op {
        DiskOp::Read { key, offset, len } => {
            let (read, payload) = read(store, *key, *offset, *len)?;
            let checksums = read.checksums;
            return Ok(DiskDone::Read(ChunkRead { checksums }, payload));
        }
        DiskOp::Fetch {
            key,
            group,
            offset,
            len,
        } => return fetch(store, *key, *group, *offset, *len),
        DiskOp::Write {
            key,
            group,
            generation,
            record,
            offset,
            checksums,
            payload,
        } => store.write(&WriteRequest {
            key: *key,
            group: *group,
            generation: *generation,
            session: record.session,
            sequence: record.sequence,
            version: record.version,
            offset: *offset,
            data: payload,
            checksums,
        })?,
        DiskOp::Sync { inode, group, keys } => store.sync_inode(*inode, *group, keys)?,
        DiskOp::SyncGroup { group } => store.sync_group(*group)?,
        DiskOp::Adopt { configs, fenced } => {
            // Together: an epoch is never adopted without the fences that belong to it.
            store.adopt(configs, fenced)?;
        }
        DiskOp::Cut {
            inode,
            generation,
            from,
            to,
            layout,
            groups,
        } => store.cut(*inode, *generation, *from..*to, *layout, groups)?,
        DiskOp::InstallFloors { group, floors } => store.install_floors(*group, floors)?,
        DiskOp::DropFloors { group, epoch } => store.drop_floors(*group, *epoch)?,
        DiskOp::Install {
            key, hole: true, ..
        } => store.remove(*key)?,
        DiskOp::Install {
            key,
            group,
            image,
            offset,
            last,
            payload,
            ..
        } => {
            let whole = Image {
                generation: image.generation,
                version: image.version,
                len: image.len,
                records: image.records.clone(),
            };
            store.install(&InstallPart {
                key: *key,
                group: *group,
                image: &whole,
                offset: *offset,
                data: payload,
                checksums: &image.checksums,
                holes: &image.holes,
                last: *last,
            })?;
        }
        DiskOp::Check { key } => {
            let copy = store.verify(*key)?.map(|found| CheckedCopy {
                generation: found.generation,
                version: found.version,
                len: found.len,
                digest: found.digest.map_err(|damage| damage.to_string()),
            });
            return Ok(DiskDone::Checked(copy));
        }
        DiskOp::AdoptTorn { key, version } => {
            store.adopt_torn(*key, *version)?;
        }
        DiskOp::Release { group, epoch } => {
            let (chunks, end) = store.release(*group)?;
            if end {
                store.drop_floors(*group, *epoch)?;
            }
            return Ok(DiskDone::Released {
                chunks: chunks as u32,
                end,
            });
        }
    }
    Ok(DiskDone::Done)
}

fn read(
    store: &ChunkStore,
    key: ChunkKey,
    offset: u32,
    len: u32,
) -> Result<(crate::chunk::Read, Payload), StoreError> {
    let mut buffer = PayloadMut::with_len(len as usize);
    let read = store.read(key, offset, &mut buffer)?;
    buffer.truncate(read.len);
    Ok((read, buffer.freeze()))
}

/// A part with its head: both of one version.
fn fetch(
    store: &ChunkStore,
    key: ChunkKey,
    group: GroupId,
    offset: u32,
    len: u32,
) -> Result<DiskDone, Error> {
    for _ in 0..FETCH_ATTEMPTS {
        let floor = store.floor(group, key.inode).unwrap_or_default();
        let Some(head) = store.image(key)? else {
            let hole = ChunkImage {
                floor,
                generation: Generation(0),
                version: Version::HOLE,
                len: 0,
                records: Vec::new(),
                checksums: Vec::new(),
                holes: Vec::new(),
            };
            return Ok(DiskDone::Image(hole, Payload::default()));
        };
        let blocks = offset / BLOCK..offset.saturating_add(len).div_ceil(BLOCK);
        let holes = store.holes(key, blocks)?;
        let (read, payload) = read(store, key, offset, len)?;
        if (read.generation, read.version) != (head.generation, head.version) {
            continue;
        }
        let image = ChunkImage {
            floor,
            generation: head.generation,
            version: head.version,
            len: head.len,
            records: head.records,
            checksums: read.checksums,
            holes,
        };
        return Ok(DiskDone::Image(image, payload));
    }
    Err(Error::new(
        ErrorCode::Overloaded,
        format!("{key} changes faster than it can be copied"),
    ))
}
