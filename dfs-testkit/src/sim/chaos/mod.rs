//! What goes wrong, and when. Everything that is promised to be survived, alone and at once:
//! killed processes, lost power, broken connections, cut-off and paused nodes, clocks that jump,
//! disks that rot, fail, fill up or are slow.
//!
//! One thing is not done, since it is not promised: to take the last good copy of something that
//! was not synced, or of something that rots (`limits`). Whether a server with the last good copy of
//! what was not synced is up, and who can reach it, is no matter: it is waited for. In the seeds with `blackouts` power fails
//! everywhere at once instead: then what was not synced may be gone, and nothing else.

mod disks;
mod limits;

pub(crate) use disks::Relief;

use super::message::Node;
use super::random::Random;
use super::schedule::{Event, Schedule};
use super::world::World;
use std::time::Duration;

/// What can go wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    Kill,
    Stop,
    Power,
    Blackout,
    Cut,
    Pause,
    Reset,
    Client,
    Clock,
    Rot,
    FailingDisk,
    FullDisk,
    SlowDisk,
}

/// How often something goes wrong, and how badly; another mood for each seed.
#[derive(Clone, Debug)]
pub(crate) struct Mood {
    /// Most microseconds between two faults.
    gap: u64,
    weights: Vec<(Fault, u64)>,
    /// All disks may lose power at once.
    pub(crate) blackouts: bool,
    /// Disks fill up.
    pub(crate) full_disks: bool,
}

impl Mood {
    pub(crate) fn of(random: &mut Random) -> Self {
        let mut pick = |choices: [u64; 4]| choices[random.index(4)];
        let gap = pick([200_000, 500_000, 1_000_000, 2_000_000]);
        let blackouts = pick([0, 0, 0, 1]) == 1;
        let full = pick([0, 0, 0, 10]);
        let mut weights = vec![
            (Fault::Kill, pick([0, 10, 20, 30])),
            (Fault::Stop, pick([0, 0, 5, 10])),
            (Fault::Power, pick([0, 5, 10, 20])),
            (Fault::Cut, pick([0, 10, 20, 30])),
            (Fault::Pause, pick([0, 5, 10, 20])),
            (Fault::Reset, 10),
            (Fault::Client, pick([0, 1, 2, 4])),
            (Fault::Clock, pick([0, 0, 2, 5])),
            (Fault::FailingDisk, pick([0, 0, 3, 6])),
            (Fault::FullDisk, full),
            (Fault::SlowDisk, pick([0, 0, 5, 10])),
        ];
        let rot = pick([0, 0, 10, 20]);
        if blackouts {
            weights.push((Fault::Blackout, 10));
        } else {
            weights.push((Fault::Rot, rot));
        }
        Self {
            gap,
            weights,
            blackouts,
            full_disks: full > 0,
        }
    }

    fn fault(&self, random: &mut Random) -> Fault {
        let total = self.weights.iter().map(|(_, weight)| weight).sum();
        let mut dice = random.below(total);
        for (fault, weight) in &self.weights {
            if dice < *weight {
                return *fault;
            }
            dice -= weight;
        }
        Fault::Reset
    }
}

/// Mostly short; sometimes long enough for everybody to notice.
fn outage(s: &mut Schedule) -> Duration {
    match s.random.chance(700) {
        true => s.random.micros(2_000, 300_000),
        false => s.random.micros(300_000, 2_500_000),
    }
}

impl World {
    /// Something goes wrong, or a dead process comes back.
    pub(super) fn chaos(&mut self) {
        let gap = self.schedule.random.micros(1_000, self.mood.gap);
        self.schedule.push(gap, Event::Chaos);
        let fault = self.mood.fault(&mut self.schedule.random);
        let place = self.schedule.random.index(self.shape.servers);
        match fault {
            Fault::Kill => self.kill_server(place),
            Fault::Power => self.power_fails(place),
            Fault::Stop => self.stop_server(place),
            Fault::Blackout => self.blackout(),
            Fault::Cut => self.cut(),
            Fault::Pause => self.pause(),
            Fault::Reset => self.reset(),
            Fault::Client => self.kill_client(),
            Fault::Clock => self.clock_jumps(),
            Fault::Rot => self.rot(place),
            Fault::FailingDisk => self.disk_fails(place),
            Fault::FullDisk => self.disk_fills(place),
            Fault::SlowDisk => self.disk_slows(place),
        }
    }

    fn pause(&mut self) {
        let s = &mut self.schedule;
        let who = self.shape.node(&mut s.random);
        let until = s.now + outage(s);
        let allowed = match who {
            Node::Directory => false,
            Node::Client(_) => true,
            Node::Server(place) => self.may_go(place),
        };
        if allowed {
            let s = &mut self.schedule;
            s.trace(|| format!("{who:?} is paused until {until:?}"));
            s.net.pause(who, until);
        }
    }

    fn kill_client(&mut self) {
        let s = &mut self.schedule;
        let place = s.random.index(self.shape.clients);
        if self.clients[place].is_up() {
            self.clients[place].kill(s);
            let back = s.random.micros(10_000, 1_000_000);
            self.comes_back(Node::Client(place), back);
        }
    }

    fn reset(&mut self) {
        let (a, b) = self.shape.pair(&mut self.schedule.random);
        if self.may_be_apart(a, b) {
            let s = &mut self.schedule;
            s.trace(|| format!("the connection {a:?} - {b:?} breaks"));
            s.reset(a, b);
        }
    }

    /// Not the directory's: the granter must not be early.
    fn clock_jumps(&mut self) {
        let s = &mut self.schedule;
        let who = self.shape.node(&mut s.random);
        let by = outage(s);
        if who != Node::Directory {
            s.trace(|| format!("the clock of {who:?} jumps by {by:?}"));
            let now = s.now;
            s.clocks.jump(who, now, by);
        }
    }

    fn cut(&mut self) {
        let s = &mut self.schedule;
        let until = s.now + outage(s);
        let (a, b) = self.shape.pair(&mut s.random);
        let kind = s.random.below(4);
        let friend = Node::Client(s.random.index(self.shape.clients));
        let befriended = s.random.chance(500);
        if kind < 3 {
            if !self.may_be_apart(a, b) {
                return;
            }
            let s = &mut self.schedule;
            s.trace(|| format!("{a:?} -> {b:?} is cut until {until:?}, kind {kind}"));
            s.net.cut(a, b, until);
            if kind == 2 {
                s.net.cut(b, a, until);
            }
            return;
        }
        // Alone; often with one client, which it then goes on serving.
        let allowed = match a {
            Node::Server(place) => self.may_go(place),
            Node::Directory => self.may_all_go(),
            Node::Client(_) => true,
        };
        if !allowed {
            return;
        }
        let s = &mut self.schedule;
        s.trace(|| format!("{a:?} is cut off until {until:?}, friend: {befriended}"));
        for other in self.shape.nodes() {
            if other != a && !(befriended && other == friend) {
                s.net.cut(a, other, until);
                s.net.cut(other, a, until);
            }
        }
    }

    fn kill_server(&mut self, place: usize) {
        if !self.servers[place].is_up() || !self.may_go(place) {
            return;
        }
        // What a kill tears is good for nothing, as if it had been lost.
        let tears = self.may_lose_power(place);
        self.servers[place].kill(&mut self.schedule, tears);
        self.server_comes_back(place);
    }

    /// The machine of a server loses its power, also while its process is down.
    fn power_fails(&mut self, place: usize) {
        if !self.may_go(place) || !self.may_lose_power(place) {
            return;
        }
        let returns = self.servers[place].is_up();
        self.servers[place].lose_power(&mut self.schedule);
        if returns {
            self.server_comes_back(place);
        }
    }

    fn stop_server(&mut self, place: usize) {
        if !self.servers[place].is_up() || !self.may_go(place) {
            return;
        }
        self.servers[place].stop(&mut self.schedule);
        self.server_comes_back(place);
    }

    /// The power fails everywhere, or almost.
    fn blackout(&mut self) {
        let s = &mut self.schedule;
        s.trace(|| "the power fails".into());
        for place in 0..self.shape.servers {
            if !self.schedule.random.chance(900) {
                continue;
            }
            let returns = self.servers[place].is_up();
            self.servers[place].lose_power(&mut self.schedule);
            if returns {
                self.server_comes_back(place);
            }
        }
    }

    fn server_comes_back(&mut self, place: usize) {
        let s = &mut self.schedule;
        let back = match s.random.chance(300) {
            true => s.random.micros(1_000, 100_000),
            false => s.random.micros(50_000, 2_500_000),
        };
        self.comes_back(Node::Server(place), back);
    }

    fn comes_back(&mut self, node: Node, after: Duration) {
        let at = self.schedule.now + after;
        self.returns.push((at, node));
    }
}
