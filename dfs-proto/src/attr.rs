//! Attributes of inodes as they travel.

use crate::ids::{Generation, GrantId, InodeId, MapVersion};
use crate::layout::FileLayout;
use crate::limits::BLOCK_BYTES;
use crate::name::FileName;
use crate::xattr::XattrKinds;
use serde::{Deserialize, Serialize};

/// A point in time: seconds since 1970 (negative before) and nanoseconds, `0..1_000_000_000`.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Timestamp {
    pub seconds: i64,
    pub nanoseconds: u32,
}

impl Timestamp {
    /// Now, by the wall clock of this host.
    pub fn from_duration_since_1970(since: std::time::Duration) -> Self {
        Self {
            seconds: since.as_secs() as i64,
            nanoseconds: since.subsec_nanos(),
        }
    }
}

/// What an inode is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum FileKind {
    Regular,
    Dir,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

/// Attributes and layout of one inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileAttr {
    pub inode: InodeId,
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky: `0..=0o7777`.
    pub mode: u16,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    /// Device number of a device node, else 0.
    pub device: u64,
    /// Bytes.
    pub size: u64,
    /// Not every block up to the size need be stored: what it takes up is counted by the file
    /// servers. Else it takes up its size, in whole blocks.
    pub sparse: bool,
    pub accessed: Timestamp,
    pub modified: Timestamp,
    pub changed: Timestamp,
    /// Generation of the data: every chunk request carries it.
    pub generation: Generation,
    pub layout: FileLayout,
    /// Which extended attributes it has; what is not named here is not there.
    pub xattrs: XattrKinds,
}

/// Whether a file of `size` bytes has a hole after bytes were written to it at `offset`, if it had
/// none before: whole blocks between its end and them.
pub fn leaves_hole(size: u64, offset: u64) -> bool {
    let block = BLOCK_BYTES as u64;
    offset / block > size.div_ceil(block)
}

/// Whether a file without holes has one after its size was changed from the one to the other.
pub fn grows_hole(before: u64, after: u64) -> bool {
    let block = BLOCK_BYTES as u64;
    after.div_ceil(block) > before.div_ceil(block)
}

/// The part of the attributes that the holder of the exclusive lease is the authority for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SizeTimes {
    pub size: u64,
    /// As in `FileAttr`; `false` says nothing.
    pub sparse: bool,
    /// Of the data that the size is of. A size from before a cut says nothing about what the cut
    /// has left, however late it arrives.
    pub generation: Generation,
    pub modified: Option<Timestamp>,
    pub accessed: Option<Timestamp>,
    /// Whether data was written since the last push: mtime then becomes `modified`, or the
    /// directory's present time, and ctime is no older than that. setuid and setgid are not touched: the
    /// kernel asks for that by itself (`SetAttr`) before a write by somebody without the right.
    pub wrote: bool,
}

/// A time in `SetAttr`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SetTime {
    /// The directory's present time.
    Now,
    At(Timestamp),
}

/// Attributes to change; `None` leaves one alone. `size` is not here: it is its own operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SetAttr {
    pub mode: Option<u16>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub accessed: Option<SetTime>,
    pub modified: Option<SetTime>,
}

/// What the receiver of an inode's attributes may keep of them, and under which right.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Keep {
    /// Nothing: somebody else may change them without a word, or no right was to be had.
    #[default]
    Nothing,
    /// A dir: its attributes and the names in it, under the session's right of this dir.
    Dir,
    /// Anything else: the attributes (and, for a file, the data), under this shared lease.
    Lease {
        grant: GrantId,
        /// As in a `LeaseGrant`.
        map_version: MapVersion,
    },
}

/// One entry of a dir listing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DirEntry {
    pub name: FileName,
    /// Where the listing goes on after this entry; stays valid while entries come and go.
    /// Below 2^63; `0` is the start, `1` and `2` belong to `.` and `..`.
    pub cookie: u64,
    pub inode: InodeId,
    pub kind: FileKind,
    /// Present when asked for; without a right to keep them the size may lag behind an exclusive
    /// holder's.
    pub attr: Option<FileAttr>,
    pub keep: Keep,
}

/// Space and inodes of the file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StatFs {
    /// Usable bytes after replication and reserve.
    pub total_bytes: u64,
    pub free_bytes: u64,
    pub inodes: u64,
    pub free_inodes: u64,
}
