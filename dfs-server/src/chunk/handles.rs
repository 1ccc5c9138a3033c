//! The chunks in use: one lock for each, and a bounded number of open files behind them.

use super::live::Live;
use dfs_proto::ids::ChunkKey;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A chunk in use. At any time there is at most one handle for a key.
#[derive(Debug)]
pub(super) struct Handle {
    live: RwLock<Option<Live>>,
    used: AtomicU64,
}

impl Handle {
    /// The chunk's shared lock: reads and syncs.
    ///
    /// A lock whose holder panicked is taken all the same: the state in memory is replaced only
    /// after the disk has it, so it is never half of one and half of another.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Option<Live>> {
        self.live.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The chunk's exclusive lock: whatever changes it. `None`: not loaded, or a hole.
    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Option<Live>> {
        self.live.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shared lock, if it can be had at once.
    pub(super) fn try_read(&self) -> Option<RwLockReadGuard<'_, Option<Live>>> {
        self.live.try_read().ok()
    }

    /// The exclusive lock, if nobody has the chunk at the moment.
    pub(super) fn try_write(&self) -> Option<RwLockWriteGuard<'_, Option<Live>>> {
        self.live.try_write().ok()
    }
}

/// The handles in use and the ones kept for the next use.
#[derive(Debug)]
pub(super) struct Handles {
    max: usize,
    clock: AtomicU64,
    table: Mutex<HashMap<ChunkKey, Arc<Handle>>>,
}

impl Handles {
    /// `max`: handles that are kept; more only while they are in use.
    pub(super) fn new(max: usize) -> Self {
        Self {
            max: max.max(1),
            clock: AtomicU64::new(0),
            table: Mutex::default(),
        }
    }

    /// The handle of a chunk.
    pub(super) fn get(&self, key: ChunkKey) -> Arc<Handle> {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = table.get(&key) {
            handle.used.store(now, Ordering::Relaxed);
            return Arc::clone(handle);
        }
        let dropped = if table.len() >= self.max {
            self.make_room(&mut table)
        } else {
            Vec::new()
        };
        let handle = Arc::new(Handle {
            live: RwLock::new(None),
            used: AtomicU64::new(now),
        });
        table.insert(key, Arc::clone(&handle));
        drop(table);
        // Files are closed outside the lock.
        drop(dropped);
        handle
    }

    /// The handle of a chunk, if it is there already.
    pub(super) fn peek(&self, key: ChunkKey) -> Option<Arc<Handle>> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.get(&key).map(Arc::clone)
    }

    /// Takes out an eighth of the handles that nobody uses, the least recently used.
    fn make_room(&self, table: &mut HashMap<ChunkKey, Arc<Handle>>) -> Vec<Arc<Handle>> {
        let mut idle: Vec<(u64, ChunkKey)> = table
            .iter()
            .filter(|(_, handle)| Arc::strong_count(handle) == 1)
            .map(|(key, handle)| (handle.used.load(Ordering::Relaxed), *key))
            .collect();
        let count = (self.max / 8).max(1) + (table.len() - self.max);
        idle.sort_unstable();
        let oldest = idle.iter().take(count);
        oldest.filter_map(|(_, key)| table.remove(key)).collect()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table.lock().expect("not poisoned").len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::ids::{ChunkIndex, InodeId};

    fn key(index: u64) -> ChunkKey {
        ChunkKey {
            inode: InodeId(1),
            index: ChunkIndex(index),
        }
    }

    #[test]
    fn idle_handles_are_bounded_and_a_used_one_stays_the_only_one() {
        let handles = Handles::new(16);
        let used = handles.get(key(0));
        for index in 1..1000 {
            handles.get(key(index));
            assert!(handles.len() <= 16);
        }
        assert!(Arc::ptr_eq(&used, &handles.get(key(0))));
        let all: Vec<_> = (0..40).map(|index| handles.get(key(index))).collect();
        assert_eq!(handles.len(), 40, "what is in use is never dropped");
        drop(all);
        handles.get(key(5000));
        assert!(handles.len() <= 16);
    }
}
