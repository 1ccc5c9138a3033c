//! The FUSE library's callbacks, each turned into a call of the client core. No policy lives here
//! and no callback waits; see `serve`.

use super::convert;
use super::data::IncomingWrite;
use super::handles::Opened;
use super::listing::Listing;
use super::serve::{Adapter, inode};
use crate::client::{Allocate, AttrAnswer, EntryAnswer};
use dfs_proto::attr::{SetAttr, SetTime};
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids;
use dfs_proto::limits::IO_BYTES_MAX;
use dfs_proto::lock::LockSpace;
use dfs_proto::msg::namespace::{Creator, RenameFlags};
use dfs_proto::payload::Payload;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Inode numbers are never reused.
pub(super) const GENERATION: Generation = Generation(0);
/// What the kernel may have under way at once; READs that are kept waiting count too.
const MAX_BACKGROUND: u16 = 2048;
/// Largest WRITE. Twice what goes to a file server at once, because it is also what the number of
/// pages of a request is reckoned from: 1 MiB that does not begin with a page touches one more,
/// and would come as two requests, one after the other.
pub(super) const WRITE_BYTES_MAX: u32 = 2 * IO_BYTES_MAX as u32;
const STATFS_BLOCK_BYTES: u32 = 4096;

pub(super) fn creator(request: &Request) -> Creator {
    Creator {
        uid: request.uid(),
        gid: request.gid(),
    }
}

impl Adapter {
    /// Answers with a name.
    fn entry(&self) -> impl FnOnce(ReplyEntry, EntryAnswer) + Send + 'static {
        let (client, caches) = (self.client.clone(), self.caches.clone());
        move |reply, answer| caches.reply_entry(&client, reply, &answer)
    }

    /// Answers with attributes.
    fn attr(&self) -> impl FnOnce(ReplyAttr, AttrAnswer) + Send + 'static {
        let (client, caches) = (self.client.clone(), self.caches.clone());
        move |reply, answer| caches.reply_attr(&client, reply, &answer)
    }
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
        if let Err(limit) = config.set_max_write(WRITE_BYTES_MAX) {
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
        if let Ok(Some(name)) = &name
            && let Some(kept) = client.lookup_kept(parent, name)
        {
            return self.caches.reply_entry(&client, reply, &kept);
        }
        let work = async move { client.lookup(parent, name?).await };
        self.query(request, reply, work, self.entry());
    }

    fn forget(&self, _: &Request, ino: INodeNo, nlookup: u64) {
        self.caches.told.forgotten(inode(ino), nlookup);
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let (client, caches, ino) = (self.client.clone(), self.caches.clone(), inode(ino));
        if let Some(kept) = client.attr_kept(ino) {
            return caches.reply_attr(&client, reply, &kept);
        }
        let handles = self.handles.clone();
        let work = async move {
            loop {
                let answer = match client.getattr(ino).await {
                    // The directory keeps no dirs for those who have them open.
                    Err(e) if e.code == ErrorCode::Stale => {
                        let removed = handles.removed_dir(ino).await.ok_or(e)?;
                        return Ok(AttrAnswer::unprotected(removed));
                    }
                    answer => answer?,
                };
                // Answered in a recall they could be cached as fresh.
                if !caches.settled(ino).await {
                    return Ok(answer);
                }
            }
        };
        self.query(request, reply, work, self.attr());
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
        fh: Option<FileHandle>,
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
        let handle = fh.map(|fh| self.file(fh)).transpose();
        let work = async move {
            let answer = client.setattr(ino, handle?.as_ref(), set, size).await?;
            if let Some(size) = size {
                caches.written_beside(ino, size, u64::MAX - size).await;
            }
            Ok(answer)
        };
        self.change_cached(request, reply, vec![ino], work, self.attr());
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
        self.caches.told.dir_locked(inode(parent));
        let (client, parent, creator) = (self.client.clone(), inode(parent), creator(request));
        let name = convert::name(name);
        let work = async move {
            let kind = convert::kind_of_mode(mode).ok_or(ErrorCode::InvalidArgument)?;
            let mode = convert::permission_bits(mode);
            client
                .mknod(parent, name?, kind, mode, u64::from(rdev), creator)
                .await
        };
        self.change_cached(request, reply, vec![parent], work, self.entry());
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
        self.caches.told.dir_locked(inode(parent));
        let (client, parent, creator) = (self.client.clone(), inode(parent), creator(request));
        let name = convert::name(name);
        let mode = convert::permission_bits(mode);
        let work = async move { client.mkdir(parent, name?, mode, creator).await };
        self.change_cached(request, reply, vec![parent], work, self.entry());
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.caches.told.dir_locked(inode(parent));
        let (client, parent, uid) = (self.client.clone(), inode(parent), request.uid());
        let name = convert::name(name);
        let work = async move { client.unlink(parent, name?, uid).await };
        self.change_cached(request, reply, vec![parent], work, |reply, ()| reply.ok());
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.caches.told.dir_locked(inode(parent));
        let (client, parent, uid) = (self.client.clone(), inode(parent), request.uid());
        let name = convert::name(name);
        let work = async move { client.rmdir(parent, name?, uid).await };
        self.change_cached(request, reply, vec![parent], work, |reply, ()| reply.ok());
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        self.caches.told.dir_locked(inode(parent));
        let (client, parent, creator) = (self.client.clone(), inode(parent), creator(request));
        let name = convert::name(link_name);
        let target = target.as_os_str().as_bytes().to_vec();
        let work = async move { client.symlink(parent, name?, target, creator).await };
        self.change_cached(request, reply, vec![parent], work, self.entry());
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
        self.caches.told.dir_locked(inode(parent));
        self.caches.told.dir_locked(inode(newparent));
        let client = self.client.clone();
        let (parent, newparent, uid) = (inode(parent), inode(newparent), request.uid());
        let (name, newname) = (convert::name(name), convert::name(newname));
        let work = async move {
            let flags = rename_flags(flags)?;
            client
                .rename((parent, name?), (newparent, newname?), flags, uid)
                .await
        };
        let dirs = vec![parent, newparent];
        self.change_cached(request, reply, dirs, work, |reply, ()| reply.ok());
    }

    fn link(
        &self,
        request: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        self.caches.told.dir_locked(inode(newparent));
        let (client, ino, parent) = (self.client.clone(), inode(ino), inode(newparent));
        let name = convert::name(newname);
        let work = async move { client.link(ino, parent, name?).await };
        self.change_cached(request, reply, vec![parent, ino], work, self.entry());
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.start_open(request, inode(ino), flags.0, reply);
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
        self.caches.told.dir_locked(inode(parent));
        self.start_create(
            request,
            inode(parent),
            convert::name(name),
            mode,
            flags,
            reply,
        );
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
        // The kernel names a lock owner for direct I/O only: without one the READ fills pages.
        let cached = match lock_owner {
            Some(_) => None,
            None => self
                .caches
                .read_arrived(inode(ino), offset, u64::from(size)),
        };
        self.start_read(request, self.file(fh), cached, offset, size, reply);
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
        let write = IncomingWrite {
            inode: inode(ino),
            offset,
            data: Payload::copy_from(data),
            launder: write_flags.contains(WriteFlags::FUSE_WRITE_CACHE),
            flags: flags.0,
        };
        self.start_write(request, self.file(fh), write, reply);
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
        let owner = ids::LockOwner(lock_owner.0);
        self.locks.range_owners.flushed(fh.0, owner);
        // A close by a process lets go of all its byte-range locks on the file. Data and errors
        // need nothing here: each write was answered when it was done.
        let release =
            handle.map(|handle| client.release_owner(handle.inode(), LockSpace::Posix, owner));
        let work = async move { release?.await };
        self.change(request, reply, work, |reply, ()| reply.ok());
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
        let Some(Opened::File(handle)) = self.handles.remove(fh.0) else {
            return reply.ok();
        };
        // The last close of an open file description. The kernel doesn't wait for the answer, so
        // its locks go first and fast.
        let flock = lock_owner.map(|owner| (LockSpace::Flock, ids::LockOwner(owner.0)));
        let ranges = self.locks.range_owners.released(fh.0);
        let ranges = ranges.into_iter().map(|(owner, space)| (space, owner));
        let releases: Vec<_> = flock
            .into_iter()
            .chain(ranges)
            .map(|(space, owner)| self.client.release_owner(handle.inode(), space, owner))
            .collect();
        if releases.is_empty() {
            drop(handle);
            return reply.ok();
        }
        self.client.names_runtime().spawn(async move {
            for release in releases {
                if let Err(e) = release.await {
                    log::warn!(
                        "{}: a lock of a closed file is not released: {e}",
                        handle.inode()
                    );
                }
            }
            drop(handle);
            reply.ok();
        });
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
        let work = async move {
            match datasync {
                true => client.fdatasync(&handle?).await,
                false => client.fsync(&handle?).await,
            }
        };
        self.change_data(request, reply, work, |reply, ()| reply.ok());
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let known = self.client.attr_kept(inode(ino)).map(|kept| kept.attr);
        let listing = Listing::new(inode(ino), known);
        let listing = Arc::new(tokio::sync::Mutex::new(listing));
        let number = self.handles.insert(Opened::Dir(listing));
        reply.opened(FileHandle(number), FopenFlags::empty());
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.caches.told.listing_taken(inode(ino), fh.0);
        self.start_listing(request, fh, offset, reply);
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.caches.told.listing_taken(inode(ino), fh.0);
        self.start_listing_with_attr(request, inode(ino), fh, offset, reply);
    }

    fn releasedir(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.caches.told.listing_taken(inode(ino), fh.0);
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
        self.set_lock(
            request,
            fh,
            lock_owner,
            (start, end),
            typ,
            pid,
            sleep,
            reply,
        );
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
            const HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            let range = Allocate {
                offset,
                len: length,
                keep_size: mode != 0,
            };
            match mode {
                0 | libc::FALLOC_FL_KEEP_SIZE => client.allocate(&handle?, range).await,
                HOLE => client.punch(&handle?, range).await,
                _ => Err(Error::from(ErrorCode::Unsupported)),
            }
        };
        self.change_data(request, reply, work, |reply, ()| reply.ok());
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        // Not ENOSYS: `isatty` and the like look for this answer.
        reply.error(Errno::ENOTTY);
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
