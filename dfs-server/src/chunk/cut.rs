//! Removing: a chunk, or a range of an inode, mostly everything from a byte on.

use super::clear::parts;
use super::disk::Step;
use super::error::{Result, StoreError};
use super::file;
use super::index::Change as IndexChange;
use super::store::{CUT_STRIPES, ChunkStore, lock};
use dfs_proto::ids::{ChunkIndex, ChunkKey, Generation, GroupId, InodeId};
use dfs_proto::layout::FileLayout;
use std::io::ErrorKind;
use std::ops::Range;

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
        self.installations.give_up(|_, of| of == group);
        let (chunks, end) = self.catalog().list(group, None, BATCH);
        let keys: Vec<ChunkKey> = chunks.into_iter().map(|(key, _)| key).collect();
        self.remove_batch(&keys, |_| true, Vec::new())?;
        Ok((keys.len(), end))
    }

    /// Makes a cut in the chunks of `groups`: everything of the inode in `range` is gone, and so
    /// is every older generation. A range up to `u64::MAX` shortens, any other one leaves a hole
    /// of zeros. Durable when it returns; done once, a repeat does nothing. Chunks of this or a
    /// later generation are left alone.
    pub fn cut(
        &self,
        inode: InodeId,
        generation: Generation,
        range: Range<u64>,
        layout: FileLayout,
        groups: &[GroupId],
    ) -> Result<()> {
        let _open = self.usable()?;
        if !layout.is_valid() {
            return Err(StoreError::Invalid(format!(
                "{inode} has no valid layout: {layout:?}"
            )));
        }
        if range.is_empty() {
            return Err(StoreError::Invalid(format!(
                "{inode}: a cut of nothing: {range:?}"
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
        // An image of before: never installed and cut at once, so this was broken off.
        self.installations
            .give_up(|key, group| key.inode == inode && raised.contains(&group));

        // Chunks of which a part stays, and those that go as a whole.
        let chunk_bytes = u64::from(layout.chunk_bytes);
        for (index, part) in parts(&range, chunk_bytes) {
            let key = ChunkKey { inode, index };
            if raised.contains(&layout.group_of(index)) {
                self.clear_part(key, part, generation)?;
                self.disk.reach(Step::BoundaryCut)?;
            }
        }
        let first = ChunkIndex(range.start.div_ceil(chunk_bytes));
        let end = match range.end {
            u64::MAX => u64::MAX,
            end => end / chunk_bytes,
        };
        let beyond: Vec<ChunkKey> = {
            let catalog = self.catalog();
            raised
                .iter()
                .flat_map(|group| catalog.of_inode(inode, *group, first))
                .filter(|(key, entry)| {
                    (key.index.0 < end || end == u64::MAX) && entry.row.generation < generation
                })
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
            self.disk.witness.forget(*key);
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
}
