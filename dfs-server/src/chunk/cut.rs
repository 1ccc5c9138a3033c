//! Removing: a chunk, or everything of an inode from a byte on.

use super::disk::Step;
use super::error::{Result, StoreError};
use super::file;
use super::index::Change as IndexChange;
use super::live::{Change, Live};
use super::store::{CUT_STRIPES, ChunkStore, lock};
use dfs_proto::ids::{ChunkIndex, ChunkKey, Generation, GroupId, InodeId};
use dfs_proto::layout::FileLayout;
use dfs_proto::limits::BLOCK_BYTES;
use std::io::ErrorKind;
use std::time::Instant;

/// Chunks that are removed with one commit, their locks held together.
const BATCH: usize = 256;

/// Notes of removals that are kept before they are cleared away.
const REMOVALS_MAX: usize = 4096;

impl ChunkStore {
    /// Makes the chunk a hole, whatever state it is in. Durable when it returns.
    pub fn remove(&self, key: ChunkKey) -> Result<()> {
        let _open = self.usable()?;
        if self.damage(key).is_some() {
            let handle = self.handle(key);
            let mut live = handle.write();
            self.set_aside(key);
            *live = None;
        }
        self.remove_batch(&[key], |_| true, Vec::new())
    }

    /// Removes chunks of a group, a batch, whatever state they are in; how many, and whether
    /// none is left. Durable when it returns.
    pub fn release(&self, group: GroupId) -> Result<(usize, bool)> {
        let _open = self.usable()?;
        let (chunks, end) = self.catalog().list(group, None, BATCH);
        let keys: Vec<ChunkKey> = chunks.into_iter().map(|(key, _)| key).collect();
        self.remove_batch(&keys, |_| true, Vec::new())?;
        Ok((keys.len(), end))
    }

    /// Makes a cut in the chunks of `groups`: everything of the inode from byte `from` on is
    /// gone, and so is every older generation. Durable when it returns; done once, a repeat
    /// does nothing. Chunks of this or a later generation are left alone.
    pub fn cut(
        &self,
        inode: InodeId,
        generation: Generation,
        from: u64,
        layout: FileLayout,
        groups: &[GroupId],
    ) -> Result<()> {
        let _open = self.usable()?;
        if !layout.is_valid() {
            return Err(StoreError::Invalid(format!(
                "{inode} has no valid layout: {layout:?}"
            )));
        }
        let _one_at_a_time = lock(&self.cuts[inode.0 as usize % CUT_STRIPES]);
        // In memory first: from here on nothing of an older generation is put down.
        let floors: Vec<IndexChange> = {
            let mut promises = self.promises();
            let raised = groups
                .iter()
                .filter_map(|group| promises.raise(*group, inode, generation));
            raised.collect()
        };
        let raised: Vec<GroupId> = floors
            .iter()
            .filter_map(|change| match change {
                IndexChange::PutFloor(group, ..) => Some(*group),
                _ => None,
            })
            .collect();
        if raised.is_empty() {
            return Ok(());
        }

        let chunk_bytes = u64::from(layout.chunk_bytes);
        let within = (from % chunk_bytes) as u32;
        let boundary = ChunkKey {
            inode,
            index: layout.chunk_of(from),
        };
        if within > 0 && raised.contains(&layout.group_of(boundary.index)) {
            self.shorten(boundary, within, generation)?;
            self.disk.reach(Step::BoundaryCut)?;
        }
        let first = ChunkIndex(from.div_ceil(chunk_bytes));
        let beyond: Vec<ChunkKey> = {
            let catalog = self.catalog();
            raised
                .iter()
                .flat_map(|group| catalog.of_inode(inode, *group, first))
                .filter(|(_, entry)| entry.row.generation < generation)
                .map(|(key, _)| key)
                .collect()
        };
        let is_old = |present: Generation| present < generation;
        // The floors go with the last batch: a cut that was interrupted is made again.
        let (most, last) = beyond.split_at(beyond.len().saturating_sub(1) / BATCH * BATCH);
        for batch in most.chunks(BATCH) {
            self.remove_batch(batch, is_old, Vec::new())?;
        }
        self.remove_batch(last, is_old, floors)
    }

    /// Removes chunks whose generation is to go: first durably from the index, so that no
    /// crash leaves a row without a file, and with a note, so that none brings the file back.
    fn remove_batch(
        &self,
        keys: &[ChunkKey],
        goes: impl Fn(Generation) -> bool,
        mut changes: Vec<IndexChange>,
    ) -> Result<()> {
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        let handles: Vec<_> = keys.iter().map(|key| self.handle(*key)).collect();
        // In the order of keys, so that two batches cannot wait for each other.
        let mut locked: Vec<_> = handles.iter().map(|handle| handle.write()).collect();
        let mut removed = Vec::new();
        let ticket = {
            let mut catalog = self.catalog();
            for (key, live) in keys.iter().zip(&mut locked) {
                match catalog.get(*key) {
                    Some(entry) if goes(entry.row.generation) => {
                        let row = &entry.row;
                        changes.push(self.removals.begin(*key, row.generation, row.version));
                    }
                    _ => continue,
                }
                if catalog.remove(*key) {
                    changes.push(IndexChange::Remove(*key));
                }
                **live = None;
                removed.push(*key);
            }
            self.index.enqueue(changes)
        };
        self.wait(ticket)?;
        self.disk.reach(Step::RowsRemoved)?;
        for key in &removed {
            self.unlink(*key)?;
        }
        if self.removals.done(&removed) > REMOVALS_MAX {
            drop(locked);
            self.settle_removals()?;
        }
        Ok(())
    }

    /// Removes the chunk's file, if there is one. Under the chunk's exclusive lock.
    pub(super) fn unlink(&self, key: ChunkKey) -> Result<()> {
        let path = file::chunk_path(&self.data, key);
        let fan = &self.fans[file::fan_of(key)];
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(self.disk.failed_doing("remove", &path, e)),
        }
        fan.changed();
        Ok(())
    }

    /// Shortens the chunk that the cut goes through, durably.
    fn shorten(&self, key: ChunkKey, len: u32, generation: Generation) -> Result<()> {
        let handle = self.handle(key);
        let mut live = handle.write();
        match self.load(key, &mut live) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            // Nothing to shorten: this copy is to be replaced by one that was.
            Err(StoreError::Rotten { .. }) => return Ok(()),
            Err(e) => return Err(e),
        }
        let Some(live) = live.as_mut() else {
            return Ok(());
        };
        if live.meta().generation >= generation || live.meta().len <= len {
            return Ok(());
        }
        self.shorten_live(live, len, generation)?;
        live.sync(&self.disk)?;
        live.note_synced(&self.disk)?;
        // Only now: a crash before could have gone back to a state that has these blocks.
        live.file()
            .truncate_blocks(live.meta().blocks())
            .map_err(|e| self.disk.failed_doing("shorten", live.file().path(), e))?;
        let damage = self.damage(key);
        self.publish(live.meta(), damage);
        let mut catalog = self.catalog();
        catalog.set_dirty(key, Instant::now());
        if live.is_marked() {
            catalog.set_marked(key, Some(Instant::now()));
        }
        Ok(())
    }

    fn shorten_live(&self, live: &mut Live, len: u32, generation: Generation) -> Result<()> {
        let mut meta = live.meta().clone();
        let last = len / BLOCK_BYTES as u32;
        let within = len as usize % BLOCK_BYTES;
        let rewritten = within > 0 && meta.present.contains(last);
        let mut block = vec![0; BLOCK_BYTES];
        if rewritten {
            // What is rotten stays told: the copy is damaged and the block fails its checksum
            // still, unless it is torn, in which case any content will do.
            match live.read_verified(last, &mut block, &self.disk) {
                Ok(()) => {}
                Err(e) if self.damage(meta.key).is_none() => {
                    self.note_damage(e);
                    return Ok(());
                }
                Err(_) => live.read_raw(last, &mut block, false, &self.disk)?,
            }
            block[within..].fill(0);
        }
        meta.len = len;
        meta.generation = generation;
        meta.present.truncate(meta.blocks());
        meta.dirty.truncate(meta.blocks());
        meta.checksums.truncate(meta.blocks() as usize);
        if rewritten {
            meta.set_block(last, crc32c::crc32c(&block));
            let change = Change {
                first: last,
                pieces: [&[], &block, &[]],
            };
            live.change(meta, &change, &self.disk)
        } else {
            live.change_header(meta, &self.disk)
        }
    }
}
