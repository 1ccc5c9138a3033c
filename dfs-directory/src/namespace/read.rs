//! What there is: reads without a change.
//!
//! The outer error means that the tables failed; the inner one is for the caller. Sizes and
//! times are the recorded ones: a session with an exclusive lease may know newer ones.

use super::inodes::{self, Done, settle};
use super::records::{EntryRecord, FormatRecord, IntentRecord, StoredKind};
use super::{Format, Intent, entries, keys, xattrs};
use crate::state::record::{decode_record, load_record};
use crate::state::tables::{Read, Table, TableError, scan_prefix};
use dfs_proto::attr::{DirEntry, FileAttr, Keep};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{Generation, InodeId};
use dfs_proto::limits::DIR_PAGE_ENTRIES_MAX;
use dfs_proto::msg::namespace::{DirPage, DirPageEntry};
use dfs_proto::name::FileName;
use dfs_proto::xattr::XattrName;
use std::ops::ControlFlow;

/// The answer of a read, or why there is none; around it, whether the tables failed.
pub type Answer<T> = Result<Result<T, ErrorCode>, TableError>;

/// How many inodes there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Orphans among them.
    pub inodes: u64,
}

/// What the cluster was formatted with; `None` before `Format`.
pub fn format(tables: &dyn Read) -> Result<Option<Format>, TableError> {
    let record: Option<FormatRecord> = load_record(tables, Table::Meta, keys::FORMAT)?;
    Ok(record.map(Format::from))
}

/// Whether there is a record of the inode (an orphan has one).
pub fn exists(tables: &dyn Read, inode: InodeId) -> Result<bool, TableError> {
    Ok(tables.get(Table::Inodes, &keys::inode(inode))?.is_some())
}

/// The recorded attributes of an inode; `Stale` if it is gone.
pub fn attr(tables: &dyn Read, inode: InodeId) -> Answer<FileAttr> {
    settle(inodes::get(tables, inode).map(|record| record.attr(inode)))
}

/// The inode that `name` in `parent` leads to; `None` is `..`, which of the root is the root.
pub fn lookup(tables: &dyn Read, parent: InodeId, name: Option<&FileName>) -> Answer<FileAttr> {
    settle(find_entry(tables, parent, name))
}

fn find_entry(tables: &dyn Read, parent: InodeId, name: Option<&FileName>) -> Done<FileAttr> {
    let dir = inodes::dir(tables, parent)?;
    match name {
        Some(name) => {
            let entry = entries::get(tables, parent, name)?;
            let inode = InodeId(entry.inode);
            Ok(inodes::named(tables, inode)?.attr(inode))
        }
        None => {
            let inode = InodeId(dir.parent);
            // The parent of a removed dir may be gone too.
            let record = inodes::find(tables, inode)?.ok_or(ErrorCode::NotFound)?;
            Ok(record.attr(inode))
        }
    }
}

/// Whether the name is there; the parent may be anything.
pub fn entry_exists(
    tables: &dyn Read,
    parent: InodeId,
    name: &FileName,
) -> Result<bool, TableError> {
    Ok(entries::find(tables, parent, name)?.is_some())
}

/// Whether a dir has no entries (also true for what is no dir).
pub fn dir_is_empty(tables: &dyn Read, inode: InodeId) -> Result<bool, TableError> {
    entries::is_empty(tables, inode)
}

/// The target of a symlink; `InvalidArgument` for anything else.
pub fn readlink(tables: &dyn Read, inode: InodeId) -> Answer<Vec<u8>> {
    settle(target(tables, inode))
}

/// The value of an extended attribute; `NoSuchAttribute` if there is none.
pub fn xattr(tables: &dyn Read, inode: InodeId, name: &XattrName) -> Answer<Vec<u8>> {
    settle(find_xattr(tables, inode, name))
}

fn find_xattr(tables: &dyn Read, inode: InodeId, name: &XattrName) -> Done<Vec<u8>> {
    inodes::get(tables, inode)?;
    Ok(xattrs::find(tables, inode, name)?.ok_or(ErrorCode::NoSuchAttribute)?)
}

/// The names of the extended attributes of an inode.
pub fn xattr_names(tables: &dyn Read, inode: InodeId) -> Answer<Vec<XattrName>> {
    settle(list_xattrs(tables, inode))
}

fn list_xattrs(tables: &dyn Read, inode: InodeId) -> Done<Vec<XattrName>> {
    inodes::get(tables, inode)?;
    Ok(xattrs::names(tables, inode)?)
}

fn target(tables: &dyn Read, inode: InodeId) -> Done<Vec<u8>> {
    if inodes::get(tables, inode)?.kind != StoredKind::Symlink {
        return Err(ErrorCode::InvalidArgument.into());
    }
    let target = tables.get(Table::Targets, &keys::inode(inode))?;
    Ok(target.ok_or_else(|| TableError(format!("{inode} is a symlink without a target")))?)
}

/// A page of a dir from after `cookie` on (`0`: from the start), at most `entries_max` of them
/// and never more than `DIR_PAGE_ENTRIES_MAX`. `NotFound` for a dir that was removed.
pub fn readdir(
    tables: &dyn Read,
    inode: InodeId,
    cookie: u64,
    entries_max: u32,
    with_attr: bool,
) -> Answer<DirPage> {
    settle(page(tables, inode, cookie, entries_max, with_attr))
}

fn page(
    tables: &dyn Read,
    inode: InodeId,
    cookie: u64,
    entries_max: u32,
    with_attr: bool,
) -> Done<DirPage> {
    let dir = inodes::live_dir(tables, inode)?;
    let wanted = (entries_max as usize).clamp(1, DIR_PAGE_ENTRIES_MAX);
    let mut found = Vec::new();
    if cookie < 1 {
        found.push(DirPageEntry::SelfDir { inode });
    }
    if cookie < 2 && found.len() < wanted {
        let inode = InodeId(dir.parent);
        found.push(DirPageEntry::Parent { inode });
    }
    // One more than wanted tells whether something follows.
    let names = names_after(tables, inode, cookie.max(2), wanted + 1 - found.len())?;
    let end = found.len() + names.len() <= wanted;
    for (cookie, name) in names.into_iter().take(wanted - found.len()) {
        found.push(DirPageEntry::Entry(listed(
            tables, inode, cookie, name, with_attr,
        )?));
    }
    Ok(DirPage {
        entries: found,
        end,
        names: false,
    })
}

/// The names of a dir whose cookies are above `cookie`, in their order.
fn names_after(
    tables: &dyn Read,
    parent: InodeId,
    cookie: u64,
    count: usize,
) -> Result<Vec<(u64, FileName)>, TableError> {
    let mut names = Vec::new();
    let mut failed = None;
    let Some(first) = cookie.checked_add(1) else {
        return Ok(names);
    };
    let from = keys::cookie(parent, first);
    tables.scan(Table::Cookies, &from, &mut |key, value| {
        let Some((dir, cookie)) = keys::read_cookie(key) else {
            failed = Some(TableError("a cookie key of a wrong length".into()));
            return ControlFlow::Break(());
        };
        if dir != parent || names.len() >= count {
            return ControlFlow::Break(());
        }
        match FileName::new(value) {
            Ok(name) => names.push((cookie, name)),
            Err(e) => {
                failed = Some(TableError(format!("{parent} lists a bad name: {e}")));
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    failed.map_or(Ok(names), Err)
}

fn listed(
    tables: &dyn Read,
    parent: InodeId,
    cookie: u64,
    name: FileName,
    with_attr: bool,
) -> Result<DirEntry, TableError> {
    let entry: EntryRecord = entries::find(tables, parent, &name)?
        .ok_or_else(|| TableError(format!("{parent} lists {name:?}, which is not there")))?;
    let inode = InodeId(entry.inode);
    let attr = if with_attr {
        Some(inodes::named(tables, inode)?.attr(inode))
    } else {
        None
    };
    Ok(DirEntry {
        name,
        cookie,
        inode,
        kind: entry.kind.into(),
        attr,
        keep: Keep::Nothing,
    })
}

/// How much there is.
pub fn counts(tables: &dyn Read) -> Result<Counts, TableError> {
    Ok(Counts {
        inodes: inodes::counters(tables)?.inodes,
    })
}

/// A page of the intents after the one of `after` (`None`: from the start), by inode and within
/// it in the order in which they must be made.
pub fn intents(
    tables: &dyn Read,
    after: Option<(InodeId, Generation)>,
    items_max: usize,
) -> Result<Vec<Intent>, TableError> {
    let from = after.map_or(Vec::new(), |(inode, generation)| {
        keys::intent(inode, generation).to_vec()
    });
    let mut found = Vec::new();
    let mut failed = None;
    tables.scan(Table::Intents, &from, &mut |key, value| {
        if found.len() >= items_max {
            return ControlFlow::Break(());
        }
        match intent(key, value) {
            Ok(intent) if Some((intent.inode, intent.generation)) == after => {}
            Ok(intent) => found.push(intent),
            Err(e) => {
                failed = Some(e);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    failed.map_or(Ok(found), Err)
}

/// The intents of one inode, in the order in which they must be made.
pub fn intents_of(tables: &dyn Read, inode: InodeId) -> Result<Vec<Intent>, TableError> {
    let mut found = Vec::new();
    let mut failed = None;
    let prefix = keys::inode(inode);
    scan_prefix(tables, Table::Intents, &prefix, &mut |key, value| {
        match intent(key, value) {
            Ok(intent) => found.push(intent),
            Err(e) => {
                failed = Some(e);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    failed.map_or(Ok(found), Err)
}

/// The next inode that will be given out.
pub fn next_inode(tables: &dyn Read) -> Result<InodeId, TableError> {
    Ok(InodeId(inodes::counters(tables)?.next_inode))
}

/// Whether the intent of this generation has not ended.
pub fn intent_pending(
    tables: &dyn Read,
    inode: InodeId,
    generation: Generation,
) -> Result<bool, TableError> {
    let key = keys::intent(inode, generation);
    Ok(tables.get(Table::Intents, &key)?.is_some())
}

fn intent(key: &[u8], value: &[u8]) -> Result<Intent, TableError> {
    let (inode, generation) = keys::read_intent(key)
        .ok_or_else(|| TableError("an intent key of a wrong length".into()))?;
    let record: IntentRecord = decode_record(value)?;
    Ok(Intent {
        inode,
        generation,
        from: record.from,
        to: record.to,
        extent: record.extent,
        layout: record.layout.into(),
    })
}

/// How many intents have not ended.
pub fn intent_count(tables: &dyn Read) -> Result<u64, TableError> {
    let mut count = 0;
    tables.scan(Table::Intents, &[], &mut |_, _| {
        count += 1;
        ControlFlow::Continue(())
    })?;
    Ok(count)
}

/// A page of the inodes without a name after `after`, in the order of their numbers.
pub fn orphans(
    tables: &dyn Read,
    after: Option<InodeId>,
    items_max: usize,
) -> Result<Vec<InodeId>, TableError> {
    let from = after.map_or(Vec::new(), |inode| keys::inode(inode).to_vec());
    let mut found = Vec::new();
    tables.scan(Table::Orphans, &from, &mut |key, _| {
        if found.len() >= items_max {
            return ControlFlow::Break(());
        }
        found.extend(keys::read_inode(key).filter(|inode| Some(*inode) != after));
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// Whether the inode has lost its last name.
pub fn is_orphan(tables: &dyn Read, inode: InodeId) -> Result<bool, TableError> {
    Ok(tables.get(Table::Orphans, &keys::inode(inode))?.is_some())
}
