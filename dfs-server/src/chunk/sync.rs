//! Onto disk: chunk files, the dirs that name them, the index - in this order, so that the
//! index never names a file that a power cut can take away.

use super::disk::Step;
use super::error::{Result, StoreError};
use super::file;
use super::index::{Change, Row};
use super::store::{ChunkStore, lock};
use dfs_proto::ids::{ChunkKey, GroupId, InodeId};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Rows that are written along with a commit that is needed anyway.
const DATED_ROWS_MAX: usize = 1024;

/// From so many chunks on they are written out together before each is synced by itself.
const TOGETHER_MIN: usize = 8;

/// An overwrite mark goes when the chunk was not overwritten for this many times the age.
const MARK_AGES: u32 = 4;

/// One of the dirs that chunk files are spread over.
#[derive(Debug)]
pub(super) struct Fan {
    path: PathBuf,
    changes: AtomicU64,
    synced: Mutex<u64>,
}

impl Fan {
    pub(super) fn new(path: PathBuf, changed: bool) -> Self {
        Self {
            path,
            changes: AtomicU64::new(u64::from(changed)),
            synced: Mutex::new(0),
        }
    }

    /// A name has appeared or gone. To be said after it did: a sync before may have missed it.
    pub(super) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    fn present(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// All names that were there when `present` said so are on disk.
    fn synced_up_to(&self, present: u64) {
        let mut synced = lock(&self.synced);
        *synced = (*synced).max(present);
    }

    /// Whether a sync would have something to do.
    fn is_changed(&self) -> bool {
        *lock(&self.synced) < self.present()
    }

    fn sync(&self) -> std::io::Result<()> {
        let wanted = self.changes.load(Ordering::Acquire);
        let mut synced = lock(&self.synced);
        if *synced < wanted {
            let now = self.changes.load(Ordering::Acquire);
            File::open(&self.path)?.sync_all()?;
            *synced = now;
        }
        Ok(())
    }
}

impl ChunkStore {
    /// Onto disk: data, version, records and index entry of these chunks. A hole has nothing to
    /// sync; a damaged copy is an error.
    pub fn sync(&self, keys: &[ChunkKey]) -> Result<()> {
        let _open = self.usable()?;
        self.sync_keys(keys, false)
    }

    /// Onto disk: these chunks as `sync` does it, and whatever else of the inode is dirty in the
    /// group, except copies known to be damaged.
    pub fn sync_inode(&self, inode: InodeId, group: GroupId, keys: &[ChunkKey]) -> Result<()> {
        let _open = self.usable()?;
        self.sync_keys(keys, false)?;
        let rest = self.catalog().dirty_of(group, inode);
        match rest.is_empty() {
            true => Ok(()),
            false => self.sync_keys(&rest, true),
        }
    }

    /// Onto disk: everything of a group, except copies known to be damaged.
    pub fn sync_group(&self, group: GroupId) -> Result<()> {
        let _open = self.usable()?;
        let dirty = self.catalog().dirty(Some(group));
        self.write_out(dirty.len())?;
        self.sync_keys(&dirty, true)
    }

    /// Has the file system write everything out, if that is `many` files or dirs: one commit of
    /// its journal instead of one for each, which would hold up whoever else syncs on this disk.
    /// The names that appeared or went are on disk then. The sync of each file still follows: it
    /// finds little to do, and tells of data that the disk refused.
    fn write_out(&self, many: usize) -> Result<()> {
        if many < TOGETHER_MIN || cfg!(not(target_os = "linux")) {
            return Ok(());
        }
        let noted: Vec<u64> = self.fans.iter().map(Fan::present).collect();
        #[cfg(target_os = "linux")]
        File::open(&self.data)
            .and_then(|dir| Ok(rustix::fs::syncfs(&dir)?))
            .map_err(|e| self.disk.failed_doing("sync", &self.data, e))?;
        for (fan, noted) in self.fans.iter().zip(noted) {
            fan.synced_up_to(noted);
        }
        Ok(())
    }

    /// Onto disk: what was changed longer ago than `age`, at most `chunks_max` chunks; says how
    /// many. To be called every few seconds: it bounds what an unclean stop makes the next
    /// start check.
    pub fn sync_aged(&self, age: Duration, chunks_max: usize) -> Result<usize> {
        let _open = self.usable()?;
        let now = Instant::now();
        let mut done = 0;
        if let Some(before) = now.checked_sub(age) {
            let dirty = self.catalog().dirty_since(before, chunks_max);
            self.write_out(dirty.len())?;
            self.sync_keys(&dirty, true)?;
            done = dirty.len();
        }
        if let Some(before) = now.checked_sub(age * MARK_AGES) {
            let marked = self.catalog().marked_since(before, chunks_max);
            self.clear_marks(&marked)?;
        }
        self.settle_removals()?;
        Ok(done)
    }

    /// For the orderly stop: afterwards the index says it all.
    pub(super) fn clear_marks_and_sync_all(&self) -> Result<()> {
        let dirty = self.catalog().dirty(None);
        self.write_out(dirty.len())?;
        self.sync_keys(&dirty, true)?;
        let marked = self.catalog().marked();
        self.clear_marks(&marked)?;
        let ticket = {
            let rows = self.catalog().stale_rows();
            let puts = rows.into_iter().map(|(key, row)| Change::Put(key, row));
            self.index.enqueue(puts.collect())
        };
        self.wait(ticket)
    }

    /// With `skip_damaged` a copy that turns out to be damaged is no error.
    fn sync_keys(&self, keys: &[ChunkKey], skip_damaged: bool) -> Result<()> {
        let mut rows = Vec::with_capacity(keys.len());
        for key in keys {
            match self.sync_file(*key) {
                Ok(Some((birth, row))) => rows.push((*key, birth, row)),
                Ok(None) => {}
                Err(StoreError::Rotten { .. }) if skip_damaged => {}
                Err(e) => return Err(e),
            }
        }
        let fans: BTreeSet<usize> = rows.iter().map(|(key, ..)| file::fan_of(*key)).collect();
        self.sync_fans(fans.into_iter())?;
        self.disk.reach(Step::FilesSynced)?;
        let ticket = {
            let catalog = self.catalog();
            // A chunk that was removed meanwhile must not come back into the index.
            rows.retain(|(key, birth, _)| {
                catalog.get(*key).is_some_and(|entry| entry.birth == *birth)
            });
            let is_new = |key: ChunkKey| catalog.get(key).is_some_and(|entry| !entry.indexed);
            if rows.iter().any(|(key, ..)| is_new(*key)) {
                let puts = rows
                    .iter()
                    .map(|(key, _, row)| Change::Put(*key, row.clone()));
                Some(self.index.enqueue(puts.collect()))
            } else {
                None
            }
        };
        let committed = ticket.is_some();
        if let Some(ticket) = ticket {
            self.wait(ticket)?;
        }
        let dated = {
            let mut catalog = self.catalog();
            for (key, birth, row) in &rows {
                catalog.set_synced(*key, *birth, row, committed);
            }
            catalog.dated_rows()
        };
        if dated > DATED_ROWS_MAX {
            self.write_dated_rows()?;
        }
        Ok(())
    }

    /// The chunk's file onto disk; the state that is on disk then.
    fn sync_file(&self, key: ChunkKey) -> Result<Option<(u64, Row)>> {
        if !self.catalog().is_dirty(key) {
            return match self.damage(key) {
                Some(damage) => Err(StoreError::rotten(key, damage)),
                None => Ok(self.row(key)),
            };
        }
        let synced = self.with_live(key, |live| {
            live.sync(&self.disk)?;
            // Still under the chunk's lock: this is the state that was synced.
            Ok(self.row(key))
        })?;
        if let Some(mut live) = self.handle(key).try_write()
            && let Some(live) = live.as_mut()
        {
            live.note_synced(&self.disk)?;
        }
        Ok(synced.flatten())
    }

    fn row(&self, key: ChunkKey) -> Option<(u64, Row)> {
        let catalog = self.catalog();
        let entry = catalog.get(key)?;
        Some((entry.birth, entry.row.clone()))
    }

    /// Names that appeared or went onto disk, also when those are very many.
    pub(super) fn sync_many_fans(&self, fans: &BTreeSet<usize>) -> Result<()> {
        let changed = fans.iter().filter(|fan| self.fans[**fan].is_changed());
        self.write_out(changed.count())?;
        self.sync_fans(fans.iter().copied())
    }

    /// Names that appeared or went onto disk.
    pub(super) fn sync_fans(&self, fans: impl Iterator<Item = usize>) -> Result<()> {
        for fan in fans {
            let fan = &self.fans[fan];
            fan.sync()
                .map_err(|e| self.disk.failed_doing("sync", &fan.path, e))?;
        }
        Ok(())
    }

    /// Brings rows up to date that only an orderly stop needs: in portions, so that the stop
    /// does not have them all to write.
    fn write_dated_rows(&self) -> Result<()> {
        let (ticket, rows) = {
            let catalog = self.catalog();
            let rows = catalog.take_dated(DATED_ROWS_MAX);
            let puts = rows
                .iter()
                .map(|(key, _, row)| Change::Put(*key, row.clone()));
            (self.index.enqueue(puts.collect()), rows)
        };
        self.wait(ticket)?;
        let mut catalog = self.catalog();
        for (key, birth, row) in &rows {
            catalog.set_synced(*key, *birth, row, true);
        }
        Ok(())
    }

    fn clear_marks(&self, keys: &[ChunkKey]) -> Result<()> {
        for key in keys {
            if self.damage(*key).is_some() {
                self.catalog().set_marked(*key, None);
                continue;
            }
            let handle = self.handle(*key);
            let mut live = handle.write();
            match self.load(*key, &mut live) {
                Ok(_) => {}
                // Found to be damaged just now: no mark of ours matters any more.
                Err(StoreError::Rotten { .. }) => continue,
                Err(e) => return Err(e),
            }
            let cleared = match live.as_mut() {
                Some(live) => live.clear_mark(&self.disk)?,
                None => true,
            };
            if cleared {
                self.catalog().set_marked(*key, None);
            }
        }
        Ok(())
    }
}
