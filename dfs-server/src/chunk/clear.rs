//! Taking bytes away from a chunk that stays: the chunks at the edges of a cut.
//!
//! What is taken away reads as zeros from then on, and its space is given back. The version and
//! the write records stay, the generation is raised. Whether it is raised must be the same on
//! every replica, so it depends only on what is equal on all of them: generation and length, and
//! not on which blocks are stored (a copy of a hole may be stored zeros).

use super::error::{Result, StoreError};
use super::live::Live;
use super::store::ChunkStore;
use dfs_proto::ids::{ChunkIndex, ChunkKey, Generation};
use dfs_proto::limits::BLOCK_BYTES;
use std::ops::Range;
use std::time::Instant;

const BLOCK: u32 = BLOCK_BYTES as u32;

/// The chunks of which a cut takes a part only, with that part: one or two. A part up to
/// `u32::MAX` shortens its chunk.
pub(super) fn parts(range: &Range<u64>, chunk_bytes: u64) -> Vec<(ChunkIndex, Range<u32>)> {
    let (first, last) = (range.start / chunk_bytes, range.end / chunk_bytes);
    let start = (range.start % chunk_bytes) as u32;
    let end = (range.end % chunk_bytes) as u32;
    if range.end == u64::MAX {
        let part = (start > 0).then_some((ChunkIndex(first), start..u32::MAX));
        return part.into_iter().collect();
    }
    if first == last {
        return vec![(ChunkIndex(first), start..end)];
    }
    let mut parts = Vec::new();
    if start > 0 {
        parts.push((ChunkIndex(first), start..chunk_bytes as u32));
    }
    if end > 0 {
        parts.push((ChunkIndex(last), 0..end));
    }
    parts
}

impl ChunkStore {
    /// Takes a part away from a chunk, durably, unless that was done already.
    pub(super) fn clear_part(
        &self,
        key: ChunkKey,
        part: Range<u32>,
        generation: Generation,
    ) -> Result<()> {
        let handle = self.handle(key);
        let mut live = handle.write();
        match self.load(key, &mut live) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            // Nothing to take away: this copy is to be replaced by one from which it was.
            Err(StoreError::Rotten { .. }) => return Ok(()),
            Err(e) => return Err(e),
        }
        let Some(live) = live.as_mut() else {
            return Ok(());
        };
        if live.meta().generation >= generation || live.meta().len <= part.start {
            return Ok(());
        }
        let Some(cleared) = self.clear_live(live, &part, generation)? else {
            return Ok(());
        };
        live.sync(&self.disk)?;
        live.note_synced(&self.disk)?;
        // Only now: a crash before could have gone back to a state that has these blocks.
        let freed = match part.end {
            u32::MAX => live.file().truncate_blocks(live.meta().blocks()),
            _ => live.file().punch_blocks(cleared),
        };
        freed.map_err(|e| {
            self.disk
                .failed_doing("free space of", live.file().path(), e)
        })?;
        let damage = self.damage(key);
        self.publish(live.meta(), damage);
        let mut catalog = self.catalog();
        catalog.set_dirty(key, Instant::now());
        if live.is_marked() {
            catalog.set_marked(key, Some(Instant::now()));
        }
        Ok(())
    }

    /// The blocks that are not stored any more; `None`: the copy turned out to be damaged.
    fn clear_live(
        &self,
        live: &mut Live,
        part: &Range<u32>,
        generation: Generation,
    ) -> Result<Option<Range<u32>>> {
        let mut meta = live.meta().clone();
        let end = part.end.min(meta.len);
        if part.end == u32::MAX {
            meta.len = part.start;
        }
        // The length is not the file's: of its last block more may be asked for than there is.
        let whole_end = (part.end / BLOCK).min(live.meta().blocks());
        let cleared = part.start.div_ceil(BLOCK).min(whole_end)..whole_end;
        let mut edges = Vec::new();
        for block in [part.start / BLOCK, (end - 1) / BLOCK] {
            let begin = block * BLOCK;
            let within = part.start.max(begin) - begin..end.min(begin + BLOCK) - begin;
            let known = edges.iter().any(|(number, _)| *number == block);
            if cleared.contains(&block) || known || !meta.present.contains(block) {
                continue;
            }
            let mut content = vec![0; BLOCK_BYTES];
            // What is rotten stays told: the copy is damaged and the block fails its checksum
            // still, unless it is torn, in which case any content will do.
            match live.read_verified(block, &mut content, &self.disk) {
                Ok(()) => {}
                Err(e) if self.damage(meta.key).is_none() => {
                    self.note_damage(e);
                    return Ok(None);
                }
                Err(_) => live.read_raw(block, &mut content, false, &self.disk)?,
            }
            content[within.start as usize..within.end as usize].fill(0);
            edges.push((block, content));
        }
        meta.generation = generation;
        cleared.clone().for_each(|block| meta.present.remove(block));
        meta.present.truncate(meta.blocks());
        meta.checksums.truncate(meta.blocks() as usize);
        for (block, content) in &edges {
            meta.set_block(*block, crc32c::crc32c(content));
        }
        live.change_blocks(meta, &edges, &self.disk)?;
        Ok(Some(cleared))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_takes_parts_of_the_chunks_at_its_edges() {
        let of = |range: Range<u64>| -> Vec<(u64, Range<u32>)> {
            let parts = parts(&range, 100).into_iter();
            parts.map(|(index, part)| (index.0, part)).collect()
        };
        assert_eq!(of(0..u64::MAX), []);
        assert_eq!(of(250..u64::MAX), [(2, 50..u32::MAX)]);
        assert_eq!(of(100..300), []);
        assert_eq!(of(110..120), [(1, 10..20)]);
        assert_eq!(of(100..120), [(1, 0..20)]);
        assert_eq!(of(110..200), [(1, 10..100)]);
        assert_eq!(of(110..320), [(1, 10..100), (3, 0..20)]);
    }
}
