//! Real file servers with real stores and connections, under a scripted directory: written
//! through the primary, read from every member, a member stopped, others go on, it comes back.

#![allow(clippy::unwrap_used)]

use dfs_proto::cluster::{Equalise, GroupConfig, GroupMember, MemberState, ServerEntry};
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::*;
use dfs_proto::msg::Request;
use dfs_proto::msg::chunk::*;
use dfs_proto::msg::control::*;
use dfs_proto::msg::registry::*;
use dfs_proto::payload::{Payload, block_checksums, verify_checksums};
use dfs_proto::transport::*;
use dfs_server::config::Config;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

const GROUP: GroupId = GroupId(0);
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone)]
struct Registered {
    run: ServerRun,
    address: String,
    past: DataDirPast,
    connection: Connection,
}

/// A directory that does what the test says.
#[derive(Default)]
struct Directory {
    servers: Mutex<BTreeMap<NodeId, (ServerId, Option<Registered>)>>,
    proposals: Mutex<Vec<ProposeInSync>>,
    /// Registrations are put off, and how many were.
    busy: AtomicBool,
    put_off: AtomicU32,
    /// Signs of life from servers that know of their registration.
    beats: AtomicU32,
    changed: Notify,
}

impl Service for Directory {
    fn serve(&self, incoming: Incoming) {
        let nothing = Payload::default();
        match incoming.method {
            RegisterServer::METHOD if self.busy.load(Ordering::SeqCst) => {
                self.put_off.fetch_add(1, Ordering::SeqCst);
                incoming.refuse(Error::bare(ErrorCode::Overloaded));
            }
            RegisterServer::METHOD => {
                let request = incoming.decode::<RegisterServer>().unwrap();
                let mut servers = self.servers.lock().unwrap();
                let next = ServerId(servers.len() as u32 + 1);
                let entry = servers.entry(request.node).or_insert((next, None));
                let server = entry.0;
                entry.1 = Some(Registered {
                    run: ServerRun {
                        server,
                        incarnation: request.incarnation,
                    },
                    address: request.address,
                    past: request.past,
                    connection: incoming.connection.clone(),
                });
                drop(servers);
                let answer = ServerRegistered {
                    server,
                    groups: 1,
                    fenced: Vec::new(),
                };
                incoming.answer::<RegisterServer>(Ok(answer), nothing);
            }
            ServerHeartbeat::METHOD => {
                self.beats.fetch_add(1, Ordering::SeqCst);
                incoming.answer::<ServerHeartbeat>(Ok(Heard { repair_rate: 0 }), nothing);
            }
            ReportSuspect::METHOD => incoming.answer::<ReportSuspect>(Ok(()), nothing),
            ProposeInSync::METHOD => {
                let request = incoming.decode::<ProposeInSync>().unwrap();
                self.proposals.lock().unwrap().push(request);
                incoming.answer::<ProposeInSync>(Ok(()), nothing);
            }
            _ => incoming.refuse_unknown(),
        }
        self.changed.notify_waiters();
    }

    fn disconnected(&self, connection: &Connection) {
        for (_, registered) in self.servers.lock().unwrap().values_mut() {
            if registered
                .as_ref()
                .is_some_and(|r| r.connection.id() == connection.id())
            {
                *registered = None;
            }
        }
        self.changed.notify_waiters();
    }
}

impl Directory {
    fn present(&self) -> Vec<Registered> {
        let servers = self.servers.lock().unwrap();
        servers.values().filter_map(|(_, r)| r.clone()).collect()
    }

    /// Waits until something about the servers holds.
    async fn wait<T>(&self, what: &str, found: impl Fn(&Self) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                if let Some(found) = found(self) {
                    return found;
                }
                // A change between the look and the wait is seen at the next beat.
                let _ = tokio::time::timeout(Duration::from_millis(50), changed).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting)
            .await
            .unwrap_or_else(|_| panic!("waiting for {what}"))
    }

    async fn enter(&self, epoch: u64, in_sync: &[&Registered], joining: &[&Registered]) {
        let member = |r: &&Registered, state| GroupMember { run: r.run, state };
        let mut members: Vec<_> = in_sync
            .iter()
            .map(|r| member(r, MemberState::InSync))
            .collect();
        members.extend(joining.iter().map(|r| member(r, MemberState::Joining)));
        let config = GroupConfig {
            group: GROUP,
            epoch: Epoch(epoch),
            primary: Some(in_sync[0].run.server),
            members,
            min_in_sync: 1,
            equalise: Equalise::Marked,
        };
        let everybody = || in_sync.iter().chain(joining);
        let servers = everybody().map(|r| ServerEntry {
            run: r.run,
            address: r.address.clone(),
            alive: true,
        });
        let adopt = AdoptEpochs {
            configs: vec![config],
            servers: servers.collect(),
            fenced: Vec::new(),
        };
        let groups = vec![(GROUP, Epoch(epoch))];
        for server in everybody() {
            let adopted = call(&server.connection, &adopt, &[]).await.unwrap().0;
            assert_eq!(adopted.epochs, groups);
        }
        let equalise = EqualiseGroups {
            groups: groups.clone(),
        };
        let equalised = call(&in_sync[0].connection, &equalise, &[])
            .await
            .unwrap()
            .0;
        assert_eq!(
            (equalised.groups, equalised.suspects),
            (groups.clone(), Vec::new())
        );
        for server in everybody() {
            let effective = EpochsEffective {
                groups: groups.clone(),
            };
            call(&server.connection, &effective, &[]).await.unwrap();
        }
    }
}

/// A directory's port.
struct Listening {
    address: String,
    end: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Listening {
    async fn start(directory: Arc<Directory>, cluster: ClusterId) -> Self {
        let mut identity = identity(Role::Directory, 1);
        Arc::make_mut(&mut identity).cluster = Some(cluster);
        let listener = Listener::bind("127.0.0.1:0", &identity).await.unwrap();
        let address = listener.local_addr().to_string();
        let (end, ended) = oneshot::channel::<()>();
        let task = tokio::spawn(listener.run(identity, directory, async move {
            let _ = ended.await;
        }));
        Self { address, end, task }
    }

    async fn stop(self) {
        let _ = self.end.send(());
        self.task.await.unwrap();
    }
}

async fn call<R: Request>(
    connection: &Connection,
    request: &R,
    bytes: &[u8],
) -> Result<(R::Response, Payload), Error> {
    connection
        .call(request, Payload::copy_from(bytes), PATIENCE)
        .await
}

fn identity(role: Role, number: u64) -> Arc<Identity> {
    Arc::new(Identity {
        cluster: Some(ClusterId(77)),
        node: NodeId(u128::from(number)),
        incarnation: Incarnation(number),
        role,
        secret: None,
    })
}

fn config(data: &Path, directory: &str) -> Config {
    Config {
        data: data.to_owned(),
        listen: "127.0.0.1:0".into(),
        advertise: None,
        directory: vec![directory.into()],
        secret_file: None,
        reserve: Some(0),
        slow_factor: 0,
        slow_after: Duration::ZERO,
        accept_copy: false,
        accept_rollback: false,
        witness_dir: "/dev/shm".into(),
        scrub_every: Duration::ZERO,
        scrub_rate: 1 << 20,
    }
}

struct Server {
    stop: oneshot::Sender<()>,
    running: tokio::task::JoinHandle<()>,
}

impl Server {
    fn start(data: &Path, directory: &str) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let config = config(data, directory);
        let running = tokio::spawn(async move {
            let stop = async move {
                let _ = stopped.await;
            };
            dfs_server::node::run(config, stop).await.unwrap();
        });
        Self { stop, running }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.running.await.unwrap();
    }
}

/// A mount's connection to one server.
struct Mount(Connection);

impl Mount {
    async fn to(server: &Registered, session: u64) -> Self {
        let identity = identity(Role::Mount, 1000 + session);
        let connection = connect(&server.address, identity, Arc::new(NoService))
            .await
            .unwrap();
        let bind = BindSession {
            session: SessionId(session),
        };
        call(&connection, &bind, &[]).await.unwrap();
        Self(connection)
    }

    async fn write(
        &self,
        epoch: u64,
        sequence: u64,
        (index, offset): (u64, u32),
        bytes: &[u8],
    ) -> Result<ChunkWritten, Error> {
        let request = WriteChunk {
            after: Version::HOLE,
            key: key(index),
            group: GROUP,
            epoch: Epoch(epoch),
            generation: Generation(0),
            session: SessionId(5),
            sequence: Sequence(sequence),
            offset,
            checksums: block_checksums(offset, bytes),
        };
        Ok(call(&self.0, &request, bytes).await?.0)
    }

    async fn read(&self, epoch: u64, index: u64, len: u32) -> Result<Vec<u8>, Error> {
        let request = ReadChunk {
            key: key(index),
            group: GROUP,
            epoch: Epoch(epoch),
            generation: Generation(0),
            offset: 0,
            len,
        };
        let (read, payload) = call(&self.0, &request, &[]).await?;
        assert!(verify_checksums(0, &payload, &read.checksums));
        Ok(payload.to_vec())
    }
}

fn key(index: u64) -> ChunkKey {
    ChunkKey {
        inode: InodeId(9),
        index: ChunkIndex(index),
    }
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|at| (at as u8).wrapping_mul(31) ^ seed)
        .collect()
}

#[tokio::test]
async fn a_group_of_real_servers_survives_the_stop_of_its_primary() {
    let directory = Arc::new(Directory::default());
    let listening = Listening::start(directory.clone(), ClusterId(77)).await;
    let address = listening.address.clone();
    let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let mut running: BTreeMap<ServerId, (Server, &Path)> = BTreeMap::new();
    for dir in &dirs {
        let server = Server::start(dir.path(), &address);
        let known = running.len();
        let found = directory
            .wait("a registration", |d| {
                let mut present = d.present();
                present.sort_by_key(|r| r.run.server);
                (present.len() > known).then(|| present.pop()).flatten()
            })
            .await;
        assert!(found.past.runs.is_empty());
        let text = std::fs::read_to_string(dir.path().join("address")).unwrap();
        assert_eq!(text.trim(), found.address);
        running.insert(found.run.server, (server, dir.path()));
    }
    let mut servers = directory.present();
    servers.sort_by_key(|r| r.run.server);
    let [a, b, c] = &servers[..] else {
        panic!("three servers")
    };
    directory.enter(1, &[a, b, c], &[]).await;

    // Large and small, aligned and not; read back from every member.
    let (large, small) = (pattern(1 << 20, 1), pattern(777, 2));
    let mount = Mount::to(a, 5).await;
    let first = mount.write(1, 1, (0, 0), &large).await.unwrap();
    mount.write(1, 2, (1, 0), &large).await.unwrap();
    let last = mount.write(1, 3, (0, 5000), &small).await.unwrap();
    assert_eq!((first.version.counter, last.version.counter), (1, 3));
    let mut expected = large.clone();
    expected[5000..5777].copy_from_slice(&small);
    for server in [a, b, c] {
        let reader = Mount::to(server, 6).await;
        assert_eq!(reader.read(1, 0, 1 << 20).await.unwrap(), expected);
        let sync = SyncChunks {
            session: SessionId(5),
            inode: InodeId(9),
            group: GROUP,
            epoch: Epoch(1),
            generation: Generation(0),
            chunks: vec![(ChunkIndex(0), last.version)],
        };
        call(&reader.0, &sync, &[]).await.unwrap();
    }
    let refused = Mount::to(b, 5).await.write(1, 4, (0, 0), &small).await;
    assert_eq!(refused.unwrap_err().code, ErrorCode::WrongRole);

    // A stranger's requests go nowhere.
    let stranger = Mount::to(a, 7).await;
    let other = stranger.write(1, 9, (0, 0), &small).await.unwrap_err();
    assert_eq!(other.code, ErrorCode::InvalidArgument, "not its session");
    let fence = FenceSessions {
        sessions: vec![SessionId(5)],
    };
    let refused = call(&stranger.0, &fence, &[]).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::UnknownMethod);

    // The primary stops; the others go on, the repeated write is answered from its record.
    let (server, dir) = running.remove(&a.run.server).unwrap();
    server.stop().await;
    directory
        .wait("the end of its connection", |d| {
            (d.present().len() == 2).then_some(())
        })
        .await;
    directory.enter(2, &[b, c], &[]).await;
    let mount = Mount::to(b, 5).await;
    let stale = mount.write(1, 4, (0, 0), &small).await.unwrap_err();
    assert_eq!((stale.code, stale.detail), (ErrorCode::WrongEpoch, 2));
    let again = mount.write(2, 3, (0, 5000), &small).await.unwrap();
    assert_eq!(again.version, last.version);
    mount.write(2, 4, (2, 100), &large).await.unwrap();
    mount.write(2, 5, (1, 0), &small).await.unwrap();

    // It comes back, is brought up to date while writes go on, and is proposed.
    let server = Server::start(dir, &address);
    let back = directory
        .wait("its return", |d| {
            d.present()
                .into_iter()
                .find(|r| r.run.server == a.run.server)
        })
        .await;
    assert_eq!(
        back.past.intact_since(),
        [a.run.incarnation],
        "it was stopped orderly"
    );
    directory.enter(3, &[b, c], &[&back]).await;
    mount.write(3, 6, (1, 300), &small).await.unwrap();
    let proposal = directory
        .wait("the proposal", |d| {
            d.proposals.lock().unwrap().first().copied()
        })
        .await;
    assert_eq!((proposal.joined, proposal.epoch), (back.run, Epoch(3)));
    directory.enter(4, &[&back, b, c], &[]).await;
    let mut pages = Vec::new();
    for server in [&back, b, c] {
        let verify = VerifyChunks {
            group: GROUP,
            after: None,
            items_max: 100,
        };
        let page = call(&server.connection, &verify, &[]).await.unwrap().0;
        assert!(page.end && page.chunks.len() == 3);
        assert!(page.chunks.iter().all(|chunk| chunk.digest.is_ok()));
        pages.push(page.chunks);
    }
    assert!(pages.windows(2).all(|pair| pair[0] == pair[1]), "{pages:?}");

    running.insert(a.run.server, (server, dir));
    for (server, _) in running.into_values() {
        server.stop().await;
    }
    listening.stop().await;
}

/// A run of a server that ends like a killed one: nothing is told to anybody, nothing is written,
/// and no witness says that nothing is lost.
fn run_and_kill(data: &Path, directory: &str, until: oneshot::Receiver<()>) {
    let mut config = config(data, directory);
    config.witness_dir = data.join("no such dir");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::select! {
            ended = dfs_server::node::run(config, std::future::pending()) => ended.unwrap(),
            _ = until => {}
        }
    });
}

#[tokio::test]
async fn a_loss_that_the_directory_was_not_told_of_is_not_hidden_by_a_clean_stop() {
    let directory = Arc::new(Directory::default());
    let listening = Listening::start(directory.clone(), ClusterId(77)).await;
    let address = listening.address.clone();
    let dir = tempfile::tempdir().unwrap();
    let registered = |d: &Directory| d.present().pop();
    let gone = |d: &Directory| d.present().is_empty().then_some(());

    let (kill, killed) = oneshot::channel();
    let (data, to) = (dir.path().to_owned(), address.clone());
    let first = std::thread::spawn(move || run_and_kill(&data, &to, killed));
    let lossy = directory.wait("the first run", registered).await;
    assert!(lossy.past.runs.is_empty());
    kill.send(()).unwrap();
    tokio::task::spawn_blocking(move || first.join().unwrap())
        .await
        .unwrap();
    directory.wait("its end", gone).await;

    directory.busy.store(true, Ordering::SeqCst);
    let second = Server::start(dir.path(), &address);
    let tried = |d: &Directory| (d.put_off.load(Ordering::SeqCst) > 0).then_some(());
    directory.wait("the second run", tried).await;
    second.stop().await;
    directory.busy.store(false, Ordering::SeqCst);

    let third = Server::start(dir.path(), &address);
    let found = directory.wait("the third run", registered).await;
    assert_eq!(found.past.runs[0], lossy.run.incarnation);
    assert_eq!(found.past.runs.len(), 2);
    assert_eq!(
        found.past.intact_since(),
        &found.past.runs[1..],
        "what the first one had lost stays lost"
    );
    let beats = directory.beats.load(Ordering::SeqCst);
    let known = |d: &Directory| (d.beats.load(Ordering::SeqCst) > beats).then_some(());
    directory.wait("a sign of life", known).await;
    third.stop().await;
    directory.wait("its end", gone).await;

    let fourth = Server::start(dir.path(), &address);
    let last = directory.wait("the fourth run", registered).await;
    assert_eq!(
        last.past.intact_since(),
        [found.past.runs[1], found.run.incarnation]
    );
    fourth.stop().await;
    listening.stop().await;
}

#[tokio::test]
async fn a_directory_of_another_cluster_ends_a_server_in_words() {
    let own = Arc::new(Directory::default());
    let listening = Listening::start(own.clone(), ClusterId(77)).await;
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &listening.address);
    own.wait("a registration", |d| d.present().pop()).await;
    server.stop().await;
    listening.stop().await;

    let other = Listening::start(Arc::default(), ClusterId(78)).await;
    let run = dfs_server::node::run(config(dir.path(), &other.address), std::future::pending());
    let ended = tokio::time::timeout(PATIENCE, run).await.unwrap();
    let text = ended.unwrap_err().to_string();
    for part in [
        &dir.path().display().to_string(),
        &other.address,
        &ClusterId(77).to_string(),
        &ClusterId(78).to_string(),
    ] {
        assert!(text.contains(part), "no {part} in: {text}");
    }
    other.stop().await;
}
