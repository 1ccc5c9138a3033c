//! Feeds events to the core and carries its actions out.
//!
//! One core, behind a mutex that is held while events are handled and short disk work is done,
//! never across a wait. Long disk work runs on the runtime's blocking threads, requests to
//! other servers in tasks; both come back as events.

use super::directory_link::Notice;
use super::disk::{StoreHoldings, is_long, is_short, perform};
use super::peers::Peers;
use super::{facing, verify};
use crate::chunk::ChunkStore;
use crate::pace::{Paces, SlowPolicy};
use crate::replica::{
    Action, Caller, DiskDone, DiskOp, Event, ReplicaCore, Request, Response, Sender, Token,
};
use dfs_proto::eager::begin;
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::{ChunkKey, Epoch, GroupId, ServerRun, Version};
use dfs_proto::msg::control::VerifyChunks;
use dfs_proto::msg::registry::{Heard, RepairWork};
use dfs_proto::payload::Payload;
use dfs_proto::transport::Incoming;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Syncs and copies that run at the same time. Less than there are disk threads: while many
/// groups are brought up to date, a forwarded write must not wait behind all of them.
const LONG_OPS_MAX: usize = 12;

/// How often time is told to the core.
const TICK: Duration = Duration::from_millis(100);

/// The core with what it needs of the world.
pub struct Driver {
    inner: Mutex<Inner>,
    store: Arc<ChunkStore>,
    peers: Arc<Peers>,
    notices: mpsc::Sender<Notice>,
    started: Instant,
    stopping: AtomicBool,
    long_ops: Semaphore,
    checks: Mutex<BTreeMap<GroupId, ChunkKey>>,
    paces: Mutex<Paces>,
}

struct Inner {
    core: ReplicaCore,
    waiting: HashMap<Caller, Waiting>,
    last_caller: u64,
}

/// Who gets an answer of the core.
enum Waiting {
    Peer(Incoming),
    Own(oneshot::Sender<Result<Response, Error>>),
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}

impl Driver {
    pub fn new(
        core: ReplicaCore,
        store: Arc<ChunkStore>,
        peers: Arc<Peers>,
        notices: mpsc::Sender<Notice>,
        slow: SlowPolicy,
    ) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                core,
                waiting: HashMap::new(),
                last_caller: 0,
            }),
            store,
            peers,
            notices,
            started: Instant::now(),
            stopping: AtomicBool::new(false),
            long_ops: Semaphore::new(LONG_OPS_MAX),
            checks: Mutex::default(),
            paces: Mutex::new(Paces::new(slow)),
        })
    }

    /// Tells the core of the time, until the task is dropped.
    pub async fn tick(self: Arc<Self>) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.feed(Event::Tick);
            if let Some(reason) = self.store.failure() {
                self.feed(Event::DiskFailed { reason });
            }
            let slow = self.paces().tick(self.started.elapsed());
            if let Some(slow) = slow {
                self.tell(Notice::Slow(slow));
            }
        }
    }

    fn paces(&self) -> MutexGuard<'_, Paces> {
        self.paces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries an operation out and notes how long a write took. Blocks.
    fn perform(&self, op: &DiskOp) -> Result<DiskDone, Error> {
        let began = Instant::now();
        let result = perform(&self.store, op);
        if matches!(op, DiskOp::Write { .. }) && result.is_ok() {
            self.paces().applied(None, began.elapsed());
        }
        result
    }

    /// Hands a request to the core; it is answered when the core says so.
    pub(super) fn request(
        self: &Arc<Self>,
        from: Sender,
        incoming: Incoming,
        request: Request,
        payload: Payload,
    ) {
        if self.stopping.load(Ordering::Relaxed) {
            return incoming.refuse(Error::bare(ErrorCode::ShuttingDown));
        }
        match &request {
            Request::Adopt(adopt) => self.peers.learn(&adopt.servers),
            Request::Check(check) => {
                let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
                checks.insert(check.group, check.key);
            }
            _ => {}
        }
        let caller = {
            let mut inner = self.inner();
            inner.last_caller += 1;
            let caller = Caller(inner.last_caller);
            inner.waiting.insert(caller, Waiting::Peer(incoming));
            caller
        };
        self.feed(Event::Request {
            from,
            caller,
            request,
            payload,
        });
    }

    /// Asks the core something of this server's own.
    pub(crate) async fn ask(self: &Arc<Self>, request: Request) -> Result<Response, Error> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(Error::bare(ErrorCode::ShuttingDown));
        }
        let (told, answer) = oneshot::channel();
        let caller = {
            let mut inner = self.inner();
            inner.last_caller += 1;
            let caller = Caller(inner.last_caller);
            inner.waiting.insert(caller, Waiting::Own(told));
            caller
        };
        self.feed(Event::Request {
            from: Sender::Own,
            caller,
            request,
            payload: Payload::default(),
        });
        answer
            .await
            .unwrap_or_else(|_| Err(Error::bare(ErrorCode::ShuttingDown)))
    }

    /// The groups that this run leads and that serve.
    pub(crate) fn led(&self) -> Vec<GroupId> {
        self.inner().core.led()
    }

    /// The chunks that primaries had this server check since this was asked last: the latest one
    /// of each group.
    pub(crate) fn take_checks(&self) -> BTreeMap<GroupId, ChunkKey> {
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut checks)
    }

    /// Removes a copy of a group that this server is no member of, if it is that version.
    /// Blocks. The core waits meanwhile, so that the group cannot come back under it.
    pub(crate) fn drop_stray(
        &self,
        group: GroupId,
        key: ChunkKey,
        version: Version,
    ) -> Result<bool, Error> {
        let inner = self.inner();
        let held = self.store.state(key).map(|state| state.version);
        if inner.core.takes_part(group) || held != Some(version) {
            return Ok(false);
        }
        self.store.remove(key)?;
        Ok(true)
    }

    /// Answers a page of the check of everything held, from another thread.
    pub(super) fn verify(&self, incoming: Incoming, request: VerifyChunks) {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || {
            let page = verify::page(&store, request);
            incoming.answer::<VerifyChunks>(Ok(page), Payload::default());
        });
    }

    /// What this server does to bring members up to date, for a heartbeat.
    pub(super) fn repair_work(&self) -> RepairWork {
        self.inner().core.repair_work()
    }

    /// What the directory wants this server to keep to.
    pub(super) fn heard(&self, heard: Heard) {
        self.inner().core.limit_repair(heard.repair_rate);
    }

    /// The durable epochs, for a registration.
    pub(super) fn epochs(&self) -> Vec<(GroupId, Epoch)> {
        self.inner().core.epochs()
    }

    pub(crate) fn store(&self) -> &Arc<ChunkStore> {
        &self.store
    }

    /// Accepts nothing any more and waits, at most for `patience`, until nothing is in progress.
    pub async fn stop(&self, patience: Duration) {
        self.stopping.store(true, Ordering::Relaxed);
        let end = Instant::now() + patience;
        while !self.inner().core.is_idle() && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic while it was held has ended the process's purpose anyway; see `feed`.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an event in, and everything that follows from it at once.
    fn feed(self: &Arc<Self>, event: Event) {
        let mut events = VecDeque::from([event]);
        let mut inner = self.inner();
        while let Some(event) = events.pop_front() {
            let now = self.started.elapsed();
            let actions = inner.core.handle(now, event, &StoreHoldings(&self.store));
            for action in actions {
                events.extend(self.act(&mut inner, action));
            }
        }
    }

    fn act(self: &Arc<Self>, inner: &mut Inner, action: Action) -> Option<Event> {
        match action {
            Action::Answer {
                caller,
                result,
                payload,
            } => match inner.waiting.remove(&caller) {
                Some(Waiting::Peer(incoming)) => facing::answer(incoming, result, payload),
                Some(Waiting::Own(told)) => drop(told.send(result)),
                None => {}
            },
            Action::Disk { token, op } if is_short(&self.store, &op) => {
                let result = self.perform(&op);
                return Some(Event::Disk { token, result });
            }
            Action::Disk { token, op } => self.perform_elsewhere(token, op),
            Action::Send {
                token,
                to,
                request,
                payload,
                deadline,
            } => return self.send(token, to, request, payload, deadline),
            Action::Suspect {
                suspect,
                groups,
                reason,
            } => self.tell(Notice::Suspect {
                suspect,
                groups,
                reason,
            }),
            Action::Propose {
                group,
                epoch,
                joined,
            } => self.tell(Notice::Propose {
                group,
                epoch,
                joined,
            }),
        }
        None
    }

    /// Both notices are repeated by the core while they matter: a full queue may drop one.
    fn tell(&self, notice: Notice) {
        if self.notices.try_send(notice).is_err() {
            log::debug!("a notice to the directory waits for its repetition");
        }
    }

    fn perform_elsewhere(self: &Arc<Self>, token: Token, op: DiskOp) {
        let driver = self.clone();
        tokio::spawn(async move {
            let _place = match is_long(&op) {
                // It is never closed.
                true => driver.long_ops.acquire().await.ok(),
                false => None,
            };
            let performing = driver.clone();
            let result = tokio::task::spawn_blocking(move || performing.perform(&op)).await;
            let result = result.unwrap_or_else(|e| {
                log::error!("a disk operation ended abnormally: {e}");
                Err(Error::new(ErrorCode::DiskFailed, e.to_string()))
            });
            driver.feed(Event::Disk { token, result });
        });
    }

    /// Begins to ask another server; returns the answer if it is there already (a refusal).
    fn send(
        self: &Arc<Self>,
        token: Token,
        to: ServerRun,
        request: Request,
        payload: Payload,
        deadline: Duration,
    ) -> Option<Event> {
        let driver = self.clone();
        let asked = async move {
            let is_write = matches!(request, Request::Forward(_));
            let began = Instant::now();
            let answer = driver.peers.ask(to, request, payload, deadline).await;
            if is_write && answer.is_ok() {
                driver.paces().applied(Some(to), began.elapsed());
            }
            answer
        };
        let reply = move |answer| {
            let (result, payload) = match answer {
                Ok((response, payload)) => (Ok(response), payload),
                Err(error) => (Err(error), Payload::default()),
            };
            Event::Reply {
                token,
                result,
                payload,
            }
        };
        let driver = self.clone();
        // A forwarded write is on its way when the work on the own copy begins.
        let answered = begin(&Handle::current(), asked, move |answer| {
            driver.feed(reply(answer));
        });
        answered.map(reply)
    }
}
