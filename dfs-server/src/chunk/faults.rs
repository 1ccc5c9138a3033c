//! Crashes on demand, for tests only.

use super::disk::Step;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Where to interrupt, and where to keep what was synced.
#[derive(Debug, Default)]
pub(super) struct Faults {
    planned: Mutex<Option<(Step, u32)>>,
    shadow: Mutex<Option<PathBuf>>,
}

impl Faults {
    /// Interrupts at the given step, when it is reached for the n-th time (0: the next time).
    pub(super) fn plan(&self, step: Step, after: u32) {
        *self.planned.lock().expect("not poisoned") = Some((step, after));
    }

    /// Keeps a copy of each chunk file as of its last sync in this dir: what a power cut is
    /// sure to leave.
    pub(super) fn keep_synced(&self, dir: &Path) {
        *self.shadow.lock().expect("not poisoned") = Some(dir.to_owned());
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
        if let Some(dir) = &*self.shadow.lock().expect("not poisoned")
            && let Some(name) = path.file_name()
        {
            std::fs::copy(path, dir.join(name)).expect("copies what was synced");
        }
    }
}
