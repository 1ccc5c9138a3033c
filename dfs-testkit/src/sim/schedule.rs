//! What happens next: the clock, the queue of events, calls between processes, and the log of it
//! all. Everything that happens is ordered by (time, sequence), so a run is a function of its
//! seed.

use super::chaos::Relief;
use super::clock::Clocks;
use super::invariants::Invariants;
use super::message::{Answer, Ask, Node, Process, Then, Timer};
use super::net::{Net, Weather};
use super::oracle::Oracle;
use super::random::Random;
use super::{Around, Options};
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::{Incarnation, InodeId, ServerId};
use dfs_proto::layout::FileLayout;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Lines of the trace that a violation shows.
const TRACE_LINES: usize = 400;

/// Something that happens at one moment.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Request {
        call: u64,
        from: Process,
        to: Process,
        ask: Ask,
    },
    Answer {
        call: u64,
        from: Process,
        answer: Answer,
    },
    /// A call's time is over, or its connection ended.
    Fail {
        call: u64,
        code: ErrorCode,
    },
    /// The connection to `peer` has ended.
    Closed {
        at: Process,
        peer: Process,
    },
    Timer {
        at: Process,
        timer: Timer,
    },
    /// Something goes wrong somewhere.
    Chaos,
    /// The disk of a server has room, or its speed, again.
    Relieved(usize, Relief),
    /// Somebody looks after the disk of a server.
    DiskReplaced(usize),
}

/// A call that has not been answered.
#[derive(Clone, Debug)]
struct Call {
    from: Process,
    to: Process,
    then: Then,
}

/// Everything around the nodes.
#[derive(Debug)]
pub(crate) struct Schedule {
    pub(crate) now: Duration,
    pub(crate) random: Random,
    pub(crate) net: Net<Node>,
    pub(crate) clocks: Clocks<Node>,
    pub(crate) oracle: Oracle,
    pub(crate) invariants: Invariants,
    /// The files, with their layouts.
    pub(crate) files: Vec<(InodeId, FileLayout)>,
    /// Where a server of the directory's numbering is.
    pub(crate) places: BTreeMap<ServerId, usize>,
    queue: BTreeMap<(Duration, u64), Event>,
    sequence: u64,
    calls: BTreeMap<u64, Call>,
    /// The last life of each node, and whether it lives.
    lives: BTreeMap<Node, (u64, bool)>,
    digest: u64,
    pub(crate) steps: u64,
    /// Kills that took nothing away, as the server could say.
    pub(crate) kept: u64,
    pub(crate) around: Around,
    violation: Option<String>,
    tracing: bool,
    live: bool,
    trace: VecDeque<String>,
}

impl Schedule {
    pub(crate) fn new(seed: u64, options: &Options) -> Self {
        let (tracing, live) = (options.trace, options.live);
        let mut random = Random::new(seed);
        let weather = Weather::of(&mut random);
        Self {
            now: Duration::from_secs(100),
            random,
            net: Net::new(weather),
            clocks: Clocks::default(),
            oracle: Oracle::default(),
            invariants: Invariants::default(),
            files: Vec::new(),
            places: BTreeMap::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            calls: BTreeMap::new(),
            lives: BTreeMap::new(),
            digest: 0xcbf2_9ce4_8422_2325,
            steps: 0,
            kept: 0,
            around: options.around,
            violation: None,
            tracing: tracing || live,
            live,
            trace: VecDeque::new(),
        }
    }

    // Lives.

    /// A process begins on a node.
    pub(crate) fn start(&mut self, node: Node) -> Process {
        let entry = self.lives.entry(node).or_default();
        *entry = (entry.0 + 1, true);
        let life = entry.0;
        Process { node, life }
    }

    /// The process on a node ends at once. Whoever waits for it hears of the reset connection,
    /// unless the way is cut; what it sent is still on its way.
    pub(crate) fn kill(&mut self, node: Node) {
        let Some(entry) = self.lives.get_mut(&node) else {
            return;
        };
        entry.1 = false;
        let dead = Process {
            node,
            life: entry.0,
        };
        self.calls.retain(|_, call| call.from != dead);
        self.reset_calls(|call| call.to == dead);
        for peer in self.living() {
            self.close(peer, dead);
        }
    }

    /// The connection between two nodes breaks.
    pub(crate) fn reset(&mut self, a: Node, b: Node) {
        self.reset_calls(|call| {
            (call.from.node, call.to.node) == (a, b) || (call.from.node, call.to.node) == (b, a)
        });
        if let (Some(a), Some(b)) = (self.process(a), self.process(b)) {
            self.close(a, b);
            self.close(b, a);
        }
    }

    fn reset_calls(&mut self, which: impl Fn(&Call) -> bool) {
        let over: Vec<u64> = self
            .calls
            .iter()
            .filter(|(_, call)| which(call))
            .filter(|(_, call)| !self.net.is_cut(call.to.node, call.from.node, self.now))
            .map(|(id, _)| *id)
            .collect();
        for call in over {
            let delay = self.random.micros(20, 500);
            let code = ErrorCode::Disconnected;
            self.push(delay, Event::Fail { call, code });
        }
    }

    fn close(&mut self, at: Process, peer: Process) {
        if !self.net.is_cut(peer.node, at.node, self.now) {
            let delay = self.random.micros(20, 500);
            self.push(delay, Event::Closed { at, peer });
        }
    }

    fn living(&self) -> Vec<Process> {
        let alive = |(node, (life, up)): (&Node, &(u64, bool))| {
            up.then_some(Process {
                node: *node,
                life: *life,
            })
        };
        self.lives.iter().filter_map(alive).collect()
    }

    /// The process that lives on a node.
    pub(crate) fn process(&self, node: Node) -> Option<Process> {
        let (life, up) = *self.lives.get(&node)?;
        up.then_some(Process { node, life })
    }

    pub(crate) fn is_alive(&self, process: Process) -> bool {
        self.process(process.node) == Some(process)
    }

    /// The number of a run.
    pub(crate) fn incarnation(&self, process: Process) -> Incarnation {
        let place = match process.node {
            Node::Directory => 1,
            Node::Server(at) => 100 + at as u64,
            Node::Client(at) => 200 + at as u64,
        };
        let life = match process.node {
            Node::Server(_) if self.around == Around::SameRun => 1,
            _ => process.life,
        };
        Incarnation(place * 1_000_000 + life)
    }

    // Calls.

    /// Calls another process; the answer, or an error after `deadline`, comes to `then`.
    pub(crate) fn call(
        &mut self,
        from: Process,
        to: Process,
        ask: Ask,
        deadline: Duration,
        then: Then,
    ) {
        self.sequence += 1;
        let call = self.sequence;
        self.calls.insert(call, Call { from, to, then });
        let code = ErrorCode::DeadlineExceeded;
        let deadline = self.clocks.takes(from.node, deadline);
        self.push(deadline, Event::Fail { call, code });
        for delay in self.net.fate(&mut self.random) {
            let ask = ask.clone();
            let event = Event::Request {
                call,
                from,
                to,
                ask,
            };
            self.push(delay, event);
        }
    }

    /// A process answers a call.
    pub(crate) fn answer(&mut self, from: Process, call: u64, answer: Answer) {
        for delay in self.net.fate(&mut self.random) {
            let answer = answer.clone();
            self.push(delay, Event::Answer { call, from, answer });
        }
    }

    /// The call's caller, if it still waits.
    pub(crate) fn caller(&self, call: u64) -> Option<Process> {
        self.calls.get(&call).map(|call| call.from)
    }

    /// Ends a call: who made it, and what is to be done with the answer.
    pub(crate) fn end_call(&mut self, call: u64) -> Option<(Process, Then)> {
        let call = self.calls.remove(&call)?;
        Some((call.from, call.then))
    }

    /// A request met nobody: the caller's kernel hears so.
    pub(crate) fn refuse_connection(&mut self, call: u64, from: Process, to: Process) {
        if !self.net.is_cut(to.node, from.node, self.now) {
            let delay = self.random.micros(20, 500);
            let code = ErrorCode::Disconnected;
            self.push(delay, Event::Fail { call, code });
        }
    }

    /// After a true time.
    pub(crate) fn timer(&mut self, at: Process, delay: Duration, timer: Timer) {
        self.push(delay, Event::Timer { at, timer });
    }

    /// After a time of the process's own clock.
    pub(crate) fn own_timer(&mut self, at: Process, delay: Duration, timer: Timer) {
        let delay = self.clocks.takes(at.node, delay);
        self.timer(at, delay, timer);
    }

    pub(crate) fn directory_now(&self) -> Duration {
        self.clock(Node::Directory)
    }

    /// What the clock of a node shows.
    pub(crate) fn clock(&self, node: Node) -> Duration {
        self.clocks.shows(node, self.now)
    }

    // The queue.

    pub(crate) fn push(&mut self, delay: Duration, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + delay, self.sequence), event);
    }

    /// The next event; the clock moves to it.
    pub(crate) fn pop(&mut self) -> Option<Event> {
        let ((at, sequence), event) = self.queue.pop_first()?;
        self.now = at;
        self.steps += 1;
        self.note(at.as_nanos() as u64);
        self.note(sequence);
        Some(event)
    }

    // What is found.

    /// Adds a number to the digest of the run (FNV-1a).
    pub(crate) fn note(&mut self, number: u64) {
        for byte in number.to_le_bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    /// A rule is broken. The first one counts.
    pub(crate) fn violate(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// Takes up what a check has found.
    pub(crate) fn check(&mut self, result: Result<(), String>) {
        if let Err(what) = result {
            self.violate(what);
        }
    }

    pub(crate) fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// Writes a line of the trace, if there is one.
    pub(crate) fn trace(&mut self, line: impl FnOnce() -> String) {
        if !self.tracing {
            return;
        }
        if self.trace.len() >= TRACE_LINES {
            self.trace.pop_front();
        }
        let at = self.now.as_micros() as f64 / 1000.0;
        let line = format!("{at:>12.3} {}", line());
        if self.live {
            println!("{line}");
        }
        self.trace.push_back(line);
    }

    pub(crate) fn trace_lines(&self) -> Vec<String> {
        self.trace.iter().cloned().collect()
    }
}

/// An error without more words.
pub(crate) fn error(code: ErrorCode) -> Error {
    Error::bare(code)
}
