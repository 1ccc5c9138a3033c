//! Mount -> directory: names and attributes.

use super::requests;
use super::session::{LeaseGrant, Stamp};
use crate::attr::{DirEntry, FileAttr, FileKind, Keep, SetAttr, StatFs};
use crate::ids::{InodeId, MapVersion};
use crate::name::FileName;
use crate::xattr::{SetXattrIf, XattrName};
use serde::{Deserialize, Serialize};

/// The name `name` in `parent`. The attributes are true at the answer (an exclusive holder
/// elsewhere is asked). A name that is not there is an answer, not an error: it may be kept too.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lookup {
    /// Who asks: its own exclusive lease is not asked for its size.
    pub session: crate::ids::SessionId,
    pub parent: InodeId,
    /// `None` is `..`.
    pub name: Option<FileName>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LookedUp {
    /// `None`: there is no such name.
    pub seen: Option<Seen>,
    /// The session has the right of the dir: it may keep what this answer says of the name.
    pub names: bool,
}

/// An inode as it is, and what of that the session may keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Seen {
    pub attr: FileAttr,
    pub keep: Keep,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GetAttr {
    pub session: crate::ids::SessionId,
    pub inode: InodeId,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReadDir {
    /// Who asks: it may be given rights to keep what is listed.
    pub session: crate::ids::SessionId,
    pub inode: InodeId,
    /// `0` to start, else the cookie of the last entry seen.
    pub cookie: u64,
    pub entries_max: u32,
    pub with_attr: bool,
}

/// A page of a dir. `.` and `..` come first, with cookies 1 and 2.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DirPage {
    pub entries: Vec<DirPageEntry>,
    /// Nothing follows.
    pub end: bool,
    /// The session has the right of the dir: it may keep the names.
    pub names: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum DirPageEntry {
    /// `.`
    SelfDir {
        inode: InodeId,
    },
    /// `..`
    Parent {
        inode: InodeId,
    },
    Entry(DirEntry),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReadLink {
    pub inode: InodeId,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GetStatFs;

/// The value of an extended attribute; `NoSuchAttribute` if there is none.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GetXattr {
    pub inode: InodeId,
    pub name: XattrName,
}

/// The names of all extended attributes of an inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ListXattrs {
    pub inode: InodeId,
}

/// Who makes a new inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Creator {
    pub uid: u32,
    pub gid: u32,
    /// Permission bits that the new inode does not get, unless its dir has a default ACL: that
    /// takes its place.
    pub umask: u16,
}

/// A change of the namespace. Permission was checked by the kernel (`default_permissions`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mutate {
    pub stamp: Stamp,
    pub mutation: Mutation,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Mutation {
    /// A regular file, opened by the session (its open is recorded as by `OpenInode`) with an
    /// exclusive lease in the answer. With `exclusive` false and an existing regular file, that
    /// file is opened instead (`created` false; the lease may be absent).
    Create {
        parent: InodeId,
        name: FileName,
        mode: u16,
        creator: Creator,
        exclusive: bool,
    },
    /// A regular file (not opened), FIFO, socket or device node.
    MakeNode {
        parent: InodeId,
        name: FileName,
        kind: FileKind,
        mode: u16,
        device: u64,
        creator: Creator,
    },
    MakeDir {
        parent: InodeId,
        name: FileName,
        mode: u16,
        creator: Creator,
    },
    Symlink {
        parent: InodeId,
        name: FileName,
        target: Vec<u8>,
        creator: Creator,
    },
    Link {
        inode: InodeId,
        parent: InodeId,
        name: FileName,
    },
    Unlink {
        parent: InodeId,
        name: FileName,
        caller: u32,
    },
    RemoveDir {
        parent: InodeId,
        name: FileName,
        caller: u32,
    },
    Rename {
        parent: InodeId,
        name: FileName,
        new_parent: InodeId,
        new_name: FileName,
        flags: RenameFlags,
        caller: u32,
    },
    SetAttr {
        inode: InodeId,
        set: SetAttr,
    },
    /// Truncates or extends. The session holds the exclusive lease; the answer is given when
    /// every replica has made the cut. What counts as the present size is the recorded one, so a
    /// holder that has written beyond it pushes first: else the cut would miss those bytes.
    /// `modified`: the mtime changes too (the ctime always does).
    SetSize {
        inode: InodeId,
        size: u64,
        modified: bool,
    },
    /// Punches a hole: the bytes from `from` up to `to` (exclusive) read as zeros from now on,
    /// and their space is free; the size stays. As with `SetSize` the session holds the
    /// exclusive lease, has pushed its size, and is answered when every replica has made the cut.
    Punch {
        inode: InodeId,
        from: u64,
        to: u64,
    },
    /// Sets an extended attribute. The permission bits of the mode follow an access ACL; one that
    /// says no more than they can is not stored.
    SetXattr {
        inode: InodeId,
        name: XattrName,
        value: Vec<u8>,
        only: SetXattrIf,
        /// Access ACL: the caller may not keep the setgid bit (it is not of the file's group).
        drop_setgid: bool,
    },
    RemoveXattr {
        inode: InodeId,
        name: XattrName,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RenameFlags {
    pub no_replace: bool,
    pub exchange: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mutated {
    /// The inode that was made, changed, linked, or (unlink) whose link went away.
    pub attr: Option<FileAttr>,
    /// `Create`: whether the file is new.
    pub created: bool,
    pub lease: Option<LeaseGrant>,
    /// The session has the right of this inode, a dir that was made or changed.
    pub dir: bool,
    /// Dirs whose names were changed and whose right the session has, as they are now.
    pub parents: [Option<FileAttr>; 2],
    /// Rename: the inode that had the new name before; its attributes have changed.
    pub replaced: Option<InodeId>,
    /// A cut (`SetSize`, `Punch`): a map that names the epochs in which it was made. A server
    /// that these epochs have left behind may not have made it, and knows nothing of that: the
    /// session uses no older map for this inode from now on (R7). Else 0.
    pub map_version: MapVersion,
}

requests! {
    0x0201 Lookup => LookedUp;
    0x0202 GetAttr => Seen;
    0x0203 ReadDir => DirPage;
    0x0204 ReadLink => Vec<u8>;
    0x0205 GetStatFs => StatFs;
    0x0206 Mutate => Mutated;
    0x0207 GetXattr => Vec<u8>;
    0x0208 ListXattrs => Vec<XattrName>;
}
