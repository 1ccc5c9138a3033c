//! Mount -> directory: sessions, leases, opens, locks, reclaim.

use super::member::DirectoryMember;
use super::requests;
use crate::attr::{FileAttr, SizeTimes};
use crate::cluster::ClusterMap;
use crate::ids::{
    GrantId, Incarnation, InodeId, LockOwner, MapVersion, Sequence, ServerRun, SessionId,
};
use crate::lock::{HeldLock, LockKind, LockRange, LockSpace};
use serde::{Deserialize, Serialize};

/// Identifies a request that changes something, for exactly-once execution. The directory
/// remembers the replies from `lowest_unanswered` up; what lies below is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Stamp {
    pub session: SessionId,
    pub sequence: Sequence,
    pub lowest_unanswered: Sequence,
}

/// Begins a session. Repeated by the same incarnation it returns the same session while that
/// lives, so that a lost reply costs nothing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OpenSession {
    pub incarnation: Incarnation,
    pub host: String,
    pub pid: u32,
    pub mount_point: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionOpened {
    pub session: SessionId,
    pub map: ClusterMap,
    /// The directory's clock, to warn about skew.
    pub clock_ns: i128,
    /// The life of the directory's leader: another value means that leases, opens and locks
    /// must be reclaimed.
    pub leader_life: u64,
    /// All members of the directory.
    pub members: Vec<DirectoryMember>,
}

/// Sign of life; also renews the right to cache. Binds the connection to the session: callbacks
/// go to the connection that sent the last `OpenSession`, `Heartbeat` or `Reclaim`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    pub session: SessionId,
    /// Runs of file servers that this mount cannot reach at present; at most
    /// `limits::UNREACHABLE_MAX` are looked at.
    pub unreachable: Vec<ServerRun>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HeartbeatAck {
    pub map_version: MapVersion,
    pub clock_ns: i128,
    pub leader_life: u64,
    /// All members of the directory.
    pub members: Vec<DirectoryMember>,
}

/// Ends a session: everything of it is released at once. The mount has flushed before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EndSession {
    pub session: SessionId,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GetMap;

/// The right to cache (`Shared`) or to change (`Exclusive`) the data of an inode.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum LeaseKind {
    Shared,
    Exclusive,
}

/// Asks for a lease; answered when it is granted, which may take a recall of others. Asking
/// again (after a lost connection) is harmless: what the session already holds is granted anew.
/// An upgrade is asked for the same way; the session never loses its shared right by asking.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AcquireLease {
    pub session: SessionId,
    pub inode: InodeId,
    pub kind: LeaseKind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LeaseGrant {
    pub grant: GrantId,
    pub kind: LeaseKind,
    /// True at the moment of the grant; carries the generation and the layout.
    pub attr: FileAttr,
    /// Requests under this grant use a map of at least this version (R7).
    pub map_version: MapVersion,
    /// Somebody else wants it soon: hold it for the minimum term, not longer than needed.
    pub contended: bool,
}

/// Gives a lease back without being asked, pushing what is not pushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReleaseLease {
    pub stamp: Stamp,
    pub inode: InodeId,
    pub grant: GrantId,
    pub push: Option<SizeTimes>,
}

/// Pushes size and times under an exclusive lease into the directory's log; answered when it is
/// durable there. Refused with `StaleGrant` when the grant is not the present one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PushAttr {
    pub stamp: Stamp,
    pub inode: InodeId,
    pub grant: GrantId,
    pub push: SizeTimes,
}

/// The session's first open of an inode: from now on it lives although it may be unlinked.
/// Later opens of the same inode by the same session need no request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OpenInode {
    pub stamp: Stamp,
    pub inode: InodeId,
    /// A lease wanted with the answer if that needs no recall.
    pub lease: Option<LeaseKind>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InodeOpened {
    pub attr: FileAttr,
    pub lease: Option<LeaseGrant>,
}

/// The session's last open of an inode is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CloseInode {
    pub stamp: Stamp,
    pub inode: InodeId,
    /// The exclusive lease under this grant is a shared one from now on, everything under it is
    /// pushed: others can look at the inode without asking this session.
    pub share: Option<GrantId>,
}

/// Sets a lock, or with `kind` `None` unlocks the range. The stamp's sequence names the wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SetLock {
    pub stamp: Stamp,
    pub inode: InodeId,
    pub space: LockSpace,
    pub owner: LockOwner,
    pub pid: u32,
    pub kind: Option<LockKind>,
    pub range: LockRange,
    /// Queue when it conflicts; else `WouldBlock`.
    pub wait: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LockAnswer {
    /// Set, or unlocked.
    Done,
    /// Waiting; `callback::LockGranted` will name the sequence. Asked again with the same
    /// sequence the answer is the present state of the same wait.
    Queued,
}

/// Ends a wait. `Done`: too late, the lock is held (the mount unlocks it if unwanted).
/// `Cancelled`: not held, and never will be by that request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CancelLock {
    pub session: SessionId,
    pub inode: InodeId,
    /// The sequence of the `SetLock`.
    pub wait: Sequence,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum CancelAnswer {
    Cancelled,
    TooLate,
}

/// Which lock would conflict (`F_GETLK`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TestLock {
    pub session: SessionId,
    pub inode: InodeId,
    pub space: LockSpace,
    pub owner: LockOwner,
    pub kind: LockKind,
    pub range: LockRange,
}

/// Releases everything that an owner holds in a space on an inode: at a POSIX close, at the
/// last close of an open file description.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReleaseOwner {
    pub stamp: Stamp,
    pub inode: InodeId,
    pub space: LockSpace,
    pub owner: LockOwner,
}

/// Re-asserts, after a change of the directory's leader, what the session held. Sent in pages;
/// the session counts as reclaimed after the one with `last`. Shared leases are not reclaimed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reclaim {
    pub session: SessionId,
    pub leader_life: u64,
    pub opens: Vec<InodeId>,
    /// Exclusive leases, by inode.
    pub leases: Vec<InodeId>,
    pub locks: Vec<(InodeId, HeldLock)>,
    pub last: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reclaimed {
    /// New grants for the leases of this page, in order; `None` for one that could not be kept.
    pub leases: Vec<Option<LeaseGrant>>,
}

requests! {
    0x0101 OpenSession => SessionOpened;
    0x0102 Heartbeat => HeartbeatAck;
    0x0103 EndSession => ();
    0x0104 GetMap => ClusterMap;
    0x0105 AcquireLease => LeaseGrant;
    0x0106 ReleaseLease => ();
    0x0107 PushAttr => FileAttr;
    0x0108 OpenInode => InodeOpened;
    0x0109 CloseInode => ();
    0x010a SetLock => LockAnswer;
    0x010b CancelLock => CancelAnswer;
    0x010c TestLock => Option<HeldLock>;
    0x010d ReleaseOwner => ();
    0x010e Reclaim => Reclaimed;
}
