//! The multiplexed connection between two processes: requests and replies in both directions
//! over one TCP connection.
//!
//! * Frames of one direction arrive in the order in which they were submitted. A reply completes
//!   its call's future, while a request is served at once: what a reply says may be processed
//!   *after* a request that came behind it.
//! * In flight is bounded, by number and by payload bytes, at the sender: a caller waits for a
//!   place. The receiver closes a connection that exceeds the bounds. Replies never wait for a
//!   place: the request that they answer has one, and frees it.
//! * A call that is given up (dropped, or past its deadline) keeps its place until the other
//!   side has answered, so that slow work over there stays bounded too.
//! * A connection ends as a whole: every call in it then ends with `Disconnected`.
//!
//! It retries nothing and knows no method; that is its callers' part.

mod connection;
mod dial;
mod greet;
mod incoming;
mod listener;
mod reader;
#[cfg(any(test, feature = "testing"))]
pub mod simulated;
mod socket;
mod state;
mod writer;

#[cfg(test)]
mod tests;

pub use crate::handshake::{Hello, Identity, Role, Secret};
pub use connection::Connection;
pub use dial::connect;
pub use incoming::Incoming;
pub use listener::Listener;

use crate::limits::HANDSHAKES_MAX;
use crate::timing::{FRAME_DEADLINE, HANDSHAKE_DEADLINE};
use std::path::Path;
use std::time::Duration;

/// What a process does with the requests that reach it.
///
/// Called from the connection's reading task: nothing here may block or take long. For each
/// connection `connected` comes first, `disconnected` last; at an accepting side the
/// `disconnected` of a run's old connection comes before the `connected` of its new one.
pub trait Service: Send + Sync + 'static {
    /// A request has come: answer it here, or hand it to a task.
    fn serve(&self, incoming: Incoming);

    /// A connection has passed its handshake.
    fn connected(&self, _connection: &Connection) {}

    /// A connection has ended, for whatever reason.
    fn disconnected(&self, _connection: &Connection) {}
}

/// A service for a process that is never called: every request is answered `UnknownMethod`.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoService;

impl Service for NoService {
    fn serve(&self, incoming: Incoming) {
        incoming.refuse_unknown();
    }
}

/// Reads the cluster's secret from a file: all of it, without white space around it.
pub fn read_secret(path: &Path) -> std::io::Result<Secret> {
    let explain = |kind, what: String| {
        std::io::Error::new(kind, format!("secret file {}: {what}", path.display()))
    };
    let bytes = std::fs::read(path).map_err(|e| explain(e.kind(), e.to_string()))?;
    Secret::new(&bytes).ok_or_else(|| {
        explain(
            std::io::ErrorKind::InvalidData,
            format!(
                "a secret has at least {} bytes",
                crate::handshake::SECRET_BYTES_MIN
            ),
        )
    })
}

/// The bounds that tests shorten.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) handshake: Duration,
    pub(crate) handshakes: usize,
    pub(crate) frame: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            handshake: HANDSHAKE_DEADLINE,
            handshakes: HANDSHAKES_MAX,
            frame: FRAME_DEADLINE,
        }
    }
}
