//! A canonical digest of a core's state, for whoever explores many of them.
//!
//! Two states that act alike have the same digest, however they came about: numbers that the
//! core gave out itself are replaced by what they stand for, and answers that nobody waits for
//! any more are left out. Times are left out as well: who uses it lets enough time pass before
//! every tick for everything that waits for one.

use super::join::Join;
use super::lane::{Lane, Op, Started, Wait, WaitState, WriteOp};
use super::{Group, ReplicaCore, SendFor};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::mem::discriminant;

impl ReplicaCore {
    /// Puts everything that decides about this core's future into the hasher.
    pub fn fingerprint<H: Hasher + Default>(&self, hasher: &mut H) {
        (self.me, &self.fenced, &self.cuts, &self.rotten).hash(hasher);
        for (id, group) in &self.groups {
            id.hash(hasher);
            group_into(group, hasher);
        }
        for (key, lane) in &self.lanes {
            key.hash(hasher);
            lane_into(lane, hasher);
        }
        self.adoptions.values().for_each(|a| a.hash(hasher));
        self.fence_tasks.values().for_each(|t| t.hash(hasher));
        self.releases.values().for_each(|r| r.hash(hasher));
        self.batches.hash(hasher);
        self.disks.values().for_each(|d| d.hash(hasher));
        // Their order is that of the numbers, which means nothing.
        let sent: BTreeSet<u64> = self
            .sends
            .values()
            .filter_map(|what| self.awaited::<H>(what))
            .collect();
        sent.hash(hasher);
    }

    /// A digest of a request in progress; `None` if its answer finds nobody.
    fn awaited<H: Hasher + Default>(&self, what: &SendFor) -> Option<u64> {
        let mut hasher = H::default();
        match what {
            SendFor::Forward { key, version, run } => {
                let lane = self.lanes.get(key)?;
                let Some(Op::Write(op)) = &lane.current else {
                    return None;
                };
                let started = op.started.as_ref()?;
                let wait = started.waiting.get(&run.server)?;
                let open = matches!(wait.state, WaitState::Forwarded | WaitState::Failed { .. });
                if started.forward.version != *version || !open {
                    return None;
                }
                (0_u8, key, run).hash(&mut hasher);
            }
            SendFor::Transfer(id) => (1_u8, self.transfers.get(id)?).hash(&mut hasher),
            SendFor::Equalise { group, epoch, run } => {
                let group_state = self.groups.get(group)?;
                if group_state.epoch() != *epoch || group_state.equaliser.is_none() {
                    return None;
                }
                (2_u8, group, run).hash(&mut hasher);
            }
            SendFor::Join {
                group,
                epoch,
                server,
                attempt,
            } => {
                let group_state = self.groups.get(group)?;
                let join = group_state.joins.get(server)?;
                if group_state.epoch() != *epoch || join.attempt() != *attempt {
                    return None;
                }
                (3_u8, group, server).hash(&mut hasher);
            }
            SendFor::ScrubList { run, .. } => (4_u8, run).hash(&mut hasher),
            SendFor::ScrubCheck { key, run, .. } => (5_u8, key, run).hash(&mut hasher),
            SendFor::Nobody => return None,
        }
        Some(hasher.finish())
    }
}

fn group_into<H: Hasher>(group: &Group, hasher: &mut H) {
    (&group.config, group.stage, group.durable, group.role).hash(hasher);
    (group.busy, &group.marks, group.counter, &group.outstanding).hash(hasher);
    (group.told, group.equalised, &group.equaliser).hash(hasher);
    group
        .joins
        .values()
        .for_each(|join| join_into(join, hasher));
    let full: BTreeSet<_> = group.low_until.keys().collect();
    full.hash(hasher);
}

fn join_into<H: Hasher>(join: &Join, hasher: &mut H) {
    join.run.hash(hasher);
    join.lasting().hash(hasher);
}

fn lane_into<H: Hasher>(lane: &Lane, hasher: &mut H) {
    for op in lane.current.iter().chain(&lane.queue) {
        discriminant(op).hash(hasher);
        match op {
            Op::Write(op) => write_into(op, hasher),
            Op::Apply(op) => op.hash(hasher),
            Op::Install(op) => op.hash(hasher),
            Op::Copy(op) => op.hash(hasher),
            Op::Scrub(op) => op.hash(hasher),
            Op::Draining { group } => group.hash(hasher),
        }
    }
    (lane.current.is_some(), lane.queue.len()).hash(hasher);
}

fn write_into<H: Hasher>(op: &WriteOp, hasher: &mut H) {
    let callers: BTreeSet<_> = op.callers.iter().collect();
    (callers, &op.request, &op.payload).hash(hasher);
    let Some(started) = &op.started else { return };
    let Started {
        forward,
        local,
        waiting,
        applied,
    } = started;
    let applied: BTreeSet<_> = applied.iter().collect();
    let waiting: BTreeMap<_, _> = waiting
        .values()
        .map(|Wait { run, state }| (run, discriminant(state)))
        .collect();
    (forward, local, applied).hash(hasher);
    for (run, state) in waiting {
        (run, state).hash(hasher);
    }
}
