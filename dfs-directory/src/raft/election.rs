//! When a member stands for election.
//!
//! openraft's own timer is off. It stands whenever it hears nothing, and raises its term by that:
//! a member that is cut off does so again and again, and when it comes back its term deposes a
//! leader that nothing was wrong with. Here a member asks first (*sounding*): would you vote for
//! me? It stands when a majority would, itself included. A member that a majority follows is out of
//! touch with nobody, so nobody is disturbed by one that is; and a member to which no answer comes
//! never raises its term.
//!
//! Sounding promises nothing and stores nothing. Who is elected is decided by the votes, by the
//! ordinary rules; a wrong answer here costs an election, or a try, never safety.
//!
//! | who is asked | says |
//! | --- | --- |
//! | leads, or has followed somebody within `VOTER_PATIENCE` | no |
//! | has more of the log | no |
//! | stands itself, or asks itself and has the smaller number (`candidacy`) | no |
//! | else | yes |

use super::candidacy::Candidacy;
use super::contact::Contact;
use super::log_store::LogStore;
use super::network::Peers;
use super::types::{LogId, Raft, TypeConfig};
use openraft::storage::RaftLogStorage;
use openraft::{BasicNode, RaftMetrics, ServerState};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// A member refuses its vote for so long after it has heard a leader. openraft is told the same as
/// its `election_timeout_max`, which bounds the patience of its voters.
pub(super) const VOTER_PATIENCE: Duration = Duration::from_millis(600);

/// A member that follows nobody stands after a time in this range; above the voters' patience, so
/// that one that was in touch with the leader as long as the others finds them ready.
const SILENCE: (Duration, Duration) = (Duration::from_millis(700), Duration::from_millis(1000));

/// Between two soundings. Two members that stand at once would take each other's votes.
const AGAIN: (Duration, Duration) = (Duration::from_millis(40), Duration::from_millis(160));

/// Votes are written to disk before they are given: an election may take so long.
const VOTING: (Duration, Duration) = (Duration::from_millis(300), Duration::from_millis(600));

/// Who takes longer to say whether it would vote is as good as gone.
const SOUNDED: Duration = Duration::from_millis(300);

/// How often a member that leads, or may not stand, looks whether that has changed.
const LOOK: Duration = Duration::from_millis(50);

type Metrics = RaftMetrics<u64, BasicNode>;

/// Would you vote for one with this log?
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Sounding {
    /// Who asks.
    pub(super) member: u64,
    pub(super) last_log: Option<LogId>,
}

/// The contact of this member, shared by all that hear of it.
#[derive(Clone)]
pub(super) struct Contacts {
    begun: Instant,
    contact: Arc<Mutex<Contact>>,
}

impl Contacts {
    pub(super) fn begin() -> Self {
        Self {
            begun: Instant::now(),
            contact: Arc::new(Mutex::new(Contact::begin(Duration::ZERO))),
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn contact(&self) -> MutexGuard<'_, Contact> {
        self.contact.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something comes from a leader; returns when.
    pub(super) fn hear(&self) -> Duration {
        let now = self.now();
        self.contact().hear(now);
        now
    }

    /// What came at `at` was taken over.
    pub(super) fn follow(&self, at: Duration) {
        self.contact().follow(at);
    }

    /// For a vote: how long ago this member heard a leader at the latest.
    pub(super) fn age(&self) -> Duration {
        self.contact().age(self.now())
    }

    /// A vote for this member came.
    pub(super) fn voted(&self, term: u64, age: Duration) {
        self.contact().voted(term, age, self.now());
    }

    /// The latest moment at which a proof of an earlier leader's lead can have begun; asked when
    /// this member has been elected in `term`, before it leads.
    pub(super) fn led_until(&self, term: u64) -> Instant {
        self.begun + self.contact().led_until(term)
    }

    /// How long nobody has been followed; very long in a run that never followed anybody.
    fn silence(&self) -> Duration {
        self.contact().silence(self.now()).unwrap_or(Duration::MAX)
    }
}

/// What a member needs to stand, or to say whether it would vote.
#[derive(Clone)]
pub(super) struct Election {
    pub(super) raft: Raft,
    pub(super) log: LogStore,
    pub(super) peers: Peers,
    pub(super) contacts: Contacts,
    pub(super) candidacy: Arc<Mutex<Candidacy>>,
    /// This member is about to stop: it must not be elected.
    pub(super) abstains: Arc<AtomicBool>,
}

impl Election {
    /// Stands whenever it is time, until the member stops.
    pub(super) async fn run(self) {
        let mut patience = within(SILENCE);
        loop {
            let metrics = self.raft.metrics().borrow().clone();
            if metrics.running_state.is_err() {
                return;
            }
            if metrics.state == ServerState::Leader {
                self.contacts.follow(self.contacts.now());
            }
            let silence = self.contacts.silence();
            if silence < patience {
                tokio::time::sleep((patience - silence).max(LOOK)).await;
                continue;
            }
            if self.abstains.load(Ordering::SeqCst) || !votes(&metrics) {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            patience = within(SILENCE);
            // First the pause: members that start together, or lose their leader together, differ.
            tokio::time::sleep(within(AGAIN)).await;
            if !self.candidacy().sound(self.contacts.now()) {
                continue;
            }
            let wanted = self.is_wanted(&metrics).await;
            let silent = self.contacts.silence() >= VOTER_PATIENCE;
            if wanted && silent && self.candidacy().stand() {
                log::info!("{} has heard no leader and stands for election", metrics.id);
                if let Err(e) = self.raft.trigger().elect().await {
                    log::info!("no election: {e}");
                }
                self.wait_for_the_votes(metrics.current_term).await;
            }
            self.candidacy().rest();
        }
    }

    fn candidacy(&self) -> MutexGuard<'_, Candidacy> {
        self.candidacy
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends when somebody leads in a later term, or after a time that is enough for it.
    async fn wait_for_the_votes(&self, term: u64) {
        let mut metrics = self.raft.metrics();
        let led = metrics.wait_for(|m| m.current_term > term && m.current_leader.is_some());
        // Nobody: it is tried again.
        let _ = tokio::time::timeout(within(VOTING), led).await;
    }

    /// Whether a majority of the voters, in each of the memberships of a change under way, would
    /// vote for this member.
    async fn is_wanted(&self, metrics: &Metrics) -> bool {
        let Some(last_log) = self.last_log().await else {
            return false;
        };
        let member = metrics.id;
        let sounding = Sounding { member, last_log };
        let membership = metrics.membership_config.membership();
        let configs = membership.get_joint_config();
        let nodes: BTreeMap<u64, BasicNode> = membership
            .nodes()
            .map(|(id, node)| (*id, node.clone()))
            .collect();
        let mut asked = JoinSet::new();
        for id in membership.voter_ids().filter(|id| *id != metrics.id) {
            let Some(node) = nodes.get(&id) else { continue };
            let peer = self.peers.peer(id, node);
            asked.spawn(async move { (id, peer.would_vote(sounding, SOUNDED).await) });
        }
        let mut willing = BTreeSet::from([metrics.id]);
        while !is_majority(&willing, configs) {
            match asked.join_next().await {
                Some(Ok((id, Ok(true)))) => drop(willing.insert(id)),
                Some(Ok((id, Err(e)))) => log::debug!("directory member {id} was not sounded: {e}"),
                Some(_) => {}
                None => return false,
            }
        }
        true
    }

    /// Whether this member would vote for one with that log.
    pub(super) async fn would_vote(&self, sounding: Sounding) -> bool {
        let leads = self.raft.metrics().borrow().state == ServerState::Leader;
        if leads || self.contacts.silence() < VOTER_PATIENCE {
            return false;
        }
        let reaches = self.last_log().await;
        reaches.is_some_and(|own| own <= sounding.last_log)
            && self
                .candidacy()
                .would_vote(sounding.member, self.contacts.now())
    }

    /// The end of the log; the outer `None` when it can't be told.
    async fn last_log(&self) -> Option<Option<LogId>> {
        let mut log = self.log.clone();
        let state = RaftLogStorage::<TypeConfig>::get_log_state(&mut log).await;
        state.ok().map(|state| state.last_log_id)
    }
}

fn votes(metrics: &Metrics) -> bool {
    let membership = metrics.membership_config.membership();
    membership.voter_ids().any(|id| id == metrics.id)
}

fn is_majority(of: &BTreeSet<u64>, configs: &[BTreeSet<u64>]) -> bool {
    let in_one = |config: &BTreeSet<u64>| config.intersection(of).count() > config.len() / 2;
    !configs.is_empty() && configs.iter().all(in_one)
}

/// A time in the range, at random.
fn within((least, most): (Duration, Duration)) -> Duration {
    let mut bytes = [0; 2];
    // Without random numbers the members are kept apart by their other delays.
    let chance = match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u16::from_le_bytes(bytes)) / f64::from(u16::MAX),
        Err(_) => 0.5,
    };
    least + (most - least).mul_f64(chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_is_one_in_every_membership() {
        let set = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<u64>>();
        assert!(is_majority(&set(&[1]), &[set(&[1])]));
        assert!(!is_majority(&set(&[1]), &[set(&[1, 2])]));
        assert!(is_majority(&set(&[1, 3]), &[set(&[1, 2, 3])]));
        // Two of the old ones are no majority of the new ones.
        assert!(!is_majority(
            &set(&[1, 3]),
            &[set(&[1, 2, 3]), set(&[3, 4, 5])]
        ));
        assert!(is_majority(
            &set(&[1, 3, 4]),
            &[set(&[1, 2, 3]), set(&[3, 4, 5])]
        ));
        assert!(!is_majority(&set(&[1]), &[]));
    }

    #[test]
    fn times_are_in_their_range() {
        for _ in 0..100 {
            let time = within(SILENCE);
            assert!(SILENCE.0 <= time && time <= SILENCE.1);
        }
    }
}
