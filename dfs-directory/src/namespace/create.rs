//! New files: create, mknod, symlink.

use super::inodes::{self, Done, Draft};
use super::records::{Effect, InodeRecord, StoredKind};
use super::xattrs::Inherited;
use super::{entries, keys, xattrs};
use crate::session;
use crate::state::tables::{Read, Table, TableError, Write};
use dfs_proto::attr::{FileKind, Timestamp};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{InodeId, SessionId};
use dfs_proto::limits::SYMLINK_BYTES_MAX;
use dfs_proto::msg::namespace::Creator;
use dfs_proto::name::FileName;

/// The file that is to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewInode<'a> {
    pub(super) parent: InodeId,
    pub(super) name: &'a FileName,
    pub(super) mode: u16,
    pub(super) creator: Creator,
}

impl NewInode<'_> {
    /// What it takes over from its dir, in place of the umask.
    pub(super) fn inherit(
        &self,
        tables: &dyn Read,
        dir: &InodeRecord,
        kind: FileKind,
    ) -> Result<Inherited, TableError> {
        let umask = self.creator.umask;
        xattrs::inherit(tables, (self.parent, dir), kind, self.mode, umask)
    }
}

/// `open(O_CREAT)`. Without `exclusive`, a regular file that came up meanwhile is taken; anything
/// else that did is `Stale`: the kernel of the caller looks again and opens what it finds.
pub(super) fn create(
    tables: &mut dyn Write,
    now: Timestamp,
    session: SessionId,
    file: &NewInode<'_>,
    exclusive: bool,
) -> Done<Effect> {
    let dir = check(tables, file)?;
    if let Some(entry) = entries::find(tables, file.parent, file.name)? {
        return match entry.kind {
            _ if exclusive => Err(ErrorCode::Exists.into()),
            StoredKind::Regular => {
                let inode = InodeId(entry.inode);
                Ok(Effect::on(inode, inodes::named(tables, inode)?))
            }
            StoredKind::Dir => Err(ErrorCode::IsADir.into()),
            _ => Err(ErrorCode::Stale.into()),
        };
    }
    let (inode, record) = make(tables, now, dir, file, FileKind::Regular, 0, 0)?;
    // The creator gets an exclusive lease with the answer.
    session::add_interest(tables, session, inode)?;
    Ok(Effect {
        created: true,
        ..Effect::on(inode, record)
    })
}

/// `mknod`: anything but dirs and symlinks.
pub(super) fn make_node(
    tables: &mut dyn Write,
    now: Timestamp,
    file: &NewInode<'_>,
    kind: FileKind,
    device: u64,
) -> Done<Effect> {
    let device = match kind {
        FileKind::CharDevice | FileKind::BlockDevice => device,
        FileKind::Regular | FileKind::Fifo | FileKind::Socket => 0,
        FileKind::Dir | FileKind::Symlink => return Err(ErrorCode::InvalidArgument.into()),
    };
    let dir = check(tables, file)?;
    entries::check_free(tables, file.parent, file.name)?;
    let (inode, record) = make(tables, now, dir, file, kind, device, 0)?;
    Ok(Effect {
        created: true,
        ..Effect::on(inode, record)
    })
}

pub(super) fn symlink(
    tables: &mut dyn Write,
    now: Timestamp,
    (parent, name): (InodeId, &FileName),
    target: &[u8],
    creator: Creator,
) -> Done<Effect> {
    if target.is_empty() {
        return Err(ErrorCode::NotFound.into());
    }
    if target.len() > SYMLINK_BYTES_MAX {
        return Err(ErrorCode::NameTooLong.into());
    }
    if target.contains(&0) {
        return Err(ErrorCode::InvalidArgument.into());
    }
    let file = NewInode {
        parent,
        name,
        mode: 0o777,
        creator,
    };
    let dir = check(tables, &file)?;
    entries::check_free(tables, parent, name)?;
    let size = target.len() as u64;
    let (inode, record) = make(tables, now, dir, &file, FileKind::Symlink, 0, size)?;
    tables.put(Table::Targets, &keys::inode(inode), target)?;
    Ok(Effect {
        created: true,
        ..Effect::on(inode, record)
    })
}

/// What every creation asks first; returns the parent's record.
pub(super) fn check(tables: &dyn Write, file: &NewInode<'_>) -> Done<InodeRecord> {
    inodes::check_mode(file.mode)?;
    inodes::check_owner(file.creator)?;
    inodes::live_dir(tables, file.parent)
}

fn make(
    tables: &mut dyn Write,
    now: Timestamp,
    mut dir: InodeRecord,
    file: &NewInode<'_>,
    kind: FileKind,
    device: u64,
    size: u64,
) -> Done<(InodeId, InodeRecord)> {
    let inherited = match kind {
        // Its mode has no meaning, and it has no ACL.
        FileKind::Symlink => None,
        _ => Some(file.inherit(tables, &dir, kind)?),
    };
    let draft = Draft {
        kind,
        mode: inherited.as_ref().map_or(file.mode, |taken| taken.mode),
        device,
        size,
        creator: file.creator,
    };
    let (inode, mut record) = inodes::allocate(tables, now, (file.parent, &dir), draft)?;
    if let Some(inherited) = &inherited {
        xattrs::give(tables, inode, &mut record, inherited)?;
    }
    enter(
        tables,
        now,
        (file.parent, &mut dir),
        file.name,
        (inode, &record),
    )?;
    Ok((inode, record))
}

/// Stores a new inode, its name and its parent.
pub(super) fn enter(
    tables: &mut dyn Write,
    now: Timestamp,
    (parent, dir): (InodeId, &mut InodeRecord),
    name: &FileName,
    (inode, record): (InodeId, &InodeRecord),
) -> Result<(), TableError> {
    entries::add(tables, (parent, dir), name, (inode, record.kind))?;
    dir.touch(now);
    inodes::put(tables, parent, dir)?;
    inodes::put(tables, inode, record)
}
