//! Where the kernel may have cached pages of an inode, so that a write beside the cache drops what
//! it made old and the next one, into the same part, finds nothing left to drop. Pure.
//!
//! Known in regions, not in pages: one invalidation clears a whole region for all the writes that
//! follow, and a file of any size is a short list. A region that is noted without need costs an
//! invalidation, never a stale byte.

use super::recall::PageRange;
use std::collections::BTreeMap;

/// What is dropped at once: large enough that random writes soon find nothing cached, small
/// enough that a writer does not take a large file out of its readers' cache.
const REGION_BYTES: u64 = 1 << 20;

/// Ranges kept apart; beyond it the whole file counts as filled.
const RANGES_MAX: usize = 4096;

/// Names an invalidation that was begun; chosen by the caller, never twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DropId(pub u64);

#[derive(Debug)]
struct Dropping {
    range: PageRange,
    /// Pages may have come in since it began: it clears nothing.
    refilled: bool,
}

/// The filled parts of one inode.
#[derive(Debug, Default)]
pub struct FilledRanges {
    /// Start to end, apart from each other.
    ranges: BTreeMap<u64, u64>,
    dropping: BTreeMap<DropId, Dropping>,
}

impl FilledRanges {
    /// A READ that fills pages has come.
    pub fn filled(&mut self, pages: PageRange) {
        let regions = regions_of(pages);
        for dropping in self.dropping.values_mut() {
            dropping.refilled |= overlap(dropping.range, regions);
        }
        self.insert(regions);
        if self.ranges.len() > RANGES_MAX {
            self.ranges = BTreeMap::from([(0, u64::MAX)]);
        }
    }

    fn insert(&mut self, range: PageRange) {
        let (mut start, mut end) = (range.start, range.end);
        // What touches it becomes one with it.
        while let Some((s, e)) = self.ranges.range(..=end).next_back().map(|(s, e)| (*s, *e)) {
            if e < start {
                break;
            }
            self.ranges.remove(&s);
            start = start.min(s);
            end = end.max(e);
        }
        self.ranges.insert(start, end);
    }

    /// Pages were written beside the cache. What is to be invalidated before the writer is
    /// answered, if anything; `ended` when that is done. With `reading` READs are in progress,
    /// whose pages may come in at any time: then just the written pages go, and stay noted.
    pub fn written(&mut self, id: DropId, pages: PageRange, reading: bool) -> Option<PageRange> {
        let last = self.ranges.range(..pages.end).next_back();
        if last.is_none_or(|(_, end)| *end <= pages.start) {
            return None;
        }
        if reading {
            return Some(pages);
        }
        let range = regions_of(pages);
        let refilled = false;
        self.dropping.insert(id, Dropping { range, refilled });
        Some(range)
    }

    /// An invalidation has ended. Until here its regions counted as filled: a second writer must
    /// not be answered while old pages are still there.
    pub fn ended(&mut self, id: DropId) {
        let Some(Dropping { range, refilled }) = self.dropping.remove(&id) else {
            return;
        };
        if refilled {
            return;
        }
        while let Some((s, e)) = self
            .ranges
            .range(..range.end)
            .next_back()
            .map(|(s, e)| (*s, *e))
            .filter(|(_, e)| *e > range.start)
        {
            self.ranges.remove(&s);
            if e > range.end {
                self.ranges.insert(range.end, e);
            }
            if s < range.start {
                self.ranges.insert(s, range.start);
            }
        }
    }

    /// Whether nothing is known to be filled.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.dropping.is_empty()
    }
}

fn regions_of(pages: PageRange) -> PageRange {
    PageRange {
        start: pages.start - pages.start % REGION_BYTES,
        end: pages
            .end
            .checked_next_multiple_of(REGION_BYTES)
            .unwrap_or(u64::MAX),
    }
}

fn overlap(a: PageRange, b: PageRange) -> bool {
    a.start < b.end && b.start < a.end
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pages(start: u64, len: u64) -> PageRange {
        PageRange::covering(start, len)
    }

    const ID: DropId = DropId(1);
    const OTHER: DropId = DropId(2);

    #[test]
    fn the_second_write_into_a_region_drops_nothing() {
        let mut filled = FilledRanges::default();
        assert_eq!(filled.written(ID, pages(0, 10), false), None);
        filled.filled(pages(3 << 20, 8192));
        let range = filled.written(ID, pages(3 << 20, 100), false);
        let range = range.expect("cached");
        assert_eq!((range.start, range.end), (3 << 20, 4 << 20));
        // Not done yet: another writer has to wait for pages of its own.
        let beside = pages((3 << 20) + 4096, 1);
        assert!(filled.written(OTHER, beside, false).is_some());
        filled.ended(ID);
        assert_eq!(filled.written(ID, pages(3 << 20, 100), false), None);
    }

    #[test]
    fn what_is_read_during_an_invalidation_stays_noted() {
        let mut filled = FilledRanges::default();
        filled.filled(pages(0, 4096));
        assert!(filled.written(ID, pages(0, 4096), false).is_some());
        filled.filled(pages(8192, 4096));
        filled.ended(ID);
        assert!(filled.written(ID, pages(0, 4096), false).is_some());
    }

    #[test]
    fn beside_a_read_in_progress_only_the_written_pages_go() {
        let mut filled = FilledRanges::default();
        filled.filled(pages(0, 1 << 20));
        let range = filled.written(ID, pages(5000, 10), true).expect("cached");
        assert_eq!((range.start, range.end), (4096, 8192));
        filled.ended(ID);
        assert!(filled.written(ID, pages(5000, 10), false).is_some());
    }

    #[test]
    fn very_many_ranges_become_one() {
        let mut filled = FilledRanges::default();
        for n in 0..=RANGES_MAX as u64 {
            filled.filled(pages(n * 4 * REGION_BYTES, 1));
        }
        assert_eq!(filled.ranges.len(), 1);
        assert!(filled.written(ID, pages(1 << 50, 1), false).is_some());
        filled.ended(ID);
        assert_eq!(filled.ranges.len(), 2);
    }

    proptest! {
        /// Against a set of regions: whatever is filled and not dropped since is found.
        #[test]
        fn nothing_filled_is_forgotten(
            steps in proptest::collection::vec((any::<bool>(), 0u64..40, 1u64..6), 1..60)
        ) {
            let mut filled = FilledRanges::default();
            let mut model = std::collections::BTreeSet::new();
            for (write, first, count) in steps {
                let range = pages(first * REGION_BYTES, count * REGION_BYTES);
                let regions = first..first + count;
                if write {
                    let any = regions.clone().any(|r| model.contains(&r));
                    let found = filled.written(ID, range, false);
                    prop_assert_eq!(any, found.is_some());
                    filled.ended(ID);
                    model.retain(|r| !regions.contains(r));
                } else {
                    filled.filled(range);
                    model.extend(regions);
                }
            }
            prop_assert_eq!(model.is_empty(), filled.is_empty());
        }
    }
}
