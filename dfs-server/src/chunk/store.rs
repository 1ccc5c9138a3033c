//! The store as its callers see it.

use super::error::{Result, StoreError};
use super::request::*;
use dfs_proto::cluster::GroupConfig;
use dfs_proto::ids::*;
use dfs_proto::layout::FileLayout;
use dfs_proto::msg::peer::WriteRecord;
use std::path::Path;
use std::time::Duration;

/// Chunks of files on a local disk. All methods may be called from several threads at once;
/// operations on one chunk exclude each other, reads of it run side by side.
#[derive(Debug)]
pub struct ChunkStore {}

fn soon<T>() -> Result<T> {
    Err(StoreError::Failed("not usable yet".into()))
}

#[allow(unused_variables)]
impl ChunkStore {
    /// Opens the data dir, formatting an empty one. The store says `clean: false` after a stop
    /// without `close_clean`: what it holds has then to be compared with other replicas.
    pub fn open(dir: &Path, options: OpenOptions) -> Result<(Self, Opened)> {
        soon()
    }
    /// Binds a dir that was never part of a cluster to one, durably.
    pub fn bind_cluster(&self, cluster: ClusterId) -> Result<()> {
        soon()
    }
    /// State of a chunk, `None` for a hole. From memory: never waits for the disk.
    pub fn state(&self, key: ChunkKey) -> Option<ChunkState> {
        None
    }
    /// The last write of a session that was applied to the chunk.
    pub fn record(&self, key: ChunkKey, session: SessionId) -> Result<Option<WriteRecord>> {
        soon()
    }
    /// All write records of a chunk with its state, `None` for a hole: what an image starts with.
    pub fn image(&self, key: ChunkKey) -> Result<Option<Image>> {
        soon()
    }
    /// Reads into the front of `buffer`; every block is verified. A hole reads as length 0.
    pub fn read(&self, key: ChunkKey, offset: u32, buffer: &mut [u8]) -> Result<Read> {
        soon()
    }
    /// Applies one write. Not durable before a sync.
    pub fn write(&self, request: &WriteRequest<'_>) -> Result<()> {
        soon()
    }
    /// Takes one part of a chunk's image; the last one makes it visible, atomically.
    pub fn install(&self, part: &InstallPart<'_>) -> Result<()> {
        soon()
    }
    /// Makes the chunk a hole. Durable when it returns.
    pub fn remove(&self, key: ChunkKey) -> Result<()> {
        soon()
    }
    /// Accepts a torn copy as it is on disk: its blocks get new checksums, version and write
    /// records are those of the interrupted write. For when no replica holds a whole copy.
    pub fn adopt_torn(&self, key: ChunkKey) -> Result<ChunkState> {
        soon()
    }
    /// Makes a cut in the chunks of `groups`: everything of the inode from byte `from` on is
    /// gone, and so is every older generation. Durable when it returns; done once, a repeat
    /// does nothing.
    pub fn cut(
        &self,
        inode: InodeId,
        generation: Generation,
        from: u64,
        layout: FileLayout,
        groups: &[GroupId],
    ) -> Result<()> {
        soon()
    }
    /// The generation below which requests for chunks of this inode in this group are refused.
    pub fn floor(&self, group: GroupId, inode: InodeId) -> Option<Generation> {
        None
    }
    /// Floors of a group in the order of inodes, and whether that was the end.
    pub fn floors(
        &self,
        group: GroupId,
        after: Option<InodeId>,
        max: usize,
    ) -> (Vec<(InodeId, Generation)>, bool) {
        (Vec::new(), true)
    }
    /// Takes floors over from another replica; chunks of older generations stay to be compared.
    /// Durable when it returns.
    pub fn install_floors(&self, group: GroupId, floors: &[(InodeId, Generation)]) -> Result<()> {
        soon()
    }
    /// Forgets floors of the group that were made in an epoch before `epoch`.
    pub fn drop_floors(&self, group: GroupId, epoch: Epoch) -> Result<()> {
        soon()
    }
    /// Chunks of a group in the order of (inode, chunk), and whether that was the end.
    pub fn list(
        &self,
        group: GroupId,
        after: Option<ChunkKey>,
        max: usize,
    ) -> (Vec<(ChunkKey, ChunkState)>, bool) {
        (Vec::new(), true)
    }
    /// Bytes stored of an inode in one group.
    pub fn allocated(&self, inode: InodeId, group: GroupId) -> u64 {
        0
    }
    /// First chunk of the inode at or after `from` that this group holds.
    pub fn next_allocated(
        &self,
        inode: InodeId,
        group: GroupId,
        from: ChunkIndex,
    ) -> Option<ChunkIndex> {
        None
    }
    /// Onto disk: data, version, records and index entry of these chunks.
    pub fn sync(&self, keys: &[ChunkKey]) -> Result<()> {
        soon()
    }
    /// Onto disk: everything of a group.
    pub fn sync_group(&self, group: GroupId) -> Result<()> {
        soon()
    }
    /// Onto disk: what was changed longer ago than `age`, at most `chunks_max` chunks; says how
    /// many. To be called every few seconds: it bounds what an unclean stop makes the next
    /// start check.
    pub fn sync_aged(&self, age: Duration, chunks_max: usize) -> Result<usize> {
        soon()
    }
    /// Keeps the adopted epochs; an older epoch of a group than the one kept is ignored.
    /// Durable when it returns (one fsync for all, and for concurrent callers).
    pub fn put_epochs(&self, configs: &[GroupConfig]) -> Result<()> {
        soon()
    }
    /// The adopted epochs, ordered by group.
    pub fn epochs(&self) -> Vec<GroupConfig> {
        Vec::new()
    }
    /// Adds ended sessions. Durable when it returns.
    pub fn put_fences(&self, sessions: &[SessionId]) -> Result<()> {
        soon()
    }
    /// The ended sessions that are kept.
    pub fn fences(&self) -> Vec<SessionId> {
        Vec::new()
    }
    /// Forgets ended sessions.
    pub fn drop_fences(&self, sessions: &[SessionId]) -> Result<()> {
        soon()
    }
    /// Keeps a small value of the replica layer under a name (at most 4 KiB). Durable when it
    /// returns.
    pub fn put_note(&self, name: &str, value: &[u8]) -> Result<()> {
        soon()
    }
    /// A value kept by `put_note`.
    pub fn note(&self, name: &str) -> Option<Vec<u8>> {
        None
    }
    /// Reads and checks everything of a chunk; `None` for a hole.
    pub fn verify(&self, key: ChunkKey) -> Result<Option<Verified>> {
        soon()
    }
    /// Space of the disk.
    pub fn space(&self) -> Space {
        Space::default()
    }
    /// Why the store accepts nothing any more, if a disk error stopped it.
    pub fn failure(&self) -> Option<String> {
        None
    }
    /// Syncs everything and leaves the clean mark. Afterwards the store accepts nothing.
    pub fn close_clean(&self) -> Result<()> {
        soon()
    }
}
