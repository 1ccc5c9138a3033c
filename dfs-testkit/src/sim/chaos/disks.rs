//! Disks that rot, fail, fill up or are slow.

use super::outage;
use crate::sim::message::Node;
use crate::sim::schedule::Event;
use crate::sim::world::World;
use dfs_proto::ids::GroupId;

/// A trouble of a disk that ends by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Relief {
    Space,
    Speed,
}

impl World {
    /// A chunk rots on one server.
    pub(super) fn rot(&mut self, place: usize) {
        let whole = self.servers[place].disk.whole();
        if whole.is_empty() {
            return;
        }
        let (group, key) = whole[self.schedule.random.index(whole.len())];
        if self.may_harm(place, group) {
            self.schedule
                .trace(|| format!("{key} of {group} rots on server {place}"));
            self.servers[place].disk.rot(key);
        }
    }

    /// The next write or sync fails. Somebody replaces the disk after a while.
    pub(super) fn disk_fails(&mut self, place: usize) {
        let s = &mut self.schedule;
        let sync = s.random.chance(500);
        let after = s.random.micros(200_000, 2_000_000);
        let groups = self.directory.placed.groups.keys().copied();
        let groups: Vec<GroupId> = groups.collect();
        let allowed = groups.iter().all(|group| self.may_harm(place, *group));
        if !allowed || !self.servers[place].is_up() {
            return;
        }
        self.schedule
            .trace(|| format!("the disk of server {place} is about to fail, at a sync: {sync}"));
        let trouble = &mut self.servers[place].disk.trouble;
        trouble.sync_fails = sync;
        trouble.write_fails = !sync;
        self.schedule.push(after, Event::DiskReplaced(place));
    }

    /// Who replaces a disk restarts its server. What was not synced is gone.
    pub(in crate::sim) fn replace_disk(&mut self, place: usize) {
        let server = &mut self.servers[place];
        server.disk.trouble.sync_fails = false;
        server.disk.trouble.write_fails = false;
        if server.disk.trouble.failed && server.is_up() {
            server.kill(&mut self.schedule, false);
            self.comes_back(Node::Server(place), std::time::Duration::from_millis(50));
        }
    }

    pub(super) fn disk_fills(&mut self, place: usize) {
        let s = &mut self.schedule;
        let time = outage(s);
        let full = s.random.chance(700);
        s.trace(|| format!("the disk of server {place} fills up for {time:?}, full: {full}"));
        let trouble = &mut self.servers[place].disk.trouble;
        trouble.low = true;
        trouble.full = full;
        s.push(time, Event::Relieved(place, Relief::Space));
    }

    pub(super) fn disk_slows(&mut self, place: usize) {
        let s = &mut self.schedule;
        let time = outage(s);
        let slow = 2 + s.random.below(400) as u32;
        s.trace(|| format!("the disk of server {place} is {slow} times slower for {time:?}"));
        self.servers[place].disk.trouble.slow = slow;
        s.push(time, Event::Relieved(place, Relief::Speed));
    }

    pub(in crate::sim) fn relieve(&mut self, place: usize, relief: Relief) {
        let trouble = &mut self.servers[place].disk.trouble;
        match relief {
            Relief::Space => {
                trouble.low = false;
                trouble.full = false;
            }
            Relief::Speed => trouble.slow = 1,
        }
    }
}
