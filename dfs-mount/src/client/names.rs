//! Questions about names and attributes: answered from what is kept under a right, else by the
//! directory. What the directory answers is kept as its answer allows; size and times of inodes
//! that this mount holds the exclusive lease of are its own.

use super::call::Wait;
use super::clock;
use super::core::Core;
use super::dir_cache::Name;
use super::guard::lock;
use super::inode::IDLE_KEPT;
use super::lease_use::Since;
use super::link::Up;
use super::types::{AttrAnswer, AttrRight, EntryAnswer, Listed, ListedEntry};
use dfs_proto::attr::{FileAttr, FileKind, Keep, StatFs};
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::InodeId;
use dfs_proto::limits::DIR_CHANGES_MAX;
use dfs_proto::msg::callback::NamesChanged;
use dfs_proto::msg::namespace::{
    DirPage, DirPageEntry, GetAttr, GetStatFs, Lookup, ReadDir, ReadLink, Seen,
};
use dfs_proto::msg::session::{LeaseGrant, LeaseKind};
use dfs_proto::name::FileName;
use std::sync::Arc;
use std::time::Duration;

impl Core {
    /// What is kept of a name and of the inode behind it, if that is everything.
    pub(super) fn lookup_kept(&self, parent: InodeId, name: &FileName) -> Option<EntryAnswer> {
        if self.right_left().is_zero() {
            return None;
        }
        let (is, asked) = lock(&self.dirs).name(parent, name);
        let found = match is {
            Name::Is(inode) => Some(self.attr_kept(inode)?),
            Name::Absent => None,
            Name::Unknown => return None,
        };
        Some(EntryAnswer {
            found,
            names: Some((parent, asked)),
        })
    }

    /// What is kept of an inode's attributes.
    pub(super) fn attr_kept(&self, id: InodeId) -> Option<AttrAnswer> {
        if self.right_left().is_zero() {
            return None;
        }
        if let Some((attr, asked)) = lock(&self.dirs).attr(id) {
            return Some(AttrAnswer::new(attr, AttrRight::Dir(asked)));
        }
        let asked = self.attr_changes.load(std::sync::atomic::Ordering::SeqCst);
        let inode = self.inodes.get(id)?;
        let (attr, era, stored) = {
            let mut state = inode.state();
            let attr = state.known_attr()?;
            state.used_at = clock::now();
            let stored = state.stored.total(attr.layout, attr.size);
            (attr, state.lease.era(), stored)
        };
        let mut answer = AttrAnswer::new(attr, AttrRight::Lease { inode, era, asked });
        answer.stored = answer.stored.or(stored);
        Some(answer)
    }

    pub(super) async fn lookup(
        self: &Arc<Self>,
        parent: InodeId,
        name: Option<FileName>,
    ) -> Result<EntryAnswer> {
        if let Some(kept) = name.as_ref().and_then(|n| self.lookup_kept(parent, n)) {
            return Ok(kept);
        }
        let since = self.since();
        let (answer, up) = self
            .ask(Wait::Long, |session| Lookup {
                session,
                parent,
                name: name.clone(),
            })
            .await?;
        let mut names = None;
        if let Some(name) = name
            && answer.names
            && self.grants(&up, since)
        {
            let is = answer
                .seen
                .map_or(Name::Absent, |seen| Name::Is(seen.attr.inode));
            let mut dirs = lock(&self.dirs);
            if dirs.granted(parent, since.names) {
                dirs.learn_name(parent, name, is, since.names);
                names = Some((parent, since.names));
            }
        }
        let found = match answer.seen {
            Some(seen) => Some(self.present(seen, since, &up).await?),
            None => None,
        };
        Ok(EntryAnswer { found, names })
    }

    /// Passes an outcome on. An inode that the directory does not have any more has no name: the
    /// kernel looks once more, and is to find that.
    pub(super) fn unless_stale<T>(&self, inode: InodeId, outcome: Result<T>) -> Result<T> {
        if outcome.as_ref().is_err_and(|e| e.code == ErrorCode::Stale) {
            lock(&self.dirs).unlearn_inode(inode);
        }
        outcome
    }

    pub(super) async fn getattr(self: &Arc<Self>, inode: InodeId) -> Result<AttrAnswer> {
        let outcome = self.getattr_now(inode).await;
        self.unless_stale(inode, outcome)
    }

    async fn getattr_now(self: &Arc<Self>, inode: InodeId) -> Result<AttrAnswer> {
        loop {
            if let Some(kept) = self.attr_kept(inode) {
                return Ok(kept);
            }
            let since = self.since();
            let (seen, up) = self
                .ask(Wait::Long, |session| GetAttr { session, inode })
                .await?;
            if let Some(answer) = self.take_seen(seen, since, &up).await? {
                return Ok(answer);
            }
        }
    }

    pub(super) async fn attr_of(self: &Arc<Self>, inode: InodeId) -> Result<FileAttr> {
        Ok(self.getattr(inode).await?.attr)
    }

    /// Attributes that came with an answer, as they are at this mount now.
    pub(super) async fn present(
        self: &Arc<Self>,
        seen: Seen,
        since: Since,
        up: &Up,
    ) -> Result<AttrAnswer> {
        match self.take_seen(seen, since, up).await? {
            Some(answer) => Ok(answer),
            None => self.getattr(seen.attr.inode).await,
        }
    }

    /// Takes attributes and the right that came with them. `None`: a lease was lost or this mount
    /// changed them while they were on their way; they may be older than what this mount did.
    async fn take_seen(&self, seen: Seen, since: Since, up: &Up) -> Result<Option<AttrAnswer>> {
        self.take_right(seen, since, up).await;
        let attr = seen.attr;
        if attr.kind == FileKind::Dir {
            return Ok(Some(self.dir_answer(seen, since)));
        }
        let Some(inode) = self.inodes.get(attr.inode) else {
            // Nothing was forgotten in so short a time.
            let young = clock::elapsed(since.at) < IDLE_KEPT / 2;
            return Ok(young.then_some(AttrAnswer::unprotected(attr)));
        };
        // Kernel caches of a lost right must be empty before attributes make them look valid.
        inode
            .until(|state| (state.kernel_stale == 0).then_some(()))
            .await;
        self.right().await?;
        Ok(self.file_answer(attr, since))
    }

    /// The right that came with attributes.
    async fn take_right(&self, seen: Seen, since: Since, up: &Up) {
        let Seen { attr, keep } = seen;
        match keep {
            Keep::Nothing => {}
            Keep::Dir => {
                if self.grants(up, since) {
                    lock(&self.dirs).granted(attr.inode, since.names);
                }
            }
            Keep::Lease { grant, map_version } => {
                let grant = LeaseGrant {
                    grant,
                    kind: LeaseKind::Shared,
                    attr,
                    map_version,
                    contended: false,
                };
                let inode = self.inodes.entry(attr.inode);
                self.accept_grant(&inode, &grant, up, since).await;
            }
        }
    }

    fn dir_answer(&self, Seen { attr, keep }: Seen, since: Since) -> AttrAnswer {
        if keep != Keep::Dir {
            // Nor under a right that another answer has brought: this one may be older.
            return AttrAnswer::unprotected(attr);
        }
        let mut dirs = lock(&self.dirs);
        dirs.learn_attr(&attr, since.names);
        let right = match dirs.may_keep(attr.inode, since.names) {
            true => AttrRight::Dir(since.names),
            false => AttrRight::None,
        };
        AttrAnswer::new(attr, right)
    }

    /// `None`: as in `take_seen`.
    fn file_answer(&self, attr: FileAttr, since: Since) -> Option<AttrAnswer> {
        let Some(inode) = self.inodes.get(attr.inode) else {
            return Some(AttrAnswer::unprotected(attr));
        };
        let mut state = inode.state();
        if state.lost_at >= since.at || !state.is_quiet_since(since.attrs) {
            return None;
        }
        // A lease that came while the question was under way may be younger than the answer; the
        // one that came with the answer is not, but has brought its attributes along.
        let held = state.lease.settled().is_some() && state.kernel_stale == 0;
        if held && state.granted_at < since.at {
            state.learn(&attr, since.attrs);
        }
        let attr = match state.known_attr() {
            Some(known) => known,
            None => state.over(&attr),
        };
        let known = state.known_attr().is_some();
        let stored = known.then(|| state.stored.total(attr.layout, attr.size));
        let era = state.lease.era();
        drop(state);
        let right = match known {
            true => AttrRight::Lease {
                inode,
                era,
                asked: since.attrs,
            },
            false => AttrRight::None,
        };
        let mut answer = AttrAnswer::new(attr, right);
        answer.stored = answer.stored.or(stored.flatten());
        Some(answer)
    }

    /// How long the kernel may serve these attributes from its cache, from now on. The caller sees
    /// to it that no recall begins before they are handed over (see `KernelCache`).
    pub(super) fn attr_ttl(&self, answer: &AttrAnswer) -> Duration {
        if answer.stored.is_none() {
            return Duration::ZERO;
        }
        let protected = match &answer.right {
            AttrRight::None => false,
            AttrRight::Dir(asked) => lock(&self.dirs).may_keep(answer.attr.inode, *asked),
            AttrRight::Lease { inode, era, asked } => {
                let state = inode.state();
                state.lease.is_valid(*era)
                    && state.lease.settled().is_some()
                    && state.kernel_stale == 0
                    && state.is_quiet_since(*asked)
            }
        };
        match protected {
            true => self.right_left(),
            false => Duration::ZERO,
        }
    }

    /// The same for a name.
    pub(super) fn entry_ttl(&self, answer: &EntryAnswer) -> Duration {
        match answer.names {
            Some((dir, asked)) if lock(&self.dirs).may_keep(dir, asked) => self.right_left(),
            _ => Duration::ZERO,
        }
    }

    pub(super) async fn readlink(&self, inode: InodeId) -> Result<Vec<u8>> {
        let asked = self.ask(Wait::Short, |_| ReadLink { inode });
        Ok(asked.await?.0)
    }

    pub(super) async fn readdir(
        &self,
        inode: InodeId,
        cookie: u64,
        entries_max: u32,
        with_attr: bool,
    ) -> Result<Listed> {
        let since = self.since();
        let asked = self.ask(Wait::Short, |session| ReadDir {
            session,
            inode,
            cookie,
            entries_max,
            with_attr,
        });
        let (page, up) = asked.await?;
        let names = self.keep_page(inode, cookie, &page, since, &up);
        let mut entries = Vec::with_capacity(page.entries.len());
        for entry in page.entries {
            let answer = match &entry {
                DirPageEntry::Entry(listed) => match listed.attr {
                    Some(attr) => {
                        let seen = Seen {
                            attr,
                            keep: listed.keep,
                        };
                        self.take_right(seen, since, &up).await;
                        Some(EntryAnswer {
                            found: self.listed_answer(seen, since),
                            names,
                        })
                    }
                    None => None,
                },
                _ => None,
            };
            entries.push(ListedEntry { entry, answer });
        }
        Ok(Listed {
            entries,
            end: page.end,
        })
    }

    /// In a listing attributes may be old, as long as the kernel does not keep them.
    fn listed_answer(&self, seen: Seen, since: Since) -> Option<AttrAnswer> {
        let attr = seen.attr;
        if attr.kind == FileKind::Dir {
            return Some(self.dir_answer(seen, since));
        }
        let old = AttrAnswer::unprotected(attr);
        Some(self.file_answer(attr, since).unwrap_or(old))
    }

    /// Keeps the names of a page.
    fn keep_page(
        &self,
        dir: InodeId,
        cookie: u64,
        page: &DirPage,
        since: Since,
        up: &Up,
    ) -> Option<(InodeId, super::dir_cache::Asked)> {
        if !page.names || !self.grants(up, since) {
            return None;
        }
        let mut dirs = lock(&self.dirs);
        if !dirs.granted(dir, since.names) {
            return None;
        }
        let mut last = cookie;
        for entry in &page.entries {
            if let DirPageEntry::Entry(entry) = entry {
                let is = Name::Is(entry.inode);
                dirs.learn_name(dir, entry.name.clone(), is, since.names);
                last = entry.cookie;
            }
        }
        dirs.learn_page(dir, cookie, last, page.end, since.names);
        Some((dir, since.names))
    }

    /// Another mount has changed names: they are forgotten here, then in the kernel.
    pub(super) async fn names_changed(&self, news: NamesChanged) -> Result<()> {
        if news.changes.len() > DIR_CHANGES_MAX {
            let what = format!("news of {} dirs at once", news.changes.len());
            return Err(Error::new(ErrorCode::InvalidArgument, what));
        }
        {
            let mut dirs = lock(&self.dirs);
            for change in &news.changes {
                dirs.changed(change.dir, &change.names, change.keep);
            }
        }
        for change in news.changes {
            self.kernel.drop_names(change.dir, change.names).await;
        }
        Ok(())
    }

    pub(super) async fn space(&self) -> Result<StatFs> {
        Ok(self.ask(Wait::Short, |_| GetStatFs).await?.0)
    }
}
