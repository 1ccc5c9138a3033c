//! Mode, owner and times: chmod, chown, utimens.
//!
//! The ctime changes with every call, also with one that changes nothing else (`chown(-1, -1)`).

use super::inodes::{self, Done, GROUP_EXECUTE, SETGID, SETUID};
use super::records::{Effect, InodeRecord, StoredTime};
use super::xattrs;
use crate::state::tables::Write;
use dfs_proto::attr::{SetAttr, SetTime, Timestamp};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::InodeId;

pub(super) fn set(
    tables: &mut dyn Write,
    now: Timestamp,
    inode: InodeId,
    set: &SetAttr,
) -> Done<Effect> {
    let mut record = inodes::get(tables, inode)?;
    check(set)?;
    if (set.uid.is_some() || set.gid.is_some()) && set.mode.is_none() {
        drop_privileges(&mut record);
    }
    if let Some(mode) = set.mode {
        record.mode = mode;
        xattrs::follow_mode(tables, inode, &record)?;
    }
    if let Some(uid) = set.uid {
        record.uid = uid;
    }
    if let Some(gid) = set.gid {
        record.gid = gid;
    }
    if let Some(time) = set.accessed {
        record.accessed = resolve(time, now);
    }
    if let Some(time) = set.modified {
        record.modified = resolve(time, now);
    }
    record.changed = now.into();
    inodes::put(tables, inode, &record)?;
    Ok(Effect::on(inode, record))
}

fn check(set: &SetAttr) -> Result<(), ErrorCode> {
    if let Some(mode) = set.mode {
        inodes::check_mode(mode)?;
    }
    // The number that stands for "leave alone" in the system call.
    if set.uid == Some(u32::MAX) || set.gid == Some(u32::MAX) {
        return Err(ErrorCode::InvalidArgument);
    }
    for time in [set.accessed, set.modified].into_iter().flatten() {
        if let SetTime::At(time) = time {
            check_time(time)?;
        }
    }
    Ok(())
}

/// Refuses a time that is none.
pub(super) fn check_time(time: Timestamp) -> Result<(), ErrorCode> {
    if time.nanoseconds < 1_000_000_000 {
        Ok(())
    } else {
        Err(ErrorCode::InvalidArgument)
    }
}

fn resolve(time: SetTime, now: Timestamp) -> StoredTime {
    match time {
        SetTime::Now => now.into(),
        SetTime::At(time) => time.into(),
    }
}

/// A file that changes hands is no longer setuid, nor setgid where that means execution as the
/// group. The kernel asks for the same in the mode; this is for callers that name none. Other
/// setgid bits go by the caller's groups, which only the kernel knows.
fn drop_privileges(record: &mut InodeRecord) {
    if record.is_dir() {
        return;
    }
    record.mode &= !SETUID;
    if record.mode & GROUP_EXECUTE != 0 {
        record.mode &= !SETGID;
    }
}
