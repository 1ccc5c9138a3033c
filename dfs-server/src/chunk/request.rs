//! What the store is asked and what it answers: plain data, no behaviour.

use super::error::Damage;
use dfs_proto::ids::{
    ChunkKey, ClusterId, Generation, GroupId, NodeId, Sequence, SessionId, Version,
};
use dfs_proto::msg::peer::WriteRecord;
use std::path::PathBuf;

/// How to open a data dir.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Refuse the dir if it belongs to another cluster; `None`: any, or not bound yet.
    pub cluster: Option<ClusterId>,
    /// Bytes kept free on the disk: no write takes new space below it. `None`: 5 % of the
    /// disk or 1 GiB, whichever is smaller.
    pub reserve: Option<u64>,
    /// Chunk files kept open.
    pub open_files_max: usize,
    /// Use the dir although it was copied; the original must be gone for good.
    pub accept_copy: bool,
    /// Dir in memory (tmpfs) for what tells a process that was killed from a machine that was:
    /// see `ChunkStore::watch`.
    pub witness_dir: Option<PathBuf>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            cluster: None,
            reserve: None,
            open_files_max: 1024,
            accept_copy: false,
            witness_dir: None,
        }
    }
}

/// What was found when the dir was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// The last stop was orderly. A new dir is clean.
    pub clean: bool,
    /// Nothing that was put into this dir is missing: the last stop was orderly, or the process
    /// was killed and all that it had not synced is still there.
    pub intact: bool,
    pub node: NodeId,
    /// `None` until `bind_cluster`.
    pub cluster: Option<ClusterId>,
}

/// State of one chunk's copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkState {
    pub generation: Generation,
    pub version: Version,
    /// Bytes stored; what lies beyond reads as zeros.
    pub len: u32,
    /// Blocks that are stored; the others are zeros that take up nothing.
    pub stored: u32,
    /// The copy is known to be unreadable, wholly or in part: to be replaced or removed.
    pub damaged: bool,
}

/// Answer of a read: the first `len` bytes of the buffer are filled, the rest of what was
/// asked for lies beyond the stored length: it is to be taken as zeros, whatever the buffer holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Read {
    pub len: usize,
    /// As `dfs_proto::payload::block_checksums` defines, over the filled bytes.
    pub checksums: Vec<u32>,
    /// State at the moment of the read: content, version and generation belong together.
    pub generation: Generation,
    pub version: Version,
    /// Stored length of the whole chunk.
    pub stored_len: u32,
}

/// One write, whole or not at all as far as this replica's later reads can see.
#[derive(Clone, Copy, Debug)]
pub struct WriteRequest<'a> {
    pub key: ChunkKey,
    pub group: GroupId,
    pub generation: Generation,
    pub session: SessionId,
    pub sequence: Sequence,
    pub version: Version,
    /// Bytes from the start of the chunk.
    pub offset: u32,
    pub data: &'a [u8],
    /// As `dfs_proto::payload::block_checksums` defines, over `data`.
    pub checksums: &'a [u32],
}

/// What a whole chunk is to become: the head of each part of an installation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    pub generation: Generation,
    pub version: Version,
    /// Stored length of the whole chunk.
    pub len: u32,
    pub records: Vec<WriteRecord>,
}

/// One part of an installation: the parts come in order, from offset 0 (which starts over).
#[derive(Clone, Copy, Debug)]
pub struct InstallPart<'a> {
    pub key: ChunkKey,
    pub group: GroupId,
    pub image: &'a Image,
    pub offset: u32,
    pub data: &'a [u8],
    /// As `dfs_proto::payload::block_checksums` defines, over `data`.
    pub checksums: &'a [u32],
    /// Blocks of the chunk that are zeros not to be stored, as ranges.
    pub holes: &'a [(u32, u32)],
    /// Makes the image visible, replacing what was there.
    pub last: bool,
}

/// What a full check of a chunk found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified {
    pub generation: Generation,
    pub version: Version,
    pub len: u32,
    /// crc32c over the stored bytes, trailing zero bytes left out, or what is wrong.
    pub digest: Result<u32, Damage>,
}

/// Space of the disk that the data dir is on. Bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Space {
    pub total: u64,
    /// What writes may still take: the reserve is already subtracted.
    pub available: u64,
    /// Taken by chunks of this store (their stored length, headers not counted).
    pub used: u64,
    pub reserve: u64,
    /// Chunks held.
    pub chunks: u64,
}
