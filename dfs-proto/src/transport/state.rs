//! The state of one connection that its calls, its reader and its writer share: what is
//! unanswered in each direction, and what waits to be written.
//!
//! No socket and no waiting here; every method is short and runs under one lock.

use crate::frame::{Header, Kind};
use crate::limits::{IN_FLIGHT_MAX, IN_FLIGHT_PAYLOAD_BYTES_MAX, IN_FLIGHT_UNDATED_MAX};
use crate::payload::Payload;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};

/// A frame that waits to be written.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) kind: Kind,
    pub(super) method: u16,
    pub(super) id: u64,
    pub(super) body: Vec<u8>,
    pub(super) payload: Payload,
}

/// What a call is completed with: the reply's body and payload.
pub(super) type Reply = (Vec<u8>, Payload);

/// The places that a request takes at its sender until it is answered.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) _request: OwnedSemaphorePermit,
    pub(super) _payload: Option<OwnedSemaphorePermit>,
}

/// A request of this side that is not answered yet.
#[derive(Debug)]
struct Pending {
    /// `None` when the caller has given up: only the places are kept.
    caller: Option<oneshot::Sender<Reply>>,
    undated: bool,
    _places: Places,
}

/// Tells whoever serves a request whether its caller still waits.
#[derive(Debug, Default)]
pub(super) struct Ticket {
    abandoned: AtomicBool,
    changed: Notify,
}

impl Ticket {
    fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    pub(super) async fn abandoned(&self) {
        let changed = self.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if !self.is_abandoned() {
            changed.await;
        }
    }
}

/// A request of the other side that is not answered yet.
#[derive(Debug)]
struct Unanswered {
    ticket: Arc<Ticket>,
    undated: bool,
    payload_bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct State {
    next_id: u64,
    /// Ordered, as is `unanswered`: at the end of the connection all are told in the order in which
    /// they came, the same in every run of a simulation.
    pending: BTreeMap<u64, Pending>,
    unanswered: BTreeMap<u64, Unanswered>,
    /// Of `unanswered`: how many are not undated, and their payloads.
    dated: usize,
    payload_bytes: usize,
    queue: VecDeque<Outgoing>,
    /// Payload bytes of replies in `queue`.
    reply_bytes: usize,
    /// No new requests, in neither direction.
    draining: bool,
    /// Why the connection has ended.
    closed: Option<Arc<str>>,
}

/// Why a request of this side was not taken.
#[derive(Debug)]
pub(super) enum NotSubmitted {
    Closed,
    Draining,
}

/// What to do with a request of the other side that is within the bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Admission {
    Serve,
    /// This side is draining.
    ShuttingDown,
    /// The other side doesn't read its replies.
    Overloaded,
}

impl State {
    /// Takes a request for sending; returns its id.
    pub(super) fn submit(
        &mut self,
        mut request: Outgoing,
        caller: oneshot::Sender<Reply>,
        places: Places,
    ) -> Result<u64, NotSubmitted> {
        if self.closed.is_some() {
            return Err(NotSubmitted::Closed);
        }
        if self.draining {
            return Err(NotSubmitted::Draining);
        }
        self.next_id += 1;
        let id = self.next_id;
        request.id = id;
        self.pending.insert(
            id,
            Pending {
                caller: Some(caller),
                undated: request.kind == Kind::UndatedRequest,
                _places: places,
            },
        );
        self.queue.push_back(request);
        Ok(id)
    }

    /// The caller of a request has given up. What was not sent yet is not sent at all.
    pub(super) fn give_up(&mut self, id: u64) {
        let Some(pending) = self.pending.get_mut(&id) else {
            return;
        };
        pending.caller = None;
        let unsent = self.queue.iter().position(|frame| {
            frame.id == id && matches!(frame.kind, Kind::Request | Kind::UndatedRequest)
        });
        if let Some(at) = unsent {
            self.queue.remove(at);
            self.pending.remove(&id);
        } else {
            self.queue.push_back(Outgoing {
                kind: Kind::Cancel,
                method: 0,
                id,
                body: Vec::new(),
                payload: Payload::default(),
            });
        }
    }

    /// A reply has come. Returns who waits for it - to be told outside the lock, since that may
    /// run what the caller does next - or `None` if there is no such request.
    pub(super) fn complete(&mut self, id: u64) -> Option<Option<oneshot::Sender<Reply>>> {
        Some(self.pending.remove(&id)?.caller)
    }

    /// Admits a request by its header, before anything is allocated for it. An error is a
    /// violation of the bounds.
    pub(super) fn admit(&mut self, header: &Header) -> Result<(Arc<Ticket>, Admission), String> {
        let undated = header.kind == Kind::UndatedRequest;
        let payload_bytes = header.payload_len as usize;
        let waiting = self.unanswered.len() - self.dated;
        if undated && waiting >= IN_FLIGHT_UNDATED_MAX || !undated && self.dated >= IN_FLIGHT_MAX {
            return Err("it has more requests unanswered than it may".into());
        }
        if self.payload_bytes + payload_bytes > IN_FLIGHT_PAYLOAD_BYTES_MAX {
            return Err("it has more payload unanswered than it may".into());
        }
        let ticket = Arc::new(Ticket::default());
        let unanswered = Unanswered {
            ticket: ticket.clone(),
            undated,
            payload_bytes,
        };
        if self.unanswered.insert(header.id, unanswered).is_some() {
            return Err(format!("it uses request id {} twice", header.id));
        }
        self.dated += usize::from(!undated);
        self.payload_bytes += payload_bytes;
        let admission = if self.draining {
            Admission::ShuttingDown
        } else if self.reply_bytes > IN_FLIGHT_PAYLOAD_BYTES_MAX {
            Admission::Overloaded
        } else {
            Admission::Serve
        };
        Ok((ticket, admission))
    }

    /// The other side has given a request up.
    pub(super) fn cancelled(&mut self, id: u64) {
        if let Some(unanswered) = self.unanswered.get(&id) {
            unanswered.ticket.abandon();
        }
    }

    /// Queues a frame that needs no place: a reply, a goodbye.
    pub(super) fn push(&mut self, frame: Outgoing) {
        if self.closed.is_some() {
            return;
        }
        if frame.kind == Kind::Reply {
            self.reply_bytes += frame.payload.len();
        }
        self.queue.push_back(frame);
    }

    /// The next frame to write. A reply frees the request's place here, *before* it is written:
    /// the other side may use the place as soon as it has read the reply.
    pub(super) fn pop(&mut self) -> Option<Outgoing> {
        let frame = self.queue.pop_front()?;
        if frame.kind == Kind::Reply {
            self.reply_bytes -= frame.payload.len();
            if let Some(unanswered) = self.unanswered.remove(&frame.id) {
                self.dated -= usize::from(!unanswered.undated);
                self.payload_bytes -= unanswered.payload_bytes;
            }
        }
        Some(frame)
    }

    pub(super) fn start_draining(&mut self) {
        self.draining = true;
    }

    /// Whether nothing is in flight but what waits without a date.
    pub(super) fn is_idle(&self) -> bool {
        self.dated == 0
            && self.queue.is_empty()
            && self.pending.values().all(|pending| pending.undated)
    }

    /// Ends it; returns what is to be dropped outside the lock, or `None` if it has ended before.
    pub(super) fn close(&mut self, why: &Arc<str>) -> Option<impl Sized + use<>> {
        if self.closed.is_some() {
            return None;
        }
        self.closed = Some(why.clone());
        let pending = std::mem::take(&mut self.pending);
        let unanswered = std::mem::take(&mut self.unanswered);
        let queue = std::mem::take(&mut self.queue);
        (self.dated, self.payload_bytes, self.reply_bytes) = (0, 0, 0);
        for unanswered in unanswered.values() {
            unanswered.ticket.abandon();
        }
        Some((pending, unanswered, queue))
    }

    pub(super) fn closed(&self) -> Option<Arc<str>> {
        self.closed.clone()
    }

    #[cfg(test)]
    pub(super) fn pending_len(&self) -> usize {
        self.pending.len()
    }

    #[cfg(test)]
    pub(super) fn queue_len(&self) -> usize {
        self.queue.len()
    }

    #[cfg(test)]
    pub(super) fn unanswered_len(&self) -> usize {
        self.unanswered.len()
    }

    #[cfg(test)]
    pub(super) fn reply_bytes(&self) -> usize {
        self.reply_bytes
    }
}
