//! What file servers call: registration, heartbeats, suspicions, proposals.
//!
//! A thin layer: it checks that a server speaks for itself, and hands over to the tasks.

use crate::tasks::ServerEvents;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{Incarnation, ServerRun};
use dfs_proto::msg::Request;
use dfs_proto::msg::registry::{
    ProposeInSync, RegisterServer, ReportSlow, ReportSuspect, ServerHeartbeat,
};
use dfs_proto::payload::Payload;
use dfs_proto::transport::{Connection, Incoming, Role, Service};

/// Longest address of a server: a host name (253) and a port.
const ADDRESS_BYTES_MAX: usize = 260;

/// The service for file servers.
#[derive(Clone, Debug)]
pub struct ServerApi {
    events: ServerEvents,
}

impl ServerApi {
    pub fn new(events: ServerEvents) -> Self {
        Self { events }
    }

    /// Whether a method is served here.
    pub fn serves(method: u16) -> bool {
        method >> 8 == 0x04
    }

    fn spawn<R, F>(
        &self,
        incoming: Incoming,
        handle: impl FnOnce(ServerEvents, Connection, R) -> F + Send + 'static,
    ) where
        R: Request + Speaks,
        F: Future<Output = Result<R::Response>> + Send,
    {
        let events = self.events.clone();
        let checked = incoming.decode::<R>().and_then(|request| {
            check(&incoming.connection, &request)?;
            Ok(request)
        });
        match checked {
            Ok(request) => {
                tokio::spawn(async move {
                    let connection = incoming.connection.clone();
                    let answer = handle(events, connection, request).await;
                    incoming.answer::<R>(answer, Payload::default());
                });
            }
            Err(e) => incoming.refuse(e),
        }
    }
}

impl Service for ServerApi {
    fn serve(&self, incoming: Incoming) {
        match incoming.method {
            RegisterServer::METHOD => {
                self.spawn(
                    incoming,
                    |events, connection, request: RegisterServer| async move {
                        if request.address.is_empty() || request.address.len() > ADDRESS_BYTES_MAX {
                            return Err(Error::new(
                                ErrorCode::InvalidArgument,
                                "a server's address is HOST:PORT",
                            ));
                        }
                        events.register(connection, request).await
                    },
                );
            }
            ServerHeartbeat::METHOD => {
                self.spawn(incoming, |events, connection, request| async move {
                    events.heartbeat(connection.id(), request).await
                });
            }
            ReportSuspect::METHOD => {
                self.spawn(incoming, |events, _, request| async move {
                    events.suspect(request).await
                });
            }
            ReportSlow::METHOD => {
                self.spawn(incoming, |events, _, request| async move {
                    events.slow(request).await
                });
            }
            ProposeInSync::METHOD => {
                self.spawn(incoming, |events, _, request| async move {
                    events.propose(request).await
                });
            }
            _ => incoming.refuse_unknown(),
        }
    }
}

/// Whose run a request speaks for.
trait Speaks {
    fn incarnation(&self) -> Incarnation;
}

impl Speaks for RegisterServer {
    fn incarnation(&self) -> Incarnation {
        self.incarnation
    }
}

impl Speaks for ServerHeartbeat {
    fn incarnation(&self) -> Incarnation {
        self.run.incarnation
    }
}

impl Speaks for ReportSuspect {
    fn incarnation(&self) -> Incarnation {
        self.from.incarnation
    }
}

impl Speaks for ReportSlow {
    fn incarnation(&self) -> Incarnation {
        self.from.incarnation
    }
}

impl Speaks for ProposeInSync {
    fn incarnation(&self) -> Incarnation {
        let ServerRun { incarnation, .. } = self.from;
        incarnation
    }
}

/// A file server speaks for its own run only.
fn check(connection: &Connection, request: &impl Speaks) -> Result<()> {
    let peer = connection.peer();
    if peer.role == Role::FileServer && peer.incarnation == request.incarnation() {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::NotPermitted,
        "only a file server may say this, and only of itself",
    ))
}
