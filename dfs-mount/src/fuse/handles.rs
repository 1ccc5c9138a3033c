//! Open files and dirs of this mount by the number that the kernel knows them under.

use super::listing::Listing;
use crate::client::Handle;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a number stands for.
#[derive(Clone, Debug)]
pub(super) enum Opened {
    File(Handle),
    Dir(Arc<tokio::sync::Mutex<Listing>>),
}

/// The open files and dirs. The kernel bounds them: one for each open file description.
#[derive(Debug, Default)]
pub(super) struct Handles {
    opened: Mutex<BTreeMap<u64, Opened>>,
    last: AtomicU64,
}

impl Handles {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Opened>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes it in and returns its number, never used before.
    pub(super) fn insert(&self, opened: Opened) -> u64 {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.lock().insert(number, opened);
        number
    }

    pub(super) fn file(&self, number: u64) -> Option<Handle> {
        match self.lock().get(&number) {
            Some(Opened::File(handle)) => Some(handle.clone()),
            _ => None,
        }
    }

    pub(super) fn dir(&self, number: u64) -> Option<Arc<tokio::sync::Mutex<Listing>>> {
        match self.lock().get(&number) {
            Some(Opened::Dir(listing)) => Some(listing.clone()),
            _ => None,
        }
    }

    pub(super) fn remove(&self, number: u64) -> Option<Opened> {
        self.lock().remove(&number)
    }
}
