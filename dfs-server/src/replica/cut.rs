//! Cuts: a range of an inode's bytes, mostly from some place on, is gone, and every older
//! generation with it.
//!
//! A cut waits until no write of its inode is in progress here, and no write starts before it
//! has ended. The directory repeats it until every member of every group has made it in one epoch,
//! and the generation makes a late repeat harmless. A cut belongs to the epochs that it names: an
//! adoption waits for the one that is made, and those that wait or come late are refused. Else its
//! floor would count as one of the new epoch, in which nobody else has it, and refuse all copies.

use super::event::{Caller, DiskDone, DiskOp, Response};
use super::group::{Group, Stage};
use super::holdings::Holdings;
use super::{DiskFor, ReplicaCore};
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::{ChunkIndex, ChunkKey, Epoch, GroupId, InodeId};
use dfs_proto::msg::control::{CutInode, CutMade};
use dfs_proto::payload::Payload;
use std::collections::VecDeque;

/// Cuts of one inode that may wait; the directory repeats what is refused.
const WAITING_MAX: usize = 16;

/// The cuts of one inode that wait or are made. While it exists, no write of the inode starts.
#[derive(Clone, Hash, Debug, Default)]
pub(super) struct CutGate {
    waiting: VecDeque<Asked>,
    running: Option<Asked>,
}

#[derive(Clone, Hash, Debug)]
struct Asked {
    caller: Caller,
    request: CutInode,
}

impl ReplicaCore {
    pub(super) fn cut(&mut self, caller: Caller, request: CutInode, h: &dyn Holdings) {
        if !request.layout.is_valid() || request.to <= request.from {
            let error = Error::new(ErrorCode::InvalidArgument, "a cut that cannot be");
            return self.refuse(caller, error);
        }
        let inode = request.inode;
        let asked = Asked { caller, request };
        let gate = self.cuts.entry(inode).or_default();
        if gate.waiting.len() >= WAITING_MAX {
            return self.refuse(caller, Error::bare(ErrorCode::Overloaded));
        }
        gate.waiting.push_back(asked);
        for key in self.lanes_of(inode).collect::<Vec<_>>() {
            self.yield_scrub(key);
        }
        self.start_cut(inode, h);
    }

    /// Makes the next cut of an inode, if there is one and nothing of the inode is in progress.
    pub(super) fn start_cut(&mut self, inode: InodeId, h: &dyn Holdings) {
        let Some(gate) = self.cuts.get(&inode) else {
            return;
        };
        if gate.running.is_some() || self.lanes_of(inode).any(|key| self.is_busy(key)) {
            return;
        }
        let Some(gate) = self.cuts.get_mut(&inode) else {
            return;
        };
        let Some(mut asked) = gate.waiting.pop_front() else {
            self.cuts.remove(&inode);
            let keys: Vec<ChunkKey> = self.lanes_of(inode).collect();
            for key in keys {
                self.kick(key, h);
            }
            return;
        };
        // Not before the epoch is durable: the floor would count as one of the epoch before.
        let adopted = |g: &&Group| g.stage != Stage::Adopting;
        let present = |id: &GroupId| self.groups.get(id).filter(adopted).map(Group::epoch);
        let groups = &mut asked.request.groups;
        groups.retain(|(id, epoch)| present(id) == Some(*epoch));
        if groups.is_empty() {
            let error = Error::new(ErrorCode::WrongEpoch, "asked for in another epoch");
            self.refuse(asked.caller, error);
            return self.start_cut(inode, h);
        }
        let request = &asked.request;
        let op = DiskOp::Cut {
            inode,
            generation: request.generation,
            from: request.from,
            to: request.to,
            layout: request.layout,
            groups: request.groups.iter().map(|(id, _)| *id).collect(),
        };
        self.count_cut(&asked.request.groups, 1);
        if let Some(gate) = self.cuts.get_mut(&inode) {
            gate.running = Some(asked);
        }
        self.disk(op, DiskFor::Cut(inode), None);
    }

    /// The disk begins, or ends, to change chunks of these groups.
    fn count_cut(&mut self, groups: &[(GroupId, Epoch)], by: i32) {
        for (id, _) in groups {
            if let Some(g) = self.groups.get_mut(id) {
                g.busy = g.busy.saturating_add_signed(by);
            }
        }
    }

    fn lanes_of(&self, inode: InodeId) -> impl Iterator<Item = ChunkKey> + '_ {
        let at = |index| ChunkKey {
            inode,
            index: ChunkIndex(index),
        };
        self.lanes.range(at(0)..=at(u64::MAX)).map(|(key, _)| *key)
    }

    fn is_busy(&self, key: ChunkKey) -> bool {
        self.lanes
            .get(&key)
            .is_some_and(|lane| lane.current.is_some())
    }

    pub(super) fn cut_ended(
        &mut self,
        inode: InodeId,
        result: Result<DiskDone, Error>,
        h: &dyn Holdings,
    ) {
        let running = self.cuts.get_mut(&inode).and_then(|g| g.running.take());
        if let Some(Asked { caller, request }) = running {
            self.count_cut(&request.groups, -1);
            self.put_drained_adoptions();
            match result {
                Ok(_) => {
                    let epochs = request
                        .groups
                        .iter()
                        .filter_map(|(id, _)| Some((*id, self.groups.get(id)?)))
                        .filter(|(_, g)| g.stage != Stage::Adopting)
                        .map(|(id, g)| (id, g.epoch()))
                        .collect();
                    let made = Response::Cut(CutMade { epochs });
                    self.answer(caller, Ok(made), Payload::default());
                }
                Err(error) => {
                    log::error!("{inode}: a cut failed here: {error}");
                    self.refuse(caller, error);
                }
            }
        }
        self.start_cut(inode, h);
    }
}
