//! A mount: the product's pure machines (leases, locks, names, stamps), and around them what the
//! client core does with them, in short.
//!
//! | module | part |
//! | --- | --- |
//! | `link` | connection, session, heartbeats, right to cache, reclaim |
//! | `calls` | requests, repeated until there is a definite answer |
//! | `callbacks` | what the directory asks a mount |
//! | `leases` | leases, and reads and writes under them |
//! | `locks` | locks |
//! | `names` | changes of names, and looks |
//!
//! A process that is paused does nothing: each part waits for the end of the pause before it sends and
//! after something has come.

mod callbacks;
mod calls;
pub(crate) mod leases;
mod link;
pub(crate) mod locks;
mod names;

use super::cluster::Cluster;
use super::programs::{self, Program};
use super::world::{Node, locked};
use dfs_mount::client::dir_cache::DirCache;
use dfs_mount::client::held_locks::HeldLocks;
use dfs_mount::client::window::Window;
use dfs_proto::error::{ErrorCode, Result};
use dfs_proto::ids::{InodeId, Sequence, SessionId};
use leases::Lease;
use link::Up;
use locks::Waiter;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;

/// Names that a mount keeps: few, so that some are forgotten.
const NAMES_KEPT: usize = 6;

/// A session of this mount.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    /// Which of this mount's it is.
    pub(crate) life: u64,
    pub(crate) ended: bool,
    window: Window,
    writes: u64,
}

#[derive(Debug)]
pub(crate) struct State {
    up: Option<Up>,
    session: Option<Session>,
    /// Until when, on its own clock, it may use what it has cached.
    right: Duration,
    lapses: u64,
    leader_life: u64,
    dirs: DirCache,
    leases: BTreeMap<InodeId, Lease>,
    held: HeldLocks,
    waiters: BTreeMap<(InodeId, Sequence), Waiter>,
    /// The life that the locks belong to.
    locks_life: u64,
}

pub(crate) struct Mount {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) number: usize,
    pub(crate) run: u64,
    alive: AtomicBool,
    owners: AtomicU64,
    programs: Mutex<BTreeSet<Program>>,
    state: Mutex<State>,
    changed: Notify,
}

impl Mount {
    pub(crate) fn start(cluster: &Arc<Cluster>, number: usize, run: u64) -> Arc<Self> {
        let mount = Arc::new(Self {
            cluster: cluster.clone(),
            number,
            run,
            alive: AtomicBool::new(true),
            owners: AtomicU64::new(1),
            programs: Mutex::default(),
            state: Mutex::new(State {
                up: None,
                session: None,
                right: Duration::ZERO,
                lapses: 0,
                leader_life: 0,
                dirs: DirCache::new(NAMES_KEPT),
                leases: BTreeMap::new(),
                held: HeldLocks::default(),
                waiters: BTreeMap::new(),
                locks_life: 0,
            }),
            changed: Notify::new(),
        });
        tokio::spawn(mount.clone().keep_link());
        programs::start(&mount);
        mount
    }

    pub(crate) fn node(&self) -> Node {
        Node::Mount(self.number)
    }

    /// The process dies. What is on its way stays so.
    pub(crate) fn kill(&self) {
        self.alive.store(false, Ordering::SeqCst);
        if let Some(session) = &self.state().session {
            locked(&self.cluster.holds).lost(session.id);
        }
        self.changed.notify_waiters();
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::SeqCst)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// Waits until the process goes on; an error if it is dead by then.
    pub(crate) async fn awake(&self) -> Result<()> {
        self.cluster.world.awake(self.node()).await;
        match self.is_alive() {
            true => Ok(()),
            false => Err(ErrorCode::ShuttingDown.into()),
        }
    }

    /// What its own clock shows.
    pub(crate) fn clock(&self) -> Duration {
        self.cluster.world.clock(self.node())
    }

    /// Waits for something in the state, while the process lives.
    async fn until<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> Result<T> {
        loop {
            self.awake().await?;
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(found) = look(&mut self.state()) {
                return Ok(found);
            }
            // Clocks move without telling.
            let _ = tokio::time::timeout(Duration::from_millis(200), changed).await;
        }
    }

    fn tell(&self) {
        self.changed.notify_waiters();
    }

    pub(crate) fn begins(&self, program: Program) {
        locked(&self.programs).insert(program);
    }

    pub(crate) fn ends(&self, program: Program) {
        locked(&self.programs).remove(&program);
    }

    /// Programs that have not ended.
    pub(crate) fn running(&self) -> Vec<Program> {
        locked(&self.programs).iter().copied().collect()
    }

    /// A new owner of locks.
    pub(crate) fn new_owner(&self) -> u64 {
        self.owners.fetch_add(1, Ordering::SeqCst)
    }
}
