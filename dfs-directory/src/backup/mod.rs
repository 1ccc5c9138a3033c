//! A backup of the names: written from the tables at one moment, and a new member made of it.
//!
//! For the day on which the disks of a majority of the members are lost. The file servers still hold
//! the chunks; without the names nobody knows what they are.
//!
//! The file is in the form of a snapshot (`storage::snapshot`), so it is streamed, and every part of
//! it has a checksum; it starts with `DFSBACK1` and says what it is (`Head`). It has all tables.
//! What an import takes over, and what becomes of it:
//!
//! | tables | after the import |
//! | --- | --- |
//! | names, attributes, links, xattrs | as they were |
//! | sizes | as they were; what the servers hold behind them is cut off |
//! | generations, epochs, numbers of inodes and sessions, the map's version | far above all that was given since |
//! | servers | all gone, until they register |
//! | groups | nobody serves until the servers that were in-sync are back and were compared |
//! | sessions, interest, ledger | dropped: locks, leases and open files are lost, as are requests in doubt |
//! | members | dropped: the importing one is the first of a new group |
//!
//! So what was written to a file after the backup is there as far as the file is as long as it was
//! then. A file that was removed since is back without its data: it reads as zeros.

pub mod restore;
#[cfg(test)]
mod tests;

use crate::members;
use crate::namespace;
use crate::placement;
use crate::session;
use crate::state::level;
use crate::state::tables::{Table, TableError};
use crate::storage::Store;
use crate::storage::snapshot::{self, SnapshotError};
use crate::storage::tables::ReadView;
use dfs_proto::attr::Timestamp;
use dfs_proto::codec;
use dfs_proto::ids::{ClusterId, MemberId};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{Read, Write};

const MAGIC: &[u8; 8] = b"DFSBACK1";

/// Version of the backup's form.
const FORMAT: u16 = 1;

/// What a backup says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Head {
    format: u16,
    pub cluster: ClusterId,
    /// The cluster's feature level.
    pub level: u16,
    /// The directory's clock.
    pub made: Timestamp,
    pub inodes: u64,
    /// The number of the next new member: the importing one's.
    pub member: MemberId,
}

/// Why a backup can't be made or used.
#[derive(Debug)]
pub enum BackupError {
    File(SnapshotError),
    Tables(TableError),
    /// In words.
    Refused(String),
}

impl fmt::Display for BackupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(SnapshotError::Io(e)) => write!(f, "the backup: {e}"),
            Self::File(SnapshotError::Damaged(why)) => {
                write!(f, "the backup can't be used: {why}; take another one")
            }
            Self::File(SnapshotError::Tables(e)) | Self::Tables(e) => e.fmt(f),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for BackupError {}

impl From<SnapshotError> for BackupError {
    fn from(e: SnapshotError) -> Self {
        Self::File(e)
    }
}

impl From<TableError> for BackupError {
    fn from(e: TableError) -> Self {
        Self::Tables(e)
    }
}

/// Writes the tables as they are in `view`.
pub fn write(out: &mut impl Write, view: &ReadView) -> Result<Head, BackupError> {
    let format = namespace::read::format(view)?
        .ok_or_else(|| BackupError::Refused("the cluster is not formatted yet".to_owned()))?;
    let head = Head {
        format: FORMAT,
        cluster: format.cluster,
        level: level::of_cluster(view)?,
        made: crate::state::tables::clock(view)?,
        inodes: namespace::read::counts(view)?.inodes,
        member: members::next(view)?,
    };
    let description = codec::encode(&head).map_err(|e| BackupError::Refused(e.to_string()))?;
    snapshot::write_to(out, MAGIC, &description, view)?;
    Ok(head)
}

fn open<R: Read>(source: R) -> Result<(snapshot::Reader<R>, Head), BackupError> {
    let reader = snapshot::Reader::with_magic(source, MAGIC)?;
    let description = reader.description();
    // The version comes first in the head, whatever follows it in a later one.
    let head: Head = codec::decode(description).map_err(|e| {
        BackupError::Refused(format!("the backup is of another version of dfs: {e}"))
    })?;
    if head.format != FORMAT {
        return Err(BackupError::Refused(format!(
            "the backup has format {}, this program knows {FORMAT}",
            head.format
        )));
    }
    Ok((reader, head))
}

/// Reads a backup to its end; an error if anything of it is damaged.
pub fn check(source: impl Read) -> Result<Head, BackupError> {
    let (reader, head) = open(source)?;
    reader.verify()?;
    Ok(head)
}

/// Fills the tables of a new member from a backup, in one durable transaction.
pub fn import(
    source: impl Read,
    store: &Store,
    supports: u16,
    now: Timestamp,
) -> Result<(), BackupError> {
    let (mut reader, head) = open(source)?;
    if let Some(why) = level::refusal(head.level, supports) {
        return Err(BackupError::Refused(why));
    }
    let mut writer = store.write()?;
    writer.clear()?;
    let mut tables = writer.tables()?;
    while reader.next_block::<SnapshotError>(|key, value| {
        if key.first().is_some_and(|table| is_kept(*table)) {
            tables.put_raw(key, value)?;
        }
        Ok(())
    })? {}
    namespace::imported(&mut tables)?;
    session::imported(&mut tables)?;
    placement::imported(&mut tables, now)?;
    drop(tables);
    writer.commit_durably()?;
    Ok(())
}

/// Whether an import takes a table over.
fn is_kept(table: u8) -> bool {
    let dropped = [
        Table::Sessions,
        Table::Interest,
        Table::Ledger,
        Table::Members,
    ];
    !dropped.iter().any(|dropped| *dropped as u8 == table)
}
