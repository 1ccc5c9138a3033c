//! How large a simulated cluster is: another one for each seed.

use super::message::Node;
use super::random::Random;

/// The parts of a cluster and how it was formatted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    pub(crate) servers: usize,
    pub(crate) clients: usize,
    pub(crate) groups: u32,
    pub(crate) replicas: u8,
    pub(crate) min_in_sync: u8,
}

impl Shape {
    /// Mostly five servers with several groups of three of them and four mounts; sometimes as
    /// few servers as replicas, sometimes two replicas.
    pub(crate) fn of(random: &mut Random) -> Self {
        let (servers, clients, groups, replicas) = match random.below(10) {
            0 | 1 => (3, 2, 2, 3),
            2 => (3, 2, 3, 2),
            3 => (2, 2, 2, 2),
            _ => (5, 4, 5, 3),
        };
        let min_in_sync = match replicas {
            3 => 1 + random.below(2) as u8,
            _ => 1,
        };
        Self {
            servers,
            clients,
            groups,
            replicas,
            min_in_sync,
        }
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = Node> + use<> {
        let servers = (0..self.servers).map(Node::Server);
        let clients = (0..self.clients).map(Node::Client);
        servers.chain(clients).chain([Node::Directory])
    }

    /// Any node.
    pub(crate) fn node(&self, random: &mut Random) -> Node {
        match random.index(1 + self.servers + self.clients) {
            0 => Node::Directory,
            at if at <= self.servers => Node::Server(at - 1),
            at => Node::Client(at - 1 - self.servers),
        }
    }

    /// Any two nodes.
    pub(crate) fn pair(&self, random: &mut Random) -> (Node, Node) {
        let a = self.node(random);
        loop {
            let b = self.node(random);
            if b != a {
                return (a, b);
            }
        }
    }
}
