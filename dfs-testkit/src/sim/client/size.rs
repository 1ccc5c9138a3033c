//! Sizes: the mount that holds the exclusive lease is the authority for them until it pushes
//! them. Truncating and extending go through the directory, which answers when the cut is made.

use super::Client;
use super::resize::Resizing;
use crate::sim::message::{Answer, Ask, Node, Then, Told};
use crate::sim::schedule::Schedule;
use dfs_mount::client::authority::Push;
use dfs_proto::attr::Timestamp;
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{GrantId, Sequence, SessionId};
use dfs_proto::msg::session::Stamp;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_millis(400);
const RESIZE_DEADLINE: Duration = Duration::from_millis(2_000);

/// A push that is not answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pushing {
    number: u64,
    stamp: Stamp,
    grant: GrantId,
    push: Push,
    waits: bool,
}

impl Client {
    /// A number for a request that is executed once.
    fn stamp(&mut self, session: SessionId) -> Stamp {
        self.stamps += 1;
        self.open_stamps.insert(self.stamps);
        self.stamp_of(session, self.stamps)
    }

    fn stamp_of(&self, session: SessionId, number: u64) -> Stamp {
        let lowest = self.open_stamps.first().copied().unwrap_or(number);
        Stamp {
            session,
            sequence: Sequence(number),
            lowest_unanswered: Sequence(lowest),
        }
    }

    /// Pushes what is unpushed of a file. Whether nothing is (any more).
    pub(super) fn push(&mut self, s: &mut Schedule, file: usize) -> bool {
        let (Some(process), Some(session)) = (self.process, self.session) else {
            return false;
        };
        let state = &self.files[file];
        let held = state.lease.held().filter(|_| state.lease.holds_exclusive());
        let (Some(data), Some(held)) = (&state.data, held) else {
            return true;
        };
        if self.files[file].pushing.is_none() {
            let Some(push) = data.push() else { return true };
            let stamp = self.stamp(session);
            self.attempts += 1;
            self.files[file].pushing = Some(Pushing {
                number: self.attempts,
                stamp,
                grant: held.grant,
                push,
                waits: false,
            });
        }
        let Some(directory) = s.process(Node::Directory) else {
            return false;
        };
        let inode = s.files[file].0;
        if let Some(pushing) = &mut self.files[file].pushing
            && !std::mem::replace(&mut pushing.waits, true)
        {
            let ask = Ask::Push {
                stamp: pushing.stamp,
                inode,
                grant: pushing.grant,
                push: pushing.push.values,
            };
            let then = Then::Pushed(session, file, pushing.number);
            s.call(process, directory, ask, DEADLINE, then);
        }
        false
    }

    pub(super) fn push_answered(
        &mut self,
        s: &mut Schedule,
        session: SessionId,
        file: usize,
        number: u64,
        answer: Answer,
    ) {
        if self.session != Some(session) {
            return;
        }
        let state = &mut self.files[file];
        let Some(pushing) = state.pushing.filter(|p| p.number == number) else {
            return;
        };
        match answer {
            Ok(Told::Attr(attr)) => {
                state.pushing = None;
                self.open_stamps.remove(&pushing.stamp.sequence.0);
                if let Some(data) = &mut self.files[file].data {
                    data.push_logged(pushing.push, &attr, 0);
                }
            }
            Err(e) if e.code == ErrorCode::SessionEnded => return self.lose_session(s),
            Err(e) if e.code == ErrorCode::StaleGrant => {
                s.violate(format!(
                    "an exclusive lease of a live session is refused: {e}"
                ));
            }
            _ => {
                if let Some(pushing) = &mut state.pushing {
                    pushing.waits = false;
                }
            }
        }
        self.look_at_recalls(s, file);
    }

    /// What is unpushed is not for ever.
    pub(super) fn push_all(&mut self, s: &mut Schedule) {
        for file in 0..self.files.len() {
            self.push(s, file);
        }
    }

    /// Asks for another size; the same request again until it is answered.
    pub(super) fn resize(&mut self, s: &mut Schedule, task: usize, resizing: &mut Resizing) {
        let (Some(process), Some(session)) = (self.process, self.session) else {
            return;
        };
        let Some(directory) = s.process(Node::Directory) else {
            return;
        };
        if resizing.sent.is_some() {
            return;
        }
        let number = match resizing.stamp {
            Some(number) => number,
            None => {
                let number = self.stamp(session).sequence.0;
                resizing.stamp = Some(number);
                let blocks = resizing.blocks().collect();
                s.oracle.cut_begins(resizing.change, session, blocks);
                number
            }
        };
        self.attempts += 1;
        resizing.sent = Some(self.attempts);
        let ask = Ask::SetSize {
            stamp: self.stamp_of(session, number),
            inode: s.files[resizing.file].0,
            size: resizing.bytes(),
        };
        let then = Then::Sized(task, self.attempts);
        s.call(process, directory, ask, RESIZE_DEADLINE, then);
    }

    /// A write up to byte `end` is on all replicas.
    pub(super) fn grew(&mut self, s: &Schedule, file: usize, end: u64) {
        let now = Timestamp {
            seconds: s.now.as_secs() as i64,
            nanoseconds: s.now.subsec_nanos(),
        };
        if let Some(data) = &mut self.files[file].data {
            data.wrote(0, end, now, s.now.as_nanos() as u64);
        }
    }
}
