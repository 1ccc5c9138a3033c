//! Attributes: getattr, setattr, statfs.

use super::caller;
use super::convert;
use super::privileges::writer;
use super::serve::Adapter;
use crate::client::{AttrAnswer, Client};
use dfs_proto::attr::{SetAttr, SetTime};
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::InodeId;
use fuser::{FileHandle, INodeNo, ReplyAttr, ReplyStatfs, Request, TimeOrNow};
use std::sync::Arc;
use std::time::Duration;

const STATFS_BLOCK_BYTES: u32 = 4096;

/// What a SETATTR is to change; `None` leaves it as it is.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) size: Option<u64>,
    pub(super) accessed: Option<TimeOrNow>,
    pub(super) modified: Option<TimeOrNow>,
}

impl Wanted {
    /// All but the size.
    fn attributes(&self) -> SetAttr {
        SetAttr {
            mode: self.mode.map(convert::permission_bits),
            uid: self.uid,
            gid: self.gid,
            accessed: self.accessed.map(convert::set_time),
            // A truncation sets the time by itself; the kernel says so again.
            modified: self
                .modified
                .map(convert::set_time)
                .filter(|time| self.size.is_none() || *time != SetTime::Now),
        }
    }
}

/// So long umount(8) waits for what it asks of the mounted dir while the directory is away.
const UMOUNT_PATIENCE: Duration = Duration::from_secs(2);

/// Ends when `thread` is umount(8), which looks at the mounted dir before it unmounts, and the
/// directory does not answer: it goes on without the answer, and must not wait for it.
async fn given_up_by_umount(client: Client, thread: u32) {
    loop {
        tokio::time::sleep(UMOUNT_PATIENCE).await;
        if !client.is_linked() && caller::is_named(thread, "umount") {
            return;
        }
    }
}

impl Adapter {
    /// Answers with attributes.
    pub(super) fn attr(&self) -> impl FnOnce(ReplyAttr, AttrAnswer) + Send + 'static {
        let (client, caches) = (self.client.clone(), self.caches.clone());
        move |reply, answer| caches.reply_attr(&client, reply, &answer)
    }

    pub(super) fn start_getattr(&self, request: &Request, ino: InodeId, reply: ReplyAttr) {
        let (client, caches) = (self.client.clone(), self.caches.clone());
        if let Some(kept) = client.attr_kept(ino) {
            return caches.reply_attr(&client, reply, &kept);
        }
        let mounted_dir = ino == self.root.dir();
        let unmounting = given_up_by_umount(client.clone(), request.pid());
        let attributes = async move {
            loop {
                let answer = match client.getattr(ino).await {
                    // The directory keeps no dirs for those who have them open.
                    Err(e) if e.code == ErrorCode::Stale => {
                        let removed = caches.open_dirs.removed(ino, client.time()).ok_or(e)?;
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
        let work = async move {
            tokio::select! {
                answer = attributes => answer,
                () = unmounting, if mounted_dir => Err(Error::from(ErrorCode::Disconnected)),
            }
        };
        self.query(request, reply, work, self.attr());
    }

    pub(super) fn start_setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: Option<FileHandle>,
        wanted: &Wanted,
        reply: ReplyAttr,
    ) {
        let (client, caches, ino) = (self.client.clone(), self.caches.clone(), self.inode(ino));
        let (set, size) = (wanted.attributes(), wanted.size);
        let handle = handle.map(|fh| self.file(fh)).transpose();
        let writer = writer(request, &Arc::default());
        let work = async move {
            let handle = handle?;
            if size.is_some() {
                // The kernel says most of it in the mode, but not all.
                client.drop_privileges(ino, &writer).await?;
            }
            let answer = client.setattr(ino, handle.as_ref(), set, size).await?;
            if let Some(size) = size {
                // Not waited for: until this is answered the kernel writes no page of the inode
                // out, and to drop one that was stored into it has to. What is behind the new end it
                // drops by itself when it has the answer.
                tokio::spawn(async move {
                    caches.written_beside(ino, size, u64::MAX - size).await;
                });
            }
            Ok(answer)
        };
        self.change_cached(request, reply, vec![ino], work, self.attr());
    }

    pub(super) fn start_statfs(&self, request: &Request, reply: ReplyStatfs) {
        let client = self.client.clone();
        let unmounting = given_up_by_umount(client.clone(), request.pid());
        let work = async move {
            tokio::select! {
                answer = client.statfs() => answer,
                () = unmounting => Err(Error::from(ErrorCode::Disconnected)),
            }
        };
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
}
