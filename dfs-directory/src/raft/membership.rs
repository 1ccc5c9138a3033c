//! Raft's membership follows the members that the log wants (`crate::members`), while this member
//! leads.
//!
//! One step at a time, each safe by itself: a new member first gets the log without a vote; it
//! votes when it has nearly all of it, so that a member that never comes up costs no majority;
//! who is not wanted any more loses its vote, in the same step in which another one gets it.

use super::batcher::Proposals;
use super::hand_over::Proposing;
use super::handle::StoreSlot;
use super::status::PeerStatus;
use super::types::{LogId, Raft};
use crate::members::{self, MembersCommand, MembersOutcome};
use crate::state::Outcome;
use crate::state::tables::{Read, TableError};
use dfs_proto::ids::MemberId;
use dfs_proto::msg::member::DirectoryMember;
use openraft::{BasicNode, ChangeMembers, RaftMetrics, ServerState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::Duration;

/// How often what is wanted and what is are compared.
const LOOK: Duration = Duration::from_millis(100);

/// A member that lacks no more entries than this may vote: the rest takes a moment.
const NEARLY: u64 = 500;

type Change = ChangeMembers<u64, BasicNode>;
type Metrics = RaftMetrics<u64, BasicNode>;

/// Runs until the member stops.
///
/// It also raises the cluster's feature level as soon as all members know a higher one.
pub(super) async fn run(raft: Raft, store: StoreSlot, proposing: Proposing, proposals: Proposals) {
    loop {
        tokio::time::sleep(LOOK).await;
        let metrics = raft.metrics().borrow().clone();
        if metrics.running_state.is_err() {
            return;
        }
        if metrics.state != ServerState::Leader || !has_applied_its_term(&metrics) {
            continue;
        }
        if let Some(level) = from_tables(&store, |tables| members::raisable(tables)).flatten() {
            raise(&proposals, level).await;
        }
        let wanted = match from_tables(&store, |tables| members::list(tables)) {
            Some(wanted) if !wanted.is_empty() => wanted,
            // Not founded yet, or shut down.
            _ => continue,
        };
        let Some(change) = next(&wanted, &metrics) else {
            continue;
        };
        let _proposing = proposing.lock().await;
        log::info!("the membership of the directory changes: {change:?}");
        if let Err(e) = raft.change_membership(change, false).await {
            // Another change under way, or the lead is lost: it is looked at again.
            log::info!("the membership was not changed now: {e}");
        }
    }
}

fn has_applied_its_term(metrics: &Metrics) -> bool {
    metrics
        .last_applied
        .is_some_and(|last| last.leader_id.term == metrics.current_term)
}

async fn raise(proposals: &Proposals, level: u16) {
    let change = crate::state::Change::Members(MembersCommand::Raise { level });
    // Else it has lost the lead, or a member has come in: it is looked at again.
    if let Ok(Outcome::Members(MembersOutcome(Ok(_)))) = proposals.propose(change).await {
        log::info!("all members know feature level {level}: the cluster is at it from now on");
    }
}

/// Reads the applied tables; `None` when they are closed, or can't be read, which stops the
/// member.
fn from_tables<T>(
    store: &StoreSlot,
    read: impl FnOnce(&dyn Read) -> Result<T, TableError>,
) -> Option<T> {
    let store = store.read().unwrap_or_else(PoisonError::into_inner);
    let view = store.as_ref()?.read();
    match view.and_then(|view| read(&view)) {
        Ok(value) => Some(value),
        Err(e) => {
            log::error!("{e}");
            None
        }
    }
}

/// The next step from what is to what is wanted.
fn next(wanted: &[DirectoryMember], metrics: &Metrics) -> Option<Change> {
    let present = metrics.membership_config.membership();
    let voters: BTreeSet<u64> = present.voter_ids().collect();
    let nodes: BTreeMap<u64, &BasicNode> = present.nodes().map(|(id, node)| (*id, node)).collect();
    let node = |member: &DirectoryMember| BasicNode::new(member.address.clone());

    let moved: BTreeMap<u64, BasicNode> = wanted
        .iter()
        .filter(|m| nodes.get(&m.member.0).is_some_and(|n| n.addr != m.address))
        .map(|m| (m.member.0, node(m)))
        .collect();
    if !moved.is_empty() {
        return Some(Change::SetNodes(moved));
    }
    let missing: BTreeMap<u64, BasicNode> = wanted
        .iter()
        .filter(|m| !nodes.contains_key(&m.member.0))
        .map(|m| (m.member.0, node(m)))
        .collect();
    if !missing.is_empty() {
        return Some(Change::AddNodes(missing));
    }
    let is_wanted = |id: &u64| wanted.iter().any(|m| m.member == MemberId(*id));
    let votes = |id: &u64| voters.contains(id) || has_nearly_all(metrics, *id);
    let next: BTreeSet<u64> = wanted.iter().map(|m| m.member.0).filter(votes).collect();
    // Those that go, go when somebody is there to vote without them.
    if next != voters && !next.is_empty() {
        return Some(Change::ReplaceAllVoters(next));
    }
    let idle: BTreeSet<u64> = nodes
        .keys()
        .filter(|id| !voters.contains(id) && !is_wanted(id))
        .copied()
        .collect();
    (!idle.is_empty()).then_some(Change::RemoveNodes(idle))
}

/// The members of raft's own membership.
pub(super) fn peers(metrics: &Metrics) -> Vec<PeerStatus> {
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let held = |id: u64| {
        if id == metrics.id {
            return metrics.last_log_index;
        }
        let members = metrics.replication.as_ref()?;
        members.get(&id)?.map(|last| last.index)
    };
    membership
        .nodes()
        .map(|(id, _)| PeerStatus {
            member: MemberId(*id),
            votes: voters.contains(id),
            held: held(*id),
        })
        .collect()
}

fn has_nearly_all(metrics: &Metrics, member: u64) -> bool {
    let held: Option<&Option<LogId>> = metrics
        .replication
        .as_ref()
        .and_then(|members| members.get(&member));
    let Some(Some(held)) = held else {
        return false;
    };
    let end = metrics.last_log_index.unwrap_or(0);
    held.index + NEARLY >= end
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::{CommittedLeaderId, LogId, Membership, StoredMembership};
    use std::sync::Arc;

    fn metrics(voters: &[u64], learners: &[u64], held: &[(u64, u64)]) -> Metrics {
        let ids = voters.iter().chain(learners);
        let nodes: BTreeMap<u64, BasicNode> = ids
            .map(|id| (*id, BasicNode::new(format!("h:{id}"))))
            .collect();
        let membership = Membership::new(vec![voters.iter().copied().collect()], nodes);
        let at = |index| Some(LogId::new(CommittedLeaderId::new(1, 1), index));
        Metrics {
            last_log_index: Some(10_000),
            membership_config: Arc::new(StoredMembership::new(at(1), membership)),
            replication: Some(held.iter().map(|(id, index)| (*id, at(*index))).collect()),
            ..Metrics::new_initial(1)
        }
    }

    fn wanted(ids: &[u64]) -> Vec<DirectoryMember> {
        ids.iter()
            .map(|id| DirectoryMember {
                member: MemberId(*id),
                address: format!("h:{id}"),
            })
            .collect()
    }

    #[test]
    fn a_new_member_votes_when_it_has_the_log() {
        let alone = metrics(&[1], &[], &[]);
        let joins = next(&wanted(&[1, 2]), &alone);
        assert!(matches!(joins, Some(Change::AddNodes(n)) if n.contains_key(&2)));
        let behind = metrics(&[1], &[2], &[(2, 9000)]);
        assert_eq!(next(&wanted(&[1, 2]), &behind), None);
        let silent = metrics(&[1], &[2], &[]);
        assert_eq!(next(&wanted(&[1, 2]), &silent), None);
        let there = metrics(&[1], &[2], &[(2, 9600)]);
        let votes = next(&wanted(&[1, 2]), &there);
        assert_eq!(votes, Some(Change::ReplaceAllVoters([1, 2].into())));
        let done = metrics(&[1, 2], &[], &[(2, 9600)]);
        assert_eq!(next(&wanted(&[1, 2]), &done), None);
    }

    #[test]
    fn a_replaced_member_goes_when_its_successor_is_there() {
        let before = metrics(&[1, 2, 3], &[4], &[(2, 9999), (4, 9999)]);
        let replaced = next(&wanted(&[1, 2, 4]), &before);
        assert_eq!(replaced, Some(Change::ReplaceAllVoters([1, 2, 4].into())));
    }

    #[test]
    fn a_new_address_is_noted_first() {
        let present = metrics(&[1, 2], &[], &[(2, 9999)]);
        let mut moved = wanted(&[1, 2, 3]);
        moved[1].address = "h:7".to_owned();
        let step = next(&moved, &present);
        assert!(matches!(step, Some(Change::SetNodes(n)) if n[&2].addr == "h:7"));
    }

    #[test]
    fn a_learner_that_is_not_wanted_is_forgotten() {
        let present = metrics(&[1], &[2], &[]);
        let step = next(&wanted(&[1]), &present);
        assert_eq!(step, Some(Change::RemoveNodes([2].into())));
    }
}
