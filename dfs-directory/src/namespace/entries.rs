//! Entries: the names in a dir, each with its place in the listing.
//!
//! An entry is stored twice, by name and by cookie. Cookies are counted per dir and never given
//! again, so a listing goes on where it was however many entries come and go meanwhile, and
//! shows every entry that stays exactly once.

use super::inodes::Done;
use super::keys;
use super::records::{COOKIES_END, EntryRecord, InodeRecord, StoredKind};
use crate::state::record::{load_record, store_record};
use crate::state::tables::{Read, Table, TableError, Write, scan_prefix};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::InodeId;
use dfs_proto::name::FileName;
use std::ops::ControlFlow;

/// What a name in a dir leads to.
pub(super) fn find(
    tables: &dyn Read,
    parent: InodeId,
    name: &FileName,
) -> Result<Option<EntryRecord>, TableError> {
    let key = keys::entry(parent, name.as_bytes());
    load_record(tables, Table::Entries, &key)
}

/// The entry that a request names; `NotFound` if there is none.
pub(super) fn get(tables: &dyn Read, parent: InodeId, name: &FileName) -> Done<EntryRecord> {
    Ok(find(tables, parent, name)?.ok_or(ErrorCode::NotFound)?)
}

/// Refuses a name that is taken.
pub(super) fn check_free(tables: &dyn Read, parent: InodeId, name: &FileName) -> Done<()> {
    match find(tables, parent, name)? {
        None => Ok(()),
        Some(_) => Err(ErrorCode::Exists.into()),
    }
}

/// Adds a name that is free. `dir` is the parent's record, which the caller stores.
pub(super) fn add(
    tables: &mut dyn Write,
    (parent, dir): (InodeId, &mut InodeRecord),
    name: &FileName,
    (inode, kind): (InodeId, StoredKind),
) -> Result<(), TableError> {
    let cookie = dir.next_cookie;
    if cookie >= COOKIES_END {
        return Err(TableError(format!("{parent} has used up its cookies")));
    }
    dir.next_cookie += 1;
    let record = EntryRecord {
        inode: inode.0,
        kind,
        cookie,
    };
    put(tables, parent, name, &record)?;
    tables.put(
        Table::Cookies,
        &keys::cookie(parent, cookie),
        name.as_bytes(),
    )
}

/// Stores the entry of a name, in its old place in the listing.
pub(super) fn put(
    tables: &mut dyn Write,
    parent: InodeId,
    name: &FileName,
    record: &EntryRecord,
) -> Result<(), TableError> {
    let key = keys::entry(parent, name.as_bytes());
    store_record(tables, Table::Entries, &key, record)
}

/// Removes a name that is there.
pub(super) fn remove(
    tables: &mut dyn Write,
    parent: InodeId,
    name: &FileName,
    record: &EntryRecord,
) -> Result<(), TableError> {
    tables.delete(Table::Entries, &keys::entry(parent, name.as_bytes()))?;
    tables.delete(Table::Cookies, &keys::cookie(parent, record.cookie))
}

/// Whether a dir has no entries.
pub(super) fn is_empty(tables: &dyn Read, parent: InodeId) -> Result<bool, TableError> {
    let mut empty = true;
    scan_prefix(tables, Table::Entries, &keys::inode(parent), &mut |_, _| {
        empty = false;
        ControlFlow::Break(())
    })?;
    Ok(empty)
}
