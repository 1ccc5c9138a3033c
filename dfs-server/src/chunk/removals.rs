//! Notes of chunks that were removed: until its dir is synced, a power cut can bring a file
//! back, and the note says that it is no chunk.

use super::error::Result;
use super::file;
use super::index::Change;
use super::store::{ChunkStore, lock};
use dfs_proto::ids::{ChunkKey, Generation, Version};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

/// The notes whose files are unlinked, each with a number that tells it from a later note of
/// the same chunk.
#[derive(Debug, Default)]
pub(super) struct Removals {
    unlinked: Mutex<(u64, BTreeMap<ChunkKey, u64>)>,
}

impl Removals {
    /// Notes left by an earlier run whose files are gone.
    pub(super) fn left(keys: impl Iterator<Item = ChunkKey>) -> Self {
        let removals = Self::default();
        removals.done(&keys.collect::<Vec<_>>());
        removals
    }

    /// A chunk is being removed; the change is to be handed to the index. Under the lock of the
    /// catalog, so that notes of one chunk follow each other.
    pub(super) fn begin(&self, key: ChunkKey, generation: Generation, version: Version) -> Change {
        lock(&self.unlinked).1.remove(&key);
        Change::PutRemoved(key, generation, version)
    }

    /// The files are unlinked; says how many notes there are now.
    pub(super) fn done(&self, keys: &[ChunkKey]) -> usize {
        let mut unlinked = lock(&self.unlinked);
        let (number, table) = &mut *unlinked;
        for key in keys {
            *number += 1;
            table.insert(*key, *number);
        }
        table.len()
    }
}

impl ChunkStore {
    /// Makes the removals so far final: no note is needed for them any more. The notes
    /// themselves go without waiting for the disk.
    pub(super) fn settle_removals(&self) -> Result<()> {
        let seen = lock(&self.removals.unlinked).1.clone();
        if seen.is_empty() {
            return Ok(());
        }
        let fans: BTreeSet<usize> = seen.keys().map(|key| file::fan_of(*key)).collect();
        self.sync_many_fans(&fans)?;
        let mut unlinked = lock(&self.removals.unlinked);
        let mut changes = Vec::new();
        for (key, number) in seen {
            if unlinked.1.get(&key) == Some(&number) {
                unlinked.1.remove(&key);
                changes.push(Change::DropRemoved(key));
            }
        }
        // With the next commit, whenever that is.
        let _unhurried = self.index.enqueue(changes);
        Ok(())
    }
}
