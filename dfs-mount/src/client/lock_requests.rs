//! One request for a lock, from its sending to its end: waits, cancels, changes of the directory's leader.

use super::call::Wait;
use super::core::Core;
use super::held_locks::{Lent, OwnerKey};
use super::inode::Inode;
use super::locks::{Cancel, LentIn, Underway, WaitEnd};
use super::opens::Open;
use super::types::LockRequest;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{Sequence, SessionId};
use dfs_proto::lock::LockKind;
use dfs_proto::msg::session::{CancelAnswer, CancelLock, LockAnswer, SetLock};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

/// Cancels when its caller goes away.
struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Core {
    /// Sets or removes a lock; with `wait` until it is granted or `cancel` says otherwise. `Ok`
    /// means that the lock is held, also when the cancel came too late.
    pub(super) async fn set_lock(
        self: &Arc<Self>,
        open: Arc<Open>,
        request: LockRequest,
        cancel: Cancel,
    ) -> Result<()> {
        let gone = CancelOnDrop(cancel.clone());
        let core = self.clone();
        let set = self
            .names
            .spawn(async move { core.set_lock_now(&open, request, &cancel).await });
        let result = set.await;
        drop(gone);
        result.unwrap_or_else(|e| Err(Error::new(ErrorCode::Internal, e.to_string())))
    }

    async fn set_lock_now(
        self: &Arc<Self>,
        open: &Open,
        request: LockRequest,
        cancel: &Cancel,
    ) -> Result<()> {
        let key = OwnerKey {
            inode: open.inode.id,
            space: request.space,
            owner: request.owner,
        };
        let _underway = Underway::new(self, key, false);
        let mut lent = LentIn::default();
        loop {
            open.inode.check(open.opened_at)?;
            let stamped = self.up().await?.session.begin().await?;
            let wait = stamped.sequence;
            let (end, mut ended) = oneshot::channel();
            let may_share = self.locks.begin(key, wait, request, end);
            if !may_share.pieces.is_empty() {
                lent = may_share;
            }
            let set = |stamp| SetLock {
                stamp,
                inode: key.inode,
                space: key.space,
                owner: key.owner,
                pid: request.pid,
                kind: request.kind,
                range: request.range,
                wait: request.wait,
            };
            let answer = self.repeat(&stamped, Wait::Long, &set).await;
            let session = stamped.session.id;
            drop(stamped);
            if !matches!(answer, Ok(Some((LockAnswer::Queued, _)))) {
                self.locks.forget_wait(key.inode, wait);
            }
            let answer = match answer {
                Ok(answer) => answer,
                Err(refusal) => return self.take_back(open, key, lent, refusal).await,
            };
            match answer {
                None => continue,
                Some((LockAnswer::Done, up)) => {
                    if self.locks.note(up.leader_life, key, &request) {
                        return Ok(());
                    }
                    continue;
                }
                Some((LockAnswer::Queued, up)) => {
                    if self.locks.life() != up.leader_life {
                        self.locks.forget_wait(key.inode, wait);
                        continue;
                    }
                }
            }
            let end = tokio::select! {
                end = &mut ended => end.unwrap_or(WaitEnd::Moved),
                () = cancel.cancelled() => {
                    let ended = self.cancel_lock(session, key, wait, &request, ended).await;
                    return match ended {
                        Ok(()) => Ok(()),
                        Err(refusal) => self.take_back(open, key, lent, refusal).await,
                    };
                }
            };
            if end == WaitEnd::Granted || self.leave_queue(session, key, wait, &request).await? {
                return Ok(());
            }
        }
    }

    /// A wait is asked for anew. The new leader may have queued a repeat of the request after the
    /// mount had given up on it: nobody would wait for what that is granted. `true`: it is granted.
    async fn leave_queue(
        &self,
        session: SessionId,
        key: OwnerKey,
        wait: Sequence,
        request: &LockRequest,
    ) -> Result<bool> {
        let cancel = CancelLock {
            session,
            inode: key.inode,
            wait,
        };
        match self.ask_within(session, Wait::Short, &cancel).await {
            Ok((CancelAnswer::Cancelled, _)) => Ok(false),
            Ok((CancelAnswer::TooLate, up)) => Ok(self.locks.note(up.leader_life, key, request)),
            Err(error) if error.code == ErrorCode::SessionEnded => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A request to share locks was refused, so they are exclusive as before. If another leader was
    /// told meanwhile that they are shared, somebody may share them now: then they are lost, and with
    /// them the open handles.
    async fn take_back(
        self: &Arc<Self>,
        open: &Open,
        key: OwnerKey,
        lent: LentIn,
        refusal: Error,
    ) -> Result<()> {
        if self.locks.take_back(key, &lent) {
            return Err(refusal);
        }
        for Lent { range, pid } in lent.pieces {
            open.inode.check(open.opened_at)?;
            let again = LockRequest {
                space: key.space,
                owner: key.owner,
                pid,
                kind: Some(LockKind::Exclusive),
                range,
                wait: false,
            };
            let set = |stamp| SetLock {
                stamp,
                inode: key.inode,
                space: key.space,
                owner: key.owner,
                pid,
                kind: again.kind,
                range,
                wait: false,
            };
            let life = match self.stamped(Wait::Long, set).await {
                Ok((LockAnswer::Done, up)) => Some(up.leader_life),
                Ok((LockAnswer::Queued, _)) => None,
                Err(error) if error.code == ErrorCode::WouldBlock => None,
                Err(error) => return Err(error),
            };
            if !life.is_some_and(|life| self.locks.note(life, key, &again)) {
                self.lock_lost(&open.inode);
                open.inode.check(open.opened_at)?;
            }
        }
        Err(refusal)
    }

    fn lock_lost(&self, inode: &Inode) {
        let broken = self.breaks.fetch_add(1, Ordering::SeqCst) + 1;
        inode.state().broken_before = broken;
        let what = "a byte-range lock on it is lost with the directory's leader";
        self.say_broken(inode.id, what);
    }

    async fn cancel_lock(
        &self,
        session: SessionId,
        key: OwnerKey,
        wait: Sequence,
        request: &LockRequest,
        mut ended: oneshot::Receiver<WaitEnd>,
    ) -> Result<()> {
        let interrupted = Err(ErrorCode::Interrupted.into());
        let cancel = CancelLock {
            session,
            inode: key.inode,
            wait,
        };
        let cancelled = self.ask_within(session, Wait::Short, &cancel).await;
        self.locks.forget_wait(key.inode, wait);
        if ended.try_recv() == Ok(WaitEnd::Granted) {
            // The grant came first, and is noted: the directory has nothing to cancel any more.
            return Ok(());
        }
        match cancelled {
            Ok((CancelAnswer::TooLate, up)) => {
                if self.locks.note(up.leader_life, key, request) {
                    return Ok(());
                }
                interrupted
            }
            Ok((CancelAnswer::Cancelled, _)) => interrupted,
            Err(error) => {
                log::debug!("{}: the cancel of a lock wait: {error}", key.inode);
                interrupted
            }
        }
    }
}
