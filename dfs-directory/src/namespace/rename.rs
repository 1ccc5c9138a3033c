//! Rename: the one operation on two dirs and up to two inodes.
//!
//! The four inodes may be the same in part (both dirs, or both names of one file), so each is
//! changed by its number, never through two copies of its record.
//!
//! A name that is replaced keeps its place in the listing: a reader of the dir sees it exactly
//! once, however often it is replaced while it reads.

use super::inodes::{self, Done};
use super::records::{Effect, EntryRecord, InodeRecord};
use super::{entries, link};
use crate::state::tables::{Read, TableError, Write};
use dfs_proto::attr::Timestamp;
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{InodeId, ROOT};
use dfs_proto::msg::namespace::RenameFlags;
use dfs_proto::name::FileName;

/// A name in a dir.
type Place<'a> = (InodeId, &'a FileName);

pub(super) fn rename(
    tables: &mut dyn Write,
    now: Timestamp,
    from: Place<'_>,
    to: Place<'_>,
    flags: RenameFlags,
) -> Done<Effect> {
    if flags.no_replace && flags.exchange {
        return Err(ErrorCode::InvalidArgument.into());
    }
    inodes::live_dir(tables, from.0)?;
    inodes::live_dir(tables, to.0)?;
    let source = entries::get(tables, from.0, from.1)?;
    let target = entries::find(tables, to.0, to.1)?;
    if target.is_some() && flags.no_replace {
        return Err(ErrorCode::Exists.into());
    }
    let moved = InodeId(source.inode);
    let moved_record = inodes::named(tables, moved)?;
    if moved_record.is_dir() && is_within(tables, to.0, moved)? {
        return Err(ErrorCode::InvalidArgument.into());
    }
    let Some(target) = target else {
        if flags.exchange {
            return Err(ErrorCode::NotFound.into());
        }
        relocate(tables, now, (from, source), to, None)?;
        return after(tables, moved, None, None);
    };
    let met = InodeId(target.inode);
    let met_record = inodes::named(tables, met)?;
    if met_record.is_dir() && is_within(tables, from.0, met)? {
        return Err(if flags.exchange {
            ErrorCode::InvalidArgument.into()
        } else {
            ErrorCode::NotEmpty.into()
        });
    }
    if moved == met {
        // Two names of one inode, or one name: nothing happens, as POSIX wants it.
        return Ok(Effect::on(moved, moved_record));
    }
    if flags.exchange {
        exchange(tables, now, (from, source), (to, target))?;
        return after(tables, moved, Some(met), None);
    }
    check_replace(tables, &moved_record, (met, &met_record))?;
    let orphaned = replace(tables, now, to.0, (met, met_record))?;
    relocate(tables, now, (from, source), to, Some(target))?;
    after(tables, moved, Some(met), orphaned)
}

fn after(
    tables: &dyn Read,
    moved: InodeId,
    replaced: Option<InodeId>,
    orphaned: Option<InodeId>,
) -> Done<Effect> {
    Ok(Effect {
        replaced,
        orphaned,
        ..Effect::on(moved, inodes::named(tables, moved)?)
    })
}

/// Whether `dir` is `ancestor` or lies below it.
fn is_within(tables: &dyn Read, dir: InodeId, ancestor: InodeId) -> Result<bool, TableError> {
    let mut at = dir;
    // More steps than there are inodes would be a circle.
    for _ in 0..=inodes::counters(tables)?.inodes {
        if at == ancestor {
            return Ok(true);
        }
        if at == ROOT {
            return Ok(false);
        }
        at = InodeId(inodes::named(tables, at)?.parent);
    }
    Err(TableError(format!("{dir} lies in a circle of dirs")))
}

/// What may replace what.
fn check_replace(
    tables: &dyn Read,
    moved: &InodeRecord,
    (met, met_record): (InodeId, &InodeRecord),
) -> Done<()> {
    match (moved.is_dir(), met_record.is_dir()) {
        (true, false) => Err(ErrorCode::NotADir.into()),
        (false, true) => Err(ErrorCode::IsADir.into()),
        (true, true) if !entries::is_empty(tables, met)? => Err(ErrorCode::NotEmpty.into()),
        _ => Ok(()),
    }
}

/// Takes the link of the inode whose name is taken over; its entry stays to be overwritten.
fn replace(
    tables: &mut dyn Write,
    now: Timestamp,
    parent: InodeId,
    (met, mut record): (InodeId, InodeRecord),
) -> Result<Option<InodeId>, TableError> {
    if !record.is_dir() {
        let (_, orphaned) = link::drop_link(tables, now, met, record)?;
        return Ok(orphaned);
    }
    record.links = 0;
    record.changed = now.into();
    inodes::put(tables, met, &record)?;
    inodes::add_orphan(tables, met)?;
    edit(tables, parent, |dir| dir.links -= 1)?;
    Ok(Some(met))
}

/// Moves an entry to a free name, or over `target`'s.
fn relocate(
    tables: &mut dyn Write,
    now: Timestamp,
    (from, source): (Place<'_>, EntryRecord),
    to: Place<'_>,
    target: Option<EntryRecord>,
) -> Result<(), TableError> {
    let moved = InodeId(source.inode);
    entries::remove(tables, from.0, from.1, &source)?;
    match target {
        Some(target) => {
            let entry = EntryRecord {
                cookie: target.cookie,
                ..source
            };
            entries::put(tables, to.0, to.1, &entry)?;
        }
        None => {
            let mut dir = inodes::named(tables, to.0)?;
            entries::add(tables, (to.0, &mut dir), to.1, (moved, source.kind))?;
            inodes::put(tables, to.0, &dir)?;
        }
    }
    arrive(tables, now, moved, from.0, to.0)?;
    edit(tables, from.0, |dir| dir.touch(now))?;
    edit(tables, to.0, |dir| dir.touch(now))
}

/// Swaps what two names lead to; both keep their places in the listings.
fn exchange(
    tables: &mut dyn Write,
    now: Timestamp,
    (from, source): (Place<'_>, EntryRecord),
    (to, target): (Place<'_>, EntryRecord),
) -> Result<(), TableError> {
    let at_from = EntryRecord {
        cookie: source.cookie,
        ..target
    };
    let at_to = EntryRecord {
        cookie: target.cookie,
        ..source
    };
    entries::put(tables, from.0, from.1, &at_from)?;
    entries::put(tables, to.0, to.1, &at_to)?;
    arrive(tables, now, InodeId(source.inode), from.0, to.0)?;
    arrive(tables, now, InodeId(target.inode), to.0, from.0)?;
    edit(tables, from.0, |dir| dir.touch(now))?;
    edit(tables, to.0, |dir| dir.touch(now))
}

/// The inode has another name now: its ctime, and for a dir its `..` with the link that counts.
fn arrive(
    tables: &mut dyn Write,
    now: Timestamp,
    inode: InodeId,
    from: InodeId,
    to: InodeId,
) -> Result<(), TableError> {
    let mut record = inodes::named(tables, inode)?;
    record.changed = now.into();
    let goes_elsewhere = record.is_dir() && from != to;
    if goes_elsewhere {
        record.parent = to.0;
    }
    inodes::put(tables, inode, &record)?;
    if goes_elsewhere {
        edit(tables, from, |dir| dir.links -= 1)?;
        edit(tables, to, |dir| dir.links += 1)?;
    }
    Ok(())
}

fn edit(
    tables: &mut dyn Write,
    inode: InodeId,
    change: impl FnOnce(&mut InodeRecord),
) -> Result<(), TableError> {
    let mut record = inodes::named(tables, inode)?;
    change(&mut record);
    inodes::put(tables, inode, &record)
}
