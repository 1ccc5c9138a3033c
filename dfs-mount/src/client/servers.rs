//! Connections to the file servers: one to each, made when it is needed, bound to the session.

use super::clock;
use super::core::Core;
use super::guard::lock;
use super::reach::SLOW_CALL;
use super::session::Session;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{ClusterId, Incarnation, ServerId, ServerRun, SessionId};
use dfs_proto::msg::chunk::BindSession;
use dfs_proto::payload::Payload;
use dfs_proto::timing::CONNECT_DEADLINE;
use dfs_proto::transport::{Connection, Identity, NoService, Role, connect};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

/// After a failure a server is not dialled again for this long: the callers that wait behind
/// one attempt share its outcome.
const REDIAL_AFTER: Duration = Duration::from_millis(20);

/// The file servers that were needed so far.
#[derive(Debug, Default)]
pub(super) struct Servers {
    slots: Mutex<BTreeMap<ServerId, Arc<tokio::sync::Mutex<Slot>>>>,
    cluster: Mutex<Option<ClusterId>>,
    /// Servers that are being looked for, and the runs of those that were not found.
    pub(super) sought: Mutex<BTreeMap<ServerId, Option<ServerRun>>>,
    /// A server could not be reached that was before.
    pub(super) lost: Notify,
}

#[derive(Debug, Default)]
struct Slot {
    bound: Option<Bound>,
    failed: Option<(u64, Error)>,
}

#[derive(Debug)]
struct Bound {
    connection: Connection,
    session: SessionId,
    address: String,
}

impl Servers {
    /// The cluster, learnt from the directory.
    pub(super) fn set_cluster(&self, cluster: Option<ClusterId>) {
        *lock(&self.cluster) = cluster;
    }

    fn slot(&self, server: ServerId) -> Arc<tokio::sync::Mutex<Slot>> {
        lock(&self.slots).entry(server).or_default().clone()
    }

    /// Ends the connection to one server.
    pub(super) async fn hang_up(&self, server: ServerId, why: &str) {
        let slot = self.slot(server);
        if let Some(bound) = slot.lock().await.bound.take() {
            bound.connection.close(why);
        }
    }

    /// Closes all connections.
    pub(super) async fn close(&self, why: &str) {
        let slots: Vec<_> = lock(&self.slots).values().cloned().collect();
        for slot in slots {
            if let Some(bound) = slot.lock().await.bound.take() {
                bound.connection.close(why);
            }
        }
    }
}

impl Core {
    /// A connection to a server on which the requests are of `session`.
    pub(super) async fn server(
        self: &Arc<Self>,
        server: ServerId,
        session: &Arc<Session>,
    ) -> Result<Connection> {
        let map = self.map.get();
        let Some(entry) = map.server(server) else {
            return Err(Error::new(
                ErrorCode::Disconnected,
                format!("{server} is not in the cluster map"),
            ));
        };
        if self.is_unreachable(entry.run) {
            return Err(Error::new(
                ErrorCode::Disconnected,
                format!("{server} cannot be reached from here at present"),
            ));
        }
        let slot = self.servers.slot(server);
        let mut slot = slot.lock().await;
        if let Some(bound) = &slot.bound
            && bound.session == session.id
            && !bound.connection.is_closed()
        {
            // The same run under another address does not exist: a restart closes connections.
            if bound.address == entry.address {
                return Ok(bound.connection.clone());
            }
            bound.connection.close("the server has another address now");
        }
        if let Some((at, error)) = &slot.failed
            && clock::elapsed(*at) < REDIAL_AFTER
        {
            return Err(error.clone());
        }
        slot.bound = None;
        let begun = clock::now();
        match self.dial(server, &entry.address, session).await {
            Ok(connection) => {
                slot.failed = None;
                slot.bound = Some(Bound {
                    connection: connection.clone(),
                    session: session.id,
                    address: entry.address.clone(),
                });
                Ok(connection)
            }
            Err(error) => {
                // A refusal comes at once, and the directory knows of it; silence does not.
                if clock::elapsed(begun) > SLOW_CALL {
                    self.seek(server);
                }
                slot.failed = Some((clock::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Who this mount is to file servers.
    pub(super) fn identity(&self, incarnation: Incarnation) -> Identity {
        Identity {
            cluster: *lock(&self.servers.cluster),
            node: self.node,
            incarnation,
            role: Role::Mount,
            secret: self.options.secret.clone(),
        }
    }

    /// On the data runtime, whoever asks: the connection's tasks live there.
    async fn dial(
        self: &Arc<Self>,
        server: ServerId,
        address: &str,
        session: &Arc<Session>,
    ) -> Result<Connection> {
        let identity = Arc::new(self.identity(self.incarnation));
        let address = address.to_owned();
        let bind = BindSession {
            session: session.id,
        };
        let dialled = self.data.spawn(async move {
            let connection = connect(&address, identity, Arc::new(NoService)).await?;
            connection
                .call(&bind, Payload::default(), CONNECT_DEADLINE)
                .await?;
            log::debug!("connected to {server} at {address}");
            Ok(connection)
        });
        let result = dialled.await;
        result.unwrap_or_else(|_| Err(Error::bare(ErrorCode::ShuttingDown)))
    }
}
