//! The end of a session without goodbye.
//!
//! In this order: the log says that it ends (its commands are refused), the file servers are
//! fenced (nothing of it is in progress or accepted any more), what it may have written beyond
//! the recorded sizes is settled (`settling`), the log says that it has ended, its right to cache runs out, and
//! only then its leases, locks and opens are free: a session that is ended while its heartbeats
//! go on still serves what it has cached until the next one is refused.

use super::{MountApi, next_change};
use crate::session::{SessionCommand, SessionPhase, read};
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{InodeId, SessionId};
use dfs_proto::timing::{RETRY_DELAY_MAX, SESSION_TTL};
use std::time::Duration;

/// How often the end of a right to cache is looked for.
const CACHE_RIGHT_LOOK: Duration = Duration::from_millis(50);

impl MountApi {
    /// Ends a session by hand, whatever it holds; returns when all of it is free. `NotFound` if
    /// there is none such. A mount that lives begins a new one.
    pub async fn evict(&self, session: SessionId) -> Result<()> {
        if !self.leading()?.sessions.contains_key(&session) {
            return Err(Error::new(
                ErrorCode::NotFound,
                format!("there is no {session}; `dfsctl sessions` lists them"),
            ));
        }
        self.end_session(session, "evicted by an administrator");
        let mut changes = self.changes();
        // Whoever takes the lead over goes on with it; `NotLeader` tells to ask there again.
        while self.leading()?.sessions.contains_key(&session) {
            next_change(&mut changes, RETRY_DELAY_MAX).await;
        }
        Ok(())
    }

    /// That a session has ended is told when it surely has: by who leads, and when the log says so. A
    /// mount that hears it gives up all it holds, and begins anew. A deposed leader does not know the
    /// sessions of its successor, and ends others that its successor keeps; whoever asks it is sent on.
    /// The errors of this leader's memory name their session; those of the log need no proof.
    pub(super) async fn ends_proven<T>(&self, result: Result<T>) -> Result<T> {
        let error = match result {
            Err(error) if error.code == ErrorCode::SessionEnded && error.detail != 0 => error,
            other => return other,
        };
        let session = SessionId(error.detail);
        let known = self
            .raft()
            .read(move |tables| read::session(tables, session))
            .await?;
        match known.map(|info| info.phase) {
            Some(SessionPhase::Alive) => Err(ErrorCode::NotLeader.into()),
            Some(SessionPhase::Ending | SessionPhase::Ended) | None => Err(error),
        }
    }

    /// Begins the end of a session, once; it goes on in its own task.
    pub(super) fn end_session(&self, session: SessionId, why: &str) {
        {
            let mut core = self.core();
            if !core.clock.begin_end(session) {
                return;
            }
            core.ended.push(session, why);
        }
        log::warn!("{session} is ended: {why}");
        tokio::spawn(self.clone().finish_ending(session));
    }

    /// Ends the session if nobody has heard of it for its time to live, or if it has not
    /// reclaimed in that time: somebody waits for what it holds.
    pub(super) fn press(&self, session: SessionId, what: &str) {
        let expired = {
            let core = self.core();
            let unclaimed =
                core.grace.is_missing(session) && self.now() >= core.started + SESSION_TTL;
            core.clock.is_alive(session)
                && (core.clock.is_expirable(session, self.now()) || unclaimed)
        };
        if expired {
            self.end_session(
                session,
                &format!("no sign of life, and it is in the way of {what}"),
            );
        }
    }

    /// Waits until the session is gone, if it is on its way out.
    pub(super) async fn ended(&self, session: SessionId) {
        let mut changes = self.changes();
        while self.is_ending(session) {
            next_change(&mut changes, RETRY_DELAY_MAX).await;
        }
    }

    fn is_ending(&self, session: SessionId) -> bool {
        let core = self.core();
        core.sessions.contains_key(&session) && !core.clock.is_alive(session)
    }

    /// Drives the end of a session whose end has begun, until it has ended or this member does
    /// not lead any more.
    pub(super) async fn finish_ending(self, session: SessionId) {
        let life = self.core().life;
        loop {
            match self.try_ending(session).await {
                Ok(()) => break,
                Err(e) if e.code == ErrorCode::SessionEnded => break,
                Err(e) => {
                    if self.core().life != life || life == 0 {
                        return;
                    }
                    log::warn!("the end of {session} is delayed, trying again: {e}");
                    tokio::time::sleep(RETRY_DELAY_MAX).await;
                }
            }
        }
        // From the beginning of the end no heartbeat has renewed it.
        while self.core().life == life && !self.core().clock.cache_right_over(session, self.now()) {
            tokio::time::sleep(CACHE_RIGHT_LOOK).await;
        }
        if self.core().life == life {
            self.free_session(session);
            log::info!("{session} has ended");
        }
    }

    async fn try_ending(&self, session: SessionId) -> Result<()> {
        self.commit_session(SessionCommand::BeginEnd { session })
            .await?;
        self.placement().fence(session).await?;
        // No record can come or go any more: the log refuses it for an ending session.
        let inodes = self
            .raft()
            .read(move |tables| read::interest_of(tables, session))
            .await?;
        let mut unsettled = Vec::new();
        for inode in inodes {
            if self.left_unsettled(session, inode).await {
                unsettled.push(inode);
            }
        }
        self.settle(unsettled).await?;
        self.commit_session(SessionCommand::FinishEnd { session })
            .await?;
        Ok(())
    }

    /// Whether the session may have written beyond the recorded size of an inode. A record alone
    /// does not say so, since it outlives the lease; and what another session writes now under
    /// its own lease must not be cut.
    async fn left_unsettled(&self, session: SessionId, inode: InodeId) -> bool {
        let mut changes = self.changes();
        loop {
            let awaited: Vec<SessionId> = {
                let core = self.core();
                match core.leases.exclusive_holder(inode) {
                    Some((holder, _)) => return holder == session,
                    // It gave the lease back in this leader's life, or never had it.
                    None if !core.grace.is_missing(session) => return false,
                    None => core
                        .grace
                        .awaited(inode)
                        .filter(|other| core.clock.is_alive(*other))
                        .collect(),
                }
            };
            if awaited.is_empty() {
                return true;
            }
            // One of them may hold the lease that this session's record is left from.
            for other in awaited {
                self.press(other, "the end of another session");
            }
            next_change(&mut changes, RETRY_DELAY_MAX).await;
        }
    }

    /// Everything of an ended session is free.
    pub(super) fn free_session(&self, session: SessionId) {
        {
            let mut core = self.core();
            let mut effects = Vec::new();
            let mut grants = Vec::new();
            core.leases.end_session(self.now(), session, &mut effects);
            core.rights.lapse(session);
            core.locks.end_session(session, &mut grants);
            let closed = core.opens.end_session(session);
            core.orphans.extend(closed);
            core.interest.end_session(session);
            core.grace.settle(session);
            core.clock.forget(session);
            core.sessions.remove(&session);
            core.lock_grants.retain(|key, _| key.session != session);
            self.carry_out(&mut core, effects);
            self.tell_grants(&mut core, grants);
        }
        self.shared.orphans.notify_one();
        self.changed();
    }
}
