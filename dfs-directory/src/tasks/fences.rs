//! Fences ended sessions: no file server accepts anything of them any more, and nothing of them
//! is in progress.
//!
//! A group is done when it serves and every in-sync member of its epoch has acknowledged in that
//! epoch. A group of which nobody serves is waited for: its servers may be cut off from the
//! directory only, and still take a write of that session. Epochs made meanwhile carry the fence
//! list in their adoption, and are asked again.

use super::events::{Event, stopping};
use super::handle::FenceWait;
use super::view::{View, now};
use crate::raft::RaftHandle;
use crate::session::{self, SessionCommand, SessionPhase};
use crate::state::Change;
use dfs_proto::error::{ErrorCode, Result};
use dfs_proto::ids::{Epoch, GroupId, ServerId, ServerRun, SessionId};
use dfs_proto::msg::control::{FenceSessions, SessionsFenced};
use dfs_proto::payload::Payload;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// A server that gives signs of life but does not acknowledge a fence for this long leaves its
/// groups, even below `min_in_sync`: the locks of the dead are worth more than writes that wait.
const FENCE_DEADLINE: Duration = Duration::from_millis(3_000);

/// Between two rounds that changed nothing.
const RETRY: Duration = Duration::from_millis(20);

/// Sessions in one request.
const BATCH_MAX: usize = 256;

/// Ended sessions that file servers are told to refuse; of more than these the oldest are
/// forgotten. A mount that was paused for as long knows epochs that are no more, and a session
/// that the directory does not know.
const REMEMBERED_MAX: usize = 1_000;

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

/// Which sessions are not fenced everywhere yet; pure.
#[derive(Debug, Default)]
struct Fences {
    acked: BTreeMap<SessionId, BTreeMap<(GroupId, ServerRun), Epoch>>,
}

impl Fences {
    /// The in-sync members that have not acknowledged, and whether any group is not done.
    fn missing(&self, session: SessionId, view: &View) -> (BTreeSet<ServerRun>, bool) {
        let acked = self.acked.get(&session);
        let mut missing = BTreeSet::new();
        let mut open = false;
        for (group, record) in &view.placed.groups {
            if !record.is_effective() {
                open = true;
                continue;
            }
            let epoch = record.config.epoch;
            for run in record.config.in_sync() {
                if acked.and_then(|a| a.get(&(*group, run))) != Some(&epoch) {
                    missing.insert(run);
                    open = true;
                }
            }
        }
        (missing, open)
    }

    fn acknowledged(&mut self, run: ServerRun, asked: &[SessionId], answer: &SessionsFenced) {
        for session in asked {
            if let Some(acked) = self.acked.get_mut(session) {
                acked.extend(
                    answer
                        .epochs
                        .iter()
                        .map(|(group, epoch)| ((*group, run), *epoch)),
                );
            }
        }
    }
}

type Answer = (ServerRun, Vec<SessionId>, Result<SessionsFenced>);

/// Works while this member leads.
pub(super) async fn run(
    raft: RaftHandle,
    waits: &mut mpsc::Receiver<FenceWait>,
    mut view: watch::Receiver<Arc<View>>,
    events: mpsc::Sender<Event>,
) -> dfs_proto::error::Error {
    let mut fences = Fences::default();
    let mut waiters: BTreeMap<SessionId, Vec<oneshot::Sender<Result<()>>>> = BTreeMap::new();
    let mut calls: JoinSet<Answer> = JoinSet::new();
    let mut busy: BTreeSet<ServerId> = BTreeSet::new();
    // A server that was just asked is not asked again at once: it may be between two epochs.
    let mut rest: BTreeMap<ServerId, Duration> = BTreeMap::new();
    let mut ended = false;
    loop {
        let pause = if waiters.is_empty() {
            Duration::from_secs(3600)
        } else {
            RETRY
        };
        tokio::select! {
            wait = waits.recv() => {
                let Some(FenceWait { session, done }) = wait else { return stopping() };
                fences.acked.entry(session).or_default();
                waiters.entry(session).or_default().push(done);
            }
            changed = view.changed(), if !waiters.is_empty() => {
                if changed.is_err() {
                    return stopping();
                }
            }
            Some(joined) = calls.join_next(), if !calls.is_empty() => {
                let Ok((run, asked, answer)) = joined else { continue };
                busy.remove(&run.server);
                rest.insert(run.server, now() + RETRY);
                match answer {
                    Ok(answer) => fences.acknowledged(run, &asked, &answer),
                    Err(e) if e.code == ErrorCode::DeadlineExceeded => {
                        log::warn!("{run} did not fence {} sessions: {e}", asked.len());
                        let _ = events.send(Event::Unanswered { server: run.server, run }).await;
                    }
                    Err(e) if e.code == ErrorCode::Disconnected => {}
                    Err(e) => log::warn!("{run} did not fence {} sessions: {e}", asked.len()),
                }
            }
            () = tokio::time::sleep(pause) => {}
        }
        rest.retain(|_, until| *until > now());
        let present = view.borrow_and_update().clone();
        let mut wanted: BTreeMap<ServerRun, Vec<SessionId>> = BTreeMap::new();
        waiters.retain(|session, waiting| {
            let (missing, open) = fences.missing(*session, &present);
            for run in missing {
                wanted.entry(run).or_default().push(*session);
            }
            if !open {
                fences.acked.remove(session);
                for done in waiting.drain(..) {
                    let _ = done.send(Ok(()));
                }
            }
            ended |= !open;
            open
        });
        if std::mem::take(&mut ended)
            && let Err(e) = forget(&raft).await
        {
            log::warn!("old fence entries were not forgotten: {e}");
        }
        for (run, mut sessions) in wanted {
            let link = present
                .links
                .get(&run.server)
                .filter(|link| link.run == run);
            let Some(link) = link else { continue };
            if rest.contains_key(&run.server) || !busy.insert(run.server) {
                continue;
            }
            sessions.truncate(BATCH_MAX);
            let connection = link.connection.clone();
            calls.spawn(async move {
                let request = FenceSessions { sessions };
                let answer = connection
                    .call(&request, Payload::default(), FENCE_DEADLINE)
                    .await;
                (run, request.sessions, answer.map(|(answer, _)| answer))
            });
        }
    }
}
