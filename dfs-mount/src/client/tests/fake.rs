//! A small cluster in one process: a directory and three file servers with everything in
//! memory, over real connections. It keeps the protocol's rules as far as a client can see them,
//! and can be told to misbehave.

use crate::client::guard::lock;
use dfs_proto::attr::{FileAttr, FileKind, SizeTimes, StatFs, Timestamp};
use dfs_proto::cluster::{ClusterMap, GroupEntry, ServerEntry};
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::*;
use dfs_proto::layout::FileLayout;
use dfs_proto::limits::IO_BYTES_MAX;
use dfs_proto::lock::LockKind;
use dfs_proto::msg::Request;
use dfs_proto::msg::callback::{AskAttr, LockGranted, MapChanged, Recall, RecallAnswer};
use dfs_proto::msg::chunk::*;
use dfs_proto::msg::namespace::*;
use dfs_proto::msg::session::*;
use dfs_proto::name::FileName;
use dfs_proto::payload::{Payload, block_checksums, verify_checksums};
use dfs_proto::transport::{Connection, Identity, Incoming, Listener, Role, Service};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

pub(super) const CHUNK_BYTES: u32 = 64 << 10;
const SERVERS: u32 = 3;

#[derive(Default)]
pub(super) struct State {
    pub(super) life: u64,
    next: u64,
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
    pub(super) recalls: u64,
    pub(super) reclaimed: Vec<Reclaim>,
    /// Servers that answer reads with damage, or write to no avail.
    pub(super) rotten: Vec<ServerId>,
    /// The next write is applied, but its answer is lost with the connection.
    pub(super) lose_next_answer: bool,
    /// Heartbeats are not answered.
    pub(super) mute: bool,
    pub(super) synced: Vec<(ServerId, Vec<(ChunkIndex, Version)>)>,
    pub(super) mutations: u64,
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

    pub(super) fn size(&self, name: &str) -> u64 {
        let state = lock(&self.state);
        let name = FileName::new(name.as_bytes()).expect("a name");
        state.inodes[&state.names[&name]].size
    }

    pub(super) fn holds(&self, inode: InodeId) -> Vec<LeaseKind> {
        let state = lock(&self.state);
        let holders = state.holders.get(&inode);
        holders.map_or_else(Vec::new, |h| h.values().map(|(_, kind)| *kind).collect())
    }
}

const SECOND: Duration = Duration::from_secs(1);

struct Directory(Arc<Fake>);

fn later<R, F>(incoming: Incoming, work: impl FnOnce(R, Connection) -> F)
where
    R: Request,
    F: Future<Output = Result<R::Response>> + Send + 'static,
{
    let request = incoming.decode::<R>().expect("decodes");
    let work = work(request, incoming.connection.clone());
    tokio::spawn(async move {
        let result = work.await;
        incoming.answer::<R>(result, Payload::default());
    });
}

impl Service for Directory {
    fn serve(&self, incoming: Incoming) {
        let fake = self.0.clone();
        match incoming.method {
            OpenSession::METHOD => {
                later::<OpenSession, _>(
                    incoming,
                    |r, c| async move { Ok(fake.open_session(&r, c)) },
                )
            }
            Heartbeat::METHOD => {
                later::<Heartbeat, _>(incoming, |r, c| async move { fake.heartbeat(r, c).await })
            }
            EndSession::METHOD => later::<EndSession, _>(incoming, |r, _| async move {
                let mut state = lock(&fake.state);
                state.sessions.remove(&r.session);
                for holders in state.holders.values_mut() {
                    holders.remove(&r.session);
                }
                Ok(())
            }),
            GetMap::METHOD => {
                later::<GetMap, _>(
                    incoming,
                    |_, _| async move { Ok(lock(&fake.state).map.clone()) },
                )
            }
            AcquireLease::METHOD => {
                later::<AcquireLease, _>(incoming, |r, _| async move { fake.acquire(r).await })
            }
            PushAttr::METHOD => later::<PushAttr, _>(incoming, |r, _| async move { fake.push(r) }),
            OpenInode::METHOD => later::<OpenInode, _>(incoming, |r, _| async move {
                let attr = fake.attr(r.inode)?;
                Ok(InodeOpened { attr, lease: None })
            }),
            CloseInode::METHOD => later::<CloseInode, _>(incoming, |_, _| async move { Ok(()) }),
            SetLock::METHOD => {
                later::<SetLock, _>(incoming, |r, _| async move { fake.set_lock(&r).await })
            }
            CancelLock::METHOD => {
                later::<CancelLock, _>(incoming, |r, _| async move { Ok(fake.cancel(&r)) })
            }
            ReleaseOwner::METHOD => later::<ReleaseOwner, _>(incoming, |r, _| async move {
                fake.unlock(r.inode, r.stamp.session, r.owner);
                Ok(())
            }),
            Reclaim::METHOD => {
                later::<Reclaim, _>(incoming, |r, c| async move { Ok(fake.reclaim(r, c)) })
            }
            Lookup::METHOD => later::<Lookup, _>(incoming, |r, _| async move {
                let name = r.name.expect("no one asks for ..");
                let inode = lock(&fake.state).names.get(&name).copied();
                fake.true_attr(r.session, inode.ok_or(ErrorCode::NotFound)?)
                    .await
            }),
            GetAttr::METHOD => later::<GetAttr, _>(incoming, |r, _| async move {
                fake.true_attr(r.session, r.inode).await
            }),
            GetStatFs::METHOD => later::<GetStatFs, _>(incoming, |_, _| async move {
                Ok(StatFs {
                    free_bytes: 1 << 30,
                    ..StatFs::default()
                })
            }),
            Mutate::METHOD => later::<Mutate, _>(incoming, |r, _| async move { fake.mutate(r) }),
            _ => incoming.refuse_unknown(),
        }
    }
}

impl Fake {
    fn open_session(&self, request: &OpenSession, connection: Connection) -> SessionOpened {
        let mut state = lock(&self.state);
        state.next += 1;
        let fresh = SessionId(state.next);
        let session = *state.runs.entry(request.incarnation).or_insert(fresh);
        state.sessions.insert(session, Some(connection));
        SessionOpened {
            session,
            map: state.map.clone(),
            clock_ns: 1_000_000_000,
            leader_life: state.life,
            members: Vec::new(),
        }
    }

    async fn heartbeat(&self, request: Heartbeat, connection: Connection) -> Result<HeartbeatAck> {
        while lock(&self.state).mute {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut state = lock(&self.state);
        let bound = state.sessions.get_mut(&request.session);
        *bound.ok_or(ErrorCode::SessionEnded)? = Some(connection);
        Ok(HeartbeatAck {
            map_version: state.map.version,
            clock_ns: 1_000_000_000,
            leader_life: state.life,
        })
    }

    fn attr(&self, inode: InodeId) -> Result<FileAttr> {
        let state = lock(&self.state);
        Ok(*state.inodes.get(&inode).ok_or(ErrorCode::Stale)?)
    }

    /// Asks the exclusive holder elsewhere.
    async fn true_attr(&self, session: SessionId, inode: InodeId) -> Result<FileAttr> {
        let holder = {
            let state = lock(&self.state);
            let holders = state.holders.get(&inode).into_iter().flatten();
            holders
                .filter(|(s, (_, kind))| **s != session && *kind == LeaseKind::Exclusive)
                .find_map(|(s, (grant, _))| Some((state.sessions[s].clone()?, *grant)))
        };
        if let Some((connection, grant)) = holder {
            let ask = AskAttr { inode, grant };
            connection
                .call(&ask, Payload::default(), SECOND * 5)
                .await?;
        }
        self.attr(inode)
    }

    async fn acquire(&self, request: AcquireLease) -> Result<LeaseGrant> {
        let AcquireLease {
            session,
            inode,
            kind,
        } = request;
        loop {
            let victim = {
                let mut state = lock(&self.state);
                if !state.sessions.contains_key(&session) {
                    return Err(ErrorCode::SessionEnded.into());
                }
                let attr = *state.inodes.get(&inode).ok_or(ErrorCode::Stale)?;
                state.next += 1;
                let fresh = GrantId(state.next);
                let map_version = state.map.version;
                let holders = state.holders.entry(inode).or_default();
                let conflict = holders.iter().find(|(s, (_, held))| {
                    **s != session
                        && (kind == LeaseKind::Exclusive || *held == LeaseKind::Exclusive)
                });
                match conflict {
                    None => {
                        let mine = holders.entry(session).or_insert((fresh, kind));
                        if mine.1 < kind {
                            *mine = (fresh, kind);
                        }
                        let (grant, kind) = *mine;
                        return Ok(LeaseGrant {
                            grant,
                            kind,
                            attr,
                            map_version,
                            contended: false,
                        });
                    }
                    Some((s, (grant, _))) => (*s, *grant),
                }
            };
            self.recall(inode, victim.0, victim.1).await;
        }
    }

    async fn recall(&self, inode: InodeId, session: SessionId, grant: GrantId) {
        let connection = lock(&self.state).sessions.get(&session).cloned().flatten();
        let Some(connection) = connection else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            return;
        };
        let recall = Recall {
            inode,
            grant,
            keep: None,
        };
        let answer = connection
            .call(&recall, Payload::default(), SECOND * 5)
            .await;
        if let Ok((RecallAnswer::Returned { .. }, _)) = answer {
            let mut state = lock(&self.state);
            state.recalls += 1;
            let holders = state.holders.entry(inode).or_default();
            if holders
                .get(&session)
                .is_some_and(|(held, _)| *held == grant)
            {
                holders.remove(&session);
            }
        }
    }

    fn push(&self, request: PushAttr) -> Result<FileAttr> {
        let mut state = lock(&self.state);
        let held = state.holders.get(&request.inode);
        let held = held.and_then(|h| h.get(&request.stamp.session));
        if held != Some(&(request.grant, LeaseKind::Exclusive)) {
            return Err(ErrorCode::StaleGrant.into());
        }
        let SizeTimes { size, modified, .. } = request.push;
        let attr = state
            .inodes
            .get_mut(&request.inode)
            .ok_or(ErrorCode::Stale)?;
        attr.size = size;
        attr.modified = modified.unwrap_or(attr.modified);
        Ok(*attr)
    }

    async fn set_lock(&self, request: &SetLock) -> Result<LockAnswer> {
        let session = request.stamp.session;
        if request.kind.is_none() {
            self.unlock(request.inode, session, request.owner);
            return Ok(LockAnswer::Done);
        }
        assert_eq!(
            request.kind,
            Some(LockKind::Exclusive),
            "the fake knows no other"
        );
        let mut state = lock(&self.state);
        let me = (session, request.owner);
        let holder = *state.locks.entry(request.inode).or_insert(me);
        if holder == me {
            return Ok(LockAnswer::Done);
        }
        if !request.wait {
            return Err(ErrorCode::WouldBlock.into());
        }
        let waiters = state.waiters.entry(request.inode).or_default();
        waiters.push_back((session, request.owner, request.stamp.sequence));
        drop(state);
        self.changed.notify_waiters();
        Ok(LockAnswer::Queued)
    }

    /// Waits until so many wait for a lock.
    pub(super) async fn queued(&self, inode: InodeId, count: usize) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if lock(&self.state)
                .waiters
                .get(&inode)
                .map_or(0, VecDeque::len)
                == count
            {
                return;
            }
            changed.await;
        }
    }

    fn cancel(&self, request: &CancelLock) -> CancelAnswer {
        let mut state = lock(&self.state);
        let waiters = state.waiters.entry(request.inode).or_default();
        let before = waiters.len();
        waiters.retain(|(s, _, wait)| (*s, *wait) != (request.session, request.wait));
        let cancelled = waiters.len() < before;
        drop(state);
        self.changed.notify_waiters();
        match cancelled {
            true => CancelAnswer::Cancelled,
            false => CancelAnswer::TooLate,
        }
    }

    fn unlock(&self, inode: InodeId, session: SessionId, owner: LockOwner) {
        let mut state = lock(&self.state);
        if state.locks.get(&inode) != Some(&(session, owner)) {
            return;
        }
        state.locks.remove(&inode);
        let next = state.waiters.entry(inode).or_default().pop_front();
        if let Some((session, owner, wait)) = next {
            state.locks.insert(inode, (session, owner));
            let connection = state.sessions[&session].clone().expect("connected");
            tokio::spawn(async move {
                let granted = LockGranted { inode, wait };
                let told = connection.call(&granted, Payload::default(), SECOND);
                told.await.expect("acknowledged");
            });
        }
        drop(state);
        self.changed.notify_waiters();
    }

    fn reclaim(&self, request: Reclaim, connection: Connection) -> Reclaimed {
        let mut state = lock(&self.state);
        state.sessions.insert(request.session, Some(connection));
        let mut leases = Vec::new();
        for inode in &request.leases {
            state.next += 1;
            let grant = GrantId(state.next);
            let held = (grant, LeaseKind::Exclusive);
            state
                .holders
                .entry(*inode)
                .or_default()
                .insert(request.session, held);
            leases.push(Some(LeaseGrant {
                grant,
                kind: LeaseKind::Exclusive,
                attr: state.inodes[inode],
                map_version: state.map.version,
                contended: false,
            }));
        }
        for (inode, held) in &request.locks {
            state
                .locks
                .insert(*inode, (held.holder.session, held.holder.owner));
        }
        state.reclaimed.push(request);
        Reclaimed { leases }
    }

    fn mutate(&self, request: Mutate) -> Result<Mutated> {
        let mut state = lock(&self.state);
        let stamp = request.stamp;
        let key = (stamp.session, stamp.sequence);
        if let Some(done) = state.answers.get(&key) {
            return Ok(*done);
        }
        if !state.sessions.contains_key(&stamp.session) {
            return Err(ErrorCode::SessionEnded.into());
        }
        state.mutations += 1;
        let mutated = match request.mutation {
            Mutation::Create { name, mode, .. } => {
                state.next += 1;
                let attr = new_file(InodeId(state.next), mode);
                state.names.insert(name, attr.inode);
                state.inodes.insert(attr.inode, attr);
                state.next += 1;
                let grant = GrantId(state.next);
                let held = (grant, LeaseKind::Exclusive);
                state
                    .holders
                    .entry(attr.inode)
                    .or_default()
                    .insert(stamp.session, held);
                Mutated {
                    attr: Some(attr),
                    created: true,
                    lease: Some(LeaseGrant {
                        grant,
                        kind: LeaseKind::Exclusive,
                        attr,
                        map_version: state.map.version,
                        contended: false,
                    }),
                }
            }
            Mutation::SetSize { inode, size, .. } => {
                let attr = state.inodes.get_mut(&inode).ok_or(ErrorCode::Stale)?;
                let shrinks = size < attr.size;
                attr.size = size;
                if shrinks {
                    attr.generation = attr.generation.next();
                }
                let attr = *attr;
                if shrinks {
                    state.cut(&attr);
                }
                Mutated {
                    attr: Some(attr),
                    created: false,
                    lease: None,
                }
            }
            Mutation::SetAttr { inode, set } => {
                let attr = state.inodes.get_mut(&inode).ok_or(ErrorCode::Stale)?;
                attr.mode = set.mode.unwrap_or(attr.mode);
                Mutated {
                    attr: Some(*attr),
                    created: false,
                    lease: None,
                }
            }
            other => panic!("the fake knows no {other:?}"),
        };
        state.answers.insert(key, mutated);
        Ok(mutated)
    }
}

impl State {
    fn cut(&mut self, attr: &FileAttr) {
        for (key, chunk) in &mut self.chunks {
            if key.inode == attr.inode {
                let start = key.index.0 * u64::from(CHUNK_BYTES);
                let kept = attr.size.saturating_sub(start) as usize;
                chunk.bytes.truncate(kept);
                chunk.generation = attr.generation;
            }
        }
    }
}

fn new_file(inode: InodeId, mode: u16) -> FileAttr {
    FileAttr {
        inode,
        kind: FileKind::Regular,
        mode,
        links: 1,
        uid: 0,
        gid: 0,
        device: 0,
        size: 0,
        accessed: Timestamp::default(),
        modified: Timestamp::default(),
        changed: Timestamp::default(),
        generation: Generation(1),
        layout: FileLayout {
            chunk_bytes: CHUNK_BYTES,
            first_group: GroupId((inode.0 % 4) as u32),
            groups: 4,
        },
    }
}

/// All servers look at the same chunks: replication is not the client's business.
struct Server(ServerId, Arc<Fake>);

impl Service for Server {
    fn serve(&self, mut incoming: Incoming) {
        let payload = incoming.take_payload();
        match incoming.method {
            BindSession::METHOD => incoming.answer::<BindSession>(Ok(()), Payload::default()),
            ReadChunk::METHOD => {
                let read = incoming.decode::<ReadChunk>().and_then(|r| self.read(&r));
                let (result, payload) = match read {
                    Ok((read, payload)) => (Ok(read), payload),
                    Err(error) => (Err(error), Payload::default()),
                };
                incoming.answer::<ReadChunk>(result, payload);
            }
            WriteChunk::METHOD => {
                let request = incoming.decode::<WriteChunk>();
                let result = request.and_then(|r| self.write(&r, &payload));
                if std::mem::take(&mut lock(&self.1.state).lose_next_answer) {
                    incoming.connection.close("the answer is lost");
                }
                incoming.answer::<WriteChunk>(result, Payload::default());
            }
            SyncChunks::METHOD => {
                let result = incoming.decode::<SyncChunks>().and_then(|r| self.sync(r));
                incoming.answer::<SyncChunks>(result, Payload::default());
            }
            _ => incoming.refuse_unknown(),
        }
    }
}

impl Server {
    fn check(&self, state: &State, group: GroupId, epoch: Epoch) -> Result<()> {
        let entry = state.map.group(group).ok_or(ErrorCode::Internal)?;
        if epoch != entry.epoch {
            return Err(Error::bare(ErrorCode::WrongEpoch).with_detail(entry.epoch.0));
        }
        if !entry.in_sync.contains(&self.0) {
            return Err(ErrorCode::WrongRole.into());
        }
        Ok(())
    }

    fn read(&self, request: &ReadChunk) -> Result<(ChunkRead, Payload)> {
        let state = lock(&self.1.state);
        self.check(&state, request.group, request.epoch)?;
        if state.rotten.contains(&self.0) {
            return Err(ErrorCode::Rotten.into());
        }
        let bytes = match state.chunks.get(&request.key) {
            Some(chunk) if chunk.generation > request.generation => {
                let error = Error::bare(ErrorCode::StaleGeneration);
                return Err(error.with_detail(chunk.generation.0));
            }
            Some(chunk) => {
                let from = (request.offset as usize).min(chunk.bytes.len());
                let to = (from + request.len as usize).min(chunk.bytes.len());
                Payload::copy_from(&chunk.bytes[from..to])
            }
            None => Payload::default(),
        };
        let checksums = block_checksums(request.offset, &bytes);
        Ok((ChunkRead { checksums }, bytes))
    }

    fn write(&self, request: &WriteChunk, bytes: &[u8]) -> Result<ChunkWritten> {
        let mut state = lock(&self.1.state);
        self.check(&state, request.group, request.epoch)?;
        let entry = state.map.group(request.group).ok_or(ErrorCode::Internal)?;
        if entry.primary != Some(self.0) {
            return Err(ErrorCode::WrongRole.into());
        }
        assert!(bytes.len() <= IO_BYTES_MAX, "a request is never larger");
        assert!(verify_checksums(request.offset, bytes, &request.checksums));
        if !state.sessions.contains_key(&request.session) {
            return Err(ErrorCode::Fenced.into());
        }
        state.next += 1;
        let fresh = Version {
            epoch: request.epoch,
            counter: state.next,
        };
        let chunk = state.chunks.entry(request.key).or_default();
        let record = chunk.records.get(&request.session).copied();
        let answer = |version| ChunkWritten {
            version,
            epoch: request.epoch,
        };
        match record {
            Some((last, version)) if last == request.sequence => return Ok(answer(version)),
            Some((last, _)) if last > request.sequence => {
                return Err(ErrorCode::WriteForgotten.into());
            }
            _ => {}
        }
        let end = request.offset as usize + bytes.len();
        if chunk.bytes.len() < end {
            chunk.bytes.resize(end, 0);
        }
        chunk.bytes[request.offset as usize..end].copy_from_slice(bytes);
        chunk.generation = request.generation;
        chunk.version = fresh;
        chunk
            .records
            .insert(request.session, (request.sequence, fresh));
        state.writes += 1;
        Ok(answer(fresh))
    }

    fn sync(&self, request: SyncChunks) -> Result<()> {
        let mut state = lock(&self.1.state);
        self.check(&state, request.group, request.epoch)?;
        state.synced.push((self.0, request.chunks));
        Ok(())
    }
}
