//! The file in memory.

use super::{BASE, BLOCK, SPAN};
use std::collections::BTreeSet;
use std::ops::Range;

/// What the file is. Only the window is ever written.
#[derive(Clone, Debug, Default)]
pub struct Model {
    size: u64,
    /// The window, as far as it was ever reached; what lies beyond is zeros.
    bytes: Vec<u8>,
    /// Blocks that are stored.
    stored: BTreeSet<u64>,
    /// Some mount has stored into its map and not synced it: what is stored will be told later.
    pub(super) unwritten: [bool; 2],
}

impl Model {
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// What `st_blocks` is to be, if that can be said.
    pub(super) fn sectors(&self) -> Option<u64> {
        let told = self.unwritten == [false; 2];
        told.then(|| self.stored.len() as u64 * (BLOCK / 512))
    }

    /// What differs from the blocks that a file says to store.
    pub(super) fn storage_against(&self, found: &BTreeSet<u64>) -> String {
        let missing: Vec<_> = self.stored.difference(found).collect();
        let unexpected: Vec<_> = found.difference(&self.stored).collect();
        format!("blocks {missing:?} are holes, {unexpected:?} are data")
    }

    /// The bytes of a part of the window that is within the file.
    pub(super) fn read(&self, range: Range<u64>) -> &[u8] {
        &self.bytes[(range.start - BASE) as usize..(range.end - BASE) as usize]
    }

    /// The part of a range that is within the file.
    pub(super) fn within(&self, at: u64, len: u64) -> Range<u64> {
        let end = (at + len).min(self.size).min(BASE + SPAN);
        at.min(end)..end
    }

    fn place(&mut self, range: &Range<u64>) -> &mut [u8] {
        let end = (range.end - BASE) as usize;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[(range.start - BASE) as usize..end]
    }

    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) {
        let range = at..at + bytes.len() as u64;
        if range.is_empty() {
            return;
        }
        self.place(&range).copy_from_slice(bytes);
        self.store(&range);
        self.grow(range.end);
    }

    /// Blocks of the range are stored.
    pub(super) fn store(&mut self, range: &Range<u64>) {
        if !range.is_empty() {
            self.stored
                .extend(range.start / BLOCK..range.end.div_ceil(BLOCK));
        }
    }

    pub(super) fn grow(&mut self, size: u64) {
        self.size = self.size.max(size);
        if self.size > BASE {
            let all = BASE..self.size;
            self.place(&all);
        }
    }

    pub(super) fn zero(&mut self, range: &Range<u64>) {
        if !range.is_empty() {
            self.place(range).fill(0);
        }
    }

    /// Whole blocks of the range are not stored any more; the last one of the file counts as whole.
    pub(super) fn punch(&mut self, range: &Range<u64>) {
        let range = range.start..range.end.min(self.size);
        if range.is_empty() {
            return;
        }
        self.zero(&range);
        let end = match range.end == self.size {
            true => range.end.div_ceil(BLOCK),
            false => range.end / BLOCK,
        };
        for block in range.start.div_ceil(BLOCK)..end {
            self.stored.remove(&block);
        }
    }

    pub(super) fn truncate(&mut self, size: u64) {
        if size < self.size {
            let kept = size.saturating_sub(BASE) as usize;
            self.bytes.truncate(kept);
            self.stored.split_off(&size.div_ceil(BLOCK));
            self.size = size;
        }
        self.grow(size);
    }
}
