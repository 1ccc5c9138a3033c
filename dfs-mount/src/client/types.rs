//! What callers of the client core hand in and get back.

use super::dir_cache::Asked;
use super::inode::Inode;
use super::lease_use::LeaseUse;
use super::opens::Open;
use dfs_proto::attr::{FileAttr, FileKind};
use dfs_proto::ids::InodeId;
use dfs_proto::ids::LockOwner;
use dfs_proto::limits::BLOCK_BYTES;
use dfs_proto::lock::{LockKind, LockRange, LockSpace};
use dfs_proto::msg::namespace::DirPageEntry;
use dfs_proto::payload::Payload;
use std::sync::Arc;
use std::time::Duration;

/// How to reach a cluster, and as whom.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// `HOST:PORT` of the directory's members, in the order of their member ids.
    pub directories: Vec<String>,
    /// Shown by `dfsctl sessions`.
    pub mount_point: String,
    /// The cluster secret, needed beyond loopback.
    pub secret: Option<dfs_proto::handshake::Secret>,
    /// A caller is answered with an error after waiting this long; `None` waits for ever. The
    /// request itself goes on until its outcome is known.
    pub io_timeout: Option<Duration>,
}

/// Bytes that `st_blocks` counts in.
pub const SECTOR_BYTES: u64 = 512;

/// Attributes, and what protects them. How long the kernel may serve them from its cache is asked
/// when they are handed to it (`Client::attr_ttl`).
#[derive(Clone, Debug)]
pub struct AttrAnswer {
    pub attr: FileAttr,
    /// Bytes that it takes up, in whole blocks; `None`: it is sparse, and nobody has asked the file
    /// servers. `Client::getattr` does.
    pub stored: Option<u64>,
    pub(super) right: AttrRight,
}

impl AttrAnswer {
    pub(super) fn new(attr: FileAttr, right: AttrRight) -> Self {
        let unit = match attr.kind {
            FileKind::Regular => BLOCK_BYTES as u64,
            _ => SECTOR_BYTES,
        };
        let stored = (!attr.sparse).then(|| attr.size.next_multiple_of(unit));
        Self {
            attr,
            stored,
            right,
        }
    }

    /// Attributes that must not be kept.
    pub fn unprotected(attr: FileAttr) -> Self {
        Self::new(attr, AttrRight::None)
    }
}

/// Under which right attributes are true.
#[derive(Clone, Debug)]
pub(super) enum AttrRight {
    None,
    Dir(Asked),
    Lease {
        inode: Arc<Inode>,
        era: u64,
        /// Of `Core::attr_changes`.
        asked: u64,
    },
}

/// What a name leads to, and what protects that. How long the kernel may serve it from its cache
/// is asked when it is handed over (`Client::entry_ttl`).
#[derive(Clone, Debug)]
pub struct EntryAnswer {
    /// `None`: there is no such name.
    pub found: Option<AttrAnswer>,
    /// The dir of the name, and when the answer was asked for, if its right is held.
    pub(super) names: Option<(InodeId, Asked)>,
}

/// A page of a dir.
#[derive(Debug)]
pub struct Listed {
    pub entries: Vec<ListedEntry>,
    /// Nothing follows.
    pub end: bool,
}

/// One entry of a page; with what a LOOKUP would have answered, if that was asked for.
#[derive(Debug)]
pub struct ListedEntry {
    pub entry: DirPageEntry,
    pub answer: Option<EntryAnswer>,
}

/// What an open asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenMode {
    pub read: bool,
    pub write: bool,
}

/// One open of an inode. Every data and lock call goes through it. The open ends when the last
/// clone is dropped; the last open of an inode pushes what is unpushed, in the background.
#[derive(Clone, Debug)]
pub struct Handle(pub(super) Arc<Open>);

impl Handle {
    pub fn inode(&self) -> InodeId {
        self.0.inode.id
    }

    pub fn mode(&self) -> OpenMode {
        self.0.mode
    }
}

/// What a create made or found, open.
#[derive(Debug)]
pub struct Created {
    pub handle: Handle,
    pub attr: AttrAnswer,
    /// The file is new; else it was there and was opened.
    pub created: bool,
    pub(super) names: Option<(InodeId, Asked)>,
}

impl Created {
    /// As a lookup would have answered.
    pub fn entry(&self) -> EntryAnswer {
        EntryAnswer {
            found: Some(self.attr.clone()),
            names: self.names,
        }
    }
}

/// Whether a read waits for a recall in progress.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadMode {
    Normal,
    /// An invalidation waits for this READ's page: read under the lease that goes.
    Unblock,
}

/// What kind of write it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteMode {
    Normal,
    /// Pages of a shared map that the kernel writes out (FUSE_WRITE_CACHE): served at once even
    /// while a recall is in progress, never past the end of the file.
    Launder,
}

/// Where a write goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteAt {
    Offset(u64),
    /// The end of the file, exactly, whatever other hosts do.
    End,
}

/// Bytes read. The right to have read them is held until this is dropped: reply first, then
/// drop it.
#[derive(Debug)]
pub struct ReadData {
    pub(super) bytes: Payload,
    pub(super) right: Option<LeaseUse>,
}

impl ReadData {
    /// Whether the right under which the bytes are true was not lost meanwhile.
    pub fn is_true(&self) -> bool {
        self.right.as_ref().is_none_or(LeaseUse::is_valid)
    }
}

impl std::ops::Deref for ReadData {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The value of an extended attribute. If the kernel keeps it, the right to that is held until
/// this is dropped: reply first, then drop it.
#[derive(Debug)]
pub struct XattrValue {
    /// `None`: there is none.
    pub value: Option<Vec<u8>>,
    #[expect(dead_code, reason = "held, not looked at")]
    pub(super) right: Option<LeaseUse>,
}

/// A lock request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockRequest {
    pub space: LockSpace,
    pub owner: LockOwner,
    pub pid: u32,
    /// `None` unlocks.
    pub kind: Option<LockKind>,
    pub range: LockRange,
    /// Wait without limit; else `WouldBlock`.
    pub wait: bool,
}

/// What a range becomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fill {
    /// What is stored stays as it is, the rest is stored zeros.
    Room,
    /// Stored zeros.
    Zeros,
}

/// What `fallocate` is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allocate {
    pub offset: u64,
    pub len: u64,
    /// FALLOC_FL_KEEP_SIZE; a hole always keeps it.
    pub keep_size: bool,
}
