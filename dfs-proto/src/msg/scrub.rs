//! Scrub and fsck: whether what is stored is what should be. Asked by `dfsctl`, passed on by the
//! directory, answered by file servers, which ask each other.

use super::requests;
use crate::ids::{ChunkKey, Epoch, Generation, GroupId, InodeId, ServerId, Version};
use serde::{Deserialize, Serialize};

/// Primary -> member: read and verify a chunk. Asked while no write of it is in progress.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct CheckChunk {
    pub key: ChunkKey,
    pub group: GroupId,
    pub epoch: Epoch,
}

/// What was found on disk.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct CheckedCopy {
    pub generation: Generation,
    pub version: Version,
    /// Bytes stored.
    pub len: u32,
    /// crc32c of the content without the zeros at its end, or what is wrong with it.
    pub digest: Result<u32, String>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct CheckedChunk {
    /// The member's floor of the inode: where they differ a cut is on its way, and the copies
    /// cannot be compared.
    pub floor: Generation,
    /// `None`: a hole.
    pub copy: Option<CheckedCopy>,
}

/// Directory -> primary: compare the copies of the next chunks of a group, and repair what is
/// wrong. A call takes a few seconds at most; `next` goes on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ScrubChunks {
    pub group: GroupId,
    /// Start after this one.
    pub after: Option<ChunkKey>,
    /// Only chunks of this inode.
    pub inode: Option<InodeId>,
}

/// The same, `dfsctl` -> directory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ScrubGroup {
    pub group: GroupId,
    pub after: Option<ChunkKey>,
    pub inode: Option<InodeId>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct ScrubbedPage {
    pub chunks: u64,
    /// Read from all replicas.
    pub bytes: u64,
    pub findings: Vec<ScrubFinding>,
    /// Chunks that could not be compared now: written all the time, or a member was away.
    pub skipped: u64,
    pub next: Option<ChunkKey>,
}

/// A copy that is not what it should be.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ScrubFinding {
    pub server: ServerId,
    pub group: GroupId,
    pub key: ChunkKey,
    pub version: Option<Version>,
    pub what: String,
    /// `Ok`: replaced by a good copy. Else why not.
    pub repaired: Result<(), String>,
}

/// What the scrub of a server is at, and the copies that it keeps aside.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct GetScrubState;

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct ScrubState {
    /// Seconds between two passes of a group; 0: never by itself.
    pub every_s: u64,
    /// Bytes a second that it may read by itself.
    pub rate: u64,
    /// Groups that this server leads, and so looks after.
    pub groups: u32,
    /// Of these, groups that were never gone through.
    pub never: u32,
    /// Groups that it is going through now.
    pub running: u32,
    /// When a pass of a group that it leads ended that is the longest ago (seconds since 1970);
    /// 0: none has.
    pub oldest_s: u64,
    /// Since the server was started.
    pub chunks: u64,
    pub bytes: u64,
    pub found: u64,
    pub repaired: u64,
    pub quarantined: Vec<Quarantined>,
}

/// A damaged copy that was replaced, and is kept for whoever wants to look at it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Quarantined {
    pub key: ChunkKey,
    /// Seconds since 1970.
    pub at_s: u64,
    /// Of the file that was kept; 0: there was none.
    pub bytes: u64,
    pub why: String,
}

/// The scrub of every server, `dfsctl` -> directory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ListScrubs;

#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ServerScrub {
    pub server: ServerId,
    /// `Err`: why it is not known.
    pub state: Result<ScrubState, String>,
}

/// Directory -> file server: all chunks that it holds, whatever it is in their groups.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ListHeld {
    pub group: GroupId,
    pub after: Option<ChunkKey>,
    pub items_max: u32,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct HeldPage {
    pub chunks: Vec<HeldCopy>,
    pub end: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct HeldCopy {
    pub key: ChunkKey,
    pub generation: Generation,
    pub version: Version,
    pub len: u32,
    pub damaged: bool,
}

/// Directory -> file server: remove these copies of a group that the server is no member of, if
/// they are still these versions and it is still none.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct DropStray {
    pub group: GroupId,
    pub copies: Vec<(ChunkKey, Version)>,
}

/// The regular file at a path from the root.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct FindFile {
    pub path: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct FoundFile {
    pub inode: InodeId,
    pub size: u64,
    pub chunk_bytes: u32,
    /// Groups that may hold chunks of it.
    pub groups: Vec<GroupId>,
}

/// A path from the root for each of these inodes; at most 1024.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct NameInodes {
    pub inodes: Vec<InodeId>,
}

/// Whether the namespace agrees with itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct CheckNames;

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct NamesChecked {
    pub inodes: u64,
    pub entries: u64,
    pub orphans: u64,
    pub intents: u64,
    /// The inode, if it is one's, and what is wrong.
    pub problems: Vec<(Option<InodeId>, String)>,
}

/// Whether what all servers hold of a group is what the directory says should be there; a page
/// at a time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct CheckGroup {
    pub group: GroupId,
    pub after: Option<ChunkKey>,
    /// Remove what belongs to nobody.
    pub repair: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct GroupChecked {
    pub chunks: u64,
    pub findings: Vec<HeldFinding>,
    /// Servers that could not be asked.
    pub missing: Vec<ServerId>,
    pub next: Option<ChunkKey>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum HeldFault {
    /// The server is no member of the group.
    Stray,
    /// The inode is not there any more.
    Freed,
    /// The chunk lies beyond the end of the file, or in a group where the file has none.
    Beyond,
    /// Other members have it.
    Missing,
    /// Other members have another version.
    Differs,
    /// The copy is known to be damaged.
    Damaged,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct HeldFinding {
    pub server: ServerId,
    pub key: ChunkKey,
    pub fault: HeldFault,
    pub what: String,
    /// `repair` was asked for and it is removed.
    pub removed: bool,
}

requests! {
    0x0510 ScrubChunks => ScrubbedPage;
    0x0511 GetScrubState => ScrubState;
    0x0512 ListHeld => HeldPage;
    0x0513 DropStray => u32;
    0x0710 CheckChunk => CheckedChunk;
    0x0810 ScrubGroup => ScrubbedPage;
    0x0811 ListScrubs => Vec<ServerScrub>;
    0x0812 FindFile => FoundFile;
    0x0813 NameInodes => Vec<(InodeId, Option<String>)>;
    0x0814 CheckNames => NamesChecked;
    0x0815 CheckGroup => GroupChecked;
}
