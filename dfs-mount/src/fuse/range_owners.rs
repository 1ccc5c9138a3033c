//! Who has set byte-range locks through which open file description.
//!
//! A POSIX lock belongs to a process and goes when the process closes any descriptor of the file:
//! the kernel then sends FLUSH with that owner. An OFD lock (`F_OFD_SETLK`) belongs to the open file
//! description and goes with its last close; but the kernel names an owner in RELEASE only for a
//! `flock(2)`. What tells them apart is the FLUSH: every process has flushed a description before its
//! RELEASE, so an owner who locked through it and never flushed it is the description itself. The
//! same holds for a flock whose caller could not be looked at and which went to the ranges therefore.

use dfs_proto::ids::LockOwner;
use dfs_proto::lock::LockSpace;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

type Files = BTreeMap<u64, BTreeMap<LockOwner, LockSpace>>;

/// By the number of the open file. An entry lives no longer than the open file.
#[derive(Debug, Default)]
pub(super) struct RangeOwners(Mutex<Files>);

impl RangeOwners {
    fn lock(&self) -> MutexGuard<'_, Files> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `owner` asks for a lock of a byte range through the open file. Said before it is asked for:
    /// a lock whose answer is lost has to go too.
    pub(super) fn asks(&self, file: u64, owner: LockOwner, space: LockSpace) {
        self.lock().entry(file).or_default().insert(owner, space);
    }

    /// What kind of byte-range locks the owner asks for through the open file, if it did before:
    /// processes and open file descriptions never have the same number.
    pub(super) fn space(&self, file: u64, owner: LockOwner) -> Option<LockSpace> {
        self.lock().get(&file)?.get(&owner).copied()
    }

    /// `owner` is a process, and closes a descriptor of the open file.
    pub(super) fn flushed(&self, file: u64, owner: LockOwner) {
        let mut files = self.lock();
        if let Some(owners) = files.get_mut(&file) {
            owners.remove(&owner);
            if owners.is_empty() {
                files.remove(&file);
            }
        }
    }

    /// The last close: the owners whose locks go with it.
    pub(super) fn released(&self, file: u64) -> BTreeMap<LockOwner, LockSpace> {
        self.lock().remove(&file).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use LockSpace::{OpenFile, Posix};

    const PROCESS: LockOwner = LockOwner(11);
    const CHILD: LockOwner = LockOwner(12);
    const DESCRIPTION: LockOwner = LockOwner(90);

    #[test]
    fn what_no_process_flushed_goes_with_the_last_close() {
        let owners = RangeOwners::default();
        owners.asks(1, PROCESS, Posix);
        owners.asks(1, DESCRIPTION, OpenFile);
        owners.asks(1, CHILD, Posix);
        owners.asks(2, PROCESS, Posix);
        assert_eq!(owners.space(1, DESCRIPTION), Some(OpenFile));
        assert_eq!(owners.space(2, DESCRIPTION), None);
        // A child that inherited the descriptor closes its copy first.
        owners.flushed(1, CHILD);
        owners.flushed(1, PROCESS);
        assert_eq!(
            owners.released(1),
            BTreeMap::from([(DESCRIPTION, OpenFile)])
        );
        assert!(owners.released(1).is_empty());
    }

    #[test]
    fn a_process_that_locks_anew_through_another_file_keeps_its_lock() {
        let owners = RangeOwners::default();
        owners.asks(1, PROCESS, Posix);
        owners.flushed(1, PROCESS);
        // Opened again and locked before the late RELEASE of the first one.
        owners.asks(2, PROCESS, Posix);
        assert!(owners.released(1).is_empty());
        owners.flushed(2, PROCESS);
        assert!(owners.released(2).is_empty());
        assert!(owners.lock().is_empty());
    }

    #[test]
    fn a_caller_that_could_not_be_looked_at_loses_its_flock_with_the_last_close() {
        let owners = RangeOwners::default();
        owners.asks(1, DESCRIPTION, Posix);
        owners.flushed(1, PROCESS);
        assert_eq!(owners.released(1), BTreeMap::from([(DESCRIPTION, Posix)]));
    }
}
