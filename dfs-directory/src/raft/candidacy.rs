//! Which of two members gives way when both would stand for election at once.
//!
//! Each would vote for itself first and take the other one's vote away, nobody would have a
//! majority, and the next try comes only when the voters' patience is over again: a second without a
//! leader. So a member that is asked (`election`: *sounding*) while it asks itself gives way to the
//! smaller number, and whoever has said that it would vote for somebody does not stand for as long
//! as an election takes.
//!
//! Pure, and a promise of nothing: who is elected is decided by the votes.

use std::time::Duration;

/// Who would vote for another one does not stand for so long.
const GIVES_WAY: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Quiet,
    /// Asks the others.
    Sounding,
    /// Has voted for itself.
    Standing,
}

/// What one member is about to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Candidacy {
    id: u64,
    phase: Phase,
    gives_way_until: Duration,
}

impl Candidacy {
    pub(super) fn of(id: u64) -> Self {
        Self {
            id,
            phase: Phase::Quiet,
            gives_way_until: Duration::ZERO,
        }
    }

    /// It begins to ask the others; `false` while it gives way.
    pub(super) fn sound(&mut self, now: Duration) -> bool {
        let may = now >= self.gives_way_until;
        if may {
            self.phase = Phase::Sounding;
        }
        may
    }

    /// The others would vote for it: `false` if it has given way meanwhile.
    pub(super) fn stand(&mut self) -> bool {
        let stands = self.phase == Phase::Sounding;
        if stands {
            self.phase = Phase::Standing;
        }
        stands
    }

    /// It has been elected, or has not.
    pub(super) fn rest(&mut self) {
        self.phase = Phase::Quiet;
    }

    /// Another one asks, and nothing else speaks against it: whether this one would vote for it.
    pub(super) fn would_vote(&mut self, asks: u64, now: Duration) -> bool {
        let gives_way = match self.phase {
            Phase::Quiet => true,
            Phase::Sounding => asks < self.id,
            Phase::Standing => false,
        };
        if gives_way {
            self.phase = Phase::Quiet;
            self.gives_way_until = now + GIVES_WAY;
        }
        gives_way
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(5);

    #[test]
    fn of_two_that_ask_at_once_one_stands_whatever_comes_first() {
        for two_is_asked_first in [true, false] {
            let (mut one, mut two) = (Candidacy::of(1), Candidacy::of(2));
            assert!(one.sound(NOW) && two.sound(NOW));
            let (would_two, would_one) = if two_is_asked_first {
                (two.would_vote(1, NOW), one.would_vote(2, NOW))
            } else {
                let first = one.would_vote(2, NOW);
                (two.would_vote(1, NOW), first)
            };
            assert!(would_two && !would_one);
            assert!(one.stand() && !two.stand());
            assert!(!two.sound(NOW), "it would take the first one's votes");
            assert!(two.sound(NOW + GIVES_WAY), "should that one have died");
        }
    }

    #[test]
    fn who_has_voted_for_itself_gives_way_to_nobody() {
        let mut two = Candidacy::of(2);
        assert!(two.sound(NOW) && two.stand());
        assert!(!two.would_vote(1, NOW));
        two.rest();
        assert!(two.would_vote(3, NOW));
    }
}
