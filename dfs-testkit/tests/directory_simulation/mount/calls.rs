//! Requests to the directory, as `client::call` of the product repeats them.

use super::link::Up;
use super::{Mount, State};
use dfs_mount::client::dir_cache::Asked;
use dfs_proto::error::{Applied, Error, ErrorCode, Result, Retry};
use dfs_proto::ids::{Sequence, SessionId};
use dfs_proto::msg::Request;
use dfs_proto::msg::session::Stamp;
use dfs_proto::payload::Payload;
use dfs_proto::timing::REQUEST_DEADLINE;

/// How long one sending waits for its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    Short,
    /// The answer may need other mounts.
    Long,
}

/// What was so when a question was asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Since {
    lapses: u64,
    pub(crate) names: Asked,
}

/// The number of one change, until its answer has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamped {
    pub(crate) session: SessionId,
    pub(crate) sequence: Sequence,
}

impl State {
    /// Whether rights that came with an answer count.
    pub(super) fn grants(&self, up: &Up, since: Since) -> bool {
        let session = self.session.as_ref();
        self.leader_life == up.leader_life
            && session.is_some_and(|s| s.life == up.session_life)
            && self.lapses == since.lapses
    }
}

impl Mount {
    pub(super) fn since(&self) -> Since {
        let state = self.state();
        Since {
            lapses: state.lapses,
            names: state.dirs.ask(),
        }
    }

    /// A working link, waiting for it.
    pub(super) async fn up(&self) -> Result<Up> {
        self.until(|state| state.up.clone().filter(|up| !up.connection.is_closed()))
            .await
    }

    async fn send<R: Request>(&self, up: &Up, request: &R, wait: Wait) -> Result<R::Response> {
        self.awake().await?;
        let none = Payload::default();
        let sent = match wait {
            Wait::Short => up.connection.call(request, none, REQUEST_DEADLINE).await,
            Wait::Long => up.connection.call_undated(request, none).await,
        };
        self.awake().await?;
        sent.map(|(response, _)| response)
    }

    /// A request that may be repeated at will. Also returns the link that answered.
    pub(super) async fn ask<R: Request>(
        &self,
        wait: Wait,
        request: impl Fn(SessionId) -> R,
    ) -> Result<(R::Response, Up)> {
        loop {
            let up = self.up().await?;
            match self.send(&up, &request(up.session), wait).await {
                Ok(response) => return Ok((response, up)),
                Err(error) => self.after_failure(&up, error).await?,
            }
        }
    }

    /// The same, but only as long as `session` lives: what is asked for belongs to it.
    pub(super) async fn ask_within<R: Request>(
        &self,
        session: SessionId,
        wait: Wait,
        request: &R,
    ) -> Result<(R::Response, Up)> {
        loop {
            let up = self.up().await?;
            if up.session != session {
                return Err(ErrorCode::SessionEnded.into());
            }
            match self.send(&up, request, wait).await {
                Ok(response) => return Ok((response, up)),
                Err(error) => self.after_failure(&up, error).await?,
            }
        }
    }

    /// The next number of a change.
    pub(super) async fn begin(&self) -> Result<Stamped> {
        self.up().await?;
        self.until(|state| {
            let session = state.session.as_mut().filter(|s| !s.ended)?;
            let sequence = session.window.begin()?;
            let session = session.id;
            Some(Stamped { session, sequence })
        })
        .await
    }

    /// Nobody will ask for the answer again.
    pub(super) fn finish(&self, stamped: Stamped) {
        if let Some(session) = &mut self.state().session
            && session.id == stamped.session
        {
            session.window.finish(stamped.sequence);
        }
    }

    fn stamp(&self, stamped: Stamped) -> Option<Stamp> {
        let state = self.state();
        let session = state.session.as_ref()?;
        (session.id == stamped.session).then(|| Stamp {
            session: stamped.session,
            sequence: stamped.sequence,
            lowest_unanswered: session.window.lowest_unanswered(),
        })
    }

    /// Repeats one stamped request. `None`: its session ended before it was ever executed.
    pub(super) async fn repeat<R: Request>(
        &self,
        stamped: Stamped,
        wait: Wait,
        request: impl Fn(Stamp) -> R,
    ) -> Result<Option<(R::Response, Up)>> {
        let mut in_doubt = false;
        loop {
            let up = self.up().await?;
            let stamp = match self.stamp(stamped) {
                Some(stamp) if up.session == stamped.session => stamp,
                _ if in_doubt => return Err(ErrorCode::SessionEnded.into()),
                _ => return Ok(None),
            };
            match self.send(&up, &request(stamp), wait).await {
                Ok(response) => return Ok(Some((response, up))),
                Err(error) => {
                    in_doubt |= error.applied() == Applied::Unknown;
                    self.after_failure(&up, error).await?;
                }
            }
        }
    }

    /// Returns what is final; else prepares the next try.
    async fn after_failure(&self, up: &Up, error: Error) -> Result<()> {
        match error.code {
            ErrorCode::SessionEnded => {
                self.session_ended(up.session, &error);
                up.connection.close("the session has ended");
            }
            ErrorCode::ShuttingDown if !self.is_alive() => return Err(error),
            ErrorCode::NotLeader | ErrorCode::StorageFailed | ErrorCode::AnswerLost => {
                up.connection.close("not the directory's leader any more");
            }
            _ if error.retry() == Retry::Never => return Err(error),
            _ => {}
        }
        self.cluster.world.sleep(5, 100).await;
        Ok(())
    }
}
