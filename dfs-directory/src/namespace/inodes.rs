//! Inode records in the tables, and how an operation stops.

use super::records::{
    CountersRecord, FIRST_COOKIE, FormatRecord, InodeRecord, StoredKind, StoredLayout,
};
use super::{keys, xattrs};
use crate::state::record::{load_record, store_record};
use crate::state::tables::{Read, Table, TableError, Write};
use dfs_proto::attr::{FileKind, Timestamp};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{InodeId, ROOT};
use dfs_proto::msg::namespace::Creator;

/// Why an operation did not happen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    /// It is refused; nothing was written.
    Refused(ErrorCode),
    /// The tables failed; what was written is undone with the transaction.
    Failed(TableError),
}

impl From<ErrorCode> for Stop {
    fn from(code: ErrorCode) -> Self {
        Self::Refused(code)
    }
}

impl From<TableError> for Stop {
    fn from(error: TableError) -> Self {
        Self::Failed(error)
    }
}

pub(super) type Done<T> = Result<T, Stop>;

/// Parts the caller's fault from that of the tables.
pub(super) fn settle<T>(done: Done<T>) -> Result<Result<T, ErrorCode>, TableError> {
    match done {
        Ok(value) => Ok(Ok(value)),
        Err(Stop::Refused(code)) => Ok(Err(code)),
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// The record of an inode, if there is one.
pub(super) fn find(tables: &dyn Read, inode: InodeId) -> Result<Option<InodeRecord>, TableError> {
    load_record(tables, Table::Inodes, &keys::inode(inode))
}

/// An inode that a request names: `Stale` if it is gone, so that the kernel of the caller looks
/// its path up once more.
pub(super) fn get(tables: &dyn Read, inode: InodeId) -> Done<InodeRecord> {
    Ok(find(tables, inode)?.ok_or(ErrorCode::Stale)?)
}

/// An inode that another record names: it must be there.
pub(super) fn named(tables: &dyn Read, inode: InodeId) -> Result<InodeRecord, TableError> {
    find(tables, inode)?.ok_or_else(|| TableError(format!("{inode} is named but not there")))
}

/// A dir that a name is looked for in: `NotFound` if it is gone, as a removed working dir has it.
pub(super) fn dir(tables: &dyn Read, inode: InodeId) -> Done<InodeRecord> {
    let record = find(tables, inode)?.ok_or(ErrorCode::NotFound)?;
    if !record.is_dir() {
        return Err(ErrorCode::NotADir.into());
    }
    Ok(record)
}

/// A dir that an entry is added to or taken from: one that was removed takes none.
pub(super) fn live_dir(tables: &dyn Read, inode: InodeId) -> Done<InodeRecord> {
    let record = dir(tables, inode)?;
    if record.links == 0 {
        return Err(ErrorCode::NotFound.into());
    }
    Ok(record)
}

pub(super) fn put(
    tables: &mut dyn Write,
    inode: InodeId,
    record: &InodeRecord,
) -> Result<(), TableError> {
    store_record(tables, Table::Inodes, &keys::inode(inode), record)
}

/// What a new inode is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draft {
    pub(super) kind: FileKind,
    pub(super) mode: u16,
    pub(super) device: u64,
    pub(super) size: u64,
    pub(super) creator: Creator,
}

/// Gives the next inode number to a new inode in the dir `parent`. The record is not stored yet.
///
/// In a setgid dir it takes the dir's group, and a dir the bit as well.
pub(super) fn allocate(
    tables: &mut dyn Write,
    now: Timestamp,
    (parent, dir): (InodeId, &InodeRecord),
    draft: Draft,
) -> Done<(InodeId, InodeRecord)> {
    let format: FormatRecord = load_record(tables, Table::Meta, keys::FORMAT)?
        .ok_or_else(|| TableError("there are inodes but no format record".into()))?;
    let mut counters = counters(tables)?;
    let inode = InodeId(counters.next_inode);
    counters.next_inode += 1;
    counters.inodes += 1;
    put_counters(tables, &counters)?;
    let is_dir = draft.kind == FileKind::Dir;
    let inherits = dir.mode & SETGID != 0;
    let record = InodeRecord {
        kind: draft.kind.into(),
        mode: draft.mode | if inherits && is_dir { SETGID } else { 0 },
        links: if is_dir { 2 } else { 1 },
        uid: draft.creator.uid,
        gid: if inherits { dir.gid } else { draft.creator.gid },
        device: draft.device,
        size: draft.size,
        sparse: false,
        accessed: now.into(),
        modified: now.into(),
        changed: now.into(),
        generation: 0,
        layout: layout(&format, inode),
        parent: if is_dir { parent.0 } else { 0 },
        next_cookie: if is_dir { FIRST_COOKIE } else { 0 },
        xattrs: 0,
    };
    Ok((inode, record))
}

pub(super) const SETUID: u16 = 0o4000;
pub(super) const SETGID: u16 = 0o2000;
pub(super) const GROUP_EXECUTE: u16 = 0o010;

/// All bits that a mode can have.
pub(super) const MODE_BITS: u16 = 0o7777;

/// Refuses a mode with other bits.
pub(super) fn check_mode(mode: u16) -> Result<(), ErrorCode> {
    if mode & !MODE_BITS == 0 {
        Ok(())
    } else {
        Err(ErrorCode::InvalidArgument)
    }
}

/// Refuses the user or group that stands for "leave alone" in the system calls.
pub(super) fn check_owner(owner: Creator) -> Result<(), ErrorCode> {
    if owner.uid == u32::MAX || owner.gid == u32::MAX {
        Err(ErrorCode::InvalidArgument)
    } else {
        Ok(())
    }
}

/// The layout of a new inode: chunk 0 goes to another group with every inode.
pub(super) fn layout(format: &FormatRecord, inode: InodeId) -> StoredLayout {
    StoredLayout {
        chunk_bytes: format.chunk_bytes,
        first_group: (inode.0 % u64::from(format.groups)) as u32,
        groups: format.groups,
    }
}

pub(super) fn counters(tables: &dyn Read) -> Result<CountersRecord, TableError> {
    Ok(
        load_record(tables, Table::Meta, keys::COUNTERS)?.unwrap_or(CountersRecord {
            next_inode: ROOT.0,
            inodes: 0,
        }),
    )
}

pub(super) fn put_counters(
    tables: &mut dyn Write,
    counters: &CountersRecord,
) -> Result<(), TableError> {
    store_record(tables, Table::Meta, keys::COUNTERS, counters)
}

/// The last name of an inode is gone: it waits until nobody has it open.
pub(super) fn add_orphan(tables: &mut dyn Write, inode: InodeId) -> Result<(), TableError> {
    tables.put(Table::Orphans, &keys::inode(inode), &[])
}

/// Removes everything that is stored of an orphan.
pub(super) fn remove_orphan(
    tables: &mut dyn Write,
    inode: InodeId,
    record: &InodeRecord,
) -> Result<(), TableError> {
    let key = keys::inode(inode);
    tables.delete(Table::Orphans, &key)?;
    tables.delete(Table::Inodes, &key)?;
    if record.kind == StoredKind::Symlink {
        tables.delete(Table::Targets, &key)?;
    }
    xattrs::remove_all(tables, inode, record)?;
    let mut counters = counters(tables)?;
    counters.inodes = counters.inodes.saturating_sub(1);
    put_counters(tables, &counters)
}
