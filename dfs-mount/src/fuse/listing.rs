//! An open dir: what a page of the directory holds and the kernel's buffer had no room for is
//! kept for the kernel's next request, which goes on where the last one ended.

use super::adapter::{GENERATION, UNCONFIRMED_TTL};
use super::caller::Ends;
use super::convert;
use super::interrupt::until_interrupted;
use super::serve::{Adapter, INTERRUPTED, Refuse};
use crate::client::Client;
use dfs_proto::error::Result;
use dfs_proto::ids::InodeId;
use dfs_proto::msg::namespace::DirPageEntry;
use fuser::{Errno, FileHandle, FileType, INodeNo, ReplyDirectory, ReplyDirectoryPlus, Request};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

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
    page: Vec<DirPageEntry>,
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

    /// Hands entries after the cookie `from` to `add` until that returns true (full). A listing
    /// that starts over, or jumps, is read anew.
    pub(super) async fn fill(
        &mut self,
        client: &Client,
        from: u64,
        with_attr: bool,
        mut add: impl FnMut(&DirPageEntry) -> bool,
    ) -> Result<()> {
        if from == 0 || from != self.at || (with_attr && !self.with_attr) {
            self.page.clear();
            self.next = 0;
            self.at = from;
            self.end = false;
        }
        let mut added = false;
        loop {
            while let Some(entry) = self.page.get(self.next) {
                if add(entry) {
                    return Ok(());
                }
                added = true;
                self.at = cookie(entry);
                self.next += 1;
            }
            // What is there goes out before another page is asked for.
            if self.end || added {
                return Ok(());
            }
            let page = client
                .readdir(self.dir, self.at, PAGE_ENTRIES, with_attr)
                .await?;
            // A page of nothing that claims to go on would be asked for again for ever.
            self.end = page.end || page.entries.is_empty();
            self.page = page.entries;
            self.next = 0;
            self.with_attr = with_attr;
        }
    }
}

impl Adapter {
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
                let add = |entry: &DirPageEntry| {
                    let at = cookie(entry);
                    match entry {
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

    pub(super) fn start_listing_with_attr(
        &self,
        request: &Request,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (client, listing) = (self.client.clone(), self.handles.dir(fh.0));
        let thread = request.pid();
        self.client.names_runtime().spawn(async move {
            let Some(listing) = listing else {
                return reply.refuse(Errno::EBADF);
            };
            let work = async {
                let mut listing = listing.lock().await;
                let mut add = |number: InodeId, at, name: &OsStr, attr: &fuser::FileAttr| {
                    reply.add(
                        INodeNo(number.0),
                        at,
                        name,
                        &UNCONFIRMED_TTL,
                        attr,
                        GENERATION,
                    )
                };
                let add = |entry: &DirPageEntry| {
                    let at = cookie(entry);
                    match entry {
                        // The kernel takes no reference on these two.
                        DirPageEntry::SelfDir { inode } => {
                            add(*inode, at, ".".as_ref(), &convert::dir_placeholder(*inode))
                        }
                        DirPageEntry::Parent { inode } => {
                            add(*inode, at, "..".as_ref(), &convert::dir_placeholder(*inode))
                        }
                        DirPageEntry::Entry(e) => {
                            let name = OsStr::from_bytes(e.name.as_bytes());
                            match &e.attr {
                                Some(attr) => add(e.inode, at, name, &convert::attr(attr)),
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
}
