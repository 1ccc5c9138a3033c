//! What must not be done at one time, since it is not promised to be survived: see `chaos`.

use crate::sim::message::Node;
use crate::sim::world::World;
use dfs_directory::placement::GroupRecord;
use dfs_proto::ids::{GroupId, ServerRun};

impl World {
    /// Whether a server may end, with its power or not.
    pub(super) fn may_lose(&self, place: usize, power: bool) -> bool {
        if self.mood.blackouts && !self.holds_rot() {
            return true;
        }
        let groups = &self.directory.placed.groups;
        groups.iter().all(|(group, record)| {
            let needed = power && self.serves(place, record);
            (!needed && !self.is_poor(*group, record)) || self.has_another(*group, record, place)
        })
    }

    /// Whether the directory may miss a server for a while.
    pub(super) fn may_go(&self, place: usize) -> bool {
        self.may_lose(place, false)
    }

    /// Whether the directory may miss all of them.
    pub(super) fn may_all_go(&self) -> bool {
        let groups = &self.directory.placed.groups;
        (self.mood.blackouts && !self.holds_rot())
            || groups.iter().all(|(group, r)| !self.is_poor(*group, r))
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
            !self.is_poor(group, record) && self.has_another(group, record, place)
        })
    }

    fn holds_rot(&self) -> bool {
        self.servers.iter().any(|s| !s.disk.damaged().is_empty())
    }

    /// Whether some member holds less than the group was told.
    fn is_poor(&self, group: GroupId, record: &GroupRecord) -> bool {
        let mut servers = self.servers.iter();
        servers.any(|s| self.serves(s.place, record) && s.is_poor(group))
    }

    fn serves(&self, place: usize, record: &GroupRecord) -> bool {
        let mut home = record.home.iter();
        home.any(|server| self.schedule.places.get(server) == Some(&place))
    }

    /// Whether a group keeps a member that holds everything if this server goes. It is in-sync in
    /// the last epoch and in the one that served: it counts whatever comes next.
    fn has_another(&self, group: GroupId, record: &GroupRecord, place: usize) -> bool {
        let intact = |run: ServerRun| {
            self.servers.iter().any(|server| {
                let whole = server.run() == Some(run) && !server.is_poor(group);
                server.place != place && whole && self.reaches(server.place)
            })
        };
        let Some(effective) = &record.effective else {
            return true;
        };
        let present: Vec<ServerRun> = record.config.in_sync().collect();
        let mut members = effective.in_sync();
        members.any(|run| intact(run) && present.contains(&run))
    }

    /// Whether the directory and a server can talk.
    fn reaches(&self, place: usize) -> bool {
        let (net, now) = (&self.schedule.net, self.schedule.now);
        let server = Node::Server(place);
        !net.is_cut(Node::Directory, server, now)
            && !net.is_cut(server, Node::Directory, now)
            && net.paused(server, now).is_none()
            && !self.servers[place].is_stopping()
    }
}
