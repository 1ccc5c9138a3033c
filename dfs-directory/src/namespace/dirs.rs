//! Dirs come and go: mkdir, rmdir.
//!
//! A dir's links are its name, its `.`, and the `..` of every dir in it. There is no highest
//! number of dirs in a dir; `LINKS_MAX` is for what `link` makes.

use super::inodes::{self, Done, Draft};
use super::records::Effect;
use super::{create, entries, xattrs};
use crate::state::tables::Write;
use dfs_proto::attr::{FileKind, Timestamp};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::InodeId;
use dfs_proto::name::FileName;

pub(super) fn make(
    tables: &mut dyn Write,
    now: Timestamp,
    file: &create::NewInode<'_>,
) -> Done<Effect> {
    let mut dir = create::check(tables, file)?;
    entries::check_free(tables, file.parent, file.name)?;
    let inherited = file.inherit(tables, &dir, FileKind::Dir)?;
    let draft = Draft {
        kind: FileKind::Dir,
        mode: inherited.mode,
        device: 0,
        size: super::records::DIR_BYTES,
        creator: file.creator,
    };
    let (inode, mut record) = inodes::allocate(tables, now, (file.parent, &dir), draft)?;
    xattrs::give(tables, inode, &mut record, &inherited)?;
    dir.links += 1;
    create::enter(
        tables,
        now,
        (file.parent, &mut dir),
        file.name,
        (inode, &record),
    )?;
    Ok(Effect {
        created: true,
        ..Effect::on(inode, record)
    })
}

/// `rmdir`. The dir lives on as an orphan without links, in which nothing can be made.
pub(super) fn remove(
    tables: &mut dyn Write,
    now: Timestamp,
    (parent, name): (InodeId, &FileName),
) -> Done<Effect> {
    let mut dir = inodes::live_dir(tables, parent)?;
    let entry = entries::get(tables, parent, name)?;
    let inode = InodeId(entry.inode);
    let mut record = inodes::named(tables, inode)?;
    if !record.is_dir() {
        return Err(ErrorCode::NotADir.into());
    }
    if !entries::is_empty(tables, inode)? {
        return Err(ErrorCode::NotEmpty.into());
    }
    entries::remove(tables, parent, name, &entry)?;
    dir.links -= 1;
    dir.touch(now);
    inodes::put(tables, parent, &dir)?;
    record.links = 0;
    record.changed = now.into();
    inodes::put(tables, inode, &record)?;
    inodes::add_orphan(tables, inode)?;
    Ok(Effect {
        orphaned: Some(inode),
        ..Effect::on(inode, record)
    })
}
