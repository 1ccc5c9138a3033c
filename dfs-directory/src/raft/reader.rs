//! Confirms that this member still leads, so that what it reads is the latest.
//!
//! A read needs proof, begun after the read came in, that no other leader has committed
//! anything since; then the applied state up to the commit point of that moment is the latest.
//! All readers that wait share one proof.
//!
//! **The only voter needs no proof.** While the membership names this member alone, nobody else
//! can commit anything, and every change is applied before its caller hears of it: the applied
//! state holds everything acknowledged. `alone` is taken back before an entry that names other
//! voters is in the log, so before any of them can have heard of it, and is never given again.

use super::batcher::not_leader;
use super::election::Contacts;
use super::status::RaftStatus;
use super::types::Raft;
use dfs_proto::error::{Error, ErrorCode, Result};
use openraft::error::{CheckIsLeaderError, Fatal, RaftError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{mpsc, oneshot, watch};

/// Readers that may wait for a proof; beyond, they are told `Overloaded`.
const WAITING_READERS_MAX: usize = 8192;

type Answer = oneshot::Sender<Result<()>>;

/// Where readers ask.
#[derive(Clone)]
pub(super) struct Confirmations {
    queue: mpsc::Sender<Answer>,
    alone: Arc<AtomicBool>,
    status: watch::Receiver<RaftStatus>,
    contacts: Contacts,
}

/// Gets the proofs.
pub(super) struct Confirmer {
    queue: mpsc::Receiver<Answer>,
    contacts: Contacts,
}

pub(super) fn new(
    alone: Arc<AtomicBool>,
    status: watch::Receiver<RaftStatus>,
    contacts: Contacts,
) -> (Confirmations, Confirmer) {
    let (sender, receiver) = mpsc::channel(WAITING_READERS_MAX);
    let confirmations = Confirmations {
        queue: sender,
        alone,
        status,
        contacts: contacts.clone(),
    };
    let confirmer = Confirmer {
        queue: receiver,
        contacts,
    };
    (confirmations, confirmer)
}

impl Confirmations {
    pub(super) async fn confirm(&self) -> Result<()> {
        {
            let status = self.status.borrow();
            if !status.leading {
                return Err(not_leader(&status));
            }
        }
        if self.alone.load(Ordering::SeqCst) {
            self.contacts.hear();
            return Ok(());
        }
        let (answer, confirmed) = oneshot::channel();
        self.queue.try_send(answer).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => Error::new(
                ErrorCode::Overloaded,
                "too many reads wait for the leader's proof",
            ),
            mpsc::error::TrySendError::Closed(_) => Error::bare(ErrorCode::ShuttingDown),
        })?;
        confirmed
            .await
            .unwrap_or_else(|_| Err(Error::bare(ErrorCode::ShuttingDown)))
    }
}

#[cfg(test)]
impl Confirmations {
    /// From now on every read needs a proof; tells whether that is new.
    pub(super) fn always_prove(&self) -> bool {
        self.alone.swap(false, Ordering::SeqCst)
    }
}

impl Confirmer {
    pub(super) async fn run(mut self, raft: Raft) {
        let mut waiting = Vec::new();
        while self
            .queue
            .recv_many(&mut waiting, WAITING_READERS_MAX)
            .await
            > 0
        {
            // First: who leads next must not take this proof for older than it is (`contact`).
            self.contacts.hear();
            let result = prove(&raft).await;
            for answer in waiting.drain(..) {
                let _ = answer.send(result.clone());
            }
        }
    }
}

async fn prove(raft: &Raft) -> Result<()> {
    match raft.ensure_linearizable().await {
        Ok(_) => Ok(()),
        Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(to))) => {
            Err(Error::bare(ErrorCode::NotLeader).with_detail(to.leader_id.unwrap_or(0)))
        }
        Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_))) => Err(Error::new(
            ErrorCode::NotLeader,
            "a majority of the directory members does not answer",
        )),
        Err(RaftError::Fatal(Fatal::Stopped)) => Err(Error::bare(ErrorCode::ShuttingDown)),
        Err(RaftError::Fatal(e)) => Err(Error::new(ErrorCode::StorageFailed, e.to_string())),
    }
}
