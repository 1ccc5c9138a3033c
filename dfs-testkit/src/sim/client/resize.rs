//! A program truncates or extends a file: one request to the directory, which answers when the cut
//! is made.

use super::plan::Plan;
use super::task::State;
use super::{BLOCKS, CHUNKS, Client, byte_of};
use crate::sim::message::{Answer, Told};
use crate::sim::oracle::{Block, ChangeId, change_of};
use crate::sim::schedule::Schedule;
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::InodeId;
use std::time::Duration;

/// A change of a size under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resizing {
    pub(super) file: usize,
    inode: InodeId,
    first: u64,
    pub(super) change: ChangeId,
    /// The number of its request, from the first sending on.
    pub(super) stamp: Option<u64>,
    /// The sending that is not answered.
    pub(super) sent: Option<u64>,
}

impl Resizing {
    pub(super) fn bytes(&self) -> u64 {
        byte_of(self.first)
    }

    pub(super) fn blocks(&self) -> impl Iterator<Item = Block> + use<> {
        let inode = self.inode;
        (self.first..CHUNKS * BLOCKS).map(move |block| (inode, block))
    }
}

impl Client {
    pub(super) fn begin_resize(&mut self, s: &mut Schedule, task: usize, plan: Plan) {
        s.trace(|| format!("client {} task {task} begins {plan:?}", self.place));
        self.files[plan.file].resizing = true;
        self.changes += 1;
        let resizing = Resizing {
            file: plan.file,
            inode: plan.inode,
            first: plan.first,
            change: change_of(self.place, self.changes),
            stamp: None,
            sent: None,
        };
        self.tasks[task].state = State::Resizing { plan, resizing };
    }

    /// What is unpushed goes first: the directory cuts from the size that it knows.
    pub(super) fn run_resize(&mut self, s: &mut Schedule, task: usize) {
        let State::Resizing { plan, mut resizing } = self.tasks[task].state else {
            return;
        };
        self.wake(s, task, Duration::from_millis(5));
        if resizing.stamp.is_none() && !self.push(s, plan.file) {
            return;
        }
        self.resize(s, task, &mut resizing);
        self.tasks[task].state = State::Resizing { plan, resizing };
    }

    pub(super) fn sized(&mut self, s: &mut Schedule, task: usize, attempt: u64, answer: Answer) {
        let State::Resizing { plan, mut resizing } = self.tasks[task].state else {
            return;
        };
        if resizing.sent != Some(attempt) {
            return;
        }
        match answer {
            Ok(Told::Attr(attr)) => {
                s.trace(|| format!("client {} task {task} has cut {plan:?}", self.place));
                let checked = s.oracle.answered(resizing.change);
                s.check(checked);
                self.open_stamps.remove(&resizing.stamp.unwrap_or_default());
                let state = &mut self.files[plan.file];
                let before = state.data.as_ref().map(|data| data.generation());
                state.generation = state.generation.max(attr.generation);
                if let Some(data) = &mut state.data {
                    data.resized(&attr);
                }
                state.resizing = false;
                state.lease.leave();
                // Chunks behind the cut are gone on purpose, those before it stay as they are.
                let kept = resizing.bytes().div_ceil(super::CHUNK_BYTES);
                self.unsynced
                    .retain(|key, _| key.inode != plan.inode || key.index.0 < kept);
                for (key, unsynced) in &mut self.unsynced {
                    // What another mount's cut may have taken before stays in doubt.
                    if key.inode == plan.inode && Some(unsynced.generation) == before {
                        unsynced.generation = attr.generation;
                    }
                }
                self.tasks[task].state = State::Idle;
                self.finished += 1;
                self.look_at_recalls(s, plan.file);
            }
            Err(e) if e.code == ErrorCode::SessionEnded => self.lose_session(s),
            Err(e)
                if e.code == ErrorCode::DeadlineExceeded || e.code == ErrorCode::Disconnected =>
            {
                resizing.sent = None;
                self.tasks[task].state = State::Resizing { plan, resizing };
                self.wake(s, task, Duration::from_millis(5));
            }
            other => s.violate(format!("another size of {} failed: {other:?}", plan.inode)),
        }
    }
}
