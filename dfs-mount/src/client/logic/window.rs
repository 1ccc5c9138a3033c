//! Sequence numbers of a session's changes, and which of them are still unanswered.
//!
//! Pure. The directory keeps its replies from the lowest unanswered sequence up, so a number
//! counts as answered only when nobody will repeat it.

use dfs_proto::ids::Sequence;
use std::collections::BTreeSet;

/// The distance between the next sequence and the lowest unanswered one stays below this: one
/// request that takes very long must not make the directory remember replies without bound.
pub const SPAN_MAX: u64 = 4096;

/// The numbers given out and not answered yet.
#[derive(Debug)]
pub struct Window {
    next: u64,
    unanswered: BTreeSet<u64>,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            next: 1,
            unanswered: BTreeSet::new(),
        }
    }
}

impl Window {
    /// The next number, or `None` while the oldest unanswered one is too far behind.
    pub fn begin(&mut self) -> Option<Sequence> {
        if self.next - self.lowest_unanswered().0 >= SPAN_MAX {
            return None;
        }
        let sequence = self.next;
        self.next += 1;
        self.unanswered.insert(sequence);
        Some(Sequence(sequence))
    }

    /// The answer to a number has come, or nobody will ever ask for it again.
    pub fn finish(&mut self, sequence: Sequence) {
        self.unanswered.remove(&sequence.0);
    }

    /// Every number below has been answered.
    pub fn lowest_unanswered(&self) -> Sequence {
        Sequence(self.unanswered.first().copied().unwrap_or(self.next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_lowest_unanswered_rises_only_over_answered_numbers() {
        let mut window = Window::default();
        assert_eq!(window.lowest_unanswered(), Sequence(1));
        let a = window.begin().expect("room");
        let b = window.begin().expect("room");
        assert_eq!((a, b), (Sequence(1), Sequence(2)));
        window.finish(b);
        assert_eq!(window.lowest_unanswered(), Sequence(1));
        window.finish(a);
        assert_eq!(window.lowest_unanswered(), Sequence(3));
    }

    #[test]
    fn a_stuck_request_bounds_the_window() {
        let mut window = Window::default();
        let stuck = window.begin().expect("room");
        let mut given = 1;
        while let Some(sequence) = window.begin() {
            window.finish(sequence);
            given += 1;
        }
        assert_eq!(given, SPAN_MAX);
        window.finish(stuck);
        assert!(window.begin().is_some());
    }

    proptest! {
        #[test]
        fn numbers_rise_and_nothing_unanswered_is_passed(finish in prop::collection::vec(any::<bool>(), 1..200)) {
            let mut window = Window::default();
            let mut open = Vec::new();
            let mut last = 0;
            for finish_one in finish {
                if finish_one && !open.is_empty() {
                    window.finish(open.swap_remove(0));
                } else if let Some(sequence) = window.begin() {
                    prop_assert!(sequence.0 > last);
                    last = sequence.0;
                    open.push(sequence);
                }
                for sequence in &open {
                    prop_assert!(window.lowest_unanswered() <= *sequence);
                }
            }
        }
    }
}
