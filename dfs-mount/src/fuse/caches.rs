//! The kernel's cached pages of this mount: executes what `PageGate` decides.
//!
//! READs that fill the page cache pass through the gate of their inode; READs of direct I/O don't
//! (they lock no page). Invalidations block while the kernel waits for a READ or a launder WRITE
//! of the range, so they run on threads of their own and never on one that serves requests.

use super::entries::Told;
use super::notify::Notify;
use super::open_dirs::OpenDirs;
use crate::client::filled::{DropId, FilledRanges};
use crate::client::kernel::{BoxFuture, KernelCache};
use crate::client::recall::{
    Admission, OldRights, PASS_GRACE, PageGate, PageRange, ReadId, RecallAction,
};
use dfs_proto::ids::InodeId;
use dfs_proto::name::FileName;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use tokio::sync::{oneshot, watch};

/// How a READ is to be served now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Serve {
    /// Not yet: a recall runs.
    Parked,
    Normal,
    /// An invalidation waits for it: answer with what the lease that goes still allows.
    Unblock,
}

#[derive(Default)]
struct Entry {
    gate: PageGate,
    reads: BTreeMap<ReadId, watch::Sender<Serve>>,
    dropped: Option<oneshot::Sender<()>>,
    /// Whoever waits for the end of a recall before it answers attributes.
    settled: Vec<oneshot::Sender<()>>,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<InodeId, Entry>,
    /// Where the kernel's cache may have pages, for inodes that may have any.
    filled: BTreeMap<InodeId, FilledRanges>,
    last_drop: u64,
}

/// The kernel's caches of one mount.
pub(super) struct Caches {
    state: Mutex<State>,
    notify: OnceLock<Arc<Notify>>,
    /// Names and attributes.
    pub(super) told: Told,
    pub(super) open_dirs: OpenDirs,
    runtime: tokio::runtime::Handle,
    me: Weak<Self>,
}

impl std::fmt::Debug for Caches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caches").finish_non_exhaustive()
    }
}

/// One READ through the page cache, from its arrival to its answer. It counts as answered when
/// this is dropped, so the reply goes out before.
pub(super) struct CachedRead {
    caches: Arc<Caches>,
    inode: InodeId,
    id: ReadId,
    serve: watch::Receiver<Serve>,
}

impl CachedRead {
    /// Runs `read` as the gate says: after a recall, and at once with `Serve::Unblock` when an
    /// invalidation turns out to wait for it.
    pub(super) async fn serve<T, F: Future<Output = T>>(&self, read: impl Fn(Serve) -> F) -> T {
        let mut serve = self.serve.clone();
        loop {
            let now = *serve.borrow_and_update();
            match now {
                Serve::Unblock => return read(Serve::Unblock).await,
                Serve::Parked => {
                    if serve.changed().await.is_err() {
                        return read(Serve::Unblock).await;
                    }
                }
                Serve::Normal => {
                    tokio::select! {
                        biased;
                        done = read(Serve::Normal) => return done,
                        changed = serve.changed() => {
                            if changed.is_err() {
                                return read(Serve::Unblock).await;
                            }
                        }
                    }
                }
            }
        }
    }
}

impl Drop for CachedRead {
    fn drop(&mut self) {
        self.caches.read_answered(self.inode, self.id);
    }
}

impl Caches {
    pub(super) fn new(runtime: tokio::runtime::Handle) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            state: Mutex::default(),
            notify: OnceLock::new(),
            told: Told::default(),
            open_dirs: OpenDirs::default(),
            runtime,
            me: me.clone(),
        })
    }

    /// The mount is there: from now on the kernel can have something cached.
    pub(super) fn attach(&self, notify: Notify) {
        // A second call would be a defect of the caller; the first one stays.
        let _ = self.notify.set(Arc::new(notify));
    }

    pub(super) fn notify(&self) -> Option<Arc<Notify>> {
        self.notify.get().cloned()
    }

    pub(super) fn me(&self) -> Option<Arc<Self>> {
        self.me.upgrade()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A READ that fills pages has come.
    pub(super) fn read_arrived(&self, inode: InodeId, offset: u64, len: u64) -> Option<CachedRead> {
        let caches = self.me.upgrade()?;
        let pages = PageRange::covering(offset, len);
        let mut state = self.lock();
        state.filled.entry(inode).or_default().filled(pages);
        let entry = state.entries.entry(inode).or_default();
        let (id, admission) = entry.gate.read_arrived(pages);
        let (tell, serve) = watch::channel(match admission {
            Admission::Serve => Serve::Normal,
            Admission::Park => Serve::Parked,
        });
        entry.reads.insert(id, tell);
        drop(state);
        Some(CachedRead {
            caches,
            inode,
            id,
            serve,
        })
    }

    fn read_answered(&self, inode: InodeId, id: ReadId) {
        self.with_gate(inode, |entry| {
            entry.reads.remove(&id);
            entry.gate.read_answered(id)
        });
    }

    /// A WRITE that is no launder write was applied.
    pub(super) fn write_served(&self, inode: InodeId) {
        let mut state = self.lock();
        if let Some(entry) = state.entries.get_mut(&inode) {
            entry.gate.write_served();
        }
    }

    /// Waits until no recall of the inode runs: attributes answered in one could be cached.
    pub(super) async fn settled(&self, inode: InodeId) -> bool {
        let waiting = {
            let mut state = self.lock();
            match state
                .entries
                .get_mut(&inode)
                .filter(|entry| entry.gate.is_recalling())
            {
                None => return false,
                Some(entry) => {
                    let (tell, waiting) = oneshot::channel();
                    entry.settled.push(tell);
                    waiting
                }
            }
        };
        // Either way it is over.
        let _ = waiting.await;
        true
    }

    /// Drops the pages that a direct write of this mount has made old, if there can be any.
    /// Returns when they are gone.
    pub(super) async fn written_beside(&self, inode: InodeId, offset: u64, len: u64) {
        if len == 0 {
            return;
        }
        let begun = {
            let mut state = self.lock();
            let entry = state.entries.get(&inode);
            let reading = entry.is_some_and(|entry| !entry.reads.is_empty());
            state.last_drop += 1;
            let id = DropId(state.last_drop);
            let pages = PageRange::covering(offset, len);
            let filled = state.filled.get_mut(&inode);
            filled.and_then(|filled| Some((id, filled.written(id, pages, reading)?)))
        };
        let (Some((id, range)), Some(me)) = (begun, self.me()) else {
            return;
        };
        let done = tokio::task::spawn_blocking(move || invalidate(&me, inode, &[range]));
        // It can't fail but by the end of the runtime.
        let _ = done.await;
        let mut state = self.lock();
        if let Some(filled) = state.filled.get_mut(&inode) {
            filled.ended(id);
            if filled.is_empty() {
                state.filled.remove(&inode);
            }
        }
    }

    /// Has the kernel write out what was stored into shared maps of the inode. Returns when that is
    /// done; the pages are gone then.
    pub(super) async fn write_out(&self, inode: InodeId) {
        let Some(me) = self.me() else { return };
        let whole = PageRange::covering(0, u64::MAX);
        // It can't fail but by the end of the runtime.
        let _ = tokio::task::spawn_blocking(move || invalidate(&me, inode, &[whole])).await;
    }

    fn with_gate(&self, inode: InodeId, act: impl FnOnce(&mut Entry) -> Vec<RecallAction>) {
        let mut state = self.lock();
        let Some(entry) = state.entries.get_mut(&inode) else {
            return;
        };
        let actions = act(entry);
        self.execute(&mut state, inode, actions);
        if state
            .entries
            .get(&inode)
            .is_some_and(|entry| entry.gate.is_idle())
        {
            state.entries.remove(&inode);
        }
    }

    fn execute(&self, state: &mut State, inode: InodeId, actions: Vec<RecallAction>) {
        for action in actions {
            match action {
                RecallAction::InvalidateAttributes => {
                    if let Some(notify) = self.notify.get() {
                        // Never blocks: no page and no lock is involved.
                        notify.inode(inode, -1, 0);
                    }
                }
                RecallAction::Invalidate { pass, ranges } => self.start_pass(inode, pass, ranges),
                RecallAction::Answer(reads) => self.tell(state, inode, &reads, Serve::Unblock),
                RecallAction::Resume(reads) => self.tell(state, inode, &reads, Serve::Normal),
                RecallAction::Finished => {
                    let Some(entry) = state.entries.get_mut(&inode) else {
                        continue;
                    };
                    for waiting in entry.settled.drain(..) {
                        // Whoever waited may have been interrupted.
                        let _ = waiting.send(());
                    }
                    if let Some(dropped) = entry.dropped.take() {
                        let _ = dropped.send(());
                    }
                }
            }
        }
    }

    fn tell(&self, state: &mut State, inode: InodeId, reads: &[ReadId], serve: Serve) {
        let Some(entry) = state.entries.get(&inode) else {
            return;
        };
        for tell in reads.iter().filter_map(|id| entry.reads.get(id)) {
            tell.send_replace(serve);
        }
    }

    fn start_pass(&self, inode: InodeId, pass: u64, ranges: Vec<PageRange>) {
        let Some(me) = self.me() else {
            return;
        };
        self.runtime.spawn(async move {
            let caches = me.clone();
            let mut done = tokio::task::spawn_blocking(move || invalidate(&caches, inode, &ranges));
            loop {
                tokio::select! {
                    biased;
                    _ = &mut done => break,
                    () = tokio::time::sleep(PASS_GRACE) => {
                        me.with_gate(inode, |entry| entry.gate.grace_over(pass));
                    }
                }
            }
            me.with_gate(inode, |entry| entry.gate.pass_finished(pass));
        });
    }
}

impl KernelCache for Caches {
    fn drop_data(&self, inode: InodeId, rights: OldRights) -> BoxFuture<()> {
        if self.notify.get().is_none() {
            return Box::pin(std::future::ready(()));
        }
        // Attributes that were answered under the right are with the kernel after this.
        self.told.pass();
        let (tell, dropped) = oneshot::channel();
        {
            let mut state = self.lock();
            let no_pages =
                !state.filled.contains_key(&inode) && !state.entries.contains_key(&inode);
            if no_pages && self.drop_attr_at_once(inode) {
                return Box::pin(std::future::ready(()));
            }
            state.filled.remove(&inode);
            let entry = state.entries.entry(inode).or_default();
            entry.dropped = Some(tell);
            let actions = entry.gate.recall_begins(rights);
            // READs in progress may fill pages after this; they are in the gate.
            let reading = !entry.reads.is_empty();
            self.execute(&mut state, inode, actions);
            if reading {
                let filled = state.filled.entry(inode).or_default();
                filled.filled(PageRange::covering(0, u64::MAX));
            }
        }
        Box::pin(async move {
            // Dropped unsent only when the mount ends: then there is no cache.
            let _ = dropped.await;
        })
    }

    fn drop_names(&self, dir: InodeId, names: Vec<FileName>) -> BoxFuture<()> {
        self.take_back_names(dir, names)
    }

    fn drop_all_names(&self, dirs: Vec<InodeId>) -> BoxFuture<()> {
        self.take_back_all_names(dirs)
    }
}

fn invalidate(caches: &Arc<Caches>, inode: InodeId, ranges: &[PageRange]) {
    for range in ranges {
        // A length of 0 means to the end of the file.
        let len = if range.end == u64::MAX {
            0
        } else {
            range.end - range.start
        };
        if let (Ok(start), Ok(len)) = (i64::try_from(range.start), i64::try_from(len)) {
            caches.drop_range(inode, start, len);
        }
    }
}
