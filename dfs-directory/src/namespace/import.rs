//! The namespace as it comes out of a backup.
//!
//! The file servers may have gone on after the backup was made, so what it says of numbers that
//! they have seen is too low. All of them jump: no inode number is given that a server knows already,
//! and every regular file gets a generation that is above all cuts that were made since. It is also
//! cut at the size that the backup has: what was written behind that must not come back when the
//! file grows again.

use super::inodes::{counters, put_counters};
use super::intents;
use super::keys;
use super::records::{InodeRecord, StoredKind};
use crate::state::IMPORT_JUMP;
use crate::state::record::{decode_record, store_record};
use crate::state::tables::{Table, TableError, Write};
use dfs_proto::ids::InodeId;
use std::ops::ControlFlow;

/// Inodes that are held in memory at a time.
const PAGE: usize = 1024;

/// Makes the imported tables safe for servers that went on. Once for each import.
pub fn imported(tables: &mut dyn Write) -> Result<(), TableError> {
    let mut numbers = counters(tables)?;
    numbers.next_inode += IMPORT_JUMP;
    put_counters(tables, &numbers)?;
    let mut from = Some(InodeId(0));
    while let Some(start) = from {
        let page = page(tables, start)?;
        from = match page.last() {
            Some((last, _)) if page.len() == PAGE => Some(InodeId(last.0 + 1)),
            _ => None,
        };
        for (inode, mut record) in page {
            if record.kind != StoredKind::Regular {
                continue;
            }
            record.generation += IMPORT_JUMP;
            // What is within the size is the servers', of another moment.
            record.sparse |= record.size > 0;
            let size = record.size;
            // The cuts that the backup knows go with this one.
            for cut in super::read::intents_of(tables, inode)? {
                tables.delete(Table::Intents, &keys::intent(inode, cut.generation))?;
            }
            intents::cut(tables, inode, &mut record, size..u64::MAX, None)?;
            store_record(tables, Table::Inodes, &keys::inode(inode), &record)?;
        }
    }
    Ok(())
}

fn page(tables: &dyn Write, from: InodeId) -> Result<Vec<(InodeId, InodeRecord)>, TableError> {
    let mut page = Vec::with_capacity(PAGE);
    let mut failed = None;
    tables.scan(Table::Inodes, &keys::inode(from), &mut |key, value| {
        match (keys::read_inode(key), decode_record(value)) {
            (Some(inode), Ok(record)) => page.push((inode, record)),
            (_, Err(e)) => failed = Some(e),
            (None, _) => failed = Some(TableError("an inode key of a wrong length".into())),
        }
        if failed.is_some() || page.len() == PAGE {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    failed.map_or(Ok(page), Err)
}
