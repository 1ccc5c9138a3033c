//! Names and attributes. The directory is asked every time; size and times of inodes that this
//! mount holds a lease of are its own.

use super::call::Wait;
use super::clock;
use super::core::Core;
use super::inode::IDLE_KEPT;
use super::lease::Held;
use super::types::{AttrAnswer, Created, OpenMode};
use dfs_proto::attr::{FileAttr, FileKind, SetAttr, StatFs};
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::InodeId;
use dfs_proto::msg::namespace::{
    Creator, DirPage, DirPageEntry, GetAttr, GetStatFs, Lookup, Mutation, ReadDir, ReadLink,
};
use dfs_proto::msg::session::LeaseGrant;
use dfs_proto::name::FileName;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What was held of an inode when a question about it was sent.
#[derive(Clone, Copy, Debug)]
struct Asked {
    at: u64,
}

impl Asked {
    fn now() -> Self {
        Self { at: clock::now() }
    }
}

impl Core {
    pub(super) async fn lookup(
        self: &Arc<Self>,
        parent: InodeId,
        name: Option<FileName>,
    ) -> Result<AttrAnswer> {
        let asked = Asked::now();
        let (attr, _) = self
            .ask(Wait::Long, |session| Lookup {
                session,
                parent,
                name: name.clone(),
            })
            .await?;
        self.present(attr, asked).await
    }

    pub(super) async fn getattr(self: &Arc<Self>, inode: InodeId) -> Result<AttrAnswer> {
        loop {
            let asked = Asked::now();
            let (attr, _) = self
                .ask(Wait::Long, |session| GetAttr { session, inode })
                .await?;
            if let Some(answer) = self.merge(attr, asked).await? {
                return Ok(answer);
            }
        }
    }

    pub(super) async fn attr_of(self: &Arc<Self>, inode: InodeId) -> Result<FileAttr> {
        Ok(self.getattr(inode).await?.attr)
    }

    /// Attributes that came with an answer, as they are at this mount now.
    async fn present(self: &Arc<Self>, attr: FileAttr, asked: Asked) -> Result<AttrAnswer> {
        match self.merge(attr, asked).await? {
            Some(answer) => Ok(answer),
            None => self.getattr(attr.inode).await,
        }
    }

    /// The mount's own size and times over the directory's attributes. `None`: a lease was lost
    /// while they were on their way; they may be older than what this mount wrote.
    async fn merge(&self, attr: FileAttr, asked: Asked) -> Result<Option<AttrAnswer>> {
        let unprotected = AttrAnswer {
            attr,
            ttl: Duration::ZERO,
        };
        if attr.kind != FileKind::Regular {
            return Ok(Some(unprotected));
        }
        let Some(inode) = self.inodes.get(attr.inode) else {
            // Nothing was forgotten in so short a time.
            let young = clock::elapsed(asked.at) < IDLE_KEPT / 2;
            return Ok(young.then_some(unprotected));
        };
        // Kernel caches of a lost right must be empty before attributes make them look valid.
        inode
            .until(|state| (state.kernel_stale == 0).then_some(()))
            .await;
        self.right().await?;
        let state = inode.state();
        if state.lost_at >= asked.at {
            return Ok(None);
        }
        let held_since_then = state.lease.settled().is_some() && state.granted_at < asked.at;
        Ok(Some(AttrAnswer {
            attr: state.over(&attr),
            ttl: if held_since_then {
                self.right_left()
            } else {
                Duration::ZERO
            },
        }))
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
    ) -> Result<DirPage> {
        let asked = self.ask(Wait::Short, |_| ReadDir {
            inode,
            cookie,
            entries_max,
            with_attr,
        });
        let (mut page, _) = asked.await?;
        for entry in &mut page.entries {
            if let DirPageEntry::Entry(entry) = entry
                && let Some(attr) = &mut entry.attr
                && let Some(inode) = self.inodes.get(entry.inode)
            {
                *attr = inode.state().over(attr);
            }
        }
        Ok(page)
    }

    pub(super) async fn space(&self) -> Result<StatFs> {
        Ok(self.ask(Wait::Short, |_| GetStatFs).await?.0)
    }

    /// A change of names, in the background: a caller that goes away leaves it running, so that
    /// its outcome is defined. Answers with the inode's attributes, if it has some.
    pub(super) async fn change(self: &Arc<Self>, mutation: Mutation) -> Result<Option<AttrAnswer>> {
        let core = self.clone();
        let changed = self.names.spawn(async move {
            let asked = Asked::now();
            let (mutated, _) = core.mutate(mutation).await?;
            match mutated.attr {
                Some(attr) => core.present(attr, asked).await.map(Some),
                None => Ok(None),
            }
        });
        let result = changed.await;
        result.unwrap_or_else(|e| Err(Error::new(ErrorCode::Internal, e.to_string())))
    }

    /// Attributes other than the size. What is unpushed goes first, so that times that are set
    /// now are not overwritten by an earlier write's.
    pub(super) async fn set_attr(
        self: &Arc<Self>,
        id: InodeId,
        set: SetAttr,
    ) -> Result<AttrAnswer> {
        if set == SetAttr::default() {
            return self.getattr(id).await;
        }
        if let Some(inode) = self.inodes.get(id) {
            self.push(&inode).await?;
        }
        let changed = self.change(Mutation::SetAttr { inode: id, set }).await?;
        let answer = expect_attr(changed, id)?;
        if let Some(inode) = self.inodes.get(id)
            && let Some(data) = &mut inode.state().data
        {
            data.learn(&answer.attr);
        }
        Ok(answer)
    }

    pub(super) async fn create(
        self: &Arc<Self>,
        parent: InodeId,
        name: FileName,
        mode: u16,
        creator: Creator,
        exclusive: bool,
        open: OpenMode,
    ) -> Result<Created> {
        let core = self.clone();
        let created = self.names.spawn(async move {
            let mutation = Mutation::Create {
                parent,
                name,
                mode,
                creator,
                exclusive,
            };
            core.create_now(mutation, open).await
        });
        let result = created.await;
        result.unwrap_or_else(|e| Err(Error::new(ErrorCode::Internal, e.to_string())))
    }

    async fn create_now(self: &Arc<Self>, mutation: Mutation, mode: OpenMode) -> Result<Created> {
        let asked = Asked::now();
        let lapses = self.lapses.load(Ordering::SeqCst);
        let (mutated, up) = self.mutate(mutation).await?;
        let attr = mutated.attr.ok_or_else(|| {
            Error::new(
                ErrorCode::Internal,
                "a create was answered without attributes",
            )
        })?;
        let inode = self.inodes.entry(attr.inode);
        // The directory has recorded an open of the session. For a file that was there before, a
        // close of an earlier open may have come behind that: then it is asked for again.
        let handle = if mutated.created {
            inode.state().open_in(up.session.life);
            self.opened(&inode, mode)
        } else {
            self.open_now(attr.inode, mode).await?
        };
        if let Some(grant) = &mutated.lease {
            self.accept_created(&handle.0.inode, grant, &up, lapses, mutated.created)
                .await;
        }
        let answer = self.present(attr, asked).await?;
        Ok(Created {
            handle,
            attr: answer,
            created: mutated.created,
        })
    }

    async fn accept_created(
        &self,
        inode: &super::inode::Inode,
        grant: &LeaseGrant,
        up: &super::link::Up,
        lapses: u64,
        created: bool,
    ) {
        let accepted = self.accept_grant(inode, grant, up, lapses).await;
        let mut state = inode.state();
        let held = state.lease.held();
        if accepted && created && held.map(|h: Held| h.grant) == Some(grant.grant) {
            // Nobody can have written a file that was not there.
            state.others_synced = true;
        }
    }
}

pub(super) fn expect_attr(answer: Option<AttrAnswer>, inode: InodeId) -> Result<AttrAnswer> {
    answer.ok_or_else(|| {
        Error::new(
            ErrorCode::Internal,
            format!("{inode}: a change was answered without attributes"),
        )
    })
}
