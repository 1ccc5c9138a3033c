//! The namespace: inodes, the names that lead to them, sizes and times, and what must still be
//! cut or freed on the file servers.
//!
//! Pure functions over the tables. It knows nothing of leases, opens or connections (that is
//! the leader's memory) and checks no permission: the kernel of the mount has done that
//! (`default_permissions`), with the caller's capabilities, which nobody else knows.
//!
//! | module | operations |
//! | --- | --- |
//! | `create` | create, mknod, symlink |
//! | `dirs` | mkdir, rmdir |
//! | `link` | link, unlink |
//! | `rename` | rename, exchange |
//! | `attributes` | chmod, chown, utimens |
//! | `xattrs`, `acl` | extended attributes, what ACLs have to do with modes |
//! | `size` | truncate, extend, pushes of the lease holder, settling after a dead session |
//! | `intents` | ends of cuts and frees, freeing of orphans |
//! | `format` | the root dir and the defaults of a new cluster |
//! | `read` | everything that only looks |
//! | `paths` | paths of inodes, for people |
//! | `fsck` | whether the tables agree with each other |
//!
//! An operation checks everything before it writes anything: a refused one leaves no trace but
//! its remembered answer.

mod acl;
mod apply;
mod attributes;
mod create;
mod dirs;
mod entries;
mod format;
pub mod fsck;
mod import;
mod inodes;
mod intents;
mod keys;
mod link;
pub mod paths;
pub mod read;
mod records;
mod rename;
mod size;
mod xattrs;

#[cfg(test)]
mod tests;

use dfs_proto::attr::{FileAttr, SizeTimes};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{ClusterId, Generation, InodeId, SessionId};
use dfs_proto::layout::FileLayout;
use dfs_proto::limits;
use dfs_proto::msg::namespace::Mutation;
use dfs_proto::msg::session::Stamp;
use serde::{Deserialize, Serialize};

pub use apply::apply;
pub use import::imported;

/// A change of the namespace.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum NamespaceCommand {
    /// Makes the root dir and writes down what the cluster is. Once; a repeat with the same
    /// content is answered as the first.
    Format(Format),
    /// A mount's request, exactly once. `Create` also records the session's interest in the
    /// new inode.
    Mutate { stamp: Stamp, mutation: Mutation },
    /// Size and times from the holder of the exclusive lease, by its own request.
    Push {
        stamp: Stamp,
        inode: InodeId,
        push: SizeTimes,
    },
    /// The same, from the holder's answer to a recall or to `AskAttr`. Harmless when repeated
    /// as long as nobody else was granted the lease in between.
    PushAnswered {
        session: SessionId,
        inode: InodeId,
        push: SizeTimes,
    },
    /// Every replica has made the cut of this generation: its intent ends. An intent that is
    /// not there has ended before.
    CutDone {
        inode: InodeId,
        generation: Generation,
    },
    /// A session that may have written beyond the recorded size is gone, and fenced: the file ends
    /// where its data end (`end`, the byte after the last one that file servers hold), or at its
    /// recorded size if that is greater. Raises the generation and logs a cut at that size. Nothing
    /// for what is no regular file, or gone.
    Settle { inode: InodeId, end: u64 },
    /// Nobody has the orphan open any more: its record goes, and for a regular file a free
    /// intent is logged. Nothing if the inode is gone already; `Busy` if it has links.
    FreeOrphan { inode: InodeId },
    /// Every replica has freed the inode: the free intent ends.
    FreeDone { inode: InodeId },
}

/// What the cluster is, fixed when it is formatted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Format {
    pub cluster: ClusterId,
    /// Replica groups.
    pub groups: u32,
    /// Default bytes of a chunk.
    pub chunk_bytes: u32,
    pub replicas: u8,
    pub min_in_sync: u8,
    /// What every member of the directory must understand.
    pub feature_level: u32,
    /// Owner and group of the root dir: whoever founded the cluster.
    pub uid: u32,
    pub gid: u32,
}

impl Format {
    /// The defaults for a new cluster.
    pub fn defaults(cluster: ClusterId) -> Self {
        Self {
            cluster,
            groups: limits::GROUPS_DEFAULT,
            chunk_bytes: limits::CHUNK_BYTES_DEFAULT,
            replicas: limits::REPLICAS_DEFAULT,
            min_in_sync: 1,
            feature_level: 1,
            uid: 0,
            gid: 0,
        }
    }
}

/// What a command did, or why it was refused. A refused command changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NamespaceOutcome(pub Result<Changed, ErrorCode>);

/// What a command changed, as far as the services need to know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Changed {
    /// The inode that was made, changed, linked, moved, or (unlink, rmdir) whose name went away,
    /// as it was right after; `None` for one that is gone. Its generation is the present one.
    pub attr: Option<FileAttr>,
    /// `Create`: whether the file is new.
    pub created: bool,
    /// The inode whose last link went away: to be freed when nobody has it open.
    pub orphaned: Option<InodeId>,
    /// Rename: the inode that had the new name before (with `exchange` it lives on under the
    /// old one).
    pub replaced: Option<InodeId>,
    /// An intent of this generation was logged for the inode (`Generation::FREED`: a free): to
    /// be driven to its end, and waited for before the mount is answered.
    pub cut: Option<Generation>,
}

/// A cut or free that has not ended.
///
/// The intents of one inode are made in the order of their generations, each on every replica
/// before the next is sent: between two cuts the file may have grown and been written, so
/// neither can stand for both. A free replaces the inode's cuts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Intent {
    pub inode: InodeId,
    /// `Generation::FREED` for a free.
    pub generation: Generation,
    /// Everything from this byte on goes,
    pub from: u64,
    /// up to this one (exclusive); `u64::MAX` where nothing is left behind it.
    pub to: u64,
    /// No chunk of the inode lies at or beyond this byte; `None`: unknown (a session that is
    /// gone may have written anywhere).
    pub extent: Option<u64>,
    pub layout: FileLayout,
}

impl Intent {
    /// Whether the whole inode goes.
    pub fn is_free(&self) -> bool {
        self.generation == Generation::FREED
    }
}
