//! Directory -> file server, on the connection that the server made.

use super::requests;
use crate::cluster::{GroupConfig, ServerEntry};
use crate::ids::{ChunkIndex, ChunkKey, Epoch, Generation, GroupId, InodeId, SessionId, Version};
use crate::layout::FileLayout;
use serde::{Deserialize, Serialize};

/// Adopt these epochs: durably, before the answer; from then on every older one is refused.
/// A config that does not name this run is not adopted as a member (but its epoch still fences).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct AdoptEpochs {
    pub configs: Vec<GroupConfig>,
    /// Addresses of the members.
    pub servers: Vec<ServerEntry>,
    /// Sessions that have ended: part of the adoption.
    pub fenced: Vec<SessionId>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct EpochsAdopted {
    /// The epoch that each group is at now: the adopted one or a later one.
    pub epochs: Vec<(GroupId, Epoch)>,
}

/// To the primary, after every in-sync member has adopted: make the members equal. Answered
/// when they are (for each group the epoch that was equalised); a group that failed is missing.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct EqualiseGroups {
    pub groups: Vec<(GroupId, Epoch)>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct GroupsEqualised {
    pub groups: Vec<(GroupId, Epoch)>,
    /// Members that could not be reached or failed while equalising.
    pub suspects: Vec<(GroupId, crate::ids::ServerRun)>,
}

/// These epochs are effective: their members serve.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct EpochsEffective {
    pub groups: Vec<(GroupId, Epoch)>,
}

/// Make a cut: everything of the inode from byte `from` up to `to` (exclusive) is gone, and so is
/// every older generation. Idempotent. `to` is `u64::MAX` where nothing is left behind it (the
/// file was shortened); else the cut is a hole in the middle. `Generation::FREED` from 0 on frees
/// the inode.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct CutInode {
    pub inode: InodeId,
    pub generation: Generation,
    pub from: u64,
    pub to: u64,
    pub layout: FileLayout,
    /// The groups that this server is asked for (all that it is a member of), each in its epoch: in
    /// another one nothing is done, so that a message that comes late does no harm.
    pub groups: Vec<(GroupId, Epoch)>,
}

/// The epoch in which each group made the cut.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct CutMade {
    pub epochs: Vec<(GroupId, Epoch)>,
}

/// Accept nothing of these sessions any more, and answer when no request of theirs is in
/// progress: for each group the epoch in which that holds.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct FenceSessions {
    pub sessions: Vec<SessionId>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct SessionsFenced {
    pub epochs: Vec<(GroupId, Epoch)>,
}

/// Where the data of inodes end in these groups. Asked of a member that is in-sync, when nobody can
/// be writing to the inodes.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct MeasureInodes {
    /// Each in its epoch: in another one, or where this server does not serve, nothing is said.
    pub groups: Vec<(GroupId, Epoch)>,
    /// Each from one chunk on: what lies before is known. At most `limits::MEASURED_INODES_MAX`.
    pub inodes: Vec<(InodeId, ChunkIndex)>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct InodesMeasured {
    /// The groups that were looked at, each in the epoch that was asked for.
    pub groups: Vec<(GroupId, Epoch)>,
    /// Of each inode that has chunks there the last one, and how many bytes of it are stored.
    pub last: Vec<(InodeId, ChunkIndex, u32)>,
}

/// These groups are not this server's any more: epochs without it serve, and nobody wants it in
/// them. It takes no part in any older epoch from now on, deletes what it holds of them, and
/// answers when that is durable. A group of which it knows a later epoch is left alone.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ReleaseGroups {
    pub configs: Vec<GroupConfig>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct GroupsReleased {
    /// Of which nothing is left here.
    pub groups: Vec<GroupId>,
    /// Chunks that were deleted.
    pub chunks: u64,
}

/// Reads and verifies what the server holds of a group, a page at a time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct VerifyChunks {
    pub group: GroupId,
    /// Start after this one.
    pub after: Option<ChunkKey>,
    pub items_max: u32,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct VerifiedPage {
    pub chunks: Vec<VerifiedChunk>,
    pub end: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct VerifiedChunk {
    pub key: ChunkKey,
    pub generation: Generation,
    pub version: Version,
    /// crc32c of the content (zeros after the stored length left out), or what is wrong with it.
    pub digest: Result<u32, String>,
    pub len: u32,
}

requests! {
    0x0501 AdoptEpochs => EpochsAdopted;
    0x0502 EqualiseGroups => GroupsEqualised;
    0x0503 EpochsEffective => ();
    0x0504 CutInode => CutMade;
    0x0505 FenceSessions => SessionsFenced;
    0x0506 VerifyChunks => VerifiedPage;
    0x0507 MeasureInodes => InodesMeasured;
    0x0520 ReleaseGroups => GroupsReleased;
}
