//! The writing half of a connection: one task that takes whatever is queued and writes it with
//! as few system calls as possible.
//!
//! Headers, bodies and small payloads of a batch are gathered in one buffer; large payloads are
//! written from where they lie (vectored). The queue needs no bound of its own: requests and
//! replies in it hold places that are bounded.

use super::connection::Shared;
use crate::frame::{Header, Kind};
use crate::payload::Payload;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;

/// A batch ends when it has gathered this many bytes, or has this many large payloads.
const BATCH_BYTES: usize = 128 << 10;
const BATCH_PAYLOADS: usize = 16;

/// Payloads up to this are copied into the batch rather than written by themselves.
const SMALL_PAYLOAD_BYTES: usize = 8 << 10;

/// Writes until the connection ends. `stall` is how long one write may make no progress.
pub(super) async fn run(shared: Arc<Shared>, mut socket: OwnedWriteHalf, stall: Duration) {
    let mut batch = Batch::default();
    let closed = shared.closed();
    tokio::pin!(closed);
    loop {
        batch.take_from(&shared);
        if batch.is_empty() {
            tokio::select! {
                biased;
                () = &mut closed => return,
                () = shared.work.notified() => continue,
            }
        }
        let written = tokio::select! {
            biased;
            () = &mut closed => return,
            written = batch.write(&mut socket, stall) => written,
        };
        if let Err(e) = written {
            return shared.close(&e.to_string());
        }
        shared.progress.notify_waiters();
        if batch.goodbye {
            // The other side may be gone already.
            let _ = socket.shutdown().await;
            return shared.close("drained");
        }
        batch.clear();
    }
}

#[derive(Default)]
struct Batch {
    /// Headers, bodies, small payloads.
    gathered: Vec<u8>,
    /// Large payloads, each with the place in `gathered` that it comes after.
    payloads: Vec<(usize, Payload)>,
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

    async fn write(&self, socket: &mut OwnedWriteHalf, stall: Duration) -> std::io::Result<()> {
        let mut slices = Vec::with_capacity(self.payloads.len() * 2 + 1);
        let mut from = 0;
        for (at, payload) in &self.payloads {
            slices.push(IoSlice::new(&self.gathered[from..*at]));
            slices.push(IoSlice::new(payload));
            from = *at;
        }
        slices.push(IoSlice::new(&self.gathered[from..]));
        let mut rest = &mut slices[..];
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let written = tokio::time::timeout(stall, socket.write_vectored(rest))
                .await
                .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
            if written == 0 {
                return Err(std::io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut rest, written);
        }
        Ok(())
    }
}
