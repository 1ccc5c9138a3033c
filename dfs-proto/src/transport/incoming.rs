//! A request that came over a connection, and the right to answer it once.

use super::connection::Connection;
use super::state::{Outgoing, Ticket};
use crate::codec;
use crate::error::{Error, ErrorCode, Result};
use crate::frame::Kind;
use crate::limits::PAYLOAD_BYTES_MAX;
use crate::msg::{Request, method_name};
use crate::payload::Payload;
use std::fmt;
use std::sync::Arc;

/// A request to be answered, here or in any other task or thread, now or later. Dropped without
/// an answer it is answered with `Internal`: a caller never waits for nothing.
pub struct Incoming {
    /// Where it came from.
    pub connection: Connection,
    pub method: u16,
    body: Vec<u8>,
    payload: Payload,
    replier: Replier,
}

impl Incoming {
    pub(super) fn new(
        connection: Connection,
        method: u16,
        id: u64,
        body: Vec<u8>,
        payload: Payload,
        ticket: Arc<Ticket>,
    ) -> Self {
        Self {
            replier: Replier {
                connection: connection.clone(),
                method,
                id,
                ticket,
                answered: false,
            },
            connection,
            method,
            body,
            payload,
        }
    }

    /// Decodes the request. The method number has been looked at before.
    pub fn decode<R: Request>(&self) -> Result<R> {
        codec::decode(&self.body).map_err(|e| {
            Error::new(
                ErrorCode::Malformed,
                format!("{} is no valid message: {e}", R::NAME),
            )
        })
    }

    /// The bytes that came beside the request; empty when taken before.
    pub fn take_payload(&mut self) -> Payload {
        std::mem::take(&mut self.payload)
    }

    /// Answers. The payload goes with a success only.
    pub fn answer<R: Request>(mut self, result: Result<R::Response>, payload: Payload) {
        debug_assert_eq!(self.method, R::METHOD);
        self.replier.reply(&result, payload);
    }

    /// Answers with an error, without knowing the type of the request.
    pub fn refuse(mut self, error: Error) {
        self.replier.refuse(error);
    }

    /// Answers that this process doesn't know the method.
    pub fn refuse_unknown(self) {
        let error = Error::new(
            ErrorCode::UnknownMethod,
            format!(
                "method {:#06x} ({}) is not served here",
                self.method,
                method_name(self.method)
            ),
        );
        self.refuse(error);
    }

    /// Whether nobody waits for the answer any more. What has not begun need not begin then;
    /// the request is still to be answered (or dropped).
    pub fn is_abandoned(&self) -> bool {
        self.replier.ticket.is_abandoned()
    }

    /// Waits until nobody waits for the answer any more: for those who serve long waits.
    pub async fn abandoned(&self) {
        self.replier.ticket.abandoned().await;
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} from {:?}, body {} bytes, {:?}",
            method_name(self.method),
            self.connection,
            self.body.len(),
            self.payload
        )
    }
}

struct Replier {
    connection: Connection,
    method: u16,
    id: u64,
    ticket: Arc<Ticket>,
    answered: bool,
}

impl Replier {
    fn reply<T: serde::Serialize>(&mut self, result: &Result<T>, payload: Payload) {
        if self.ticket.is_abandoned() {
            // The caller only waits for its place.
            return self.refuse(ErrorCode::DeadlineExceeded.into());
        }
        if payload.len() > PAYLOAD_BYTES_MAX {
            return self.refuse_own(format!("an answer with {} bytes", payload.len()));
        }
        match codec::encode(result) {
            Ok(body) => {
                let payload = if result.is_ok() {
                    payload
                } else {
                    Payload::default()
                };
                self.push(body, payload);
            }
            Err(e) => self.refuse_own(e.to_string()),
        }
    }

    /// This side failed to build the answer.
    fn refuse_own(&mut self, what: String) {
        log::error!("answer to {}: {what}", method_name(self.method));
        self.refuse(Error::new(ErrorCode::Internal, what));
    }

    fn refuse(&mut self, mut error: Error) {
        // A message is for people; one that would not fit in a frame helps nobody.
        if error.message.len() > 4096 {
            error.message = error.message.chars().take(1024).collect();
        }
        // An error is always encodable; were it not, the connection would be of no use.
        match codec::encode(&Err::<(), Error>(error)) {
            Ok(body) => self.push(body, Payload::default()),
            Err(e) => self.connection.close(&e.to_string()),
        }
    }

    fn push(&mut self, body: Vec<u8>, payload: Payload) {
        self.answered = true;
        self.connection.shared.push(Outgoing {
            kind: Kind::Reply,
            method: self.method,
            id: self.id,
            body,
            payload,
        });
    }
}

impl Drop for Replier {
    fn drop(&mut self) {
        if !self.answered {
            if !self.ticket.is_abandoned() {
                log::error!(
                    "{} from {:?} was dropped without an answer",
                    method_name(self.method),
                    self.connection
                );
            }
            self.refuse(Error::new(
                ErrorCode::Internal,
                format!("{} was not answered", method_name(self.method)),
            ));
        }
    }
}
