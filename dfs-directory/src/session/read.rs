//! What there is of sessions: reads without a change.

use super::keys;
use super::records::{SessionRecord, StoredPhase};
use super::{SessionInfo, SessionPhase};
use crate::state::tables::{Read, Table, TableError, scan_prefix};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{Incarnation, InodeId, SessionId};
use std::ops::ControlFlow;

fn info(session: SessionId, record: SessionRecord) -> SessionInfo {
    SessionInfo {
        session,
        phase: match record.phase {
            StoredPhase::Alive => SessionPhase::Alive,
            StoredPhase::Ending => SessionPhase::Ending,
            StoredPhase::Ended => SessionPhase::Ended,
        },
        incarnation: Incarnation(record.incarnation),
        host: record.host,
        pid: record.pid,
        mount_point: record.mount_point,
        began: record.began,
    }
}

/// One session; `None` if it never was, or its fence entry has gone too.
pub fn session(tables: &dyn Read, session: SessionId) -> Result<Option<SessionInfo>, TableError> {
    let record = SessionRecord::load(tables, &keys::session(session))?;
    Ok(record.map(|record| info(session, record)))
}

/// Whether commands of the session are executed; if not, `SessionEnded`.
pub fn check_alive(
    tables: &dyn Read,
    session: SessionId,
) -> Result<Result<(), ErrorCode>, TableError> {
    let key = keys::session(session);
    Ok(match SessionRecord::load(tables, &key)? {
        Some(record) if record.phase == StoredPhase::Alive => Ok(()),
        _ => Err(ErrorCode::SessionEnded),
    })
}

/// All sessions, in the order of their numbers: alive, ending, and ended ones that are still
/// fenced.
pub fn sessions(tables: &dyn Read) -> Result<Vec<SessionInfo>, TableError> {
    let mut found = Vec::new();
    let mut failed = None;
    tables.scan(Table::Sessions, &[], &mut |key, value| match (
        keys::read_session(key),
        SessionRecord::decode(value),
    ) {
        (Some(session), Ok(record)) => {
            found.push(info(session, record));
            ControlFlow::Continue(())
        }
        (None, _) => {
            failed = Some(TableError("a session key of a wrong length".into()));
            ControlFlow::Break(())
        }
        (_, Err(e)) => {
            failed = Some(e);
            ControlFlow::Break(())
        }
    })?;
    failed.map_or(Ok(found), Err)
}

/// The sessions that file servers refuse: ending ones, and ended ones until `ForgetFence`.
pub fn fence_list(tables: &dyn Read) -> Result<Vec<SessionId>, TableError> {
    Ok(sessions(tables)?
        .into_iter()
        .filter(|session| session.phase != SessionPhase::Alive)
        .map(|session| session.session)
        .collect())
}

/// The inodes that a session has an interest record of.
pub fn interest_of(tables: &dyn Read, session: SessionId) -> Result<Vec<InodeId>, TableError> {
    let mut inodes = Vec::new();
    let prefix = keys::interest_of_session(session);
    scan_prefix(tables, Table::Interest, &prefix, &mut |key, _| {
        inodes.extend(keys::read_interest(key).map(|(_, inode)| inode));
        ControlFlow::Continue(())
    })?;
    Ok(inodes)
}

/// The sessions that have an interest record of an inode.
pub fn interested_in(tables: &dyn Read, inode: InodeId) -> Result<Vec<SessionId>, TableError> {
    let mut sessions = Vec::new();
    let prefix = keys::interested_in_inode(inode);
    scan_prefix(tables, Table::Interest, &prefix, &mut |key, _| {
        sessions.extend(keys::read_interested(key).map(|(_, session)| session));
        ControlFlow::Continue(())
    })?;
    Ok(sessions)
}

/// Whether the session has an interest record of the inode.
pub fn has_interest(
    tables: &dyn Read,
    session: SessionId,
    inode: InodeId,
) -> Result<bool, TableError> {
    let key = keys::interest(session, inode);
    Ok(tables.get(Table::Interest, &key)?.is_some())
}
