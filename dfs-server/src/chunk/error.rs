//! What the chunk store answers when it cannot do what was asked.
//!
//! Owned by the store. Translated into the protocol's errors in one place, here; logged by
//! whoever handles the request.

use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::{ChunkKey, Generation, Version};
use std::fmt;
use std::io;
use std::path::Path;

/// What is wrong with a copy of a chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Damage {
    /// The index names the chunk, its file is gone.
    Missing,
    /// No slot of the file's header is valid, or none is the one that the index names.
    Header,
    /// A block differs from its checksum.
    Block(u32),
    /// An overwrite that was not synced was interrupted: some blocks are old, some new. Told
    /// from rot because a durable mark says that the overwrite had begun.
    Torn,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "its file is missing"),
            Self::Header => write!(f, "its header is damaged"),
            Self::Block(block) => write!(f, "block {block} differs from its checksum"),
            Self::Torn => write!(f, "an overwrite was interrupted by a crash"),
        }
    }
}

/// Why the store refused or failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreError {
    /// This copy cannot be read: another replica has to serve, and to repair it.
    Rotten { key: ChunkKey, damage: Damage },
    /// The inode's data of that generation were cut; nothing was applied.
    StaleGeneration {
        key: ChunkKey,
        asked: Generation,
        present: Generation,
    },
    /// The chunk holds this version or a later one; nothing was applied.
    StaleVersion {
        key: ChunkKey,
        asked: Version,
        present: Version,
    },
    /// The bytes differ from the checksums that came with them; nothing was applied.
    PayloadDamaged { key: ChunkKey },
    /// A write would take the disk below its reserve; nothing was applied.
    NoSpace { available: u64, reserve: u64 },
    /// A request that no correct caller makes: out of the chunk, parts out of order.
    Invalid(String),
    /// The data dir must not be used by this process; the text says why and what to do.
    Refused(String),
    /// The disk failed, now or earlier: what it was asked to keep may be lost. The store
    /// accepts nothing any more.
    Failed(String),
}

impl StoreError {
    /// A failure of the disk with its context.
    pub(crate) fn disk(doing: &str, path: &Path, error: io::Error) -> Self {
        Self::Failed(format!("{doing} {}: {error}", path.display()))
    }

    pub(crate) fn rotten(key: ChunkKey, damage: Damage) -> Self {
        Self::Rotten { key, damage }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rotten { key, damage } => write!(f, "{key} is damaged here: {damage}"),
            Self::StaleGeneration {
                key,
                asked,
                present,
            } => write!(
                f,
                "{key} was cut: {asked} was asked for, {present} is present"
            ),
            Self::StaleVersion {
                key,
                asked,
                present,
            } => write!(f, "{key} is at {present}, not before {asked}"),
            Self::PayloadDamaged { key } => {
                write!(f, "data for {key} differ from the checksums sent with them")
            }
            Self::NoSpace { available, reserve } => write!(
                f,
                "the disk has {available} bytes left and keeps {reserve} in reserve"
            ),
            Self::Invalid(text) | Self::Refused(text) => f.write_str(text),
            Self::Failed(text) => write!(f, "the store failed: {text}"),
        }
    }
}

impl std::error::Error for StoreError {}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let (code, detail) = match &error {
            StoreError::Rotten { .. } => (ErrorCode::Rotten, 0),
            StoreError::StaleGeneration { present, .. } => (ErrorCode::StaleGeneration, present.0),
            StoreError::StaleVersion { .. } => (ErrorCode::WrongPredecessor, 0),
            StoreError::PayloadDamaged { .. } => (ErrorCode::PayloadDamaged, 0),
            StoreError::NoSpace { .. } => (ErrorCode::NoSpace, 0),
            StoreError::Invalid(_) => (ErrorCode::InvalidArgument, 0),
            StoreError::Refused(_) => (ErrorCode::Internal, 0),
            StoreError::Failed(_) => (ErrorCode::DiskFailed, 0),
        };
        Error::new(code, error.to_string()).with_detail(detail)
    }
}

/// Result of every operation of the store.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;
