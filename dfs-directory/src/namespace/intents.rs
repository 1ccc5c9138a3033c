//! Intents: what the file servers must still cut or free. Logged with the change that demands
//! it, driven by the service, ended by a command.

use super::inodes::{self, Done};
use super::records::{Effect, InodeRecord, IntentRecord, StoredKind};
use super::{keys, read};
use crate::session;
use crate::state::record::store_record;
use crate::state::tables::{Table, TableError, Write};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{Generation, InodeId};
use std::ops::Range;

/// Raises the generation and logs the cut of `range`. The caller stores the record.
pub(super) fn cut(
    tables: &mut dyn Write,
    inode: InodeId,
    record: &mut InodeRecord,
    range: Range<u64>,
    extent: Option<u64>,
) -> Result<Generation, TableError> {
    let generation = Generation(record.generation).next();
    record.generation = generation.0;
    put(tables, inode, generation, record, range, extent)?;
    Ok(generation)
}

fn put(
    tables: &mut dyn Write,
    inode: InodeId,
    generation: Generation,
    record: &InodeRecord,
    range: Range<u64>,
    extent: Option<u64>,
) -> Result<(), TableError> {
    let intent = IntentRecord {
        from: range.start,
        to: range.end,
        extent,
        layout: record.layout,
    };
    let key = keys::intent(inode, generation);
    store_record(tables, Table::Intents, &key, &intent)
}

/// A cut has been made everywhere.
pub(super) fn end(tables: &mut dyn Write, inode: InodeId, generation: Generation) -> Done<Effect> {
    tables.delete(Table::Intents, &keys::intent(inode, generation))?;
    Ok(Effect {
        inode: inodes::find(tables, inode)?.map(|record| (inode, record)),
        ..Effect::default()
    })
}

/// An inode has been freed everywhere.
pub(super) fn end_free(tables: &mut dyn Write, inode: InodeId) -> Done<Effect> {
    end(tables, inode, Generation::FREED)
}

/// Nobody has the orphan open any more. What it had left to cut goes with the free.
pub(super) fn free_orphan(tables: &mut dyn Write, inode: InodeId) -> Done<Effect> {
    let Some(record) = inodes::find(tables, inode)? else {
        return Ok(Effect::default());
    };
    if record.links > 0 || !read::is_orphan(tables, inode)? {
        return Err(ErrorCode::Busy.into());
    }
    let was_of_interest = session::forget_inode(tables, inode)?;
    inodes::remove_orphan(tables, inode, &record)?;
    if record.kind != StoredKind::Regular {
        return Ok(Effect::default());
    }
    let cuts = read::intents_of(tables, inode)?;
    for cut in &cuts {
        let key = keys::intent(inode, cut.generation);
        tables.delete(Table::Intents, &key)?;
    }
    // Only a file that nobody may have written unseen, and that has no cut left to make, is
    // known to end where its record says.
    let extent = (!was_of_interest && cuts.is_empty()).then_some(record.size);
    put(
        tables,
        inode,
        Generation::FREED,
        &record,
        0..u64::MAX,
        extent,
    )?;
    Ok(Effect {
        cut: Some(Generation::FREED),
        ..Effect::default()
    })
}
