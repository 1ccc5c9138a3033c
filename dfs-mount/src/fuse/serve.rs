//! How a request is served: its reply is moved into a task, and a caller that is killed gets its
//! thread back within 100 ms. What it asked for and may have been applied goes on in the
//! background, so that its outcome is defined.

use super::caches::Caches;
use super::caller::Ends;
use super::convert;
use super::handles::Handles;
use super::interrupt::until_interrupted;
use super::locks::LockCalls;
use super::root::Root;
use crate::client::{Client, Handle};
use dfs_proto::eager::begin;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::InodeId;
use fuser::{
    Errno, FileHandle, INodeNo, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLock, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request,
};
use std::future::Future;
use std::sync::Arc;

/// The file system as the FUSE library sees it.
#[derive(Debug)]
pub(super) struct Adapter {
    pub(super) client: Client,
    pub(super) caches: Arc<Caches>,
    pub(super) handles: Arc<Handles>,
    pub(super) locks: LockCalls,
    pub(super) root: Root,
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
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEmpty,
    ReplyEntry,
    ReplyLock,
    ReplyLseek,
    ReplyOpen,
    ReplyStatfs,
    ReplyWrite,
    ReplyXattr
);

fn bad_handle() -> Error {
    Error::from(ErrorCode::BadHandle)
}

/// The caller died while it waited.
pub(super) const INTERRUPTED: Errno = Errno::EINTR;

impl Adapter {
    /// The inode that the kernel means.
    pub(super) fn inode(&self, number: INodeNo) -> InodeId {
        self.root.inode(number)
    }

    /// Answers with what `work` gives; `work` is dropped when the caller dies.
    pub(super) fn query<T, R: Refuse>(
        &self,
        request: &Request,
        reply: R,
        work: impl Future<Output = Result<T>> + Send + 'static,
        answer: impl FnOnce(R, T) + Send + 'static,
    ) {
        let thread = request.pid();
        self.client.names_runtime().spawn(async move {
            match until_interrupted(thread, Ends::Death, work).await {
                Ok(Ok(value)) => answer(reply, value),
                Ok(Err(e)) => reply.refuse(convert::errno(&e)),
                Err(_) => reply.refuse(INTERRUPTED),
            }
        });
    }

    /// As `finish`, for changes of names, attributes and locks.
    pub(super) fn change<T: Send + 'static, R: Refuse>(
        &self,
        request: &Request,
        reply: R,
        work: impl Future<Output = Result<T>> + Send + 'static,
        answer: impl FnOnce(R, T) + Send + 'static,
    ) {
        let thread = request.pid();
        self.client.names_runtime().spawn(async move {
            // What goes on without its caller needs nobody.
            drop(finish(thread, reply, work, answer).await);
        });
    }

    /// The same for changes of these inodes by name or number: should the caller die, its kernel
    /// takes them for unchanged, so what it has cached of them is dropped when they are done.
    pub(super) fn change_cached<T: Send + 'static, R: Refuse>(
        &self,
        request: &Request,
        reply: R,
        inodes: Vec<InodeId>,
        work: impl Future<Output = Result<T>> + Send + 'static,
        answer: impl FnOnce(R, T) + Send + 'static,
    ) {
        let (thread, caches) = (request.pid(), self.caches.clone());
        self.client.names_runtime().spawn(async move {
            if let Some(rest) = finish(thread, reply, work, answer).await {
                // Its end and its outcome don't matter here.
                let _ = rest.await;
                caches.take_back_all_names(inodes).await;
            }
        });
    }

    /// Answers with what `work` gives, for reads, writes and syncs; `work` goes on when the caller
    /// dies, and what it gives then is dropped.
    pub(super) fn change_data<T: Send + 'static, R: Refuse>(
        &self,
        request: &Request,
        reply: R,
        work: impl Future<Output = Result<T>> + Send + 'static,
        answer: impl FnOnce(R, T) + Send + 'static,
    ) {
        let thread = request.pid();
        self.begin_data(async move {
            let mut work = Box::pin(work);
            match until_interrupted(thread, Ends::Death, &mut work).await {
                Ok(Ok(value)) => answer(reply, value),
                Ok(Err(e)) => reply.refuse(convert::errno(&e)),
                Err(_) => {
                    reply.refuse(INTERRUPTED);
                    // What goes on without its caller needs nobody.
                    drop(work.await);
                }
            }
        });
    }

    /// Begins the service of a request for data on the thread that brought it: it is on its way to
    /// a file server before any other thread has to wake up, and goes on where the answer comes.
    pub(super) fn begin_data(&self, service: impl Future<Output = ()> + Send + 'static) {
        // Done at once or not: it has answered the kernel, or it will. So it does after a defect:
        // a reply that is dropped says EIO.
        let _ = begin(self.client.data_runtime(), service, |()| {});
    }

    pub(super) fn file(&self, number: FileHandle) -> Result<Handle> {
        self.handles.file(number.0).ok_or_else(bad_handle)
    }
}

/// Answers with what `work` gives; `work` goes on when the caller dies, and what it gives then is
/// dropped. Returns what goes on.
async fn finish<T: Send + 'static, R: Refuse>(
    thread: u32,
    reply: R,
    work: impl Future<Output = Result<T>> + Send + 'static,
    answer: impl FnOnce(R, T),
) -> Option<tokio::task::JoinHandle<Result<T>>> {
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
            return Some(work);
        }
    }
    None
}
