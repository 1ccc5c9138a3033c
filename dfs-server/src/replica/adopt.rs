//! Epochs and fences: what this server has promised to refuse.
//!
//! An adoption refuses older epochs from the moment it is asked for, waits until the disk has
//! no change of an older epoch in progress any more, becomes durable, and only then is answered.

use super::event::{Caller, DiskDone, DiskOp, Response};
use super::gate::wrong_epoch;
use super::group::{Group, Role, Stage};
use super::holdings::Holdings;
use super::lane::Op;
use super::{DiskFor, ReplicaCore};
use dfs_proto::cluster::GroupConfig;
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::{ChunkKey, Epoch, GroupId, SessionId};
use dfs_proto::msg::control::{
    AdoptEpochs, EpochsAdopted, EpochsEffective, FenceSessions, SessionsFenced,
};
use dfs_proto::payload::Payload;
use std::collections::BTreeSet;

/// Fence requests that may wait; the directory repeats what is refused.
const FENCE_TASKS_MAX: usize = 1024;

/// An `AdoptEpochs` that is not answered yet.
#[derive(Clone, Hash, Debug)]
pub(super) struct Adoption {
    what: AdoptFor,
    groups: Vec<GroupId>,
    fenced: Vec<SessionId>,
    /// What the disk is at, if it is.
    putting: Option<Vec<(GroupId, Epoch)>>,
}

/// Who waits for an adoption.
#[derive(Clone, Copy, Hash, Debug)]
enum AdoptFor {
    Caller(Caller),
    /// A release of groups, by its number.
    Release(u64),
}

/// A `FenceSessions` that is not answered yet.
#[derive(Clone, Hash, Debug)]
pub(super) struct FenceTask {
    caller: Caller,
    sessions: BTreeSet<SessionId>,
    durable: bool,
}

impl ReplicaCore {
    pub(super) fn adopt(&mut self, caller: Caller, request: AdoptEpochs, h: &dyn Holdings) {
        let mut request = request;
        if self.planted.forgets_fences() {
            request.fenced.clear();
        }
        self.fenced.extend(&request.fenced);
        self.drop_fenced_waiters();
        let groups: Vec<GroupId> = request.configs.iter().map(|c| c.group).collect();
        for config in request.configs {
            self.enter_epoch(config);
        }
        let adoption = Adoption {
            what: AdoptFor::Caller(caller),
            groups,
            fenced: request.fenced,
            putting: None,
        };
        let id = self.next_id();
        self.adoptions.insert(id, adoption);
        self.put_drained_adoptions();
        self.end_fences();
        self.start_waiting_cuts(h);
    }

    /// Adopts the epochs of these groups that were entered for a release.
    pub(super) fn adopt_for_release(&mut self, number: u64, groups: Vec<GroupId>) {
        let adoption = Adoption {
            what: AdoptFor::Release(number),
            groups,
            fenced: Vec::new(),
            putting: None,
        };
        let id = self.next_id();
        self.adoptions.insert(id, adoption);
        self.put_drained_adoptions();
    }

    /// Refuses everything before this epoch from now on; `false` if it is not a later one.
    pub(super) fn enter_epoch(&mut self, config: GroupConfig) -> bool {
        let id = config.group;
        match self.groups.get_mut(&id) {
            Some(g) if config.epoch <= g.epoch() => return false,
            Some(_) => {}
            None => {
                let mut nothing = config.clone();
                nothing.epoch = Epoch(0);
                nothing.members.clear();
                self.groups.insert(id, Group::remembered(nothing));
            }
        }
        self.leave_epoch(id, config.epoch);
        if let Some(g) = self.groups.get_mut(&id) {
            if self.planted.forgets_older_marks() {
                g.marks.forget_before(g.config.epoch);
            }
            g.enter(config, self.me);
        }
        true
    }

    /// Ends everything of a group's present epoch: callers are told to ask again, replies that
    /// come later find nobody, and what the disk is at is waited for.
    fn leave_epoch(&mut self, id: GroupId, newer: Epoch) {
        let keys: Vec<ChunkKey> = self.lanes.keys().copied().collect();
        for key in keys {
            let Some(lane) = self.lanes.get_mut(&key) else {
                continue;
            };
            let mut over = Vec::new();
            lane.queue.retain_mut(|op| {
                let stays = op.group() != id;
                if !stays {
                    over.push(std::mem::replace(op, Op::Draining { group: id }));
                }
                stays
            });
            if lane.current.as_ref().is_some_and(|op| op.group() == id) {
                over.extend(lane.current.take());
                if self.disks.values().any(|d| d.holds(key)) {
                    lane.current = Some(Op::Draining { group: id });
                }
            }
            if lane.current.is_none() && lane.queue.is_empty() {
                self.lanes.remove(&key);
            }
            for op in over {
                self.lane_bytes -= op.bytes();
                for caller in op.callers() {
                    self.refuse(caller, wrong_epoch(newer));
                }
            }
        }
        self.leave_scrubs(id, &wrong_epoch(newer));
        self.transfers.retain(|_, t| t.group != id);
        self.rotten.clear();
        self.drop_from_batches(id);
    }

    fn start_waiting_cuts(&mut self, h: &dyn Holdings) {
        let inodes: Vec<_> = self.cuts.keys().copied().collect();
        for inode in inodes {
            self.start_cut(inode, h);
        }
    }

    /// Makes adoptions durable whose groups have nothing of an older epoch on its way to disk.
    pub(super) fn put_drained_adoptions(&mut self) {
        let ready: Vec<u64> = self
            .adoptions
            .iter()
            .filter(|(_, a)| a.putting.is_none() && a.groups.iter().all(|id| self.is_drained(*id)))
            .map(|(id, _)| *id)
            .collect();
        for id in ready {
            let Some(adoption) = self.adoptions.get_mut(&id) else {
                continue;
            };
            // The store keeps the highest epoch of each group, so the order of two puts does
            // not matter.
            let configs: Vec<GroupConfig> = adoption
                .groups
                .iter()
                .filter_map(|id| self.groups.get(id))
                .filter(|g| g.durable < g.epoch())
                .map(|g| g.config.clone())
                .collect();
            adoption.putting = Some(configs.iter().map(|c| (c.group, c.epoch)).collect());
            let fenced = adoption.fenced.clone();
            self.disk(
                DiskOp::Adopt { configs, fenced },
                DiskFor::Adoption(id),
                None,
            );
        }
    }

    fn is_drained(&self, group: GroupId) -> bool {
        self.groups
            .get(&group)
            .is_none_or(|g| g.busy == 0 || g.stage != Stage::Adopting)
            || self.planted.adopts_undrained()
    }

    pub(super) fn adoption_durable(&mut self, id: u64, result: Result<DiskDone, Error>) {
        let Some(adoption) = self.adoptions.remove(&id) else {
            return;
        };
        if let Err(error) = result {
            log::error!("epochs could not be made durable: {error}; they are not adopted");
            return match adoption.what {
                AdoptFor::Caller(caller) => self.refuse(caller, error),
                AdoptFor::Release(number) => self.release_adopted(number, Err(error)),
            };
        }
        // Another adoption may have entered a later epoch meanwhile: that one is not durable.
        for (group, epoch) in adoption.putting.into_iter().flatten() {
            if let Some(g) = self.groups.get_mut(&group) {
                g.durable = g.durable.max(epoch);
                if g.stage == Stage::Adopting && g.durable == g.epoch() {
                    g.stage = match self.planted.serves_before_effective() {
                        true => Stage::Effective,
                        false => Stage::Adopted,
                    };
                }
            }
        }
        let epochs = adoption
            .groups
            .iter()
            .filter_map(|id| Some((*id, self.groups.get(id)?.durable)))
            .collect();
        match adoption.what {
            AdoptFor::Caller(caller) => {
                let adopted = Response::Adopted(EpochsAdopted { epochs });
                self.answer(caller, Ok(adopted), Payload::default());
            }
            AdoptFor::Release(number) => self.release_adopted(number, Ok(())),
        }
        self.end_fences();
    }

    pub(super) fn effective(&mut self, caller: Caller, request: EpochsEffective, h: &dyn Holdings) {
        for (group, epoch) in request.groups {
            if self.groups.get(&group).is_some_and(|g| g.epoch() == epoch) {
                self.become_effective(group, h);
            }
        }
        self.done(caller);
    }

    /// The adopted epoch of a group is known to be effective.
    pub(super) fn become_effective(&mut self, group: GroupId, h: &dyn Holdings) {
        let Some(g) = self.groups.get_mut(&group) else {
            return;
        };
        let ready = match g.role {
            Role::Primary => g.equalised,
            Role::Backup | Role::Joining => true,
            Role::Stranger => false,
        };
        if g.stage != Stage::Adopted || !ready {
            return;
        }
        g.stage = Stage::Effective;
        let epoch = g.epoch();
        match g.role {
            Role::Primary | Role::Backup => g.marks.equalised(epoch),
            Role::Joining | Role::Stranger => g.marks.known = false,
        }
        // Every in-sync member has adopted this epoch, so nothing that an older cut removed can
        // still be on its way. A joining member's old floors would refuse the primary's copies.
        if h.floors(group, None, 1).0.is_empty() {
            return self.begin_joins(group, h);
        }
        let what = DiskFor::OldFloors { group, epoch };
        self.disk(DiskOp::DropFloors { group, epoch }, what, None);
    }

    /// Joins begin when the primary has no floors but those that its members keep as well.
    pub(super) fn old_floors_dropped(
        &mut self,
        group: GroupId,
        epoch: Epoch,
        result: Result<DiskDone, Error>,
        h: &dyn Holdings,
    ) {
        if let Err(error) = result {
            log::error!("{group}: old floors could not be dropped: {error}");
        }
        if self.groups.get(&group).is_some_and(|g| g.epoch() == epoch) {
            self.begin_joins(group, h);
        }
    }

    pub(super) fn fence(&mut self, caller: Caller, request: FenceSessions, _h: &dyn Holdings) {
        if self.fence_tasks.len() >= FENCE_TASKS_MAX {
            return self.refuse(caller, Error::bare(ErrorCode::Overloaded));
        }
        self.fenced.extend(&request.sessions);
        self.drop_fenced_waiters();
        let id = self.next_id();
        let task = FenceTask {
            caller,
            sessions: request.sessions.iter().copied().collect(),
            durable: false,
        };
        self.fence_tasks.insert(id, task);
        let op = DiskOp::Adopt {
            configs: Vec::new(),
            fenced: request.sessions,
        };
        self.disk(op, DiskFor::Fence(id), None);
    }

    pub(super) fn fence_durable(&mut self, id: u64, result: Result<DiskDone, Error>) {
        match (result, self.fence_tasks.get_mut(&id)) {
            (Ok(_), Some(task)) => {
                task.durable = true;
                self.end_fences();
            }
            (Err(error), Some(task)) => {
                log::error!("a fence could not be made durable: {error}");
                let caller = task.caller;
                self.fence_tasks.remove(&id);
                self.refuse(caller, error);
            }
            (_, None) => {}
        }
    }

    /// Writes of fenced sessions that have not started never will.
    fn drop_fenced_waiters(&mut self) {
        let mut over = Vec::new();
        for lane in self.lanes.values_mut() {
            lane.queue.retain_mut(|op| {
                let fenced = op.session().is_some_and(|s| self.fenced.contains(&s));
                if fenced {
                    let group = op.group();
                    over.push(std::mem::replace(op, Op::Draining { group }));
                }
                !fenced
            });
        }
        self.lanes
            .retain(|_, lane| lane.current.is_some() || !lane.queue.is_empty());
        for op in over {
            self.lane_bytes -= op.bytes();
            for caller in op.callers() {
                self.refuse(caller, Error::bare(ErrorCode::Fenced));
            }
        }
    }

    /// Answers fences whose sessions have nothing in progress here any more.
    pub(super) fn end_fences(&mut self) {
        if self.fence_tasks.is_empty() {
            return;
        }
        let busy: BTreeSet<SessionId> = self
            .lanes
            .values()
            .filter_map(|lane| lane.current.as_ref()?.session())
            .collect();
        let draining = self
            .lanes
            .values()
            .any(|lane| matches!(lane.current, Some(Op::Draining { .. })));
        let ended: Vec<u64> = self
            .fence_tasks
            .iter()
            .filter(|(_, task)| {
                let over = !draining && task.sessions.is_disjoint(&busy);
                task.durable && (over || self.planted.fences_early())
            })
            .map(|(id, _)| *id)
            .collect();
        let epochs: Vec<(GroupId, Epoch)> = self
            .groups
            .iter()
            .filter(|(_, g)| g.stage != Stage::Adopting && g.role != Role::Stranger)
            .map(|(id, g)| (*id, g.epoch()))
            .collect();
        for id in ended {
            if let Some(task) = self.fence_tasks.remove(&id) {
                let epochs = epochs.clone();
                let fenced = Response::Fenced(SessionsFenced { epochs });
                self.answer(task.caller, Ok(fenced), Payload::default());
            }
        }
    }
}
