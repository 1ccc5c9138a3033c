//! Which call comes next: at random, among those that can be made and whose outcome is not chance.

use super::host::Seen;
use dfs_testkit::random::Random;
use std::fmt;

const SLOTS: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Space {
    Flock,
    Posix,
    OpenFile,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    None,
    Shared,
    Exclusive,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum How {
    Test,
    Try,
    Wait,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lock {
    pub(super) slot: usize,
    pub(super) space: Space,
    pub(super) kind: Kind,
    pub(super) start: u64,
    /// 0: to the end, however long the file grows.
    pub(super) len: u64,
    pub(super) how: How,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Act {
    Open(usize),
    Close(usize),
    Dup(usize, usize),
    Lock(Lock),
    Fork,
    EndChild,
    Kill,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Call {
    pub(super) agent: usize,
    pub(super) act: Act,
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(slot) => write!(f, "open {slot}"),
            Self::Close(slot) => write!(f, "close {slot}"),
            Self::Dup(from, to) => write!(f, "dup {from} {to}"),
            Self::Fork => write!(f, "fork"),
            Self::EndChild | Self::Kill => Ok(()),
            Self::Lock(lock) => {
                let space = match lock.space {
                    Space::Flock => "flock",
                    Space::Posix => "posix",
                    Space::OpenFile => "ofd",
                };
                let kind = match lock.kind {
                    Kind::None => "none",
                    Kind::Shared => "shared",
                    Kind::Exclusive => "exclusive",
                };
                let how = match lock.how {
                    How::Test => "test",
                    How::Try => "try",
                    How::Wait => "wait",
                };
                let Lock {
                    slot, start, len, ..
                } = lock;
                write!(f, "{space} {slot} {kind} {start} {len} {how}")
            }
        }
    }
}

impl Lock {
    fn excludes(&self, other: &Self) -> bool {
        let last = |lock: &Self| match (lock.space, lock.len) {
            (Space::Flock, _) | (_, 0) => u64::MAX,
            (_, len) => lock.start + len - 1,
        };
        (self.space == Space::Flock) == (other.space == Space::Flock)
            && (self.kind == Kind::Exclusive || other.kind == Kind::Exclusive)
            && self.start <= last(other)
            && other.start <= last(self)
    }
}

#[derive(Clone, Default)]
struct Process {
    open: [bool; SLOTS],
    child: bool,
    waits: Option<Lock>,
}

/// What is known of the processes, as far as it decides which calls make sense.
pub(super) struct Calls {
    random: Random,
    processes: Vec<Process>,
}

impl Calls {
    pub(super) fn new(seed: u64, agents: usize) -> Self {
        Self {
            random: Random::new(seed),
            processes: vec![Process::default(); agents],
        }
    }

    pub(super) fn next(&mut self) -> Call {
        loop {
            let agent = self.random.index(self.processes.len());
            if let Some(act) = self.act(agent) {
                return Call { agent, act };
            }
        }
    }

    fn act(&mut self, agent: usize) -> Option<Act> {
        let process = self.processes[agent].clone();
        let number = self.random.below(100);
        if number < 2 {
            // A local file system does not list a flock whose process is dead and whose file a
            // child has open still.
            return (!process.child).then_some(Act::Kill);
        }
        if number < 4 && process.child {
            return Some(Act::EndChild);
        }
        if process.waits.is_some() {
            return None;
        }
        let slot = self.random.index(SLOTS);
        let other = self.random.index(SLOTS);
        match (number, process.open[slot]) {
            (..15, true) => Some(Act::Close(slot)),
            (15..22, true) if !process.open[other] => Some(Act::Dup(slot, other)),
            (22..24, _) if !process.child => Some(Act::Fork),
            (_, true) => Some(Act::Lock(self.lock(slot))),
            (_, false) => Some(Act::Open(slot)),
        }
    }

    fn lock(&mut self, slot: usize) -> Lock {
        let space = [Space::Flock, Space::Posix, Space::OpenFile][self.random.index(3)];
        let kind = [Kind::None, Kind::Shared, Kind::Exclusive][self.random.index(3)];
        let how = match (self.random.below(10), kind) {
            (0, Kind::Shared | Kind::Exclusive) if space != Space::Flock => How::Test,
            (1..=4, Kind::Shared | Kind::Exclusive) => How::Wait,
            _ => How::Try,
        };
        let mut lock = Lock {
            slot,
            space,
            kind,
            start: 0,
            len: 0,
            how,
        };
        if space != Space::Flock && !self.random.chance(100) {
            lock.start = self.random.below(40);
            lock.len = self.random.below(12);
        }
        let waits: Vec<Lock> = self.processes.iter().filter_map(|p| p.waits).collect();
        // Who comes first of two that exclude each other is chance there, and order here.
        if waits.len() >= 2 || waits.iter().any(|w| w.excludes(&lock)) {
            lock.how = match lock.how {
                How::Wait => How::Try,
                how => how,
            };
        }
        lock
    }

    /// What the call led to.
    pub(super) fn saw(&mut self, call: Call, seen: &Seen) {
        for agent in seen.ended.keys() {
            self.processes[*agent].waits = None;
        }
        let process = &mut self.processes[call.agent];
        match call.act {
            Act::Open(slot) | Act::Dup(_, slot) => process.open[slot] = true,
            Act::Close(slot) => process.open[slot] = false,
            Act::Fork => process.child = true,
            Act::EndChild => process.child = false,
            Act::Kill => *process = Process::default(),
            Act::Lock(lock) => {
                if seen.waiting.contains(&call.agent) {
                    process.waits = Some(lock);
                }
            }
        }
    }
}
