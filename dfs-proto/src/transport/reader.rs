//! The reading half of a connection: finds frames, completes calls, hands requests to the
//! service.
//!
//! Small frames are taken from a buffer that one read fills with as many as have come; a large
//! payload goes from the socket straight into its aligned buffer.

use super::connection::Shared;
use super::state::{Admission, Ticket};
use super::{Bounds, Connection, Incoming, Service, writer};
use crate::error::{Error, ErrorCode};
use crate::frame::{HEADER_BYTES, Header, Kind};
use crate::handshake::{Hello, printable};
use crate::payload::{Payload, PayloadMut};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

/// Bytes read at once when a header is awaited. Of a large payload at most this much is copied.
const BUFFER_BYTES: usize = 16 << 10;

/// Starts the tasks of a connection whose handshake is done.
pub(super) fn start(
    stream: TcpStream,
    peer: Hello,
    address: SocketAddr,
    service: Arc<dyn Service>,
    bounds: Bounds,
) -> Connection {
    let connection = Connection {
        shared: Arc::new(Shared::new(peer, address)),
    };
    tokio::spawn(run(connection.clone(), stream, service, bounds));
    connection
}

/// Serves a connection until it ends.
pub(super) async fn run(
    connection: Connection,
    stream: TcpStream,
    service: Arc<dyn Service>,
    bounds: Bounds,
) {
    let shared = connection.shared.clone();
    let _end = End {
        connection: connection.clone(),
        service: service.clone(),
    };
    service.connected(&connection);
    let (read, write) = stream.into_split();
    let writing = tokio::spawn(writer::run(shared.clone(), write, bounds.frame));
    let mut frames = Frames {
        connection,
        service,
        bounds,
        input: Input::new(read),
    };
    tokio::select! {
        biased;
        () = shared.closed() => {}
        ended = frames.serve() => match ended {
            EndCause::Closed(why) => shared.close(&why),
            EndCause::Violation(what) => {
                log::warn!("closing the connection to {}: {what}", shared.name());
                shared.close(&what);
            }
        },
    }
    // It sees the end too. A panic in it was reported when it happened.
    let _ = writing.await;
}

/// Whatever ends the task, a panic of the service included, ends the connection.
struct End {
    connection: Connection,
    service: Arc<dyn Service>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.connection.close("its reading task ended");
        if std::thread::panicking() {
            // Its state may be half-changed, and a second panic here would end the process.
            log::error!(
                "the service panicked (a defect); {:?} is closed without telling it",
                self.connection
            );
        } else {
            self.service.disconnected(&self.connection);
        }
        self.connection.shared.mark_ended();
    }
}

/// Why reading has ended.
pub(super) enum EndCause {
    /// An end as it happens.
    Closed(String),
    /// The other side broke the protocol.
    Violation(String),
}

impl From<std::io::Error> for EndCause {
    fn from(e: std::io::Error) -> Self {
        Self::Closed(match e.kind() {
            std::io::ErrorKind::UnexpectedEof => "closed by the other side".into(),
            _ => e.to_string(),
        })
    }
}

struct Frames {
    connection: Connection,
    service: Arc<dyn Service>,
    bounds: Bounds,
    input: Input,
}

impl Frames {
    async fn serve(&mut self) -> EndCause {
        loop {
            if let Err(e) = self.input.wait().await {
                return e.into();
            }
            match tokio::time::timeout(self.bounds.frame, self.frame()).await {
                Ok(Ok(())) => {}
                Ok(Err(cause)) => return cause,
                Err(_) => {
                    return EndCause::Violation(format!(
                        "a frame was not complete after {:?}",
                        self.bounds.frame
                    ));
                }
            }
        }
    }

    /// Reads one frame and acts on it.
    async fn frame(&mut self) -> Result<(), EndCause> {
        let violation = |e: crate::frame::FrameError| EndCause::Violation(e.to_string());
        let shared = self.connection.shared.clone();
        let bytes = self.input.header().await?;
        let header = Header::decode(&bytes, shared.version()).map_err(violation)?;
        let admitted = match header.kind {
            Kind::Request | Kind::UndatedRequest => {
                Some(shared.state().admit(&header).map_err(EndCause::Violation)?)
            }
            _ => None,
        };
        let body = self.input.body(header.body_len as usize).await?;
        header.check_body(&body).map_err(violation)?;
        let payload = self.input.payload(header.payload_len as usize).await?;
        let frame = Whole {
            header,
            body,
            payload,
            admitted,
        };
        take(
            &self.connection,
            &*self.service,
            frame,
            self.input.has_more(),
        )
    }
}

/// A frame that has come as a whole.
pub(super) struct Whole {
    pub(super) header: Header,
    pub(super) body: Vec<u8>,
    pub(super) payload: Payload,
    /// Of a request.
    pub(super) admitted: Option<(Arc<Ticket>, Admission)>,
}

/// Acts on a frame. `more`: the next one has begun to come.
pub(super) fn take(
    connection: &Connection,
    service: &dyn Service,
    frame: Whole,
    more: bool,
) -> Result<(), EndCause> {
    let shared = &*connection.shared;
    let Whole {
        header,
        body,
        payload,
        admitted,
    } = frame;
    match header.kind {
        Kind::Reply => {
            let waiting = shared.state().complete(header.id);
            shared.progress.notify_waiters();
            let Some(caller) = waiting else {
                return Err(EndCause::Violation(format!(
                    "a reply to request {}, which was not made",
                    header.id
                )));
            };
            if let Some(caller) = caller {
                // A caller that is gone at this moment needs no reply.
                let _ = caller.send((body, payload));
            }
        }
        Kind::Cancel => shared.state().cancelled(header.id),
        Kind::Goodbye => {
            return Err(EndCause::Closed(format!(
                "the other side said goodbye: {}",
                printable(&body)
            )));
        }
        _ => {
            let Some((ticket, admission)) = admitted else {
                return Err(EndCause::Violation(format!(
                    "{:?} out of place",
                    header.kind
                )));
            };
            let incoming = Incoming::new(
                connection.clone(),
                header.method,
                header.id,
                body,
                payload,
                ticket,
            );
            match admission {
                Admission::Serve => {
                    shared.set_more_came(more);
                    service.serve(incoming);
                    shared.set_more_came(false);
                }
                Admission::ShuttingDown => incoming.refuse(Error::new(
                    ErrorCode::ShuttingDown,
                    "this process is ending its connections",
                )),
                Admission::Overloaded => incoming.refuse(Error::new(
                    ErrorCode::Overloaded,
                    "too many replies are waiting to be read",
                )),
            }
        }
    }
    Ok(())
}

/// The socket and what was read ahead from it.
struct Input {
    socket: OwnedReadHalf,
    buffer: Box<[u8]>,
    /// What is not used yet is `buffer[start..end]`.
    start: usize,
    end: usize,
}

impl Input {
    fn new(socket: OwnedReadHalf) -> Self {
        Self {
            socket,
            buffer: vec![0; BUFFER_BYTES].into(),
            start: 0,
            end: 0,
        }
    }

    /// Whether the next frame has begun to come.
    fn has_more(&self) -> bool {
        self.start < self.end
    }

    /// Waits until a frame has begun.
    async fn wait(&mut self) -> std::io::Result<()> {
        self.fill(1).await
    }

    /// Makes at least `need` bytes, at most the size of the buffer, available in it.
    async fn fill(&mut self, need: usize) -> std::io::Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.buffer.len() - self.start < need {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        while self.end - self.start < need {
            match self.socket.read(&mut self.buffer[self.end..]).await? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                n => self.end += n,
            }
        }
        Ok(())
    }

    async fn header(&mut self) -> std::io::Result<[u8; HEADER_BYTES]> {
        self.fill(HEADER_BYTES).await?;
        let mut header = [0; HEADER_BYTES];
        self.take(&mut header);
        Ok(header)
    }

    async fn body(&mut self, len: usize) -> std::io::Result<Vec<u8>> {
        let mut body = vec![0; len];
        self.read_into(&mut body).await?;
        Ok(body)
    }

    async fn payload(&mut self, len: usize) -> std::io::Result<Payload> {
        if len == 0 {
            return Ok(Payload::default());
        }
        let mut payload = PayloadMut::with_len(len);
        self.read_into(&mut payload).await?;
        Ok(payload.freeze())
    }

    /// Fills `target`. A small one by way of the buffer, so that the same read brings the next
    /// frames too; the rest of a large one directly.
    async fn read_into(&mut self, target: &mut [u8]) -> std::io::Result<()> {
        if target.len() <= self.buffer.len() / 2 {
            self.fill(target.len()).await?;
            self.take(target);
            return Ok(());
        }
        let ahead = (self.end - self.start).min(target.len());
        self.take(&mut target[..ahead]);
        self.socket.read_exact(&mut target[ahead..]).await?;
        Ok(())
    }

    /// Takes bytes that are in the buffer.
    fn take(&mut self, target: &mut [u8]) {
        let end = self.start + target.len();
        target.copy_from_slice(&self.buffer[self.start..end]);
        self.start = end;
    }
}
