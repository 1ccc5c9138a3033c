//! What goes wrong, and when. Everything that is promised to be survived, alone and at once:
//! killed processes, lost power, broken connections, cut-off and paused nodes.
//!
//! One thing is not done, since it is not promised: to take the last copy of an acknowledged
//! write that was not synced. While a server that lost power is not in-sync again, another one
//! that is in-sync stays up, and the directory can reach it: else the group goes on with what
//! came back, after a moment.

use super::message::Node;
use super::schedule::{Event, Schedule};
use super::world::World;
use std::time::Duration;

/// Servers and clients of the simulated cluster.
pub(crate) const SERVERS: usize = 3;
pub(crate) const CLIENTS: usize = 2;

/// How often something goes wrong, and how badly; another mood for each seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mood {
    /// Most microseconds between two faults.
    gap: u64,
    kills: u64,
    power: u64,
    cuts: u64,
    pauses: u64,
    clients: u64,
}

impl Mood {
    pub(crate) fn of(s: &mut Schedule) -> Self {
        let mut pick = |choices: [u64; 4]| choices[s.random.index(4)];
        Self {
            gap: pick([300_000, 700_000, 1_500_000, 3_000_000]),
            kills: pick([0, 10, 20, 30]),
            power: pick([0, 5, 10, 20]),
            cuts: pick([0, 10, 20, 30]),
            pauses: pick([0, 5, 10, 20]),
            clients: pick([0, 1, 2, 4]),
        }
    }
}

fn node(s: &mut Schedule) -> Node {
    match s.random.index(1 + SERVERS + CLIENTS) {
        0 => Node::Directory,
        at if at <= SERVERS => Node::Server(at - 1),
        at => Node::Client(at - 1 - SERVERS),
    }
}

fn pair(s: &mut Schedule) -> (Node, Node) {
    let a = node(s);
    loop {
        let b = node(s);
        if b != a {
            return (a, b);
        }
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
        let s = &mut self.schedule;
        let gap = s.random.micros(1_000, self.mood.gap);
        s.push(gap, Event::Chaos);
        let mood = self.mood;
        let total = mood.kills + mood.power + mood.cuts + mood.pauses + mood.clients + 10;
        let mut dice = s.random.below(total);
        let mut falls = |weight: u64| {
            let hit = dice < weight;
            dice = dice.saturating_sub(weight);
            hit
        };
        if falls(mood.kills) {
            let place = s.random.index(SERVERS);
            self.kill_server(place, false);
        } else if falls(mood.power) {
            let place = s.random.index(SERVERS);
            self.kill_server(place, true);
        } else if falls(mood.cuts) {
            self.cut();
        } else if falls(mood.pauses) {
            let who = node(s);
            let until = s.now + outage(s);
            let server = matches!(who, Node::Server(_));
            if who != Node::Directory && !(server && self.servers.iter().any(|s| s.poor)) {
                s.trace(|| format!("{who:?} is paused until {until:?}"));
                s.net.pause(who, until);
            }
        } else if falls(mood.clients) {
            let place = s.random.index(CLIENTS);
            if self.clients[place].is_up() {
                self.clients[place].kill(s);
                let back = s.random.micros(10_000, 1_000_000);
                self.comes_back(Node::Client(place), back);
            }
        } else {
            let (a, b) = pair(s);
            if self.needs(a, b) {
                return;
            }
            let s = &mut self.schedule;
            s.trace(|| format!("the connection {a:?} - {b:?} breaks"));
            s.reset(a, b);
        }
    }

    fn cut(&mut self) {
        let s = &mut self.schedule;
        let until = s.now + outage(s);
        let (a, b) = pair(s);
        let kind = s.random.below(3);
        let alone = kind == 2 && !matches!(a, Node::Client(_));
        if self.needs(a, b) || (alone && self.servers.iter().any(|s| s.poor)) {
            return;
        }
        let s = &mut self.schedule;
        match kind {
            0 => {
                s.trace(|| format!("{a:?} -> {b:?} is cut until {until:?}"));
                s.net.cut(a, b, until);
            }
            1 => {
                s.trace(|| format!("{a:?} - {b:?} is cut until {until:?}"));
                s.net.cut(a, b, until);
                s.net.cut(b, a, until);
            }
            _ => {
                // Alone; often with one client, which it then goes on serving.
                let friend = Node::Client(s.random.index(CLIENTS));
                let befriended = s.random.chance(500);
                s.trace(|| format!("{a:?} is cut off until {until:?}, friend: {befriended}"));
                let servers = (0..SERVERS).map(Node::Server);
                let clients = (0..CLIENTS).map(Node::Client);
                for other in servers.chain(clients).chain([Node::Directory]) {
                    if other != a && !(befriended && other == friend) {
                        s.net.cut(a, other, until);
                        s.net.cut(other, a, until);
                    }
                }
            }
        }
    }

    /// Whether the directory must go on hearing what this link carries.
    fn needs(&self, a: Node, b: Node) -> bool {
        let control = matches!(
            (a, b),
            (Node::Directory, Node::Server(_)) | (Node::Server(_), Node::Directory)
        );
        control && self.servers.iter().any(|server| server.poor)
    }

    /// Whether the directory and a server can talk.
    fn reaches(&self, place: usize) -> bool {
        let (net, now) = (&self.schedule.net, self.schedule.now);
        let server = Node::Server(place);
        !net.is_cut(Node::Directory, server, now)
            && !net.is_cut(server, Node::Directory, now)
            && net.paused(server, now).is_none()
    }

    fn kill_server(&mut self, place: usize, power: bool) {
        if !self.servers[place].is_up() {
            return;
        }
        let poor = power || self.servers.iter().any(|server| server.poor);
        if poor && !self.survives_without(place) {
            return;
        }
        let s = &mut self.schedule;
        self.servers[place].kill(s, power);
        let back = match s.random.chance(300) {
            true => s.random.micros(1_000, 100_000),
            false => s.random.micros(50_000, 2_500_000),
        };
        self.comes_back(Node::Server(place), back);
    }

    /// Whether every group keeps a member that holds everything if this server goes.
    fn survives_without(&self, place: usize) -> bool {
        let intact = |run| {
            self.servers.iter().any(|server| {
                let whole = server.run() == Some(run) && !server.poor;
                server.place != place && whole && self.reaches(server.place)
            })
        };
        let groups = &self.directory.placed.groups;
        groups.values().all(|record| match &record.effective {
            Some(effective) => {
                // In the last epoch and in the one that served: it counts whatever comes next.
                let present: Vec<_> = record.config.in_sync().collect();
                effective
                    .in_sync()
                    .any(|run| intact(run) && present.contains(&run))
            }
            None => true,
        })
    }

    fn comes_back(&mut self, node: Node, after: Duration) {
        let at = self.schedule.now + after;
        self.returns.push((at, node));
    }
}
