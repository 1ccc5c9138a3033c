//! Connections to other file servers, made when something is to be asked.
//!
//! Addresses come with the epochs. A connection is to one run of a server: if another run
//! answers there, the asked one is gone.

use crate::replica::{Request, Response};
use dfs_proto::cluster::ServerEntry;
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::ServerRun;
use dfs_proto::payload::Payload;
use dfs_proto::timing::{RETRY_DELAY_MAX, RETRY_DELAY_MIN};
use dfs_proto::transport::{Connection, Identity, NoService, connect};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Runs whose addresses are remembered; the oldest go.
const ADDRESSES_MAX: usize = 4096;

/// The other file servers.
#[derive(Debug)]
pub struct Peers {
    identity: Arc<Identity>,
    known: Mutex<HashMap<ServerRun, Arc<Peer>>>,
}

#[derive(Debug)]
struct Peer {
    address: String,
    link: tokio::sync::Mutex<Link>,
}

#[derive(Debug, Default)]
struct Link {
    connection: Option<Connection>,
    /// After a failed attempt: no new one before that time.
    refused_until: Option<Instant>,
    delay: Duration,
}

impl Peers {
    pub fn new(identity: Arc<Identity>) -> Arc<Self> {
        Arc::new(Self {
            identity,
            known: Mutex::default(),
        })
    }

    /// Takes addresses over.
    pub fn learn(&self, servers: &[ServerEntry]) {
        let mut known = self.known();
        for server in servers {
            let present = known.get(&server.run);
            if present.is_some_and(|peer| peer.address == server.address) {
                continue;
            }
            // Another run of the same server is over.
            known.retain(|run, _| run.server != server.run.server);
            if known.len() >= ADDRESSES_MAX {
                return;
            }
            let peer = Peer {
                address: server.address.clone(),
                link: tokio::sync::Mutex::default(),
            };
            known.insert(server.run, Arc::new(peer));
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<ServerRun, Arc<Peer>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks a server, at most for `deadline` in all.
    pub async fn ask(
        &self,
        to: ServerRun,
        request: Request,
        payload: Payload,
        deadline: Duration,
    ) -> Result<(Response, Payload), Error> {
        let end = Instant::now() + deadline;
        let connected = tokio::time::timeout(deadline, self.connection(to)).await;
        let connection = connected.map_err(|_| Error::bare(ErrorCode::DeadlineExceeded))??;
        let left = end.saturating_duration_since(Instant::now());
        call(&connection, request, payload, left).await
    }

    async fn connection(&self, to: ServerRun) -> Result<Connection, Error> {
        let peer = self.known().get(&to).cloned().ok_or_else(|| {
            Error::new(
                ErrorCode::Disconnected,
                format!("no address of {to} is known"),
            )
        })?;
        let mut link = peer.link.lock().await;
        if let Some(connection) = &link.connection
            && !connection.is_closed()
        {
            return Ok(connection.clone());
        }
        link.connection = None;
        if link
            .refused_until
            .is_some_and(|until| Instant::now() < until)
        {
            let text = format!("{to} at {} could not be reached just now", peer.address);
            return Err(Error::new(ErrorCode::Disconnected, text));
        }
        match self.attempt(to, &peer.address).await {
            Ok(connection) => {
                link.connection = Some(connection.clone());
                link.refused_until = None;
                link.delay = Duration::ZERO;
                Ok(connection)
            }
            Err(error) => {
                link.delay = (link.delay * 2).clamp(RETRY_DELAY_MIN, RETRY_DELAY_MAX);
                link.refused_until = Some(Instant::now() + link.delay);
                Err(error)
            }
        }
    }

    async fn attempt(&self, to: ServerRun, address: &str) -> Result<Connection, Error> {
        // Others ask over connections of their own making.
        let service = Arc::new(NoService);
        let connection = connect(address, self.identity.clone(), service).await?;
        let there = connection.peer().incarnation;
        if there != to.incarnation {
            connection.close("another run of the server is asked for");
            return Err(Error::new(
                ErrorCode::Disconnected,
                format!("at {address} is {there}, not {to}"),
            ));
        }
        Ok(connection)
    }
}

async fn call(
    connection: &Connection,
    request: Request,
    payload: Payload,
    deadline: Duration,
) -> Result<(Response, Payload), Error> {
    macro_rules! call {
        ($message:expr, $response:expr) => {
            connection
                .call(&$message, payload, deadline)
                .await
                .map(|(response, payload)| ($response(response), payload))
        };
    }
    let done = |()| Response::Done;
    match request {
        Request::Forward(r) => call!(r, Response::Forwarded),
        Request::Marks(r) => call!(r, Response::Marks),
        Request::List(r) => call!(r, Response::Page),
        Request::States(r) => call!(r, Response::States),
        Request::InstallFloors(r) => call!(r, done),
        Request::Fetch(r) => call!(r, Response::Image),
        Request::Install(r) => call!(r, done),
        Request::SyncGroup(r) => call!(r, done),
        Request::Committed(r) => call!(r, done),
        Request::Check(r) => call!(r, Response::Checked),
        Request::Read(_)
        | Request::Write(_)
        | Request::Sync(_)
        | Request::Find(_)
        | Request::Stored(_)
        | Request::Adopt(_)
        | Request::Equalise(_)
        | Request::Effective(_)
        | Request::Cut(_)
        | Request::Fence(_)
        | Request::Measure(_)
        | Request::Release(_)
        | Request::ScrubKeys(_)
        | Request::ScrubChunk(_) => Err(Error::new(
            ErrorCode::Internal,
            "servers do not ask each other this",
        )),
    }
}
