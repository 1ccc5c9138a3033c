//! Locks as they travel: two separate spaces, as on a local Linux file system.

use crate::ids::{LockOwner, SessionId};
use serde::{Deserialize, Serialize};

/// Which of the two spaces a lock lives in; they never conflict with each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum LockSpace {
    /// `flock(2)`: whole file, owner is the open file description.
    Flock,
    /// `fcntl(2)`: byte ranges. POSIX locks belong to a process, OFD locks to an open file
    /// description; both are in this space.
    Posix,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum LockKind {
    Shared,
    Exclusive,
}

/// Bytes `start..=last`; a whole file is `0..=u64::MAX`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct LockRange {
    pub start: u64,
    /// The last byte, inclusive. Never below `start`: checked where a range comes from outside.
    pub last: u64,
}

impl LockRange {
    pub const WHOLE: Self = Self {
        start: 0,
        last: u64::MAX,
    };

    pub fn overlaps(&self, other: &Self) -> bool {
        self.start <= other.last && other.start <= self.last
    }
}

/// Who holds or wants a lock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct LockHolder {
    pub session: SessionId,
    pub owner: LockOwner,
}

/// A lock that is held.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct HeldLock {
    pub space: LockSpace,
    pub holder: LockHolder,
    pub kind: LockKind,
    pub range: LockRange,
    /// Process id on the holder's host, for `F_GETLK` there and for `dfsctl locks`.
    pub pid: u32,
}
