//! What the store holds, in memory and in order: lists and versions without a look at the disk.
//!
//! Loaded from the index after an orderly stop, from the chunk files' headers after any other.
//! About 150 bytes a chunk.

use super::error::Damage;
use super::index::Row;
use super::request::ChunkState;
use super::witness::Witness;
use dfs_proto::ids::{ChunkIndex, ChunkKey, GroupId, InodeId};
use dfs_proto::limits::BLOCK_BYTES;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

/// One chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    /// What the index is to say.
    pub(super) row: Row,
    /// The index has a durable row of this chunk.
    pub(super) indexed: bool,
    /// Tells this chunk from one of the same key that was removed before.
    pub(super) birth: u64,
}

impl Entry {
    pub(super) fn state(&self) -> ChunkState {
        ChunkState {
            generation: self.row.generation,
            version: self.row.version,
            len: self.row.len,
            stored: self.row.stored,
            damaged: self.row.damage.is_some(),
        }
    }
}

/// All chunks.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    chunks: BTreeMap<ChunkKey, Entry>,
    groups: BTreeMap<GroupId, BTreeSet<ChunkKey>>,
    /// Chunks with something that is not on disk, and since when.
    dirty: BTreeMap<(GroupId, ChunkKey), Instant>,
    /// Chunks whose overwrite mark is set, and when they were last overwritten.
    marked: BTreeMap<ChunkKey, Instant>,
    /// Chunks whose row in the index is not the present one.
    stale: BTreeSet<ChunkKey>,
    used: u64,
    births: u64,
    /// Is told what changes, and what the index says as it is.
    pub(super) witness: Arc<Witness>,
}

impl Catalog {
    pub(super) fn get(&self, key: ChunkKey) -> Option<&Entry> {
        self.chunks.get(&key)
    }

    pub(super) fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Stored bytes of all chunks.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// Puts the present state of a chunk; whether the index has it is remembered.
    pub(super) fn put(&mut self, key: ChunkKey, row: Row) {
        let old = self.chunks.get(&key);
        let indexed = old.is_some_and(|entry| entry.indexed);
        let birth = old.map(|entry| entry.birth);
        self.stale.insert(key);
        self.witness.note(key, &row);
        self.put_entry(key, row, indexed, birth);
    }

    /// Puts a chunk as the index has it.
    pub(super) fn put_indexed(&mut self, key: ChunkKey, row: Row) {
        self.put_entry(key, row, true, None);
    }

    fn put_entry(&mut self, key: ChunkKey, row: Row, indexed: bool, birth: Option<u64>) {
        let group = row.group;
        self.used += u64::from(row.len);
        self.births += 1;
        let birth = birth.unwrap_or(self.births);
        let entry = Entry {
            row,
            indexed,
            birth,
        };
        if let Some(old) = self.chunks.insert(key, entry) {
            self.used -= u64::from(old.row.len);
            if old.row.group == group {
                return;
            }
            self.leave_group(old.row.group, key);
        }
        self.groups.entry(group).or_default().insert(key);
    }

    /// Forgets a chunk; says whether the index has to forget it too. The witness is to be told
    /// when it has.
    pub(super) fn remove(&mut self, key: ChunkKey) -> bool {
        let Some(entry) = self.chunks.remove(&key) else {
            return false;
        };
        self.used -= u64::from(entry.row.len);
        self.leave_group(entry.row.group, key);
        self.marked.remove(&key);
        self.stale.remove(&key);
        self.witness.going(key);
        entry.indexed
    }

    fn leave_group(&mut self, group: GroupId, key: ChunkKey) {
        if let Some(keys) = self.groups.get_mut(&group) {
            keys.remove(&key);
            if keys.is_empty() {
                self.groups.remove(&group);
            }
        }
        self.dirty.remove(&(group, key));
    }

    /// Notes what is wrong with a chunk, or that nothing is any more.
    pub(super) fn set_damage(&mut self, key: ChunkKey, damage: Option<Damage>) {
        if let Some(entry) = self.chunks.get_mut(&key) {
            entry.row.damage = damage;
            self.stale.insert(key);
        }
    }

    /// The chunk has something that is not on disk.
    pub(super) fn set_dirty(&mut self, key: ChunkKey, now: Instant) {
        if let Some(entry) = self.chunks.get(&key) {
            self.dirty.entry((entry.row.group, key)).or_insert(now);
            if !self.stale.contains(&key) {
                self.witness.note(key, &entry.row);
            }
        }
    }

    pub(super) fn set_marked(&mut self, key: ChunkKey, last_overwrite: Option<Instant>) {
        match last_overwrite {
            Some(at) => {
                self.marked.insert(key, at);
            }
            None => {
                self.marked.remove(&key);
                self.forget_if_proven(key);
            }
        }
    }

    /// This state of the chunk is on disk, and if `committed` also in the index. A chunk that
    /// has changed since stays dirty.
    pub(super) fn set_synced(&mut self, key: ChunkKey, birth: u64, row: &Row, committed: bool) {
        let Some(entry) = self.chunks.get_mut(&key) else {
            return;
        };
        if entry.birth != birth {
            return;
        }
        entry.indexed |= committed;
        if entry.row == *row {
            self.dirty.remove(&(row.group, key));
            if committed {
                self.stale.remove(&key);
                self.forget_if_proven(key);
            }
        }
    }

    fn forget_if_proven(&self, key: ChunkKey) {
        let doubtful = self.stale.contains(&key) || self.marked.contains_key(&key);
        if !doubtful && !self.is_dirty(key) {
            self.witness.forget(key);
        }
    }

    pub(super) fn is_dirty(&self, key: ChunkKey) -> bool {
        self.chunks
            .get(&key)
            .is_some_and(|entry| self.dirty.contains_key(&(entry.row.group, key)))
    }

    /// Dirty chunks, of one group or of all.
    pub(super) fn dirty(&self, group: Option<GroupId>) -> Vec<ChunkKey> {
        let keys = self.dirty.keys();
        keys.filter(|(of, _)| group.is_none_or(|group| *of == group))
            .map(|(_, key)| *key)
            .collect()
    }

    /// Chunks that are not, as they are, on disk and in the index, or have a mark to be cleared.
    pub(super) fn unproven(&self) -> impl Iterator<Item = (ChunkKey, &Row)> {
        let dirty = self.dirty.keys().map(|(_, key)| key);
        let keys = self.stale.iter().chain(dirty).chain(self.marked.keys());
        keys.filter_map(|key| Some((*key, &self.chunks.get(key)?.row)))
    }

    /// Chunks that are known to be damaged.
    pub(super) fn damaged(&self) -> impl Iterator<Item = ChunkKey> {
        let all = self.chunks.iter();
        all.filter(|(_, entry)| entry.row.damage.is_some())
            .map(|(key, _)| *key)
    }

    /// Dirty chunks of one inode in a group.
    pub(super) fn dirty_of(&self, group: GroupId, inode: InodeId) -> Vec<ChunkKey> {
        let at = |index| ChunkKey {
            inode,
            index: ChunkIndex(index),
        };
        let range = (group, at(0))..=(group, at(u64::MAX));
        self.dirty.range(range).map(|((_, key), _)| *key).collect()
    }

    /// Chunks that are dirty since before `before`, the oldest first.
    pub(super) fn dirty_since(&self, before: Instant, max: usize) -> Vec<ChunkKey> {
        let mut old: Vec<(Instant, ChunkKey)> = self
            .dirty
            .iter()
            .filter(|(_, since)| **since <= before)
            .map(|((_, key), since)| (*since, *key))
            .collect();
        old.sort_unstable();
        old.into_iter().take(max).map(|(_, key)| key).collect()
    }

    /// Marked chunks not overwritten since `before`.
    pub(super) fn marked_since(&self, before: Instant, max: usize) -> Vec<ChunkKey> {
        let old = self.marked.iter().filter(|(_, at)| **at <= before);
        old.take(max).map(|(key, _)| *key).collect()
    }

    /// All marked chunks.
    pub(super) fn marked(&self) -> Vec<ChunkKey> {
        self.marked.keys().copied().collect()
    }

    /// How many chunks have a row that is not the present one.
    pub(super) fn dated_rows(&self) -> usize {
        self.stale.len() - self.dirty.len().min(self.stale.len())
    }

    /// Rows, not those of dirty chunks, that the index does not have as they are now.
    pub(super) fn take_dated(&self, max: usize) -> Vec<(ChunkKey, u64, Row)> {
        self.stale
            .iter()
            .filter_map(|key| Some((*key, self.chunks.get(key)?)))
            .filter(|(key, entry)| !self.dirty.contains_key(&(entry.row.group, *key)))
            .take(max)
            .map(|(key, entry)| (key, entry.birth, entry.row.clone()))
            .collect()
    }

    /// Every row that the index does not have as it is now.
    pub(super) fn stale_rows(&self) -> Vec<(ChunkKey, Row)> {
        self.stale
            .iter()
            .filter_map(|key| Some((*key, self.chunks.get(key)?.row.clone())))
            .collect()
    }

    /// Chunks of a group after a key, in order, and whether that was the end.
    pub(super) fn list(
        &self,
        group: GroupId,
        after: Option<ChunkKey>,
        max: usize,
    ) -> (Vec<(ChunkKey, ChunkState)>, bool) {
        use std::ops::Bound::{Excluded, Unbounded};
        let Some(keys) = self.groups.get(&group) else {
            return (Vec::new(), true);
        };
        let mut left = keys.range((after.map_or(Unbounded, Excluded), Unbounded));
        let states = left
            .by_ref()
            .take(max)
            .filter_map(|key| Some((*key, self.chunks.get(key)?.state())))
            .collect();
        (states, left.next().is_none())
    }

    /// Chunks of an inode in a group, from an index on.
    pub(super) fn of_inode(
        &self,
        inode: InodeId,
        group: GroupId,
        from: ChunkIndex,
    ) -> impl Iterator<Item = (ChunkKey, &Entry)> {
        let key = move |index| ChunkKey { inode, index };
        self.groups
            .get(&group)
            .into_iter()
            .flat_map(move |keys| keys.range(key(from)..=key(ChunkIndex(u64::MAX))))
            .filter_map(|key| Some((*key, self.chunks.get(key)?)))
    }

    /// Bytes stored of an inode in a group, in whole blocks.
    pub(super) fn stored(&self, inode: InodeId, group: GroupId) -> u64 {
        self.of_inode(inode, group, ChunkIndex(0))
            .map(|(_, entry)| u64::from(entry.row.stored) * BLOCK_BYTES as u64)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::ids::{Epoch, Generation, Version};

    fn row(group: u32, len: u32) -> Row {
        Row {
            group: GroupId(group),
            generation: Generation(0),
            version: Version {
                epoch: Epoch(1),
                counter: 1,
            },
            len,
            stored: 2,
            damage: None,
        }
    }

    fn key(inode: u64, index: u64) -> ChunkKey {
        ChunkKey {
            inode: InodeId(inode),
            index: ChunkIndex(index),
        }
    }

    #[test]
    fn pages_of_a_group_follow_each_other() {
        let mut catalog = Catalog::default();
        for index in 0..10 {
            catalog.put(key(1 + index % 2, index), row((index % 3) as u32, 100));
        }
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let (page, end) = catalog.list(GroupId(0), after, 2);
            all.extend(page.iter().map(|(key, _)| *key));
            after = all.last().copied();
            if end {
                break;
            }
        }
        assert_eq!(all, [key(1, 0), key(1, 6), key(2, 3), key(2, 9)]);
        assert_eq!(catalog.list(GroupId(9), None, 5), (Vec::new(), true));
        assert_eq!(catalog.stored(InodeId(2), GroupId(0)), 4 * 4096);
        assert_eq!(catalog.used(), 1000);
    }

    #[test]
    fn a_chunk_that_changes_its_group_is_in_the_new_one_only() {
        let mut catalog = Catalog::default();
        catalog.put(key(1, 0), row(0, 10));
        catalog.set_dirty(key(1, 0), Instant::now());
        catalog.put(key(1, 0), row(1, 20));
        assert!(catalog.list(GroupId(0), None, 5).0.is_empty());
        assert_eq!(catalog.list(GroupId(1), None, 5).0.len(), 1);
        assert_eq!(catalog.used(), 20);
        assert!(!catalog.remove(key(1, 0)), "was never indexed");
        assert_eq!((catalog.len(), catalog.used()), (0, 0));
        assert!(catalog.dirty(None).is_empty());
    }
}
