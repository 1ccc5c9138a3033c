//! Deleting what is held of groups that this server left: epochs without it serve, and nobody
//! wants it in them.
//!
//! First the epoch without this server is adopted, durably: from then on this run refuses every
//! request of the older one, so nobody reads holes where there was something. Then its chunks
//! go, a batch at a time; an epoch that names this server again ends that at the next batch, and
//! the comparison of its joining does the rest.

use super::event::{Caller, DiskDone, DiskOp, Response};
use super::group::{Group, Role, Stage};
use super::holdings::Holdings;
use super::{DiskFor, ReplicaCore};
use dfs_proto::cluster::GroupConfig;
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::{Epoch, GroupId};
use dfs_proto::msg::control::{GroupsReleased, ReleaseGroups};
use dfs_proto::payload::Payload;
use std::collections::BTreeMap;

/// A `ReleaseGroups` that is not answered yet.
#[derive(Clone, Hash, Debug)]
pub(super) struct Release {
    caller: Caller,
    /// Groups that still may hold something, with the epoch without this server.
    left: BTreeMap<GroupId, Epoch>,
    released: Vec<GroupId>,
    chunks: u64,
}

impl ReplicaCore {
    pub(super) fn release_groups(
        &mut self,
        caller: Caller,
        request: ReleaseGroups,
        h: &dyn Holdings,
    ) {
        let mut release = Release {
            caller,
            left: BTreeMap::new(),
            released: Vec::new(),
            chunks: 0,
        };
        let mut adopted = Vec::new();
        for config in request.configs {
            let (id, epoch) = (config.group, config.epoch);
            if self.is_part_of(&config) {
                continue;
            }
            let nothing = h.chunks(id, None, 1).0.is_empty() && h.floors(id, None, 1).0.is_empty();
            match self.groups.get(&id) {
                None if nothing => {
                    release.released.push(id);
                    continue;
                }
                Some(g) if nothing && g.epoch() == epoch => {
                    release.released.push(id);
                    continue;
                }
                _ => {}
            }
            if self.enter_epoch(config) {
                adopted.push(id);
            }
            release.left.insert(id, epoch);
        }
        if release.left.is_empty() {
            return self.released(release);
        }
        let number = self.next_id();
        self.releases.insert(number, release);
        self.adopt_for_release(number, adopted);
    }

    /// Whether a config or what is known here of its group leaves this server a part in it.
    fn is_part_of(&self, config: &GroupConfig) -> bool {
        let named = config.members.iter().any(|m| m.run.incarnation == self.me);
        let known = self.groups.get(&config.group);
        let later = known.is_some_and(|g: &Group| {
            g.epoch() > config.epoch || g.epoch() == config.epoch && g.role != Role::Stranger
        });
        named || later
    }

    /// Its epochs are durable, or could not be made so.
    pub(super) fn release_adopted(&mut self, number: u64, result: Result<(), Error>) {
        match result {
            Ok(()) => self.go_on_releasing(number),
            Err(error) => self.release_failed(number, error),
        }
    }

    fn release_failed(&mut self, number: u64, error: Error) {
        if let Some(release) = self.releases.remove(&number) {
            self.refuse(release.caller, error);
        }
    }

    fn go_on_releasing(&mut self, number: u64) {
        let Some(release) = self.releases.get_mut(&number) else {
            return;
        };
        let groups = &self.groups;
        release.left.retain(|id, epoch| {
            let known = groups.get(id);
            known.is_some_and(|g| {
                g.epoch() == *epoch && g.role == Role::Stranger && g.stage != Stage::Adopting
            })
        });
        let Some((group, epoch)) = release.left.first_key_value().map(|(g, e)| (*g, *e)) else {
            if let Some(release) = self.releases.remove(&number) {
                self.released(release);
            }
            return;
        };
        // An adoption of the group waits for the batch that the disk is at.
        let op = DiskOp::Release { group, epoch };
        self.disk(op, DiskFor::Release { number, group }, Some(group));
    }

    pub(super) fn release_ended(
        &mut self,
        number: u64,
        group: GroupId,
        result: Result<DiskDone, Error>,
    ) {
        let Some(release) = self.releases.get_mut(&number) else {
            return;
        };
        match result {
            Ok(DiskDone::Released { chunks, end }) => {
                release.chunks += u64::from(chunks);
                if end {
                    release.left.remove(&group);
                    release.released.push(group);
                }
                self.go_on_releasing(number);
            }
            Ok(_) => self.release_failed(number, Error::bare(ErrorCode::Internal)),
            Err(error) => {
                log::error!("{group}: what is not this server's was not deleted: {error}");
                self.release_failed(number, error);
            }
        }
    }

    fn released(&mut self, release: Release) {
        let Release {
            caller,
            released,
            chunks,
            ..
        } = release;
        let answer = GroupsReleased {
            groups: released,
            chunks,
        };
        self.answer(caller, Ok(Response::Released(answer)), Payload::default());
    }
}
