//! Steady loads of the failover table: each mount's threads make one call after the other, and
//! what is read is compared.

use super::Result;
use super::calls::{Call, Calls};
use super::content::{self, Model};
use crate::random::Random;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The files: 16 chunks each, so that every server leads some of their groups.
const FILE_BYTES: u64 = 64 << 20;
const WRITE_BYTES: u64 = 256 << 10;
const READ_BYTES: u64 = 64 << 10;

/// Between two calls of a thread.
const PAUSE: Duration = Duration::from_millis(4);

/// Calls between two syncs of the mixed load.
const SYNC_EVERY: u64 = 8;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Load {
    SequentialWrite,
    RandomRead,
    Mixed,
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SequentialWrite => "sequential write",
            Self::RandomRead => "random read",
            Self::Mixed => "mixed, with fsync",
        })
    }
}

/// A thread's file: written whole before the load begins.
pub(super) struct Loader<'a> {
    calls: &'a Calls,
    load: Load,
    random: Random,
    file: File,
    path: PathBuf,
    model: Model,
    at: u64,
    tag: u32,
}

impl<'a> Loader<'a> {
    pub(super) fn new(calls: &'a Calls, load: Load, seed: u64, path: &Path) -> Result<Self> {
        let failed = |e: std::io::Error| format!("{}: {e}", path.display());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let file = options.open(path).map_err(failed)?;
        let mut model = Model::default();
        for offset in (0..FILE_BYTES).step_by(1 << 20) {
            let bytes = content::bytes(1, offset, 1 << 20);
            file.write_all_at(&bytes, offset).map_err(failed)?;
            model.write(offset, &bytes);
        }
        file.sync_all().map_err(failed)?;
        Ok(Self {
            calls,
            load,
            random: Random::new(seed),
            file,
            path: path.to_owned(),
            model,
            at: 0,
            tag: 1,
        })
    }

    /// Works until all stop.
    pub(super) fn run(mut self) {
        let mut number = 0u64;
        while !self.calls.stopping() {
            number += 1;
            let step = match self.load {
                Load::SequentialWrite => self.write(),
                Load::RandomRead => self.read(),
                Load::Mixed if number.is_multiple_of(SYNC_EVERY) => self.sync(),
                Load::Mixed if number.is_multiple_of(2) => self.read(),
                Load::Mixed => self.write(),
            };
            if let Err(e) = step {
                return self.calls.fail(e);
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn what(&self) -> String {
        self.path.display().to_string()
    }

    fn write(&mut self) -> Result<()> {
        self.tag += 1;
        let bytes = content::bytes(self.tag, self.at, WRITE_BYTES as usize);
        let (file, at) = (&self.file, self.at);
        self.calls
            .make(Call::Write, &self.what(), || file.write_all_at(&bytes, at))?;
        self.model.write(at, &bytes);
        // Every fourth block, round and round: all groups of the file come soon.
        self.at = (self.at + 4 * WRITE_BYTES) % FILE_BYTES;
        if self.at < 4 * WRITE_BYTES {
            self.at = (self.at + WRITE_BYTES) % (4 * WRITE_BYTES);
        }
        Ok(())
    }

    fn read(&mut self) -> Result<()> {
        let at = self.random.below(FILE_BYTES / READ_BYTES) * READ_BYTES;
        let mut seen = vec![0; READ_BYTES as usize];
        let file = &self.file;
        // Open for writing, so it is direct: each read goes to a server.
        self.calls.make(Call::Read, &self.what(), || {
            file.read_exact_at(&mut seen, at)
        })?;
        let checked = self.model.check(at, seen.len(), &seen);
        checked.map_err(|e| format!("{}: {e}", self.what()))
    }

    fn sync(&self) -> Result<()> {
        self.calls
            .make(Call::Sync, &self.what(), || self.file.sync_all())
    }
}
