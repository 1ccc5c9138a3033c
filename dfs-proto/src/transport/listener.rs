//! Accepting connections.

use super::greet::{GreetError, receive};
use super::socket::{configure, resolve};
use super::{Bounds, Connection, Service, connection::Shared, reader};
use crate::error::{Error, ErrorCode, Result};
use crate::handshake::{Hello, Identity, Role};
use crate::ids::{Incarnation, NodeId};
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How long a stopping process waits for the requests that it is serving.
const DRAIN: Duration = Duration::from_millis(1_000);

/// A run of a process: it has one connection to here at a time.
type Run = (Role, NodeId, Incarnation);

/// A bound port.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    pub(super) bounds: Bounds,
}

impl Listener {
    /// Binds to `HOST:PORT`; port 0 is a free one. Without a secret only loopback is allowed:
    /// anybody who reaches the port could read and change every file.
    pub async fn bind(address: &str, identity: &Identity) -> Result<Self> {
        let failed = |what: String| {
            Error::new(
                ErrorCode::InvalidArgument,
                format!("cannot listen on {address}: {what}"),
            )
        };
        let targets = resolve(address).await?;
        if identity.secret.is_none() && targets.iter().any(|target| !target.ip().is_loopback()) {
            return Err(failed(
                "beyond loopback a cluster secret is required (--secret-file)".into(),
            ));
        }
        let socket = TcpListener::bind(&targets[..])
            .await
            .map_err(|e| failed(e.to_string()))?;
        let address = socket.local_addr().map_err(|e| failed(e.to_string()))?;
        Ok(Self {
            socket,
            address,
            bounds: Bounds::default(),
        })
    }

    /// The address that it is bound to, with the port that was chosen.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until `shutdown` completes, then drains all connections that were accepted and
    /// returns.
    pub async fn run(
        self,
        identity: Arc<Identity>,
        service: Arc<dyn Service>,
        shutdown: impl Future<Output = ()> + Send,
    ) {
        let hall = Arc::new(Hall {
            identity,
            service,
            bounds: self.bounds,
            places: Arc::new(Semaphore::new(self.bounds.handshakes)),
            present: Mutex::default(),
            complaints: Complaints::default(),
        });
        let mut tasks = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
                accepted = self.socket.accept() => match accepted {
                    Ok((stream, address)) => match hall.places.clone().try_acquire_owned() {
                        Ok(place) => {
                            tasks.spawn(hall.clone().admit(stream, address, place));
                        }
                        Err(_) => hall.complaints.log(address, &"too many unfinished handshakes"),
                    },
                    Err(e) => {
                        // Out of descriptors, most likely: connections that end free some.
                        hall.complaints.log(self.address, &format_args!("accepting failed: {e}"));
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        drop(self.socket);
        hall.drain().await;
    }
}

/// What the tasks of one listener share.
struct Hall {
    identity: Arc<Identity>,
    service: Arc<dyn Service>,
    bounds: Bounds,
    places: Arc<Semaphore>,
    present: Mutex<HashMap<Run, Connection>>,
    complaints: Complaints,
}

impl Hall {
    fn present(&self) -> MutexGuard<'_, HashMap<Run, Connection>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One connection from its first byte to its end.
    async fn admit(
        self: Arc<Self>,
        mut stream: TcpStream,
        address: SocketAddr,
        place: tokio::sync::OwnedSemaphorePermit,
    ) {
        configure(&stream);
        let handshake = receive(&mut stream, &self.identity);
        let peer = match tokio::time::timeout(self.bounds.handshake, handshake).await {
            Ok(Ok(peer)) => peer,
            Ok(Err(e)) => {
                // Who merely looks whether the port is open is no news.
                if !matches!(&e, GreetError::Io(_)) {
                    self.complaints.log(address, &e);
                }
                return;
            }
            Err(_) => {
                self.complaints.log(address, &"no handshake in time");
                return;
            }
        };
        drop(place);
        // The connection's own task, not this one, holds what it needs: large futures of the
        // handshake are gone by then.
        self.serve(stream, peer, address).await;
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, peer: Hello, address: SocketAddr) {
        let run = (peer.role, peer.node, peer.incarnation);
        let connection = Connection {
            shared: Arc::new(Shared::new(peer, address)),
        };
        let old = self.present().insert(run, connection.clone());
        if let Some(old) = old {
            old.close("a newer connection of the same run has replaced it");
            // Its `disconnected` comes before our `connected`.
            old.shared.ended().await;
        }
        if connection.is_closed() {
            // A still newer one came while this one waited; it waits for us in turn.
            connection.shared.mark_ended();
            return;
        }
        Box::pin(reader::run(
            connection.clone(),
            stream,
            self.service.clone(),
            self.bounds,
        ))
        .await;
        let mut present = self.present();
        if present.get(&run).is_some_and(|c| c.id() == connection.id()) {
            present.remove(&run);
        }
    }

    /// Drains what is connected, all at once.
    async fn drain(&self) {
        let mut draining = JoinSet::new();
        for connection in self.present().values().cloned().collect::<Vec<_>>() {
            draining.spawn(async move {
                connection.drain(DRAIN, "the process is stopping").await;
                connection.shared.ended().await;
            });
        }
        while draining.join_next().await.is_some() {}
    }
}

/// Log lines about strangers: at most one a second, so that nobody can fill the log.
#[derive(Default)]
struct Complaints {
    last: Mutex<(Option<Instant>, u64)>,
}

impl Complaints {
    fn log(&self, address: SocketAddr, what: &dyn fmt::Display) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last
            .0
            .is_some_and(|at| at.elapsed() < Duration::from_secs(1))
        {
            last.1 += 1;
            return;
        }
        let unsaid = std::mem::take(&mut last.1);
        last.0 = Some(Instant::now());
        drop(last);
        if unsaid == 0 {
            log::warn!("connection from {address} closed: {what}");
        } else {
            log::warn!("connection from {address} closed: {what} ({unsaid} more before it)");
        }
    }
}
