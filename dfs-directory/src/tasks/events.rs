//! What file servers and the other tasks say to the governor's task.

use crate::governor::{self, Order, Reply};
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{ServerRun, SessionId};
use dfs_proto::msg::registry::{
    Heard, ProposeInSync, RegisterServer, ReportSlow, ReportSuspect, ServerHeartbeat,
    ServerRegistered,
};
use dfs_proto::transport::Connection;
use tokio::sync::{mpsc, oneshot};

/// Events that may wait for the governor; senders wait beyond that.
pub(super) const EVENTS_MAX: usize = 1024;

#[derive(Debug)]
pub(super) enum Event {
    Register {
        connection: Connection,
        request: RegisterServer,
        reply: oneshot::Sender<Reply>,
    },
    Heartbeat {
        connection: u64,
        request: ServerHeartbeat,
        reply: oneshot::Sender<Reply>,
    },
    Propose {
        request: ProposeInSync,
        reply: oneshot::Sender<Reply>,
    },
    GoOn {
        reply: oneshot::Sender<Reply>,
    },
    Order {
        order: Order,
        reply: oneshot::Sender<Reply>,
    },
    /// What nobody waits for an answer to.
    Said(governor::Event),
}

impl Event {
    /// Answers what wants an answer: this member does not lead.
    pub(super) fn refuse(self, error: Error) {
        match self {
            Self::Register { reply, .. } => drop(reply.send(Reply::Registered(Err(error)))),
            Self::Heartbeat { reply, .. } => drop(reply.send(Reply::Heard(Err(error)))),
            Self::Propose { reply, .. } | Self::Order { reply, .. } | Self::GoOn { reply } => {
                drop(reply.send(Reply::Done(Err(error))));
            }
            Self::Said(_) => {}
        }
    }
}

/// What file servers, and people who look after them, say to the governor.
#[derive(Clone, Debug)]
pub struct ServerEvents(pub(super) mpsc::Sender<Event>);

impl ServerEvents {
    /// Nobody listens.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn to_nobody() -> Self {
        Self(mpsc::channel(1).0)
    }

    /// A run of a server is there, to be called on this connection from now on.
    pub async fn register(
        &self,
        connection: Connection,
        request: RegisterServer,
    ) -> Result<ServerRegistered> {
        let reply = self
            .ask(|reply| Event::Register {
                connection,
                request,
                reply,
            })
            .await?;
        match reply {
            Reply::Registered(answer) => answer,
            other => Err(unfitting(&other)),
        }
    }

    /// A sign of life. `NotRegistered` when this connection has not registered that run.
    pub async fn heartbeat(&self, connection: u64, request: ServerHeartbeat) -> Result<Heard> {
        let reply = self
            .ask(|reply| Event::Heartbeat {
                connection,
                request,
                reply,
            })
            .await?;
        match reply {
            Reply::Heard(answer) => answer,
            other => Err(unfitting(&other)),
        }
    }

    /// What a person wants of servers or of the cluster. Answered when it is logged;
    /// `InvalidArgument` if there is no such server, `NotLeader` if this member does not lead.
    pub(crate) async fn order(&self, order: Order) -> Result<()> {
        done(self.ask(|reply| Event::Order { order, reply }).await?)
    }

    /// A member does not answer another one.
    pub async fn suspect(&self, report: ReportSuspect) -> Result<()> {
        let event = Event::Said(governor::Event::Suspect(report));
        self.0.send(event).await.map_err(|_| stopping())
    }

    /// A mount cannot reach these servers. It says so again: a full queue may drop it.
    pub(crate) fn unreachable(&self, session: SessionId, runs: Vec<ServerRun>) {
        let event = Event::Said(governor::Event::Unreachable { session, runs });
        if self.0.try_send(event).is_err() {
            log::debug!("what {session} cannot reach waits for its next heartbeat");
        }
    }

    /// A member holds everybody up.
    pub async fn slow(&self, report: ReportSlow) -> Result<()> {
        let event = Event::Said(governor::Event::Slow(report));
        self.0.send(event).await.map_err(|_| stopping())
    }

    /// A joining member is up to date. Answered when the epoch that says so is logged;
    /// `WrongEpoch` (with the group's last epoch) if it was not.
    pub async fn propose(&self, request: ProposeInSync) -> Result<()> {
        done(self.ask(|reply| Event::Propose { request, reply }).await?)
    }

    /// Groups do not wait any more for servers that served last. How many they are.
    pub async fn go_on(&self) -> Result<u32> {
        match self.ask(|reply| Event::GoOn { reply }).await? {
            Reply::GoesOn(groups) => Ok(groups),
            other => Err(unfitting(&other)),
        }
    }

    async fn ask(&self, event: impl FnOnce(oneshot::Sender<Reply>) -> Event) -> Result<Reply> {
        let (reply, answer) = oneshot::channel();
        self.0.send(event(reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| deposed())
    }
}

fn done(reply: Reply) -> Result<()> {
    match reply {
        Reply::Done(answer) => answer,
        other => Err(unfitting(&other)),
    }
}

fn unfitting(answer: &Reply) -> Error {
    Error::new(
        ErrorCode::Internal,
        format!("an answer to something else: {answer:?}"),
    )
}

pub(super) fn stopping() -> Error {
    Error::new(ErrorCode::ShuttingDown, "the directory is stopping")
}

/// Who was to answer has ended with this member's lead.
pub(super) fn deposed() -> Error {
    Error::new(ErrorCode::NotLeader, "this member has lost the lead")
}

/// Whether a failed change or read means that this member does not lead any more, or never will.
pub(super) fn ends_reign(e: &Error) -> bool {
    matches!(
        e.code,
        ErrorCode::NotLeader | ErrorCode::StorageFailed | ErrorCode::ShuttingDown
    )
}
