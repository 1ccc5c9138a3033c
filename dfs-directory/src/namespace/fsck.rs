//! Whether the tables agree with each other.
//!
//! Reads everything into memory: for tests, the simulation, and a stopped member; not for a
//! serving one. It repairs nothing: what it finds is a defect of the operations, not of a disk.

mod xattrs;

use super::keys;
use super::records::{
    CountersRecord, DIR_BYTES, EntryRecord, FIRST_COOKIE, InodeRecord, IntentRecord, StoredKind,
};
use crate::state::record::{Record, decode_record, load_record};
use crate::state::tables::{Read, Table, TableError};
use dfs_proto::ids::{Generation, InodeId, ROOT};
use dfs_proto::layout::FileLayout;
use dfs_proto::name::FileName;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// What was looked at and what is wrong with it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    pub inodes: u64,
    pub entries: u64,
    pub orphans: u64,
    pub intents: u64,
    pub problems: Vec<Problem>,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }
}

/// A disagreement between two records, or a record that is none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Problem {
    /// The key or value can't be read.
    Unreadable { table: Table, key: Vec<u8> },
    /// An inode record that no operation could have made.
    BadInode { inode: InodeId, why: &'static str },
    /// A name in something that is no dir, or a removed one, or not there.
    NoSuchDir { parent: InodeId, name: FileName },
    /// A name that leads to no inode.
    Dangling {
        parent: InodeId,
        name: FileName,
        inode: InodeId,
    },
    /// The entry says another kind than the inode.
    WrongKind { parent: InodeId, name: FileName },
    /// Name and place in the listing do not lead to each other.
    CookieMismatch { parent: InodeId, cookie: u64 },
    /// The link count is not what the names say.
    WrongLinks {
        inode: InodeId,
        recorded: u32,
        counted: u32,
    },
    /// A dir whose `..` is not the dir that names it.
    WrongParent {
        inode: InodeId,
        recorded: InodeId,
        named_by: InodeId,
    },
    /// No path from the root leads to it, and it is no orphan.
    Unreachable { inode: InodeId },
    /// Listed as an orphan, but it has links, or is not there.
    FalseOrphan { inode: InodeId },
    /// Without links, but not listed as an orphan.
    UnlistedOrphan { inode: InodeId },
    /// A symlink without its target, or a target without its symlink.
    WrongTarget { inode: InodeId },
    /// Extended attributes that do not fit their inode.
    WrongXattrs { inode: InodeId, why: &'static str },
    /// An intent of a generation that its inode has not reached, or for one that is not there.
    StrayIntent {
        inode: InodeId,
        generation: Generation,
    },
    /// The counters do not fit the inodes.
    WrongCounters { recorded: u64, counted: u64 },
}

#[derive(Default)]
struct Contents {
    inodes: BTreeMap<InodeId, InodeRecord>,
    entries: BTreeMap<(InodeId, FileName), EntryRecord>,
    cookies: BTreeMap<(InodeId, u64), FileName>,
    orphans: BTreeSet<InodeId>,
    intents: BTreeSet<(InodeId, Generation)>,
    targets: BTreeMap<InodeId, usize>,
    xattrs: BTreeMap<InodeId, xattrs::Stored>,
}

/// Checks everything.
pub fn fsck(tables: &dyn Read) -> Result<Report, TableError> {
    let mut report = Report::default();
    let contents = collect(tables, &mut report.problems)?;
    report.inodes = contents.inodes.len() as u64;
    report.entries = contents.entries.len() as u64;
    report.orphans = contents.orphans.len() as u64;
    report.intents = contents.intents.len() as u64;
    let found = &mut report.problems;
    check_inodes(&contents, found);
    check_entries(&contents, found);
    check_listings(&contents, found);
    check_links(&contents, found);
    check_reach(&contents, found);
    check_leftovers(&contents, found);
    xattrs::check(&contents, found);
    let counters: Option<CountersRecord> = load_record(tables, Table::Meta, keys::COUNTERS)?;
    check_counters(&contents, counters, found);
    Ok(report)
}

fn collect(tables: &dyn Read, found: &mut Vec<Problem>) -> Result<Contents, TableError> {
    let mut all = Contents::default();
    each(tables, Table::Inodes, found, |key, value| {
        all.inodes.insert(keys::read_inode(key)?, record(value)?);
        Some(())
    })?;
    each(tables, Table::Entries, found, |key, value| {
        let (parent, name) = keys::read_entry(key)?;
        let name = FileName::new(name).ok()?;
        all.entries.insert((parent, name), record(value)?);
        Some(())
    })?;
    each(tables, Table::Cookies, found, |key, value| {
        let place = keys::read_cookie(key)?;
        all.cookies.insert(place, FileName::new(value).ok()?);
        Some(())
    })?;
    each(tables, Table::Orphans, found, |key, _| {
        all.orphans.insert(keys::read_inode(key)?);
        Some(())
    })?;
    each(tables, Table::Intents, found, |key, value| {
        record::<IntentRecord>(value)?;
        all.intents.insert(keys::read_intent(key)?);
        Some(())
    })?;
    each(tables, Table::Targets, found, |key, value| {
        all.targets.insert(keys::read_inode(key)?, value.len());
        Some(())
    })?;
    each(tables, Table::Xattrs, found, |key, value| {
        xattrs::take(&mut all.xattrs, key, value)
    })?;
    Ok(all)
}

fn record<R: Record>(value: &[u8]) -> Option<R> {
    decode_record(value).ok()
}

fn each(
    tables: &dyn Read,
    table: Table,
    found: &mut Vec<Problem>,
    mut take: impl FnMut(&[u8], &[u8]) -> Option<()>,
) -> Result<(), TableError> {
    tables.scan(table, &[], &mut |key, value| {
        if take(key, value).is_none() {
            let key = key.to_vec();
            found.push(Problem::Unreadable { table, key });
        }
        ControlFlow::Continue(())
    })
}

fn check_inodes(all: &Contents, found: &mut Vec<Problem>) {
    for (inode, record) in &all.inodes {
        let why = if record.mode & !0o7777 != 0 {
            "mode bits that there are not"
        } else if !FileLayout::from(record.layout).is_valid() {
            "a layout that can't be computed with"
        } else if record.is_dir() && record.size != DIR_BYTES {
            "a dir of another size than all"
        } else if record.is_dir() != (record.next_cookie >= FIRST_COOKIE) {
            "a place in a listing without a listing"
        } else if record.kind != StoredKind::Regular && record.generation != 0 {
            "a generation without data"
        } else {
            continue;
        };
        found.push(Problem::BadInode { inode: *inode, why });
    }
}

fn check_entries(all: &Contents, found: &mut Vec<Problem>) {
    for ((parent, name), entry) in &all.entries {
        let (parent, name) = (*parent, name.clone());
        let inode = InodeId(entry.inode);
        match all.inodes.get(&parent) {
            Some(dir) if dir.is_dir() && dir.links > 0 => {}
            _ => found.push(Problem::NoSuchDir {
                parent,
                name: name.clone(),
            }),
        }
        match all.inodes.get(&inode) {
            None => found.push(Problem::Dangling {
                parent,
                name,
                inode,
            }),
            Some(record) if record.kind != entry.kind => {
                found.push(Problem::WrongKind { parent, name });
            }
            Some(record) if record.is_dir() && record.parent != parent.0 => {
                found.push(Problem::WrongParent {
                    inode,
                    recorded: InodeId(record.parent),
                    named_by: parent,
                });
            }
            Some(_) => {}
        }
    }
}

fn check_listings(all: &Contents, found: &mut Vec<Problem>) {
    for ((parent, name), entry) in &all.entries {
        let next = all.inodes.get(parent).map_or(0, |dir| dir.next_cookie);
        let in_range = (FIRST_COOKIE..next).contains(&entry.cookie);
        if !in_range || all.cookies.get(&(*parent, entry.cookie)) != Some(name) {
            found.push(Problem::CookieMismatch {
                parent: *parent,
                cookie: entry.cookie,
            });
        }
    }
    for ((parent, cookie), name) in &all.cookies {
        let entry = all.entries.get(&(*parent, name.clone()));
        if entry.is_none_or(|entry| entry.cookie != *cookie) {
            found.push(Problem::CookieMismatch {
                parent: *parent,
                cookie: *cookie,
            });
        }
    }
}

fn check_links(all: &Contents, found: &mut Vec<Problem>) {
    let mut names: BTreeMap<InodeId, u32> = BTreeMap::new();
    let mut dirs_in: BTreeMap<InodeId, u32> = BTreeMap::new();
    for ((parent, _), entry) in &all.entries {
        *names.entry(InodeId(entry.inode)).or_default() += 1;
        if entry.kind == StoredKind::Dir {
            *dirs_in.entry(*parent).or_default() += 1;
        }
    }
    for (inode, record) in &all.inodes {
        let names = names.get(inode).copied().unwrap_or(0);
        let counted = match record.kind {
            // A name (the root has none, but counts as if) and `.`, and `..` of those in it.
            StoredKind::Dir if names > 0 || *inode == ROOT => {
                1 + names.max(1) + dirs_in.get(inode).copied().unwrap_or(0)
            }
            _ => names,
        };
        if record.links != counted {
            found.push(Problem::WrongLinks {
                inode: *inode,
                recorded: record.links,
                counted,
            });
        }
    }
}

/// Circles of dirs have the right links and parents, but no path from the root.
fn check_reach(all: &Contents, found: &mut Vec<Problem>) {
    let mut reached = BTreeSet::from([ROOT]);
    let mut to_visit = vec![ROOT];
    let first = FileName::new(&[1]).ok();
    while let (Some(dir), Some(first)) = (to_visit.pop(), &first) {
        let names = all
            .entries
            .range((dir, first.clone())..)
            .take_while(|((parent, _), _)| *parent == dir);
        for (_, entry) in names {
            let inode = InodeId(entry.inode);
            if reached.insert(inode) && entry.kind == StoredKind::Dir {
                to_visit.push(inode);
            }
        }
    }
    for inode in all.inodes.keys() {
        if !reached.contains(inode) && !all.orphans.contains(inode) {
            found.push(Problem::Unreachable { inode: *inode });
        }
    }
}

fn check_leftovers(all: &Contents, found: &mut Vec<Problem>) {
    for inode in &all.orphans {
        if all.inodes.get(inode).is_none_or(|record| record.links > 0) {
            found.push(Problem::FalseOrphan { inode: *inode });
        }
    }
    for (inode, record) in &all.inodes {
        if record.links == 0 && !all.orphans.contains(inode) {
            found.push(Problem::UnlistedOrphan { inode: *inode });
        }
        let target = all.targets.get(inode).map(|len| *len as u64);
        let expected = (record.kind == StoredKind::Symlink).then_some(record.size);
        if target != expected {
            found.push(Problem::WrongTarget { inode: *inode });
        }
    }
    for inode in all.targets.keys() {
        if !all.inodes.contains_key(inode) {
            found.push(Problem::WrongTarget { inode: *inode });
        }
    }
    for (inode, generation) in &all.intents {
        let fits = match all.inodes.get(inode) {
            Some(record) => {
                record.kind == StoredKind::Regular
                    && (1..=record.generation).contains(&generation.0)
            }
            None => *generation == Generation::FREED,
        };
        if !fits {
            found.push(Problem::StrayIntent {
                inode: *inode,
                generation: *generation,
            });
        }
    }
}

fn check_counters(all: &Contents, counters: Option<CountersRecord>, found: &mut Vec<Problem>) {
    let counters = counters.unwrap_or_default();
    let counted = all.inodes.len() as u64;
    if counters.inodes != counted {
        found.push(Problem::WrongCounters {
            recorded: counters.inodes,
            counted,
        });
    }
    let given = all.inodes.keys().chain(all.intents.iter().map(|(i, _)| i));
    if let Some(highest) = given.max().filter(|i| i.0 >= counters.next_inode) {
        found.push(Problem::WrongCounters {
            recorded: counters.next_inode,
            counted: highest.0,
        });
    }
}
