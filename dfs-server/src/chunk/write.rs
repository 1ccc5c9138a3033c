//! Applying one write.

use super::disk::Step;
use super::error::{Result, StoreError};
use super::file::{self, ChunkFile};
use super::live::{Change, Live};
use super::request::WriteRequest;
use super::slot::{CAPACITY, Meta};
use super::store::{ChunkStore, Locked};
use dfs_proto::ids::{ChunkKey, Generation, GroupId};
use dfs_proto::limits::BLOCK_BYTES;
use dfs_proto::msg::peer::WriteRecord;
use dfs_proto::payload::verify_checksums;
use std::time::Instant;

const BLOCK: u32 = BLOCK_BYTES as u32;

/// What a new file takes beside its data: the slots of the first writes.
const NEW_FILE_BYTES: u64 = 4 * BLOCK_BYTES as u64;

impl ChunkStore {
    /// Applies one write. Not durable before a sync.
    pub fn write(&self, request: &WriteRequest<'_>) -> Result<()> {
        let _open = self.usable()?;
        let key = request.key;
        check_range(key, request.offset, request.data.len())?;
        if request.data.is_empty() {
            return Err(StoreError::Invalid(format!("a write of no bytes to {key}")));
        }
        if !verify_checksums(request.offset, request.data, request.checksums) {
            return Err(StoreError::PayloadDamaged { key });
        }
        let handle = self.handle(key);
        let mut live = handle.write();
        if let Some(damage) = self.damage(key) {
            return Err(StoreError::rotten(key, damage));
        }
        let exists = self.load(key, &mut live)?;
        self.refuse_cut(key, request.group, request.generation)?;
        let before = match &*live {
            Some(live) if exists => live.meta().clone(),
            _ => Meta::new(key, request.group),
        };
        if exists {
            refuse_older(request, &before)?;
        }
        let plan = Plan::make(request, live.as_ref(), before, self)?;
        let new_blocks = plan.new_blocks * BLOCK_BYTES as u64;
        self.space
            .take(new_blocks + if exists { 0 } else { NEW_FILE_BYTES })?;
        if !exists {
            *live = Some(self.create(key, request.group)?);
        }
        self.apply(key, exists, &mut live, plan)
    }

    /// Whether a write of these bytes would wait for the disk or for others that have the chunk:
    /// then it belongs onto a thread that may wait. `false` is a good guess, not a promise.
    pub fn write_may_wait(&self, key: ChunkKey, offset: u32, len: usize) -> bool {
        let Some(handle) = self.handles.peek(key) else {
            // Opening the file is short; whether it needs a mark is not known.
            return self.catalog().get(key).is_some();
        };
        let Some(live) = handle.try_write() else {
            return true;
        };
        let end = u64::from(offset) + len as u64;
        let blocks = offset / BLOCK..end.div_ceil(u64::from(BLOCK)) as u32;
        live.as_ref().is_some_and(|live| live.needs_mark(blocks))
    }

    fn apply(
        &self,
        key: ChunkKey,
        existed: bool,
        live: &mut Locked<'_>,
        plan: Plan<'_>,
    ) -> Result<()> {
        let Some(chunk) = live.as_mut() else {
            return Err(StoreError::Invalid(format!("{key} is not loaded")));
        };
        let change = plan.change();
        chunk.change(plan.meta.clone(), &change, &self.disk)?;
        let now = Instant::now();
        let meta = chunk.meta();
        let marked = chunk.is_marked();
        {
            let mut catalog = self.catalog();
            // A cut that began meanwhile did not see a chunk that is only now put down.
            let floor = self.promises().floor(meta.group, key.inode);
            let cut = !existed && floor.is_some_and(|floor| floor > meta.generation);
            if !cut {
                catalog.put(key, super::recover::row_of(meta, None));
                catalog.set_dirty(key, now);
                if marked {
                    catalog.set_marked(key, Some(now));
                }
                return Ok(());
            }
        }
        let (asked, group) = (meta.generation, meta.group);
        let note = self.removals.begin(key, asked, meta.version);
        **live = None;
        let ticket = self.index.enqueue(vec![note]);
        self.wait(ticket)?;
        self.unlink(key)?;
        self.removals.done(&[key]);
        self.refuse_cut(key, group, asked)
    }

    /// Refuses a generation that was cut.
    pub(super) fn refuse_cut(
        &self,
        key: ChunkKey,
        group: GroupId,
        asked: Generation,
    ) -> Result<()> {
        match self.floor(group, key.inode) {
            Some(present) if present > asked => Err(StoreError::StaleGeneration {
                key,
                asked,
                present,
            }),
            _ => Ok(()),
        }
    }

    fn create(&self, key: ChunkKey, group: GroupId) -> Result<Live> {
        let path = file::chunk_path(&self.data, key);
        let file = ChunkFile::create(path.clone())
            .map_err(|e| self.disk.failed_doing("create", &path, e))?;
        self.fans[file::fan_of(key)].changed();
        self.disk.reach(Step::Created)?;
        Ok(Live::fresh(file, Meta::new(key, group)))
    }
}

/// Refuses what lies outside of what a chunk may hold.
pub(super) fn check_range(key: ChunkKey, offset: u32, len: usize) -> Result<()> {
    if offset as usize + len > CAPACITY as usize {
        return Err(StoreError::Invalid(format!(
            "{len} bytes at {offset} of {key} are beyond the largest chunk of this format, {CAPACITY} bytes"
        )));
    }
    Ok(())
}

fn refuse_older(request: &WriteRequest<'_>, present: &Meta) -> Result<()> {
    let key = request.key;
    if request.group != present.group {
        return Err(StoreError::Invalid(format!(
            "{key} is in {}, not in {}",
            present.group, request.group
        )));
    }
    if request.generation < present.generation {
        return Err(StoreError::StaleGeneration {
            key,
            asked: request.generation,
            present: present.generation,
        });
    }
    if request.version <= present.version {
        return Err(StoreError::StaleVersion {
            key,
            asked: request.version,
            present: present.version,
        });
    }
    Ok(())
}

/// A write, worked out: the state after it, and whole blocks to write.
struct Plan<'a> {
    meta: Meta,
    first: u32,
    head: Vec<u8>,
    middle: &'a [u8],
    tail: Vec<u8>,
    new_blocks: u64,
}

impl<'a> Plan<'a> {
    fn make(
        request: &WriteRequest<'a>,
        live: Option<&Live>,
        mut meta: Meta,
        store: &ChunkStore,
    ) -> Result<Self> {
        let (data, offset) = (request.data, request.offset);
        let end = offset + data.len() as u32;
        let first = offset / BLOCK;
        let last = (end - 1) / BLOCK;
        let within = (offset % BLOCK) as usize;
        let new_blocks = (first..=last)
            .filter(|b| !meta.present.contains(*b))
            .count() as u64;

        // The parts of the data in the first block, the whole blocks, and the last block; a
        // part that is a whole block belongs to the middle.
        let head_len = if within == 0 && data.len() >= BLOCK_BYTES {
            0
        } else {
            data.len().min(BLOCK_BYTES - within)
        };
        let (head, rest) = data.split_at(head_len);
        let (middle, tail) = rest.split_at(rest.len() / BLOCK_BYTES * BLOCK_BYTES);
        let head = match head.is_empty() {
            true => Vec::new(),
            false => merged(live, first, within, head, store)?,
        };
        let tail = match tail.is_empty() {
            true => Vec::new(),
            false => merged(live, last, 0, tail, store)?,
        };

        let mut checksums = request.checksums.iter().copied();
        if !head.is_empty() {
            checksums.next();
            meta.set_block(first, crc32c::crc32c(&head));
        }
        let first_whole = first + u32::from(!head.is_empty());
        let whole = (middle.len() / BLOCK_BYTES) as u32;
        for (block, checksum) in (first_whole..first_whole + whole).zip(checksums) {
            meta.set_block(block, checksum);
        }
        if !tail.is_empty() {
            meta.set_block(last, crc32c::crc32c(&tail));
        }
        meta.generation = request.generation;
        meta.version = request.version;
        meta.len = meta.len.max(end);
        meta.set_record(WriteRecord {
            session: request.session,
            sequence: request.sequence,
            version: request.version,
        });
        Ok(Self {
            meta,
            first,
            head,
            middle,
            tail,
            new_blocks,
        })
    }

    fn change(&self) -> Change<'_> {
        Change {
            first: self.first,
            pieces: [&self.head, self.middle, &self.tail],
        }
    }
}

/// A block with a part of it replaced; the rest is read and verified first.
fn merged(
    live: Option<&Live>,
    block: u32,
    within: usize,
    part: &[u8],
    store: &ChunkStore,
) -> Result<Vec<u8>> {
    let mut whole = vec![0; BLOCK_BYTES];
    if let Some(live) = live {
        live.read_verified(block, &mut whole, &store.disk)
            .map_err(|e| store.note_damage(e))?;
    }
    whole[within..within + part.len()].copy_from_slice(part);
    Ok(whole)
}
