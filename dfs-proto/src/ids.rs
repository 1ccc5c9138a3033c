//! Typed identifiers: a number of one kind is never taken for a number of another.
//!
//! All are plain integers on the wire and in stored records. `Display` adds a prefix, so that a
//! log line says what the number is (`ino:42`, `server:3`).

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, ":{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                u128::from_str_radix(text.trim(), 16).map(Self)
            }
        }
    };
}

id!(
    /// A file, dir, symlink or special file. Never reused; `1` is the root dir.
    InodeId(u64), "ino"
);
id!(
    /// Position of a chunk in its file: byte offset / chunk size.
    ChunkIndex(u64), "chunk"
);
id!(
    /// A replica group, `0..groups`.
    GroupId(u32), "group"
);
id!(
    /// A file server, assigned by the directory at its first registration; `1` and up.
    ServerId(u32), "server"
);
id!(
    /// A member of the directory service, `1` and up.
    MemberId(u64), "directory"
);
id!(
    /// The registered life of one mount; assigned by the directory, never reused.
    SessionId(u64), "session"
);
id!(
    /// One run of one process: random, drawn at its start.
    Incarnation(u64), "run"
);
id!(
    /// Version of a replica group's membership; only rises. `0` is before the first.
    Epoch(u64), "epoch"
);
id!(
    /// Generation of an inode's data, raised by every cut (truncate, punch, free).
    Generation(u64), "gen"
);
id!(
    /// Number of a mutating request within its session; `1` and up, never reused.
    Sequence(u64), "seq"
);
id!(
    /// One grant of a lease; a later grant on the same inode has a higher id.
    GrantId(u64), "grant"
);
id!(
    /// The kernel's opaque lock owner, meaningful within its session only.
    LockOwner(u64), "owner"
);
id!(
    /// Version of the whole cluster map: rises whenever a group's effective epoch changes.
    MapVersion(u64), "map"
);
id!(
    /// Number of a request within its connection and direction.
    RequestId(u64), "req"
);
id128!(
    /// Identity of a cluster, drawn when it is formatted. Binds data dirs and connections to it.
    ClusterId
);
id128!(
    /// Identity of a node (its data dir, or for a mount its process), drawn once.
    NodeId
);

/// The root dir of every cluster.
pub const ROOT: InodeId = InodeId(1);

impl Epoch {
    /// The epoch after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Generation {
    /// The generation of an inode that is gone: every request for it is refused.
    pub const FREED: Self = Self(u64::MAX);

    /// The generation after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A chunk of a file.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct ChunkKey {
    pub inode: InodeId,
    pub index: ChunkIndex,
}

impl fmt::Display for ChunkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.inode, self.index)
    }
}

/// Version of a chunk's content: assigned by the primary, compared as a whole.
///
/// The counter is counted per group and epoch, so no two writes of a group share a version.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Version {
    pub epoch: Epoch,
    pub counter: u64,
}

impl Version {
    /// The version of a chunk that was never written (a hole).
    pub const HOLE: Self = Self {
        epoch: Epoch(0),
        counter: 0,
    };
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}.{}", self.epoch.0, self.counter)
    }
}

/// One run of one file server: what an epoch names.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct ServerRun {
    pub server: ServerId,
    pub incarnation: Incarnation,
}

impl fmt::Display for ServerRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({:016x})", self.server, self.incarnation.0)
    }
}
