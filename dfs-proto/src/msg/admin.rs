//! `dfsctl` -> directory.

use super::requests;
use crate::cluster::{ClusterSettings, GroupConfig, ServerEntry, ServerLife};
use crate::ids::{ChunkKey, Epoch, GroupId, InodeId, MemberId, ServerId, SessionId, Version};
use crate::lock::HeldLock;
use crate::msg::registry::Space;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GetStatus;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status {
    pub cluster: crate::ids::ClusterId,
    pub members: Vec<MemberStatus>,
    pub servers: u32,
    pub servers_alive: u32,
    /// To be emptied, and given up.
    pub servers_draining: u32,
    pub servers_removed: u32,
    pub groups: u32,
    /// All wanted members in-sync.
    pub groups_healthy: u32,
    /// Fewer in-sync members than wanted, but serving.
    pub groups_degraded: u32,
    /// Nobody serves.
    pub groups_unavailable: u32,
    pub sessions: u32,
    pub inodes: u64,
    pub intents: u64,
    /// The cluster's feature level.
    pub level: u16,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberStatus {
    pub member: MemberId,
    pub address: String,
    pub leader: bool,
    /// It counts for majorities; if not, it is still getting the log.
    pub votes: bool,
    /// The leader's.
    pub term: u64,
    /// Index of the last entry of the log that it has; `None` if the leader has not heard of it.
    pub held: Option<u64>,
    /// Index of the last entry that the leader has.
    pub end: u64,
    /// The highest feature level that its program knows, as it has said last.
    pub supports: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ListServers;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServerStatus {
    pub entry: ServerEntry,
    pub life: ServerLife,
    pub space: Space,
    /// Milliseconds since its last sign of life.
    pub silent_ms: u64,
    pub groups: u32,
    pub groups_in_sync: u32,
    /// Why its disk cannot be used any more; empty: it can.
    pub failure: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ListGroups;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GroupStatus {
    pub config: GroupConfig,
    /// The last epoch that served.
    pub effective: Epoch,
    pub wanted: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ListSessions;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionStatus {
    pub session: SessionId,
    pub host: String,
    pub pid: u32,
    pub mount_point: String,
    /// Milliseconds since it began; `None` for one from before that was noted.
    pub age_ms: Option<u64>,
    pub silent_ms: u64,
    pub connected: bool,
    pub leases_shared: u64,
    pub leases_exclusive: u64,
    pub locks: u64,
    pub waits: u64,
    pub opens: u64,
    /// Locks that it waits for, the first `WAITS_SHOWN_MAX`.
    pub waiting_for: Vec<LockWait>,
}

/// Waits of a session that are named one by one.
pub const WAITS_SHOWN_MAX: usize = 16;

/// A lock that is waited for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LockWait {
    pub inode: InodeId,
    /// Of the waiting process.
    pub pid: u32,
    /// The session, host and process that hold what is in the way; `None` if only the order of
    /// the queue is.
    pub holder: Option<(SessionId, String, u32)>,
}

/// Ends a session now, whatever it holds: it is fenced first. Answered when what it held is free.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EvictSession {
    pub session: SessionId,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ListLocks {
    /// Only this inode.
    pub inode: Option<InodeId>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LockStatus {
    pub inode: InodeId,
    pub lock: HeldLock,
    /// Waits for it rather than holds it.
    pub waiting: bool,
    pub host: String,
}

/// What a person wants of a server. Answered when it is logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SetServerLife {
    pub server: ServerId,
    pub life: ServerLife,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GetSettings;

/// Answered when they are logged; servers hear of them with their next heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChangeSettings {
    pub settings: ClusterSettings,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GetRepair;

/// How far the cluster is from having every copy where it is wanted.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RepairStatus {
    pub groups: u32,
    /// Every wanted copy is there, and no other.
    pub groups_whole: u32,
    /// Copies are missing.
    pub groups_degraded: u32,
    /// A member is being brought up to date.
    pub groups_joining: u32,
    /// Wanted on a server that is lost or to be emptied, or with a member that is on its leave.
    pub groups_moving: u32,
    /// Nobody serves.
    pub groups_unavailable: u32,
    /// Chunks and bytes known to be missing; more may be found while inventories are compared.
    pub chunks_left: u64,
    pub bytes_left: u64,
    pub compared: bool,
    pub chunks_copied: u64,
    pub bytes_copied: u64,
    /// Bytes that were copied in the last second, on all servers.
    pub bytes_per_second: u64,
    /// Servers that are gone and still waited for, and for how many seconds more.
    pub awaited: Vec<(ServerId, u64)>,
    /// What cannot be repaired as things are, and why.
    pub stuck: Vec<(GroupId, String)>,
}
/// Do not wait any more for servers that served last: the groups that wait for them go on with
/// what is there, and what only the others have is lost. Answered with how many groups those are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GoOn;

/// Begins a backup of the names as they are now; the answer names it. One at a time: an earlier one
/// ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BeginExport;

/// The next piece of a backup, as payload. `false`: it was the last one. `NotFound` if the backup
/// has ended: another one was begun, this one was not asked for a minute, or the leader changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NextExport {
    pub export: u64,
}

/// Reads and compares every replica of a group; one group a call, so that a call stays short.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VerifyGroup {
    pub group: GroupId,
    /// Only chunks after this one; `Verified.next` goes on.
    pub after: Option<ChunkKey>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Verified {
    pub group: GroupId,
    pub chunks: u64,
    pub faults: Vec<Fault>,
    /// Digest over keys, versions and contents of the chunks of this call, by server.
    pub digests: Vec<(ServerId, u32)>,
    pub next: Option<ChunkKey>,
}

/// Something wrong with one replica.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fault {
    pub server: ServerId,
    pub key: ChunkKey,
    pub version: Option<Version>,
    pub what: String,
}

requests! {
    0x0801 GetStatus => Status;
    0x0802 ListServers => Vec<ServerStatus>;
    0x0803 ListGroups => Vec<GroupStatus>;
    0x0804 ListSessions => Vec<SessionStatus>;
    0x0805 ListLocks => Vec<LockStatus>;
    0x0806 VerifyGroup => Verified;
    0x0820 SetServerLife => ();
    0x0821 GetSettings => ClusterSettings;
    0x0822 ChangeSettings => ();
    0x0823 GetRepair => RepairStatus;
    0x0824 EvictSession => ();
    0x0825 BeginExport => u64;
    0x0826 NextExport => bool;
    0x0807 GoOn => u32;
}
