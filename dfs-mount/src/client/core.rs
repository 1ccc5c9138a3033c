//! What the parts of the client core share.

use super::clock::DirectoryClock;
use super::dir_cache::DirCache;
use super::inode::InodeTable;
use super::kernel::KernelCache;
use super::link::LinkState;
use super::locks::Locks;
use super::map_cache::MapCache;
use super::read_ahead::AheadHandles;
use super::servers::Servers;
use super::session::Session;
use super::types::ClientOptions;
use dfs_proto::ids::InodeId;
use dfs_proto::ids::{Incarnation, NodeId};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use tokio::runtime::Handle as Runtime;
use tokio::sync::watch;

/// One mount's client core. Its parts are in modules of their own, as `impl Core`.
pub(super) struct Core {
    pub(super) options: ClientOptions,
    pub(super) kernel: Arc<dyn KernelCache>,
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
    /// Runs the directory's connection: heartbeats, callbacks, names. No file data pass through
    /// it, so that no amount of them delays a heartbeat.
    pub(super) names: Runtime,
    /// Runs the file servers' connections.
    pub(super) data: Runtime,
    pub(super) link: watch::Sender<LinkState>,
    /// Which address failed last, and why: for whoever gives up.
    pub(super) last_failure: Mutex<Option<String>>,
    /// The present session; data go on under it while the link is being renewed.
    pub(super) session: watch::Sender<Option<Arc<Session>>>,
    /// Until when (boot time) the right to cache lasts.
    pub(super) right: watch::Sender<u64>,
    /// How often the right has lapsed, or the directory's leader changed: an answer to an older
    /// ask grants no shared lease.
    pub(super) lapses: AtomicU64,
    /// The life of the directory's leader that everything held belongs to.
    pub(super) leader_life: AtomicU64,
    /// Which of this mount's sessions is the present one.
    pub(super) session_life: AtomicU64,
    /// Counts inodes whose open handles broke; a handle knows the count at its open.
    pub(super) breaks: AtomicU64,
    pub(super) clock: DirectoryClock,
    pub(super) map: MapCache,
    pub(super) servers: Servers,
    pub(super) inodes: InodeTable,
    /// Names and dirs that are kept.
    pub(super) dirs: Mutex<DirCache>,
    /// Counts this mount's own changes of inodes' attributes; a question remembers the count.
    pub(super) attr_changes: AtomicU64,
    pub(super) locks: Locks,
    /// Inodes with unpushed changes.
    pub(super) unpushed: Mutex<BTreeSet<InodeId>>,
    pub(super) ahead: AheadHandles,
    pub(super) stopping: watch::Sender<bool>,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Core({})", self.options.mount_point)
    }
}
