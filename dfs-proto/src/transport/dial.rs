//! Making a connection.

use super::greet::{GreetError, greet};
use super::socket::{configure, resolve};
use super::{Bounds, Connection, Service, reader};
use crate::error::{Error, ErrorCode, Result};
use crate::handshake::Identity;
use crate::timing::{CONNECT_DEADLINE, TCP_USER_TIMEOUT};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;

/// Connects to `HOST:PORT`, which is resolved now; its addresses are tried in turn. Requests
/// that come over the connection go to `service`. Runs in the present tokio runtime, and so do
/// the connection's tasks.
pub async fn connect(
    address: &str,
    identity: Arc<Identity>,
    service: Arc<dyn Service>,
) -> Result<Connection> {
    let mut last = None;
    for target in resolve(address).await? {
        match attempt(address, target, &identity).await {
            Ok((stream, peer)) => {
                return Ok(reader::start(
                    stream,
                    peer,
                    target,
                    service,
                    Bounds::default(),
                ));
            }
            // Another address of the same name is the same cluster's.
            Err(e) if e.code == ErrorCode::HandshakeRefused => return Err(e),
            Err(e) => last = Some(e),
        }
    }
    Err(last.unwrap_or_else(|| ErrorCode::Disconnected.into()))
}

async fn attempt(
    address: &str,
    target: SocketAddr,
    identity: &Identity,
) -> Result<(TcpStream, crate::handshake::Hello)> {
    let failed = |what: String| {
        Error::new(
            ErrorCode::Disconnected,
            format!("cannot connect to {address} ({target}): {what}"),
        )
    };
    let mut stream = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(target))
        .await
        .map_err(|_| failed(format!("no answer within {CONNECT_DEADLINE:?}")))?
        .map_err(|e| failed(e.to_string()))?;
    configure(&stream);
    // A process that is stopped still has its kernel accept connections.
    let greeted = tokio::time::timeout(TCP_USER_TIMEOUT, greet(&mut stream, identity))
        .await
        .map_err(|_| failed(format!("no handshake within {TCP_USER_TIMEOUT:?}")))?;
    match greeted {
        Ok(peer) => Ok((stream, peer)),
        Err(GreetError::Io(e)) => Err(failed(GreetError::Io(e).to_string())),
        Err(e) => Err(Error::new(
            ErrorCode::HandshakeRefused,
            format!("{address} ({target}): {e}"),
        )),
    }
}
