//! The network between nodes: what it does to a message.
//!
//! Every message is on its way for a random time, so messages overtake each other; some are
//! lost, some come twice, the copy much later. A link can be cut, in both directions or in one.

use super::random::Random;
use std::collections::BTreeMap;
use std::time::Duration;

/// How badly the network behaves, in messages of a thousand.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Never come.
    pub lost: u64,
    /// Come twice.
    pub doubled: u64,
    /// Takes up to half a second instead of a millisecond.
    pub slow: u64,
}

impl Weather {
    /// Nothing happens to messages.
    pub const FINE: Self = Self {
        lost: 0,
        doubled: 0,
        slow: 0,
    };

    /// Another one for each seed, some of them fine.
    pub fn of(random: &mut Random) -> Self {
        let mut pick = |choices: [u64; 4]| choices[random.index(4)];
        Self {
            lost: pick([0, 0, 2, 10]),
            doubled: pick([0, 20, 50, 100]),
            slow: pick([0, 5, 20, 60]),
        }
    }
}

/// What becomes of a message: when its copies arrive.
pub type Fate = Vec<Duration>;

/// A network between nodes that `N` names.
#[derive(Debug)]
pub struct Net<N> {
    /// What happens to messages on the way.
    pub weather: Weather,
    /// Directed links that are cut, until then.
    cuts: BTreeMap<(N, N), Duration>,
    paused: BTreeMap<N, Duration>,
}

impl<N: Copy + Ord> Net<N> {
    /// Every link is whole.
    pub fn new(weather: Weather) -> Self {
        Self {
            weather,
            cuts: BTreeMap::new(),
            paused: BTreeMap::new(),
        }
    }

    /// Cuts the way from one node to another.
    pub fn cut(&mut self, from: N, to: N, until: Duration) {
        let end = self.cuts.entry((from, to)).or_default();
        *end = until.max(*end);
    }

    /// Whether nothing gets through at this moment.
    pub fn is_cut(&self, from: N, to: N, now: Duration) -> bool {
        self.cuts.get(&(from, to)).is_some_and(|end| *end > now)
    }

    /// Nothing happens on a node for a while; then everything at once.
    pub fn pause(&mut self, node: N, until: Duration) {
        let end = self.paused.entry(node).or_default();
        *end = until.max(*end);
    }

    /// Until when a node is paused, if it is.
    pub fn paused(&self, node: N, now: Duration) -> Option<Duration> {
        self.paused.get(&node).copied().filter(|end| *end > now)
    }

    /// Everything is well from now on.
    pub fn heal(&mut self) {
        self.weather = Weather::FINE;
        self.cuts.clear();
        self.paused.clear();
    }

    /// The delays of the copies of a message that sets out now; none if it is lost.
    pub fn fate(&self, random: &mut Random) -> Fate {
        let mut fate = Vec::new();
        if !random.chance(self.weather.lost) {
            fate.push(self.delay(random));
        }
        if random.chance(self.weather.doubled) {
            fate.push(random.micros(100, 400_000));
        }
        fate
    }

    /// How long one copy is on its way.
    pub fn delay(&self, random: &mut Random) -> Duration {
        if random.chance(self.weather.slow) {
            random.micros(1_000, 500_000)
        } else {
            random.micros(50, 1_000)
        }
    }
}
