//! Leases and opens as mounts ask for them.

use super::MountApi;
use super::core::{Remembered, SESSION_HOLDS_MAX};
use super::dispatch::Delivery;
use crate::lease::table::{Granted, Wanted};
use crate::namespace::NamespaceCommand;
use dfs_proto::attr::{FileAttr, FileKind};
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{GrantId, InodeId, SessionId};
use dfs_proto::msg::session::{
    AcquireLease, CloseInode, InodeOpened, LeaseGrant, LeaseKind, OpenInode, PushAttr, ReleaseLease,
};
use std::future::Future;

impl MountApi {
    pub(super) async fn acquire_lease(
        &self,
        request: AcquireLease,
        abandoned: impl Future<Output = ()>,
        delivery: &mut Delivery,
    ) -> Result<LeaseGrant> {
        let AcquireLease {
            session,
            inode,
            kind,
        } = request;
        let exclusive = kind == LeaseKind::Exclusive;
        let mut abandoned = std::pin::pin!(abandoned);
        tokio::select! {
            biased;
            waited = self.grace(session, inode, exclusive) => waited?,
            () = &mut abandoned => return Err(ErrorCode::Interrupted.into()),
        }
        if exclusive {
            self.ensure_interest(session, inode).await?;
        }
        let token = self.token();
        let wanted = Wanted::Lease(kind);
        let granted = self
            .wait_for(session, inode, wanted, token, abandoned)
            .await;
        match granted {
            Ok(Some(granted)) => self.grant_answer(session, inode, granted, delivery).await,
            Ok(None) => Err(Error::new(
                ErrorCode::Internal,
                "an operation instead of a lease",
            )),
            Err(e) => {
                self.core()
                    .interest
                    .maybe_unused(session, inode, self.now());
                Err(e)
            }
        }
    }

    /// The answer that carries a grant. Its attributes are read after the grant: from then on
    /// nobody else changes them.
    ///
    /// A recorded generation is given out only when its cut is made: a write of it that comes to
    /// a replica before the cut would keep what the cut is to remove. Who changes the size waits
    /// for its cut itself, but that wait ends with the directory's leader.
    pub(super) async fn grant_answer(
        &self,
        session: SessionId,
        inode: InodeId,
        granted: Granted,
        delivery: &mut Delivery,
    ) -> Result<LeaseGrant> {
        let attr = match self.settled_attr(inode).await {
            Ok(attr) if attr.kind != FileKind::Dir => attr,
            Ok(_) => {
                self.give_back(session, inode, granted);
                return Err(Error::new(
                    ErrorCode::IsADir,
                    format!("{inode}: no leases on dirs"),
                ));
            }
            Err(e) => {
                match e.code {
                    ErrorCode::Stale => self.give_back(session, inode, granted),
                    _ => self.answer_failed(session, inode, granted),
                }
                return Err(e);
            }
        };
        if self
            .alive(session)?
            .leases
            .holds(session, inode, granted.grant)
            .is_none()
        {
            // The session was silent meanwhile, and a shared lease has lapsed.
            return Err(Error::new(
                ErrorCode::StaleGrant,
                format!("{inode}: lapsed, ask again"),
            ));
        }
        delivery.0.push((session, inode, granted.grant));
        Ok(LeaseGrant {
            grant: granted.grant,
            kind: granted.kind,
            attr,
            map_version: self.placement().map().version,
            contended: granted.contended,
        })
    }

    /// The answers with these grants are on their way.
    pub(super) fn delivered(&self, delivery: Delivery) {
        if delivery.0.is_empty() {
            return;
        }
        let mut core = self.core();
        let mut effects = Vec::new();
        for (session, inode, grant) in delivery.0 {
            core.leases
                .delivered(self.now(), session, inode, grant, &mut effects);
        }
        self.carry_out(&mut core, effects);
    }

    /// An answer that carries a grant can't be made. Another one may carry the same grant to the
    /// same session, so it is not taken back: it is as if this one were lost on its way, and whoever
    /// needs the lease recalls it from a mount that may not know of it.
    pub(super) fn answer_failed(&self, session: SessionId, inode: InodeId, granted: Granted) {
        self.delivered(Delivery(vec![(session, inode, granted.grant)]));
    }

    pub(super) async fn release_lease(self, request: ReleaseLease) -> Result<()> {
        let ReleaseLease {
            stamp,
            inode,
            grant,
            push,
        } = request;
        let session = stamp.session;
        if let Some(push) = push {
            self.push_under(PushAttr {
                stamp,
                inode,
                grant,
                push,
            })
            .await?;
        }
        let mut core = self.alive(session)?;
        let mut effects = Vec::new();
        core.leases
            .release(self.now(), session, inode, grant, &mut effects);
        core.interest.maybe_unused(session, inode, self.now());
        self.carry_out(&mut core, effects);
        drop(core);
        self.changed();
        Ok(())
    }

    pub(super) async fn push_attr(self, request: PushAttr) -> Result<FileAttr> {
        self.push_under(request).await
    }

    async fn push_under(&self, request: PushAttr) -> Result<FileAttr> {
        let PushAttr {
            stamp,
            inode,
            grant,
            push,
        } = request;
        {
            let core = self.alive(stamp.session)?;
            if core.leases.holds(stamp.session, inode, grant) != Some(LeaseKind::Exclusive) {
                let what = format!("{grant} is not the exclusive lease of {inode} any more");
                return Err(Error::new(ErrorCode::StaleGrant, what));
            }
        }
        // Nothing is awaited in between: what is logged is logged under this grant.
        let changed = self
            .commit_namespace(NamespaceCommand::Push { stamp, inode, push })
            .await?;
        self.core().pushes += 1;
        changed.attr.ok_or_else(|| ErrorCode::Stale.into())
    }

    pub(super) async fn open_inode(self, request: OpenInode) -> (Result<InodeOpened>, Delivery) {
        let mut delivery = Delivery::default();
        let OpenInode {
            stamp,
            inode,
            lease,
        } = request;
        let opened = self
            .try_open(stamp.session, inode, lease, &mut delivery)
            .await;
        if let Err(e) = &opened
            && matches!(e.code, ErrorCode::Stale | ErrorCode::NotFound)
        {
            self.core().opens.close(stamp.session, inode);
        }
        (opened, delivery)
    }

    async fn try_open(
        &self,
        session: SessionId,
        inode: InodeId,
        lease: Option<LeaseKind>,
        delivery: &mut Delivery,
    ) -> Result<InodeOpened> {
        self.record_open(session, inode)?;
        self.grace(session, inode, false).await?;
        if let Some(kind) = lease
            && let Some(granted) = self.lease_at_once(session, inode, kind).await?
        {
            let grant = self.grant_answer(session, inode, granted, delivery).await?;
            return Ok(InodeOpened {
                attr: grant.attr,
                lease: Some(grant),
            });
        }
        let attr = self.true_attr(session, inode).await?;
        Ok(InodeOpened { attr, lease: None })
    }

    /// The session has the inode open from now on, unless it is being freed.
    pub(super) fn record_open(&self, session: SessionId, inode: InodeId) -> Result<()> {
        let mut core = self.alive(session)?;
        if core.freeing.contains(&inode) {
            return Err(Error::new(ErrorCode::Stale, format!("{inode} is gone")));
        }
        if core.opens.count(session) >= SESSION_HOLDS_MAX as u64 {
            let what = format!("{session} has too many files open");
            return Err(Error::new(ErrorCode::Overloaded, what));
        }
        core.opens.open(session, inode);
        Ok(())
    }

    /// A lease, if that needs no waiting for others.
    pub(super) async fn lease_at_once(
        &self,
        session: SessionId,
        inode: InodeId,
        kind: LeaseKind,
    ) -> Result<Option<Granted>> {
        if kind == LeaseKind::Exclusive {
            {
                let core = self.alive(session)?;
                let blocked = core.grace.blocks_exclusive(inode, self.now());
                if blocked || !core.leases.is_free_for(session, inode, kind) {
                    return Ok(None);
                }
            }
            self.ensure_interest(session, inode).await?;
        }
        let mut core = self.alive(session)?;
        let full = core.leases.held(session) >= SESSION_HOLDS_MAX;
        let granted = match full {
            true => None,
            false => core.leases.try_lease(session, inode, kind),
        };
        if granted.is_none() {
            core.interest.maybe_unused(session, inode, self.now());
        }
        Ok(granted)
    }

    pub(super) fn close_inode(&self, request: CloseInode) -> Result<()> {
        let CloseInode {
            stamp,
            inode,
            share,
        } = request;
        {
            let mut core = self.alive(stamp.session)?;
            let memory = &mut core.present(stamp.session)?.memory;
            if memory
                .recall(stamp.sequence, stamp.lowest_unanswered)?
                .is_some()
            {
                return Ok(());
            }
            memory.remember(stamp.sequence, Remembered::Done);
            if let Some(grant) = share {
                let mut effects = Vec::new();
                core.leases
                    .share(self.now(), stamp.session, inode, grant, &mut effects);
                core.interest.maybe_unused(stamp.session, inode, self.now());
                self.carry_out(&mut core, effects);
            }
            let last = core.opens.close(stamp.session, inode);
            if !last || !core.orphans.contains(&inode) {
                return Ok(());
            }
        }
        self.shared.orphans.notify_one();
        Ok(())
    }

    /// Whether this grant is still held exclusively: what its holder says counts.
    pub(super) fn is_exclusive(&self, session: SessionId, inode: InodeId, grant: GrantId) -> bool {
        self.core().leases.holds(session, inode, grant) == Some(LeaseKind::Exclusive)
    }
}
