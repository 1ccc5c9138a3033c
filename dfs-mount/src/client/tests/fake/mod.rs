//! A small cluster in one process: a directory and three file servers with everything in
//! memory, over real connections. It keeps the protocol's rules as far as a client can see them,
//! and can be told to misbehave.

mod directory;
mod servers;

use crate::client::guard::lock;
use dfs_proto::attr::{FileAttr, FileKind, Keep, SizeTimes, StatFs, Timestamp, grows_hole};
use dfs_proto::cluster::{ClusterMap, GroupEntry, ServerEntry};
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::*;
use dfs_proto::layout::FileLayout;
use dfs_proto::limits::IO_BYTES_MAX;
use dfs_proto::lock::LockKind;
use dfs_proto::msg::Request;
use dfs_proto::msg::callback::{
    AskAttr, DirChange, LockGranted, MapChanged, NamesChanged, Recall, RecallAnswer,
};
use dfs_proto::msg::chunk::*;
use dfs_proto::msg::namespace::*;
use dfs_proto::msg::session::*;
use dfs_proto::name::FileName;
use dfs_proto::payload::{Payload, block_checksums, verify_checksums};
use dfs_proto::transport::{Connection, Identity, Incoming, Listener, Role, Service};
use dfs_proto::xattr::{XattrKinds, XattrName};
use directory::Directory;
use servers::Server;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

pub(super) const CHUNK_BYTES: u32 = 64 << 10;
const SERVERS: u32 = 3;

#[derive(Default)]
pub(super) struct State {
    pub(super) life: u64,
    next: u64,
    pub(super) pushes: u32,
    sessions: BTreeMap<SessionId, Option<Connection>>,
    runs: BTreeMap<Incarnation, SessionId>,
    inodes: BTreeMap<InodeId, FileAttr>,
    names: BTreeMap<FileName, InodeId>,
    holders: BTreeMap<InodeId, BTreeMap<SessionId, (GrantId, LeaseKind)>>,
    locks: BTreeMap<InodeId, (SessionId, LockOwner)>,
    waiters: BTreeMap<InodeId, VecDeque<(SessionId, LockOwner, Sequence)>>,
    answers: BTreeMap<(SessionId, Sequence), Mutated>,
    pub(super) map: ClusterMap,
    chunks: BTreeMap<ChunkKey, Chunk>,
    pub(super) writes: u64,
    /// How often a group was asked what it stores.
    pub(super) measured: u64,
    pub(super) recalls: u64,
    pub(super) reclaimed: Vec<Reclaim>,
    /// Sessions that have not told the present leader what they hold.
    pub(super) unclaimed: BTreeSet<SessionId>,
    /// Servers that answer reads with damage, or write to no avail.
    pub(super) rotten: Vec<ServerId>,
    /// The next write is applied, but its answer is lost with the connection.
    pub(super) lose_next_answer: bool,
    /// What the last heartbeat of each session called unreachable.
    pub(super) unreachable: BTreeMap<SessionId, Vec<ServerRun>>,
    /// Heartbeats are not answered.
    pub(super) mute: bool,
    /// Changes are made, and their answers held back.
    pub(super) hold_changes: bool,
    /// The same for what is reclaimed.
    pub(super) hold_reclaims: bool,
    /// Requests for locks are not looked at yet.
    pub(super) hold_locks: bool,
    pub(super) lock_requests: usize,
    pub(super) synced: Vec<(ServerId, Vec<(ChunkIndex, Version)>)>,
    pub(super) mutations: u64,
    pub(super) lookups: u64,
    xattrs: BTreeMap<(InodeId, XattrName), Vec<u8>>,
    /// How often one, or a list of them, was asked for.
    pub(super) xattr_questions: usize,
    /// Lookups give the right of their dir.
    pub(super) grants_names: bool,
}

#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    generation: Generation,
    version: Version,
    records: BTreeMap<SessionId, (Sequence, Version)>,
}

pub(super) struct Fake {
    pub(super) state: Mutex<State>,
    changed: Notify,
    pub(super) address: String,
}

impl Fake {
    pub(super) async fn start() -> Arc<Self> {
        let cluster = ClusterId(77);
        let identity = |node: u128, role| Identity {
            cluster: Some(cluster),
            node: NodeId(node),
            incarnation: Incarnation(node as u64),
            role,
            secret: None,
        };
        let bind = async |identity: &Identity| {
            let listener = Listener::bind("127.0.0.1:0", identity)
                .await
                .expect("a port");
            let address = listener.local_addr().to_string();
            (listener, address)
        };
        let directory_identity = identity(1, Role::Directory);
        let (directory, address) = bind(&directory_identity).await;
        let mut servers = Vec::new();
        let mut listeners = Vec::new();
        for n in 1..=SERVERS {
            let identity = identity(100 + u128::from(n), Role::FileServer);
            let (listener, address) = bind(&identity).await;
            servers.push(ServerEntry {
                run: ServerRun {
                    server: ServerId(n),
                    incarnation: identity.incarnation,
                },
                address,
                alive: true,
            });
            listeners.push((ServerId(n), identity, listener));
        }
        let all: Vec<ServerId> = (1..=SERVERS).map(ServerId).collect();
        let groups = (0..4).map(|n| GroupEntry {
            group: GroupId(n),
            epoch: Epoch(1),
            primary: Some(ServerId(1)),
            in_sync: all.clone(),
            writable: true,
        });
        let state = State {
            life: 1,
            next: 100,
            map: ClusterMap {
                version: MapVersion(1),
                servers,
                groups: groups.collect(),
            },
            ..State::default()
        };
        let fake = Arc::new(Self {
            state: Mutex::new(state),
            changed: Notify::new(),
            address,
        });
        let service = Arc::new(Directory(fake.clone()));
        tokio::spawn(directory.run(
            Arc::new(directory_identity),
            service,
            std::future::pending::<()>(),
        ));
        for (server, identity, listener) in listeners {
            let service = Arc::new(Server(server, fake.clone()));
            tokio::spawn(listener.run(Arc::new(identity), service, std::future::pending::<()>()));
        }
        fake
    }

    /// Every group has a new epoch with these servers; mounts are not told by themselves.
    pub(super) fn new_epoch(&self, in_sync: &[u32]) {
        let mut state = lock(&self.state);
        state.map.version.0 += 1;
        for group in &mut state.map.groups {
            group.epoch = group.epoch.next();
            group.in_sync = in_sync.iter().map(|s| ServerId(*s)).collect();
            group.primary = group.in_sync.first().copied();
            group.writable = in_sync.len() >= 2;
        }
    }

    pub(super) async fn push_map(&self) {
        let (map, connections) = {
            let state = lock(&self.state);
            let connections: Vec<_> = state.sessions.values().flatten().cloned().collect();
            (state.map.clone(), connections)
        };
        for connection in connections {
            let changed = MapChanged { map: map.clone() };
            let told = connection.call(&changed, Payload::default(), SECOND);
            told.await.expect("the mount takes the map");
        }
    }

    /// Another leader: leases and locks are forgotten.
    pub(super) fn new_leader(&self) {
        let mut state = lock(&self.state);
        state.life += 1;
        state.holders.clear();
        state.locks.clear();
        state.waiters.clear();
        state.unclaimed = state.sessions.keys().copied().collect();
        for connection in state.sessions.values().flatten() {
            connection.close("the leader has gone");
        }
    }

    /// The session is gone.
    pub(super) fn end_sessions(&self) {
        let mut state = lock(&self.state);
        state.runs.clear();
        state.holders.clear();
        state.locks.clear();
        let ended = std::mem::take(&mut state.sessions);
        for connection in ended.values().flatten() {
            connection.close("fenced");
        }
    }

    /// The servers forget what was written.
    pub(super) fn lose_chunks(&self) {
        lock(&self.state).chunks.clear();
    }

    pub(super) fn size(&self, name: &str) -> u64 {
        let state = lock(&self.state);
        let name = FileName::new(name.as_bytes()).expect("a name");
        state.inodes[&state.names[&name]].size
    }

    /// How often size and times were pushed.
    pub(super) fn pushes(&self) -> u32 {
        lock(&self.state).pushes
    }

    pub(super) fn holds(&self, inode: InodeId) -> Vec<LeaseKind> {
        let state = lock(&self.state);
        let holders = state.holders.get(&inode);
        holders.map_or_else(Vec::new, |h| h.values().map(|(_, kind)| *kind).collect())
    }
}

const SECOND: Duration = Duration::from_secs(1);
