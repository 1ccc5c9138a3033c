//! File data in memory: pooled buffers that start at a 4 KiB boundary, so that they can go from
//! the socket to the disk (direct I/O) and back without a copy.
//!
//! The pool belongs to the process. A buffer that is dropped goes back to it, and only what
//! exceeds the pool's bound goes back to the allocator: fresh pages cost more than the copy of
//! the data that they hold.
//!
//! Checksums over file data are made here too: one for each touched block, never one for a
//! whole payload, because blocks are what is verified on disk.

use crate::limits::{BLOCK_BYTES, PAYLOAD_BYTES_MAX};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{Deref, DerefMut, Range};
use std::sync::{Arc, Mutex, PoisonError};

/// Usable sizes of pooled buffers, and how many of each may lie idle (95 MiB in all). The largest
/// is a write of a program as the kernel hands it over.
const CLASSES: [(usize, usize); 6] = [
    (BLOCK_BYTES, 256),
    (4 * BLOCK_BYTES, 128),
    (16 * BLOCK_BYTES, 64),
    (64 * BLOCK_BYTES, 32),
    (PAYLOAD_BYTES_MAX, 64),
    (2 << 20, 8),
];

static POOL: [Mutex<Vec<Vec<u8>>>; CLASSES.len()] =
    [const { Mutex::new(Vec::new()) }; CLASSES.len()];

/// The memory of one buffer: `BLOCK_BYTES` more than its class, to have room for the alignment.
struct Memory {
    bytes: Vec<u8>,
    /// Where the aligned part begins.
    start: usize,
    class: Option<usize>,
}

impl Memory {
    fn with_room(len: usize) -> Self {
        let class = CLASSES.iter().position(|(size, _)| len <= *size);
        let idle = class.and_then(|class| lock(&POOL[class]).pop());
        let bytes = idle.unwrap_or_else(|| {
            let usable = class.map_or(len, |class| CLASSES[class].0);
            vec![0; usable + BLOCK_BYTES]
        });
        // The vector is never grown, so that its memory stays where it is.
        let start = bytes.as_ptr().addr().wrapping_neg() % BLOCK_BYTES;
        Self {
            bytes,
            start,
            class,
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let Some(class) = self.class else { return };
        let mut idle = lock(&POOL[class]);
        if idle.len() < CLASSES[class].1 {
            idle.push(std::mem::take(&mut self.bytes));
        }
    }
}

fn lock(idle: &Mutex<Vec<Vec<u8>>>) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
    // Nothing can panic between the locking and the unlocking with the list in disorder.
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes that travel beside a message. Cheap to clone and to slice.
#[derive(Clone, Default)]
pub struct Payload {
    memory: Option<Arc<Memory>>,
    start: usize,
    len: usize,
}

impl Payload {
    /// A payload with a copy of `bytes`.
    pub fn copy_from(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self::default();
        }
        let mut payload = PayloadMut::with_len(bytes.len());
        payload.copy_from_slice(bytes);
        payload.freeze()
    }

    /// A part of the bytes, sharing the memory. Aligned only if `range.start` is.
    ///
    /// # Panics
    /// If the range is not within the payload.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len);
        if range.is_empty() {
            return Self::default();
        }
        Self {
            memory: self.memory.clone(),
            start: self.start + range.start,
            len: range.len(),
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Deref for Payload {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.memory {
            Some(memory) => &memory.bytes[self.start..self.start + self.len],
            None => &[],
        }
    }
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Payload {}

impl Hash for Payload {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (**self).hash(hasher);
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.len)
    }
}

/// A payload that is being filled.
pub struct PayloadMut {
    memory: Memory,
    len: usize,
}

impl PayloadMut {
    /// `len` bytes that start at a multiple of 4 KiB. Their content is unspecified (initialised,
    /// but possibly of an earlier payload): fill all of them before the payload leaves.
    pub fn with_len(len: usize) -> Self {
        Self {
            memory: Memory::with_room(len),
            len,
        }
    }

    /// `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        let mut payload = Self::with_len(len);
        payload.fill(0);
        payload
    }

    /// Forgets what lies beyond `len`; no effect if it is that short already.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Ends the filling.
    pub fn freeze(self) -> Payload {
        if self.len == 0 {
            return Payload::default();
        }
        Payload {
            start: self.memory.start,
            len: self.len,
            memory: Some(Arc::new(self.memory)),
        }
    }
}

impl Deref for PayloadMut {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory.bytes[self.memory.start..self.memory.start + self.len]
    }
}

impl DerefMut for PayloadMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory.bytes[self.memory.start..self.memory.start + self.len]
    }
}

impl fmt::Debug for PayloadMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PayloadMut({} bytes)", self.len)
    }
}

/// The parts of `bytes`, which begin at `offset_in_chunk`, one for each block they touch.
fn block_parts(offset_in_chunk: u32, bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let within = offset_in_chunk as usize % BLOCK_BYTES;
    let (first, rest) = bytes.split_at(bytes.len().min(BLOCK_BYTES - within));
    (!first.is_empty())
        .then_some(first)
        .into_iter()
        .chain(rest.chunks(BLOCK_BYTES))
}

/// One crc32c for each block that the bytes touch, over the touched part of it. Blocks start at
/// multiples of 4 KiB in the chunk.
pub fn block_checksums(offset_in_chunk: u32, bytes: &[u8]) -> Vec<u32> {
    block_parts(offset_in_chunk, bytes)
        .map(crc32c::crc32c)
        .collect()
}

/// Whether `sums` are the checksums of exactly these bytes at that place.
pub fn verify_checksums(offset_in_chunk: u32, bytes: &[u8], sums: &[u32]) -> bool {
    let mut expected = sums.iter();
    block_parts(offset_in_chunk, bytes).all(|part| expected.next() == Some(&crc32c::crc32c(part)))
        && expected.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buffers_are_aligned_whatever_their_size() {
        for len in [
            1,
            4095,
            4096,
            70_000,
            PAYLOAD_BYTES_MAX,
            PAYLOAD_BYTES_MAX * 2,
        ] {
            let payload = PayloadMut::with_len(len).freeze();
            assert_eq!(payload.as_ptr().addr() % BLOCK_BYTES, 0, "{len}");
            assert_eq!(payload.len(), len);
        }
    }

    #[test]
    fn a_shared_buffer_is_not_reused_until_its_last_slice_is_gone() {
        let mut first = PayloadMut::with_len(64 * BLOCK_BYTES);
        first.fill(7);
        let slice = first.freeze().slice(100..200);
        let others: Vec<PayloadMut> = (0..8)
            .map(|_| PayloadMut::zeroed(64 * BLOCK_BYTES))
            .collect();
        assert!(slice.iter().all(|b| *b == 7));
        drop(others);
        assert!(slice.iter().all(|b| *b == 7));
    }

    #[test]
    fn the_pool_keeps_no_more_than_its_bound() {
        let many: Vec<PayloadMut> = (0..300).map(|_| PayloadMut::with_len(1)).collect();
        drop(many);
        assert!(lock(&POOL[0]).len() <= CLASSES[0].1);
    }

    #[test]
    fn truncation_never_lengthens() {
        let mut payload = PayloadMut::zeroed(10);
        payload.truncate(20);
        assert_eq!(payload.len(), 10);
        payload.truncate(3);
        assert_eq!(payload.freeze(), Payload::copy_from(&[0; 3]));
    }

    #[test]
    fn checksums_follow_the_block_grid_of_the_chunk() {
        let bytes = [1u8; 5000];
        assert_eq!(block_checksums(0, &bytes).len(), 2);
        assert_eq!(block_checksums(4000, &bytes).len(), 3);
        assert_eq!(block_checksums(4096, &[]).len(), 0);
        assert_eq!(
            block_checksums(4000, &bytes)[0],
            crc32c::crc32c(&bytes[..96])
        );
    }

    proptest! {
        #[test]
        fn a_changed_byte_or_a_changed_count_is_seen(
            offset in 0u32..20_000,
            mut bytes in proptest::collection::vec(any::<u8>(), 1..10_000),
            at in any::<proptest::sample::Index>(),
        ) {
            let mut sums = block_checksums(offset, &bytes);
            prop_assert!(verify_checksums(offset, &bytes, &sums));
            let at = at.index(bytes.len());
            bytes[at] ^= 1;
            prop_assert!(!verify_checksums(offset, &bytes, &sums));
            bytes[at] ^= 1;
            sums.push(0);
            prop_assert!(!verify_checksums(offset, &bytes, &sums));
            sums.truncate(sums.len() - 2);
            prop_assert!(!verify_checksums(offset, &bytes, &sums));
        }
    }
}
