//! Sessions begin, show signs of life and say goodbye; their connections; pushes of the map.

use super::MountApi;
use crate::lease::Moment;
use crate::members;
use crate::session::{SessionChanged, SessionCommand, SessionInfo, SessionOutcome, SessionPhase};
use crate::state::{Change, Outcome};
use crate::tasks::clock;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::SessionId;
use dfs_proto::limits::UNREACHABLE_MAX;
use dfs_proto::msg::callback::MapChanged;
use dfs_proto::msg::session::{EndSession, Heartbeat, HeartbeatAck, OpenSession, SessionOpened};
use dfs_proto::payload::Payload;
use dfs_proto::timing::REQUEST_DEADLINE;
use dfs_proto::transport::Connection;
use std::time::{SystemTime, UNIX_EPOCH};

/// The directory's wall clock, for mounts to measure their offset.
fn clock_ns() -> i128 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i128::try_from(since.as_nanos()).unwrap_or(i128::MAX)
}

impl MountApi {
    /// Commits a session command.
    pub(super) async fn commit_session(&self, command: SessionCommand) -> Result<SessionChanged> {
        match self.raft().commit(Change::Session(command)).await? {
            Outcome::Session(SessionOutcome(result)) => result.map_err(Error::from),
            other => Err(Error::new(
                ErrorCode::Internal,
                format!("answered with {other:?}"),
            )),
        }
    }

    pub(super) async fn open_session(
        self,
        connection: Connection,
        request: OpenSession,
    ) -> Result<SessionOpened> {
        drop(self.leading()?);
        let opened = self
            .commit_session(SessionCommand::Open {
                incarnation: request.incarnation,
                host: request.host.clone(),
                pid: request.pid,
                mount_point: request.mount_point.clone(),
            })
            .await?;
        let SessionChanged::Opened { session, fresh } = opened else {
            return Err(Error::new(
                ErrorCode::Internal,
                "a session was opened without a number",
            ));
        };
        let leader_life = {
            let mut core = self.leading()?;
            if core.sessions.contains_key(&session) {
                if !core.clock.renew(session, self.now()) {
                    return Err(Error::new(
                        ErrorCode::SessionEnded,
                        format!("{session} is ending"),
                    )
                    .with_detail(session.0));
                }
            } else {
                log::info!(
                    "{session} begins: {} on {}, pid {}",
                    request.mount_point,
                    request.host,
                    request.pid
                );
                core.clock.begin(session, self.now());
                core.begin_session(SessionInfo {
                    session,
                    phase: SessionPhase::Alive,
                    incarnation: request.incarnation,
                    host: request.host,
                    pid: request.pid,
                    mount_point: request.mount_point,
                    began: Some(clock().seconds),
                });
            }
            if fresh && core.grace.settle(session) {
                // It is so new that there is nothing to reclaim.
                self.changed();
            }
            core.life
        };
        log::debug!("{session} opened over {connection:?}, new: {fresh}");
        self.bind(session, &connection)?;
        Ok(SessionOpened {
            session,
            map: (*self.placement().map()).clone(),
            clock_ns: clock_ns(),
            leader_life,
            members: self.raft().members(),
        })
    }

    pub(super) async fn heartbeat(
        self,
        connection: Connection,
        request: Heartbeat,
        received: Moment,
    ) -> Result<HeartbeatAck> {
        let session = request.session;
        // The session is renewed before the mount can hear of it, never the other way round.
        let leader_life = {
            let mut core = self.alive(session)?;
            core.clock.renew(session, received);
            core.life
        };
        self.bind(session, &connection)?;
        if !request.unreachable.is_empty() {
            let mut runs = request.unreachable;
            runs.truncate(UNREACHABLE_MAX);
            self.placement().unreachable(session, runs);
        }
        // An acknowledgement extends rights: only one who surely leads may give it.
        let members = self.raft().read(|tables| members::list(tables)).await?;
        if self.alive(session)?.life != leader_life {
            return Err(ErrorCode::NotLeader.into());
        }
        Ok(HeartbeatAck {
            map_version: self.placement().map().version,
            clock_ns: clock_ns(),
            leader_life,
            members,
        })
    }

    /// The mount has flushed and has nothing in flight: it goes at once.
    pub(super) async fn goodbye(self, request: EndSession) -> Result<()> {
        let session = request.session;
        {
            let mut core = self.leading()?;
            if !core.clock.begin_end(session) {
                // A repeat: the first one does it, or has done it.
                return Ok(());
            }
        }
        log::info!("{session} says goodbye");
        let begun = self
            .commit_session(SessionCommand::BeginEnd { session })
            .await;
        let ended = match begun {
            Ok(_) => {
                self.commit_session(SessionCommand::FinishEnd { session })
                    .await
            }
            Err(e) => Err(e),
        };
        match ended {
            Ok(_)
            | Err(Error {
                code: ErrorCode::SessionEnded,
                ..
            }) => {
                self.free_session(session);
                // The mount has nothing in flight, so nobody waits for this.
                let placement = self.placement().clone();
                tokio::spawn(async move {
                    if let Err(e) = placement.fence(session).await {
                        log::debug!("the fence of {session} is given up: {e}");
                    }
                });
                Ok(())
            }
            Err(e) => {
                // It may be in the log already: there is no way back.
                tokio::spawn(self.clone().finish_ending(session));
                Err(e)
            }
        }
    }

    /// Callbacks to the session go over this connection from now on.
    pub(super) fn bind(&self, session: SessionId, connection: &Connection) -> Result<()> {
        {
            let mut core = self.alive(session)?;
            let present = core.present(session)?;
            if present
                .connection
                .as_ref()
                .is_some_and(|c| c.id() == connection.id())
            {
                return Ok(());
            }
            if connection.is_closed() {
                return Err(ErrorCode::Disconnected.into());
            }
            present.connection = Some(connection.clone());
        }
        self.changed();
        tokio::spawn(push_maps(self.clone(), connection.clone()));
        Ok(())
    }

    /// The connection has ended. The session lives on until its time is over.
    pub(super) fn unbind(&self, connection: &Connection) {
        let mut core = self.core();
        for present in core.sessions.values_mut() {
            if present
                .connection
                .as_ref()
                .is_some_and(|c| c.id() == connection.id())
            {
                log::info!("{} is not connected any more", present.info.session);
                present.connection = None;
            }
        }
    }
}

/// Tells one mount of every new map; of several that come while it is slow, the last.
async fn push_maps(api: MountApi, connection: Connection) {
    let mut maps = api.placement().subscribe();
    loop {
        tokio::select! {
            biased;
            () = connection.closed() => return,
            changed = maps.changed() => if changed.is_err() { return },
        }
        let map = (**maps.borrow_and_update()).clone();
        let push = MapChanged { map };
        if let Err(e) = connection
            .call(&push, Payload::default(), REQUEST_DEADLINE)
            .await
        {
            // The heartbeat's answer names the map's version: the mount asks for it.
            log::debug!("{connection:?} was not told of the new map: {e}");
        }
    }
}
