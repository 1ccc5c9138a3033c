//! Which chunk and which replica group a byte of a file is in.

use crate::ids::{ChunkIndex, GroupId};
use crate::limits::{BLOCK_BYTES, CHUNK_BYTES_MAX};
use serde::{Deserialize, Serialize};

/// How a file is laid over chunks and groups; stored with each inode, so that it can evolve.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct FileLayout {
    /// Bytes of a chunk: a power of two, at least one block.
    pub chunk_bytes: u32,
    /// Group of chunk 0; chunk *i* is in group `(first_group + i) mod groups`.
    pub first_group: GroupId,
    pub groups: u32,
}

/// A byte range within one chunk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ChunkRange {
    pub index: ChunkIndex,
    /// Bytes from the start of the chunk.
    pub offset: u32,
    pub len: u32,
}

impl FileLayout {
    /// Whether the numbers can be computed with: checked wherever a layout comes from outside.
    pub fn is_valid(&self) -> bool {
        self.chunk_bytes.is_power_of_two()
            && self.chunk_bytes as usize >= BLOCK_BYTES
            && self.chunk_bytes <= CHUNK_BYTES_MAX
            && self.groups > 0
            && self.first_group.0 < self.groups
    }

    /// The chunk that holds the byte at `offset`.
    pub fn chunk_of(&self, offset: u64) -> ChunkIndex {
        ChunkIndex(offset / u64::from(self.chunk_bytes))
    }

    /// The replica group of a chunk.
    pub fn group_of(&self, index: ChunkIndex) -> GroupId {
        let groups = u64::from(self.groups);
        let group = (u64::from(self.first_group.0) + index.0 % groups) % groups;
        GroupId(group as u32)
    }

    /// The parts of `offset..offset + len`, in order, one a chunk.
    pub fn split(&self, offset: u64, len: u64) -> impl Iterator<Item = ChunkRange> + use<> {
        let size = u64::from(self.chunk_bytes);
        let end = offset.saturating_add(len);
        let mut at = offset;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let within = at % size;
            let part = (size - within).min(end - at);
            let range = ChunkRange {
                index: ChunkIndex(at / size),
                offset: within as u32,
                len: part as u32,
            };
            at += part;
            Some(range)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layout(chunk_bytes: u32) -> FileLayout {
        FileLayout {
            chunk_bytes,
            first_group: GroupId(3),
            groups: 5,
        }
    }

    #[test]
    fn chunks_go_round_the_groups() {
        let groups: Vec<u32> = (0..6)
            .map(|i| layout(4096).group_of(ChunkIndex(i)).0)
            .collect();
        assert_eq!(groups, [3, 4, 0, 1, 2, 3]);
        assert!(layout(4096).group_of(ChunkIndex(u64::MAX)).0 < 5);
    }

    proptest! {
        #[test]
        fn a_split_covers_the_range_without_gaps(offset in 0u64..1 << 40, len in 0u64..1 << 20) {
            let layout = layout(65536);
            let mut at = offset;
            for part in layout.split(offset, len) {
                prop_assert_eq!(part.index.0 * 65536 + u64::from(part.offset), at);
                prop_assert!(part.len > 0 && part.offset + part.len <= 65536);
                at += u64::from(part.len);
            }
            prop_assert_eq!(at, offset + len);
        }
    }
}
