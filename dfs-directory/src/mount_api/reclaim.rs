//! After a change of the leader: mounts re-assert what they held.

use super::MountApi;
use super::dispatch::Delivery;
use crate::lease::interest::Ready;
use crate::lease::table::Granted;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{InodeId, SessionId};
use dfs_proto::limits::RECLAIM_PAGE_ITEMS_MAX;
use dfs_proto::lock::{HeldLock, LockHolder, LockRange, LockSpace};
use dfs_proto::msg::session::{LeaseGrant, Reclaim, Reclaimed};
use dfs_proto::transport::Connection;

impl MountApi {
    pub(super) async fn reclaim(
        self,
        connection: Connection,
        request: Reclaim,
    ) -> (Result<Reclaimed>, Delivery) {
        let mut delivery = Delivery::default();
        let result = self.try_reclaim(&connection, request, &mut delivery).await;
        (result, delivery)
    }

    async fn try_reclaim(
        &self,
        connection: &Connection,
        request: Reclaim,
        delivery: &mut Delivery,
    ) -> Result<Reclaimed> {
        let session = request.session;
        let items = request.opens.len() + request.leases.len() + request.locks.len();
        if items > RECLAIM_PAGE_ITEMS_MAX {
            let what = format!("a page of {items} items, above {RECLAIM_PAGE_ITEMS_MAX}");
            return Err(Error::new(ErrorCode::InvalidArgument, what));
        }
        self.bind(session, connection)?;
        {
            let mut core = self.alive(session)?;
            if core.life != request.leader_life {
                let what = "reclaim is for another leader's life: look at the present one";
                return Err(Error::new(ErrorCode::StaleGrant, what).with_detail(core.life));
            }
            for inode in request.opens {
                core.opens.open(session, inode);
            }
        }
        for (inode, lock) in request.locks {
            self.reclaim_lock(session, inode, lock).await?;
        }
        let mut kept = Vec::with_capacity(request.leases.len());
        for inode in request.leases {
            kept.push((inode, self.reassert_lease(session, inode)?));
        }
        if request.last && self.alive(session)?.grace.settle(session) {
            log::info!("{session} has reclaimed");
            self.changed();
            self.shared.orphans.notify_one();
        }
        // The answer may have to wait for cuts; others need not wait for it.
        let mut leases = Vec::with_capacity(kept.len());
        for (inode, granted) in kept {
            leases.push(match granted {
                Some(granted) => {
                    self.reclaimed_lease(session, inode, granted, delivery)
                        .await?
                }
                None => None,
            });
        }
        Ok(Reclaimed { leases })
    }

    async fn reclaim_lock(&self, session: SessionId, inode: InodeId, lock: HeldLock) -> Result<()> {
        let range = match lock.space {
            LockSpace::Flock => LockRange::WHOLE,
            LockSpace::Posix | LockSpace::OpenFile => lock.range,
        };
        if range.start > range.last {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                "a lock ends before it starts",
            ));
        }
        let holder = LockHolder {
            session,
            owner: lock.holder.owner,
        };
        let lock = HeldLock {
            holder,
            range,
            ..lock
        };
        self.ensure_interest(session, inode).await?;
        if !self.alive(session)?.locks.reassert(inode, &lock) {
            log::error!(
                "{session} reclaims a lock on {inode} that stands against another one: \
                 its program may work under a lock that it does not hold"
            );
        }
        Ok(())
    }

    /// Only what the log has a record of was kept for the session: without one others may have
    /// held and changed the inode since.
    fn reassert_lease(&self, session: SessionId, inode: InodeId) -> Result<Option<Granted>> {
        let mut core = self.alive(session)?;
        let granted = if core.interest.ready(session, inode) == Ready::Yes {
            core.interest.use_again(session, inode);
            core.leases.reassert(session, inode)
        } else {
            None
        };
        drop(core);
        if granted.is_none() {
            log::warn!("{session} could not keep its lease of {inode}");
        }
        Ok(granted)
    }

    async fn reclaimed_lease(
        &self,
        session: SessionId,
        inode: InodeId,
        granted: Granted,
        delivery: &mut Delivery,
    ) -> Result<Option<LeaseGrant>> {
        match self.grant_answer(session, inode, granted, delivery).await {
            Ok(grant) => Ok(Some(grant)),
            Err(e) if matches!(e.code, ErrorCode::Stale | ErrorCode::StaleGrant) => Ok(None),
            Err(e) => Err(e),
        }
    }
}
