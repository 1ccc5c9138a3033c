//! Fences ended sessions: no file server accepts anything of them any more, and nothing of them
//! is in progress. Pure, like the governor.
//!
//! A group is done when it serves and every in-sync member of its epoch has acknowledged in that
//! epoch. A group of which nobody serves is waited for: its servers may be cut off from the
//! directory only, and still take a write of that session. Epochs made meanwhile carry the fence
//! list in their adoption, and are asked again.

use super::event::{Link, LinkId, Links, Ticket};
use crate::placement::Placed;
use dfs_proto::error::{ErrorCode, Result};
use dfs_proto::ids::{Epoch, GroupId, ServerId, ServerRun, SessionId};
use dfs_proto::msg::control::{FenceSessions, SessionsFenced};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A server that gives signs of life but does not acknowledge a fence for this long leaves its
/// groups, even below `min_in_sync`: the locks of the dead are worth more than writes that wait.
pub const FENCE_DEADLINE: Duration = Duration::from_millis(3_000);

/// Between two calls of a server that changed nothing: it may be between two epochs.
const RETRY: Duration = Duration::from_millis(20);

/// Sessions in one request.
const BATCH_MAX: usize = 256;

/// Ended sessions that file servers are told to refuse; of more than these the oldest are
/// forgotten. A mount that was paused for as long knows epochs that are no more, and a session
/// that the directory does not know.
pub const REMEMBERED_MAX: usize = 1_000;

/// What happened.
#[derive(Debug)]
pub enum FenceEvent {
    /// Somebody waits until this session is fenced.
    Wait { session: SessionId, ticket: Ticket },
    /// The answer to `FenceAction::Call`.
    Answered {
        run: ServerRun,
        link: LinkId,
        asked: Vec<SessionId>,
        answer: Result<SessionsFenced>,
    },
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FenceAction {
    /// With `FENCE_DEADLINE`; answered by `FenceEvent::Answered`, in any case.
    Call { link: Link, request: FenceSessions },
    /// The session is fenced.
    Done(Ticket),
    /// A run is alive but does not acknowledge.
    Unanswered(ServerRun),
    /// Sessions have ended: of more than `REMEMBERED_MAX` the oldest fence entries may go.
    Forget,
}

/// A session that is being fenced.
#[derive(Clone, Debug, Default)]
struct Fence {
    acked: BTreeMap<(GroupId, ServerRun), Epoch>,
    waiting: Vec<Ticket>,
}

impl Fence {
    /// The in-sync members that have not acknowledged, or `None` if every group is done.
    fn missing(&self, placed: &Placed) -> Option<BTreeSet<ServerRun>> {
        let mut missing = BTreeSet::new();
        let mut open = false;
        for (group, record) in &placed.groups {
            if !record.is_effective() {
                open = true;
                continue;
            }
            let epoch = record.config.epoch;
            for run in record.config.in_sync() {
                if self.acked.get(&(*group, run)) != Some(&epoch) {
                    missing.insert(run);
                    open = true;
                }
            }
        }
        open.then_some(missing)
    }
}

/// All sessions that are being fenced.
#[derive(Clone, Debug, Default)]
pub struct Fences {
    open: BTreeMap<SessionId, Fence>,
    /// The calls without an answer, one a server.
    called: BTreeMap<ServerId, LinkId>,
    rest: BTreeMap<ServerId, Duration>,
}

impl Fences {
    /// Something has happened.
    pub fn take(&mut self, now: Duration, event: FenceEvent) -> Vec<FenceAction> {
        match event {
            FenceEvent::Wait { session, ticket } => {
                self.open.entry(session).or_default().waiting.push(ticket);
                Vec::new()
            }
            FenceEvent::Answered {
                run,
                link,
                asked,
                answer,
            } => {
                if self.called.get(&run.server) == Some(&link) {
                    self.called.remove(&run.server);
                }
                self.rest.insert(run.server, now + RETRY);
                self.answered(run, &asked, answer)
            }
        }
    }

    fn answered(
        &mut self,
        run: ServerRun,
        asked: &[SessionId],
        answer: Result<SessionsFenced>,
    ) -> Vec<FenceAction> {
        let error = match answer {
            Ok(answer) => {
                for session in asked {
                    if let Some(fence) = self.open.get_mut(session) {
                        let acked = answer.epochs.iter();
                        fence
                            .acked
                            .extend(acked.map(|(group, epoch)| ((*group, run), *epoch)));
                    }
                }
                return Vec::new();
            }
            Err(error) => error,
        };
        if error.code != ErrorCode::Disconnected {
            log::warn!("{run} did not fence {} sessions: {error}", asked.len());
        }
        if error.code == ErrorCode::DeadlineExceeded {
            vec![FenceAction::Unanswered(run)]
        } else {
            Vec::new()
        }
    }

    /// What is to be done now, with these groups and connections.
    pub fn step(&mut self, now: Duration, placed: &Placed, links: &Links) -> Vec<FenceAction> {
        let mut out = Vec::new();
        self.rest.retain(|_, until| *until > now);
        // A connection that is gone answers nothing that counts.
        self.called
            .retain(|server, link| links.get(server).is_some_and(|l| l.link == *link));
        let mut wanted: BTreeMap<ServerRun, Vec<SessionId>> = BTreeMap::new();
        let open = self.open.len();
        self.open
            .retain(|session, fence| match fence.missing(placed) {
                Some(missing) => {
                    for run in missing {
                        wanted.entry(run).or_default().push(*session);
                    }
                    true
                }
                None => {
                    out.extend(fence.waiting.drain(..).map(FenceAction::Done));
                    false
                }
            });
        if self.open.len() < open {
            out.push(FenceAction::Forget);
        }
        for (run, mut sessions) in wanted {
            let server = run.server;
            let link = links.get(&server).filter(|link| link.run == run);
            let busy = self.called.contains_key(&server) || self.rest.contains_key(&server);
            let Some(link) = link.filter(|_| !busy) else {
                continue;
            };
            self.called.insert(server, link.link);
            sessions.truncate(BATCH_MAX);
            out.push(FenceAction::Call {
                link: *link,
                request: FenceSessions { sessions },
            });
        }
        out
    }

    /// When `step` should be called next if nothing happens before; `None`: no need.
    pub fn wake_at(&self, now: Duration) -> Option<Duration> {
        (!self.open.is_empty()).then_some(now + RETRY)
    }
}
