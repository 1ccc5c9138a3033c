//! Paths: from a path to its inode, and from inodes back to a path. For people; nothing that is
//! decided rests on it.

use super::read::{self, Answer};
use super::records::EntryRecord;
use super::{inodes, keys};
use crate::state::record::decode_record;
use crate::state::tables::{Read, Table, TableError, scan_prefix};
use dfs_proto::attr::FileAttr;
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{InodeId, ROOT};
use dfs_proto::name::FileName;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// Dirs between an inode and the root: more are not followed.
const DEPTH_MAX: usize = 4096;

/// What is at a path from the root; symlinks are not followed.
pub fn find(tables: &dyn Read, path: &str) -> Answer<FileAttr> {
    let mut found = read::attr(tables, ROOT)?;
    for part in path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
    {
        let Ok(dir) = found else {
            return Ok(found);
        };
        found = match FileName::new(part.as_bytes()) {
            Ok(name) => read::lookup(tables, dir.inode, Some(&name))?,
            Err(_) => Err(ErrorCode::NotFound),
        };
    }
    Ok(found)
}

/// One path for each of the inodes that has one. Reads all entries.
pub fn name(
    tables: &dyn Read,
    wanted: &BTreeSet<InodeId>,
) -> Result<BTreeMap<InodeId, String>, TableError> {
    let mut places: BTreeMap<InodeId, (InodeId, Vec<u8>)> = BTreeMap::new();
    tables.scan(Table::Entries, &[], &mut |key, value| {
        if let (Some((parent, name)), Ok(entry)) =
            (keys::read_entry(key), decode_record::<EntryRecord>(value))
            && wanted.contains(&InodeId(entry.inode))
        {
            let place = (parent, name.to_vec());
            places.entry(InodeId(entry.inode)).or_insert(place);
        }
        match places.len() == wanted.len() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })?;
    let mut dirs = BTreeMap::from([(ROOT, String::new())]);
    let mut paths = BTreeMap::new();
    for (inode, (parent, name)) in places {
        if let Some(dir) = dir_path(tables, parent, &mut dirs)? {
            paths.insert(inode, format!("{dir}/{}", String::from_utf8_lossy(&name)));
        }
    }
    Ok(paths)
}

/// The path of a dir, without a slash at its end; `None` if it is removed.
fn dir_path(
    tables: &dyn Read,
    dir: InodeId,
    known: &mut BTreeMap<InodeId, String>,
) -> Result<Option<String>, TableError> {
    let mut names = Vec::new();
    let mut at = dir;
    let base = loop {
        if let Some(path) = known.get(&at) {
            break path.clone();
        }
        let parent = inodes::find(tables, at)?.map(|record| InodeId(record.parent));
        let Some(parent) = parent.filter(|_| names.len() < DEPTH_MAX) else {
            return Ok(None);
        };
        let mut name = None;
        scan_prefix(
            tables,
            Table::Entries,
            &keys::inode(parent),
            &mut |key, value| {
                let entry = decode_record::<EntryRecord>(value);
                match (entry, keys::read_entry(key)) {
                    (Ok(entry), Some((_, found))) if entry.inode == at.0 => {
                        name = Some(String::from_utf8_lossy(found).into_owned());
                        ControlFlow::Break(())
                    }
                    _ => ControlFlow::Continue(()),
                }
            },
        )?;
        let Some(name) = name else {
            return Ok(None);
        };
        names.push(name);
        at = parent;
    };
    let path = names
        .iter()
        .rev()
        .fold(base, |path, name| path + "/" + name);
    known.insert(dir, path.clone());
    Ok(Some(path))
}
