//! Sessions begin and end.

use super::records::{NumberRecord, SessionRecord, StoredPhase};
use super::{
    HOST_BYTES_MAX, MOUNT_POINT_BYTES_MAX, SESSIONS_MAX, SessionChanged, SessionPhase, interest,
    keys, ledger, read,
};
use crate::state::level;
use crate::state::record::{load_record, store_record};
use crate::state::tables::{Table, TableError, Write};
use dfs_proto::attr::Timestamp;
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{Incarnation, SessionId};

pub(super) fn open(
    tables: &mut dyn Write,
    now: Timestamp,
    incarnation: Incarnation,
    host: &str,
    pid: u32,
    mount_point: &str,
) -> Result<Result<SessionChanged, ErrorCode>, TableError> {
    if host.len() > HOST_BYTES_MAX || mount_point.len() > MOUNT_POINT_BYTES_MAX {
        return Ok(Err(ErrorCode::InvalidArgument));
    }
    let sessions = read::sessions(tables)?;
    let alive = sessions
        .iter()
        .find(|s| s.phase == SessionPhase::Alive && s.incarnation == incarnation);
    if let Some(known) = alive {
        return Ok(Ok(SessionChanged::Opened {
            session: known.session,
            fresh: false,
        }));
    }
    if sessions.len() >= SESSIONS_MAX {
        return Ok(Err(ErrorCode::Overloaded));
    }
    let next: Option<NumberRecord> = load_record(tables, Table::Meta, keys::NEXT_SESSION)?;
    let session = SessionId(next.map_or(1, |next| next.number));
    let next = NumberRecord {
        number: session.0 + 1,
    };
    store_record(tables, Table::Meta, keys::NEXT_SESSION, &next)?;
    let record = SessionRecord {
        phase: StoredPhase::Alive,
        incarnation: incarnation.0,
        host: host.to_owned(),
        pid,
        mount_point: mount_point.to_owned(),
        began: (level::of_cluster(tables)? >= level::SESSION_TIMES).then_some(now.seconds),
    };
    record.store(tables, &keys::session(session))?;
    Ok(Ok(SessionChanged::Opened {
        session,
        fresh: true,
    }))
}

pub(super) fn begin_end(
    tables: &mut dyn Write,
    session: SessionId,
) -> Result<Result<(), ErrorCode>, TableError> {
    let key = keys::session(session);
    let Some(mut record) = SessionRecord::load(tables, &key)? else {
        return Ok(Err(ErrorCode::SessionEnded));
    };
    if record.phase == StoredPhase::Alive {
        record.phase = StoredPhase::Ending;
        record.store(tables, &key)?;
    }
    Ok(Ok(()))
}

pub(super) fn finish_end(
    tables: &mut dyn Write,
    session: SessionId,
) -> Result<Result<(), ErrorCode>, TableError> {
    let key = keys::session(session);
    let Some(mut record) = SessionRecord::load(tables, &key)? else {
        return Ok(Err(ErrorCode::SessionEnded));
    };
    match record.phase {
        StoredPhase::Alive => Ok(Err(ErrorCode::Busy)),
        StoredPhase::Ended => Ok(Ok(())),
        StoredPhase::Ending => {
            interest::forget_session(tables, session)?;
            ledger::forget_session(tables, session)?;
            record.phase = StoredPhase::Ended;
            record.store(tables, &key)?;
            Ok(Ok(()))
        }
    }
}

pub(super) fn forget_fence(
    tables: &mut dyn Write,
    session: SessionId,
) -> Result<Result<(), ErrorCode>, TableError> {
    match read::session(tables, session)?.map(|info| info.phase) {
        None => Ok(Ok(())),
        Some(SessionPhase::Ended) => {
            tables.delete(Table::Sessions, &keys::session(session))?;
            Ok(Ok(()))
        }
        Some(SessionPhase::Alive | SessionPhase::Ending) => Ok(Err(ErrorCode::Busy)),
    }
}
