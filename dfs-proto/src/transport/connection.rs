//! A connection as its users hold it: calls, draining, closing.

use super::state::{NotSubmitted, Outgoing, Places, State};
use super::writer::Outlet;
use crate::codec;
use crate::error::{Error, ErrorCode, Result};
use crate::frame::{Kind, SHORT_BODY_BYTES_MAX};
use crate::handshake::Hello;
use crate::limits::{
    IN_FLIGHT_MAX, IN_FLIGHT_PAYLOAD_BYTES_MAX, IN_FLIGHT_UNDATED_MAX, PAYLOAD_BYTES_MAX,
};
use crate::msg::Request;
use crate::payload::Payload;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, oneshot, watch};

static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(1);

/// One multiplexed connection. Clones are handles of the same connection; it lives until it is
/// closed by either side, not until the last handle is dropped.
#[derive(Clone)]
pub struct Connection {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    id: u64,
    peer: Hello,
    address: SocketAddr,
    state: Mutex<State>,
    requests: Arc<Semaphore>,
    undated: Arc<Semaphore>,
    payload_bytes: Arc<Semaphore>,
    /// Taken for moments only, never across a wait. `None` before the writing task has begun and
    /// after its end.
    pub(super) outlet: Mutex<Option<Outlet>>,
    /// Something is to be written that whoever queued it could not write.
    pub(super) work: Notify,
    /// More requests have come with the one that is being handed to the service: their replies
    /// go out together.
    more_came: AtomicBool,
    /// Something was answered, in either direction, or written.
    pub(super) progress: Notify,
    /// It has ended, as `state` says: those who wait are told in the order in which they came.
    closed: Notify,
    /// The reading task has ended and `Service::disconnected` has returned.
    ended: watch::Sender<bool>,
}

impl Shared {
    pub(super) fn new(peer: Hello, address: SocketAddr) -> Self {
        Self {
            id: NEXT_CONNECTION.fetch_add(1, Ordering::Relaxed),
            peer,
            address,
            state: Mutex::default(),
            requests: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
            undated: Arc::new(Semaphore::new(IN_FLIGHT_UNDATED_MAX)),
            payload_bytes: Arc::new(Semaphore::new(IN_FLIGHT_PAYLOAD_BYTES_MAX)),
            outlet: Mutex::default(),
            work: Notify::new(),
            more_came: AtomicBool::new(false),
            progress: Notify::new(),
            closed: Notify::new(),
            ended: watch::Sender::new(false),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // The state's methods do not panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn outlet(&self) -> MutexGuard<'_, Option<Outlet>> {
        self.outlet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_more_came(&self, more: bool) {
        self.more_came.store(more, Ordering::Relaxed);
    }

    /// The version that both sides agreed on.
    pub(super) fn version(&self) -> u16 {
        self.peer.version_max
    }

    pub(super) fn close(&self, why: &str) {
        let why: Arc<str> = why.into();
        let rest = self.state().close(&why);
        let Some(rest) = rest else { return };
        for places in [&self.requests, &self.undated, &self.payload_bytes] {
            places.close();
        }
        self.closed.notify_waiters();
        self.work.notify_one();
        self.progress.notify_waiters();
        drop(rest);
    }

    pub(super) async fn closed(&self) {
        let closed = self.closed.notified();
        tokio::pin!(closed);
        closed.as_mut().enable();
        if self.state().closed().is_none() {
            closed.await;
        }
    }

    pub(super) fn mark_ended(&self) {
        self.ended.send_replace(true);
    }

    pub(super) async fn ended(&self) {
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Queues a frame that needs no place.
    pub(super) fn push(&self, frame: Outgoing) {
        self.state().push(frame);
        match self.more_came.load(Ordering::Relaxed) {
            true => self.work.notify_one(),
            false => self.flush(),
        }
    }

    fn disconnected(&self) -> Error {
        let why = self.state().closed();
        let why = why.as_deref().unwrap_or("closed");
        Error::new(
            ErrorCode::Disconnected,
            format!("connection to {} ended: {why}", self.name()),
        )
    }

    /// The other side, for log lines.
    pub(super) fn name(&self) -> String {
        format!("{:?} at {}", self.peer.role, self.address)
    }
}

/// Gives a call up when its future is dropped.
struct CallGuard<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for CallGuard<'_> {
    fn drop(&mut self) {
        // Answered calls have no entry any more: nothing happens then.
        self.shared.state().give_up(self.id);
        self.shared.work.notify_one();
    }
}

impl Connection {
    /// Calls and waits for the answer, at most for `deadline`. Dropping the future gives the
    /// call up; like `DeadlineExceeded` and `Disconnected` that leaves open whether it is
    /// executed. A reply that comes later is ignored.
    pub async fn call<R: Request>(
        &self,
        request: &R,
        payload: Payload,
        deadline: Duration,
    ) -> Result<(R::Response, Payload)> {
        let call = self.call_as::<R>(Kind::Request, request, payload);
        match tokio::time::timeout(deadline, call).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(
                ErrorCode::DeadlineExceeded,
                format!(
                    "{} to {}: no answer within {deadline:?}",
                    R::NAME,
                    self.shared.name()
                ),
            )),
        }
    }

    /// Calls something whose answer may take for ever, like the wait for a lease; ends with the
    /// connection. Such calls have places of their own and carry no payload (a reply may).
    pub async fn call_undated<R: Request>(
        &self,
        request: &R,
        payload: Payload,
    ) -> Result<(R::Response, Payload)> {
        if !payload.is_empty() {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                format!("{}: an undated call carries no payload", R::NAME),
            ));
        }
        self.call_as::<R>(Kind::UndatedRequest, request, payload)
            .await
    }

    async fn call_as<R: Request>(
        &self,
        kind: Kind,
        request: &R,
        payload: Payload,
    ) -> Result<(R::Response, Payload)> {
        let shared = &*self.shared;
        let body = codec::encode(request)
            .map_err(|e| Error::new(ErrorCode::InvalidArgument, format!("{}: {e}", R::NAME)))?;
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                format!("{}: a payload of {} bytes", R::NAME, payload.len()),
            ));
        }
        let places = self.places(kind, payload.len()).await?;
        let frame = Outgoing {
            kind,
            method: R::METHOD,
            id: 0,
            body,
            payload,
        };
        let (caller, reply) = oneshot::channel();
        let submitted = shared.state().submit(frame, caller, places);
        let id = submitted.map_err(|refused| match refused {
            NotSubmitted::Closed => shared.disconnected(),
            NotSubmitted::Draining => Error::new(
                ErrorCode::ShuttingDown,
                format!("the connection to {} is being ended", shared.name()),
            ),
        })?;
        let _guard = CallGuard { shared, id };
        shared.flush();
        let (body, payload) = reply.await.map_err(|_| shared.disconnected())?;
        match codec::decode::<Result<R::Response>>(&body) {
            Ok(result) => result.map(|response| (response, payload)),
            Err(e) => {
                let why = format!("the reply to {} is no valid message: {e}", R::NAME);
                log::error!("{}: {why}; closing the connection", shared.name());
                shared.close(&why);
                Err(Error::new(ErrorCode::Malformed, why))
            }
        }
    }

    /// Waits for the places of one more request.
    async fn places(&self, kind: Kind, payload_bytes: usize) -> Result<Places> {
        let shared = &*self.shared;
        let requests = match kind {
            Kind::UndatedRequest => &shared.undated,
            _ => &shared.requests,
        };
        let request = requests.clone().acquire_owned().await;
        let request = request.map_err(|_| shared.disconnected())?;
        let payload = if payload_bytes == 0 {
            None
        } else {
            let places = shared.payload_bytes.clone();
            let taken = places.acquire_many_owned(payload_bytes as u32).await;
            Some(taken.map_err(|_| shared.disconnected())?)
        };
        Ok(Places {
            _request: request,
            _payload: payload,
        })
    }

    /// Who the other side is, as its hello said and (with a secret) proved.
    pub fn peer(&self) -> &Hello {
        &self.shared.peer
    }

    /// Where the other side's packets come from.
    pub fn peer_address(&self) -> SocketAddr {
        self.shared.address
    }

    /// A number that no other connection of this process has or had.
    pub fn id(&self) -> u64 {
        self.shared.id
    }

    pub fn is_closed(&self) -> bool {
        self.shared.state().closed().is_some()
    }

    /// Waits until the connection has ended, for whatever reason.
    pub async fn closed(&self) {
        self.shared.closed().await;
    }

    /// Ends the connection now; calls in flight end with `Disconnected`.
    pub fn close(&self, why: &str) {
        self.shared.close(why);
    }

    /// Ends the connection cleanly: no new requests (in both directions they get
    /// `ShuttingDown`), the replies in flight are waited for at most for `deadline`, undated
    /// ones not at all, then the other side is told goodbye.
    pub async fn drain(&self, deadline: Duration, why: &str) {
        let shared = &*self.shared;
        shared.state().start_draining();
        let quiet = async {
            loop {
                let progress = shared.progress.notified();
                tokio::pin!(progress);
                progress.as_mut().enable();
                if shared.state().is_idle() || self.is_closed() {
                    return;
                }
                progress.await;
            }
        };
        let gone = async {
            quiet.await;
            let mut end = why.len().min(SHORT_BODY_BYTES_MAX);
            while !why.is_char_boundary(end) {
                end -= 1;
            }
            shared.push(Outgoing {
                kind: Kind::Goodbye,
                method: 0,
                id: 0,
                body: why.as_bytes()[..end].to_vec(),
                payload: Payload::default(),
            });
            // The writer closes after it.
            shared.closed().await;
        };
        // What is still in flight after the deadline ends with the connection.
        let _ = tokio::time::timeout(deadline, gone).await;
        shared.close(why);
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection {} to {}", self.shared.id, self.shared.name())
    }
}
