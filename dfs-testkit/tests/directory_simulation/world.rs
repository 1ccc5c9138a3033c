//! What everything of a run shares: time, chance, the network, the clocks, and what was found.
//!
//! The run is one thread with a clock that stands still while anything can happen, so all that
//! happens has one order, and the seed decides it.

use dfs_testkit::random::Random;
use dfs_testkit::sim::clock::Clocks;
use dfs_testkit::sim::net::{Net, Weather};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Lines of the trace that a violation shows.
const TRACE_LINES: usize = 300;

/// A message that meets a cut link comes again (as a kernel sends again) or is lost, in thousandths.
const RESENT: u64 = 700;

/// A place. It outlives the processes that run there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Node {
    Member(usize),
    Mount(usize),
    Server(usize),
}

/// A rule that is broken on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Planted {
    #[default]
    Nothing,
    /// A new leader knows no interest records: it grants what others have still to reclaim.
    GrantDuringGrace,
    /// A dead session's locks are given on although no file server has heard of its end.
    ForgetToFence,
    /// The answers that were remembered are gone after a change of the leader.
    LedgerLost,
    /// A mount counts its right to cache from the answer to its heartbeat, not from the sending.
    RightFromReply,
    /// Who was deposed and has not heard of it goes on answering.
    DeposedGrants,
}

/// How a run is made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    pub(crate) planted: Planted,
    /// Keep the last lines of what happened.
    pub(crate) trace: bool,
    /// Print every line at once.
    pub(crate) live: bool,
}

#[derive(Debug)]
struct State {
    random: Random,
    net: Net<Node>,
    clocks: Clocks<Node>,
    /// Nodes whose messages take long, and until when.
    slow: BTreeMap<Node, Duration>,
    /// What the clocks of paused members show to them.
    frozen: BTreeMap<Node, Duration>,
    violation: Option<String>,
    trace: VecDeque<String>,
    digest: u64,
    steps: u64,
    healed: bool,
}

/// Everything around the processes.
#[derive(Debug)]
pub(crate) struct World {
    begun: Instant,
    pub(crate) options: Options,
    state: Mutex<State>,
}

/// Locks; nobody panics while holding it but a run that has failed anyway.
pub(crate) fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(crate) fn new(seed: u64, options: Options) -> Arc<Self> {
        let mut random = Random::new(seed);
        let weather = Weather::of(&mut random);
        Arc::new(Self {
            begun: Instant::now(),
            options,
            state: Mutex::new(State {
                random,
                net: Net::new(weather),
                clocks: Clocks::default(),
                slow: BTreeMap::new(),
                frozen: BTreeMap::new(),
                violation: None,
                trace: VecDeque::new(),
                digest: 0xcbf2_9ce4_8422_2325,
                steps: 0,
                healed: false,
            }),
        })
    }

    /// True time since the beginning.
    pub(crate) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(crate) fn planted(&self, planted: Planted) -> bool {
        self.options.planted == planted
    }

    pub(crate) fn random<T>(&self, draw: impl FnOnce(&mut Random) -> T) -> T {
        draw(&mut locked(&self.state).random)
    }

    pub(crate) fn millis(&self, from: u64, to: u64) -> Duration {
        self.random(|random| random.micros(from * 1000, to * 1000))
    }

    pub(crate) async fn sleep(&self, from: u64, to: u64) {
        tokio::time::sleep(self.millis(from, to)).await;
    }

    // Clocks.

    /// Gives a node its clock: directories' are off by 1 % at most, mounts' by 3 %.
    pub(crate) fn add_clock(&self, node: Node) {
        let most = match node {
            Node::Mount(_) => 30_000,
            Node::Member(_) | Node::Server(_) => 10_000,
        };
        let now = self.now();
        let state = &mut *locked(&self.state);
        state.clocks.add(&mut state.random, node, most, now);
    }

    /// What a node's clock shows to who runs there.
    pub(crate) fn clock(&self, node: Node) -> Duration {
        let now = self.now();
        let state = locked(&self.state);
        match state.frozen.get(&node) {
            Some(shown) if state.net.paused(node, now).is_some() => *shown,
            _ => state.clocks.shows(node, now),
        }
    }

    pub(crate) fn jump(&self, node: Node, by: Duration) {
        let now = self.now();
        locked(&self.state).clocks.jump(node, now, by);
    }

    // The network.

    pub(crate) fn cut(&self, from: Node, to: Node, time: Duration) {
        let until = self.now() + time;
        locked(&self.state).net.cut(from, to, until);
    }

    pub(crate) fn is_cut(&self, from: Node, to: Node) -> bool {
        locked(&self.state).net.is_cut(from, to, self.now())
    }

    /// Nothing happens on a node for a while, and then everything at once.
    pub(crate) fn pause(&self, node: Node, time: Duration) {
        let shown = self.clock(node);
        let until = self.now() + time;
        let mut state = locked(&self.state);
        // A mount's parts wait before they look at the clock; a member's can't be held, so its clock is.
        if matches!(node, Node::Member(_)) {
            state.frozen.insert(node, shown);
        }
        state.net.pause(node, until);
    }

    pub(crate) fn is_paused(&self, node: Node) -> bool {
        let now = self.now();
        locked(&self.state).net.paused(node, now).is_some()
    }

    /// Waits until the node is not paused.
    pub(crate) async fn awake(&self, node: Node) {
        loop {
            let now = self.now();
            let Some(until) = locked(&self.state).net.paused(node, now) else {
                return;
            };
            // Healing ends a pause before its time.
            tokio::time::sleep((until - now).min(Duration::from_millis(200))).await;
        }
    }

    /// All messages of a node take long for a while.
    pub(crate) fn slow(&self, node: Node, time: Duration) {
        let until = self.now() + time;
        locked(&self.state).slow.insert(node, until);
    }

    /// How long a message is on its way.
    pub(crate) fn delay(&self, from: Node, to: Node) -> Duration {
        let now = self.now();
        let state = &mut *locked(&self.state);
        let slow = |node| state.slow.get(node).is_some_and(|until| *until > now);
        match slow(&from) || slow(&to) {
            true => state.random.micros(150_000, 900_000),
            false => state.net.delay(&mut state.random),
        }
    }

    /// Whether a datagram is lost at once.
    fn loses(&self) -> bool {
        let state = &mut *locked(&self.state);
        let lost = state.net.weather.lost;
        state.random.chance(lost)
    }

    /// A message by itself: true when it has come, false when it never will.
    pub(crate) async fn travel(&self, from: Node, to: Node) -> bool {
        self.awake(from).await;
        let delay = self.delay(from, to);
        let lost = self.loses();
        tokio::time::sleep(delay).await;
        while self.is_cut(from, to) {
            if !self.random(|random| random.chance(RESENT)) {
                return false;
            }
            self.sleep(20, 400).await;
        }
        self.awake(to).await;
        !lost
    }

    /// All faults of the network and of time are over.
    pub(crate) fn heal(&self) {
        let mut state = locked(&self.state);
        state.net.heal();
        state.slow.clear();
        state.healed = true;
    }

    pub(crate) fn is_healed(&self) -> bool {
        locked(&self.state).healed
    }

    // What is found.

    /// Adds a number to the digest of the run (FNV-1a).
    pub(crate) fn note(&self, number: u64) {
        let mut state = locked(&self.state);
        state.steps += 1;
        for byte in number.to_le_bytes() {
            state.digest = (state.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(crate) fn digest(&self) -> (u64, u64) {
        let state = locked(&self.state);
        (state.digest, state.steps)
    }

    /// A rule is broken. The first one counts.
    pub(crate) fn violate(&self, what: String) {
        self.trace(|| format!("VIOLATION {what}"));
        locked(&self.state).violation.get_or_insert(what);
    }

    pub(crate) fn check(&self, result: Result<(), String>) {
        if let Err(what) = result {
            self.violate(what);
        }
    }

    pub(crate) fn violation(&self) -> Option<String> {
        locked(&self.state).violation.clone()
    }

    /// Writes a line of the trace, and counts when it was.
    pub(crate) fn trace(&self, line: impl FnOnce() -> String) {
        let at = self.now().as_micros();
        self.note(at as u64);
        if !self.options.trace && !self.options.live {
            return;
        }
        let line = format!("{:>12.3} {}", at as f64 / 1000.0, line());
        if self.options.live {
            println!("{line}");
        }
        let mut state = locked(&self.state);
        if state.trace.len() >= TRACE_LINES {
            state.trace.pop_front();
        }
        state.trace.push_back(line);
    }

    pub(crate) fn trace_lines(&self) -> Vec<String> {
        locked(&self.state).trace.iter().cloned().collect()
    }
}
