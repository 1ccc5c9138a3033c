//! A snapshot file: all tables at one moment, to be sent to another member.
//!
//! `DIR/snapshot`, written beside and renamed into place. Integers are little endian.
//!
//! ```text
//!  0  8 bytes  "DFSSNAP1"
//!  8  u32      bytes of the description     12  u32  crc32c of them
//! 16  the description (what it is a snapshot of; the raft module's own)
//! then blocks:   u32 bytes (never 0), u32 crc32c of them, and those bytes: whole records, each
//!                u32 bytes of the key, u32 bytes of the value, key, value
//! then the end:  u32 0, u32 crc32c of the next 8 bytes, u64 number of records
//! ```
//!
//! Records come in key order, the key's first byte is the table's number.

use crate::storage::tables::ReadView;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};

const MAGIC: &[u8; 8] = b"DFSSNAP1";
/// A block is closed when it has grown to this.
const BLOCK_BYTES: usize = 256 << 10;
/// The largest block: one that was almost full and got the largest record.
const BLOCK_BYTES_MAX: usize = 8 << 20;
const DESCRIPTION_BYTES_MAX: usize = 1 << 20;

/// Why a snapshot can't be written or used.
#[derive(Debug)]
pub enum SnapshotError {
    Io(io::Error),
    Damaged(String),
    Tables(crate::state::tables::TableError),
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(e) => write!(f, "snapshot file: {e}"),
            Self::Damaged(why) => write!(f, "the snapshot file is damaged: {why}"),
            Self::Tables(e) => write!(f, "snapshot: {e}"),
        }
    }
}

impl std::error::Error for SnapshotError {}

impl From<io::Error> for SnapshotError {
    fn from(e: io::Error) -> Self {
        if e.kind() == io::ErrorKind::UnexpectedEof {
            Self::Damaged("it ends too early".to_owned())
        } else {
            Self::Io(e)
        }
    }
}

impl From<crate::state::tables::TableError> for SnapshotError {
    fn from(e: crate::state::tables::TableError) -> Self {
        Self::Tables(e)
    }
}

fn length(n: usize) -> Result<[u8; 4], SnapshotError> {
    u32::try_from(n)
        .map(u32::to_le_bytes)
        .map_err(|_| SnapshotError::Damaged("a record of more than 4 GiB".to_owned()))
}

fn write_block(out: &mut impl Write, block: &mut Vec<u8>) -> Result<(), SnapshotError> {
    if block.len() > BLOCK_BYTES_MAX {
        return Err(SnapshotError::Damaged(
            "a record is too large for a snapshot".to_owned(),
        ));
    }
    out.write_all(&length(block.len())?)?;
    out.write_all(&crc32c::crc32c(block).to_le_bytes())?;
    out.write_all(block)?;
    block.clear();
    Ok(())
}

/// Writes the tables as they are in `view` and flushes the file.
pub fn write(file: &File, description: &[u8], view: &ReadView) -> Result<(), SnapshotError> {
    let mut out = BufWriter::with_capacity(BLOCK_BYTES, file);
    write_to(&mut out, MAGIC, description, view)?;
    out.flush()?;
    drop(out);
    file.sync_all()?;
    Ok(())
}

/// Writes the tables as they are in `view` to anything; `magic` says what the file is.
pub fn write_to(
    mut out: &mut impl Write,
    magic: &[u8; 8],
    description: &[u8],
    view: &ReadView,
) -> Result<(), SnapshotError> {
    out.write_all(magic)?;
    out.write_all(&length(description.len())?)?;
    out.write_all(&crc32c::crc32c(description).to_le_bytes())?;
    out.write_all(description)?;
    let mut records = 0u64;
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    // The visitor's error type is the tables'; the file's own error is kept aside.
    let mut failed = None;
    let visited = view.visit_all(|key, value| {
        let mut add = || -> Result<(), SnapshotError> {
            block.extend_from_slice(&length(key.len())?);
            block.extend_from_slice(&length(value.len())?);
            block.extend_from_slice(key);
            block.extend_from_slice(value);
            records += 1;
            if block.len() >= BLOCK_BYTES {
                write_block(&mut out, &mut block)?;
            }
            Ok(())
        };
        add().map_err(|e| {
            let text = e.to_string();
            failed = Some(e);
            crate::state::tables::TableError(text)
        })
    });
    if let Some(e) = failed {
        return Err(e);
    }
    visited?;
    if !block.is_empty() {
        write_block(&mut out, &mut block)?;
    }
    let count = records.to_le_bytes();
    out.write_all(&[0; 4])?;
    out.write_all(&crc32c::crc32c(&count).to_le_bytes())?;
    out.write_all(&count)?;
    Ok(())
}

/// Reads a snapshot from its start, block by block.
#[derive(Debug)]
pub struct Reader<R> {
    source: BufReader<R>,
    description: Vec<u8>,
    records: u64,
}

impl<R: Read> Reader<R> {
    pub fn new(source: R) -> Result<Self, SnapshotError> {
        Self::with_magic(source, MAGIC)
    }

    /// Reads a file that starts with `magic`.
    pub fn with_magic(source: R, magic: &[u8; 8]) -> Result<Self, SnapshotError> {
        let mut source = BufReader::with_capacity(BLOCK_BYTES, source);
        let mut head = [0; 8];
        source.read_exact(&mut head)?;
        if &head != magic {
            return Err(SnapshotError::Damaged(
                "it does not start as one".to_owned(),
            ));
        }
        let (bytes, crc) = read_pair(&mut source)?;
        let description = read_checked(&mut source, bytes, crc, DESCRIPTION_BYTES_MAX)?;
        Ok(Self {
            source,
            description,
            records: 0,
        })
    }

    pub fn description(&self) -> &[u8] {
        &self.description
    }

    /// Visits the records of the next block; `false` when there was none: the snapshot was read
    /// to its end and is whole.
    pub fn next_block<E: From<SnapshotError>>(
        &mut self,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<bool, E> {
        let (bytes, crc) = read_pair(&mut self.source)?;
        if bytes == 0 {
            let count = read_checked(&mut self.source, 8, crc, 8)?;
            if count != self.records.to_le_bytes() {
                let why = "it does not hold as many records as it says".to_owned();
                return Err(SnapshotError::Damaged(why).into());
            }
            return Ok(false);
        }
        let block = read_checked(&mut self.source, bytes, crc, BLOCK_BYTES_MAX)?;
        let mut rest = block.as_slice();
        while !rest.is_empty() {
            let (key, value, behind) = split_record(rest)
                .ok_or_else(|| SnapshotError::Damaged("a record exceeds its block".to_owned()))?;
            visit(key, value)?;
            self.records += 1;
            rest = behind;
        }
        Ok(true)
    }

    /// Reads on to the end; an error if anything is damaged.
    pub fn verify(mut self) -> Result<(), SnapshotError> {
        while self.next_block::<SnapshotError>(|_, _| Ok(()))? {}
        Ok(())
    }
}

fn read_pair(source: &mut impl Read) -> Result<(usize, u32), SnapshotError> {
    let mut bytes = [0; 8];
    source.read_exact(&mut bytes)?;
    let [a, b, c, d, e, f, g, h] = bytes;
    Ok((
        u32::from_le_bytes([a, b, c, d]) as usize,
        u32::from_le_bytes([e, f, g, h]),
    ))
}

fn read_checked(
    source: &mut impl Read,
    bytes: usize,
    crc: u32,
    bytes_max: usize,
) -> Result<Vec<u8>, SnapshotError> {
    if bytes > bytes_max {
        return Err(SnapshotError::Damaged(format!("a part of {bytes} bytes")));
    }
    let mut content = vec![0; bytes];
    source.read_exact(&mut content)?;
    if crc32c::crc32c(&content) != crc {
        return Err(SnapshotError::Damaged(
            "a checksum does not hold".to_owned(),
        ));
    }
    Ok(content)
}

fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(8)?;
    let key = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
    let value = u32::from_le_bytes(head[4..].try_into().ok()?) as usize;
    let (key, rest) = rest.split_at_checked(key)?;
    let (value, rest) = rest.split_at_checked(value)?;
    Some((key, value, rest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::state::tables::{Table, Write as _};
    use crate::storage::Store;
    use std::io::Seek;

    fn filled(dir: &std::path::Path, records: u32) -> Store {
        let store = Store::open(&dir.join("tables.redb")).unwrap();
        let mut writer = store.write().unwrap();
        let mut tables = writer.tables().unwrap();
        for n in 0..records {
            tables
                .put(
                    Table::Inodes,
                    &n.to_be_bytes(),
                    &vec![n as u8; n as usize % 300],
                )
                .unwrap();
        }
        drop(tables);
        writer.commit().unwrap();
        store
    }

    fn written(store: &Store) -> File {
        let mut file = tempfile::tempfile().unwrap();
        write(&file, b"about it", &store.read().unwrap()).unwrap();
        file.rewind().unwrap();
        file
    }

    type Records = Vec<(Vec<u8>, Vec<u8>)>;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        for records in [0, 1, 20_000] {
            let store = filled(dir.path(), records);
            let mut expected: Records = Vec::new();
            let view = store.read().unwrap();
            view.visit_all(|key, value| {
                expected.push((key.to_vec(), value.to_vec()));
                Ok(())
            })
            .unwrap();
            let mut reader = Reader::new(written(&store)).unwrap();
            assert_eq!(reader.description(), b"about it");
            let mut found: Records = Vec::new();
            let mut visit = |key: &[u8], value: &[u8]| {
                found.push((key.to_vec(), value.to_vec()));
                Ok::<(), SnapshotError>(())
            };
            while reader.next_block(&mut visit).unwrap() {}
            assert_eq!(found, expected);
            assert_eq!(found.len(), records as usize);
        }
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let store = filled(dir.path(), 20);
        let mut whole = Vec::new();
        written(&store).read_to_end(&mut whole).unwrap();
        let check = |bytes: &[u8]| Reader::new(bytes).and_then(Reader::verify);
        check(&whole).unwrap();
        for at in 0..whole.len() {
            assert!(check(&whole[..at]).is_err(), "cut at {at}");
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert!(check(&damaged).is_err(), "byte {at}");
        }
    }
}
