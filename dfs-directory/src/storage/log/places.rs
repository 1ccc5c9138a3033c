//! Where each entry of the log is: kept in memory for all of them, so it is small. An entry takes
//! 12 bytes; its segment follows from its index, and who wrote it from the reign it is in.

use super::Position;
use std::collections::VecDeque;

/// Frames start at multiples of this in their segment.
const ALIGN: u64 = 8;

/// Where an entry is in its segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// Offset of its frame, in units of `ALIGN`.
    frame: u32,
    /// Bytes of its frame.
    pub(super) span: u32,
    /// Bytes of its payload.
    pub(super) length: u32,
}

impl Place {
    /// None for an offset that no segment has: one behind 32 GiB, or not aligned.
    pub(super) fn new(frame: u64, span: u32, length: u32) -> Option<Self> {
        let aligned = frame.is_multiple_of(ALIGN);
        let frame = u32::try_from(frame / ALIGN).ok().filter(|_| aligned)?;
        Some(Self {
            frame,
            span,
            length,
        })
    }

    /// Offset of its frame.
    pub(super) fn frame(&self) -> u64 {
        u64::from(self.frame) * ALIGN
    }
}

/// Entries that one leader wrote in one term: up to where the next reign begins.
#[derive(Clone, Copy, Debug)]
struct Reign {
    first: u64,
    term: u64,
    leader: u64,
}

/// The entries from `first` on, without gaps.
#[derive(Debug, Default)]
pub(super) struct Places {
    first: u64,
    places: VecDeque<Place>,
    /// By `first`; the oldest one begins at the first entry or before it.
    reigns: VecDeque<Reign>,
}

impl Places {
    pub(super) fn starting_at(first: u64) -> Self {
        Self {
            first,
            ..Self::default()
        }
    }

    /// Index of the first entry there is, or will be.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Index behind the last entry.
    pub(super) fn end(&self) -> u64 {
        self.first + self.places.len() as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn get(&self, index: u64) -> Option<Place> {
        let nth = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.places.get(nth).copied()
    }

    pub(super) fn position(&self, index: u64) -> Option<Position> {
        self.get(index)?;
        let reign = self.reigns.partition_point(|r| r.first <= index);
        let reign = self.reigns.get(reign.checked_sub(1)?)?;
        Some(Position {
            index,
            term: reign.term,
            leader: reign.leader,
        })
    }

    /// Adds an entry behind the last one; its index is `end`.
    pub(super) fn push(&mut self, place: Place, (term, leader): (u64, u64)) {
        let same = |r: &Reign| (r.term, r.leader) == (term, leader);
        if !self.reigns.back().is_some_and(same) {
            self.reigns.push_back(Reign {
                first: self.end(),
                term,
                leader,
            });
        }
        self.places.push_back(place);
    }

    /// Drops the entries from `index` on.
    pub(super) fn truncate(&mut self, index: u64) {
        self.places
            .truncate(index.saturating_sub(self.first) as usize);
        while self.reigns.back().is_some_and(|r| r.first >= index) {
            self.reigns.pop_back();
        }
    }

    /// Drops the entries before `index`, where the next ones begin.
    pub(super) fn begin_at(&mut self, index: u64) {
        let gone = index.saturating_sub(self.first);
        self.places
            .drain(..gone.min(self.places.len() as u64) as usize);
        self.first = index;
        if self.places.is_empty() {
            self.reigns.clear();
        }
        while self.reigns.get(1).is_some_and(|next| next.first <= index) {
            self.reigns.pop_front();
        }
    }

    /// The places from the last one back.
    pub(super) fn backwards(&mut self) -> impl Iterator<Item = &mut Place> {
        self.places.iter_mut().rev()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_entry_takes_twelve_bytes() {
        assert_eq!(size_of::<Place>(), 12);
        assert_eq!(Place::new(1 << 34, 1, 1).unwrap().frame(), 1 << 34);
        assert_eq!(Place::new(1 << 35, 1, 1), None);
        assert_eq!(Place::new(4, 1, 1), None);
    }

    proptest! {
        #[test]
        fn positions_are_those_of_a_plain_list(
            steps in proptest::collection::vec((0..4u8, 0..30u64), 1..80),
        ) {
            let mut places = Places::starting_at(5);
            let (mut model, mut first): (Vec<(u64, u32)>, u64) = (Vec::new(), 5);
            let mut term = 1;
            for (step, number) in steps {
                let end = first + model.len() as u64;
                match step {
                    0 | 1 => {
                        term += u64::from(number < 5);
                        places.push(Place::new(number * 8, 1, number as u32).unwrap(), (term, term % 3));
                        model.push((term, number as u32));
                    }
                    2 => {
                        let to = first + number.min(end - first);
                        places.truncate(to);
                        model.truncate((to - first) as usize);
                    }
                    _ => {
                        places.begin_at(first + number);
                        model.drain(..model.len().min(number as usize));
                        first += number;
                    }
                }
                let end = first + model.len() as u64;
                prop_assert_eq!((places.first(), places.end()), (first, end));
                for index in first.saturating_sub(2)..end + 2 {
                    let known = index.checked_sub(first).and_then(|n| model.get(n as usize));
                    let position = known.map(|(term, _)| Position { index, term: *term, leader: term % 3 });
                    prop_assert_eq!(places.position(index), position);
                    prop_assert_eq!(places.get(index).map(|p| p.length), known.map(|(_, l)| *l));
                }
            }
        }
    }
}
