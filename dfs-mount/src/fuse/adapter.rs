//! The FUSE library's callbacks, each turned into a call of the client core. No policy lives here
//! and no callback waits: the reply is moved into a task.
//!
//! A caller that is killed gets its thread back within 100 ms. What it asked for and may have
//! been applied goes on in the background, so that its outcome is defined.

use super::caches::{Caches, Serve};
use super::caller::{self, Ends};
use super::convert;
use super::handles::{Handles, Opened};
use super::interrupt::until_interrupted;
use super::listing::Listing;
use crate::client::{
    Allocate, Client, Created, Handle, OpenMode, ReadMode, WriteAt, WriteMode,
};
use dfs_proto::attr::{SetAttr, SetTime};
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::InodeId;
use dfs_proto::limits::IO_BYTES_MAX;
use dfs_proto::msg::namespace::{Creator, DirPageEntry, RenameFlags};
use dfs_proto::name::FileName;
use dfs_proto::payload::Payload;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLock, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::future::Future;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Names are never cached: another mount may change them at any moment.
const ENTRY_TTL: Duration = Duration::ZERO;
/// Attributes of an inode that the kernel may not have yet can't be taken back.
const UNCONFIRMED_TTL: Duration = Duration::ZERO;
/// Inode numbers are never reused.
const GENERATION: Generation = Generation(0);
/// What the kernel may have under way at once; READs that are kept waiting count too.
const MAX_BACKGROUND: u16 = 2048;
const STATFS_BLOCK_BYTES: u32 = 4096;

/// The file system as the FUSE library sees it.
#[derive(Debug)]
pub(super) struct Adapter {
    pub(super) client: Client,
    pub(super) caches: Arc<Caches>,
    pub(super) handles: Arc<Handles>,
    pub(super) locks: super::locks::LockCalls,
    pub(super) runtime: tokio::runtime::Handle,
}

/// A reply that can carry an error.
pub(super) trait Refuse: Send + 'static {
    fn refuse(self, errno: Errno);
}

macro_rules! refuse {
    ($($reply:ty),*) => {
        $(impl Refuse for $reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        })*
    };
}
refuse!(
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyLock, ReplyOpen, ReplyStatfs, ReplyWrite
);

pub(super) fn inode(number: INodeNo) -> InodeId {
    InodeId(number.0)
}

fn bad_handle() -> Error {
    Error::from(ErrorCode::BadHandle)
}

/// The caller died while it waited.
pub(super) const INTERRUPTED: Errno = Errno::EINTR;

impl Adapter {
    /// Answers with what `work` gives; `work` is dropped when the caller dies.
    fn query<T, R: Refuse>(
        &self,
        request: &Request,
        reply: R,
        work: impl Future<Output = Result<T>> + Send + 'static,
        answer: impl FnOnce(R, T) + Send + 'static,
    ) {
        let thread = request.pid();
        self.runtime.spawn(async move {
            match until_interrupted(thread, Ends::Death, work).await {
                Ok(Ok(value)) => answer(reply, value),
                Ok(Err(e)) => reply.refuse(convert::errno(&e)),
                Err(_) => reply.refuse(INTERRUPTED),
            }
        });
    }

    /// Answers with what `work` gives; `work` goes on when the caller dies, and its result then
    /// goes to `unwanted`.
    pub(super) fn change<T: Send + 'static, R: Refuse>(
        &self,
        request: &Request,
        reply: R,
        work: impl Future<Output = Result<T>> + Send + 'static,
        answer: impl FnOnce(R, T) + Send + 'static,
        unwanted: impl FnOnce(T) + Send + 'static,
    ) {
        let thread = request.pid();
        self.runtime.spawn(async move {
            let mut work = tokio::spawn(work);
            match until_interrupted(thread, Ends::Death, &mut work).await {
                Ok(Ok(Ok(value))) => answer(reply, value),
                Ok(Ok(Err(e))) => reply.refuse(convert::errno(&e)),
                Ok(Err(e)) => {
                    log::error!("a request ended in a defect: {e}");
                    reply.refuse(Errno::EIO);
                }
                Err(_) => {
                    reply.refuse(INTERRUPTED);
                    if let Ok(Ok(value)) = work.await {
                        unwanted(value);
                    }
                }
            }
        });
    }

    pub(super) fn file(&self, number: FileHandle) -> Result<Handle> {
        self.handles.file(number.0).ok_or_else(bad_handle)
    }
}

fn entry(reply: ReplyEntry, attr: crate::client::AttrAnswer) {
    let attr = convert::attr(&attr.attr);
    reply.entry_with_ttls(&UNCONFIRMED_TTL, &ENTRY_TTL, &attr, GENERATION);
}

fn creator(request: &Request) -> Creator {
    Creator { uid: request.uid(), gid: request.gid() }
}

/// Direct I/O for whatever can write: two mounts that write through the page cache would wait
/// for each other or lose sight of their own writes. Read-only opens keep what is cached.
fn open_flags(flags: i32) -> FopenFlags {
    if writes(flags) || flags & libc::O_APPEND != 0 {
        FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
    } else {
        FopenFlags::FOPEN_KEEP_CACHE
    }
}

fn writes(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

fn open_mode(flags: i32) -> OpenMode {
    OpenMode { read: flags & libc::O_ACCMODE != libc::O_WRONLY, write: writes(flags) }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let wanted = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_POSIX_LOCKS
            | InitFlags::FUSE_FLOCK_LOCKS
            | InitFlags::FUSE_BIG_WRITES
            | InitFlags::FUSE_MAX_PAGES
            | InitFlags::FUSE_AUTO_INVAL_DATA
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_ABORT_ERROR
            | InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP;
        let missing = match config.add_capabilities(wanted) {
            Ok(()) => InitFlags::empty(),
            Err(missing) => missing,
        };
        let needed = InitFlags::FUSE_AUTO_INVAL_DATA | InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP;
        if cfg!(target_os = "linux") && missing.intersects(needed) {
            log::error!("this kernel's FUSE lacks {missing:?}");
            return Err(std::io::Error::from_raw_os_error(libc::EPROTO));
        }
        if !missing.is_empty() {
            // All or nothing is taken; ask again for what there is.
            let _ = config.add_capabilities(wanted.difference(missing));
        }
        // A refusal names the kernel's own limit, which is then what holds.
        if let Err(limit) = config.set_max_write(IO_BYTES_MAX as u32) {
            let _ = config.set_max_write(limit);
        }
        if let Err(limit) = config.set_max_readahead(IO_BYTES_MAX as u32) {
            let _ = config.set_max_readahead(limit);
        }
        if let Err(limit) = config.set_max_background(MAX_BACKGROUND) {
            let _ = config.set_max_background(limit);
        }
        let _ = config.set_time_granularity(Duration::from_nanos(1));
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (client, parent) = (self.client.clone(), inode(parent));
        // Also asked for by NFS export: `..` is no name but a question for the parent.
        let name = match name.as_bytes() {
            b".." => Ok(None),
            _ => convert::name(name).map(Some),
        };
        let work = async move { client.lookup(parent, name?).await };
        self.query(request, reply, work, entry);
    }

    fn forget(&self, _: &Request, ino: INodeNo, _: u64) {
        // Partly forgotten inodes are in the cache still; pages of theirs are noted again by
        // the next READ, and the ones there are under a lease whose recall drops everything.
        let _ = ino;
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let (client, caches, ino) = (self.client.clone(), self.caches.clone(), inode(ino));
        let work = async move {
            loop {
                let answer = client.getattr(ino).await?;
                // Answered in a recall they could be cached as fresh.
                if !caches.settled(ino).await {
                    return Ok(answer);
                }
            }
        };
        self.query(request, reply, work, |reply, answer| {
            reply.attr(&answer.ttl, &convert::attr(&answer.attr));
        });
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (client, caches, ino) = (self.client.clone(), self.caches.clone(), inode(ino));
        let time = |t: Option<TimeOrNow>| t.map(convert::set_time);
        let set = SetAttr {
            mode: mode.map(convert::permission_bits),
            uid,
            gid,
            accessed: time(atime),
            // A truncation sets the time by itself; the kernel says so again.
            modified: time(mtime).filter(|t| size.is_none() || *t != SetTime::Now),
        };
        let work = async move {
            let mut answer = None;
            if let Some(size) = size {
                answer = Some(client.set_size(ino, size).await?);
                caches.written_beside(ino, size, u64::MAX - size).await;
            }
            if set != SetAttr::default() || answer.is_none() {
                answer = Some(client.setattr(ino, set).await?);
            }
            answer.ok_or_else(|| Error::from(ErrorCode::Internal))
        };
        let answer = |reply: ReplyAttr, answer: crate::client::AttrAnswer| {
            reply.attr(&UNCONFIRMED_TTL, &convert::attr(&answer.attr));
        };
        self.change(request, reply, work, answer, drop);
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        let (client, ino) = (self.client.clone(), inode(ino));
        let work = async move { client.readlink(ino).await };
        self.query(request, reply, work, |reply, target| reply.data(&target));
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (client, parent, creator) = (self.client.clone(), inode(parent), creator(request));
        let name = convert::name(name);
        let work = async move {
            let kind = convert::kind_of_mode(mode).ok_or(ErrorCode::InvalidArgument)?;
            let mode = convert::permission_bits(mode);
            client.mknod(parent, name?, kind, mode, u64::from(rdev), creator).await
        };
        self.change(request, reply, work, entry, drop);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let (client, parent, creator) = (self.client.clone(), inode(parent), creator(request));
        let name = convert::name(name);
        let mode = convert::permission_bits(mode);
        let work = async move { client.mkdir(parent, name?, mode, creator).await };
        self.change(request, reply, work, entry, drop);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (client, parent, uid) = (self.client.clone(), inode(parent), request.uid());
        let name = convert::name(name);
        let work = async move { client.unlink(parent, name?, uid).await };
        self.change(request, reply, work, |reply, ()| reply.ok(), drop);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (client, parent, uid) = (self.client.clone(), inode(parent), request.uid());
        let name = convert::name(name);
        let work = async move { client.rmdir(parent, name?, uid).await };
        self.change(request, reply, work, |reply, ()| reply.ok(), drop);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (client, parent, creator) = (self.client.clone(), inode(parent), creator(request));
        let name = convert::name(link_name);
        let target = target.as_os_str().as_bytes().to_vec();
        let work = async move { client.symlink(parent, name?, target, creator).await };
        self.change(request, reply, work, entry, drop);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: fuser::RenameFlags,
        reply: ReplyEmpty,
    ) {
        let client = self.client.clone();
        let (parent, newparent, uid) = (inode(parent), inode(newparent), request.uid());
        let (name, newname) = (convert::name(name), convert::name(newname));
        let work = async move {
            let flags = rename_flags(flags)?;
            client.rename(parent, name?, newparent, newname?, flags, uid).await
        };
        self.change(request, reply, work, |reply, ()| reply.ok(), drop);
    }

    fn link(
        &self,
        request: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let (client, ino, parent) = (self.client.clone(), inode(ino), inode(newparent));
        let name = convert::name(newname);
        let work = async move { client.link(ino, parent, name?).await };
        self.change(request, reply, work, entry, drop);
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (client, ino) = (self.client.clone(), inode(ino));
        let (handles, client_for_unwanted) = (self.handles.clone(), self.client.clone());
        let work = async move { client.open(ino, open_mode(flags.0)).await };
        let answer = move |reply: ReplyOpen, handle: Handle| {
            let number = handles.insert(Opened::File(handle));
            reply.opened(FileHandle(number), open_flags(flags.0));
        };
        self.change(request, reply, work, answer, move |handle| {
            client_for_unwanted.release(handle);
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (client, parent, creator) = (self.client.clone(), inode(parent), creator(request));
        let name = convert::name(name);
        let (handles, client_for_unwanted) = (self.handles.clone(), self.client.clone());
        let exclusive = flags & libc::O_EXCL != 0;
        let mode = convert::permission_bits(mode);
        let work = async move {
            let name: FileName = name?;
            let made =
                client.create(parent, name, mode, creator, open_mode(flags), exclusive).await?;
            if made.created {
                return Ok(made);
            }
            // Another host was faster, so the kernel has checked no permission on this file. It
            // looks the name up again for ESTALE, finds the file and opens it the usual way.
            client.release(made.handle);
            Err(Error::from(ErrorCode::Stale))
        };
        let answer = move |reply: ReplyCreate, made: Created| {
            let number = handles.insert(Opened::File(made.handle));
            let attr = convert::attr(&made.attr.attr);
            reply.created(
                &UNCONFIRMED_TTL,
                &attr,
                GENERATION,
                FileHandle(number),
                open_flags(flags),
            );
        };
        self.change(request, reply, work, answer, move |made| {
            client_for_unwanted.release(made.handle);
        });
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (client, handle) = (self.client.clone(), self.file(fh));
        // The kernel names a lock owner for direct I/O only: without one the READ fills pages.
        let cached = match lock_owner {
            Some(_) => None,
            None => self.caches.read_arrived(inode(ino), offset, u64::from(size)),
        };
        let thread = request.pid();
        self.runtime.spawn(async move {
            let handle = match handle {
                Ok(handle) => handle,
                Err(e) => return reply.error(convert::errno(&e)),
            };
            let read = |serve: Serve| {
                let mode = match serve {
                    Serve::Normal | Serve::Parked => ReadMode::Normal,
                    Serve::Unblock => ReadMode::Unblock,
                };
                client.read(&handle, mode, offset, size)
            };
            let work = async {
                match &cached {
                    Some(cached) => cached.serve(read).await,
                    None => read(Serve::Normal).await,
                }
            };
            match until_interrupted(thread, Ends::Death, work).await {
                // The right to have read them goes after the answer is out.
                Ok(Ok(data)) => reply.data(&data),
                Ok(Err(e)) => reply.error(convert::errno(&e)),
                Err(_) => reply.error(INTERRUPTED),
            }
            drop(cached);
        });
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (client, caches, ino) = (self.client.clone(), self.caches.clone(), inode(ino));
        let handle = self.file(fh);
        let launder = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let at = if flags.0 & libc::O_APPEND != 0 && !launder {
            // The kernel's idea of the end is old when another host appends.
            WriteAt::End
        } else {
            WriteAt::Offset(offset)
        };
        let mode = if launder { WriteMode::Launder } else { WriteMode::Normal };
        let synced = !launder && flags.0 & libc::O_DSYNC != 0;
        let data = Payload::copy_from(data);
        let work = async move {
            let handle = handle?;
            let len = data.len() as u64;
            let written = client.write(&handle, at, mode, data).await?;
            if !launder {
                caches.write_served(ino);
                caches.written_beside(ino, written.offset, len).await;
            }
            if synced {
                client.fsync(&handle, flags.0 & libc::O_SYNC != libc::O_SYNC).await?;
            }
            Ok(len as u32)
        };
        self.change(request, reply, work, |reply, len| reply.written(len), drop);
    }

    fn flush(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let (client, handle) = (self.client.clone(), self.file(fh));
        let owner = dfs_proto::ids::LockOwner(lock_owner.0);
        let work = async move { client.flush(&handle?, owner).await };
        self.change(request, reply, work, |reply, ()| reply.ok(), drop);
    }

    fn release(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        if let Some(Opened::File(handle)) = self.handles.remove(fh.0) {
            if let Some(owner) = lock_owner {
                // The kernel doesn't wait for this answer, so the lock goes first and fast.
                self.client.release_flock(&handle, dfs_proto::ids::LockOwner(owner.0));
            }
            self.client.release(handle);
        }
        reply.ok();
    }

    fn fsync(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let (client, handle) = (self.client.clone(), self.file(fh));
        let work = async move { client.fsync(&handle?, datasync).await };
        self.change(request, reply, work, |reply, ()| reply.ok(), drop);
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let listing = Arc::new(tokio::sync::Mutex::new(Listing::new(inode(ino))));
        let number = self.handles.insert(Opened::Dir(listing));
        reply.opened(FileHandle(number), FopenFlags::empty());
    }

    fn readdir(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let (client, listing) = (self.client.clone(), self.handles.dir(fh.0));
        let thread = request.pid();
        self.runtime.spawn(async move {
            let Some(listing) = listing else { return reply.refuse(Errno::EBADF) };
            let work = async {
                let mut listing = listing.lock().await;
                let add = |entry: &DirPageEntry| {
                    let cookie = super::listing::cookie(entry);
                    match entry {
                        DirPageEntry::SelfDir { inode } => {
                            reply.add(INodeNo(inode.0), cookie, FileType::Directory, ".")
                        }
                        DirPageEntry::Parent { inode } => {
                            reply.add(INodeNo(inode.0), cookie, FileType::Directory, "..")
                        }
                        DirPageEntry::Entry(e) => reply.add(
                            INodeNo(e.inode.0),
                            cookie,
                            convert::file_type(e.kind),
                            OsStr::from_bytes(e.name.as_bytes()),
                        ),
                    }
                };
                listing.fill(&client, offset, false, add).await
            };
            match until_interrupted(thread, Ends::Death, work).await {
                Ok(Ok(())) => reply.ok(),
                Ok(Err(e)) => reply.refuse(convert::errno(&e)),
                Err(_) => reply.refuse(INTERRUPTED),
            }
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (client, listing) = (self.client.clone(), self.handles.dir(fh.0));
        let thread = request.pid();
        self.runtime.spawn(async move {
            let Some(listing) = listing else { return reply.refuse(Errno::EBADF) };
            let work = async {
                let mut listing = listing.lock().await;
                let mut add = |number: InodeId, cookie, name: &OsStr, attr: &fuser::FileAttr| {
                    reply.add(INodeNo(number.0), cookie, name, &UNCONFIRMED_TTL, attr, GENERATION)
                };
                let add = |entry: &DirPageEntry| {
                    let cookie = super::listing::cookie(entry);
                    match entry {
                        // The kernel takes no reference on these two.
                        DirPageEntry::SelfDir { inode } => {
                            add(*inode, cookie, ".".as_ref(), &convert::dir_placeholder(*inode))
                        }
                        DirPageEntry::Parent { inode } => {
                            add(*inode, cookie, "..".as_ref(), &convert::dir_placeholder(*inode))
                        }
                        DirPageEntry::Entry(e) => {
                            let name = OsStr::from_bytes(e.name.as_bytes());
                            match &e.attr {
                                Some(attr) => add(e.inode, cookie, name, &convert::attr(attr)),
                                // Gone while the page was made: a lookup would not find it.
                                None => false,
                            }
                        }
                    }
                };
                listing.fill(&client, offset, true, add).await
            };
            match until_interrupted(thread, Ends::Death, work).await {
                Ok(Ok(())) => reply.ok(),
                Ok(Err(e)) => reply.refuse(convert::errno(&e)),
                Err(_) => reply.refuse(INTERRUPTED),
            }
        });
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.handles.remove(fh.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        // Every change of a dir is in the directory's fsynced log before its call returns.
        reply.ok();
    }

    fn statfs(&self, request: &Request, _: INodeNo, reply: ReplyStatfs) {
        let client = self.client.clone();
        let work = async move { client.statfs().await };
        self.query(request, reply, work, |reply, space| {
            let block = u64::from(STATFS_BLOCK_BYTES);
            reply.statfs(
                space.total_bytes / block,
                space.free_bytes / block,
                space.free_bytes / block,
                space.inodes + space.free_inodes,
                space.free_inodes,
                STATFS_BLOCK_BYTES,
                dfs_proto::limits::NAME_BYTES_MAX as u32,
                STATFS_BLOCK_BYTES,
            );
        });
    }

    // No extended attributes yet. ENOSYS is remembered by the kernel for the life of the mount:
    // it then answers EOPNOTSUPP by itself, and asks for no capabilities before each write.
    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn setxattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: &[u8],
        _: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn getlk(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        _pid: u32,
        reply: ReplyLock,
    ) {
        self.test_lock(request, fh, lock_owner, start, end, typ, reply);
    }

    fn setlk(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        self.set_lock(request, fh, lock_owner, (start, end), typ, pid, sleep, reply);
    }

    fn fallocate(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (client, handle) = (self.client.clone(), self.file(fh));
        let work = async move {
            let keep_size = match mode {
                0 => false,
                libc::FALLOC_FL_KEEP_SIZE => true,
                _ => return Err(Error::from(ErrorCode::Unsupported)),
            };
            client.allocate(&handle?, Allocate { offset, len: length, keep_size }).await
        };
        self.change(request, reply, work, |reply, ()| reply.ok(), drop);
    }

    // For these two the kernel has a way of its own and remembers to take it.
    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        reply.error(Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }
}

fn rename_flags(flags: fuser::RenameFlags) -> Result<RenameFlags> {
    let mut rest = flags.bits();
    let mut take = |bit: u32| {
        let set = rest & bit != 0;
        rest &= !bit;
        set
    };
    let known = RenameFlags {
        no_replace: take(libc::RENAME_NOREPLACE),
        exchange: take(libc::RENAME_EXCHANGE),
    };
    if rest != 0 || (known.no_replace && known.exchange) {
        return Err(Error::from(ErrorCode::InvalidArgument));
    }
    Ok(known)
}

impl Adapter {
    /// Which space a lock call means; see `caller`.
    pub(super) fn lock_call(&self, request: &Request) -> caller::LockCall {
        caller::lock_call(request.pid())
    }
}
