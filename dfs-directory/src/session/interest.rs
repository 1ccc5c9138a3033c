//! Interest records: which inodes a session may hold an exclusive lease, a write-open or a lock
//! on. They tell a new leader whom to wait for, and after a dead session what to settle.
//!
//! Each is stored under both orders, so that either side finds the other.

use super::keys;
use super::read;
use super::{INTEREST_BATCH_MAX, SessionPhase};
use crate::namespace;
use crate::state::tables::{Table, TableError, Write};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{InodeId, SessionId};

/// Records the session's interest in one inode; that both exist, the caller has seen to.
pub(crate) fn add(
    tables: &mut dyn Write,
    session: SessionId,
    inode: InodeId,
) -> Result<(), TableError> {
    tables.put(Table::Interest, &keys::interest(session, inode), &[])?;
    tables.put(Table::Interest, &keys::interested(inode, session), &[])
}

fn drop(tables: &mut dyn Write, session: SessionId, inode: InodeId) -> Result<(), TableError> {
    tables.delete(Table::Interest, &keys::interest(session, inode))?;
    tables.delete(Table::Interest, &keys::interested(inode, session))
}

pub(super) fn add_all(
    tables: &mut dyn Write,
    session: SessionId,
    inodes: &[InodeId],
) -> Result<Result<(), ErrorCode>, TableError> {
    if inodes.len() > INTEREST_BATCH_MAX {
        return Ok(Err(ErrorCode::InvalidArgument));
    }
    if let Err(code) = read::check_alive(tables, session)? {
        return Ok(Err(code));
    }
    for inode in inodes {
        if !namespace::read::exists(tables, *inode)? {
            return Ok(Err(ErrorCode::Stale));
        }
    }
    for inode in inodes {
        add(tables, session, *inode)?;
    }
    Ok(Ok(()))
}

/// Only an alive session's: the records of an ending one say what is left to settle, and a
/// release that was on its way must not hide that.
pub(super) fn drop_all(
    tables: &mut dyn Write,
    session: SessionId,
    inodes: &[InodeId],
) -> Result<Result<(), ErrorCode>, TableError> {
    if inodes.len() > INTEREST_BATCH_MAX {
        return Ok(Err(ErrorCode::InvalidArgument));
    }
    match read::session(tables, session)? {
        Some(info) if info.phase == SessionPhase::Alive => {}
        _ => return Ok(Err(ErrorCode::SessionEnded)),
    }
    for inode in inodes {
        drop(tables, session, *inode)?;
    }
    Ok(Ok(()))
}

/// Drops all records of an ended session.
pub(super) fn forget_session(tables: &mut dyn Write, session: SessionId) -> Result<(), TableError> {
    for inode in read::interest_of(tables, session)? {
        drop(tables, session, inode)?;
    }
    Ok(())
}

/// Drops all records of an inode that is freed; true if there were any.
pub(crate) fn forget_inode(tables: &mut dyn Write, inode: InodeId) -> Result<bool, TableError> {
    let sessions = read::interested_in(tables, inode)?;
    for session in &sessions {
        drop(tables, *session, inode)?;
    }
    Ok(!sessions.is_empty())
}
