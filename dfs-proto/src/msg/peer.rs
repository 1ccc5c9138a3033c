//! File server -> file server: replication.

use super::requests;
use crate::ids::{ChunkKey, Epoch, Generation, GroupId, InodeId, Sequence, SessionId, Version};
use serde::{Deserialize, Serialize};

/// A write, ordered by the primary, to each in-sync and joining member in parallel.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ForwardWrite {
    pub key: ChunkKey,
    pub group: GroupId,
    pub epoch: Epoch,
    pub generation: Generation,
    pub session: SessionId,
    pub sequence: Sequence,
    pub version: Version,
    /// The version that the primary's copy had before: the write is applied only onto it.
    pub predecessor: Version,
    /// The generation of that copy: a boundary chunk that a cut has shortened keeps its version.
    pub predecessor_generation: Generation,
    /// Every write of the group up to this counter of the epoch is on all in-sync members.
    pub committed: u64,
    pub offset: u32,
    pub checksums: Vec<u32>,
}

/// The write is applied here.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Forwarded {
    /// This member has reached its reserve: the primary accepts no new chunks for a while.
    pub low_on_space: bool,
}

/// Which chunks of a group may differ since the last epoch that served (R3); asked by the
/// primary of an epoch that the member has adopted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct GetMarks {
    pub group: GroupId,
    pub epoch: Epoch,
}

/// Chunks that may differ from what the other members hold.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct GroupMarks {
    /// The member cannot tell (it was restarted, or there are too many): everything is compared.
    pub unknown: bool,
    pub chunks: Vec<ChunkKey>,
}

/// Chunks held of a group with generation and version, ordered, a page at a time; `None` as
/// version state means the index names a chunk whose file is missing or damaged.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ListChunks {
    pub group: GroupId,
    pub epoch: Epoch,
    pub after: Option<ChunkKey>,
    pub items_max: u32,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ChunkPage {
    pub chunks: Vec<ChunkState>,
    pub end: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ChunkState {
    pub key: ChunkKey,
    pub generation: Generation,
    pub version: Version,
    /// The copy fails its checksums, or is missing though indexed: it is to be replaced.
    pub damaged: bool,
}

/// What a member holds of some chunks; at most `limits::INVENTORY_PAGE_ITEMS_MAX`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct GetChunkStates {
    pub group: GroupId,
    pub epoch: Epoch,
    pub keys: Vec<ChunkKey>,
}

/// Answers are in the order of the keys.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct HeldChunk {
    /// The member's floor of the inode.
    pub floor: Generation,
    /// `None` if the chunk is a hole there.
    pub state: Option<ChunkState>,
}

/// Take these floors over (a joining member): the generations up to which inodes were cut.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct InstallFloors {
    pub group: GroupId,
    pub epoch: Epoch,
    pub floors: Vec<(InodeId, Generation)>,
}

/// A part of a chunk's content with its version and write records; a hole is an image of
/// version `Version::HOLE` and length 0. The parts of one version are
/// asked for in turn; a version that changed in between starts over.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct FetchChunk {
    pub key: ChunkKey,
    pub group: GroupId,
    pub epoch: Epoch,
    pub offset: u32,
    pub len: u32,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ChunkImage {
    /// The holder's floor of the inode: every cut up to it is made in this image. A receiver
    /// that made a later cut in the present epoch refuses the image.
    pub floor: Generation,
    pub generation: Generation,
    pub version: Version,
    /// Stored length of the whole chunk.
    pub len: u32,
    pub records: Vec<WriteRecord>,
    pub checksums: Vec<u32>,
    /// Blocks of this part that are not stored, first and one past the last, in order: zeros that
    /// take up nothing.
    pub holes: Vec<(u32, u32)>,
}

/// Replace the receiver's copy by the primary's: the parts in order, the last one completes it
/// and makes it visible, with version and write records, atomically. With `hole` the chunk is
/// removed. Refused unless the receiver's epoch is the request's and the sender its primary.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct InstallChunk {
    pub key: ChunkKey,
    pub group: GroupId,
    pub epoch: Epoch,
    pub hole: bool,
    pub image: ChunkImage,
    pub offset: u32,
    pub last: bool,
}

/// The last write of a session that was applied to a chunk: what a repeat is answered from (R8).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct WriteRecord {
    pub session: SessionId,
    pub sequence: Sequence,
    pub version: Version,
}

/// What was installed in a group is to be on disk when this is answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct SyncGroup {
    pub group: GroupId,
    pub epoch: Epoch,
}

/// Tells a member how far the group's writes are on all in-sync members, when no forwarded
/// write does.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Committed {
    pub groups: Vec<(GroupId, Epoch, u64)>,
}

requests! {
    0x0701 ForwardWrite => Forwarded;
    0x0702 GetMarks => GroupMarks;
    0x0703 ListChunks => ChunkPage;
    0x0704 GetChunkStates => Vec<HeldChunk>;
    0x0706 InstallFloors => ();
    0x0707 FetchChunk => ChunkImage;
    0x0708 InstallChunk => ();
    0x0709 SyncGroup => ();
    0x070a Committed => ();
}
