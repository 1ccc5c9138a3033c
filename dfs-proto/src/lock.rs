//! Locks as they travel. Those of `flock(2)` and those of `fcntl(2)` never conflict with each other,
//! as on a local Linux file system.

use crate::ids::{LockOwner, SessionId};
use serde::{Deserialize, Serialize};

/// What kind of lock it is: whom it belongs to and what it excludes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum LockSpace {
    /// `flock(2)`: of the whole file; belongs to the open file description.
    Flock,
    /// `fcntl(2)`, F_SETLK: a byte range; belongs to the process, whose next close of the file
    /// ends it. Waits that would close a circle of these are refused.
    Posix,
    /// `fcntl(2)`, F_OFD_SETLK: a byte range; belongs to the open file description. Excludes what
    /// a `Posix` lock excludes.
    OpenFile,
}

impl LockSpace {
    /// Whether it locks byte ranges. Only locks that agree in this exclude each other.
    pub fn is_ranges(self) -> bool {
        match self {
            Self::Flock => false,
            Self::Posix | Self::OpenFile => true,
        }
    }

    /// Whether a lock goes with the last close of an open file description, for which the kernel
    /// does not wait: it may look held when it is not any more.
    pub fn is_of_open_file(self) -> bool {
        match self {
            Self::Flock | Self::OpenFile => true,
            Self::Posix => false,
        }
    }
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
