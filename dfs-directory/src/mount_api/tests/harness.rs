//! A directory with its state in memory, file servers that obey at once, and mounts.

use crate::mount_api::MountApi;
use crate::namespace::{Format, NamespaceCommand};
use crate::raft::RaftHandle;
use crate::state::Change;
use crate::tasks::{Placement, ServerEvents};
use dfs_proto::attr::{SizeTimes, StatFs};
use dfs_proto::cluster::ClusterMap;
use dfs_proto::error::{ErrorCode, Result};
use dfs_proto::ids::{
    ClusterId, Generation, Incarnation, InodeId, LockOwner, NodeId, ROOT, Sequence, SessionId,
};
use dfs_proto::lock::{LockKind, LockRange, LockSpace};
use dfs_proto::msg::Request;
use dfs_proto::msg::callback::{
    AskAttr, ConfirmLocks, LockGranted, MapChanged, NamesChanged, Recall, RecallAnswer,
};
use dfs_proto::msg::namespace::{Creator, Mutate, Mutated, Mutation};
use dfs_proto::msg::session::{
    AcquireLease, Heartbeat, HeartbeatAck, LeaseGrant, LeaseKind, LockAnswer, OpenSession,
    ReleaseOwner, SetLock, Stamp,
};
use dfs_proto::name::FileName;
use dfs_proto::payload::Payload;
use dfs_proto::transport::{Connection, Identity, Incoming, Listener, Role, Service, connect};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};

const CLUSTER: ClusterId = ClusterId(77);
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// Runs a test in the kind of runtime that the directory uses.
pub(super) fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(async {
            let limit = Duration::from_secs(60);
            tokio::time::timeout(limit, test)
                .await
                .expect("the test ends in time");
        });
}

/// Waits until something is true.
pub(super) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = tokio::time::Instant::now() + DEADLINE;
    while !condition() {
        assert!(tokio::time::Instant::now() < limit, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// What the file servers were told.
#[derive(Default)]
pub(super) struct Servers {
    pub(super) fenced: Mutex<Vec<SessionId>>,
    pub(super) cut: Mutex<Vec<(InodeId, Generation)>>,
    /// Files whose ends were asked for, and how many cuts the log had at that moment.
    pub(super) measured: Mutex<Vec<(InodeId, u64)>>,
    /// Where data end, by inode.
    pub(super) ends: Mutex<BTreeMap<InodeId, u64>>,
    /// Cuts and fences are asked for, but not made.
    pub(super) away: AtomicBool,
    /// So many waits for cuts end as if the lead had been lost.
    pub(super) unproven: AtomicU64,
}

pub(super) struct Directory {
    pub(super) raft: RaftHandle,
    pub(super) api: MountApi,
    pub(super) servers: Arc<Servers>,
    pub(super) map: watch::Sender<Arc<ClusterMap>>,
    address: String,
    ahead: Arc<AtomicU64>,
    next_mount: AtomicU64,
}

impl Directory {
    pub(super) async fn start() -> Self {
        let raft = RaftHandle::in_memory();
        let format = NamespaceCommand::Format(Format::defaults(CLUSTER));
        raft.commit(Change::Namespace(format))
            .await
            .expect("formatted");
        let servers = Arc::new(Servers::default());
        let (map, map_seen) = watch::channel(Arc::new(ClusterMap::default()));
        let placement = obedient(&raft, &servers, map_seen);
        let ahead = Arc::new(AtomicU64::new(0));
        let clock = {
            let ahead = ahead.clone();
            move || {
                crate::mount_api::boot_time() + Duration::from_millis(ahead.load(Ordering::SeqCst))
            }
        };
        let api = MountApi::start_at(Arc::new(clock), raft.clone(), placement);
        until("it leads", || api.core().life != 0).await;
        let identity = Arc::new(Identity {
            cluster: Some(CLUSTER),
            node: NodeId(1),
            incarnation: Incarnation(1),
            role: Role::Directory,
            secret: None,
        });
        let listener = Listener::bind("127.0.0.1:0", &identity)
            .await
            .expect("a free port");
        let address = listener.local_addr().to_string();
        let service = Arc::new(api.clone());
        tokio::spawn(listener.run(identity, service, std::future::pending()));
        Self {
            raft,
            api,
            servers,
            map,
            address,
            ahead,
            next_mount: AtomicU64::new(1),
        }
    }

    /// Lets the directory's clock go ahead. Sessions are as silent as if they had slept.
    pub(super) fn advance(&self, time: Duration) {
        self.ahead
            .fetch_add(time.as_millis() as u64, Ordering::SeqCst);
    }

    /// Another reign of the same member: its memory is lost.
    pub(super) async fn restart(&self) {
        let before = self.api.core().life;
        self.raft.set_leading(false);
        until("it has given up the lead", || self.api.core().life == 0).await;
        self.raft.set_leading(true);
        until("it leads anew", || {
            ![0, before].contains(&self.api.core().life)
        })
        .await;
    }

    /// A mount with a session.
    pub(super) async fn mount(&self) -> Mount {
        let incarnation = Incarnation(100 + self.next_mount.fetch_add(1, Ordering::SeqCst));
        let kernel = Arc::new(Kernel::default());
        let connection = self.dial(incarnation, &kernel).await;
        let opened = connection
            .call(
                &OpenSession {
                    incarnation,
                    host: format!("host{}", incarnation.0),
                    pid: 1,
                    mount_point: "/mnt".into(),
                },
                Payload::default(),
                DEADLINE,
            )
            .await
            .expect("a session")
            .0;
        Mount {
            connection,
            incarnation,
            session: opened.session,
            life: opened.leader_life,
            kernel,
            sequence: AtomicU64::new(1),
        }
    }

    async fn dial(&self, incarnation: Incarnation, kernel: &Arc<Kernel>) -> Connection {
        let identity = Arc::new(Identity {
            cluster: None,
            node: NodeId(u128::from(incarnation.0)),
            incarnation,
            role: Role::Mount,
            secret: None,
        });
        let service: Arc<dyn Service> = kernel.clone();
        connect(&self.address, identity, service)
            .await
            .expect("a connection")
    }

    /// The mount's connection broke; it makes a new one.
    pub(super) async fn reconnect(&self, mount: &mut Mount) {
        mount.connection.close("for a test");
        mount.connection = self.dial(mount.incarnation, &mount.kernel).await;
        mount.heartbeat().await.expect("alive");
    }
}

/// File servers that make every cut and every fence at once.
fn obedient(
    raft: &RaftHandle,
    servers: &Arc<Servers>,
    map: watch::Receiver<Arc<ClusterMap>>,
) -> Placement {
    let (cuts, mut cuts_wanted) = mpsc::channel(64);
    let (fences, mut fences_wanted) = mpsc::channel(64);
    let (measures, mut measures_wanted) = mpsc::channel(64);
    let placement = Placement {
        map,
        space: watch::channel(StatFs {
            total_bytes: 1 << 30,
            free_bytes: 1 << 20,
            ..StatFs::default()
        })
        .1,
        view: watch::channel(Arc::default()).1,
        signs: watch::channel(Default::default()).1,
        intents: Arc::new(Notify::new()),
        cuts,
        fences,
        measures,
        events: ServerEvents::to_nobody(),
    };
    let (cut_raft, cut_by) = (raft.clone(), servers.clone());
    tokio::spawn(async move {
        while let Some(wait) = cuts_wanted.recv().await {
            let (inode, generation) = (wait.inode, wait.generation);
            cut_by
                .cut
                .lock()
                .expect("unpoisoned")
                .push((inode, generation));
            while cut_by.away.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let less = |left: u64| left.checked_sub(1);
            let unproven = &cut_by.unproven;
            if unproven
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
                .is_ok()
            {
                let _ = wait.done.send(Err(ErrorCode::NotLeader.into()));
                continue;
            }
            let done = NamespaceCommand::CutDone { inode, generation };
            let ended = cut_raft.commit(Change::Namespace(done)).await.map(|_| ());
            let _ = wait.done.send(ended);
        }
    });
    let (measured_raft, measured_by) = (raft.clone(), servers.clone());
    tokio::spawn(async move {
        while let Some(wait) = measures_wanted.recv().await {
            let cuts = measured_raft.read_local(crate::namespace::read::intent_count);
            let cuts = cuts.expect("read");
            let files = wait.files.iter().map(|file| (file.inode, cuts));
            measured_by
                .measured
                .lock()
                .expect("unpoisoned")
                .extend(files);
            let ends = measured_by.ends.lock().expect("unpoisoned").clone();
            let _ = wait.done.send(Ok(ends));
        }
    });
    let fenced_by = servers.clone();
    tokio::spawn(async move {
        while let Some(wait) = fences_wanted.recv().await {
            fenced_by
                .fenced
                .lock()
                .expect("unpoisoned")
                .push(wait.session);
            while fenced_by.away.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let _ = wait.done.send(Ok(()));
        }
    });
    placement
}

/// How a mount answers a recall.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum OnRecall {
    #[default]
    Return,
    /// With size and times that were not pushed before.
    Push(SizeTimes),
    Working,
    /// It never answers.
    Silent,
}

/// The mount's side of callbacks.
#[derive(Default)]
pub(super) struct Kernel {
    pub(super) on_recall: Mutex<OnRecall>,
    pub(super) on_ask: Mutex<Option<SizeTimes>>,
    pub(super) recalls: Mutex<Vec<Recall>>,
    pub(super) asks: AtomicU64,
    pub(super) granted: Mutex<Vec<Sequence>>,
    pub(super) maps: AtomicU64,
    pub(super) confirms: AtomicU64,
    /// Flock owners that are closed but not released yet: released when they are asked for.
    pub(super) closing: Mutex<Vec<(ReleaseOwner, Connection)>>,
    /// News of names, answered at once or (with `hold_news`) when they are held no more.
    names: Mutex<Vec<NamesChanged>>,
    held_news: Mutex<Option<Vec<Incoming>>>,
    /// Grants of locks, and questions whether they are held, are not answered.
    pub(super) deaf: Mutex<bool>,
    kept: Mutex<Vec<Incoming>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("unpoisoned")
}

impl Kernel {
    pub(super) fn recalled(&self) -> Vec<Recall> {
        locked(&self.recalls).clone()
    }

    pub(super) fn answer_recalls(&self, how: OnRecall) {
        *locked(&self.on_recall) = how;
    }

    /// Answers the recalls that were kept: nothing is held any more.
    pub(super) fn answer_kept_recalls(&self) {
        for incoming in std::mem::take(&mut *locked(&self.kept)) {
            let answer = RecallAnswer::Returned { push: None };
            incoming.answer::<Recall>(Ok(answer), Payload::default());
        }
    }

    pub(super) fn news(&self) -> Vec<NamesChanged> {
        locked(&self.names).clone()
    }

    pub(super) fn hold_news(&self, hold: bool) {
        let mut held = locked(&self.held_news);
        for incoming in held.take().unwrap_or_default() {
            incoming.answer::<NamesChanged>(Ok(()), Payload::default());
        }
        *held = hold.then(Vec::new);
    }

    pub(super) fn was_granted(&self, wait: Sequence) -> bool {
        locked(&self.granted).contains(&wait)
    }
}

impl Service for Kernel {
    fn serve(&self, incoming: Incoming) {
        let none = Payload::default();
        match incoming.method {
            Recall::METHOD => {
                let recall: Recall = incoming.decode().expect("a recall");
                locked(&self.recalls).push(recall);
                let answer = match *locked(&self.on_recall) {
                    OnRecall::Return => RecallAnswer::Returned { push: None },
                    OnRecall::Push(push) => RecallAnswer::Returned { push: Some(push) },
                    OnRecall::Working => RecallAnswer::Working,
                    OnRecall::Silent => return locked(&self.kept).push(incoming),
                };
                incoming.answer::<Recall>(Ok(answer), none);
            }
            AskAttr::METHOD => {
                self.asks.fetch_add(1, Ordering::SeqCst);
                incoming.answer::<AskAttr>(Ok(*locked(&self.on_ask)), none);
            }
            LockGranted::METHOD if *locked(&self.deaf) => locked(&self.kept).push(incoming),
            LockGranted::METHOD => {
                let granted: LockGranted = incoming.decode().expect("a grant");
                locked(&self.granted).push(granted.wait);
                incoming.answer::<LockGranted>(Ok(()), none);
            }
            NamesChanged::METHOD => {
                let news: NamesChanged = incoming.decode().expect("news");
                locked(&self.names).push(news);
                match &mut *locked(&self.held_news) {
                    Some(held) => held.push(incoming),
                    None => incoming.answer::<NamesChanged>(Ok(()), none),
                }
            }
            MapChanged::METHOD => {
                self.maps.fetch_add(1, Ordering::SeqCst);
                incoming.answer::<MapChanged>(Ok(()), none);
            }
            ConfirmLocks::METHOD => {
                self.confirms.fetch_add(1, Ordering::SeqCst);
                if *locked(&self.deaf) {
                    return locked(&self.kept).push(incoming);
                }
                let closing = std::mem::take(&mut *locked(&self.closing));
                tokio::spawn(async move {
                    for (release, connection) in closing {
                        let released = connection.call(&release, Payload::default(), DEADLINE);
                        released.await.expect("released");
                    }
                    incoming.answer::<ConfirmLocks>(Ok(()), Payload::default());
                });
            }
            _ => incoming.refuse_unknown(),
        }
    }
}

pub(super) struct Mount {
    pub(super) connection: Connection,
    incarnation: Incarnation,
    pub(super) session: SessionId,
    pub(super) life: u64,
    pub(super) kernel: Arc<Kernel>,
    sequence: AtomicU64,
}

pub(super) fn name(text: &str) -> FileName {
    FileName::new(text.as_bytes()).expect("a name")
}

impl Mount {
    pub(super) async fn call<R: Request>(&self, request: R) -> Result<R::Response> {
        Ok(self
            .connection
            .call(&request, Payload::default(), DEADLINE)
            .await?
            .0)
    }

    /// A call that goes on while the test does something else.
    pub(super) fn start<R: Request + Sync>(
        &self,
        request: R,
    ) -> tokio::task::JoinHandle<Result<R::Response>> {
        let connection = self.connection.clone();
        tokio::spawn(async move {
            let called = connection.call_undated(&request, Payload::default()).await;
            called.map(|(response, _)| response)
        })
    }

    pub(super) fn stamp(&self) -> Stamp {
        let sequence = Sequence(self.sequence.fetch_add(1, Ordering::SeqCst));
        Stamp {
            session: self.session,
            sequence,
            lowest_unanswered: Sequence(1),
        }
    }

    pub(super) fn mutation(&self, mutation: Mutation) -> Mutate {
        Mutate {
            stamp: self.stamp(),
            mutation,
        }
    }

    pub(super) async fn mutate(&self, mutation: Mutation) -> Result<Mutated> {
        self.call(self.mutation(mutation)).await
    }

    pub(super) async fn create(&self, file: &str) -> Result<Mutated> {
        self.mutate(Mutation::Create {
            parent: ROOT,
            name: name(file),
            mode: 0o644,
            creator: Creator {
                uid: 0,
                gid: 0,
                umask: 0,
            },
            exclusive: false,
        })
        .await
    }

    /// A file that nobody has a lease of.
    pub(super) async fn file(&self, text: &str) -> InodeId {
        self.mutate(Mutation::MakeNode {
            parent: ROOT,
            name: name(text),
            kind: dfs_proto::attr::FileKind::Regular,
            mode: 0o644,
            device: 0,
            creator: Creator {
                uid: 0,
                gid: 0,
                umask: 0,
            },
        })
        .await
        .expect("made")
        .attr
        .expect("attributes")
        .inode
    }

    pub(super) async fn lease(&self, inode: InodeId, kind: LeaseKind) -> Result<LeaseGrant> {
        self.call(self.wants(inode, kind)).await
    }

    pub(super) fn wants(&self, inode: InodeId, kind: LeaseKind) -> AcquireLease {
        AcquireLease {
            session: self.session,
            inode,
            kind,
        }
    }

    pub(super) async fn heartbeat(&self) -> Result<HeartbeatAck> {
        self.call(Heartbeat {
            session: self.session,
            unreachable: Vec::new(),
        })
        .await
    }

    pub(super) fn flock(&self, inode: InodeId, owner: u64, kind: LockKind, wait: bool) -> SetLock {
        SetLock {
            stamp: self.stamp(),
            inode,
            space: LockSpace::Flock,
            owner: LockOwner(owner),
            pid: 1,
            kind: Some(kind),
            range: LockRange::WHOLE,
            wait,
        }
    }

    pub(super) fn release(&self, inode: InodeId, owner: u64) -> ReleaseOwner {
        let owner = LockOwner(owner);
        ReleaseOwner {
            stamp: self.stamp(),
            inode,
            space: LockSpace::Flock,
            owner,
        }
    }

    pub(super) async fn locks(&self, request: SetLock) -> Result<LockAnswer, ErrorCode> {
        self.call(request).await.map_err(|e| e.code)
    }
}
