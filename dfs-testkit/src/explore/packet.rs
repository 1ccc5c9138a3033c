//! Messages on their way. They never go away by being delivered: a message that may come late,
//! twice or never is one that stays in a growing set. Only what nobody could take for anything
//! any more leaves it.

use super::digest::digest;
use dfs_proto::ids::{Epoch, Generation, ServerId, ServerRun};
use dfs_proto::payload::Payload;
use dfs_server::replica::{Request, Token};

/// A mount's write, and everything that names it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Writing {
    pub(super) client: u8,
    pub(super) sequence: u8,
    /// The number of the write in the history, and what it writes.
    pub(super) value: u8,
    pub(super) generation: Generation,
    /// It is a cut: the directory sees to it.
    pub(super) cuts: bool,
}

#[derive(Clone, Hash, Debug)]
pub(super) enum Message {
    /// Mount -> primary.
    Write {
        to: ServerRun,
        epoch: Epoch,
        write: Writing,
    },
    /// Primary -> mount.
    Written { client: u8, sequence: u8 },
    /// A forwarded write or a copy: its answer is taken, if at all, when it is delivered.
    Peer {
        from: ServerRun,
        to: ServerRun,
        epoch: Epoch,
        request: Request,
        payload: Payload,
    },
    /// Directory -> member.
    Cut {
        to: ServerRun,
        generation: Generation,
        epoch: Epoch,
    },
    /// Primary -> directory.
    Propose {
        from: ServerRun,
        epoch: Epoch,
        joined: ServerRun,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) digest: u64,
    /// Under which number the sender waits for the answer: the last time that it was sent.
    pub(super) token: Token,
    pub(super) message: Message,
}

impl Packet {
    pub(super) fn new(message: Message, token: Token) -> Self {
        Self {
            digest: digest(&message),
            token,
            message,
        }
    }

    pub(super) fn describe(&self) -> String {
        let place = |server: &ServerId| (b'A' + server.0 as u8 - 1) as char;
        match &self.message {
            Message::Write { to, epoch, write } => format!(
                "write {} of mount {} reaches {} ({epoch})",
                write.value,
                write.client,
                place(&to.server)
            ),
            Message::Written { client, sequence } => {
                format!("mount {client} hears that its write {sequence} is done")
            }
            Message::Peer {
                from, to, request, ..
            } => {
                let what = match request {
                    Request::Forward(r) => format!("forwarded write {}", r.version),
                    Request::Install(r) => format!("copy {} of {}", r.image.version, r.epoch),
                    other => format!("{other:?}"),
                };
                format!(
                    "{what} from {} reaches {}",
                    place(&from.server),
                    place(&to.server)
                )
            }
            Message::Cut {
                to,
                generation,
                epoch,
            } => {
                let to = place(&to.server);
                format!("the cut of {generation} reaches {to} ({epoch})")
            }
            Message::Propose { joined, epoch, .. } => {
                format!("{} is proposed ({epoch})", place(&joined.server))
            }
        }
    }
}
