//! A worker that shares a file with those of the other mount, under flock: whoever holds the lock
//! finds exactly what the last holder left, and leaves something else.

use super::Result;
use super::calls::{Call, Calls};
use super::content;
use crate::random::Random;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const PAUSE: Duration = Duration::from_millis(10);

/// What the last holder of a file's lock wrote: all workers are threads of one process, so it is
/// known whose turn has been acknowledged, whatever the file system says.
#[derive(Debug, Default)]
pub(super) struct LastTurn(AtomicU32);

/// A worker on one mount.
#[derive(Debug)]
pub(super) struct Sharer<'a> {
    pub(super) calls: &'a Calls,
    pub(super) random: Random,
    pub(super) path: PathBuf,
    pub(super) last: &'a LastTurn,
}

/// Bytes of a turn; they differ, so that each turn cuts or grows the file.
fn len_of(turn: u32) -> usize {
    match turn {
        0 => 0,
        turn => 100 + (turn as usize).wrapping_mul(7919) % 40_000,
    }
}

impl Sharer<'_> {
    /// Works until all stop.
    pub(super) fn run(mut self) {
        while !self.calls.stopping() {
            if let Err(e) = self.turn() {
                return self.calls.fail(e);
            }
            std::thread::sleep(PAUSE);
        }
        if self.calls.check().is_err() {
            return;
        }
        if let Err(e) = self.turn() {
            self.calls.fail(e);
        }
    }

    fn turn(&mut self) -> Result<()> {
        let what = self.path.display().to_string();
        let file = self.calls.make(Call::Open, &what, || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            options.open(&self.path)
        })?;
        self.calls.make(Call::Lock, &what, || file.lock())?;
        let turn = self.last.0.load(Ordering::SeqCst);
        self.check(&file, turn, &what)?;
        let next = turn + 1;
        let bytes = content::bytes(next, 0, len_of(next));
        self.calls
            .make(Call::Write, &what, || file.write_all_at(&bytes, 0))?;
        if bytes.len() < len_of(turn) {
            self.calls
                .make(Call::Truncate, &what, || file.set_len(bytes.len() as u64))?;
        }
        if self.random.chance(200) {
            self.calls.make(Call::Sync, &what, || file.sync_data())?;
        }
        self.last.0.store(next, Ordering::SeqCst);
        self.calls.make(Call::Lock, &what, || file.unlock())
    }

    fn check(&self, file: &File, turn: u32, what: &str) -> Result<()> {
        let expected = content::bytes(turn, 0, len_of(turn));
        let mut seen = vec![0; expected.len() + 1];
        let mut done = 0;
        self.calls.make(Call::Read, what, || {
            while done < seen.len() {
                match file.read_at(&mut seen[done..], done as u64)? {
                    0 => break,
                    n => done += n,
                }
            }
            Ok(())
        })?;
        if seen[..done] == expected {
            return Ok(());
        }
        let same = seen.iter().zip(&expected).take_while(|(a, b)| a == b);
        let same = same.count();
        let size = file.metadata().map(|m| m.len());
        let mut rest = vec![0; 80_000];
        let len = file.read_at(&mut rest, 0).unwrap_or(0);
        Err(format!(
            "{what}: under the lock, turn {turn} left {} bytes; {size:?} are there, {} after \
             those {} were as left, then {}",
            expected.len(),
            len - same.min(len),
            same,
            content::describe(&rest[..len], same.min(len.saturating_sub(1))),
        ))
    }
}
