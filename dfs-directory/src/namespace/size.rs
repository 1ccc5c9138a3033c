//! Sizes: truncate, extend and punch, what the holder of the exclusive lease pushes, and what is left
//! after a session that ended without a word.
//!
//! The invariant: outside the lease holder's own view no chunk byte at or beyond the recorded
//! size can be read, now or after the file grows. So whatever lowers the size, or gives up on
//! writes beyond it, is a logged cut with a new generation; growing is a number in a record.
//!
//! A file is *sparse* once it may have holes: it grew without a write, a hole was punched, or its
//! holder says so. It stays so until it is empty, since nobody looks whether the holes were filled.
//!
//! The size that counts is the recorded one. A holder that has written beyond it pushes before
//! it asks for a smaller size, else the cut would not know what to reach for.

use super::attributes::check_time;
use super::inodes::{self, Done};
use super::intents;
use super::records::{Effect, InodeRecord, StoredKind};
use crate::state::tables::Write;
use dfs_proto::attr::{SizeTimes, Timestamp, grows_hole};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{Generation, InodeId};
use dfs_proto::limits::FILE_BYTES_MAX;
use std::ops::Range;

/// `truncate`, `ftruncate`, `O_TRUNC`, and growing by `fallocate`. The ctime changes also when
/// the size does not; with `modified` the mtime too.
pub(super) fn set(
    tables: &mut dyn Write,
    now: Timestamp,
    inode: InodeId,
    size: u64,
    modified: bool,
) -> Done<Effect> {
    let mut record = inodes::get(tables, inode)?;
    check_regular(&record)?;
    if size > FILE_BYTES_MAX {
        return Err(ErrorCode::FileTooLarge.into());
    }
    let before = record.size;
    record.size = size;
    record.sparse = size > 0 && (record.sparse || grows_hole(before, size));
    record.changed = now.into();
    if modified {
        record.modified = now.into();
    }
    let mut cut = None;
    if size < before {
        cut = Some(intents::cut(
            tables,
            inode,
            &mut record,
            size..u64::MAX,
            Some(before),
        )?);
    }
    inodes::put(tables, inode, &record)?;
    Ok(Effect {
        cut,
        ..Effect::on(inode, record)
    })
}

/// `fallocate` that punches a hole: what lies in the range reads as zeros from now on, and its
/// space is free. The size stays. Beyond the recorded size there is nothing to take away.
pub(super) fn punch(
    tables: &mut dyn Write,
    now: Timestamp,
    inode: InodeId,
    range: Range<u64>,
) -> Done<Effect> {
    let mut record = inodes::get(tables, inode)?;
    check_regular(&record)?;
    if range.is_empty() {
        return Err(ErrorCode::InvalidArgument.into());
    }
    let mut cut = None;
    if range.start < record.size {
        record.changed = now.into();
        record.modified = now.into();
        record.sparse = true;
        let extent = Some(record.size);
        cut = Some(intents::cut(tables, inode, &mut record, range, extent)?);
        inodes::put(tables, inode, &record)?;
    }
    Ok(Effect {
        cut,
        ..Effect::on(inode, record)
    })
}

fn check_regular(record: &InodeRecord) -> Result<(), ErrorCode> {
    match record.kind {
        StoredKind::Regular => Ok(()),
        StoredKind::Dir => Err(ErrorCode::IsADir),
        _ => Err(ErrorCode::InvalidArgument),
    }
}

/// Takes over what the holder of the exclusive lease knows.
///
/// The size never goes down by a push: shrinking is `set`, with its cut; a smaller size here was
/// sent before the file grew. Nor does it go up by one that was told before a cut: it would bring
/// back what the cut took. setuid and setgid stay: the kernel of a caller without the right
/// to keep them has had them removed (`SetAttr`) before it wrote, and a push that is late must
/// not undo a later chmod.
pub(super) fn push(
    tables: &mut dyn Write,
    now: Timestamp,
    inode: InodeId,
    push: &SizeTimes,
) -> Done<Effect> {
    let mut record = inodes::get(tables, inode)?;
    for time in [push.accessed, push.modified].into_iter().flatten() {
        check_time(time)?;
    }
    if record.kind == StoredKind::Regular {
        if push.size > FILE_BYTES_MAX {
            return Err(ErrorCode::FileTooLarge.into());
        }
        if push.generation >= Generation(record.generation) {
            record.size = record.size.max(push.size);
            record.sparse |= push.sparse;
        }
    }
    if push.wrote || push.modified.is_some() {
        let when = push.modified.unwrap_or(now);
        record.modified = when.into();
        // The holder has told its caller both times already: they must not move once more, else
        // whoever compares them (git) takes the file for changed.
        if Timestamp::from(record.changed) < when {
            record.changed = when.into();
        }
    }
    if let Some(accessed) = push.accessed {
        record.accessed = accessed.into();
    }
    inodes::put(tables, inode, &record)?;
    Ok(Effect::on(inode, record))
}

/// Settles what a session that is gone has written without telling the size: what file servers hold
/// of it was answered, or on its way, and stays. The times of such writes are not known; they
/// were made before now. The cut leaves nothing of older generations behind the end.
pub(super) fn settle(
    tables: &mut dyn Write,
    now: Timestamp,
    inode: InodeId,
    end: u64,
) -> Done<Effect> {
    let Some(mut record) = inodes::find(tables, inode)? else {
        return Ok(Effect::default());
    };
    if record.kind != StoredKind::Regular {
        return Ok(Effect::on(inode, record));
    }
    let end = end.min(FILE_BYTES_MAX);
    if end > record.size {
        // Nobody is left to say in which order it was written.
        record.sparse |= grows_hole(record.size, end);
        record.size = end;
        record.modified = now.into();
        record.changed = now.into();
    }
    let size = record.size;
    let cut: Generation = intents::cut(tables, inode, &mut record, size..u64::MAX, None)?;
    inodes::put(tables, inode, &record)?;
    Ok(Effect {
        cut: Some(cut),
        ..Effect::on(inode, record)
    })
}
