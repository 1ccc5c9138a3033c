//! What reaches the governor: from file servers, and from the calls that it made.

use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{Epoch, GroupId, ServerId, ServerRun};
use dfs_proto::msg::control::{EpochsAdopted, GroupsEqualised};
use dfs_proto::msg::registry::{
    ProposeInSync, RegisterServer, ReportSuspect, ServerHeartbeat, ServerRegistered,
};
use dfs_proto::transport::Connection;
use tokio::sync::{mpsc, oneshot};

/// Events that may wait for the governor; senders wait beyond that.
pub(super) const EVENTS_MAX: usize = 1024;

/// A call that the governor made to a server.
#[derive(Debug)]
pub(super) struct Called {
    pub(super) run: ServerRun,
    /// Id of the connection on which it was made.
    pub(super) connection: u64,
    pub(super) asked: Vec<(GroupId, Epoch)>,
}

#[derive(Debug)]
pub(super) enum Event {
    Register {
        connection: Connection,
        request: RegisterServer,
        reply: oneshot::Sender<Result<ServerRegistered>>,
    },
    Heartbeat {
        connection: u64,
        request: ServerHeartbeat,
        reply: oneshot::Sender<Result<()>>,
    },
    Closed {
        connection: u64,
    },
    /// Time has passed for something.
    Look,
    Suspect(ReportSuspect),
    Propose {
        request: ProposeInSync,
        reply: oneshot::Sender<Result<()>>,
    },
    /// A server gives signs of life but did not acknowledge what it must: it leaves its groups.
    Unanswered {
        server: ServerId,
        run: ServerRun,
    },
    /// A joining server does not do what its groups need: it is left aside for a while.
    Unable {
        server: ServerId,
    },
    Adopted(Called, Result<EpochsAdopted>),
    Equalised(Called, Result<GroupsEqualised>),
    Told(Called, Result<()>),
}

impl Event {
    /// Answers what wants an answer: this member does not lead.
    pub(super) fn refuse(self, error: Error) {
        match self {
            Self::Register { reply, .. } => drop(reply.send(Err(error))),
            Self::Heartbeat { reply, .. } | Self::Propose { reply, .. } => {
                drop(reply.send(Err(error)));
            }
            Self::Closed { .. }
            | Self::Look
            | Self::Suspect(_)
            | Self::Unanswered { .. }
            | Self::Unable { .. }
            | Self::Adopted(..)
            | Self::Equalised(..)
            | Self::Told(..) => {}
        }
    }
}

/// The side of the file servers: what they say, for the governor.
#[derive(Clone, Debug)]
pub struct ServerEvents(pub(super) mpsc::Sender<Event>);

impl ServerEvents {
    /// A run of a server is there, to be called on this connection from now on.
    pub async fn register(
        &self,
        connection: Connection,
        request: RegisterServer,
    ) -> Result<ServerRegistered> {
        self.ask(|reply| Event::Register {
            connection,
            request,
            reply,
        })
        .await
    }

    /// A sign of life. `NotRegistered` when this connection has not registered that run.
    pub async fn heartbeat(&self, connection: u64, request: ServerHeartbeat) -> Result<()> {
        self.ask(|reply| Event::Heartbeat {
            connection,
            request,
            reply,
        })
        .await
    }

    /// A member does not answer another one.
    pub async fn suspect(&self, report: ReportSuspect) -> Result<()> {
        self.0
            .send(Event::Suspect(report))
            .await
            .map_err(|_| stopping())
    }

    /// A joining member is up to date. Answered when the epoch that says so is logged;
    /// `WrongEpoch` (with the group's last epoch) if it was not.
    pub async fn propose(&self, request: ProposeInSync) -> Result<()> {
        self.ask(|reply| Event::Propose { request, reply }).await
    }

    async fn ask<T>(&self, event: impl FnOnce(oneshot::Sender<Result<T>>) -> Event) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.0.send(event(reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| deposed())?
    }
}

pub(super) fn stopping() -> Error {
    Error::new(ErrorCode::ShuttingDown, "the directory is stopping")
}

/// Who was to answer has ended with this member's lead.
pub(super) fn deposed() -> Error {
    Error::new(ErrorCode::NotLeader, "this member has lost the lead")
}
