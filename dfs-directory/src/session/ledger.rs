//! Exactly-once execution: the answer to every stamped command is stored in the transaction that
//! executes it, and a repeat is answered from there.
//!
//! A session's answers are kept from its lowest unanswered sequence up, which every stamp
//! carries; the highest that was seen is the session's floor. What lies below is refused, also
//! when it arrives late on an old connection, and never executed. One small record a command,
//! and one for the floor.
//!
//! Refusals are remembered too: a name that was refused because it existed may be free by the
//! time of the repeat, but the first answer may have been seen.

use super::records::{AnswerRecord, NumberRecord};
use super::{keys, read};
use crate::state::record::{Record, decode_record, encode_record, load_record, store_record};
use crate::state::tables::{Table, TableError, Write};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{Sequence, SessionId};
use dfs_proto::limits::SESSION_UNANSWERED_MAX;
use dfs_proto::msg::session::Stamp;
use std::ops::ControlFlow;

/// How far a sequence may be above the lowest unanswered one: bounds a session's part of the
/// ledger. Far more than may be unanswered at once, because one request that waits long (for a
/// cut on a group that is down) holds the floor while others come and go.
pub const WINDOW: u64 = 64 * SESSION_UNANSWERED_MAX as u64;

/// Runs a stamped command once and remembers its answer; a repeat gets that answer and changes
/// nothing. `SessionEnded`, `SequenceForgotten`, `InvalidArgument` (a stamp that makes no sense)
/// and `Overloaded` (beyond the window) are not remembered: nothing was run.
pub(crate) fn once<T: Record>(
    tables: &mut dyn Write,
    stamp: &Stamp,
    run: impl FnOnce(&mut dyn Write) -> Result<Result<T, ErrorCode>, TableError>,
) -> Result<Result<T, ErrorCode>, TableError> {
    let session = stamp.session;
    if let Err(code) = read::check_alive(tables, session)? {
        return Ok(Err(code));
    }
    if stamp.sequence.0 == 0 || stamp.lowest_unanswered > stamp.sequence {
        return Ok(Err(ErrorCode::InvalidArgument));
    }
    let floor = floor(tables, session)?;
    if stamp.sequence < floor {
        return Ok(Err(ErrorCode::SequenceForgotten));
    }
    let key = keys::ledger(session, stamp.sequence);
    if let Some(known) = load_record::<AnswerRecord>(tables, Table::Ledger, &key)? {
        return remembered(&known);
    }
    if stamp.sequence.0 - floor.max(stamp.lowest_unanswered).0 >= WINDOW {
        return Ok(Err(ErrorCode::Overloaded));
    }
    raise_floor(tables, session, floor, stamp.lowest_unanswered)?;
    let outcome = run(tables)?;
    let answer = match &outcome {
        Ok(done) => Ok(encode_record(done)?),
        Err(code) => Err(*code as u16),
    };
    store_record(tables, Table::Ledger, &key, &AnswerRecord { answer })?;
    Ok(outcome)
}

fn remembered<T: Record>(known: &AnswerRecord) -> Result<Result<T, ErrorCode>, TableError> {
    match &known.answer {
        Ok(bytes) => decode_record(bytes).map(Ok),
        Err(number) => ErrorCode::from_number(*number)
            .map(Err)
            .ok_or_else(|| TableError(format!("ledger holds the unknown error {number}"))),
    }
}

/// What lies below is never executed.
fn floor(tables: &dyn Write, session: SessionId) -> Result<Sequence, TableError> {
    let key = keys::ledger_floor(session);
    let record: Option<NumberRecord> = load_record(tables, Table::Ledger, &key)?;
    Ok(Sequence(record.map_or(1, |record| record.number)))
}

fn raise_floor(
    tables: &mut dyn Write,
    session: SessionId,
    floor: Sequence,
    lowest_unanswered: Sequence,
) -> Result<(), TableError> {
    if lowest_unanswered <= floor {
        return Ok(());
    }
    let number = lowest_unanswered.0;
    let key = keys::ledger_floor(session);
    store_record(tables, Table::Ledger, &key, &NumberRecord { number })?;
    delete_range(tables, session, floor, lowest_unanswered)
}

/// Drops the answers of `from..to`.
fn delete_range(
    tables: &mut dyn Write,
    session: SessionId,
    from: Sequence,
    to: Sequence,
) -> Result<(), TableError> {
    let mut gone = Vec::new();
    let end = keys::ledger(session, to);
    tables.scan(
        Table::Ledger,
        &keys::ledger(session, from),
        &mut |key, _| {
            if key >= &end[..] {
                return ControlFlow::Break(());
            }
            gone.push(key.to_vec());
            ControlFlow::Continue(())
        },
    )?;
    for key in gone {
        tables.delete(Table::Ledger, &key)?;
    }
    Ok(())
}

/// Drops everything of an ended session.
pub(super) fn forget_session(tables: &mut dyn Write, session: SessionId) -> Result<(), TableError> {
    delete_range(tables, session, Sequence(0), Sequence(u64::MAX))?;
    // The range excludes its end, which a session can name but never reach.
    tables.delete(Table::Ledger, &keys::ledger(session, Sequence(u64::MAX)))
}

/// How many answers of a session are remembered.
pub fn remembered_answers(
    tables: &dyn crate::state::tables::Read,
    session: SessionId,
) -> Result<usize, TableError> {
    let mut count = 0;
    let from = keys::ledger(session, Sequence(1));
    tables.scan(
        Table::Ledger,
        &from,
        &mut |key, _| match keys::read_ledger(key) {
            Some((at, _)) if at == session => {
                count += 1;
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Break(()),
        },
    )?;
    Ok(count)
}
