//! An open dir: what a page of the directory holds and the kernel's buffer had no room for is
//! kept for the kernel's next request, which goes on where the last one ended.

use super::caller::Ends;
use super::convert;
use super::entries::GENERATION;
use super::handles::Opened;
use super::interrupt::until_interrupted;
use super::serve::{Adapter, INTERRUPTED, Refuse};
use crate::client::{AttrAnswer, Client, ListedEntry};
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::InodeId;
use dfs_proto::msg::namespace::DirPageEntry;
use fuser::{
    Errno, FileHandle, FileType, FopenFlags, INodeNo, ReplyDirectory, ReplyDirectoryPlus,
    ReplyOpen, Request,
};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

/// Entries asked for at a time: a few of the kernel's buffers.
const PAGE_ENTRIES: u32 = 256;

/// Cookies of `.` and `..`.
const SELF_COOKIE: u64 = 1;
const PARENT_COOKIE: u64 = 2;

/// One open dir.
#[derive(Debug)]
pub(super) struct Listing {
    dir: InodeId,
    /// Entries that follow `at`, in order.
    page: Vec<ListedEntry>,
    next: usize,
    /// Cookie after which `page[next..]` goes on.
    at: u64,
    with_attr: bool,
    /// Nothing follows the page.
    end: bool,
}

fn cookie(entry: &DirPageEntry) -> u64 {
    match entry {
        DirPageEntry::SelfDir { .. } => SELF_COOKIE,
        DirPageEntry::Parent { .. } => PARENT_COOKIE,
        DirPageEntry::Entry(entry) => entry.cookie,
    }
}

impl Listing {
    pub(super) fn new(dir: InodeId) -> Self {
        Self {
            dir,
            page: Vec::new(),
            next: 0,
            at: 0,
            with_attr: false,
            end: false,
        }
    }

    /// Sees to it that what follows the cookie `from` is in the page, if anything does. A listing
    /// that starts over, or jumps, is read anew.
    async fn load(&mut self, client: &Client, from: u64, with_attr: bool) -> Result<()> {
        if from == 0 || from != self.at || (with_attr && !self.with_attr) {
            self.page.clear();
            self.next = 0;
            self.at = from;
            self.end = false;
        }
        if self.end || self.next < self.page.len() {
            return Ok(());
        }
        let page = client
            .readdir(self.dir, self.at, PAGE_ENTRIES, with_attr)
            .await
            .map_err(|e| match e.code {
                // Removed while it is open.
                ErrorCode::Stale => Error::from(ErrorCode::NotFound),
                _ => e,
            })?;
        // A page of nothing that claims to go on would be asked for again for ever.
        self.end = page.end || page.entries.is_empty();
        self.page = page.entries;
        self.next = 0;
        self.with_attr = with_attr;
        Ok(())
    }

    /// Hands entries of the page to `add` until that returns true (full). What is there goes out
    /// before another page is asked for.
    fn hand_out(&mut self, mut add: impl FnMut(&ListedEntry) -> bool) {
        while let Some(listed) = self.page.get(self.next) {
            if add(listed) {
                return;
            }
            self.at = cookie(&listed.entry);
            self.next += 1;
        }
    }
}

impl Adapter {
    pub(super) fn start_opendir(&self, request: &Request, dir: InodeId, reply: ReplyOpen) {
        let (handles, caches) = (self.handles.clone(), self.caches.clone());
        let opened = move |reply: ReplyOpen, known: AttrAnswer| {
            caches.open_dirs.opened(known.attr);
            let listing = Arc::new(tokio::sync::Mutex::new(Listing::new(dir)));
            let number = handles.insert(Opened::Dir(listing));
            reply.opened(FileHandle(number), FopenFlags::empty());
        };
        if let Some(kept) = self.client.attr_kept(dir) {
            return opened(reply, kept);
        }
        let client = self.client.clone();
        let work = async move { client.getattr(dir).await };
        self.query(request, reply, work, opened);
    }

    pub(super) fn start_listing(
        &self,
        request: &Request,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let (client, listing) = (self.client.clone(), self.handles.dir(fh.0));
        let thread = request.pid();
        self.client.names_runtime().spawn(async move {
            let Some(listing) = listing else {
                return reply.refuse(Errno::EBADF);
            };
            let work = async {
                let mut listing = listing.lock().await;
                listing.load(&client, offset, false).await?;
                Ok(listing)
            };
            let mut listing = match until_interrupted(thread, Ends::Death, work).await {
                Ok(Ok(listing)) => listing,
                Ok(Err(e)) => return reply.refuse(convert::errno(&e)),
                Err(_) => return reply.refuse(INTERRUPTED),
            };
            listing.hand_out(|listed| {
                let at = cookie(&listed.entry);
                match &listed.entry {
                    DirPageEntry::SelfDir { inode } => {
                        reply.add(INodeNo(inode.0), at, FileType::Directory, ".")
                    }
                    DirPageEntry::Parent { inode } => {
                        reply.add(INodeNo(inode.0), at, FileType::Directory, "..")
                    }
                    DirPageEntry::Entry(e) => reply.add(
                        INodeNo(e.inode.0),
                        at,
                        convert::file_type(e.kind),
                        OsStr::from_bytes(e.name.as_bytes()),
                    ),
                }
            });
            reply.ok();
        });
    }

    pub(super) fn start_listing_with_attr(
        &self,
        request: &Request,
        dir: InodeId,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (client, caches) = (self.client.clone(), self.caches.clone());
        let listing = self.handles.dir(fh.0);
        let thread = request.pid();
        self.client.names_runtime().spawn(async move {
            let Some(listing) = listing else {
                return reply.refuse(Errno::EBADF);
            };
            let work = async {
                let mut listing = listing.lock().await;
                listing.load(&client, offset, true).await?;
                Ok(listing)
            };
            let mut listing = match until_interrupted(thread, Ends::Death, work).await {
                Ok(Ok(listing)) => listing,
                Ok(Err(e)) => return reply.refuse(convert::errno(&e)),
                Err(_) => return reply.refuse(INTERRUPTED),
            };
            let _gate = caches.told.reply();
            let mut keeps = false;
            listing.hand_out(|listed| {
                let at = cookie(&listed.entry);
                let mut add = |number: InodeId, name: &OsStr, ttl, attr: &fuser::FileAttr| {
                    reply.add(INodeNo(number.0), at, name, &ttl, attr, GENERATION)
                };
                match &listed.entry {
                    // The kernel takes no reference on these two.
                    DirPageEntry::SelfDir { inode } => {
                        let attr = convert::dir_placeholder(*inode);
                        add(*inode, ".".as_ref(), Duration::ZERO, &attr)
                    }
                    DirPageEntry::Parent { inode } => {
                        let attr = convert::dir_placeholder(*inode);
                        add(*inode, "..".as_ref(), Duration::ZERO, &attr)
                    }
                    DirPageEntry::Entry(e) => {
                        let name = OsStr::from_bytes(e.name.as_bytes());
                        let answer = listed.answer.as_ref();
                        let Some((answer, found)) =
                            answer.zip(answer.and_then(|a| a.found.as_ref()))
                        else {
                            // Gone while the page was made: a lookup would not find it.
                            return false;
                        };
                        // Before the kernel can forget it.
                        caches.told.answered(e.inode);
                        let ttl = caches.common_ttl(&client, answer);
                        let full = add(e.inode, name, ttl, &convert::attr(found));
                        if full {
                            caches.told.forgotten(e.inode, 1);
                        }
                        keeps |= !full && !ttl.is_zero();
                        full
                    }
                }
            });
            if keeps {
                caches.told.listed(dir, fh.0);
            }
            reply.ok();
        });
    }
}
