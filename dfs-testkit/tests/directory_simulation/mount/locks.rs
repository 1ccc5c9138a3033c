//! Locks: as `client::locks` of the product.

use super::Mount;
use super::calls::Wait;
use crate::world::locked;
use dfs_mount::client::held_locks::OwnerKey;
use dfs_proto::error::{ErrorCode, Result};
use dfs_proto::ids::{Sequence, SessionId};
use dfs_proto::lock::{HeldLock, LockHolder, LockKind, LockRange};
use dfs_proto::msg::session::{CancelAnswer, CancelLock, LockAnswer, SetLock};
use std::time::Duration;
use tokio::sync::oneshot;

/// What a program asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) key: OwnerKey,
    pub(crate) kind: LockKind,
    pub(crate) range: LockRange,
    pub(crate) wait: bool,
}

impl Request {
    pub(crate) fn held(&self, session: SessionId) -> HeldLock {
        HeldLock {
            space: self.key.space,
            holder: LockHolder {
                session,
                owner: self.key.owner,
            },
            kind: self.kind,
            range: self.range,
            pid: 1,
        }
    }
}

/// How a queued wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum WaitEnd {
    Granted,
    /// The directory's leader changed, or the session: the wait is asked for anew.
    Moved,
}

#[derive(Debug)]
pub(crate) struct Waiter {
    request: Request,
    end: oneshot::Sender<WaitEnd>,
}

impl Waiter {
    pub(crate) fn granted(self) -> Request {
        let _ = self.end.send(WaitEnd::Granted);
        self.request
    }

    pub(crate) fn moved(self) {
        let _ = self.end.send(WaitEnd::Moved);
    }
}

impl Mount {
    /// A definite answer under a leader's life: false if that is over.
    fn note_lock(&self, life: u64, session: SessionId, request: &Request) -> bool {
        let mut state = self.state();
        let present = state.session.as_ref().map(|s| s.id);
        if state.locks_life != life || present != Some(session) {
            return false;
        }
        state
            .held
            .set(request.key, request.range, Some(request.kind), 1);
        drop(state);
        self.believe(session, request);
        true
    }

    /// It holds a lock, as far as it knows.
    pub(super) fn believe(&self, session: SessionId, request: &Request) {
        let lock = request.held(session);
        self.cluster.world.trace(|| {
            let (inode, owner) = (request.key.inode, request.key.owner);
            format!("{session} has the lock of {inode} for {owner}")
        });
        let held = locked(&self.cluster.holds).locked(request.key.inode, lock, |session| {
            self.cluster.is_fenced(session)
        });
        self.cluster.world.check(held);
    }

    /// Takes a lock; returns the session that holds it. A wait ends after `patience`, as when its
    /// program is interrupted: `Interrupted`.
    pub(crate) async fn lock(&self, request: Request, patience: Duration) -> Result<SessionId> {
        let inode = request.key.inode;
        loop {
            let stamped = self.begin().await?;
            let wait = stamped.sequence;
            let (end, mut ended) = oneshot::channel();
            if request.wait {
                // Before it is sent: the grant may be here before the answer.
                let waiter = Waiter { request, end };
                self.state().waiters.insert((inode, wait), waiter);
            }
            let set = |stamp| SetLock {
                stamp,
                inode,
                space: request.key.space,
                owner: request.key.owner,
                pid: 1,
                kind: Some(request.kind),
                range: request.range,
                wait: request.wait,
            };
            let answer = self.repeat(stamped, Wait::Long, set).await;
            self.finish(stamped);
            if !matches!(answer, Ok(Some((LockAnswer::Queued, _)))) {
                self.state().waiters.remove(&(inode, wait));
            }
            match answer? {
                None => continue,
                Some((LockAnswer::Done, up)) => {
                    if self.note_lock(up.leader_life, stamped.session, &request) {
                        return Ok(stamped.session);
                    }
                    continue;
                }
                Some((LockAnswer::Queued, up)) => {
                    let mut state = self.state();
                    if state.locks_life != up.leader_life {
                        state.waiters.remove(&(inode, wait));
                        continue;
                    }
                }
            }
            let end = match tokio::time::timeout(patience, &mut ended).await {
                Ok(end) => end.unwrap_or(WaitEnd::Moved),
                Err(_) => {
                    return self.cancel(stamped.session, wait, &request, ended).await;
                }
            };
            self.awake().await?;
            if end == WaitEnd::Granted {
                return Ok(stamped.session);
            }
        }
    }

    /// Ends a wait.
    async fn cancel(
        &self,
        session: SessionId,
        wait: Sequence,
        request: &Request,
        mut ended: oneshot::Receiver<WaitEnd>,
    ) -> Result<SessionId> {
        let inode = request.key.inode;
        let request_of = CancelLock {
            session,
            inode,
            wait,
        };
        let cancelled = self.ask_within(session, Wait::Short, &request_of).await;
        self.state().waiters.remove(&(inode, wait));
        if ended.try_recv() == Ok(WaitEnd::Granted) {
            return Ok(session);
        }
        if let Ok((CancelAnswer::TooLate, up)) = cancelled
            && self.note_lock(up.leader_life, session, request)
        {
            return Ok(session);
        }
        Err(ErrorCode::Interrupted.into())
    }

    /// Gives a lock back. It is given back when its session has ended, too.
    pub(crate) async fn unlock(&self, session: SessionId, request: &Request) -> Result<()> {
        self.awake().await?;
        self.cluster.world.trace(|| {
            let (inode, owner) = (request.key.inode, request.key.owner);
            format!("{session} gives the lock of {inode} for {owner} back")
        });
        locked(&self.cluster.holds).unlocked(request.key.inode, &request.held(session));
        let stamped = self.begin().await?;
        self.state()
            .held
            .give_up(request.key, request.range, None, 1);
        let set = |stamp| SetLock {
            stamp,
            inode: request.key.inode,
            space: request.key.space,
            owner: request.key.owner,
            pid: 1,
            kind: None,
            range: request.range,
            wait: false,
        };
        let answer = self.repeat(stamped, Wait::Long, set).await;
        self.finish(stamped);
        let mut state = self.state();
        if state.session.as_ref().is_some_and(|s| s.id == session) {
            state.held.set(request.key, request.range, None, 1);
        }
        answer.map(|_| ())
    }

    /// Whether the lock that was taken in a session is still this mount's.
    pub(crate) fn holds(&self, session: SessionId, key: &OwnerKey) -> bool {
        let state = self.state();
        let present = state.session.as_ref();
        present.is_some_and(|s| s.id == session && !s.ended) && state.held.holds_any(*key)
    }
}
