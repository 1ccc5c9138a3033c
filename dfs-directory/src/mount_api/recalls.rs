//! Recalls, and questions for size and times, to the mounts that hold leases.

use super::{MountApi, next_change};
use crate::lease::Moment;
use crate::namespace::NamespaceCommand;
use dfs_proto::attr::{FileAttr, SizeTimes};
use dfs_proto::error::{ErrorCode, Result};
use dfs_proto::ids::{GrantId, InodeId, SessionId};
use dfs_proto::msg::callback::{AskAttr, Recall, RecallAnswer};
use dfs_proto::msg::session::LeaseKind;
use dfs_proto::payload::Payload;
use dfs_proto::timing::{RECALL_DEADLINE, RECALL_PROGRESS, RETRY_DELAY_MIN, SLOW_WAIT};
use dfs_proto::transport::Connection;
use std::time::Duration;
use tokio::sync::oneshot;

/// How often somebody who does not answer is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// A holder that can't be reached is asked again after this, also when nothing seems to change.
const ANSWER_DEADLINE: Duration = Duration::from_millis(3 * RECALL_PROGRESS.as_millis() as u64);

impl MountApi {
    /// Recalls one lease: asks until it is given back, has lapsed, or its session is ended.
    pub(super) async fn recall(
        self,
        life: u64,
        session: SessionId,
        inode: InodeId,
        grant: GrantId,
        keep: Option<LeaseKind>,
    ) {
        let begun = self.now();
        let mut last_sign = begun;
        let mut told = false;
        let mut changes = self.changes();
        let request = Recall { inode, grant, keep };
        loop {
            let Some(connection) = self.recall_target(life, session, inode, grant) else {
                return;
            };
            if let Some(connection) = connection {
                match connection
                    .call(&request, Payload::default(), ANSWER_DEADLINE)
                    .await
                {
                    Ok((RecallAnswer::Working, _)) => {
                        last_sign = self.now();
                        tokio::time::sleep(RETRY_DELAY_MIN).await;
                        continue;
                    }
                    Ok((RecallAnswer::Returned { push }, _)) => {
                        if self.take_back(session, inode, grant, push).await {
                            return;
                        }
                    }
                    Err(e) => log::debug!("recall of {inode} from {session}: {e}"),
                }
            }
            let waited = self.now().saturating_sub(last_sign);
            if waited >= RECALL_DEADLINE {
                let why = format!("it has not answered the recall of {inode} for {waited:?}");
                self.end_session(session, &why);
            }
            self.press(session, &format!("a request for {inode}"));
            if !told && self.now().saturating_sub(begun) >= SLOW_WAIT {
                told = true;
                log::warn!("{inode}: waiting for {session} to give its lease back");
            }
            next_change(&mut changes, LOOK).await;
        }
    }

    /// Where to send the recall; `None` when it is not wanted any more.
    fn recall_target(
        &self,
        life: u64,
        session: SessionId,
        inode: InodeId,
        grant: GrantId,
    ) -> Option<Option<Connection>> {
        let core = self.core();
        // The end of a session frees its leases, and not before it is fenced: a mount that has heard
        // of the end answers that it holds nothing, while writes of it are still on their way.
        let wanted = core.life == life
            && core.clock.is_alive(session)
            && core.leases.is_recalling(session, inode, grant);
        wanted.then(|| core.connection(session))
    }

    /// The holder gives its lease back: first what it pushes is logged, then others are granted.
    /// Nothing of that if its session ends. `false`: it is to be asked again.
    async fn take_back(
        &self,
        session: SessionId,
        inode: InodeId,
        grant: GrantId,
        push: Option<SizeTimes>,
    ) -> bool {
        if let Some(push) = push
            && let Err(e) = self.log_answer(session, inode, grant, push).await
        {
            log::warn!("what {session} pushed of {inode} can't be logged, asking again: {e}");
            return false;
        }
        let mut core = self.core();
        if !core.clock.is_alive(session) {
            return true;
        }
        let mut effects = Vec::new();
        core.leases
            .returned(self.now(), session, inode, grant, &mut effects);
        core.interest.maybe_unused(session, inode, self.now());
        self.carry_out(&mut core, effects);
        drop(core);
        self.changed();
        true
    }

    /// Logs size and times from the holder's answer, if it still holds this grant.
    async fn log_answer(
        &self,
        session: SessionId,
        inode: InodeId,
        grant: GrantId,
        push: SizeTimes,
    ) -> Result<()> {
        match self.recorded_attr(inode).await {
            // Holders mostly push before they answer: then there is nothing to log.
            Ok(attr) if adds_nothing(&push, &attr) => return Ok(()),
            Ok(_) => {}
            // The inode is gone: nobody can ask for its size any more.
            Err(e) if e.code == ErrorCode::Stale => return Ok(()),
            Err(e) => return Err(e),
        }
        if !self.is_exclusive(session, inode, grant) {
            return Ok(());
        }
        let command = NamespaceCommand::PushAnswered {
            session,
            inode,
            push,
        };
        match self.commit_namespace(command).await {
            Ok(_) => {
                self.core().pushes += 1;
                Ok(())
            }
            Err(e) if e.code == ErrorCode::Stale => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Makes the recorded size and times of an inode count every write that was acknowledged
    /// before the call.
    pub(super) async fn ask(&self, inode: InodeId) -> Result<()> {
        let token = self.token();
        let (sender, answered) = oneshot::channel();
        let first = {
            let mut core = self.leading()?;
            core.ask_waits.insert(token, sender);
            core.asks.want(inode, token)
        };
        if first {
            tokio::spawn(self.clone().ask_while_wanted(inode));
        }
        answered.await.map_err(|_| ErrorCode::NotLeader.into())
    }

    async fn ask_while_wanted(self, inode: InodeId) {
        let life = self.core().life;
        loop {
            self.ask_once(life, inode).await;
            let mut core = self.core();
            if core.life != life {
                return;
            }
            let (done, again) = core.asks.answered(inode);
            for token in done {
                if let Some(waiter) = core.ask_waits.remove(&token) {
                    // One who has gone away needs no answer.
                    let _ = waiter.send(());
                }
            }
            if !again {
                core.overtaken.remove(&inode);
                return;
            }
        }
    }

    /// Ends when the holder's answer is in the log, or nobody holds the lease any more.
    async fn ask_once(&self, life: u64, inode: InodeId) {
        let begun: Moment = self.now();
        let mut told = false;
        let mut changes = self.changes();
        loop {
            let (session, grant, connection) = {
                let mut core = self.core();
                if core.life != life {
                    return;
                }
                let Some((session, grant)) = core.leases.exclusive_holder(inode) else {
                    return;
                };
                core.overtaken.remove(&inode);
                // While a size is being set there is no size to tell.
                let quiet = !core.leases.is_operated(inode);
                let connection = core.connection(session).filter(|_| quiet);
                (session, grant, connection)
            };
            if let Some(connection) = connection {
                let request = AskAttr { inode, grant };
                match connection
                    .call(&request, Payload::default(), ANSWER_DEADLINE)
                    .await
                {
                    Ok((push, _)) => match self.take_answer(session, inode, grant, push).await {
                        Answer::Settles => return,
                        Answer::TooEarly => continue,
                        Answer::Open => {}
                    },
                    Err(e) => log::debug!("asking {session} for the size of {inode}: {e}"),
                }
            }
            self.press(session, &format!("a look at {inode}"));
            if !told && self.now().saturating_sub(begun) >= SLOW_WAIT {
                told = true;
                log::warn!("{inode}: waiting for {session} to tell its size");
            }
            next_change(&mut changes, LOOK).await;
        }
    }

    async fn take_answer(
        &self,
        session: SessionId,
        inode: InodeId,
        grant: GrantId,
        push: Option<SizeTimes>,
    ) -> Answer {
        let push = {
            let core = self.core();
            if core.leases.holds(session, inode, grant) != Some(LeaseKind::Exclusive) {
                // Given back meanwhile, with what it had: look who holds it now.
                return Answer::TooEarly;
            }
            let Some(push) = push else {
                // Not known there (yet), so nothing was written under it; unless it is being
                // given back right now: then what it pushes has to come first.
                let returning = core.leases.is_recalling(session, inode, grant);
                return if returning {
                    Answer::Open
                } else {
                    Answer::Settles
                };
            };
            if core.overtaken.contains(&inode) {
                // It changed the size while it answered: which was first nobody can tell.
                return Answer::TooEarly;
            }
            push
        };
        match self.log_answer(session, inode, grant, push).await {
            Ok(()) => Answer::Settles,
            Err(e) => {
                log::warn!("the size of {inode} from {session} can't be logged: {e}");
                Answer::Open
            }
        }
    }
}

/// Whether a push says no more than the log knows (sizes only grow by pushes).
fn adds_nothing(push: &SizeTimes, recorded: &FileAttr) -> bool {
    push.size <= recorded.size && !push.wrote && push.modified.is_none() && push.accessed.is_none()
}

/// What a holder's answer is worth.
enum Answer {
    Settles,
    /// Something came in between: ask again at once.
    TooEarly,
    /// Wait for a change, then ask again.
    Open,
}
