//! Ordered tables: what the state machine reads and writes.

use dfs_proto::attr::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use std::fmt;
use std::ops::ControlFlow;

/// The tables. The number is the first byte of every stored key and never changes its meaning.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Table {
    /// Single values: clock, counters, format, cluster.
    Meta = 0,
    /// Inode number -> inode record.
    Inodes = 1,
    /// Parent dir, name -> entry record.
    Entries = 2,
    /// Parent dir, cookie -> name: the order of listings.
    Cookies = 3,
    /// Inodes without a name that somebody may still have open.
    Orphans = 4,
    /// Cuts and frees that have not ended.
    Intents = 5,
    /// Symlink targets.
    Targets = 6,
    /// Extended attributes: inode, name -> value.
    Xattrs = 7,
    Sessions = 8,
    /// Session, inode -> interest record.
    Interest = 9,
    /// Session, sequence -> remembered reply.
    Ledger = 10,
    Servers = 11,
    Groups = 12,
    /// Member number -> node and address: who the members of the directory are to be.
    Members = 13,
}

/// The tables can't be read or written: the member must stop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableError(pub String);

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "state tables: {}", self.0)
    }
}

impl std::error::Error for TableError {}

/// Called with key (without the table's byte) and value; `Break` ends the scan.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

pub trait Read {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, TableError>;

    /// Visits the keys from `from` on (inclusive), in order, until the visitor breaks or the
    /// table ends.
    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<(), TableError>;
}

pub trait Write: Read {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), TableError>;
    fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), TableError>;
}

/// Decodes a stored record.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, TableError> {
    dfs_proto::codec::decode(bytes).map_err(|e| TableError(e.to_string()))
}

/// Encodes a record to store.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, TableError> {
    dfs_proto::codec::encode(value).map_err(|e| TableError(e.to_string()))
}

/// Reads and decodes one record.
pub fn load<T: DeserializeOwned>(
    tables: &(impl Read + ?Sized),
    table: Table,
    key: &[u8],
) -> Result<Option<T>, TableError> {
    tables
        .get(table, key)?
        .map(|bytes| decode(&bytes))
        .transpose()
}

/// Encodes and writes one record.
pub fn store<T: Serialize>(
    tables: &mut (impl Write + ?Sized),
    table: Table,
    key: &[u8],
    value: &T,
) -> Result<(), TableError> {
    let bytes = encode(value)?;
    tables.put(table, key, &bytes)
}

/// Visits the records whose key starts with `prefix`.
pub fn scan_prefix(
    tables: &(impl Read + ?Sized),
    table: Table,
    prefix: &[u8],
    visit: &mut Visit<'_>,
) -> Result<(), TableError> {
    tables.scan(table, prefix, &mut |key, value| {
        if key.starts_with(prefix) {
            visit(key, value)
        } else {
            ControlFlow::Break(())
        }
    })
}

const CLOCK_KEY: &[u8] = b"clock";

/// The state's clock.
pub fn clock(tables: &(impl Read + ?Sized)) -> Result<Timestamp, TableError> {
    Ok(load(tables, Table::Meta, CLOCK_KEY)?.unwrap_or_default())
}

/// Moves the state's clock to `max(previous, now)` and returns it.
pub fn advance_clock(
    tables: &mut (impl Write + ?Sized),
    now: Timestamp,
) -> Result<Timestamp, TableError> {
    let previous = clock(tables)?;
    if now <= previous {
        return Ok(previous);
    }
    store(tables, Table::Meta, CLOCK_KEY, &now)?;
    Ok(now)
}
