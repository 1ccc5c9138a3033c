//! The lead is handed over when its holder is told to stop.
//!
//! openraft knows no transfer. Its members refuse their vote for `election_timeout_max` after
//! they have heard a leader, and stand for election only after that: a leader that just leaves
//! costs its callers more than a second. So it says that it goes:
//!
//! 1. It proposes nothing any more, and what it has proposed is answered: nobody is left in doubt.
//! 2. It picks the voter that has the most of the log, and tells all others, then the picked one,
//!    that it yields. A member that is told takes over a vote of the next term that is given to
//!    nobody: a term may rise at any time, and a vote for nobody elects nobody. So it follows no
//!    leader, and owes none its patience.
//! 3. The picked one stands for election, by the ordinary rules.
//!
//! If anything of it fails, the voters elect as after a crash.

use super::handle::StatusWatch;
use super::membership;
use super::network::Peers;
use super::types::{LogId, Raft, TypeConfig};
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::MemberId;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use openraft::{BasicNode, CommittedLeaderId, ServerState, Vote};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::Instant;

/// A voter that has the whole log is waited for this long.
const CATCH_UP: Duration = Duration::from_secs(1);
/// Deadline of one word to one member.
const SAID: Duration = Duration::from_secs(1);
/// The picked one is told after all others, or after this: one of them may be silent.
const OTHERS: Duration = Duration::from_millis(100);
/// A new leader is waited for this long.
const ELECTION: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(5);

/// Members begin at 1.
const NOBODY: u64 = 0;

/// What a leader says that goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Yielded {
    term: u64,
    leader: u64,
    /// The receiver is to stand for election.
    stand: bool,
}

/// Held by whoever proposes. While it is held by somebody else, nothing is on its way.
pub(super) type Proposing = Arc<Mutex<()>>;

/// Whom to tell when the lead is handed over, or was found not to be here.
pub(super) type Order = oneshot::Sender<()>;

/// What the leaving side needs.
pub(super) struct HandOver {
    pub(super) raft: Raft,
    pub(super) peers: Peers,
    pub(super) proposing: Proposing,
    pub(super) status: StatusWatch,
    /// Set from the first order on: see `election`.
    pub(super) abstains: Arc<AtomicBool>,
}

impl HandOver {
    /// Serves orders until the member stops.
    pub(super) async fn run(self, mut orders: mpsc::Receiver<Order>) {
        while let Some(done) = orders.recv().await {
            // It is about to stop: it must not win the next election.
            self.abstains.store(true, Ordering::SeqCst);
            let _nothing_on_its_way = self.proposing.lock().await;
            if self.raft.metrics().borrow().state == ServerState::Leader {
                self.go().await;
            }
            // Whoever ordered it may have given up.
            let _ = done.send(());
        }
    }

    async fn go(&self) {
        let Some((successor, others)) = self.successor().await else {
            return;
        };
        let own = self.raft.metrics().borrow().id;
        let term = self.raft.metrics().borrow().current_term;
        let begun = Instant::now();
        let mut told = tokio::task::JoinSet::new();
        for (id, node) in others {
            let peer = self.peers.peer(id, &node);
            let word = Yielded {
                term,
                leader: own,
                stand: false,
            };
            told.spawn(async move { (id, peer.yield_to(&word, SAID).await) });
        }
        let all_told = async {
            while let Some(answer) = told.join_next().await {
                if let Ok((id, Err(e))) = answer {
                    log::info!("directory member {id} was not told that another one leads: {e}");
                }
            }
        };
        // Who does not hear of it in time refuses its vote, and hears of the new leader.
        let _ = tokio::time::timeout(OTHERS, all_told).await;
        let word = Yielded {
            term,
            leader: own,
            stand: true,
        };
        let (id, node) = successor;
        if let Err(e) = self.peers.peer(id, &node).yield_to(&word, SAID).await {
            log::warn!("directory member {id} does not take the lead over: {e}");
        }
        let mut status = self.status.clone();
        let follows = status.wait_for(|s| s.leader.is_some_and(|leader| leader != s.member));
        match tokio::time::timeout(ELECTION, follows).await {
            Ok(Ok(status)) => log::info!(
                "the lead was handed over to {} within {} ms",
                status.leader.unwrap_or(MemberId(NOBODY)),
                begun.elapsed().as_millis()
            ),
            _ => log::warn!("nobody has taken the lead over; the others elect"),
        }
    }

    /// The voter with the most of the log, and all others; `None` for the only one.
    async fn successor(&self) -> Option<((u64, BasicNode), Vec<(u64, BasicNode)>)> {
        let begun = Instant::now();
        loop {
            let metrics = self.raft.metrics().borrow().clone();
            let present = metrics.membership_config.membership();
            let voters: BTreeSet<u64> = present.voter_ids().collect();
            let nodes: BTreeMap<u64, BasicNode> = present
                .nodes()
                .map(|(id, node)| (*id, node.clone()))
                .collect();
            let held: Vec<_> = membership::peers(&metrics)
                .into_iter()
                .filter(|peer| peer.member.0 != metrics.id && voters.contains(&peer.member.0))
                .collect();
            let best = held.iter().max_by_key(|peer| peer.held)?;
            if best.held >= metrics.last_log_index || begun.elapsed() > CATCH_UP {
                let id = best.member.0;
                let successor = (id, nodes.get(&id)?.clone());
                let others = nodes
                    .into_iter()
                    .filter(|(other, _)| *other != id && *other != metrics.id)
                    .filter(|(other, _)| voters.contains(other))
                    .collect();
                return Some((successor, others));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// The leader goes: this member follows nobody, and stands for election if it is to.
pub(super) async fn take_over(raft: &Raft, yielded: Yielded) -> Result<(), Error> {
    let vote = raft.metrics().borrow().vote;
    if vote != Vote::new_committed(yielded.term, yielded.leader) {
        // It is late, or from another leader than the one that is followed here.
        return Err(Error::new(
            ErrorCode::InvalidArgument,
            format!("this member follows {vote}"),
        ));
    }
    follow_nobody(raft, yielded.term).await?;
    if yielded.stand {
        raft.trigger().elect().await.map_err(|e| failed(&e))?;
    }
    Ok(())
}

/// This member led in `term`, and was out of touch with a majority: it stands for election again.
pub(super) async fn reign_anew(raft: &Raft, term: u64) -> Result<(), Error> {
    follow_nobody(raft, term).await?;
    raft.trigger().elect().await.map_err(|e| failed(&e))
}

fn failed(e: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorCode::Internal, e.to_string())
}

/// Ends `term` at this member, whoever leads in it.
async fn follow_nobody(raft: &Raft, term: u64) -> Result<(), Error> {
    // The only message that brings a vote and is not held back by patience with a leader. It
    // follows on an entry that nobody has, so it appends nothing and is refused for that.
    let request: AppendEntriesRequest<TypeConfig> = AppendEntriesRequest {
        vote: Vote::new(term + 1, NOBODY),
        prev_log_id: Some(LogId::new(
            CommittedLeaderId::new(term + 1, NOBODY),
            u64::MAX,
        )),
        entries: Vec::new(),
        leader_commit: None,
    };
    match raft.append_entries(request).await {
        Ok(AppendEntriesResponse::Conflict) => Ok(()),
        Ok(other) => Err(failed(&other)),
        Err(e) => Err(failed(&e)),
    }
}
