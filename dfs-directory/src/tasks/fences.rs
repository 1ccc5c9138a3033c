//! Runs the fences (`crate::governor::fences`) while this member leads.

use super::events::{Event, stopping};
use super::handle::FenceWait;
use super::view::{View, now};
use crate::governor::fences::{FENCE_DEADLINE, FenceAction, FenceEvent, Fences, REMEMBERED_MAX};
use crate::governor::{self, Ticket};
use crate::raft::RaftHandle;
use crate::session::{self, SessionCommand, SessionPhase};
use crate::state::Change;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::SessionId;
use dfs_proto::payload::Payload;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// Nothing is to be done again: the next event is waited for.
const IDLE: Duration = Duration::from_secs(3600);

/// Lets the oldest fence entries go.
async fn forget(raft: &RaftHandle) -> Result<()> {
    let ended: Vec<SessionId> = raft
        .read(|tables| {
            let sessions = session::read::sessions(tables)?;
            let ended = sessions.iter().filter(|s| s.phase == SessionPhase::Ended);
            Ok(ended.map(|s| s.session).collect())
        })
        .await?;
    let excess = ended.len().saturating_sub(REMEMBERED_MAX);
    for session in ended.into_iter().take(excess) {
        raft.commit(Change::Session(SessionCommand::ForgetFence { session }))
            .await?;
    }
    Ok(())
}

struct Driver {
    raft: RaftHandle,
    events: mpsc::Sender<Event>,
    core: Fences,
    waits: BTreeMap<Ticket, oneshot::Sender<Result<()>>>,
    tickets: u64,
    calls: JoinSet<FenceEvent>,
    forgetting: JoinSet<()>,
}

/// Works while this member leads.
pub(super) async fn run(
    raft: RaftHandle,
    waits: &mut mpsc::Receiver<FenceWait>,
    mut view: watch::Receiver<Arc<View>>,
    events: mpsc::Sender<Event>,
) -> Error {
    let mut driver = Driver {
        raft,
        events,
        core: Fences::default(),
        waits: BTreeMap::new(),
        tickets: 0,
        calls: JoinSet::new(),
        forgetting: JoinSet::new(),
    };
    loop {
        let present = view.borrow_and_update().clone();
        driver.step(&present).await;
        let wake = driver.core.wake_at(now());
        let pause = wake.map_or(IDLE, |at| at.saturating_sub(now()));
        tokio::select! {
            wait = waits.recv() => match wait {
                Some(wait) => driver.wait(wait),
                None => return stopping(),
            },
            changed = view.changed() => if changed.is_err() {
                return stopping();
            },
            Some(joined) = driver.calls.join_next(), if !driver.calls.is_empty() => {
                match joined {
                    Ok(event) => driver.take(event).await,
                    Err(e) => return Error::new(
                        ErrorCode::Internal,
                        format!("a call to fence was lost: {e}"),
                    ),
                }
            }
            () = tokio::time::sleep(pause) => {}
        }
    }
}

impl Driver {
    fn wait(&mut self, wait: FenceWait) {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.waits.insert(ticket, wait.done);
        let session = wait.session;
        // No action comes of it before the next step.
        self.core.take(now(), FenceEvent::Wait { session, ticket });
    }

    async fn take(&mut self, event: FenceEvent) {
        for action in self.core.take(now(), event) {
            if let FenceAction::Unanswered(run) = action {
                self.unanswered(run).await;
            }
        }
    }

    async fn unanswered(&self, run: dfs_proto::ids::ServerRun) {
        let event = Event::Said(governor::Event::Unanswered { run });
        // The receiver ends with the process only.
        let _ = self.events.send(event).await;
    }

    async fn step(&mut self, view: &View) {
        for action in self.core.step(now(), &view.placed, &view.known()) {
            match action {
                FenceAction::Call { link, request } => {
                    let connection = view.connection(link);
                    self.calls.spawn(async move {
                        let answer = match connection {
                            Some(connection) => connection
                                .call(&request, Payload::default(), FENCE_DEADLINE)
                                .await
                                .map(|(answer, _)| answer),
                            None => Err(ErrorCode::Disconnected.into()),
                        };
                        FenceEvent::Answered {
                            run: link.run,
                            link: link.link,
                            asked: request.sessions,
                            answer,
                        }
                    });
                }
                FenceAction::Done(ticket) => {
                    if let Some(done) = self.waits.remove(&ticket) {
                        let _ = done.send(Ok(()));
                    }
                }
                FenceAction::Unanswered(run) => self.unanswered(run).await,
                FenceAction::Forget => self.forget(),
            }
        }
    }

    /// Not in the way of the next fence; one at a time is enough.
    fn forget(&mut self) {
        while self.forgetting.try_join_next().is_some() {}
        if !self.forgetting.is_empty() {
            return;
        }
        let raft = self.raft.clone();
        self.forgetting.spawn(async move {
            if let Err(e) = forget(&raft).await {
                log::warn!("old fence entries were not forgotten: {e}");
            }
        });
    }
}
