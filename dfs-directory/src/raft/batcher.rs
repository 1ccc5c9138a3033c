//! Gathers what callers want to commit: one log entry, one flush, for all who wait.
//!
//! openraft logs one entry per call and flushes each. So one task takes everything that waits,
//! proposes it as one entry, and takes the next when that is applied: a single caller is never
//! held back for company, and many callers share a flush.

use super::hand_over::Proposing;
use super::status::RaftStatus;
use super::types::{Batch, Proposal, Raft};
use crate::state::{Change, Command, Outcome};
use dfs_proto::attr::Timestamp;
use dfs_proto::error::{Error, ErrorCode, Result};
use openraft::error::{ClientWriteError, Fatal, RaftError};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot, watch};

/// Commands in one entry.
const BATCH_COMMANDS_MAX: usize = 256;
/// Bytes of commands in one entry, unless a single command is larger.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Commands that may wait; beyond, callers are told `Overloaded`.
const WAITING_COMMANDS_MAX: usize = 8192;
/// Bytes of commands that may wait.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// How long a batch waits for the callers that the last one has answered.
const REGATHER: Duration = Duration::from_micros(100);

/// The host's wall clock.
pub(super) fn wall_clock() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_duration_since_1970(since)
}

struct Waiting {
    proposal: Proposal,
    answer: oneshot::Sender<Result<Outcome>>,
}

/// Where callers put their changes.
#[derive(Clone)]
pub(super) struct Proposals {
    queue: mpsc::Sender<Waiting>,
    waiting_bytes: Arc<AtomicUsize>,
    status: watch::Receiver<RaftStatus>,
}

/// Takes the changes out and proposes them.
pub(super) struct Batcher {
    queue: mpsc::Receiver<Waiting>,
    waiting_bytes: Arc<AtomicUsize>,
    status: watch::Receiver<RaftStatus>,
    /// What did not fit into the last batch.
    left_over: Option<Waiting>,
}

pub(super) fn not_leader(status: &RaftStatus) -> Error {
    if let Some(why) = &status.failed {
        return Error::new(ErrorCode::StorageFailed, why.clone());
    }
    let leader = status.leader.filter(|leader| *leader != status.member);
    Error::bare(ErrorCode::NotLeader).with_detail(leader.map_or(0, |leader| leader.0))
}

pub(super) fn new(status: watch::Receiver<RaftStatus>) -> (Proposals, Batcher) {
    let (sender, receiver) = mpsc::channel(WAITING_COMMANDS_MAX);
    let waiting_bytes = Arc::new(AtomicUsize::new(0));
    let proposals = Proposals {
        queue: sender,
        waiting_bytes: Arc::clone(&waiting_bytes),
        status: status.clone(),
    };
    let batcher = Batcher {
        queue: receiver,
        waiting_bytes,
        status,
        left_over: None,
    };
    (proposals, batcher)
}

impl Proposals {
    pub(super) async fn propose(&self, change: Change) -> Result<Outcome> {
        {
            let status = self.status.borrow();
            if !status.leading {
                return Err(not_leader(&status));
            }
        }
        let command = Command {
            now: wall_clock(),
            change,
        };
        let proposal = Proposal::new(command)
            .map_err(|e| Error::new(ErrorCode::InvalidArgument, format!("a change: {e}")))?;
        let bytes = proposal.bytes();
        let overloaded = || Error::new(ErrorCode::Overloaded, "too many changes wait for the log");
        if self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > WAITING_BYTES_MAX {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(overloaded());
        }
        let (answer, outcome) = oneshot::channel();
        if let Err(e) = self.queue.try_send(Waiting { proposal, answer }) {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(match e {
                mpsc::error::TrySendError::Full(_) => overloaded(),
                mpsc::error::TrySendError::Closed(_) => Error::bare(ErrorCode::ShuttingDown),
            });
        }
        outcome.await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorCode::Disconnected,
                "the directory member stopped before the change was confirmed",
            ))
        })
    }
}

impl Batcher {
    /// Proposes until all senders are gone.
    pub(super) async fn run(mut self, raft: Raft, proposing: Proposing) {
        let mut answered = 0;
        loop {
            let first = match self.left_over.take() {
                Some(waiting) => waiting,
                None => match self.queue.recv().await {
                    Some(waiting) => waiting,
                    None => return,
                },
            };
            self.regather(answered).await;
            let batch = self.gather(first);
            answered = batch.len();
            let (proposals, answers): (Vec<_>, Vec<_>) =
                batch.into_iter().map(|w| (w.proposal, w.answer)).unzip();
            let bytes = proposals.iter().map(Proposal::bytes).sum();
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            match self.commit(&raft, &proposing, proposals).await {
                Ok(outcomes) => {
                    for (answer, outcome) in answers.into_iter().zip(outcomes) {
                        // A caller that has given up does not care.
                        let _ = answer.send(Ok(outcome));
                    }
                }
                Err(e) => {
                    for answer in answers {
                        let _ = answer.send(Err(e.clone()));
                    }
                }
            }
        }
    }

    async fn commit(
        &self,
        raft: &Raft,
        proposing: &Proposing,
        proposals: Vec<Proposal>,
    ) -> Result<Vec<Outcome>> {
        let _proposing = proposing.lock().await;
        {
            // The lead may have been handed over while they waited: nothing of them is logged.
            let status = self.status.borrow();
            if !status.leading {
                return Err(not_leader(&status));
            }
        }
        commit(raft, proposals).await
    }

    /// Callers that were just answered together come back together, one a little before the
    /// others: without a moment's patience it would get a flush of its own and the others the
    /// next, half of the throughput. A single caller never waits: it was answered alone.
    async fn regather(&self, answered: usize) {
        let begun = Instant::now();
        while self.queue.len() + 1 < answered && begun.elapsed() < REGATHER {
            // Other tasks of this thread, then other threads: callers may be both.
            tokio::task::yield_now().await;
            std::thread::yield_now();
        }
    }

    fn gather(&mut self, first: Waiting) -> Vec<Waiting> {
        let mut bytes = first.proposal.bytes();
        let mut batch = vec![first];
        while batch.len() < BATCH_COMMANDS_MAX {
            let Ok(next) = self.queue.try_recv() else {
                break;
            };
            bytes += next.proposal.bytes();
            if bytes > BATCH_BYTES_MAX {
                self.left_over = Some(next);
                break;
            }
            batch.push(next);
        }
        batch
    }
}

async fn commit(raft: &Raft, proposals: Vec<Proposal>) -> Result<Vec<Outcome>> {
    let count = proposals.len();
    match raft.client_write(Batch(proposals.into())).await {
        Ok(response) if response.data.0.len() == count => Ok(response.data.0),
        Ok(response) => {
            let message = format!(
                "a batch of {count} commands had {} outcomes",
                response.data.0.len()
            );
            log::error!("{message}");
            Err(Error::new(ErrorCode::Internal, message))
        }
        // It led when the commands came in; they may be in the log of the next leader.
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(Error::new(
            ErrorCode::Disconnected,
            "this directory member lost the lead before the change was confirmed",
        )),
        Err(RaftError::Fatal(Fatal::Stopped)) => Err(Error::new(
            ErrorCode::Disconnected,
            "this directory member was stopped before the change was confirmed",
        )),
        Err(RaftError::APIError(e)) => Err(Error::new(ErrorCode::Internal, e.to_string())),
        Err(RaftError::Fatal(e)) => Err(Error::new(ErrorCode::StorageFailed, e.to_string())),
    }
}
