//! An open chunk: its file, what its header says, and which slot is known to be on disk.
//!
//! The order of writes is the crash safety of a replica (R9): mark, slot, data. It is explained
//! in `docs/storage.md`; this module is the only one that writes slots and data of a chunk.

use super::bits::BlockSet;
use super::disk::{Disk, Step};
use super::error::{Damage, Result, StoreError};
use super::file::{ChunkFile, DIRECT_MIN};
use super::slot::{Meta, NoSlot, SLOTS, Slot};
use dfs_proto::limits::BLOCK_BYTES;
use dfs_proto::msg::peer::WriteRecord;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// A first mark of a small overwrite covers whole windows of this many blocks (64 KiB).
const MARK_WINDOW: u32 = 16;

/// The mark that covers every block.
const MARK_ALL: Range<u32> = 0..u32::MAX;

/// New content of consecutive blocks.
#[derive(Debug)]
pub(super) struct Change<'a> {
    pub(super) first: u32,
    /// Whole blocks, in pieces.
    pub(super) pieces: [&'a [u8]; 3],
}

/// A chunk with its file open. Changed only under the chunk's exclusive lock.
#[derive(Debug)]
pub(super) struct Live {
    file: ChunkFile,
    meta: Meta,
    /// Sequence of the slot that says the present state.
    newest: u64,
    /// Which slot is where; 0 = nothing that counts.
    slots: [u64; SLOTS],
    /// Sequence of the slot that is known to be on disk together with its data.
    base: u64,
    /// What that slot says.
    base_present: BlockSet,
    base_mark: Range<u32>,
    /// Set to `newest` by a sync, which holds the chunk's shared lock only; the next change
    /// takes notice.
    durable: AtomicU64,
    /// Held by the sync that is under way.
    syncing: Mutex<()>,
    /// There is something that was not synced.
    changed: bool,
    /// Blocks that are in the page cache as far as this process knows.
    cached: Mutex<BlockSet>,
}

impl Live {
    /// A chunk in a file that has no slot yet.
    pub(super) fn fresh(file: ChunkFile, meta: Meta) -> Self {
        Self {
            file,
            meta,
            newest: 0,
            slots: [0; SLOTS],
            base: 0,
            base_present: BlockSet::default(),
            base_mark: 0..0,
            durable: AtomicU64::new(0),
            syncing: Mutex::default(),
            changed: false,
            cached: Mutex::default(),
        }
    }

    /// Takes up a file by its newest valid slot.
    pub(super) fn load(file: ChunkFile) -> io::Result<Result<Self, NoSlot>> {
        let slots = file.read_slots()?;
        Ok(Self::from_slots(file, slots))
    }

    /// Takes up a file whose slots were read.
    pub(super) fn from_slots(
        file: ChunkFile,
        slots: [Result<Slot, NoSlot>; SLOTS],
    ) -> Result<Self, NoSlot> {
        if let Some(newer) = slots.iter().find_map(|slot| match slot {
            Err(NoSlot::Newer(format)) => Some(*format),
            _ => None,
        }) {
            return Err(NoSlot::Newer(newer));
        }
        let places = std::array::from_fn(|at| slots[at].as_ref().map_or(0, |slot| slot.sequence));
        let newest = slots
            .iter()
            .flatten()
            .max_by_key(|slot| slot.sequence)
            .cloned()
            .ok_or(NoSlot::Damaged)?;
        let base = slots
            .iter()
            .flatten()
            .find(|slot| slot.sequence == newest.base);
        let (base_present, base_mark) = match base {
            // A mark counts only if it is also in the newest slot: each may be what a crash leaves.
            Some(base) if base.meta.mark == newest.meta.mark => {
                (base.meta.present.clone(), base.meta.mark.clone())
            }
            Some(base) => (base.meta.present.clone(), 0..0),
            // Not known what is on disk: as if all of it were, without a mark.
            None => (newest.meta.present.clone(), 0..0),
        };
        Ok(Self {
            file,
            newest: newest.sequence,
            slots: places,
            base: newest.base,
            base_present,
            base_mark,
            durable: AtomicU64::new(0),
            syncing: Mutex::default(),
            changed: !newest.meta.dirty.is_empty(),
            meta: newest.meta,
            cached: Mutex::default(),
        })
    }

    /// The write records of the state that is known to be on disk; none if it is not known.
    pub(super) fn records_on_disk(&self) -> Vec<WriteRecord> {
        let slots = self.file.read_slots().unwrap_or_else(|_| {
            // As if none were: who repeats a write then writes it.
            std::array::from_fn(|_| Err(NoSlot::Damaged))
        });
        let mut valid = slots.into_iter().flatten();
        let base = valid.find(|slot| slot.sequence == self.base);
        base.map_or_else(Vec::new, |slot| slot.meta.records)
    }

    /// Goes back to `meta`, the state of an older slot, after the newer ones were found to be
    /// without their data; `newest` is the sequence of the newest of them.
    pub(super) fn revert(&mut self, newest: u64, meta: Meta, disk: &Disk) -> Result<()> {
        self.newest = newest;
        self.put_slot(meta, disk)
    }

    /// After a stop that was not orderly: hands what is not known to be on disk to the kernel once
    /// more. It may hold it and have given up writing it out, and told that to a process that is
    /// gone: then the next sync would be answered as a success.
    pub(super) fn write_again(&mut self, disk: &Disk) -> Result<()> {
        for block in self.meta.dirty.iter() {
            self.file
                .write_again(block)
                .map_err(|e| disk.failed_doing("write to", self.file.path(), e))?;
        }
        self.put_slot(self.meta.clone(), disk)
    }

    pub(super) fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Whether the header's newest slot is on disk as it is in memory.
    pub(super) fn is_on_disk(&self) -> bool {
        let Ok(slots) = self.file.read_slots() else {
            return false;
        };
        slots.iter().flatten().any(|slot| {
            let (on_disk, own) = (&slot.meta, &self.meta);
            slot.sequence == self.newest
                && on_disk.version == own.version
                && on_disk.generation == own.generation
                && on_disk.present == own.present
                && on_disk.checksums == own.checksums
                && on_disk.records == own.records
        })
    }

    /// Ends the making of a whole image: its slot says from the start that it is on disk, and
    /// nobody sees the file before it is.
    pub(super) fn seal(&mut self, meta: Meta, disk: &Disk) -> Result<()> {
        self.base = 1;
        self.put_slot(meta, disk)?;
        self.sync(disk)?;
        self.settle();
        Ok(())
    }

    pub(super) fn file(&self) -> &ChunkFile {
        &self.file
    }

    pub(super) fn file_mut(&mut self) -> &mut ChunkFile {
        &mut self.file
    }

    /// Applies a change of content: `meta` is the state after it. Nothing of it counts unless
    /// this returns `Ok`; after a failure the store has stopped.
    pub(super) fn change(
        &mut self,
        mut meta: Meta,
        change: &Change<'_>,
        disk: &Disk,
    ) -> Result<()> {
        self.settle();
        self.tell_witness(disk);
        let len: usize = change.pieces.iter().map(|piece| piece.len()).sum();
        let blocks = change.first..change.first + (len / BLOCK_BYTES) as u32;
        self.mark(blocks.clone(), disk)?;
        meta.mark = self.meta.mark.clone();
        // A mark syncs what was dirty before it; what the state after it says of that is dated.
        meta.dirty = self.meta.dirty.clone();
        for block in blocks.clone() {
            meta.dirty.insert(block);
        }
        meta.dirty.truncate(meta.blocks());
        self.put_slot(meta, disk)?;
        disk.reach(Step::SlotWritten)?;
        self.write(change, disk)?;
        disk.reach(Step::Written)
    }

    /// The same for some single blocks, with their content; `meta` may also have lost blocks.
    /// All of it counts, or nothing.
    pub(super) fn change_blocks(
        &mut self,
        mut meta: Meta,
        blocks: &[(u32, Vec<u8>)],
        disk: &Disk,
    ) -> Result<()> {
        self.settle();
        self.tell_witness(disk);
        for (block, _) in blocks {
            self.mark(*block..block + 1, disk)?;
        }
        meta.mark = self.meta.mark.clone();
        meta.dirty = BlockSet::default();
        let dirty = self.meta.dirty.iter().chain(blocks.iter().map(|(b, _)| *b));
        for block in dirty.filter(|block| meta.present.contains(*block)) {
            meta.dirty.insert(block);
        }
        self.put_slot(meta, disk)?;
        disk.reach(Step::SlotWritten)?;
        for (first, content) in blocks {
            let change = Change {
                first: *first,
                pieces: [&[], content, &[]],
            };
            self.write(&change, disk)?;
        }
        disk.reach(Step::Written)
    }

    fn write(&self, change: &Change<'_>, disk: &Disk) -> Result<()> {
        #[cfg(test)]
        if disk.faults.strikes(Step::HalfWritten) {
            let whole = change.pieces.concat();
            // Not at a block boundary: one block is torn within.
            let half = whole.len() / 2 + 100;
            self.file.write_torn(change.first, &whole[..half]);
            return Err(disk.fail(StoreError::Failed("interrupted at HalfWritten".into())));
        }
        let direct = self
            .file
            .write_blocks(change.first, change.pieces, &disk.behind, &disk.direct)
            .map_err(|e| disk.failed_doing("write to", self.file.path(), e))?;
        let count = change.pieces.iter().map(|p| p.len()).sum::<usize>() / BLOCK_BYTES;
        self.note_cached(change.first, count as u32, !direct);
        Ok(())
    }

    /// Changes what the header says and nothing else.
    pub(super) fn change_header(&mut self, meta: Meta, disk: &Disk) -> Result<()> {
        self.settle();
        self.tell_witness(disk);
        self.put_slot(meta, disk)
    }

    /// Whether overwriting these blocks has to wait for a mark to be durable. `true` also where
    /// a sync was not taken notice of yet.
    pub(super) fn needs_mark(&self, mut blocks: Range<u32>) -> bool {
        let unsettled = self.changed && self.durable.load(Ordering::Acquire) == self.newest;
        blocks.any(|block| {
            let on_disk = match unsettled {
                true => &self.meta.present,
                false => &self.base_present,
            };
            on_disk.contains(block) && !self.base_mark.contains(&block)
        })
    }

    /// Makes sure that a durable mark covers those of the blocks that are on disk already and
    /// will be overwritten in place.
    fn mark(&mut self, blocks: Range<u32>, disk: &Disk) -> Result<()> {
        if !self.needs_mark(blocks.clone()) {
            return Ok(());
        }
        let mut meta = self.meta.clone();
        // One window, then everything: at most two fsyncs a chunk until the marks are cleared.
        meta.mark = if meta.mark.is_empty() && blocks.len() < MARK_WINDOW as usize {
            let end = blocks.end.div_ceil(MARK_WINDOW) * MARK_WINDOW;
            blocks.start / MARK_WINDOW * MARK_WINDOW..end
        } else {
            MARK_ALL
        };
        self.put_slot(meta, disk)?;
        self.sync(disk)?;
        self.settle();
        disk.reach(Step::Marked)
    }

    /// From here on the header may say something else than the index. A file without a slot is
    /// not in the index, and looked at for that.
    fn tell_witness(&self, disk: &Disk) {
        if self.newest > 0 {
            let meta = &self.meta;
            disk.witness
                .changing(meta.key, meta.generation, meta.version);
        }
    }

    fn put_slot(&mut self, meta: Meta, disk: &Disk) -> Result<()> {
        disk.check()?;
        let kept = [self.newest, self.base];
        let place = (0..SLOTS)
            .find(|at| self.slots[*at] == 0)
            .or_else(|| (0..SLOTS).find(|at| !kept.contains(&self.slots[*at])))
            .ok_or_else(|| StoreError::Invalid("no slot is free".into()))?;
        let slot = Slot {
            sequence: self.newest + 1,
            base: self.base,
            meta,
        };
        self.slots[place] = 0;
        self.file
            .write_slot(place, &slot.encode())
            .map_err(|e| disk.failed_doing("write to", self.file.path(), e))?;
        self.slots[place] = slot.sequence;
        self.newest = slot.sequence;
        self.meta = slot.meta;
        self.changed = true;
        Ok(())
    }

    /// Onto disk: all that was written. Needs only the shared lock.
    pub(super) fn sync(&self, disk: &Disk) -> Result<()> {
        let is_due = || self.changed && self.durable.load(Ordering::Acquire) < self.newest;
        if !is_due() {
            return Ok(());
        }
        disk.counts.asked.fetch_add(1, Ordering::Relaxed);
        // One pass serves all who ask meanwhile: nothing is written as long as one of them has
        // the chunk.
        let _pass = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        if is_due() {
            disk.sync(&self.file)?;
            self.durable.store(self.newest, Ordering::Release);
        }
        Ok(())
    }

    /// Takes notice of a sync: the present state is the one on disk.
    fn settle(&mut self) {
        if self.changed && *self.durable.get_mut() == self.newest {
            self.base = self.newest;
            self.base_present = self.meta.present.clone();
            self.base_mark = self.meta.mark.clone();
            self.meta.dirty.remove_all();
            self.changed = false;
        }
    }

    /// After a sync: writes down, without another sync, that nothing is dirty, so that a later
    /// start after a crash has no blocks to compare.
    pub(super) fn note_synced(&mut self, disk: &Disk) -> Result<()> {
        let was_dirty = !self.meta.dirty.is_empty();
        self.settle();
        if was_dirty && !self.changed {
            self.put_slot(self.meta.clone(), disk)?;
            self.changed = false;
        }
        Ok(())
    }

    /// Whether an overwrite mark is set.
    pub(super) fn is_marked(&self) -> bool {
        !self.meta.mark.is_empty()
    }

    /// Removes the mark, if all is synced. Not durable by itself: a mark that stays on disk
    /// costs a comparison after a crash, no more.
    pub(super) fn clear_mark(&mut self, disk: &Disk) -> Result<bool> {
        self.settle();
        if self.changed {
            return Ok(false);
        }
        let mut meta = self.meta.clone();
        meta.mark = 0..0;
        self.put_slot(meta, disk)?;
        self.changed = false;
        // The next overwrite has to make a mark durable again.
        self.base_mark = 0..0;
        Ok(true)
    }

    /// Reads whole blocks, verified. A block that is not stored is zeros.
    pub(super) fn read_verified(&self, first: u32, buffer: &mut [u8], disk: &Disk) -> Result<()> {
        let count = (buffer.len() / BLOCK_BYTES) as u32;
        let cold = buffer.len() >= DIRECT_MIN && self.is_cold(first, count);
        self.read_raw(first, buffer, cold, disk)?;
        for (at, block) in buffer.chunks_exact(BLOCK_BYTES).enumerate() {
            let number = first + at as u32;
            if let Some(checksum) = self.meta.checksum(number)
                && crc32c::crc32c(block) != checksum
            {
                return Err(StoreError::rotten(self.meta.key, Damage::Block(number)));
            }
        }
        self.note_cached(first, count, true);
        Ok(())
    }

    /// Reads whole blocks as they are, `direct`: around the page cache if the size allows it.
    pub(super) fn read_raw(
        &self,
        first: u32,
        buffer: &mut [u8],
        direct: bool,
        disk: &Disk,
    ) -> Result<()> {
        let count = (buffer.len() / BLOCK_BYTES) as u32;
        let mut at = 0;
        while at < count {
            let present = self.meta.present.contains(first + at);
            let end = (at..count)
                .find(|next| self.meta.present.contains(first + next) != present)
                .unwrap_or(count);
            let part = &mut buffer[at as usize * BLOCK_BYTES..end as usize * BLOCK_BYTES];
            if present {
                disk.reading()
                    .and_then(|()| {
                        let direct = direct.then_some(&disk.direct);
                        self.file.read_blocks(first + at, part, direct)
                    })
                    .map_err(|e| {
                        // A sector that cannot be read is rot like any other.
                        disk.could_not_read(self.file.path(), &e);
                        StoreError::rotten(self.meta.key, Damage::Block(first + at))
                    })?;
            } else {
                part.fill(0);
            }
            at = end;
        }
        Ok(())
    }

    fn is_cold(&self, first: u32, count: u32) -> bool {
        let cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        !(first..first + count).any(|block| cached.contains(block))
    }

    /// A block read directly once counts as cached, so that a second read brings it in.
    fn note_cached(&self, first: u32, count: u32, cached: bool) {
        let mut known = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        for block in first..first + count {
            if cached {
                known.insert(block);
            } else {
                known.remove(block);
            }
        }
    }
}
