//! A set of block numbers of one chunk.

/// Blocks `0..len`, one bit each; what lies beyond is not in the set.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct BlockSet {
    words: Vec<u64>,
}

impl BlockSet {
    pub(super) fn contains(&self, block: u32) -> bool {
        self.words
            .get(block as usize / 64)
            .is_some_and(|word| word >> (block % 64) & 1 == 1)
    }

    pub(super) fn insert(&mut self, block: u32) {
        let at = block as usize / 64;
        if at >= self.words.len() {
            self.words.resize(at + 1, 0);
        }
        self.words[at] |= 1 << (block % 64);
    }

    pub(super) fn remove(&mut self, block: u32) {
        if let Some(word) = self.words.get_mut(block as usize / 64) {
            *word &= !(1 << (block % 64));
        }
    }

    /// Removes every block from `end` on.
    pub(super) fn truncate(&mut self, end: u32) {
        self.words.truncate(end.div_ceil(64) as usize);
        if !end.is_multiple_of(64)
            && let Some(last) = self.words.get_mut(end as usize / 64)
        {
            *last &= (1 << (end % 64)) - 1;
        }
    }

    pub(super) fn remove_all(&mut self) {
        self.words.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// The first block from `from` on that is in the set, or that is not.
    pub(super) fn next(&self, from: u32, contained: bool) -> Option<u32> {
        let mut at = from;
        while (at as usize / 64) < self.words.len() {
            let word = self.words[at as usize / 64];
            let word = if contained { word } else { !word } >> (at % 64);
            if word != 0 {
                return Some(at + word.trailing_zeros());
            }
            at = (at / 64 + 1) * 64;
        }
        (!contained).then_some(at.max(from))
    }

    /// The blocks in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(at, word)| {
            (0..64)
                .filter(move |bit| word >> bit & 1 == 1)
                .map(move |bit| at as u32 * 64 + bit)
        })
    }

    /// Bytes of the stored form for `blocks` blocks.
    pub(super) fn stored_len(blocks: u32) -> usize {
        blocks.div_ceil(8) as usize
    }

    /// Appends blocks `0..blocks` as bytes, block 0 in the lowest bit of the first.
    pub(super) fn store(&self, blocks: u32, out: &mut Vec<u8>) {
        for byte in 0..Self::stored_len(blocks) {
            let word = self.words.get(byte / 8).copied().unwrap_or(0);
            out.push((word >> (byte % 8 * 8)) as u8);
        }
    }

    /// Reads the stored form.
    pub(super) fn load(bytes: &[u8]) -> Self {
        let mut words = vec![0u64; bytes.len().div_ceil(8)];
        for (at, byte) in bytes.iter().enumerate() {
            words[at / 8] |= u64::from(*byte) << (at % 8 * 8);
        }
        Self { words }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_set(blocks in proptest::collection::btree_set(0u32..300, 0..60), end in 0u32..300) {
            let mut set = BlockSet::default();
            blocks.iter().for_each(|block| set.insert(*block));
            prop_assert_eq!(set.iter().collect::<BTreeSet<_>>(), blocks.clone());
            let mut bytes = Vec::new();
            set.store(300, &mut bytes);
            prop_assert_eq!(bytes.len(), BlockSet::stored_len(300));
            prop_assert_eq!(BlockSet::load(&bytes).iter().collect::<Vec<_>>(), set.iter().collect::<Vec<_>>());
            set.truncate(end);
            prop_assert!(set.iter().eq(blocks.iter().copied().filter(|block| *block < end)));
            prop_assert_eq!(set.is_empty(), set.iter().next().is_none());
            prop_assert_eq!(set.count() as usize, set.iter().count());
            prop_assert_eq!(set.next(end, true), None);
            let mut set = BlockSet::default();
            blocks.iter().for_each(|block| set.insert(*block));
            prop_assert_eq!(set.next(end, true), blocks.range(end..).next().copied());
            prop_assert_eq!(set.next(end, false), (end..).find(|block| !blocks.contains(block)));
        }
    }
}
