//! Crashes on demand, for tests only.

use super::disk::Step;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Where to interrupt, and where to keep what was synced.
#[derive(Debug, Default)]
pub(super) struct Faults {
    planned: Mutex<Option<(Step, u32)>>,
    shadow: Mutex<Option<PathBuf>>,
    unreadable: AtomicBool,
    sync_takes: Mutex<Duration>,
    kills: AtomicBool,
}

impl Faults {
    /// Interrupts at the given step, when it is reached for the n-th time (0: the next time).
    pub(super) fn plan(&self, step: Step, after: u32) {
        *self.planned.lock().expect("not poisoned") = Some((step, after));
    }

    /// An interruption is a kill of the process and not a failure of the disk: whoever dies tells
    /// its witness nothing.
    pub(super) fn kill(&self) {
        self.kills.store(true, Ordering::Relaxed);
    }

    pub(super) fn are_kills(&self) -> bool {
        self.kills.load(Ordering::Relaxed)
    }

    /// Each sync takes so much longer.
    pub(super) fn slow_syncs(&self, takes: Duration) {
        *self.sync_takes.lock().expect("not poisoned") = takes;
    }

    /// Keeps a copy of each chunk file as of its last sync in this dir: what a power cut is
    /// sure to leave.
    pub(super) fn keep_synced(&self, dir: &Path) {
        *self.shadow.lock().expect("not poisoned") = Some(dir.to_owned());
    }

    /// From now on no block can be read, or again all.
    pub(super) fn unreadable(&self, unreadable: bool) {
        self.unreadable.store(unreadable, Ordering::Relaxed);
    }

    pub(super) fn reading(&self) -> std::io::Result<()> {
        match self.unreadable.load(Ordering::Relaxed) {
            // EIO
            true => Err(std::io::Error::from_raw_os_error(5)),
            false => Ok(()),
        }
    }

    pub(super) fn strikes(&self, step: Step) -> bool {
        let mut planned = self.planned.lock().expect("not poisoned");
        match planned.as_mut() {
            Some((at, 0)) if *at == step => {
                *planned = None;
                true
            }
            Some((at, left)) if *at == step => {
                *left -= 1;
                false
            }
            _ => false,
        }
    }

    pub(super) fn synced(&self, path: &Path) {
        let takes = *self.sync_takes.lock().expect("not poisoned");
        std::thread::sleep(takes);
        if let Some(dir) = &*self.shadow.lock().expect("not poisoned")
            && let Some(name) = path.file_name()
        {
            std::fs::copy(path, dir.join(name)).expect("copies what was synced");
        }
    }
}
