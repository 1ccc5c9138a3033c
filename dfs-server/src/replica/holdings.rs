//! What the core may ask about the chunks that this server holds, at the moment of a decision.
//!
//! Implemented by the chunk store's adapter and by the simulation's store in memory. All of it
//! is answered without waiting for the disk. The core asks about a chunk only while no write of
//! its own to that chunk is in progress, so the answers are the same wherever it runs.

use dfs_proto::error::Error;
use dfs_proto::ids::{ChunkKey, Epoch, Generation, GroupId, InodeId, SessionId, Version};
use dfs_proto::msg::peer::{ChunkState, WriteRecord};

/// Read access to the state of the chunk store.
pub trait Holdings {
    /// State of a chunk, `None` for a hole.
    fn chunk(&self, key: ChunkKey) -> Option<ChunkState>;
    /// Bytes stored of a chunk, for limits and progress; 0 for a hole, or if nobody counts.
    fn chunk_bytes(&self, _key: ChunkKey) -> u64 {
        0
    }
    /// Blocks stored of a chunk, 0 for a hole; as with the next two, nothing if nobody counts.
    fn stored_blocks(&self, _key: ChunkKey) -> u32 {
        0
    }
    /// Bytes stored of an inode in a group, in whole blocks.
    fn stored_bytes(&self, _inode: InodeId, _group: GroupId) -> u64 {
        0
    }
    /// The first block of a chunk from `from` on that is stored, or that is not. The one question
    /// that may look at the disk, for a chunk of which a part is stored.
    fn find_block(&self, _key: ChunkKey, from: u32, stored: bool) -> Result<Option<u32>, Error> {
        Ok((!stored).then_some(from))
    }
    /// The last write of a session that was applied to the chunk.
    fn record(&self, key: ChunkKey, session: SessionId) -> Result<Option<WriteRecord>, Error>;
    /// The generation below which requests for the inode are refused; 0 if none is kept.
    fn floor(&self, group: GroupId, inode: InodeId) -> Generation;
    /// The same, if it was raised in that epoch or a later one; else 0.
    fn floor_since(&self, group: GroupId, inode: InodeId, epoch: Epoch) -> Generation;
    /// Chunks of a group in order, at most `max`, and whether that was the end.
    fn chunks(
        &self,
        group: GroupId,
        after: Option<ChunkKey>,
        max: usize,
    ) -> (Vec<ChunkState>, bool);
    /// Floors of a group in order, at most `max`, and whether that was the end.
    fn floors(
        &self,
        group: GroupId,
        after: Option<InodeId>,
        max: usize,
    ) -> (Vec<(InodeId, Generation)>, bool);
    /// The disk has reached its reserve: no new chunks.
    fn is_low(&self) -> bool;
}

/// What is compared between replicas: two copies with the same are equal.
pub(super) fn identity(state: Option<&ChunkState>) -> (Generation, Version) {
    state.map_or((Generation(0), Version::HOLE), |s| {
        (s.generation, s.version)
    })
}

/// Whether two whole copies are equal.
pub(super) fn same(a: Option<&ChunkState>, b: Option<&ChunkState>) -> bool {
    let whole = |s: Option<&ChunkState>| s.is_none_or(|s| !s.damaged);
    whole(a) && whole(b) && a.is_some() == b.is_some() && identity(a) == identity(b)
}
