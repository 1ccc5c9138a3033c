//! The nodes' clocks. None is right: each runs a few percent fast or slow, and those of file
//! servers and mounts jump forward now and then, as after a stop of their machine. Nothing runs
//! backwards: the product uses a clock that does not.

use super::random::Random;
use std::collections::BTreeMap;
use std::time::Duration;

/// Millionths that make a second of a clock a true one.
const TRUE_RATE: u64 = 1_000_000;

#[derive(Clone, Copy, Debug)]
struct Clock {
    /// Millionths of a second that it goes on in a true second.
    rate: u64,
    /// It showed `shown` at the true time `at`.
    at: Duration,
    shown: Duration,
}

impl Clock {
    fn shows(&self, now: Duration) -> Duration {
        let passed = now.saturating_sub(self.at).as_nanos() as u64;
        self.shown + Duration::from_nanos((passed / 1000).saturating_mul(self.rate) / 1000)
    }
}

/// The clocks of all nodes, which `N` names.
#[derive(Debug)]
pub struct Clocks<N> {
    clocks: BTreeMap<N, Clock>,
}

impl<N> Default for Clocks<N> {
    fn default() -> Self {
        Self {
            clocks: BTreeMap::new(),
        }
    }
}

impl<N: Copy + Ord> Clocks<N> {
    /// Gives a node its clock, which is off by `most` millionths at most.
    pub fn add(&mut self, random: &mut Random, node: N, most: u64, now: Duration) {
        let rate = TRUE_RATE - most + random.below(2 * most + 1);
        let shown = now + random.micros(0, 1_000_000_000);
        let clock = Clock {
            rate,
            at: now,
            shown,
        };
        self.clocks.insert(node, clock);
    }

    /// What a node's clock shows.
    pub fn shows(&self, node: N, now: Duration) -> Duration {
        self.clocks.get(&node).map_or(now, |c| c.shows(now))
    }

    /// How long a time of a node's clock takes in truth.
    pub fn takes(&self, node: N, time: Duration) -> Duration {
        let rate = self.clocks.get(&node).map_or(TRUE_RATE, |c| c.rate);
        let micros = time.as_micros() as u64;
        Duration::from_micros(micros.saturating_mul(TRUE_RATE) / rate)
    }

    /// A node's clock jumps forward.
    pub fn jump(&mut self, node: N, now: Duration, by: Duration) {
        if let Some(clock) = self.clocks.get_mut(&node) {
            clock.shown = clock.shows(now) + by;
            clock.at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_goes_its_own_way_and_never_back() {
        let mut clocks = Clocks::<char>::default();
        let node = 'a';
        let begin = Duration::from_secs(100);
        clocks.add(&mut Random::new(7), node, 50_000, begin);
        let first = clocks.shows(node, begin);
        let second = clocks.shows(node, begin + Duration::from_secs(1));
        let passed = second - first;
        assert!(passed > Duration::from_millis(940) && passed < Duration::from_millis(1060));
        let due = begin + clocks.takes(node, Duration::from_secs(1));
        let off = clocks
            .shows(node, due)
            .abs_diff(first + Duration::from_secs(1));
        assert!(off < Duration::from_micros(10), "{off:?}");
        clocks.jump(node, begin, Duration::from_secs(5));
        assert_eq!(clocks.shows(node, begin), first + Duration::from_secs(5));
    }
}
