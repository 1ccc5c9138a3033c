//! Names: looking them up, making, moving and removing them.

use super::convert;
use super::serve::Adapter;
use crate::client::EntryAnswer;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::InodeId;
use dfs_proto::msg::namespace::{Creator, RenameFlags};
use dfs_proto::name::FileName;
use fuser::{INodeNo, ReplyEmpty, ReplyEntry, Request};
use std::ffi::OsStr;
use std::future::Future;
use std::os::unix::ffi::OsStrExt;

/// A name in a dir, as the kernel gives it.
pub(super) type Place<'a> = (INodeNo, &'a OsStr);

/// Who makes something, by a request.
pub(super) fn creator(request: &Request, umask: u32) -> Creator {
    Creator {
        uid: request.uid(),
        gid: request.gid(),
        umask: (umask & 0o777) as u16,
    }
}

impl Adapter {
    /// Answers with a name.
    fn entry(&self) -> impl FnOnce(ReplyEntry, EntryAnswer) + Send + 'static {
        let (client, caches) = (self.client.clone(), self.caches.clone());
        move |reply, answer| caches.reply_entry(&client, reply, &answer)
    }

    pub(super) fn start_lookup(&self, request: &Request, at: Place<'_>, reply: ReplyEntry) {
        let (client, parent) = (self.client.clone(), self.inode(at.0));
        // Also asked for by NFS export: `..` is no name but a question for the parent.
        let name = match at.1.as_bytes() {
            // What is above the mounted dir is not mounted.
            b".." if parent == self.root.dir() => Err(Error::from(ErrorCode::Stale)),
            b".." => Ok(None),
            _ => convert::name(at.1).map(Some),
        };
        if let Ok(Some(name)) = &name
            && let Some(kept) = client.lookup_kept(parent, name)
        {
            return self.caches.reply_entry(&client, reply, &kept);
        }
        let work = async move { client.lookup(parent, name?).await };
        self.query(request, reply, work, self.entry());
    }

    /// A new name; `make` is given the dir and the name.
    fn start_making<F>(
        &self,
        request: &Request,
        (parent, name): Place<'_>,
        reply: ReplyEntry,
        make: impl FnOnce(InodeId, FileName) -> F + Send + 'static,
    ) where
        F: Future<Output = Result<EntryAnswer>> + Send + 'static,
    {
        let parent = self.inode(parent);
        self.caches.told.dir_locked(parent);
        let name = convert::name(name);
        let work = async move { make(parent, name?).await };
        self.change_cached(request, reply, vec![parent], work, self.entry());
    }

    pub(super) fn start_mknod(
        &self,
        request: &Request,
        at: Place<'_>,
        (mode, device): (u32, u32),
        creator: Creator,
        reply: ReplyEntry,
    ) {
        let client = self.client.clone();
        self.start_making(request, at, reply, move |parent, name| async move {
            let kind = convert::kind_of_mode(mode).ok_or(ErrorCode::InvalidArgument)?;
            let (mode, device) = (convert::permission_bits(mode), u64::from(device));
            client
                .mknod(parent, name, kind, mode, device, creator)
                .await
        });
    }

    pub(super) fn start_mkdir(
        &self,
        request: &Request,
        at: Place<'_>,
        mode: u32,
        creator: Creator,
        reply: ReplyEntry,
    ) {
        let (client, mode) = (self.client.clone(), convert::permission_bits(mode));
        self.start_making(request, at, reply, move |parent, name| async move {
            client.mkdir(parent, name, mode, creator).await
        });
    }

    pub(super) fn start_symlink(
        &self,
        request: &Request,
        at: Place<'_>,
        target: Vec<u8>,
        reply: ReplyEntry,
    ) {
        let (client, creator) = (self.client.clone(), creator(request, 0));
        self.start_making(request, at, reply, move |parent, name| async move {
            client.symlink(parent, name, target, creator).await
        });
    }

    pub(super) fn start_link(
        &self,
        request: &Request,
        ino: INodeNo,
        to: Place<'_>,
        reply: ReplyEntry,
    ) {
        self.caches.told.dir_locked(self.inode(to.0));
        let (client, ino, parent) = (self.client.clone(), self.inode(ino), self.inode(to.0));
        let name = convert::name(to.1);
        let work = async move { client.link(ino, parent, name?).await };
        self.change_cached(request, reply, vec![parent, ino], work, self.entry());
    }

    pub(super) fn start_unlink(&self, request: &Request, at: Place<'_>, reply: ReplyEmpty) {
        self.caches.told.dir_locked(self.inode(at.0));
        let (client, parent, uid) = (self.client.clone(), self.inode(at.0), request.uid());
        let name = convert::name(at.1);
        let work = async move { client.unlink(parent, name?, uid).await };
        self.change_cached(request, reply, vec![parent], work, |reply, ()| reply.ok());
    }

    pub(super) fn start_rmdir(&self, request: &Request, at: Place<'_>, reply: ReplyEmpty) {
        self.caches.told.dir_locked(self.inode(at.0));
        let (client, parent, uid) = (self.client.clone(), self.inode(at.0), request.uid());
        let name = convert::name(at.1);
        let work = async move { client.rmdir(parent, name?, uid).await };
        self.change_cached(request, reply, vec![parent], work, |reply, ()| reply.ok());
    }

    pub(super) fn start_rename(
        &self,
        request: &Request,
        from: Place<'_>,
        to: Place<'_>,
        flags: fuser::RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.caches.told.dir_locked(self.inode(from.0));
        self.caches.told.dir_locked(self.inode(to.0));
        let client = self.client.clone();
        let (parent, newparent, uid) = (self.inode(from.0), self.inode(to.0), request.uid());
        let (name, newname) = (convert::name(from.1), convert::name(to.1));
        let work = async move {
            let flags = rename_flags(flags)?;
            client
                .rename((parent, name?), (newparent, newname?), flags, uid)
                .await
        };
        let dirs = vec![parent, newparent];
        self.change_cached(request, reply, dirs, work, |reply, ()| reply.ok());
    }
}

/// RENAME_WHITEOUT is not known: what it leaves behind means something to overlayfs only.
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
