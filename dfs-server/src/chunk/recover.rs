//! After a stop that was not orderly: what the files say, against what the index says.
//!
//! Headers are read, and the blocks that may be old or new are compared with the checksums of the
//! slots, newest first. The cases are listed in `docs/storage.md`. Which files are looked at
//! depends on how much is known: all, or those that the witness of a killed run doubts and those
//! that the index does not name.

use super::bits::BlockSet;
use super::catalog::Catalog;
use super::disk::Disk;
use super::error::{Damage, Result, StoreError};
use super::file::{self, ChunkFile, FAN_OUT};
use super::index::{Content, Row};
use super::live::Live;
use super::slot::{Meta, NoSlot, SLOTS, Slot};
use super::store::newer;
use super::witness::Testimony;
use dfs_proto::ids::{ChunkKey, Generation, Version};
use dfs_proto::limits::BLOCK_BYTES;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Threads that read headers: the disk waits, not the processor.
const READERS: usize = 4;

/// What a file turned out to be.
#[derive(Debug)]
enum Found {
    /// The state that its header and its blocks agree on, and whether it was synced.
    Whole {
        row: Row,
        marked: bool,
        synced: bool,
    },
    /// Blocks of several states; the newest slot's state is kept as its name.
    Torn(Row),
    /// No valid header, or no state but that before the first write.
    Nothing,
}

/// What one reader saw.
#[derive(Debug, Default)]
struct Seen {
    /// Files that were not looked into: nothing doubts that they are what the index says.
    proven: Vec<ChunkKey>,
    found: Vec<(ChunkKey, Found)>,
}

/// The row that says the state of a chunk.
pub(super) fn row_of(meta: &Meta, damage: Option<Damage>) -> Row {
    Row {
        group: meta.group,
        generation: meta.generation,
        version: meta.version,
        len: meta.len,
        stored: meta.present.count(),
        damage,
    }
}

/// The catalog as the files and the index together say it, and the fan-out dirs in which
/// names may not be on disk. With the testimony of a killed run's witness the other files are
/// taken for what the index says: they were on disk, and nobody has changed them since.
pub(super) fn catalog(
    data: &Path,
    content: &Content,
    witness: Option<&Testimony>,
    disk: &Disk,
) -> Result<(Catalog, BTreeSet<usize>)> {
    // Rows come in the order of their keys.
    let is_proven = |key: ChunkKey| {
        let rows = &content.chunks;
        witness.is_some_and(|witness| !witness.doubts(key))
            && rows.binary_search_by_key(&key, |(key, _)| *key).is_ok()
    };
    let mut seen = read_files(data, &is_proven, disk)?;
    let now = Instant::now();
    let mut catalog = Catalog::default();
    let removed: BTreeMap<ChunkKey, (Generation, Version)> = content
        .removed
        .iter()
        .map(|(key, generation, version)| (*key, (*generation, *version)))
        .collect();
    let mut unsynced: BTreeSet<usize> = removed.keys().map(|key| file::fan_of(*key)).collect();
    let mut proven: Vec<ChunkKey> = Vec::new();
    for seen in &mut seen {
        proven.append(&mut seen.proven);
    }
    proven.sort_unstable();
    let mut proven = proven.into_iter().peekable();
    let mut missing: BTreeMap<ChunkKey, &Row> = BTreeMap::new();
    for (key, row) in &content.chunks {
        match proven.next_if_eq(key) {
            Some(key) => catalog.put_indexed(key, row.clone()),
            None => drop(missing.insert(*key, row)),
        }
    }
    for (key, found) in seen.into_iter().flat_map(|seen| seen.found) {
        let indexed = missing.remove(&key);
        if let Some(row) = indexed {
            catalog.put_indexed(key, row.clone());
        }
        let path = || file::chunk_path(data, key);
        match found {
            Found::Nothing => match indexed {
                Some(row) => {
                    set_damage(&mut catalog, key, row.clone(), Damage::Header, &path());
                }
                // Created and not synced when the power went: it was never promised.
                None => remove(&path())?,
            },
            Found::Whole { row, .. } | Found::Torn(row)
                if indexed.is_none()
                    && removed.get(&key) >= Some(&(row.generation, row.version)) =>
            {
                // The index had forgotten it, and the file was still to go or came back.
                remove(&path())?;
            }
            Found::Torn(row) => {
                set_damage(&mut catalog, key, row, Damage::Torn, &path());
            }
            Found::Whole {
                row,
                marked,
                synced,
            } => {
                if let Some(was) = indexed
                    && (was.generation, was.version) > (row.generation, row.version)
                {
                    // What had been synced is not in the header any more.
                    set_damage(&mut catalog, key, was.clone(), Damage::Header, &path());
                    continue;
                }
                let known = indexed.filter(|was| was.version == row.version);
                let row = Row {
                    damage: known.and_then(|was| was.damage.clone()),
                    ..row
                };
                if indexed != Some(&row) {
                    catalog.put(key, row);
                }
                if !synced || indexed.is_none() {
                    unsynced.insert(file::fan_of(key));
                    catalog.set_dirty(key, now);
                }
                if marked {
                    catalog.set_marked(key, Some(now));
                }
            }
        }
    }
    for (key, row) in missing {
        catalog.put_indexed(key, row.clone());
        set_damage(
            &mut catalog,
            key,
            row.clone(),
            Damage::Missing,
            &file::chunk_path(data, key),
        );
    }
    Ok((catalog, unsynced))
}

fn set_damage(catalog: &mut Catalog, key: ChunkKey, row: Row, damage: Damage, path: &Path) {
    log::error!(
        "{}: {key} is damaged here: {damage}; it is to be repaired from another replica",
        path.display()
    );
    let damage = Some(damage);
    catalog.put(key, Row { damage, ..row });
}

fn remove(path: &Path) -> Result<()> {
    std::fs::remove_file(path).map_err(|e| StoreError::disk("remove", path, e))
}

/// What the files are, of those that are not proven to be what the index says.
fn read_files(
    data: &Path,
    is_proven: &(dyn Fn(ChunkKey) -> bool + Sync),
    disk: &Disk,
) -> Result<Vec<Seen>> {
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|reader| {
                scope.spawn(move || {
                    let mut seen = Seen::default();
                    for fan in (reader..FAN_OUT).step_by(READERS) {
                        read_fan(&file::fan_path(data, fan), is_proven, disk, &mut seen)?;
                    }
                    // The catalog is put together several times as fast in this order.
                    seen.found.sort_unstable_by_key(|(key, _)| *key);
                    Ok(seen)
                })
            })
            .collect();
        let failed = || {
            Err(StoreError::Failed(
                "a reader of chunk files panicked".into(),
            ))
        };
        let joined = readers.into_iter().map(|r| r.join());
        joined
            .map(|part| part.unwrap_or_else(|_| failed()))
            .collect()
    })
}

fn read_fan(
    fan: &Path,
    is_proven: &(dyn Fn(ChunkKey) -> bool + Sync),
    disk: &Disk,
    seen: &mut Seen,
) -> Result<()> {
    let entries = std::fs::read_dir(fan).map_err(|e| StoreError::disk("list", fan, e))?;
    for entry in entries {
        let entry = entry.map_err(|e| StoreError::disk("list", fan, e))?;
        let Some(key) = entry.file_name().to_str().and_then(file::key_of_name) else {
            log::warn!(
                "{} is no chunk file; it is left alone",
                entry.path().display()
            );
            continue;
        };
        match is_proven(key) {
            true => seen.proven.push(key),
            false => {
                let found = recover_file(key, entry.path(), disk)?;
                seen.found.push((key, found));
            }
        }
    }
    Ok(())
}

fn recover_file(key: ChunkKey, path: PathBuf, disk: &Disk) -> Result<Found> {
    let broken = |e| StoreError::disk("read", &path, e);
    let file = ChunkFile::open(path.clone()).map_err(broken)?;
    let Ok(slots) = file.read_slots() else {
        return Ok(Found::Nothing);
    };
    let mut order: Vec<&Slot> = slots
        .iter()
        .flatten()
        .filter(|slot| slot.meta.key == key)
        .collect();
    order.sort_unstable_by_key(|slot| std::cmp::Reverse(slot.sequence));
    let Some(newest) = order.first().copied() else {
        let newer_format = slots.iter().find_map(|slot| match slot {
            Err(NoSlot::Newer(format)) => Some(*format),
            _ => None,
        });
        return match newer_format {
            Some(format) => Err(newer(&path, format)),
            None => Ok(Found::Nothing),
        };
    };

    // The blocks that any of the states so far may have left different.
    let mut suspect = BlockSet::default();
    let mut on_disk = BTreeMap::new();
    for candidate in &order {
        let meta = &candidate.meta;
        meta.dirty.iter().for_each(|block| suspect.insert(block));
        let marked = meta.present.iter().filter(|b| meta.mark.contains(b));
        marked.for_each(|block| suspect.insert(block));
        let agrees = suspect.iter().all(|block| match meta.checksum(block) {
            None => true,
            Some(checksum) => {
                Some(checksum) == *on_disk.entry(block).or_insert_with(|| crc_of(&file, block))
            }
        });
        if !agrees {
            continue;
        }
        if candidate.sequence == newest.sequence {
            let row = row_of(meta, None);
            let marked = !meta.mark.is_empty();
            let synced = meta.dirty.is_empty();
            if !synced {
                write_again(file, slots, disk)?;
            }
            return Ok(Found::Whole {
                row,
                marked,
                synced,
            });
        }
        let mut meta = meta.clone();
        for block in suspect.iter() {
            meta.dirty.insert(block);
        }
        meta.dirty.truncate(meta.blocks());
        let newest = newest.sequence;
        let kept = candidate.sequence;
        return go_back(file, slots.clone(), kept, newest, meta, disk);
    }
    if newest.sequence == 1 {
        // The very first write: what was before it is a hole.
        return Ok(Found::Nothing);
    }
    Ok(Found::Torn(row_of(&newest.meta, None)))
}

fn write_again(file: ChunkFile, slots: [Result<Slot, NoSlot>; SLOTS], disk: &Disk) -> Result<()> {
    let path = file.path().to_owned();
    let mut live = Live::from_slots(file, slots)
        .map_err(|_| StoreError::Failed(format!("no slot of {} is valid", path.display())))?;
    live.write_again(disk)
}

/// Makes an older slot the newest.
fn go_back(
    file: ChunkFile,
    slots: [Result<Slot, NoSlot>; SLOTS],
    kept: u64,
    newest: u64,
    meta: Meta,
    disk: &Disk,
) -> Result<Found> {
    let path = file.path().to_owned();
    let valid = slots.map(|slot| match slot {
        Ok(slot) if slot.sequence > kept => Err(NoSlot::Damaged),
        other => other,
    });
    let mut live = Live::from_slots(file, valid)
        .map_err(|_| StoreError::Failed(format!("no slot of {} is valid", path.display())))?;
    let row = row_of(&meta, None);
    let marked = !meta.mark.is_empty();
    live.revert(newest, meta, disk)?;
    live.write_again(disk)?;
    Ok(Found::Whole {
        row,
        marked,
        synced: false,
    })
}

/// Checksum of a block as it is on disk; one that cannot be read matches nothing.
fn crc_of(file: &ChunkFile, block: u32) -> Option<u32> {
    let mut bytes = [0; BLOCK_BYTES];
    file.read_blocks(block, &mut bytes, None).ok()?;
    Some(crc32c::crc32c(&bytes))
}
