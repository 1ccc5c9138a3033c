//! Per-chunk queues: what changes a chunk happens one after the other.
//!
//! One write of a chunk is in progress at a time, on the primary until all in-sync members
//! have it. So a forwarded write always finds its predecessor applied, and a copy made in a
//! lane is never a copy of something that could still vanish.

use super::event::Caller;
use super::scrub::ScrubOp;
use dfs_proto::ids::{Epoch, GroupId, ServerId, ServerRun, SessionId, Version};
use dfs_proto::msg::chunk::WriteChunk;
use dfs_proto::msg::peer::{ForwardWrite, InstallChunk};
use dfs_proto::payload::Payload;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Operations that may wait for one chunk.
pub(super) const LANE_MAX: usize = 128;

/// Payload bytes that may wait in all lanes.
pub(super) const LANE_BYTES_MAX: usize = 256 << 20;

/// Callers that may wait for one write (repeats on new connections).
pub(super) const REPEATS_MAX: usize = 16;

#[derive(Clone, Debug, Default)]
pub(super) struct Lane {
    pub(super) current: Option<Op>,
    pub(super) queue: VecDeque<Op>,
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    /// A mount's write, on the primary.
    Write(WriteOp),
    /// A forwarded write.
    Apply(ApplyOp),
    /// A part of a copy that the primary sends.
    Install(InstallOp),
    /// Making copies of the chunk equal.
    Copy(CopyOp),
    /// Comparing the copies of the chunk.
    Scrub(ScrubOp),
    /// Of an older epoch, answered already; the disk is still at it.
    Draining { group: GroupId },
}

#[derive(Clone, Debug)]
pub(super) struct WriteOp {
    pub(super) callers: Vec<Caller>,
    pub(super) request: WriteChunk,
    pub(super) payload: Payload,
    pub(super) started: Option<Started>,
}

/// A write that has its version.
#[derive(Clone, Debug)]
pub(super) struct Started {
    pub(super) forward: ForwardWrite,
    pub(super) local: Local,
    /// Members that do not have it yet.
    pub(super) waiting: BTreeMap<ServerId, Wait>,
    /// Members that have it.
    pub(super) applied: Vec<ServerRun>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Local {
    Writing,
    Done,
    /// The own copy is damaged; it is replaced by that of a member that has the write.
    Rotten,
    /// The own disk is full; the answer, if it is so everywhere.
    Full,
    /// There was no room for what others have, or it could not be copied: to be copied then, unless
    /// a new epoch comes. The last member that is in-sync stays, however often it reports itself.
    Behind {
        retry_at: Duration,
    },
    /// The own disk failed: only a new epoch resolves it.
    Failed,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Wait {
    pub(super) run: ServerRun,
    pub(super) state: WaitState,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum WaitState {
    Forwarded,
    /// Its copy does not fit: it gets the primary's as soon as that is written.
    Repair,
    Repairing,
    /// Its disk is full: nothing was applied there.
    Full,
    /// It failed; tried again from then on, until an epoch without it.
    Failed {
        retry_at: Duration,
    },
}

#[derive(Clone, Hash, Debug)]
pub(super) struct ApplyOp {
    pub(super) caller: Caller,
    pub(super) request: ForwardWrite,
    pub(super) payload: Payload,
}

#[derive(Clone, Hash, Debug)]
pub(super) struct InstallOp {
    pub(super) caller: Caller,
    pub(super) request: InstallChunk,
    pub(super) payload: Payload,
}

#[derive(Clone, Hash, Debug)]
pub(super) struct CopyOp {
    pub(super) group: GroupId,
    pub(super) epoch: Epoch,
    pub(super) purpose: Purpose,
    /// Replace the own copy by this member's first.
    pub(super) pull: Option<ServerRun>,
    /// With `pull`: only if it is this version.
    pub(super) expect: Option<Version>,
    /// Accept the own copy as the crash left it, first.
    pub(super) adopt_torn: bool,
    /// Then these get the own one.
    pub(super) push: Vec<ServerRun>,
    pub(super) running: usize,
    pub(super) failed: Vec<(ServerRun, dfs_proto::error::Error)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Purpose {
    Equalise,
    Join(ServerId),
    SelfRepair,
    /// A comparison has found wrong copies; who asked for it.
    Scrub(Caller),
}

impl Op {
    pub(super) fn group(&self) -> GroupId {
        match self {
            Self::Write(op) => op.request.group,
            Self::Apply(op) => op.request.group,
            Self::Install(op) => op.request.group,
            Self::Copy(op) => op.group,
            Self::Scrub(op) => op.group,
            Self::Draining { group } => *group,
        }
    }

    /// Payload bytes that it keeps in memory.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Write(op) => op.payload.len(),
            Self::Apply(op) => op.payload.len(),
            Self::Install(op) => op.payload.len(),
            Self::Copy(_) | Self::Scrub(_) | Self::Draining { .. } => 0,
        }
    }

    /// The session whose write it is.
    pub(super) fn session(&self) -> Option<SessionId> {
        match self {
            Self::Write(op) => Some(op.request.session),
            Self::Apply(op) => Some(op.request.session),
            Self::Install(_) | Self::Copy(_) | Self::Scrub(_) | Self::Draining { .. } => None,
        }
    }

    /// Whether it makes the same copies, and tells the same.
    pub(super) fn is_copy_like(&self, other: &CopyOp) -> bool {
        matches!(self, Self::Copy(op) if op.group == other.group
            && op.epoch == other.epoch
            && op.purpose == other.purpose
            && op.pull == other.pull
            && op.push == other.push)
    }

    pub(super) fn callers(&self) -> Vec<Caller> {
        match self {
            Self::Write(op) => op.callers.clone(),
            Self::Apply(op) => vec![op.caller],
            Self::Install(op) => vec![op.caller],
            Self::Scrub(op) => vec![op.caller],
            Self::Copy(_) | Self::Draining { .. } => Vec::new(),
        }
    }
}
