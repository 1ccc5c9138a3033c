//! The client core: a dfs cluster as an asynchronous library, without FUSE in it.
//!
//! `Client` offers what a file system offers, with the promises of a local one: every read
//! happens under a lease, every write under an exclusive one, every change is executed exactly
//! once, failures of servers are waited out. The FUSE adapter maps kernel requests onto it and
//! implements `KernelCache`, by which the core has the kernel's caches emptied.
//!
//! | part | modules |
//! | --- | --- |
//! | pure machines | `logic` |
//! | directory | `link` (connection, heartbeats, right to cache), `session`, `call` (retries), `reclaim`, `callbacks` |
//! | file servers | `servers`, `map_cache`, `chunk_io`, `chunk_look` |
//! | operations | `names`, `changes`, `opens`, `read`, `write`, `allocate`, `punch`, `sync`, `push`, `locks`, `xattrs`, `privileges`, `seek`, `measure` |
//!
//! Everything may be called from any task of any tokio runtime. Futures may be dropped: a read
//! ends there, a change goes on in the background until its outcome is known. A lock wait that is
//! dropped is cancelled.

mod allocate;
mod cache_right;
mod call;
mod callbacks;
mod changes;
mod chunk_io;
mod chunk_look;
mod clock;
mod core;
mod guard;
mod inode;
pub mod kernel;
mod lasting;
mod lease_use;
mod link;
mod lock_requests;
mod locks;
pub mod logic;
mod map_cache;
mod measure;
mod names;
mod opens;
mod ordering;
mod patience;
mod privileges;
mod punch;
mod push;
mod reach;
mod read;
mod read_ahead;
mod reclaim;
mod seek;
mod servers;
mod session;
mod start;
mod sync;
mod together;
mod types;
mod write;
mod xattrs;

#[cfg(test)]
mod tests;

pub use dfs_proto::attr::{FileAttr, FileKind, SetAttr, SetTime, StatFs, Timestamp};
pub use dfs_proto::msg::chunk::Seek;
pub use dfs_proto::msg::namespace::{Creator, DirPageEntry, RenameFlags};
pub use kernel::{BoxFuture, KernelCache, NoKernel};
pub use locks::Cancel;
pub use logic::{
    authority, chunk_op, dir_cache, filled, gate, held_locks, lease, recall, sparse, stored,
    stream, window,
};
pub use privileges::{Keeps, Writer};
pub use types::{
    Allocate, AttrAnswer, ClientOptions, Created, EntryAnswer, Fill, Handle, Listed, ListedEntry,
    LockRequest, OpenMode, ReadData, ReadMode, SECTOR_BYTES, WriteAt, WriteMode, XattrValue,
};

use self::core::Core;
use changes::expect_attr;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{InodeId, LockOwner, SessionId};
use dfs_proto::lock::{HeldLock, LockKind, LockRange, LockSpace};
use dfs_proto::msg::namespace::Mutation;
use dfs_proto::name::FileName;
use dfs_proto::payload::Payload;
use dfs_proto::xattr::{SetXattrIf, XattrName};
use held_locks::OwnerKey;
use start::Threads;
use std::sync::Arc;
use std::time::Duration;
use sync::Synced;

/// A mount's client of a cluster. Clones share everything.
#[derive(Clone, Debug)]
pub struct Client {
    core: Arc<Core>,
    /// The last clone takes the threads along.
    _threads: Arc<Threads>,
}

impl Client {
    /// Finds the directory's leader and begins a session. Fails only with what will not mend by
    /// itself (a refused handshake), or when nobody answers within `patience`.
    pub async fn connect(
        options: ClientOptions,
        kernel: Arc<dyn KernelCache>,
        patience: Duration,
    ) -> Result<Self> {
        let (core, threads) = start::start(options, kernel)?;
        let client = Self {
            core,
            _threads: threads,
        };
        match tokio::time::timeout(patience, client.core.up()).await {
            Ok(Ok(_)) => Ok(client),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                client.core.stopping.send_replace(true);
                let cause = guard::lock(&client.core.last_failure).take();
                Err(Error::new(
                    ErrorCode::Disconnected,
                    format!(
                        "no directory leader answered within {patience:?}; the last failure: {}",
                        cause.as_deref().unwrap_or("none")
                    ),
                ))
            }
        }
    }

    /// The runtime for requests about names, attributes and locks. Nothing that runs on it may
    /// block or compute for long: heartbeats run there too.
    pub fn names_runtime(&self) -> &tokio::runtime::Handle {
        &self.core.names
    }

    /// The runtime for reads, writes and syncs.
    pub fn data_runtime(&self) -> &tokio::runtime::Handle {
        &self.core.data
    }

    /// Whether the directory's leader answers, as far as is known.
    pub fn is_linked(&self) -> bool {
        matches!(*self.core.link.borrow(), link::LinkState::Up(_))
    }

    /// The present session, for messages.
    pub async fn session(&self) -> Result<SessionId> {
        Ok(self.core.up().await?.session.id)
    }

    /// The name `name` in `parent`; `None` is `..`.
    pub async fn lookup(&self, parent: InodeId, name: Option<FileName>) -> Result<EntryAnswer> {
        self.limited(self.core.lookup(parent, name)).await
    }

    /// The same from what is kept here; `None`: the directory has to be asked.
    pub fn lookup_kept(&self, parent: InodeId, name: &FileName) -> Option<EntryAnswer> {
        self.core.lookup_kept(parent, name)
    }

    /// How long the kernel may serve a name from its cache, from now on: asked when the answer is
    /// handed to it, see `KernelCache`.
    pub fn entry_ttl(&self, answer: &EntryAnswer) -> Duration {
        self.core.entry_ttl(answer)
    }

    /// The same for attributes.
    pub fn attr_ttl(&self, answer: &AttrAnswer) -> Duration {
        self.core.attr_ttl(answer)
    }

    /// Attributes from what is kept here; `None`: others have to be asked.
    pub fn attr_kept(&self, inode: InodeId) -> Option<AttrAnswer> {
        let kept = self.core.attr_kept(inode);
        kept.filter(|answer| answer.stored.is_some())
    }

    /// Attributes, always with what the inode takes up.
    pub async fn getattr(&self, inode: InodeId) -> Result<AttrAnswer> {
        self.limited(self.core.getattr_measured(inode)).await
    }

    /// The directory's present time, as far as this host knows it: that of files.
    pub fn time(&self) -> Timestamp {
        self.core.clock.time()
    }

    /// Changes attributes, then (if given) the size; through `handle` if the caller named one.
    pub async fn setattr(
        &self,
        inode: InodeId,
        handle: Option<&Handle>,
        set: SetAttr,
        size: Option<u64>,
    ) -> Result<AttrAnswer> {
        let change = async {
            if let Some(size) = size {
                let entry = self.core.inodes.entry(inode);
                let open = handle.map(|handle| handle.0.clone());
                self.core.set_size(entry, open, size).await?;
                if set == SetAttr::default() {
                    return self.core.getattr(inode).await;
                }
            }
            self.core.set_attr(inode, set).await
        };
        self.limited(change).await
    }

    /// Whether it is known here that the inode does not have this extended attribute.
    pub fn lacks_xattr(&self, inode: InodeId, name: &XattrName) -> bool {
        self.core.lacks_xattr(inode, name)
    }

    /// The value of an extended attribute.
    pub async fn get_xattr(&self, inode: InodeId, name: XattrName) -> Result<XattrValue> {
        self.limited(self.core.get_xattr(inode, name)).await
    }

    /// The names of all extended attributes.
    pub async fn list_xattrs(&self, inode: InodeId) -> Result<Vec<XattrName>> {
        self.limited(self.core.list_xattrs(inode)).await
    }

    /// Sets an extended attribute. `drop_setgid`: an access ACL set by somebody who may not keep
    /// the setgid bit takes it away.
    pub async fn set_xattr(
        &self,
        inode: InodeId,
        name: XattrName,
        value: Vec<u8>,
        only: SetXattrIf,
        drop_setgid: bool,
    ) -> Result<()> {
        let mutation = Mutation::SetXattr {
            inode,
            name,
            value,
            only,
            drop_setgid,
        };
        self.limited(self.core.change_xattr(inode, mutation)).await
    }

    pub async fn remove_xattr(&self, inode: InodeId, name: XattrName) -> Result<()> {
        let mutation = Mutation::RemoveXattr { inode, name };
        self.limited(self.core.change_xattr(inode, mutation)).await
    }

    pub async fn readlink(&self, inode: InodeId) -> Result<Vec<u8>> {
        self.limited(self.core.readlink(inode)).await
    }

    /// A page of a dir after `cookie` (0: from the start).
    pub async fn readdir(
        &self,
        inode: InodeId,
        cookie: u64,
        entries_max: u32,
        with_attr: bool,
    ) -> Result<Listed> {
        let page = self.core.readdir(inode, cookie, entries_max, with_attr);
        self.limited(page).await
    }

    pub async fn statfs(&self) -> Result<StatFs> {
        self.limited(self.core.space()).await
    }

    /// Creates and opens a regular file, or opens the one that is there unless `exclusive`.
    pub async fn create(
        &self,
        parent: InodeId,
        name: FileName,
        mode: u16,
        creator: Creator,
        exclusive: bool,
        open: OpenMode,
    ) -> Result<Created> {
        let create = self
            .core
            .create(parent, name, mode, creator, exclusive, open);
        self.limited(create).await
    }

    /// Makes a regular file (not opened), FIFO, socket or device node.
    pub async fn mknod(
        &self,
        parent: InodeId,
        name: FileName,
        kind: FileKind,
        mode: u16,
        device: u64,
        creator: Creator,
    ) -> Result<EntryAnswer> {
        self.change_inode(
            parent,
            Mutation::MakeNode {
                parent,
                name,
                kind,
                mode,
                device,
                creator,
            },
        )
        .await
    }

    pub async fn mkdir(
        &self,
        parent: InodeId,
        name: FileName,
        mode: u16,
        creator: Creator,
    ) -> Result<EntryAnswer> {
        self.change_inode(
            parent,
            Mutation::MakeDir {
                parent,
                name,
                mode,
                creator,
            },
        )
        .await
    }

    pub async fn symlink(
        &self,
        parent: InodeId,
        name: FileName,
        target: Vec<u8>,
        creator: Creator,
    ) -> Result<EntryAnswer> {
        self.change_inode(
            parent,
            Mutation::Symlink {
                parent,
                name,
                target,
                creator,
            },
        )
        .await
    }

    pub async fn link(
        &self,
        inode: InodeId,
        parent: InodeId,
        name: FileName,
    ) -> Result<EntryAnswer> {
        self.change_inode(
            inode,
            Mutation::Link {
                inode,
                parent,
                name,
            },
        )
        .await
    }

    pub async fn unlink(&self, parent: InodeId, name: FileName, caller: u32) -> Result<()> {
        self.change(Mutation::Unlink {
            parent,
            name,
            caller,
        })
        .await
    }

    pub async fn rmdir(&self, parent: InodeId, name: FileName, caller: u32) -> Result<()> {
        self.change(Mutation::RemoveDir {
            parent,
            name,
            caller,
        })
        .await
    }

    pub async fn rename(
        &self,
        from: (InodeId, FileName),
        to: (InodeId, FileName),
        flags: RenameFlags,
        caller: u32,
    ) -> Result<()> {
        self.change(Mutation::Rename {
            parent: from.0,
            name: from.1,
            new_parent: to.0,
            new_name: to.1,
            flags,
            caller,
        })
        .await
    }

    /// Opens a regular file; the open ends when the last clone of the handle is dropped.
    pub async fn open(&self, inode: InodeId, mode: OpenMode) -> Result<Handle> {
        self.limited(self.core.open(inode, mode)).await
    }

    /// Reads up to `len` bytes; fewer only at the end of the file. Reply first, then drop what
    /// is returned: it holds the right under which the bytes are true.
    pub async fn read(
        &self,
        handle: &Handle,
        mode: ReadMode,
        offset: u64,
        len: usize,
    ) -> Result<ReadData> {
        self.limited(self.core.read(&handle.0, mode, offset, len))
            .await
    }

    /// Writes and returns how many bytes were taken: all, unless something failed after a part.
    pub async fn write(
        &self,
        handle: &Handle,
        at: WriteAt,
        data: Payload,
        mode: WriteMode,
        writer: Writer,
    ) -> Result<usize> {
        let write = self.core.write(handle.0.clone(), at, data, mode, writer);
        self.limited(write).await
    }

    /// Where data, or a hole, begin from an offset on. What this host has stored into shared maps is
    /// to be written out before, see `may_have_stored`.
    pub async fn seek(&self, handle: &Handle, offset: u64, seek: Seek) -> Result<u64> {
        self.limited(self.core.find_from(&handle.0, offset, seek))
            .await
    }

    /// Whether the kernel may have data in a shared map that it has not written out.
    pub fn may_have_stored(&self, handle: &Handle) -> bool {
        self.core.may_have_stored(&handle.0)
    }

    /// Takes away what the writer may not keep of a file that it is about to change by other means
    /// than a write, which does so by itself.
    pub async fn drop_privileges(&self, inode: InodeId, writer: &Writer) -> Result<()> {
        self.limited(self.core.drop_privileges(inode, writer)).await
    }

    /// Makes room for a range of a file that is open for writing, or puts zeros in its place.
    pub async fn allocate(&self, handle: &Handle, range: Allocate, fill: Fill) -> Result<()> {
        let allocate = self.core.allocate(handle.0.clone(), range, fill);
        self.limited(allocate).await
    }

    /// Punches a hole into a file that is open for writing: the range reads as zeros from now
    /// on, its space is free, the size stays.
    pub async fn punch(&self, handle: &Handle, range: Allocate) -> Result<()> {
        self.limited(self.core.punch(handle.0.clone(), range)).await
    }

    /// Data, size and times onto the disks.
    pub async fn fsync(&self, handle: &Handle) -> Result<()> {
        let sync = self.core.fsync(handle.0.clone(), Synced::Everything);
        self.limited(sync).await
    }

    /// Data and size onto the disks; the times follow within seconds.
    pub async fn fdatasync(&self, handle: &Handle) -> Result<()> {
        let sync = self.core.fsync(handle.0.clone(), Synced::Data);
        self.limited(sync).await
    }

    /// Sets or removes a lock. With `wait` this takes as long as it takes; `cancel` ends it with
    /// `Interrupted`, unless the lock was granted in the same moment: then it is `Ok` and held.
    pub async fn set_lock(
        &self,
        handle: &Handle,
        request: LockRequest,
        cancel: &Cancel,
    ) -> Result<()> {
        self.core
            .set_lock(handle.0.clone(), request, cancel.clone())
            .await
    }

    /// Which lock would stand against this one (F_GETLK). The pid is 0 for holders elsewhere.
    pub async fn test_lock(
        &self,
        inode: InodeId,
        space: LockSpace,
        owner: LockOwner,
        kind: LockKind,
        range: LockRange,
    ) -> Result<Option<HeldLock>> {
        let test = self.core.test_lock(inode, space, owner, kind, range);
        self.limited(test).await
    }

    /// Releases all that an owner holds of an inode in a space: at FLUSH (POSIX), at RELEASE
    /// (flock). Costs nothing if it holds nothing.
    /// It counts as under way from the call on, also before the future is polled.
    pub fn release_owner(
        &self,
        inode: InodeId,
        space: LockSpace,
        owner: LockOwner,
    ) -> impl Future<Output = Result<()>> + Send + 'static {
        let key = OwnerKey {
            inode,
            space,
            owner,
        };
        let client = self.clone();
        let release = self.core.release_owner(key);
        async move { client.limited(release).await }
    }

    /// Whether an owner is known to hold any lock of an inode in a space.
    pub fn holds_locks(&self, inode: InodeId, space: LockSpace, owner: LockOwner) -> bool {
        self.core.holds_locks(OwnerKey {
            inode,
            space,
            owner,
        })
    }

    /// Pushes what is unpushed and ends the session: locks and leases are free at once. Requests
    /// in flight get `ShuttingDown` afterwards.
    pub async fn shutdown(&self) -> Result<()> {
        self.core.end().await
    }

    async fn change(&self, mutation: Mutation) -> Result<()> {
        self.limited(self.core.change(mutation)).await.map(|_| ())
    }

    async fn change_inode(&self, named: InodeId, mutation: Mutation) -> Result<EntryAnswer> {
        let answer = self.limited(self.core.change(mutation)).await?;
        expect_attr(answer.found.clone(), named)?;
        Ok(answer)
    }

    /// The caller waits no longer than `io_timeout`. What is under way is not undone.
    async fn limited<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let Some(limit) = self.core.options.io_timeout else {
            return work.await;
        };
        match tokio::time::timeout(limit, work).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(
                ErrorCode::DeadlineExceeded,
                format!("no result within the io-timeout of {limit:?}"),
            )),
        }
    }
}
