//! The writing half of a connection: whatever is queued is written with as few system calls as
//! possible, by whoever queued it.
//!
//! A hand-over to another task, perhaps on another thread, would cost more than the call. What the
//! socket does not take at once is left to the connection's writing task, which waits for it; so is
//! what is queued while somebody else writes.
//!
//! Headers, bodies and small payloads of a batch are gathered in one buffer; large payloads are
//! written from where they lie (vectored). The queue needs no bound of its own: requests and
//! replies in it hold places that are bounded.

use super::connection::Shared;
use crate::frame::{Header, Kind};
use crate::payload::Payload;
use std::io::{ErrorKind, IoSlice};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::tcp::OwnedWriteHalf;

/// A batch ends when it has gathered this many bytes, or has this many large payloads.
const BATCH_BYTES: usize = 128 << 10;
const BATCH_PAYLOADS: usize = 16;

/// Payloads up to this are copied into the batch rather than written by themselves.
const SMALL_PAYLOAD_BYTES: usize = 8 << 10;

/// The socket, and what is being written to it.
pub(super) struct Outlet {
    socket: Arc<OwnedWriteHalf>,
    batch: Batch,
}

/// How far writing came.
enum Pumped {
    /// Nothing is left.
    Idle,
    /// The socket takes no more at present.
    Blocked,
    /// Nothing will be written any more.
    Ended(String),
}

impl Outlet {
    pub(super) fn new(socket: OwnedWriteHalf) -> Self {
        Self {
            socket: Arc::new(socket),
            batch: Batch::default(),
        }
    }

    /// Writes the batch and all that is queued behind it, as far as the socket takes it.
    fn pump(&mut self, shared: &Shared) -> Pumped {
        loop {
            if self.batch.is_empty() {
                self.batch.take_from(shared);
            }
            if self.batch.is_empty() {
                return Pumped::Idle;
            }
            match self.batch.write(&self.socket) {
                Ok(true) => {}
                Ok(false) => return Pumped::Blocked,
                Err(e) => return Pumped::Ended(e.to_string()),
            }
            shared.progress.notify_waiters();
            if self.batch.goodbye {
                return Pumped::Ended("drained".into());
            }
            self.batch.clear();
        }
    }
}

impl Shared {
    /// Writes what is queued, without waiting.
    pub(super) fn flush(&self) {
        let ended = {
            let Ok(mut outlet) = self.outlet.try_lock() else {
                // Somebody writes at this moment and may have missed what is queued now.
                return self.work.notify_one();
            };
            let pumped = match outlet.as_mut() {
                // The writing task waits for the socket, and goes on with what is queued.
                Some(outlet) if !outlet.batch.is_empty() => return,
                Some(outlet) => outlet.pump(self),
                // Whoever writes instead of a socket hears of it; nobody else minds.
                None => Pumped::Blocked,
            };
            match pumped {
                Pumped::Idle => return,
                Pumped::Blocked => return self.work.notify_one(),
                Pumped::Ended(why) => why,
            }
        };
        self.close(&ended);
    }
}

/// Writes what is left over, until the connection ends. `stall` is how long one write may make no
/// progress. With this ends the use of the socket.
pub(super) async fn run(shared: Arc<Shared>, socket: OwnedWriteHalf, stall: Duration) {
    let outlet = Outlet::new(socket);
    let socket = outlet.socket.clone();
    *shared.outlet() = Some(outlet);
    let closed = shared.closed();
    tokio::pin!(closed);
    loop {
        let pumped = match shared.outlet().as_mut() {
            Some(outlet) => outlet.pump(&shared),
            None => break,
        };
        match pumped {
            Pumped::Idle => tokio::select! {
                biased;
                () = &mut closed => break,
                () = shared.work.notified() => {}
            },
            Pumped::Blocked => {
                let ready = tokio::select! {
                    biased;
                    () = &mut closed => break,
                    ready = tokio::time::timeout(stall, socket.writable()) => ready,
                };
                let failure = match ready {
                    Ok(Ok(())) => continue,
                    Ok(Err(e)) => e.to_string(),
                    Err(_) => std::io::Error::from(ErrorKind::TimedOut).to_string(),
                };
                shared.close(&failure);
                break;
            }
            Pumped::Ended(why) => {
                shared.close(&why);
                break;
            }
        }
    }
    // The other side sees the end when the last owner of the socket is gone, however long this
    // side keeps handles of the connection.
    *shared.outlet() = None;
}

#[derive(Default)]
struct Batch {
    /// Headers, bodies, small payloads.
    gathered: Vec<u8>,
    /// Large payloads, each with the place in `gathered` that it comes after.
    payloads: Vec<(usize, Payload)>,
    /// Bytes of all that are written already.
    written: usize,
    goodbye: bool,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.gathered.is_empty()
    }

    fn clear(&mut self) {
        self.gathered.clear();
        // One large body must not cost its memory for ever.
        self.gathered.shrink_to(BATCH_BYTES * 2);
        self.payloads.clear();
        self.written = 0;
    }

    fn take_from(&mut self, shared: &Shared) {
        let version = shared.version();
        let mut state = shared.state();
        while self.gathered.len() < BATCH_BYTES && self.payloads.len() < BATCH_PAYLOADS {
            let Some(frame) = state.pop() else { return };
            let payload_len = frame.payload.len();
            let header = Header::new(
                frame.kind,
                version,
                frame.method,
                frame.id,
                &frame.body,
                payload_len,
            );
            self.gathered.extend_from_slice(&header.encode());
            self.gathered.extend_from_slice(&frame.body);
            if payload_len > SMALL_PAYLOAD_BYTES {
                self.payloads.push((self.gathered.len(), frame.payload));
            } else {
                self.gathered.extend_from_slice(&frame.payload);
            }
            if frame.kind == Kind::Goodbye {
                self.goodbye = true;
                return;
            }
        }
    }

    /// Writes on from where it stands; `false`: the socket takes no more at present.
    fn write(&mut self, socket: &OwnedWriteHalf) -> std::io::Result<bool> {
        let mut slices = Vec::with_capacity(self.payloads.len() * 2 + 1);
        let mut from = 0;
        for (at, payload) in &self.payloads {
            slices.push(IoSlice::new(&self.gathered[from..*at]));
            slices.push(IoSlice::new(payload));
            from = *at;
        }
        slices.push(IoSlice::new(&self.gathered[from..]));
        let mut rest = &mut slices[..];
        IoSlice::advance_slices(&mut rest, self.written);
        while !rest.is_empty() {
            match socket.try_write_vectored(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.written += written;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }
}
