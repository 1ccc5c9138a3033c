//! Mount -> file server: data.

use super::requests;
use crate::ids::{
    ChunkIndex, ChunkKey, Epoch, Generation, GroupId, InodeId, Sequence, SessionId, Version,
};
use serde::{Deserialize, Serialize};

/// First frame of a mount on a connection to a file server: all its requests are of this
/// session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct BindSession {
    pub session: SessionId,
}

/// Reads from an in-sync replica, under a lease.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ReadChunk {
    pub key: ChunkKey,
    pub group: GroupId,
    pub epoch: Epoch,
    pub generation: Generation,
    pub offset: u32,
    pub len: u32,
}

/// The payload holds the bytes from the offset on; what is missing up to the length asked for
/// is zeros (a hole, or beyond what was ever written).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ChunkRead {
    /// One crc32c for each block that the payload touches, over the touched part of it; blocks
    /// start at multiples of 4 KiB in the chunk.
    pub checksums: Vec<u32>,
}

/// Writes through the primary, under an exclusive lease. Exactly once: a session has at most
/// one unanswered write a chunk, numbered upwards; a repeat carries the same sequence.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct WriteChunk {
    pub key: ChunkKey,
    pub group: GroupId,
    pub epoch: Epoch,
    pub generation: Generation,
    pub session: SessionId,
    pub sequence: Sequence,
    /// The session's last acknowledged write of the chunk that is not synced. A primary whose copy
    /// does not stem from it answers `WriteLost`: everybody lost it, and this write would hide
    /// that. `Version::HOLE` for none.
    pub after: Version,
    pub offset: u32,
    /// As in `ChunkRead`, over the payload.
    pub checksums: Vec<u32>,
}

/// All in-sync replicas have it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ChunkWritten {
    pub version: Version,
    pub epoch: Epoch,
}

/// Data of an inode onto disk, on this replica, for one group: everything, whoever wrote it.
/// Names for each chunk that the session wrote the last acknowledged version: a replica that
/// holds neither it nor a successor answers `WriteLost`. `Version::HOLE` for a chunk that a cut
/// may have taken since.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct SyncChunks {
    pub session: SessionId,
    pub inode: InodeId,
    pub group: GroupId,
    pub epoch: Epoch,
    pub generation: Generation,
    pub chunks: Vec<(ChunkIndex, Version)>,
}

/// What is looked for in a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Seek {
    Data,
    Hole,
}

/// Where in the chunks of an inode that a group has data or a hole begin, from a place on. Of an
/// in-sync replica, under a lease. Blocks are data or hole as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct FindChunks {
    pub inode: InodeId,
    pub group: GroupId,
    pub epoch: Epoch,
    pub generation: Generation,
    pub seek: Seek,
    pub from: ChunkIndex,
    /// Bytes into the first chunk.
    pub offset: u32,
    /// Of the file's layout: a chunk that holds less has a hole.
    pub chunk_bytes: u32,
    pub items_max: u32,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct FoundChunks {
    /// Seek::Hole: chunks without a hole (the first one: from the offset on), in their order.
    pub whole: Vec<ChunkIndex>,
    /// The first chunk that has what is looked for, and at which byte of it. A chunk that the group
    /// does not have is all hole, and not named here.
    pub found: Option<(ChunkIndex, u32)>,
    /// The group has no further ones. Else whoever looks for a hole asks again.
    pub end: bool,
}

/// How much of an inode a group stores. Of an in-sync replica.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct MeasureStored {
    pub inode: InodeId,
    pub group: GroupId,
    pub epoch: Epoch,
    pub generation: Generation,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct StoredMeasured {
    /// Whole blocks.
    pub bytes: u64,
}

requests! {
    0x0601 BindSession => ();
    0x0602 ReadChunk => ChunkRead;
    0x0603 WriteChunk => ChunkWritten;
    0x0604 SyncChunks => ();
    0x0605 FindChunks => FoundChunks;
    0x0606 MeasureStored => StoredMeasured;
}
