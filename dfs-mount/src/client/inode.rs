//! What the mount keeps for an inode while it has a lease of it, has it open, or has something
//! of it that is not pushed or synced.

use super::authority::Authority;
use super::clock;
use super::core::Core;
use super::gate::ByteGate;
use super::guard::lock;
use super::lease::{Held, LeaseState};
use super::recall::OldRights;
use super::stored::Stored;
use super::sync::Unsynced;
use dfs_proto::attr::FileAttr;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{ChunkIndex, Generation, GrantId, InodeId};
use dfs_proto::layout::FileLayout;
use dfs_proto::msg::session::{LeaseGrant, LeaseKind};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;

/// An entry that nobody uses is kept for so long, so that late answers of the directory can be
/// told from present ones.
pub(super) const IDLE_KEPT: Duration = Duration::from_secs(10);

/// One with unsynced writes is kept for so long: the file servers put data onto disk by themselves
/// within seconds, and files that are written and never synced must not pile up here.
const UNSYNCED_KEPT: Duration = Duration::from_secs(300);

/// One inode.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) id: InodeId,
    state: Mutex<InodeState>,
    pub(super) gate: Mutex<ByteGate>,
    /// Something changed that somebody may wait for.
    pub(super) changed: Notify,
    /// Opening and closing at the directory, one at a time.
    pub(super) open_order: tokio::sync::Mutex<()>,
    /// Emptying the kernel's caches, one at a time.
    pub(super) kernel_order: tokio::sync::Mutex<()>,
    pub(super) push_order: tokio::sync::Mutex<()>,
}

/// Guarded by the inode's lock; never held across a wait.
#[derive(Debug, Default)]
pub(super) struct InodeState {
    pub(super) lease: LeaseState,
    /// Size, generation, layout and times, while a lease is held.
    pub(super) data: Option<Authority>,
    /// `data` has every attribute as it is; false after something that may be older or newer.
    attr_true: bool,
    /// `Core::attr_changes` at the last change of the attributes by this mount.
    attr_changed: u64,
    /// When the lease was granted and when one was last lost (boot time).
    pub(super) granted_at: u64,
    pub(super) lost_at: u64,
    pub(super) used_at: u64,
    /// Counts writes and cuts of this mount that have begun: what was read ahead before is of the
    /// past.
    pub(super) changes: u64,
    /// What a sparse file takes up, as far as it is known under the lease.
    pub(super) stored: Stored,
    /// Changes of the size by this mount that are under way. See `Resizing`.
    resizing: u32,
    /// Why the ask with this number failed.
    pub(super) ask_failed: Option<(u64, Error)>,
    pub(super) opens: u32,
    /// Opens for reading and writing: a shared map may be stored into silently.
    pub(super) opens_shared_map: u32,
    /// The directory has been asked to record an open.
    pub(super) open_at_directory: bool,
    /// In which life of the session.
    open_life: u64,
    /// Acknowledged writes of this mount since the last sync, by chunk.
    pub(super) unsynced: BTreeMap<ChunkIndex, Unsynced>,
    /// An acknowledged write is lost, and no fsync has said so yet.
    pub(super) write_lost: bool,
    /// Whatever any mount wrote before is on disk, except `unsynced`.
    pub(super) others_synced: bool,
    /// Recalls of a lost right that the kernel has not finished.
    pub(super) kernel_stale: u32,
    /// Those of them that follow a lost exclusive right: pages that the kernel writes out now
    /// were stored into under it.
    pub(super) maps_stale: u32,
    /// Handles opened when `Core::breaks` was lower are broken.
    pub(super) broken_before: u64,
    /// This mount removed its last name: once nobody here has it open, nobody asks for it again.
    pub(super) nameless: bool,
}

/// While this lives this mount changes the size at the directory, and has no size to tell: its own
/// is that of before, and may already have the generation of the change, from a new leader that
/// knows more than the answer that was lost. Told together they would undo it.
#[derive(Debug)]
pub(super) struct Resizing(Arc<Inode>);

impl Resizing {
    pub(super) fn begin(inode: &Arc<Inode>) -> Self {
        inode.state().resizing += 1;
        Self(inode.clone())
    }
}

impl Drop for Resizing {
    fn drop(&mut self) {
        self.0.state().resizing -= 1;
    }
}

/// While this lives this mount changes data of the inode.
#[derive(Debug)]
pub(super) struct Changing(Arc<Inode>);

impl Changing {
    /// Bytes `start..end`.
    pub(super) fn range(inode: &Arc<Inode>, layout: FileLayout, start: u64, end: u64) -> Self {
        let chunk = u64::from(layout.chunk_bytes);
        let chunks = start / chunk..end.div_ceil(chunk);
        // Beyond that many each group is one of them.
        let count = (chunks.end - chunks.start).min(u64::from(layout.groups));
        let chunks = (0..count).map(|n| ChunkIndex(chunks.start + n));
        let mut groups = chunks.map(|index| layout.group_of(index));
        inode.state().stored.begin(Some(&mut groups));
        Self(inode.clone())
    }

    /// Any of them.
    pub(super) fn all(inode: &Arc<Inode>) -> Self {
        inode.state().stored.begin(None);
        Self(inode.clone())
    }
}

impl Drop for Changing {
    fn drop(&mut self) {
        self.0.state().stored.end();
    }
}

impl InodeState {
    /// Whether the size is being changed at the directory.
    pub(super) fn is_resizing(&self) -> bool {
        self.resizing > 0
    }

    /// Whether what the kernel writes out for a shared map was stored under the present right.
    /// Others may have written since a lost one, and whole pages would bury that.
    pub(super) fn may_launder(&self) -> bool {
        self.lease.holds_exclusive() && self.maps_stale == 0
    }

    /// Takes a grant, whose answer was asked for at `asked` (of `Core::attr_changes`). False: it
    /// is of the past.
    pub(super) fn accept(&mut self, grant: &LeaseGrant, asked: u64) -> bool {
        let before = self.lease.held();
        let accepted = self.lease.granted(Held {
            grant: grant.grant,
            kind: grant.kind,
        });
        if !accepted {
            return false;
        }
        match (&mut self.data, before) {
            // Nobody else can have changed the data in between.
            (Some(_), Some(_)) => self.learn(&grant.attr, asked),
            (data, _) => {
                *data = Some(Authority::new(grant.attr));
                self.stored.forget();
                self.granted_at = clock::now();
                self.attr_true = asked >= self.attr_changed;
            }
        }
        true
    }

    /// Attributes that were asked for at `asked`, under the lease that is held now.
    pub(super) fn learn(&mut self, attr: &FileAttr, asked: u64) {
        if asked >= self.attr_changed
            && let Some(data) = &mut self.data
        {
            data.learn(attr);
            self.attr_true = true;
        }
    }

    /// This mount has changed the attributes by a request that was asked for at `asked`; `now`
    /// counts that change. What it answered, and what else was heard in between, may have come in
    /// the wrong order: then nothing is known of them.
    pub(super) fn changed_here(&mut self, attr: Option<&FileAttr>, asked: u64, now: u64) {
        let quiet = self.is_quiet_since(asked);
        self.attr_changed = self.attr_changed.max(now);
        self.attr_true = match (attr, &mut self.data) {
            (Some(attr), Some(data)) if quiet => {
                data.learn(attr);
                true
            }
            _ => false,
        };
    }

    /// This mount put another inode in its place: a name of it is gone, and with the only one all.
    pub(super) fn lost_a_name(&mut self) {
        let only = |data: &Authority| data.attr().links <= 1;
        self.nameless |= self.attr_true && self.data.as_ref().is_some_and(only);
    }

    /// Whether no change by this mount was answered since then.
    pub(super) fn is_quiet_since(&self, asked: u64) -> bool {
        asked >= self.attr_changed
    }

    /// All attributes, if they are known under a lease that nobody wants back.
    pub(super) fn known_attr(&self) -> Option<FileAttr> {
        let known = self.attr_true && self.kernel_stale == 0 && self.lease.settled().is_some();
        self.data.as_ref().filter(|_| known).map(Authority::attr)
    }

    /// All attributes, if they are known under the lease that is held, also while it is wanted back.
    pub(super) fn attr_under_lease(&self) -> Option<FileAttr> {
        let known = self.attr_true && self.lease.held().is_some();
        self.data.as_ref().filter(|_| known).map(Authority::attr)
    }

    /// The directory records an open in this life of the session.
    pub(super) fn open_in(&mut self, life: u64) {
        self.open_at_directory = true;
        self.open_life = life;
    }

    pub(super) fn open_life(&self) -> u64 {
        self.open_life
    }

    /// The lease has gone: what was known under it is of the past.
    pub(super) fn lease_gone(&mut self) {
        self.lost_at = clock::now();
        self.data = None;
        self.stored.forget();
        self.attr_true = false;
        self.others_synced = false;
    }

    /// Present size and times over the directory's attributes, if a lease is held.
    pub(super) fn over(&self, attr: &FileAttr) -> FileAttr {
        match (&self.data, self.lease.held()) {
            (Some(data), Some(_)) => data.over(attr),
            _ => *attr,
        }
    }

    fn is_forgettable(&self, now: u64) -> bool {
        let told = self.unsynced.is_empty() && !self.write_lost;
        let kept = match told || self.nameless {
            true => IDLE_KEPT,
            false => UNSYNCED_KEPT,
        };
        // The directory drops the leases of what it frees without a word: the right to a file
        // that is gone is worth nothing.
        (self.nameless || self.lease.held().is_none())
            && self.lease.is_idle()
            && self.opens == 0
            && !self.open_at_directory
            && self.kernel_stale == 0
            && now.saturating_sub(self.lost_at.max(self.used_at)) > kept.as_nanos() as u64
    }
}

impl Inode {
    fn new(id: InodeId) -> Self {
        Self {
            id,
            state: Mutex::default(),
            gate: Mutex::default(),
            changed: Notify::new(),
            open_order: tokio::sync::Mutex::default(),
            kernel_order: tokio::sync::Mutex::default(),
            push_order: tokio::sync::Mutex::default(),
        }
    }

    /// An acknowledged write of the chunk is lost; the next fsync says so.
    pub(super) fn lost_write(&self, chunk: ChunkIndex) {
        let mut state = self.state();
        state.unsynced.remove(&chunk);
        state.write_lost = true;
    }

    pub(super) fn state(&self) -> MutexGuard<'_, InodeState> {
        lock(&self.state)
    }

    /// Waits until `ready` gives something; it is looked at again after each change.
    pub(super) async fn until<T>(&self, mut ready: impl FnMut(&mut InodeState) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(value) = ready(&mut self.state()) {
                return value;
            }
            changed.await;
        }
    }

    /// The grant of the exclusive lease, if it is held.
    pub(super) fn exclusive_grant(&self) -> Option<GrantId> {
        let held = self.state().lease.held()?;
        (held.kind == LeaseKind::Exclusive).then_some(held.grant)
    }

    /// This mount is about to cut the data at the directory: the generation that it has until then.
    /// A new leader may tell a later one before the cut is answered.
    pub(super) fn begin_cut(&self) -> Option<Generation> {
        let mut state = self.state();
        state.changes += 1;
        state.data.as_ref().map(Authority::generation)
    }

    /// EIO for handles of an earlier session that had locks or unsynced data.
    pub(super) fn check(&self, opened_at: u64) -> Result<()> {
        if self.state().broken_before > opened_at {
            return Err(Error::new(
                ErrorCode::SessionEnded,
                format!(
                    "{}: the session in which it was opened has ended; open it again",
                    self.id
                ),
            ));
        }
        Ok(())
    }
}

/// All inodes that something is kept for.
#[derive(Debug, Default)]
pub(super) struct InodeTable {
    inodes: Mutex<HashMap<InodeId, Arc<Inode>>>,
}

impl InodeTable {
    pub(super) fn get(&self, id: InodeId) -> Option<Arc<Inode>> {
        lock(&self.inodes).get(&id).cloned()
    }

    pub(super) fn entry(&self, id: InodeId) -> Arc<Inode> {
        let mut inodes = lock(&self.inodes);
        let inode = inodes.entry(id).or_insert_with(|| Arc::new(Inode::new(id)));
        inode.state().used_at = clock::now();
        inode.clone()
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.inodes).len()
    }

    pub(super) fn all(&self) -> Vec<Arc<Inode>> {
        lock(&self.inodes).values().cloned().collect()
    }

    /// Forgets what nobody uses.
    pub(super) fn sweep(&self) {
        let now = clock::now();
        lock(&self.inodes)
            .retain(|_, inode| Arc::strong_count(inode) > 1 || !inode.state().is_forgettable(now));
    }
}

impl Core {
    /// Has the kernel drop its caches of the inode.
    pub(super) async fn drop_kernel_data(&self, inode: &Inode, rights: OldRights) {
        let _one = inode.kernel_order.lock().await;
        self.kernel.drop_data(inode.id, rights).await;
    }

    /// A right was lost without a recall: the kernel's caches go, in the background; until they
    /// have, no attribute is answered.
    pub(super) fn drop_lost_data(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
    ) -> tokio::task::JoinHandle<()> {
        inode.state().kernel_stale += 1;
        let (core, inode) = (self.clone(), inode.clone());
        self.names.spawn(async move {
            core.drop_kernel_data(&inode, OldRights::Lost).await;
            inode.state().kernel_stale -= 1;
            inode.changed.notify_waiters();
        })
    }

    /// The same for an exclusive right: what shared maps have stored under it is lost.
    pub(super) fn drop_lost_maps(self: &Arc<Self>, inode: &Arc<Inode>) {
        inode.state().maps_stale += 1;
        let dropped = self.drop_lost_data(inode);
        let inode = inode.clone();
        self.names.spawn(async move {
            // It can't fail but by the end of the runtime.
            let _ = dropped.await;
            inode.state().maps_stale -= 1;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::authority::test_attr;
    use super::*;
    use dfs_proto::ids::{Generation, MapVersion, Version};

    const LATER: u64 = 11_000_000_000;

    fn leased(links: u32) -> InodeState {
        let mut state = InodeState::default();
        let attr = FileAttr {
            links,
            ..test_attr(5)
        };
        let grant = LeaseGrant {
            grant: GrantId(1),
            kind: LeaseKind::Shared,
            attr,
            map_version: MapVersion(1),
            contended: false,
        };
        assert!(state.accept(&grant, 0));
        state
    }

    #[test]
    fn a_lease_keeps_what_is_known_but_not_of_a_file_without_a_name() {
        let mut state = leased(1);
        assert!(!state.is_forgettable(LATER));
        let unsynced = Unsynced {
            version: Version::HOLE,
            generation: Generation(1),
        };
        state.unsynced.insert(ChunkIndex(0), unsynced);
        state.lost_a_name();
        assert!(!state.is_forgettable(LATER / 2), "late answers may come");
        assert!(state.is_forgettable(LATER));
        state.opens = 1;
        assert!(!state.is_forgettable(LATER), "open and nameless");
    }

    #[test]
    fn a_file_with_another_name_is_not_gone() {
        let mut state = leased(2);
        state.lost_a_name();
        assert!(!state.is_forgettable(LATER));
        // Nor one of which it is not known any more.
        let mut state = leased(1);
        state.changed_here(None, 0, 1);
        state.lost_a_name();
        assert!(!state.is_forgettable(LATER));
    }
}
