//! File servers: as much of them as fencing needs. Each has a register of fenced sessions and one number for
//! each file; a write says which number it replaces.
//!
//! A write that replaces another number than it has read was not alone under its lock: so here it
//! is seen whether anything of a dead session has landed after its locks were given on.

use super::log::Group;
use super::world::{Node, Planted, World, locked};
use dfs_directory::namespace::{NamespaceCommand, read};
use dfs_directory::raft::{Pending, RaftHandle};
use dfs_directory::state::Change;
use dfs_directory::tasks::SimulatedServers;
use dfs_proto::error::{ErrorCode, Result};
use dfs_proto::ids::{Generation, InodeId, Sequence, SessionId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

pub(crate) const SERVERS: usize = 2;

#[derive(Debug, Default)]
struct Server {
    fenced: BTreeSet<SessionId>,
    files: BTreeMap<InodeId, u64>,
    /// Writes that were applied: a repeat changes nothing.
    done: BTreeSet<(SessionId, Sequence)>,
}

/// A write of one number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write {
    pub(crate) session: SessionId,
    pub(crate) sequence: Sequence,
    pub(crate) inode: InodeId,
    /// What its writer has read.
    pub(crate) base: u64,
}

#[derive(Debug)]
pub(crate) struct Servers {
    world: Arc<World>,
    servers: Mutex<Vec<Server>>,
}

fn place(inode: InodeId) -> usize {
    inode.0 as usize % SERVERS
}

impl Servers {
    pub(crate) fn new(world: &Arc<World>) -> Arc<Self> {
        Arc::new(Self {
            world: world.clone(),
            servers: Mutex::new((0..SERVERS).map(|_| Server::default()).collect()),
        })
    }

    /// What a file holds at this moment.
    pub(crate) fn stored(&self, inode: InodeId) -> u64 {
        let servers = locked(&self.servers);
        servers[place(inode)]
            .files
            .get(&inode)
            .copied()
            .unwrap_or_default()
    }

    /// Whether nothing of a session is accepted anywhere.
    pub(crate) fn is_fenced(&self, session: SessionId) -> bool {
        locked(&self.servers)
            .iter()
            .all(|s| s.fenced.contains(&session))
    }

    pub(crate) async fn read(&self, from: Node, inode: InodeId) -> Option<u64> {
        let server = Node::Server(place(inode));
        if !self.world.travel(from, server).await {
            return None;
        }
        let stored = self.stored(inode);
        self.world.travel(server, from).await.then_some(stored)
    }

    /// Writes `base + 1`. `None`: no answer has come, and it may still be on its way.
    pub(crate) async fn write(self: &Arc<Self>, from: Node, write: Write) -> Option<Result<()>> {
        if self.world.random(|random| random.chance(50)) {
            // A copy on an old connection.
            let servers = self.clone();
            tokio::spawn(async move {
                servers.world.sleep(0, 3_000).await;
                servers.arrive(from, write).await;
            });
        }
        let servers = self.clone();
        // Whoever gives up waiting takes nothing back.
        let arrived = tokio::spawn(async move { servers.arrive(from, write).await });
        let answer = arrived.await.ok()??;
        let server = Node::Server(place(write.inode));
        self.world.travel(server, from).await.then_some(answer)
    }

    async fn arrive(&self, from: Node, write: Write) -> Option<Result<()>> {
        let at = place(write.inode);
        if !self.world.travel(from, Node::Server(at)).await {
            return None;
        }
        let mut servers = locked(&self.servers);
        let server = &mut servers[at];
        if server.fenced.contains(&write.session) {
            return Some(Err(ErrorCode::Fenced.into()));
        }
        if !server.done.insert((write.session, write.sequence)) {
            return Some(Ok(()));
        }
        let stored = server.files.entry(write.inode).or_default();
        if *stored != write.base {
            self.world.violate(format!(
                "{write:?} replaces {stored}: it was not alone under its lock"
            ));
        }
        *stored = write.base + 1;
        self.world
            .trace(|| format!("{} is {stored} by {}", write.inode, write.session));
        Some(Ok(()))
    }

    /// A member tells a server of the end of a session, until it has heard.
    async fn fence(&self, from: Node, at: usize, session: SessionId) {
        let server = Node::Server(at);
        loop {
            if self.world.travel(from, server).await {
                locked(&self.servers)[at].fenced.insert(session);
                if self.world.travel(server, from).await {
                    return;
                }
            }
            self.world.sleep(50, 200).await;
        }
    }
}

/// The servers as one member of the directory reaches them.
pub(crate) struct Reached {
    pub(crate) world: Arc<World>,
    pub(crate) servers: Arc<Servers>,
    pub(crate) group: Arc<Group>,
    pub(crate) raft: RaftHandle,
    pub(crate) member: usize,
}

impl SimulatedServers for Reached {
    fn cut(&self, inode: InodeId, generation: Generation) -> Pending<Result<()>> {
        let raft = self.raft.clone();
        let world = self.world.clone();
        Box::pin(async move {
            world.sleep(1, 10).await;
            let intents = raft
                .read(move |tables| read::intents_of(tables, inode))
                .await?;
            for intent in intents.iter().filter(|i| i.generation <= generation) {
                let done = NamespaceCommand::CutDone {
                    inode,
                    generation: intent.generation,
                };
                raft.commit(Change::Namespace(done)).await?;
            }
            Ok(())
        })
    }

    fn fence(&self, session: SessionId) -> Pending<Result<()>> {
        let (servers, group) = (self.servers.clone(), self.group.clone());
        let (world, member) = (self.world.clone(), self.member);
        Box::pin(async move {
            if world.planted(Planted::ForgetToFence) {
                return Ok(());
            }
            for at in 0..SERVERS {
                servers.fence(Node::Member(member), at, session).await;
                if !group.is_up(member) {
                    return Err(ErrorCode::NotLeader.into());
                }
            }
            world.trace(|| format!("{session} is fenced"));
            Ok(())
        })
    }

    /// Sizes are not simulated.
    fn ends(&self, _inodes: Vec<InodeId>) -> Pending<Result<BTreeMap<InodeId, u64>>> {
        Box::pin(async { Ok(BTreeMap::new()) })
    }
}
