//! Waiting: for the grace period, for a lease, for an operation; and the interest records that
//! come before exclusive rights.

use super::core::{SESSION_HOLDS_MAX, SESSION_WAITS_MAX};
use super::{MountApi, next_change};
use crate::lease::Token;
use crate::lease::interest::Ready;
use crate::lease::table::{Granted, Wanted};
use crate::session::SessionCommand;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{InodeId, SessionId};
use dfs_proto::timing::RETRY_DELAY_MAX;
use std::future::Future;
use std::time::Duration;
use tokio::sync::oneshot;

/// While it lives no other session has a lease on the inode.
pub(super) struct Hold {
    api: MountApi,
    token: Token,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.api.end_wait(self.token);
        self.api.changed();
    }
}

impl MountApi {
    /// Waits until the mounts have reclaimed what concerns this inode. `exclusive`: also until
    /// nobody can have cached anything under an earlier leader.
    pub(super) async fn grace(
        &self,
        session: SessionId,
        inode: InodeId,
        exclusive: bool,
    ) -> Result<()> {
        let mut changes = self.changes();
        loop {
            let (awaited, pause) = {
                let core = self.alive(session)?;
                let blocked = if exclusive {
                    core.grace.blocks_exclusive(inode, self.now())
                } else {
                    core.grace.blocks(inode)
                };
                if !blocked {
                    return Ok(());
                }
                let awaited: Vec<SessionId> = core.grace.awaited(inode).collect();
                let until = core
                    .grace
                    .next_deadline(self.now())
                    .map(|at| at.saturating_sub(self.now()));
                let tick = Duration::from_millis(1);
                (
                    awaited,
                    until
                        .unwrap_or(RETRY_DELAY_MAX)
                        .clamp(tick, RETRY_DELAY_MAX),
                )
            };
            for other in awaited {
                self.press(other, &format!("a request for {inode}"));
            }
            next_change(&mut changes, pause).await;
        }
    }

    /// Waits for a lease (`Some`) or an operation (`None`), at most until `abandoned`, which is
    /// answered with `Interrupted`.
    pub(super) async fn wait_for(
        &self,
        session: SessionId,
        inode: InodeId,
        wanted: Wanted,
        token: Token,
        abandoned: impl Future<Output = ()>,
    ) -> Result<Option<Granted>> {
        let (sender, mut granted) = oneshot::channel();
        {
            let mut core = self.alive(session)?;
            let full = core.leases.held(session) >= SESSION_HOLDS_MAX;
            let present = core.present(session)?;
            if present.waits >= SESSION_WAITS_MAX || (full && wanted != Wanted::Operation) {
                let what = format!("{session} has too many leases, or requests for them");
                return Err(Error::new(ErrorCode::Overloaded, what));
            }
            present.waits += 1;
            core.lease_waits.insert(token, sender);
            let mut effects = Vec::new();
            core.leases
                .request(self.now(), token, session, inode, wanted, &mut effects);
            self.carry_out(&mut core, effects);
        }
        let result = tokio::select! {
            biased;
            result = &mut granted => Some(result),
            () = abandoned => None,
        };
        if let Some(present) = self.core().sessions.get_mut(&session) {
            present.waits = present.waits.saturating_sub(1);
        }
        match result {
            Some(Ok(granted)) => Ok(granted),
            Some(Err(_)) => {
                // It went with the session or with the lead.
                drop(self.alive(session)?);
                Err(ErrorCode::NotLeader.into())
            }
            None => {
                self.end_wait(token);
                if let Ok(Some(late)) = granted.try_recv() {
                    self.answer_failed(session, inode, late);
                }
                Err(ErrorCode::Interrupted.into())
            }
        }
    }

    /// Takes the leases of other sessions on this inode out of the way.
    pub(super) async fn hold(&self, session: SessionId, inode: InodeId) -> Result<Hold> {
        self.grace(session, inode, true).await?;
        let hold = Hold {
            api: self.clone(),
            token: self.token(),
        };
        let never = std::future::pending();
        self.wait_for(session, inode, Wanted::Operation, hold.token, never)
            .await?;
        Ok(hold)
    }

    fn end_wait(&self, token: Token) {
        let mut core = self.core();
        core.lease_waits.remove(&token);
        let mut effects = Vec::new();
        core.leases.finish(self.now(), token, &mut effects);
        self.carry_out(&mut core, effects);
    }

    /// A grant of what can have no lease, or is gone: no answer carries it.
    pub(super) fn give_back(&self, session: SessionId, inode: InodeId, granted: Granted) {
        let mut core = self.core();
        let mut effects = Vec::new();
        core.leases
            .release(self.now(), session, inode, granted.grant, &mut effects);
        core.interest.maybe_unused(session, inode, self.now());
        self.carry_out(&mut core, effects);
    }

    /// Sees to it that the log has an interest record, before an exclusive right is granted.
    pub(super) async fn ensure_interest(&self, session: SessionId, inode: InodeId) -> Result<()> {
        let mut changes = self.changes();
        loop {
            let ready = {
                let mut core = self.alive(session)?;
                core.interest.use_again(session, inode);
                core.interest.ready(session, inode)
            };
            match ready {
                Ready::Yes => return Ok(()),
                Ready::Dropping => next_change(&mut changes, RETRY_DELAY_MAX).await,
                Ready::Missing => {
                    let inodes = vec![inode];
                    self.commit_session(SessionCommand::AddInterest { session, inodes })
                        .await?;
                    self.alive(session)?.interest.logged(session, inode);
                    return Ok(());
                }
            }
        }
    }
}
