//! An open dir: what a page of the directory holds and the kernel's buffer had no room for is
//! kept for the kernel's next request, which goes on where the last one ended.

use crate::client::Client;
use dfs_proto::error::Result;
use dfs_proto::ids::InodeId;
use dfs_proto::msg::namespace::DirPageEntry;

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

pub(super) fn cookie(entry: &DirPageEntry) -> u64 {
    match entry {
        DirPageEntry::SelfDir { .. } => SELF_COOKIE,
        DirPageEntry::Parent { .. } => PARENT_COOKIE,
        DirPageEntry::Entry(entry) => entry.cookie,
    }
}

impl Listing {
    pub(super) fn new(dir: InodeId) -> Self {
        Self { dir, page: Vec::new(), next: 0, at: 0, with_attr: false, end: false }
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
            let page = client.readdir(self.dir, self.at, PAGE_ENTRIES, with_attr).await?;
            // A page of nothing that claims to go on would be asked for again for ever.
            self.end = page.end || page.entries.is_empty();
            self.page = page.entries;
            self.next = 0;
            self.with_attr = with_attr;
        }
    }
}
