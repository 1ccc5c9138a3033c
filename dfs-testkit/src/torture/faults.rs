//! What can happen to a file server, and a seeded schedule of it.

use super::{MOUNTS, SERVERS};
use crate::cluster::Cluster;
use crate::random::Random;
use std::fmt;
use std::time::Duration;

/// Whom a server is cut off from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Directory,
    /// All mounts.
    Mounts,
    Mount(u64),
    /// All other servers.
    Peers,
    Peer(u64),
}

/// What does not arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    Both,
    /// What the server sends.
    From,
    /// What is sent to the server.
    To,
}

pub(super) const WAYS: [Way; 3] = [Way::Both, Way::From, Way::To];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// SIGKILL, and a start after the fault's time.
    Kill,
    /// SIGTERM, and a start.
    Restart,
    /// SIGSTOP, and SIGCONT.
    Pause,
    Cut(Side, Way),
}

/// One fault: what happens to which server for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fault {
    pub(super) server: u64,
    pub(super) kind: Kind,
    pub(super) lasts: Duration,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (side, way) = match self {
            Self::Kill => return f.write_str("kill -9"),
            Self::Restart => return f.write_str("restart"),
            Self::Pause => return f.write_str("pause"),
            Self::Cut(side, way) => (side, way),
        };
        let side = match side {
            Side::Directory => "directory",
            Side::Mounts => "mounts",
            Side::Mount(_) => "one mount",
            Side::Peers => "peers",
            Side::Peer(_) => "one peer",
        };
        let way = match way {
            Way::Both => "both ways",
            Way::From => "from it",
            Way::To => "to it",
        };
        write!(f, "cut: {side}, {way}")
    }
}

impl Fault {
    fn node(&self) -> String {
        format!("server-{}", self.server)
    }

    /// Does it.
    pub(super) fn begin(&self, cluster: &Cluster) {
        let node = self.node();
        match self.kind {
            Kind::Kill => cluster.node("kill", &node),
            Kind::Restart => cluster.node("stop", &node),
            Kind::Pause => cluster.node("pause", &node),
            Kind::Cut(side, way) => {
                let other = match side {
                    Side::Directory => "directories".to_owned(),
                    Side::Mounts => "mounts".to_owned(),
                    Side::Mount(number) => format!("mount-{number}"),
                    Side::Peers => "servers".to_owned(),
                    Side::Peer(number) => format!("server-{number}"),
                };
                if way != Way::To {
                    cluster.cut(&node, &other);
                }
                if way != Way::From {
                    cluster.cut(&other, &node);
                }
            }
        }
    }

    /// Undoes it.
    pub(super) fn end(&self, cluster: &Cluster) {
        let node = self.node();
        match self.kind {
            Kind::Kill | Kind::Restart => cluster.node("start", &node),
            Kind::Pause => cluster.node("resume", &node),
            Kind::Cut(..) => cluster.heal(),
        }
    }
}

/// The next fault of a schedule.
pub(super) fn draw(random: &mut Random) -> Fault {
    let server = 1 + random.below(SERVERS);
    let way = WAYS[random.index(WAYS.len())];
    let (kind, longest_ms) = match random.below(12) {
        0..=2 => (Kind::Kill, 4_000),
        3 => (Kind::Restart, 2_000),
        4 | 5 => (Kind::Pause, 6_000),
        6 | 7 => (Kind::Cut(Side::Directory, way), 6_000),
        8 => (Kind::Cut(Side::Mounts, way), 8_000),
        9 => {
            let mount = 1 + random.below(MOUNTS as u64);
            (Kind::Cut(Side::Mount(mount), way), 8_000)
        }
        10 => (Kind::Cut(Side::Peers, way), 8_000),
        _ => {
            let peer = 1 + (server + random.below(SERVERS - 1)) % SERVERS;
            (Kind::Cut(Side::Peer(peer), way), 8_000)
        }
    };
    Fault {
        server,
        kind,
        lasts: random.micros(100_000, longest_ms * 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_its_seed_and_has_everything() {
        let faults = |seed| {
            let mut random = Random::new(seed);
            (0..300).map(|_| draw(&mut random)).collect::<Vec<_>>()
        };
        assert_eq!(faults(1), faults(1));
        assert_ne!(faults(1), faults(2));
        let mut kinds: Vec<String> = faults(1).iter().map(|f| f.kind.to_string()).collect();
        kinds.sort();
        kinds.dedup();
        assert_eq!(kinds.len(), 3 + 5 * 3, "{kinds:?}");
        for fault in faults(3) {
            if let Kind::Cut(Side::Peer(peer), _) = fault.kind {
                assert!(peer != fault.server && (1..=SERVERS).contains(&peer));
            }
        }
    }
}
