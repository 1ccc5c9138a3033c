//! Options of every TCP socket, and names that become addresses.

use crate::error::{Error, ErrorCode, Result};
use crate::timing::{CONNECT_DEADLINE, TCP_USER_TIMEOUT};
use socket2::{SockRef, TcpKeepalive};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

/// Sets what every connection needs. An option that this kernel lacks costs speed or time to
/// notice a death, not correctness: it is only logged.
pub(super) fn configure(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(1))
        .with_interval(Duration::from_secs(1))
        .with_retries(3);
    let set = stream
        .set_nodelay(true)
        .and_then(|()| socket.set_tcp_keepalive(&keepalive))
        .and_then(|()| socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT)));
    if let Err(e) = set {
        log::debug!("socket options: {e}");
    }
    // bbr, where it is the default, halves the throughput on loopback and in one rack.
    if let Err(e) = socket.set_tcp_congestion(b"cubic") {
        log::debug!("congestion control cubic: {e}");
    }
}

/// All addresses that `HOST:PORT` stands for at this moment.
pub(super) async fn resolve(address: &str) -> Result<Vec<SocketAddr>> {
    let failed = |what: String| {
        Error::new(
            ErrorCode::Disconnected,
            format!("cannot resolve {address}: {what}"),
        )
    };
    // A literal needs no resolver, and no thread for it.
    if let Ok(literal) = address.parse() {
        return Ok(vec![literal]);
    }
    let found = tokio::time::timeout(CONNECT_DEADLINE, tokio::net::lookup_host(address))
        .await
        .map_err(|_| failed(format!("no answer within {CONNECT_DEADLINE:?}")))?
        .map_err(|e| failed(e.to_string()))?;
    let found: Vec<SocketAddr> = found.collect();
    if found.is_empty() {
        return Err(failed("no address".into()));
    }
    Ok(found)
}
