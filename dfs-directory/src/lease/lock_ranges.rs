//! The byte ranges that one owner has locked on one inode: disjoint, ordered, neighbours of the
//! same kind merged, as Linux keeps POSIX locks.

use dfs_proto::lock::{LockKind, LockRange};
use std::collections::BTreeMap;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Segment {
    last: u64,
    kind: LockKind,
    pid: u32,
}

/// Locked ranges of one owner.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct LockRanges {
    /// By first byte.
    segments: BTreeMap<u64, Segment>,
}

impl LockRanges {
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Number of separate locks.
    pub fn len(&self) -> usize {
        self.segments.len()
    }

    /// All locks in the order of their bytes.
    pub fn iter(&self) -> impl Iterator<Item = (LockRange, LockKind, u32)> {
        self.segments.iter().map(|(start, s)| {
            (
                LockRange {
                    start: *start,
                    last: s.last,
                },
                s.kind,
                s.pid,
            )
        })
    }

    /// The first lock that overlaps `range` and stands against a lock of `wanted`.
    pub fn first_conflict(
        &self,
        range: LockRange,
        wanted: LockKind,
    ) -> Option<(LockRange, LockKind, u32)> {
        let from = self.first_overlap(range.start);
        self.segments
            .range(from..=range.last)
            .filter(|(_, s)| s.last >= range.start)
            .find(|(_, s)| wanted == LockKind::Exclusive || s.kind == LockKind::Exclusive)
            .map(|(start, s)| {
                (
                    LockRange {
                        start: *start,
                        last: s.last,
                    },
                    s.kind,
                    s.pid,
                )
            })
    }

    /// Whether every byte of `range` is locked with `kind` already.
    pub fn covers(&self, range: LockRange, kind: LockKind) -> bool {
        self.segments
            .range(..=range.start)
            .next_back()
            .is_some_and(|(_, s)| s.last >= range.last && s.kind == kind)
    }

    /// Locks the range; what the owner had there before is replaced.
    pub fn lock(&mut self, range: LockRange, kind: LockKind, pid: u32) {
        self.unlock(range);
        let (mut start, mut last) = (range.start, range.last);
        let before = self
            .segments
            .range(..start)
            .next_back()
            .map(|(at, s)| (*at, *s));
        if let Some((at, s)) = before
            && s.kind == kind
            && s.last.checked_add(1) == Some(start)
        {
            self.segments.remove(&at);
            start = at;
        }
        let after = last
            .checked_add(1)
            .and_then(|next| self.segments.get(&next).copied());
        if let Some(s) = after
            && s.kind == kind
        {
            self.segments.remove(&(last + 1));
            last = s.last;
        }
        self.segments.insert(start, Segment { last, kind, pid });
    }

    /// Unlocks the range; a lock around it is split. Tells whether anything was locked there.
    pub fn unlock(&mut self, range: LockRange) -> bool {
        let from = self.first_overlap(range.start);
        let touched: Vec<(u64, Segment)> = self
            .segments
            .range(from..=range.last)
            .filter(|(_, s)| s.last >= range.start)
            .map(|(start, s)| (*start, *s))
            .collect();
        for (start, segment) in &touched {
            self.segments.remove(start);
            if *start < range.start {
                self.segments.insert(
                    *start,
                    Segment {
                        last: range.start - 1,
                        ..*segment
                    },
                );
            }
            if segment.last > range.last {
                self.segments.insert(range.last + 1, *segment);
            }
        }
        !touched.is_empty()
    }

    /// Where a scan for segments that reach `start` begins.
    fn first_overlap(&self, start: u64) -> u64 {
        self.segments
            .range(..=start)
            .next_back()
            .map_or(start, |(at, _)| *at)
    }
}
