//! Requests to the directory, repeated until there is a definite answer.

use super::core::Core;
use super::link::Up;
use super::patience::Patience;
use super::session::{Session, Stamped};
use dfs_proto::error::{Applied, Error, ErrorCode, Result, Retry};
use dfs_proto::ids::{MapVersion, SessionId};
use dfs_proto::msg::Request;
use dfs_proto::msg::namespace::{Mutate, Mutated, Mutation};
use dfs_proto::msg::session::{GetMap, PushAttr, ReleaseLease, Stamp};
use dfs_proto::payload::Payload;
use dfs_proto::timing::REQUEST_DEADLINE;
use std::fmt;
use std::sync::Arc;

/// Of a request as much is shown in a log: names are long, values of attributes longer.
const REQUEST_CHARS_MAX: usize = 200;

/// How long one sending waits for its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wait {
    /// The directory answers by itself.
    Short,
    /// The answer may need other mounts or file servers; the heartbeats tell whether the
    /// directory lives.
    Long,
}

async fn send<R: Request>(
    up: &Up,
    request: &R,
    wait: Wait,
    patience: &mut Patience,
) -> Result<R::Response> {
    let sent = async {
        match wait {
            Wait::Short => {
                let call = up
                    .connection
                    .call(request, Payload::default(), REQUEST_DEADLINE);
                call.await
            }
            Wait::Long => {
                up.connection
                    .call_undated(request, Payload::default())
                    .await
            }
        }
    };
    let unanswered = Unanswered { request, wait };
    let sent = patience.awaited(&Directory(up), &unanswered, sent).await;
    sent.map(|(response, _)| response)
}

/// Whom a request was sent to, in words.
struct Directory<'a>(&'a Up);

impl fmt::Display for Directory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "directory {}", self.0.connection.peer_address())
    }
}

/// Why a request takes long, in words.
struct Unanswered<'a> {
    request: &'a (dyn fmt::Debug + Sync),
    wait: Wait,
}

impl fmt::Display for Unanswered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let request: String = format!("{:?}", self.request)
            .chars()
            .take(REQUEST_CHARS_MAX)
            .collect();
        write!(f, "no answer yet to {request}")?;
        match self.wait {
            Wait::Short => Ok(()),
            Wait::Long => f.write_str(
                "; another mount may have to give something up first (dfsctl sessions shows who \
                 is silent)",
            ),
        }
    }
}

fn names_grant(method: u16) -> bool {
    method == PushAttr::METHOD || method == ReleaseLease::METHOD
}

impl Core {
    /// A request that may be repeated at will. Also returns the link that answered.
    pub(super) async fn ask<R: Request>(
        &self,
        wait: Wait,
        request: impl Fn(SessionId) -> R,
    ) -> Result<(R::Response, Arc<Up>)> {
        let mut patience = Patience::new(R::NAME);
        loop {
            let up = self.up().await?;
            match send(&up, &request(up.session.id), wait, &mut patience).await {
                Ok(response) => return Ok((response, up)),
                Err(error) => self.after_failure::<R>(&up, error, &mut patience).await?,
            }
        }
    }

    /// The same, but only as long as `session` lives: what is asked for belongs to it.
    pub(super) async fn ask_within<R: Request>(
        &self,
        session: SessionId,
        wait: Wait,
        request: &R,
    ) -> Result<(R::Response, Arc<Up>)> {
        let mut patience = Patience::new(R::NAME);
        loop {
            let up = self.up().await?;
            if up.session.id != session {
                let what = format!("{session} has ended, and {} with it", R::NAME);
                return Err(Error::new(ErrorCode::SessionEnded, what));
            }
            match send(&up, request, wait, &mut patience).await {
                Ok(response) => return Ok((response, up)),
                Err(error) => self.after_failure::<R>(&up, error, &mut patience).await?,
            }
        }
    }

    /// A change, executed exactly once: every sending carries the same stamp.
    pub(super) async fn stamped<R: Request>(
        &self,
        wait: Wait,
        request: impl Fn(Stamp) -> R,
    ) -> Result<(R::Response, Arc<Up>)> {
        loop {
            let stamped = self.up().await?.session.begin().await?;
            if let Some(done) = self.repeat(&stamped, wait, &request).await? {
                return Ok(done);
            }
        }
    }

    /// Repeats one stamped request. `None`: its session ended before it was ever executed.
    pub(super) async fn repeat<R: Request>(
        &self,
        stamped: &Stamped,
        wait: Wait,
        request: &impl Fn(Stamp) -> R,
    ) -> Result<Option<(R::Response, Arc<Up>)>> {
        let mut patience = Patience::new(R::NAME);
        let mut in_doubt = false;
        loop {
            let up = self.up().await?;
            if !Arc::ptr_eq(&up.session, &stamped.session) {
                if in_doubt {
                    return Err(Error::new(
                        ErrorCode::SessionEnded,
                        format!("the session ended while {} was in doubt", R::NAME),
                    ));
                }
                return Ok(None);
            }
            match send(&up, &request(stamped.stamp()), wait, &mut patience).await {
                Ok(response) => return Ok(Some((response, up))),
                Err(error) => {
                    in_doubt |= error.applied() == Applied::Unknown;
                    self.after_failure::<R>(&up, error, &mut patience).await?;
                }
            }
        }
    }

    /// Returns what is final; else prepares the next try.
    async fn after_failure<R: Request>(
        &self,
        up: &Up,
        error: Error,
        patience: &mut Patience,
    ) -> Result<()> {
        match error.code {
            ErrorCode::SessionEnded => {
                up.session.end();
                up.connection.close("the session has ended");
            }
            ErrorCode::NotLeader | ErrorCode::StorageFailed | ErrorCode::AnswerLost => {
                up.connection.close("not the directory's leader any more");
            }
            // The caller named the grant, and knows whether there is another one now. In other
            // answers a grant lapsed on its way: a repeat brings a new one.
            ErrorCode::StaleGrant if names_grant(R::METHOD) => return Err(error),
            _ if error.retry() == Retry::Never => return Err(error),
            _ => {}
        }
        patience.pause(&Directory(up), &error).await;
        Ok(())
    }

    pub(super) async fn mutate(&self, mutation: Mutation) -> Result<(Mutated, Arc<Up>)> {
        self.stamped(Wait::Long, |stamp| Mutate {
            stamp,
            mutation: mutation.clone(),
        })
        .await
    }

    /// The same, but only in `session`. `None`: it ended before the change was ever executed.
    pub(super) async fn mutate_within(
        &self,
        session: &Arc<Session>,
        mutation: Mutation,
    ) -> Result<Option<Mutated>> {
        let stamped = session.begin().await?;
        let mutate = |stamp| Mutate {
            stamp,
            mutation: mutation.clone(),
        };
        let Some((mutated, _)) = self.repeat(&stamped, Wait::Long, &mutate).await? else {
            return Ok(None);
        };
        // A server that the epochs of a cut have left behind may not have made it (R7).
        self.refresh_map(mutated.map_version).await;
        Ok(Some(mutated))
    }

    /// Gets the map if it is older than `wanted`.
    pub(super) async fn refresh_map(&self, wanted: MapVersion) {
        if self.map.version() >= wanted {
            return;
        }
        let _one = self.map.asking.lock().await;
        if self.map.version() >= wanted {
            return;
        }
        match self.ask(Wait::Short, |_| GetMap).await {
            Ok((map, _)) => self.map.install(map),
            Err(error) => log::debug!("no cluster map: {error}"),
        }
    }
}
