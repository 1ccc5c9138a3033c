//! Reading and checking chunks.

use super::error::{Damage, Result, StoreError};
use super::live::Live;
use super::request::{Read, Verified};
use super::slot::Meta;
use super::store::ChunkStore;
use dfs_proto::ids::ChunkKey;
use dfs_proto::limits::BLOCK_BYTES;
use dfs_proto::payload::{PayloadMut, block_checksums};

/// A check reads this much at once.
const VERIFY_BLOCKS: u32 = 256;

impl ChunkStore {
    /// Reads into the front of `buffer`; every block is verified. A hole reads as length 0.
    ///
    /// A buffer that starts at a multiple of 4 KiB, like the offset, and holds whole blocks is
    /// filled without a copy.
    pub fn read(&self, key: ChunkKey, offset: u32, buffer: &mut [u8]) -> Result<Read> {
        let read = self.with_live(key, |live| read_from(live, offset, buffer, self))?;
        Ok(read.unwrap_or_default())
    }

    /// Whether a read would wait for others that have the chunk (a sync or a large write): then
    /// it belongs onto a thread that may wait. `false` is a good guess, not a promise.
    pub fn read_may_wait(&self, key: ChunkKey) -> bool {
        let handle = self.handles.peek(key);
        handle.is_some_and(|handle| handle.try_read().is_none())
    }

    /// Reads and checks everything of a chunk, on disk as well as in memory; `None` for a hole.
    pub fn verify(&self, key: ChunkKey) -> Result<Option<Verified>> {
        let Some(entry) = self.catalog().get(key).cloned() else {
            return Ok(None);
        };
        let digest = match self.with_live(key, |live| digest_of(live, self)) {
            Ok(None) => return Ok(None),
            Ok(Some((meta, digest))) => {
                return Ok(Some(Verified {
                    generation: meta.generation,
                    version: meta.version,
                    len: meta.len,
                    digest: Ok(digest),
                }));
            }
            Err(StoreError::Rotten { damage, .. }) => Err(damage),
            Err(other) => return Err(other),
        };
        Ok(Some(Verified {
            generation: entry.row.generation,
            version: entry.row.version,
            len: entry.row.len,
            digest,
        }))
    }
}

fn read_from(live: &Live, offset: u32, buffer: &mut [u8], store: &ChunkStore) -> Result<Read> {
    let meta = live.meta();
    let len = (meta.len.saturating_sub(offset) as usize).min(buffer.len());
    let mut read = Read {
        len,
        checksums: Vec::new(),
        generation: meta.generation,
        version: meta.version,
        stored_len: meta.len,
    };
    if len == 0 {
        return Ok(read);
    }
    let block = BLOCK_BYTES as u32;
    let first = offset / block;
    let within = (offset % block) as usize;
    let span = (within + len).next_multiple_of(BLOCK_BYTES);
    if within == 0 && span <= buffer.len() {
        live.read_verified(first, &mut buffer[..span], &store.disk)?;
        read.checksums = checksums(meta, first, &buffer[..len]);
    } else {
        let mut whole = PayloadMut::with_len(span);
        live.read_verified(first, &mut whole, &store.disk)?;
        buffer[..len].copy_from_slice(&whole[within..within + len]);
        read.checksums = block_checksums(offset, &buffer[..len]);
    }
    Ok(read)
}

/// Checksums of bytes that begin with a block: those of whole stored blocks are known.
fn checksums(meta: &Meta, first: u32, bytes: &[u8]) -> Vec<u32> {
    bytes
        .chunks(BLOCK_BYTES)
        .zip(first..)
        .map(|(part, block)| match meta.checksum(block) {
            Some(known) if part.len() == BLOCK_BYTES => known,
            _ => crc32c::crc32c(part),
        })
        .collect()
}

fn digest_of(live: &Live, store: &ChunkStore) -> Result<(Meta, u32)> {
    let meta = live.meta();
    let rotten = |damage| Err(StoreError::rotten(meta.key, damage));
    let linked = live.file().is_linked();
    if !linked.map_err(|e| StoreError::disk("stat", live.file().path(), e))? {
        return rotten(Damage::Missing);
    }
    if !live.is_on_disk() {
        return rotten(Damage::Header);
    }
    let mut digest = Digest::default();
    let mut first = 0;
    while first < meta.blocks() {
        let count = VERIFY_BLOCKS.min(meta.blocks() - first);
        let mut blocks = PayloadMut::with_len(count as usize * BLOCK_BYTES);
        live.read_verified(first, &mut blocks, &store.disk)?;
        let end = (meta.len as usize - first as usize * BLOCK_BYTES).min(blocks.len());
        digest.add(&blocks[..end]);
        first += count;
    }
    Ok((meta.clone(), digest.checksum))
}

/// crc32c over bytes without the zeros at their end, so that replicas with the same content
/// agree however they store it.
#[derive(Default)]
struct Digest {
    checksum: u32,
    zeros: usize,
}

impl Digest {
    fn add(&mut self, bytes: &[u8]) {
        let end = bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |at| at + 1);
        if end > 0 {
            const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
            while self.zeros > 0 {
                let part = self.zeros.min(ZEROS.len());
                self.checksum = crc32c::crc32c_append(self.checksum, &ZEROS[..part]);
                self.zeros -= part;
            }
            self.checksum = crc32c::crc32c_append(self.checksum, &bytes[..end]);
        }
        self.zeros += bytes.len() - end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_at_the_end_do_not_count() {
        let mut digest = Digest::default();
        digest.add(&[1, 0, 0]);
        digest.add(&[0; 10_000]);
        digest.add(&[2, 0]);
        let mut plain = vec![1];
        plain.extend([0; 10_002]);
        plain.push(2);
        assert_eq!(digest.checksum, crc32c::crc32c(&plain));
        let mut empty = Digest::default();
        empty.add(&[0; 9]);
        assert_eq!(empty.checksum, 0);
    }
}
