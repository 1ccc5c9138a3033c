//! Segment files.
//!
//! `DIR/raft/log-NNNNNNNNNNNNNNNN`, the number in hexadecimal, rising. A header, then frames
//! without gaps from offset 64 on; behind the last frame zeros or what an earlier use left.
//!
//! ```text
//!  0  8 bytes  "DFSRSEG1"
//!  8  u64      number, as in the name
//! 16  u64      salt of the frames
//! 24  u64      index of the first entry
//! 32  u32      0        36  u32  crc32c of bytes 0..36
//! 40  24 bytes 0
//! ```
//!
//! A segment is written in full (zeros) before it gets its name: appends then change no metadata
//! of the file and one fdatasync moves nothing but the data. A purged segment becomes a spare
//! (`spare-N`) and the next one after a new header.

use super::frame::{self, Frame};
use super::{Entry, LogError};
use crate::storage::durable;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"DFSRSEG1";
const HEADER: usize = 64;

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) number: u64,
    pub(super) first_index: u64,
    file: File,
    salt: u64,
    /// Where the next frame goes.
    end: u64,
    capacity: u64,
}

/// A frame found when a segment was opened.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) offset: u64,
    pub(super) frame: Frame,
}

pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("log-{number:016x}"))
}

/// The number in a segment's file name.
pub(super) fn number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("log-")?;
    (digits.len() == 16)
        .then(|| u64::from_str_radix(digits, 16).ok())
        .flatten()
}

fn header(number: u64, salt: u64, first_index: u64) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    bytes[16..24].copy_from_slice(&salt.to_le_bytes());
    bytes[24..32].copy_from_slice(&first_index.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..36]);
    bytes[36..40].copy_from_slice(&crc.to_le_bytes());
    bytes
}

impl Segment {
    /// Makes a new, empty segment, durably; from the spare file if there is one.
    pub(super) fn create(
        dir: &Path,
        number: u64,
        first_index: u64,
        capacity: u64,
        spare: Option<&Path>,
    ) -> Result<Self, LogError> {
        let path = path(dir, number);
        let io = |e| LogError::Io(path.clone(), e);
        let scratch = dir.join("segment.new");
        if let Some(spare) = spare {
            std::fs::rename(spare, &scratch).map_err(io)?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&scratch)
            .map_err(io)?;
        let mut salt = [0; 8];
        getrandom::fill(&mut salt).map_err(|e| io(io::Error::other(e)))?;
        let salt = u64::from_le_bytes(salt);
        let capacity = capacity.max(file.metadata().map_err(io)?.len());
        fill(&file, capacity).map_err(io)?;
        file.write_all_at(&header(number, salt, first_index), 0)
            .map_err(io)?;
        file.sync_all().map_err(io)?;
        durable::rename(&scratch, &path).map_err(io)?;
        Ok(Self {
            path,
            number,
            first_index,
            file,
            salt,
            end: HEADER as u64,
            capacity,
        })
    }

    /// Opens a segment and reads its frames. An unfinished append at the end is left out and
    /// will be overwritten; a bad frame with good ones behind it is damage.
    pub(super) fn open(path: PathBuf, number: u64) -> Result<(Self, Vec<Found>), LogError> {
        let io = |e| LogError::Io(path.clone(), e);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(io)?;
        let bytes = read_whole(&file).map_err(io)?;
        let (salt, first_index) = read_header(&bytes, number)
            .ok_or_else(|| LogError::Damaged(path.clone(), "bad header".to_owned()))?;

        let mut found = Vec::new();
        let mut at = HEADER;
        let mut next = first_index;
        while let Some(rest) = bytes.get(at..)
            && let Some(frame) = frame::decode(salt, rest)
            && frame
                .entries
                .first()
                .is_some_and(|e| e.position.index == next)
        {
            next += frame.entries.len() as u64;
            let offset = at as u64;
            at += frame.span;
            found.push(Found { offset, frame });
        }
        if let Some(later) = frame_behind(&bytes, at, salt, next) {
            return Err(LogError::Damaged(
                path,
                format!(
                    "the record of entry {next} at offset {at} does not hold, though a later one \
                     at offset {later} does"
                ),
            ));
        }
        let segment = Self {
            path,
            number,
            first_index,
            file,
            salt,
            end: at as u64,
            capacity: bytes.len().max(at) as u64,
        };
        Ok((segment, found))
    }

    /// Whether a frame of this many bytes goes into this segment.
    pub(super) fn fits(&self, span: usize) -> bool {
        self.end == HEADER as u64 || self.end + span as u64 <= self.capacity
    }

    /// A frame stands where none can be noted.
    pub(super) fn too_long(&self) -> LogError {
        LogError::Damaged(self.path.clone(), "it is longer than 32 GiB".to_owned())
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> u64 {
        self.end
    }

    /// Appends the entries as one frame, durably; returns its offset.
    pub(super) fn append(
        &mut self,
        entries: &[Entry<'_>],
        committed: Option<u64>,
    ) -> Result<u64, LogError> {
        let io = |e| LogError::Io(self.path.clone(), e);
        let bytes = frame::encode(self.salt, entries, committed)
            .ok_or_else(|| io(io::Error::other("an append of more than 4 GiB")))?;
        self.file.write_all_at(&bytes, self.end).map_err(io)?;
        self.file.sync_data().map_err(io)?;
        let offset = self.end;
        self.end += bytes.len() as u64;
        Ok(offset)
    }

    /// Reads and checks the frame at an offset.
    pub(super) fn read(&self, offset: u64, span: u32) -> Result<(Frame, Vec<u8>), LogError> {
        let mut bytes = vec![0; span as usize];
        self.file
            .read_exact_at(&mut bytes, offset)
            .map_err(|e| LogError::Io(self.path.clone(), e))?;
        match frame::decode(self.salt, &bytes) {
            Some(frame) => Ok((frame, bytes)),
            None => Err(LogError::Damaged(
                self.path.clone(),
                format!("the record at offset {offset} does not hold any more"),
            )),
        }
    }

    /// Puts a segment that ends before `index` in this one's place, as a whole, durably.
    pub(super) fn cut(&self, dir: &Path, index: u64) -> Result<(), LogError> {
        let io = |e| LogError::Io(self.path.clone(), e);
        let bytes = read_whole(&self.file).map_err(io)?;
        let mut kept = header(self.number, self.salt, self.first_index).to_vec();
        let mut at = HEADER;
        while let Some(rest) = bytes.get(at..self.end as usize)
            && let Some(frame) = frame::decode(self.salt, rest)
        {
            let inside: Vec<_> = frame
                .entries
                .iter()
                .filter(|e| e.position.index < index)
                .map(|e| Entry {
                    position: e.position,
                    payload: &rest[e.offset as usize..(e.offset + e.length) as usize],
                })
                .collect();
            if let Some(shorter) = frame::encode(self.salt, &inside, frame.committed) {
                kept.extend_from_slice(&shorter);
            }
            if inside.len() < frame.entries.len() {
                break;
            }
            at += frame.span;
        }
        let scratch = dir.join("segment.new");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&scratch)
            .map_err(io)?;
        fill(&file, self.capacity).map_err(io)?;
        file.write_all_at(&kept, 0).map_err(io)?;
        file.sync_all().map_err(io)?;
        durable::rename(&scratch, &self.path).map_err(io)
    }
}

/// Writes zeros behind the file's end, up to `capacity`.
fn fill(file: &File, capacity: u64) -> io::Result<()> {
    let zeros = [0; 1 << 16];
    let mut at = file.metadata()?.len();
    while at < capacity {
        let step = (capacity - at).min(zeros.len() as u64);
        file.write_all_at(&zeros[..step as usize], at)?;
        at += step;
    }
    Ok(())
}

fn read_whole(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn read_header(bytes: &[u8], number: u64) -> Option<(u64, u64)> {
    let found = bytes.get(..HEADER)?;
    let u64_at = |at: usize| Some(u64::from_le_bytes(found[at..at + 8].try_into().ok()?));
    let salt = u64_at(16)?;
    let first_index = u64_at(24)?;
    (found == header(number, salt, first_index)).then_some((salt, first_index))
}

/// Offset of a good frame of this segment behind `from`, where entry `next` should be.
fn frame_behind(bytes: &[u8], from: usize, salt: u64, next: u64) -> Option<usize> {
    let zeros = [0; 4096];
    let mut at = from + 8;
    while let Some(rest) = bytes.get(at..)
        && rest.len() >= frame::HEADER
    {
        // No frame starts with zeros, and most of a segment is.
        if rest.starts_with(&zeros) {
            at += zeros.len();
            continue;
        }
        // The checksum is only worked out where the index could be: the bytes here may be
        // anything, made to look like long frames at every step.
        let last = next.saturating_add((at - from) as u64);
        if frame::claimed_index(rest).is_some_and(|index| index > next && index <= last)
            && frame::decode(salt, rest).is_some()
        {
            return Some(at);
        }
        at += 8;
    }
    None
}
