//! Further names of an inode, and their end: link, unlink.

use super::entries;
use super::inodes::{self, Done};
use super::records::{Effect, InodeRecord};
use crate::state::tables::{TableError, Write};
use dfs_proto::attr::Timestamp;
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::InodeId;
use dfs_proto::limits::LINKS_MAX;
use dfs_proto::name::FileName;

pub(super) fn link(
    tables: &mut dyn Write,
    now: Timestamp,
    inode: InodeId,
    (parent, name): (InodeId, &FileName),
) -> Done<Effect> {
    let mut dir = inodes::live_dir(tables, parent)?;
    entries::check_free(tables, parent, name)?;
    let mut record = inodes::get(tables, inode)?;
    if record.is_dir() {
        return Err(ErrorCode::NotPermitted.into());
    }
    // An inode without a name gets none any more: it may be freed at any moment.
    if record.links == 0 {
        return Err(ErrorCode::NotFound.into());
    }
    if record.links >= LINKS_MAX {
        return Err(ErrorCode::TooManyLinks.into());
    }
    entries::add(tables, (parent, &mut dir), name, (inode, record.kind))?;
    dir.touch(now);
    inodes::put(tables, parent, &dir)?;
    record.links += 1;
    record.changed = now.into();
    inodes::put(tables, inode, &record)?;
    Ok(Effect::on(inode, record))
}

pub(super) fn unlink(
    tables: &mut dyn Write,
    now: Timestamp,
    (parent, name): (InodeId, &FileName),
) -> Done<Effect> {
    let mut dir = inodes::live_dir(tables, parent)?;
    let entry = entries::get(tables, parent, name)?;
    let inode = InodeId(entry.inode);
    let record = inodes::named(tables, inode)?;
    if record.is_dir() {
        return Err(ErrorCode::IsADir.into());
    }
    entries::remove(tables, parent, name, &entry)?;
    dir.touch(now);
    inodes::put(tables, parent, &dir)?;
    let (record, orphaned) = drop_link(tables, now, inode, record)?;
    Ok(Effect {
        orphaned,
        ..Effect::on(inode, record)
    })
}

/// Takes one link from what is no dir, and stores it; with the last one it is an orphan.
pub(super) fn drop_link(
    tables: &mut dyn Write,
    now: Timestamp,
    inode: InodeId,
    mut record: InodeRecord,
) -> Result<(InodeRecord, Option<InodeId>), TableError> {
    record.links = record
        .links
        .checked_sub(1)
        .ok_or_else(|| TableError(format!("{inode} has a name but no link")))?;
    record.changed = now.into();
    inodes::put(tables, inode, &record)?;
    if record.links > 0 {
        return Ok((record, None));
    }
    inodes::add_orphan(tables, inode)?;
    Ok((record, Some(inode)))
}
