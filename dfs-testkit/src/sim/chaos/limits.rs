//! What must not be done at one time, since it is not promised to be survived: see `chaos`.

use crate::sim::message::Node;
use crate::sim::server::Server;
use crate::sim::world::World;
use dfs_directory::placement::GroupRecord;
use dfs_proto::ids::{GroupId, ServerRun};

impl World {
    /// Whether the power of a server may fail.
    pub(super) fn may_lose_power(&self, place: usize) -> bool {
        if self.mood.blackouts && !self.holds_rot() {
            return true;
        }
        let groups = &self.directory.placed.groups;
        groups.iter().all(|(group, record)| {
            !self.serves(place, record) || self.has_another(*group, record, place, false)
        })
    }

    /// Whether a server may end, or be out of reach for a while. Where something has rotted the last
    /// good copy stays: a write that is under way when it goes makes another version of it. So does
    /// that beside a disk that fails: the group would go on with that one alone.
    pub(super) fn may_go(&self, place: usize) -> bool {
        let groups = &self.directory.placed.groups;
        groups.iter().all(|(group, record)| {
            !self.is_ailing(*group, record) || self.has_another(*group, record, place, true)
        })
    }

    /// Whether the directory may be out of reach for a while.
    pub(super) fn may_all_go(&self) -> bool {
        let mut groups = self.directory.placed.groups.iter();
        groups.all(|(group, record)| !self.is_ailing(*group, record))
    }

    /// Whether two nodes may be without each other.
    pub(super) fn may_be_apart(&self, a: Node, b: Node) -> bool {
        match (a, b) {
            (Node::Directory, Node::Server(place)) | (Node::Server(place), Node::Directory) => {
                self.may_go(place)
            }
            _ => true,
        }
    }

    /// Whether a copy of a chunk on a server may rot, or its disk fail.
    pub(super) fn may_harm(&self, place: usize, group: GroupId) -> bool {
        let record = self.directory.placed.groups.get(&group);
        record.is_some_and(|record| {
            !self.is_poor(group, record) && self.has_another(group, record, place, true)
        })
    }

    /// Faults that wait to strike are taken back where a copy that has everything went away
    /// meanwhile: a lost message is enough for that, and the group would go on with this one alone.
    pub(in crate::sim) fn spare_last_copies(&mut self) {
        let groups = &self.directory.placed.groups;
        let served = |record: &GroupRecord| record.effective.as_ref().map_or(0, |c| c.epoch.0);
        let epochs = groups.values().map(|r| r.config.epoch.0 + served(r)).sum();
        if std::mem::replace(&mut self.spared, epochs) == epochs {
            return;
        }
        let mut spared = Vec::new();
        for (group, record) in groups {
            for server in &self.servers {
                let place = server.place;
                let concerned = self.serves(place, record) && self.is_ill(server, *group);
                if concerned && !self.has_another(*group, record, place, true) {
                    spared.push((place, *group));
                }
            }
        }
        for (place, group) in spared {
            self.schedule
                .trace(|| format!("server {place} has the last copy of {group}: it stays whole"));
            self.servers[place].disk.spare(group);
        }
    }

    fn is_ill(&self, server: &Server, group: GroupId) -> bool {
        let mut rotten = server.disk.rotten().into_iter();
        server.disk.trouble.is_failing() || rotten.any(|(of, _)| of == group)
    }

    fn holds_rot(&self) -> bool {
        self.servers.iter().any(|s| !s.disk.damaged().is_empty())
    }

    /// Whether some member holds less than the group was told.
    fn is_poor(&self, group: GroupId, record: &GroupRecord) -> bool {
        let mut servers = self.servers.iter();
        servers.any(|s| self.serves(s.place, record) && s.is_poor(group))
    }

    /// Whether a member's copy has rotted, or its disk fails.
    fn is_ailing(&self, group: GroupId, record: &GroupRecord) -> bool {
        let mut servers = self.servers.iter();
        servers.any(|server| self.serves(server.place, record) && self.is_ill(server, group))
    }

    /// Whether the directory and a server can talk.
    fn reaches(&self, server: &Server) -> bool {
        let (net, now) = (&self.schedule.net, self.schedule.now);
        let node = Node::Server(server.place);
        server.is_up()
            && !server.is_stopping()
            && !net.is_cut(Node::Directory, node, now)
            && !net.is_cut(node, Node::Directory, now)
            && net.paused(node, now).is_none()
    }

    fn serves(&self, place: usize, record: &GroupRecord) -> bool {
        let members = record.config.members.iter().map(|m| m.run.server);
        let mut servers = members.chain(record.home.iter().copied());
        servers.any(|server| self.schedule.places.get(&server) == Some(&place))
    }

    /// Whether a group keeps a copy that has everything if this server goes: that of a run that is
    /// in-sync in the last epoch and in the one that served, so that it counts whatever comes next.
    fn has_another(
        &self,
        group: GroupId,
        record: &GroupRecord,
        place: usize,
        within_reach: bool,
    ) -> bool {
        let whole = |run: ServerRun| {
            self.servers.iter().any(|server| {
                let there = !within_reach || self.reaches(server);
                let is_it = server.place != place && server.last_run() == Some(run);
                is_it && there && !server.is_poor(group)
            })
        };
        let Some(effective) = &record.effective else {
            return true;
        };
        let present: Vec<ServerRun> = record.config.in_sync().collect();
        let mut members = effective.in_sync();
        members.any(|run| whole(run) && present.contains(&run))
    }
}
