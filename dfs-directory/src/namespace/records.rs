//! What is stored of the namespace, and how it becomes what travels.

use crate::state::record::Record;
use dfs_proto::attr::{FileAttr, FileKind, Timestamp};
use dfs_proto::ids::{ClusterId, Generation, GroupId, InodeId};
use dfs_proto::layout::FileLayout;
use dfs_proto::xattr::{XattrKinds, XattrName};
use serde::{Deserialize, Serialize};

/// Size that every dir shows, as on ext4.
pub(super) const DIR_BYTES: u64 = 4096;

/// The cookie of a dir's first entry; 1 and 2 belong to `.` and `..`.
pub(super) const FIRST_COOKIE: u64 = 3;

/// Cookies stay below this, since `off_t` is signed.
pub(super) const COOKIES_END: u64 = 1 << 63;

#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub(super) struct StoredTime {
    pub(super) seconds: i64,
    pub(super) nanoseconds: u32,
}

impl From<Timestamp> for StoredTime {
    fn from(time: Timestamp) -> Self {
        Self {
            seconds: time.seconds,
            nanoseconds: time.nanoseconds,
        }
    }
}

impl From<StoredTime> for Timestamp {
    fn from(time: StoredTime) -> Self {
        Self {
            seconds: time.seconds,
            nanoseconds: time.nanoseconds,
        }
    }
}

/// The order of the variants is stored: add at the end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub(super) enum StoredKind {
    Regular,
    Dir,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

impl From<FileKind> for StoredKind {
    fn from(kind: FileKind) -> Self {
        match kind {
            FileKind::Regular => Self::Regular,
            FileKind::Dir => Self::Dir,
            FileKind::Symlink => Self::Symlink,
            FileKind::Fifo => Self::Fifo,
            FileKind::Socket => Self::Socket,
            FileKind::CharDevice => Self::CharDevice,
            FileKind::BlockDevice => Self::BlockDevice,
        }
    }
}

impl From<StoredKind> for FileKind {
    fn from(kind: StoredKind) -> Self {
        match kind {
            StoredKind::Regular => Self::Regular,
            StoredKind::Dir => Self::Dir,
            StoredKind::Symlink => Self::Symlink,
            StoredKind::Fifo => Self::Fifo,
            StoredKind::Socket => Self::Socket,
            StoredKind::CharDevice => Self::CharDevice,
            StoredKind::BlockDevice => Self::BlockDevice,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct StoredLayout {
    pub(super) chunk_bytes: u32,
    pub(super) first_group: u32,
    pub(super) groups: u32,
}

impl From<StoredLayout> for FileLayout {
    fn from(layout: StoredLayout) -> Self {
        Self {
            chunk_bytes: layout.chunk_bytes,
            first_group: GroupId(layout.first_group),
            groups: layout.groups,
        }
    }
}

/// One inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct InodeRecord {
    pub(super) kind: StoredKind,
    pub(super) mode: u16,
    pub(super) links: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) device: u64,
    pub(super) size: u64,
    /// Regular files: not every block up to the size need be stored.
    pub(super) sparse: bool,
    pub(super) accessed: StoredTime,
    pub(super) modified: StoredTime,
    pub(super) changed: StoredTime,
    pub(super) generation: u64,
    pub(super) layout: StoredLayout,
    /// Dirs: what `..` is; the root's is itself. Else 0.
    pub(super) parent: u64,
    /// Dirs: the cookie of the next entry; only rises. Else 0.
    pub(super) next_cookie: u64,
    /// The kinds of extended attributes that it has.
    pub(super) xattrs: u8,
}

impl Record for InodeRecord {
    const VERSION: u8 = 3;
    const NAME: &'static str = "inode";
}

impl InodeRecord {
    pub(super) fn is_dir(&self) -> bool {
        self.kind == StoredKind::Dir
    }

    /// Marks the content as changed: mtime and ctime.
    pub(super) fn touch(&mut self, now: Timestamp) {
        self.modified = now.into();
        self.changed = now.into();
    }

    pub(super) fn attr(&self, inode: InodeId) -> FileAttr {
        FileAttr {
            inode,
            kind: self.kind.into(),
            mode: self.mode,
            links: self.links,
            uid: self.uid,
            gid: self.gid,
            device: self.device,
            size: self.size,
            sparse: self.sparse,
            accessed: self.accessed.into(),
            modified: self.modified.into(),
            changed: self.changed.into(),
            generation: Generation(self.generation),
            layout: self.layout.into(),
            xattrs: XattrKinds::from_bits(self.xattrs),
        }
    }
}

/// How much room the extended attributes of an inode take, if it has any.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct XattrsRecord {
    /// A list of their names, a NUL after each.
    pub(super) name_bytes: u32,
    pub(super) value_bytes: u32,
    /// How many are of no kind of their own.
    pub(super) others: u32,
}

impl Record for XattrsRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "extended attributes";
}

impl XattrsRecord {
    /// One more.
    pub(super) fn add(&mut self, name: &XattrName, value_bytes: usize) {
        self.name_bytes += name.byte_len() as u32 + 1;
        self.value_bytes += value_bytes as u32;
        self.others += u32::from(name.kind() == XattrKinds::OTHER);
    }

    /// One less, which was counted before.
    pub(super) fn take(&mut self, name: &XattrName, value_bytes: usize) {
        self.name_bytes = self.name_bytes.saturating_sub(name.byte_len() as u32 + 1);
        self.value_bytes = self.value_bytes.saturating_sub(value_bytes as u32);
        let others = u32::from(name.kind() == XattrKinds::OTHER);
        self.others = self.others.saturating_sub(others);
    }
}

/// A name in a dir.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct EntryRecord {
    pub(super) inode: u64,
    /// The inode's, which never changes: a listing needs no look at the inode.
    pub(super) kind: StoredKind,
    pub(super) cookie: u64,
}

impl Record for EntryRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "entry";
}

/// A cut or free that has not ended; its key names the inode and the generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct IntentRecord {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) extent: Option<u64>,
    pub(super) layout: StoredLayout,
}

impl Record for IntentRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "intent";
}

/// What the cluster was formatted with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct FormatRecord {
    pub(super) cluster: u128,
    pub(super) groups: u32,
    pub(super) chunk_bytes: u32,
    pub(super) replicas: u8,
    pub(super) min_in_sync: u8,
    pub(super) feature_level: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Record for FormatRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "format";
}

impl From<super::Format> for FormatRecord {
    fn from(format: super::Format) -> Self {
        Self {
            cluster: format.cluster.0,
            groups: format.groups,
            chunk_bytes: format.chunk_bytes,
            replicas: format.replicas,
            min_in_sync: format.min_in_sync,
            feature_level: format.feature_level,
            uid: format.uid,
            gid: format.gid,
        }
    }
}

impl From<FormatRecord> for super::Format {
    fn from(record: FormatRecord) -> Self {
        Self {
            cluster: ClusterId(record.cluster),
            groups: record.groups,
            chunk_bytes: record.chunk_bytes,
            replicas: record.replicas,
            min_in_sync: record.min_in_sync,
            feature_level: record.feature_level,
            uid: record.uid,
            gid: record.gid,
        }
    }
}

/// Numbers that only this table knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct CountersRecord {
    /// Never given before, never given again.
    pub(super) next_inode: u64,
    /// Inodes there are, orphans among them.
    pub(super) inodes: u64,
}

impl Record for CountersRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "counters";
}

/// The remembered outcome of a stamped command.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct ChangedRecord {
    inode: Option<(u64, InodeRecord)>,
    created: bool,
    orphaned: Option<u64>,
    replaced: Option<u64>,
    cut: Option<u64>,
}

impl Record for ChangedRecord {
    const VERSION: u8 = 3;
    const NAME: &'static str = "namespace outcome";
}

/// What an operation did, before it is remembered and told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Effect {
    pub(super) inode: Option<(InodeId, InodeRecord)>,
    pub(super) created: bool,
    pub(super) orphaned: Option<InodeId>,
    pub(super) replaced: Option<InodeId>,
    pub(super) cut: Option<Generation>,
}

impl Effect {
    /// Made, changed or linked this inode.
    pub(super) fn on(inode: InodeId, record: InodeRecord) -> Self {
        Self {
            inode: Some((inode, record)),
            ..Self::default()
        }
    }
}

impl From<Effect> for ChangedRecord {
    fn from(effect: Effect) -> Self {
        Self {
            inode: effect.inode.map(|(inode, record)| (inode.0, record)),
            created: effect.created,
            orphaned: effect.orphaned.map(|inode| inode.0),
            replaced: effect.replaced.map(|inode| inode.0),
            cut: effect.cut.map(|generation| generation.0),
        }
    }
}

impl From<ChangedRecord> for super::Changed {
    fn from(record: ChangedRecord) -> Self {
        Self {
            attr: record
                .inode
                .map(|(inode, record)| record.attr(InodeId(inode))),
            created: record.created,
            orphaned: record.orphaned.map(InodeId),
            replaced: record.replaced.map(InodeId),
            cut: record.cut.map(Generation),
        }
    }
}
