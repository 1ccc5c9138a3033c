//! Opening, reading and writing files.

use super::caches::{CachedRead, Serve};
use super::caller::Ends;
use super::convert;
use super::entries::GENERATION;
use super::handles::Opened;
use super::interrupt::until_interrupted;
use super::privileges::writer;
use super::serve::{Adapter, INTERRUPTED};
use crate::client::{
    Allocate, Created, Fill, Handle, OpenMode, ReadMode, Seek, WriteAt, WriteMode, Writer,
};
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::InodeId;
use dfs_proto::msg::namespace::Creator;
use dfs_proto::name::FileName;
use dfs_proto::payload::Payload;
use fuser::{
    FileHandle, FopenFlags, ReplyCreate, ReplyData, ReplyEmpty, ReplyLseek, ReplyOpen, ReplyWrite,
    Request,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A WRITE as it came.
#[derive(Debug)]
pub(super) struct IncomingWrite {
    pub(super) inode: InodeId,
    pub(super) offset: u64,
    pub(super) data: Payload,
    /// Pages that the kernel writes out for a shared map.
    pub(super) launder: bool,
    /// Flags of the open file.
    pub(super) flags: i32,
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
    OpenMode {
        read: flags & libc::O_ACCMODE != libc::O_WRONLY,
        write: writes(flags),
    }
}

impl Adapter {
    pub(super) fn start_open(&self, request: &Request, ino: InodeId, flags: i32, reply: ReplyOpen) {
        let (client, handles) = (self.client.clone(), self.handles.clone());
        let work = async move { client.open(ino, open_mode(flags)).await };
        self.change(request, reply, work, move |reply, handle| {
            let number = handles.insert(Opened::File(handle));
            reply.opened(FileHandle(number), open_flags(flags));
        });
    }

    pub(super) fn start_create(
        &self,
        request: &Request,
        (parent, name): (InodeId, Result<FileName>),
        creator: Creator,
        mode: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (client, handles) = (self.client.clone(), self.handles.clone());
        let (replier, caches) = (self.client.clone(), self.caches.clone());
        let mode = convert::permission_bits(mode);
        self.caches.told.dir_locked(parent);
        let exclusive = flags & libc::O_EXCL != 0;
        let work = async move {
            let open = open_mode(flags);
            let made = client
                .create(parent, name?, mode, creator, exclusive, open)
                .await?;
            if made.created {
                return Ok(made);
            }
            // Another host was faster, so the kernel has checked no permission on this file. It
            // looks the name up again for ESTALE, finds the file and opens it the usual way.
            Err(Error::from(ErrorCode::Stale))
        };
        self.change_cached(
            request,
            reply,
            vec![parent],
            work,
            move |reply: ReplyCreate, made: Created| {
                let entry = made.entry();
                let number = handles.insert(Opened::File(made.handle));
                let attr = convert::attr(&made.attr);
                let fh = FileHandle(number);
                let _gate = caches.told.reply();
                caches.told.answered(made.attr.attr.inode);
                let ttl = caches.common_ttl(&replier, &entry);
                reply.created(&ttl, &attr, GENERATION, fh, open_flags(flags));
            },
        );
    }

    pub(super) fn start_read(
        &self,
        request: &Request,
        handle: Result<Handle>,
        cached: Option<CachedRead>,
        offset: u64,
        size: u32,
        reply: ReplyData,
    ) {
        let (client, caches) = (self.client.clone(), self.caches.clone());
        let thread = request.pid();
        self.begin_data(async move {
            let handle = match handle {
                Ok(handle) => handle,
                Err(e) => return reply.error(convert::errno(&e)),
            };
            let read = |serve: Serve| {
                let mode = match serve {
                    Serve::Normal | Serve::Parked => ReadMode::Normal,
                    Serve::Unblock => ReadMode::Unblock,
                };
                client.read(&handle, mode, offset, size as usize)
            };
            let work = async {
                match &cached {
                    Some(cached) => cached.serve(read).await,
                    None => read(Serve::Normal).await,
                }
            };
            let answer = until_interrupted(thread, Ends::Death, work).await;
            match &answer {
                Ok(Ok(data)) => reply.data(data),
                Ok(Err(e)) => reply.error(convert::errno(e)),
                Err(_) => reply.error(INTERRUPTED),
            }
            // In this order: the answer is out, the gate leaves the pages out of no recall any
            // more, and then the right to have read them goes.
            let fills = cached.is_some();
            drop(cached);
            if let Ok(Ok(data)) = &answer
                && fills
                && !data.is_true()
            {
                // It lapsed before the answer was out, and that recall has left these pages out.
                caches
                    .written_beside(handle.inode(), offset, u64::from(size))
                    .await;
            }
        });
    }

    pub(super) fn start_write(
        &self,
        request: &Request,
        handle: Result<Handle>,
        write: IncomingWrite,
        reply: ReplyWrite,
    ) {
        let (client, caches) = (self.client.clone(), self.caches.clone());
        let looked = Arc::new(AtomicBool::new(false));
        let writer = match write.launder {
            true => Writer::KERNEL,
            false => writer(request, &looked),
        };
        let work = async move {
            let handle = handle?;
            let IncomingWrite {
                inode,
                offset,
                data,
                launder,
                flags,
            } = write;
            let (at, mode) = match (launder, flags & libc::O_APPEND != 0) {
                (true, _) => (WriteAt::Offset(offset), WriteMode::Launder),
                // The kernel's idea of the end is old when another host appends.
                (false, true) => (WriteAt::End, WriteMode::Normal),
                (false, false) => (WriteAt::Offset(offset), WriteMode::Normal),
            };
            let written = client.write(&handle, at, data, mode, writer).await?;
            if looked.load(Ordering::Relaxed) {
                // The mode may be another one now; the kernel of the writer does not know that.
                caches.forget_attr(inode);
            }
            if !launder {
                caches.write_served(inode);
                match at {
                    WriteAt::Offset(offset) => {
                        caches.written_beside(inode, offset, written as u64).await;
                    }
                    WriteAt::End => caches.written_beside(inode, 0, u64::MAX).await,
                }
                // O_SYNC has the bit of O_DSYNC and one more.
                match flags & libc::O_SYNC {
                    0 => {}
                    libc::O_DSYNC => client.fdatasync(&handle).await?,
                    _ => client.fsync(&handle).await?,
                }
            }
            Ok(written as u32)
        };
        self.change_data(request, reply, work, |reply, written| {
            reply.written(written)
        });
    }

    pub(super) fn start_fsync(
        &self,
        request: &Request,
        handle: Result<Handle>,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        let client = self.client.clone();
        let work = async move {
            match data_only {
                true => client.fdatasync(&handle?).await,
                false => client.fsync(&handle?).await,
            }
        };
        self.change_data(request, reply, work, |reply, ()| reply.ok());
    }

    pub(super) fn start_allocate(
        &self,
        request: &Request,
        handle: Result<Handle>,
        (offset, len): (u64, u64),
        mode: i32,
        reply: ReplyEmpty,
    ) {
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        const HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
        const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
        const ZERO_KEEP: i32 = ZERO | KEEP;
        let (client, caches) = (self.client.clone(), self.caches.clone());
        let looked = Arc::default();
        let writer = writer(request, &looked);
        let work = async move {
            let handle = handle?;
            client.drop_privileges(handle.inode(), &writer).await?;
            if looked.load(Ordering::Relaxed) {
                caches.forget_attr(handle.inode());
            }
            let range = Allocate {
                offset,
                len,
                keep_size: mode & KEEP != 0,
            };
            match mode {
                0 | KEEP => client.allocate(&handle, range, Fill::Room).await,
                HOLE => client.punch(&handle, range).await,
                ZERO | ZERO_KEEP => {
                    client.allocate(&handle, range, Fill::Zeros).await?;
                    caches.written_beside(handle.inode(), offset, len).await;
                    Ok(())
                }
                _ => Err(Error::from(ErrorCode::Unsupported)),
            }
        };
        self.change_data(request, reply, work, |reply, ()| reply.ok());
    }

    /// SEEK_DATA and SEEK_HOLE; the kernel does the others by itself.
    pub(super) fn start_seek(
        &self,
        request: &Request,
        handle: Result<Handle>,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let (client, caches) = (self.client.clone(), self.caches.clone());
        let work = async move {
            let handle = handle?;
            let seek = match whence {
                libc::SEEK_DATA => Seek::Data,
                libc::SEEK_HOLE => Seek::Hole,
                _ => return Err(Error::from(ErrorCode::InvalidArgument)),
            };
            let offset = u64::try_from(offset).map_err(|_| Error::from(ErrorCode::NoData))?;
            if client.may_have_stored(&handle) {
                caches.write_out(handle.inode()).await;
            }
            client.seek(&handle, offset, seek).await
        };
        self.change_data(request, reply, work, |reply, found| {
            reply.offset(i64::try_from(found).unwrap_or(i64::MAX));
        });
    }
}
