//! Directory member <-> directory member; who is a member.

use super::requests;
use crate::ids::{MemberId, NodeId};
use serde::{Deserialize, Serialize};

/// What a `RaftCall` carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RaftCallKind {
    /// Entries of the log, or a heartbeat.
    Append,
    /// A candidate asks for a vote.
    Vote,
    /// A piece of a snapshot.
    Snapshot,
    /// The leader is about to stop: another member is to lead at once.
    Yield,
    /// Would the receiver vote for the sender? Promises nothing.
    Sound,
}

/// A message of the replicated log. Request and answer travel as payload, in the form that the
/// directory's log module defines: it alone knows them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RaftCall {
    pub kind: RaftCallKind,
    /// Whom the caller takes the receiver for; another member at this address refuses.
    pub target: MemberId,
}

/// Where a member of the directory is reached.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct DirectoryMember {
    pub member: MemberId,
    /// `HOST:PORT`.
    pub address: String,
}

/// Takes a new member in, or notes a member's new address. A new node at the address of a member
/// takes its place: that member's disk is gone. Repeated by the same node: the same answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct JoinDirectory {
    pub node: NodeId,
    pub address: String,
    /// The highest feature level that the member's program knows.
    pub supports: u16,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DirectoryJoined {
    /// The number of the asking member: never used by another one.
    pub member: MemberId,
    pub members: Vec<DirectoryMember>,
}

/// Takes a member out for good; from `dfsctl`. `Busy` if nobody else were left.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RemoveMember {
    pub member: MemberId,
}

/// Asks any member what it knows of the directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ListMembers;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DirectoryView {
    pub members: Vec<DirectoryMember>,
    /// Whom the asked member follows.
    pub leader: Option<MemberId>,
    /// Who was asked.
    pub asked: MemberId,
    pub term: u64,
    /// Index of the last change that it has applied.
    pub applied: u64,
    /// The cluster's feature level, as far as it has applied the log.
    pub level: u16,
    /// The highest feature level that its program knows.
    pub supports: u16,
}

requests! {
    0x0901 RaftCall => ();
    0x0902 JoinDirectory => DirectoryJoined;
    0x0903 RemoveMember => ();
    0x0904 ListMembers => DirectoryView;
}
