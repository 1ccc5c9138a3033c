//! What the kernel is given to keep of names and attributes, and how it is taken back.
//!
//! An answer is handed to the kernel under the *reply gate*: the look at the right and the writing
//! of the reply happen while the gate is held shared. Whoever takes a right away first marks it as
//! lost, then passes the gate alone: what was answered under the right is then with the kernel, and
//! what follows carries no time to live. Only then the kernel is told to drop it.
//!
//! The kernel takes an answer in some time after it was written. What it does then:
//!
//! | taken in after the drop | is harmless because |
//! | --- | --- |
//! | attributes of an inode that it has | they are older than the drop by its own count |
//! | attributes of an inode that it does not have yet | the drop finds no inode (`Dropped::Unknown`) though one was answered: it is repeated until one is there (or was forgotten) |
//! | a name | LOOKUP holds its dir locked, and the drop of a name waits for that; an epoch is read before the request |
//! | the names of a listing | the same lock; but the epoch is read after the reply, so an epoch counts only when the listing is known to be taken in |

use super::caches::Caches;
use super::convert;
use super::notify::Dropped;
use crate::client::kernel::BoxFuture;
use crate::client::{AttrAnswer, Client, EntryAnswer};
use dfs_proto::ids::InodeId;
use dfs_proto::name::FileName;
use dfs_proto::timing::{CACHE_RIGHT, DRIFT_MARGIN};
use fuser::{Errno, Generation, ReplyAttr, ReplyEntry};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

/// Inode numbers are never reused.
pub(super) const GENERATION: Generation = Generation(0);

/// How long the drop of a name may wait for the lock of its dir. A request in the dir may hold it
/// that waits for another mount, which waits for us.
const NAME_PATIENCE: Duration = Duration::from_millis(5);

/// By then nothing that was answered before can be served from the kernel's cache.
const RUN_OUT: Duration =
    Duration::from_millis(CACHE_RIGHT.as_millis() as u64 + DRIFT_MARGIN.as_millis() as u64);

/// Between two looks whether the kernel has taken an answer in.
const LOOK: Duration = Duration::from_micros(200);

/// What the kernel has been told and has not given back.
#[derive(Debug, Default)]
pub(super) struct Told {
    gate: RwLock<()>,
    /// Answers that named an inode, less what the kernel has forgotten.
    inodes: Mutex<HashMap<InodeId, u64>>,
    /// Listings that may not be taken in yet: dir, handle, when.
    listings: Mutex<BTreeMap<(InodeId, u64), Instant>>,
    /// The mounted dir, which the kernel has from the beginning; set with the mount.
    mounted: OnceLock<InodeId>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Told {
    /// This dir is mounted.
    pub(super) fn mounted(&self, dir: InodeId) {
        // There is one mount in a process; the first one stays.
        let _ = self.mounted.set(dir);
    }

    /// While this lives no right that was looked at goes.
    pub(super) fn reply(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the replies under way are written. Rights were marked as lost before.
    pub(super) fn pass(&self) {
        drop(self.gate.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// The kernel is about to be answered with this inode.
    pub(super) fn answered(&self, inode: InodeId) {
        *lock(&self.inodes).entry(inode).or_default() += 1;
    }

    /// The kernel has forgotten so many answers.
    pub(super) fn forgotten(&self, inode: InodeId, answers: u64) {
        let mut inodes = lock(&self.inodes);
        if let Some(count) = inodes.get_mut(&inode) {
            *count = count.saturating_sub(answers);
            if *count == 0 {
                inodes.remove(&inode);
            }
        }
    }

    /// Whether the kernel has the inode, or is about to.
    pub(super) fn may_be_known(&self, inode: InodeId) -> bool {
        self.mounted.get() == Some(&inode) || lock(&self.inodes).contains_key(&inode)
    }

    /// A page of a listing that may be kept goes to the kernel.
    pub(super) fn listed(&self, dir: InodeId, handle: u64) {
        lock(&self.listings).insert((dir, handle), Instant::now());
    }

    /// The next request through the handle: the kernel has taken in what came before.
    pub(super) fn listing_taken(&self, dir: InodeId, handle: u64) {
        lock(&self.listings).remove(&(dir, handle));
    }

    /// A request that locks the dir alone: no listing of it is being taken in.
    pub(super) fn dir_locked(&self, dir: InodeId) {
        let mut listings = lock(&self.listings);
        if listings.is_empty() {
            return;
        }
        listings.retain(|(listed, _), _| *listed != dir);
    }

    fn is_listing(&self, dir: Option<InodeId>) -> bool {
        let mut listings = lock(&self.listings);
        listings.retain(|_, since| since.elapsed() < RUN_OUT);
        match dir {
            Some(dir) => listings.range((dir, 0)..=(dir, u64::MAX)).next().is_some(),
            None => !listings.is_empty(),
        }
    }
}

/// Stands for the inode of a name that is not there: the kernel keeps that too.
fn nothing() -> fuser::FileAttr {
    convert::dir_placeholder(InodeId(0))
}

impl Caches {
    pub(super) fn reply_entry(&self, client: &Client, reply: ReplyEntry, answer: &EntryAnswer) {
        let _gate = self.told.reply();
        let ttl = self.entry_ttl(client, answer);
        match &answer.found {
            Some(found) => {
                self.told.answered(found.attr.inode);
                self.open_dirs.told(&found.attr);
                let attr = convert::attr(found);
                reply.entry_with_ttls(&client.attr_ttl(found), &ttl, &attr, GENERATION);
            }
            None if ttl.is_zero() => reply.error(Errno::ENOENT),
            None => reply.entry_with_ttls(&Duration::ZERO, &ttl, &nothing(), GENERATION),
        }
    }

    pub(super) fn reply_attr(&self, client: &Client, reply: ReplyAttr, answer: &AttrAnswer) {
        let _gate = self.told.reply();
        self.open_dirs.told(&answer.attr);
        reply.attr(&client.attr_ttl(answer), &convert::attr(answer));
    }

    /// Only under the reply gate.
    pub(super) fn entry_ttl(&self, client: &Client, answer: &EntryAnswer) -> Duration {
        match self.notify().is_some_and(|n| n.can_keep_names()) {
            true => client.entry_ttl(answer),
            false => Duration::ZERO,
        }
    }

    /// One time to live for a name and its attributes, where the library has no more. Only under
    /// the reply gate.
    pub(super) fn common_ttl(&self, client: &Client, answer: &EntryAnswer) -> Duration {
        let attr = answer.found.as_ref().map(|found| client.attr_ttl(found));
        self.entry_ttl(client, answer).min(attr.unwrap_or_default())
    }

    /// Drops the attributes of a dir; returns when the kernel has none of before.
    async fn drop_attr(&self, dir: InodeId) {
        let Some(notify) = self.notify() else { return };
        let begun = Instant::now();
        while notify.inode(dir, -1, 0) == Dropped::Unknown
            && self.told.may_be_known(dir)
            && begun.elapsed() < RUN_OUT
        {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Has the kernel ask for the attributes of an inode again.
    pub(super) fn forget_attr(&self, inode: InodeId) {
        if let Some(notify) = self.notify() {
            // What it does not have it need not drop.
            let _ = notify.inode(inode, -1, 0);
        }
    }

    /// Drops the attributes of an inode, if that takes no waiting; it has no pages.
    pub(super) fn drop_attr_at_once(&self, inode: InodeId) -> bool {
        self.notify().is_none_or(|notify| {
            notify.inode(inode, -1, 0) == Dropped::Done || !self.told.may_be_known(inode)
        })
    }

    /// As `KernelCache::drop_names`.
    pub(super) fn take_back_names(&self, dir: InodeId, names: Vec<FileName>) -> BoxFuture<()> {
        self.told.pass();
        let (Some(me), Some(notify)) = (self.me(), self.notify()) else {
            return Box::pin(std::future::ready(()));
        };
        Box::pin(async move {
            me.drop_attr(dir).await;
            if names.is_empty() || !me.told.may_be_known(dir) {
                return;
            }
            let mut dropped = tokio::task::spawn_blocking(move || {
                for name in &names {
                    notify.entry(dir, name);
                }
            });
            let begun = Instant::now();
            if tokio::time::timeout(NAME_PATIENCE, &mut dropped)
                .await
                .is_ok()
            {
                return;
            }
            // The lock goes to somebody else first. It is waited for as long as a listing may
            // bring names of before; else all names go at once.
            while me.told.is_listing(Some(dir)) {
                if tokio::time::timeout(LOOK * 5, &mut dropped).await.is_ok() {
                    return;
                }
            }
            me.drop_every_name(begun, Some(dropped)).await;
        })
    }

    /// As `KernelCache::drop_all_names`.
    pub(super) fn take_back_all_names(&self, dirs: Vec<InodeId>) -> BoxFuture<()> {
        self.told.pass();
        let Some(me) = self.me() else {
            return Box::pin(std::future::ready(()));
        };
        Box::pin(async move {
            let begun = Instant::now();
            for dir in dirs {
                me.drop_attr(dir).await;
            }
            while me.told.is_listing(None) {
                tokio::time::sleep(LOOK * 5).await;
            }
            me.drop_every_name(begun, None).await;
        })
    }

    /// All names at once; where the kernel can't, until `dropped` or until they have run out.
    async fn drop_every_name(&self, begun: Instant, dropped: Option<tokio::task::JoinHandle<()>>) {
        if self.notify().is_none_or(|notify| notify.all_names()) {
            return;
        }
        let left = RUN_OUT.saturating_sub(begun.elapsed());
        match dropped {
            Some(dropped) => {
                let _ = tokio::time::timeout(left, dropped).await;
            }
            None => tokio::time::sleep(left).await,
        }
    }

    /// Drops a range of pages and the attributes of a file; on a thread that may block.
    pub(super) fn drop_range(self: &Arc<Self>, inode: InodeId, start: i64, len: i64) {
        let Some(notify) = self.notify() else { return };
        let begun = Instant::now();
        while notify.inode(inode, start, len) == Dropped::Unknown
            && self.told.may_be_known(inode)
            && begun.elapsed() < RUN_OUT
        {
            std::thread::sleep(LOOK);
        }
    }
}
