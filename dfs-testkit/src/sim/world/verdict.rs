//! What the whole cluster is looked at for: epochs that begin to serve, cuts that have ended, and in the
//! end that all is well and equal.

use super::{RECOVERY, World};
use crate::sim::client;
use crate::sim::client::Client;
use crate::sim::invariants::{Seen, convergence};
use crate::sim::server::Server;
use dfs_proto::cluster::Equalise;
use dfs_proto::ids::{ChunkIndex, ChunkKey, GroupId, InodeId};
use dfs_proto::layout::FileLayout;

impl World {
    /// Checks epochs that serve from now on.
    pub(super) fn look_at_epochs(&mut self) {
        let placed = &self.directory.placed;
        if placed.map_version == self.looked {
            return;
        }
        self.looked = placed.map_version;
        for (group, record) in placed.groups.iter().filter(|(_, r)| r.is_effective()) {
            let epoch = record.config.epoch;
            if self.serving.insert(*group, epoch) == Some(epoch) {
                continue;
            }
            if record.config.equalise == Equalise::Everything && self.may_have_lost(*group) {
                self.schedule
                    .trace(|| format!("{group} may have lost what was not synced"));
                let blocks = client::blocks_of(&self.schedule.files, *group);
                self.schedule.oracle.lost(blocks.into_iter());
                self.schedule.invariants.lost(*group);
            }
            let seen: Vec<Seen<'_>> = self.servers.iter().map(Server::seen).collect();
            let checked = self.schedule.invariants.serves(*group, record, &seen);
            self.schedule.check(checked);
        }
        for (group, record) in &placed.groups {
            let served = record.effective.as_ref();
            let served = served.map(|c| c.in_sync().map(|run| run.server).collect());
            if record.is_effective() {
                self.served.insert(*group, served.unwrap_or_default());
            }
        }
    }

    pub(super) fn look_at_cuts(&mut self) {
        for intent in std::mem::take(&mut self.directory.ended_cuts) {
            let seen: Vec<Seen<'_>> = self.servers.iter().map(Server::seen).collect();
            let placed = &self.directory.placed;
            let checked = self.schedule.invariants.cut_ended(&intent, placed, &seen);
            self.schedule.check(checked);
        }
    }

    /// Whether none of the servers that served a group last and are there has everything.
    fn may_have_lost(&self, group: GroupId) -> bool {
        let placed = &self.directory.placed;
        let whole = |server: &Server| {
            let Some(run) = server.run().filter(|_| !server.is_poor(group)) else {
                return false;
            };
            let record = placed.servers.get(&run.server);
            let known = record.is_some_and(|r| r.alive && r.incarnation == run.incarnation);
            let served = self.served.get(&group);
            known && served.is_some_and(|served| served.contains(&run.server))
        };
        self.mood.blackouts && !self.servers.iter().any(whole)
    }

    fn seen(&self) -> Vec<Seen<'_>> {
        self.servers.iter().map(Server::seen).collect()
    }

    pub(super) fn is_well(&self) -> bool {
        self.clients.iter().all(Client::is_done)
            && convergence::missing(&self.directory.placed, &self.seen()).is_ok()
    }

    /// All is quiet: all replicas hold the same, and what clients may see.
    pub(super) fn compare(&mut self) {
        let mut checked = Ok(());
        if !self.options.clients_only {
            checked = convergence::equal(&self.directory.placed, &self.seen());
        }
        self.schedule.check(checked);
        for (inode, layout) in self.schedule.files.clone() {
            for block in 0..client::CHUNKS * client::BLOCKS {
                let value = self.stored(inode, layout, block);
                self.schedule.note(value);
                let checked = self.schedule.oracle.read((inode, block), value);
                self.schedule.check(checked);
            }
        }
    }

    /// What the primary holds of a block.
    fn stored(&self, inode: InodeId, layout: FileLayout, block: u64) -> u64 {
        let index = ChunkIndex(block / client::BLOCKS);
        let at = (block % client::BLOCKS) as usize * client::BLOCK;
        let record = self.directory.placed.groups.get(&layout.group_of(index));
        let primary = record.and_then(|r| r.config.primary);
        let place = primary.and_then(|server| self.schedule.places.get(&server));
        let stored = place.and_then(|at| self.servers[*at].disk.stored(ChunkKey { inode, index }));
        let bytes = stored.and_then(|stored| stored.bytes.get(at..at + client::BLOCK));
        bytes
            .and_then(|b| b.try_into().ok())
            .map_or(0, u64::from_le_bytes)
    }

    pub(super) fn stuck(&mut self) {
        let clients: Vec<String> = self.clients.iter().map(Client::describe).collect();
        let missing = convergence::missing(&self.directory.placed, &self.seen());
        self.schedule.violate(format!(
            "not well {RECOVERY:?} after the last fault: {missing:?}\n{}",
            clients.join("\n")
        ));
    }
}
