//! Cuts and fences: drives the product's machines for them.

use super::Directory;
use super::placement::Waiting;
use crate::sim::message::CallKind;
use crate::sim::schedule::Schedule;
use dfs_directory::governor::cuts::{CutAction, CutEvent};
use dfs_directory::governor::fences::{FENCE_DEADLINE, FenceAction, FenceEvent};
use dfs_directory::governor::{Event, Link};
use dfs_proto::ids::{Generation, InodeId, SessionId};
use dfs_server::replica::Request;
use std::time::Duration;

const CUT_DEADLINE: Duration = Duration::from_millis(1_500);

impl Directory {
    pub(super) fn carry_out_cuts(&mut self, s: &mut Schedule, actions: Vec<CutAction>) {
        let now = s.directory_now();
        for action in actions {
            let more = match action {
                CutAction::Look(look) => {
                    let found = look.read(&self.tables).ok();
                    self.placement.cuts.take(now, CutEvent::Found(found))
                }
                CutAction::Call { link, request } => {
                    let Link { run, link } = link;
                    let inode = request.inode;
                    let kind = CallKind::Cut { inode, run, link };
                    self.call_server(s, link, Request::Cut(request), CUT_DEADLINE, kind);
                    Vec::new()
                }
                CutAction::Commit { inode, command } => {
                    s.trace(|| format!("directory: {command:?}"));
                    self.cut_ended(s, inode, command);
                    let event = CutEvent::Ended {
                        inode,
                        logged: true,
                    };
                    self.placement.cuts.take(now, event)
                }
                CutAction::Done(ticket) => {
                    match self.placement.waiting.remove(&ticket) {
                        Some(Waiting::Cut(number)) => self.cut_is_made(s, number),
                        Some(Waiting::Settled(session)) => self.settled(s, session),
                        _ => {}
                    }
                    Vec::new()
                }
                CutAction::Unable(server) => {
                    let event = Event::Unable { server };
                    self.placement.governor.take(now, event);
                    Vec::new()
                }
            };
            self.carry_out_cuts(s, more);
        }
    }

    pub(super) fn carry_out_fences(&mut self, s: &mut Schedule, actions: Vec<FenceAction>) {
        let now = s.directory_now();
        for action in actions {
            match action {
                FenceAction::Call { link, request } => {
                    let Link { run, link } = link;
                    let asked = request.sessions.clone();
                    let kind = CallKind::Fence { run, link, asked };
                    self.call_server(s, link, Request::Fence(request), FENCE_DEADLINE, kind);
                }
                FenceAction::Done(ticket) => {
                    if let Some(Waiting::Session(session)) = self.placement.waiting.remove(&ticket)
                    {
                        self.fenced(s, session);
                    }
                }
                FenceAction::Unanswered(run) => {
                    s.trace(|| format!("directory: {run} does not fence"));
                    let event = Event::Unanswered { run };
                    self.placement.governor.take(now, event);
                }
                FenceAction::Forget => {}
            }
        }
    }

    /// Waits until a session is fenced; `fenced` follows.
    pub(super) fn begin_fence(&mut self, s: &mut Schedule, session: SessionId) {
        let ticket = self.placement.ticket(Waiting::Session(session));
        let event = FenceEvent::Wait { session, ticket };
        let actions = self.placement.fences.take(s.directory_now(), event);
        self.carry_out_fences(s, actions);
    }

    /// Waits until the cuts of an inode up to this generation are made.
    pub(super) fn wait_for_cut(
        &mut self,
        s: &mut Schedule,
        inode: InodeId,
        generation: Generation,
        waiting: Waiting,
    ) {
        let ticket = self.placement.ticket(waiting);
        let event = CutEvent::Wait {
            inode,
            generation,
            ticket,
        };
        let actions = self.placement.cuts.take(s.directory_now(), event);
        self.carry_out_cuts(s, actions);
    }

    /// Something to cut is in the log.
    pub(super) fn intents_logged(&mut self, s: &mut Schedule) {
        let actions = self
            .placement
            .cuts
            .take(s.directory_now(), CutEvent::Logged);
        self.carry_out_cuts(s, actions);
    }
}
