//! What is waited for: disk operations and requests to other servers, each with what to do
//! when it ends.

use super::event::Caller;
use super::scrub::Checking;
use dfs_proto::ids::{ChunkKey, Epoch, GroupId, InodeId, ServerId, ServerRun, Version};

/// What to do when a disk operation ends.
#[derive(Clone, Hash, Debug)]
pub(super) enum DiskFor {
    Read {
        caller: Caller,
        key: ChunkKey,
        group: GroupId,
    },
    Sync {
        caller: Caller,
    },
    Local {
        key: ChunkKey,
        version: Version,
    },
    Apply {
        key: ChunkKey,
    },
    Install {
        key: ChunkKey,
    },
    Adoption(u64),
    Fence(u64),
    Cut(InodeId),
    /// Answered with `Done` (or the image) as it is.
    Caller(Caller),
    CaughtUp {
        caller: Caller,
        group: GroupId,
        epoch: Epoch,
    },
    Transfer {
        id: u64,
        key: ChunkKey,
    },
    Torn {
        key: ChunkKey,
    },
    Checked {
        check: Checking,
        caller: Caller,
    },
    ScrubOwn {
        check: Checking,
        id: u64,
        own: ServerRun,
    },
    OldFloors {
        group: GroupId,
        epoch: Epoch,
    },
    Release {
        number: u64,
        group: GroupId,
    },
}

#[derive(Clone, Hash, Debug)]
pub(super) struct PendingDisk {
    pub(super) what: DiskFor,
    /// The group whose adoption waits for it.
    pub(super) busy: Option<GroupId>,
}

impl PendingDisk {
    /// Whether it keeps the lane of this chunk occupied.
    pub(super) fn holds(&self, chunk: ChunkKey) -> bool {
        match &self.what {
            DiskFor::Local { key, .. }
            | DiskFor::Apply { key }
            | DiskFor::Install { key }
            | DiskFor::Transfer { key, .. }
            | DiskFor::Torn { key } => *key == chunk,
            _ => false,
        }
    }
}

/// What to do when a request is answered.
#[derive(Clone, Copy, Debug)]
pub(super) enum SendFor {
    Forward {
        key: ChunkKey,
        version: Version,
        run: ServerRun,
    },
    Transfer(u64),
    ScrubList {
        id: u64,
        run: ServerRun,
    },
    ScrubCheck {
        key: ChunkKey,
        id: u64,
        run: ServerRun,
    },
    Equalise {
        group: GroupId,
        epoch: Epoch,
        run: ServerRun,
    },
    Join {
        group: GroupId,
        epoch: Epoch,
        server: ServerId,
        attempt: u64,
    },
    Nobody,
}
