//! What all operations of a store share: the way to the disk, and whether it can still be
//! trusted.
//!
//! In tests this is also the seam at which an operation is interrupted between two steps.

use super::behind::WriteBehind;
use super::error::{Result, StoreError};
use super::file::{ChunkFile, DirectIo};
use super::witness::Witness;
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The steps between which a crash is simulated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// A file was created, nothing is in it.
    Created,
    /// The mark is durable, the write has not begun.
    Marked,
    /// The new slot is written, the data are not.
    SlotWritten,
    /// The first half of the data is written.
    #[cfg(test)]
    HalfWritten,
    /// Slot and data are written.
    Written,
    /// A file is about to be synced: here the disk says no.
    Syncing,
    /// The image is complete and synced, under its temporary name.
    ImageSynced,
    /// The boundary chunk is shortened and synced, the floor is not durable.
    BoundaryCut,
    /// The rows are gone, the files are not.
    RowsRemoved,
    /// Files and dirs are synced, the index is not.
    FilesSynced,
}

/// So many reads that fail within that time are not some bad sectors any more: the disk has
/// failed. (A copy that cannot be read is replaced, and its file not read again.)
const READ_FAILURES_MAX: usize = 8;
const READ_FAILURES_WITHIN: Duration = Duration::from_secs(60);

/// How much work the callers' syncs were.
#[derive(Debug, Default)]
pub(super) struct SyncCounts {
    /// Chunks that somebody wanted on disk while they were not.
    pub(super) asked: AtomicU64,
    /// Passes of the disk: one serves all who ask for a chunk at the same time.
    pub(super) passes: AtomicU64,
}

/// The disk under a store.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) direct: DirectIo,
    pub(super) behind: WriteBehind,
    failed: OnceLock<String>,
    /// When reads failed.
    unread: Mutex<VecDeque<Instant>>,
    pub(super) counts: SyncCounts,
    /// Says nothing once the disk has failed.
    pub(super) witness: Arc<Witness>,
    #[cfg(test)]
    pub(super) faults: super::faults::Faults,
}

impl Disk {
    pub(super) fn new(witness: Arc<Witness>) -> Self {
        Self {
            direct: DirectIo::allowed(),
            behind: WriteBehind::new(),
            failed: OnceLock::new(),
            unread: Mutex::default(),
            counts: SyncCounts::default(),
            witness,
            #[cfg(test)]
            faults: super::faults::Faults::default(),
        }
    }

    /// Stops the store for good: what the disk was asked to keep may be lost, and asking again
    /// could get a success that means nothing.
    pub(super) fn fail(&self, error: StoreError) -> StoreError {
        if !self.is_killed() {
            self.witness.end();
        }
        if let StoreError::Failed(text) = &error
            && self.failed.set(text.clone()).is_ok()
        {
            log::error!("the chunk store stops: {text}; check the disk, then restart the server");
        }
        error
    }

    /// A read failed. One makes its chunk rotten, many stop the store.
    pub(super) fn could_not_read(&self, path: &Path, error: &io::Error) {
        log::error!("read {}: {error}", path.display());
        let now = Instant::now();
        let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        unread.push_back(now);
        while let Some(first) = unread.front()
            && now.duration_since(*first) > READ_FAILURES_WITHIN
        {
            unread.pop_front();
        }
        let count = unread.len();
        drop(unread);
        if count >= READ_FAILURES_MAX {
            self.fail(StoreError::Failed(format!(
                "{count} reads failed within {} s, the last one of {}: {error}",
                READ_FAILURES_WITHIN.as_secs(),
                path.display()
            )));
        }
    }

    pub(super) fn failed_doing(&self, doing: &str, path: &Path, error: io::Error) -> StoreError {
        self.fail(StoreError::disk(doing, path, error))
    }

    pub(super) fn failure(&self) -> Option<&String> {
        self.failed.get()
    }

    pub(super) fn check(&self) -> Result<()> {
        match self.failed.get() {
            None => Ok(()),
            Some(text) => Err(StoreError::Failed(text.clone())),
        }
    }

    /// Everything written to the file onto disk. A failure stops the store.
    pub(super) fn sync(&self, file: &ChunkFile) -> Result<()> {
        self.check()?;
        self.reach(Step::Syncing)?;
        self.counts.passes.fetch_add(1, Ordering::Relaxed);
        file.sync()
            .and_then(|()| self.behind.check())
            .map_err(|e| self.failed_doing("sync", file.path(), e))?;
        #[cfg(test)]
        self.faults.synced(file.path());
        Ok(())
    }

    /// Blocks are about to be read: here a test's disk says no.
    #[cfg(not(test))]
    pub(super) fn reading(&self) -> io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn reading(&self) -> io::Result<()> {
        self.faults.reading()
    }

    #[cfg(not(test))]
    fn is_killed(&self) -> bool {
        false
    }

    #[cfg(test)]
    fn is_killed(&self) -> bool {
        self.faults.are_kills()
    }

    /// A step of an operation is done.
    #[cfg(not(test))]
    pub(super) fn reach(&self, _step: Step) -> Result<()> {
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn reach(&self, step: Step) -> Result<()> {
        if self.faults.strikes(step) {
            return Err(self.fail(StoreError::Failed(format!("interrupted at {step:?}"))));
        }
        Ok(())
    }
}
