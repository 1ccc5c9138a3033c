//! Connections without a socket, for simulations: both ends are the product's own, with its calls,
//! places and bounds; whoever simulates carries whole frames from one to the other, when and as
//! long as it likes. The order of one direction is the carrier's to keep, as TCP keeps it.

use super::connection::Shared;
use super::reader::{self, EndCause, Whole};
use super::{Connection, Hello, Identity, Service};
use crate::frame::{Header, Kind};
use crate::payload::Payload;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// A frame on its way.
#[derive(Clone, Debug)]
pub struct Frame {
    header: Header,
    body: Vec<u8>,
    payload: Payload,
}

/// One end of a connection. Clones are the same end.
#[derive(Clone)]
pub struct End {
    connection: Connection,
    service: Arc<dyn Service>,
}

impl End {
    /// An end whose other side says of itself what `peer` says, as after a handshake. `port` is
    /// for messages only.
    pub fn new(peer: &Identity, port: u16, service: Arc<dyn Service>) -> Self {
        let peer = Hello::of(peer, [0; 32]);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let connection = Connection {
            shared: Arc::new(Shared::new(peer, address)),
        };
        Self {
            connection,
            service,
        }
    }

    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Tells the service of it: before the first frame is read.
    pub fn begin(&self) {
        self.service.connected(&self.connection);
    }

    /// Waits for something to be sent, and takes it. `None`: the connection has ended.
    pub async fn written(&self) -> Option<Vec<Frame>> {
        let shared = &self.connection.shared;
        loop {
            let mut frames = Vec::new();
            let mut goodbye = false;
            while let Some(frame) = shared.state().pop() {
                goodbye |= frame.kind == Kind::Goodbye;
                let header = Header::new(
                    frame.kind,
                    shared.version(),
                    frame.method,
                    frame.id,
                    &frame.body,
                    frame.payload.len(),
                );
                frames.push(Frame {
                    header,
                    body: frame.body,
                    payload: frame.payload,
                });
            }
            if goodbye {
                shared.close("drained");
            }
            if !frames.is_empty() {
                shared.progress.notify_waiters();
                return Some(frames);
            }
            if self.connection.is_closed() {
                return None;
            }
            shared.work.notified().await;
        }
    }

    /// A frame of the other end has come. What comes after the end of the connection is dropped.
    pub fn read(&self, frame: Frame) {
        let shared = &self.connection.shared;
        if self.connection.is_closed() {
            return;
        }
        let admitted = match frame.header.kind {
            Kind::Request | Kind::UndatedRequest => match shared.state().admit(&frame.header) {
                Ok(admitted) => Some(admitted),
                Err(why) => return shared.close(&why),
            },
            _ => None,
        };
        let whole = Whole {
            header: frame.header,
            body: frame.body,
            payload: frame.payload,
            admitted,
        };
        match reader::take(&self.connection, &*self.service, whole, false) {
            Ok(()) => {}
            Err(EndCause::Closed(why) | EndCause::Violation(why)) => shared.close(&why),
        }
    }

    /// The connection is over for this end: its calls fail, its service is told.
    pub fn end(&self, why: &str) {
        self.connection.close(why);
        self.service.disconnected(&self.connection);
        self.connection.shared.mark_ended();
    }
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("End").field(&self.connection).finish()
    }
}
