//! What a program is about to do: an operation on blocks of one file.

use super::{BLOCK, BLOCKS, byte_of};
use crate::sim::oracle::Block;
use dfs_proto::ids::{ChunkIndex, ChunkKey, InodeId};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Work {
    Read,
    Write,
    Sync,
    /// The file ends where the first block begins.
    Resize,
}

/// Blocks of one file, from `first` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) work: Work,
    pub(super) file: usize,
    pub(super) inode: InodeId,
    pub(super) first: u64,
    pub(super) count: u64,
}

impl Plan {
    pub(super) fn chunks(&self) -> impl Iterator<Item = ChunkKey> + use<> {
        let inode = self.inode;
        let last = (self.first + self.count - 1) / BLOCKS;
        (self.first / BLOCKS..=last).map(move |index| ChunkKey {
            inode,
            index: ChunkIndex(index),
        })
    }

    pub(super) fn blocks(&self) -> impl Iterator<Item = u64> + use<> {
        self.first..self.first + self.count
    }

    pub(super) fn blocks_in(&self, key: ChunkKey) -> impl Iterator<Item = Block> + use<> {
        let blocks = self.blocks().filter(move |b| b / BLOCKS == key.index.0);
        blocks.map(move |block| (key.inode, block))
    }

    /// The part in one chunk: offset and length in bytes.
    pub(super) fn within(&self, key: ChunkKey) -> (u32, u32) {
        let start = self.first.max(key.index.0 * BLOCKS);
        let end = (self.first + self.count).min((key.index.0 + 1) * BLOCKS);
        let offset = (start - key.index.0 * BLOCKS) * BLOCK as u64;
        (offset as u32, ((end - start) * BLOCK as u64) as u32)
    }

    /// The byte of the file after its part in one chunk.
    pub(super) fn end_in(&self, key: ChunkKey) -> u64 {
        let last = (self.first + self.count).min((key.index.0 + 1) * BLOCKS) - 1;
        byte_of(last) + BLOCK as u64
    }
}
