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
use crate::replica::{Action, Caller, DiskOp, Event, ReplicaCore, Request, Sender, Token};
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::{Epoch, GroupId, ServerRun};
use dfs_proto::msg::control::VerifyChunks;
use dfs_proto::payload::Payload;
use dfs_proto::transport::Incoming;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};

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
}

struct Inner {
    core: ReplicaCore,
    waiting: HashMap<Caller, Incoming>,
    last_caller: u64,
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
        })
    }

    /// Tells the core of the time, until the task is dropped.
    pub async fn tick(self: Arc<Self>) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.feed(Event::Tick);
        }
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
        if let Request::Adopt(adopt) = &request {
            self.peers.learn(&adopt.servers);
        }
        let caller = {
            let mut inner = self.inner();
            inner.last_caller += 1;
            let caller = Caller(inner.last_caller);
            inner.waiting.insert(caller, incoming);
            caller
        };
        self.feed(Event::Request {
            from,
            caller,
            request,
            payload,
        });
    }

    /// Answers a page of the check of everything held, from another thread.
    pub(super) fn verify(&self, incoming: Incoming, request: VerifyChunks) {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || {
            let page = verify::page(&store, request);
            incoming.answer::<VerifyChunks>(Ok(page), Payload::default());
        });
    }

    /// The durable epochs, for a registration.
    pub(super) fn epochs(&self) -> Vec<(GroupId, Epoch)> {
        self.inner().core.epochs()
    }

    pub(super) fn store(&self) -> &Arc<ChunkStore> {
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
            } => {
                if let Some(incoming) = inner.waiting.remove(&caller) {
                    facing::answer(incoming, result, payload);
                }
            }
            Action::Disk { token, op } if is_short(&self.store, &op) => {
                let result = perform(&self.store, &op);
                return Some(Event::Disk { token, result });
            }
            Action::Disk { token, op } => self.perform_elsewhere(token, op),
            Action::Send {
                token,
                to,
                request,
                payload,
                deadline,
            } => self.send(token, to, request, payload, deadline),
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
            let store = driver.store.clone();
            let result = tokio::task::spawn_blocking(move || perform(&store, &op)).await;
            let result = result.unwrap_or_else(|e| {
                log::error!("a disk operation ended abnormally: {e}");
                Err(Error::new(ErrorCode::DiskFailed, e.to_string()))
            });
            driver.feed(Event::Disk { token, result });
        });
    }

    fn send(
        self: &Arc<Self>,
        token: Token,
        to: ServerRun,
        request: Request,
        payload: Payload,
        deadline: Duration,
    ) {
        let driver = self.clone();
        tokio::spawn(async move {
            let answer = driver.peers.ask(to, request, payload, deadline).await;
            let (result, payload) = match answer {
                Ok((response, payload)) => (Ok(response), payload),
                Err(error) => (Err(error), Payload::default()),
            };
            driver.feed(Event::Reply {
                token,
                result,
                payload,
            });
        });
    }
}
