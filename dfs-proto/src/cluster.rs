//! The cluster map: which servers are there, and who serves which replica group.

use crate::ids::{Epoch, GroupId, MapVersion, ServerId, ServerRun};
use serde::{Deserialize, Serialize};

/// Whether a member of a group holds what the group holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum MemberState {
    /// Has every acknowledged write.
    InSync,
    /// Receives new writes while it catches up; serves no reads.
    Joining,
    /// Down, or not taken back yet; holds nothing that counts.
    Offline,
    /// Down, and among the only holders of the latest data: nobody is promoted over it.
    LastServing,
}

/// One server's part in an epoch of a group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct GroupMember {
    /// Which run of which server. A restarted server waits for an epoch that names its new run.
    pub run: ServerRun,
    pub state: MemberState,
}

/// One epoch of a replica group: what a server adopts.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct GroupConfig {
    pub group: GroupId,
    pub epoch: Epoch,
    /// The primary; `None` while nobody may serve.
    pub primary: Option<ServerId>,
    pub members: Vec<GroupMember>,
    /// Fewer in-sync members than this, and writes wait (R5).
    pub min_in_sync: u8,
    /// How the primary makes the members equal before the epoch is effective.
    pub equalise: Equalise,
}

/// What a new primary compares before it serves (R3, R11).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Equalise {
    /// The chunks that its members report as possibly different: writes that were in flight
    /// since the last epoch that served. The primary's copy wins.
    Marked,
    /// Everything, and the highest version of each chunk wins: after an end of all members.
    Everything,
}

impl GroupConfig {
    pub fn member(&self, server: ServerId) -> Option<&GroupMember> {
        self.members.iter().find(|m| m.run.server == server)
    }

    pub fn in_sync(&self) -> impl Iterator<Item = ServerRun> {
        self.with_state(MemberState::InSync)
    }

    pub fn joining(&self) -> impl Iterator<Item = ServerRun> {
        self.with_state(MemberState::Joining)
    }

    fn with_state(&self, state: MemberState) -> impl Iterator<Item = ServerRun> {
        self.members
            .iter()
            .filter(move |m| m.state == state)
            .map(|m| m.run)
    }

    /// Whether writes may be accepted.
    pub fn is_writable(&self) -> bool {
        self.primary.is_some() && self.in_sync().count() >= usize::from(self.min_in_sync)
    }
}

/// What the cluster wants of a server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum ServerLife {
    /// Holds its share of the groups.
    Active,
    /// Is being emptied for maintenance: its groups move to other servers, and it leaves each of
    /// them when the new member is in-sync.
    Draining,
    /// Was given up: its groups move to other servers without waiting for it, and it gets none.
    Removed,
}

/// What a person may change of a running cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterSettings {
    /// A server that is gone for longer than this is replaced on other servers.
    pub replace_after_seconds: u64,
    /// Bytes a second that one primary may copy to joining members; 0 does not limit it.
    pub repair_rate: u64,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            replace_after_seconds: 600,
            repair_rate: 100 << 20,
        }
    }
}

/// A server as the map shows it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ServerEntry {
    pub run: ServerRun,
    /// `HOST:PORT` under which mounts and other servers reach it; resolved at each connect.
    pub address: String,
    pub alive: bool,
}

/// A group as mounts see it: its last *effective* epoch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GroupEntry {
    pub group: GroupId,
    pub epoch: Epoch,
    /// `None` while nobody serves.
    pub primary: Option<ServerId>,
    /// Those that may serve reads, the primary among them.
    pub in_sync: Vec<ServerId>,
    pub writable: bool,
}

/// Who serves what. Only effective epochs are in it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ClusterMap {
    pub version: MapVersion,
    pub servers: Vec<ServerEntry>,
    /// Ordered by group, one entry for each.
    pub groups: Vec<GroupEntry>,
}

impl ClusterMap {
    pub fn group(&self, group: GroupId) -> Option<&GroupEntry> {
        self.groups
            .get(group.0 as usize)
            .filter(|g| g.group == group)
    }

    pub fn server(&self, server: ServerId) -> Option<&ServerEntry> {
        self.servers.iter().find(|s| s.run.server == server)
    }
}
