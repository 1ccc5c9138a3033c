//! The log on disk: entries by index, in segment files, each append flushed before it returns.
//!
//! It knows positions and bytes, not what is in them. One owner writes; every call that changes
//! something has reached the disk when it returns `Ok`. After an `Err` the log takes no more
//! changes: whether a failed flush reached the disk can't be found out by asking again.
//!
//! | module | bytes of |
//! | --- | --- |
//! | `frame` | one append |
//! | `segment` | the files that hold the frames |
//! | `pointers` | vote and purge point |
//!
//! Order of durable steps: a *truncation* first lowers `reached` in the pointers, then removes
//! the segments behind the cut, newest first, then replaces the one that is cut. A *purge* first
//! moves the purge point in the pointers, then gives up segments below it. A crash between any
//! two leaves a log that opens.

mod frame;
mod open;
mod places;
mod pointers;
mod segment;
#[cfg(test)]
mod tests;

use super::durable;
use places::{Place, Places};
use pointers::Pointers;
use segment::Segment;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Bytes of a segment file.
pub const SEGMENT_BYTES: u64 = 16 << 20;

/// Purged segment files kept for their next use.
const SPARES_MAX: usize = 2;

/// Where an entry stands, and in which reign it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Position {
    pub index: u64,
    pub term: u64,
    /// The member that led the term.
    pub leader: u64,
}

/// A vote given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Vote {
    pub term: u64,
    pub member: u64,
    /// The member is known to have won.
    pub committed: bool,
}

/// An entry to append.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    pub position: Position,
    pub payload: &'a [u8],
}

/// Why the log can't go on.
#[derive(Debug)]
pub enum LogError {
    Io(PathBuf, io::Error),
    /// What is on disk is not what was written.
    Damaged(PathBuf, String),
    /// An earlier failure; the log takes no more changes.
    Failed(String),
    /// The caller broke the log's rules.
    OutOfOrder(String),
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, e) => write!(f, "the log can't use {}: {e}", path.display()),
            Self::Damaged(path, why) => write!(
                f,
                "the log file {} is damaged: {why}; this member must not go on with it",
                path.display()
            ),
            Self::Failed(why) => write!(f, "the log has failed before: {why}"),
            Self::OutOfOrder(why) => write!(f, "log: {why}"),
        }
    }
}

impl std::error::Error for LogError {}

/// The log of one member.
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    segment_bytes: u64,
    pointers: Pointers,
    /// Oldest first; the last one takes appends.
    segments: VecDeque<Segment>,
    entries: Places,
    committed: Option<u64>,
    spares: Vec<PathBuf>,
    next_number: u64,
    failed: Option<String>,
}

impl Log {
    /// Position of the last entry, or the purge point if there is none.
    pub fn last(&self) -> Option<Position> {
        match self.entries.is_empty() {
            false => self.position(self.end() - 1),
            true => self.pointers.purged,
        }
    }

    /// Position of the last purged entry.
    pub fn purged(&self) -> Option<Position> {
        self.pointers.purged
    }

    /// Index of the first entry there is, or will be.
    pub fn first(&self) -> u64 {
        self.entries.first()
    }

    /// Index behind the last entry.
    pub fn end(&self) -> u64 {
        self.entries.end()
    }

    /// Position of an entry, the last purged one included.
    pub fn position(&self, index: u64) -> Option<Position> {
        if let Some(purged) = self.pointers.purged
            && purged.index == index
        {
            return Some(purged);
        }
        self.entries.position(index)
    }

    pub fn vote(&self) -> Option<Vote> {
        self.pointers.vote
    }

    /// The last index told by `set_committed`; after a restart, one that was committed, possibly
    /// an earlier one: it reaches the disk with the next append.
    pub fn committed(&self) -> Option<u64> {
        self.committed
    }

    pub fn set_committed(&mut self, index: Option<u64>) {
        self.committed = index;
    }

    /// Bytes in the segments, purged entries of the oldest one included.
    pub fn retained_bytes(&self) -> u64 {
        self.segments.iter().map(Segment::used).sum()
    }

    /// Reads entries from `from` on, up to but not including `to`, as many as there are, and
    /// after the first only while their payloads stay within `bytes_max`.
    pub fn read(
        &self,
        from: u64,
        to: u64,
        bytes_max: u64,
    ) -> Result<Vec<(Position, Vec<u8>)>, LogError> {
        let mut found: Vec<(Position, Vec<u8>)> = Vec::new();
        let mut frame = None;
        let mut bytes_read = 0;
        for index in from.max(self.first())..to.min(self.end()) {
            let Some(at) = self.entries.get(index) else {
                break;
            };
            bytes_read += u64::from(at.length);
            if !found.is_empty() && bytes_read > bytes_max {
                break;
            }
            let segment = self.segment_of(index)?;
            let key = (segment.number, at.frame());
            if frame.as_ref().is_none_or(|(held, _, _)| *held != key) {
                let (decoded, bytes) = segment.read(at.frame(), at.span)?;
                frame = Some((key, decoded, bytes));
            }
            let entry = frame.as_ref().and_then(|(_, decoded, bytes)| {
                let place = decoded.entries.iter().find(|e| e.position.index == index)?;
                let end = (place.offset + place.length) as usize;
                Some((
                    place.position,
                    bytes.get(place.offset as usize..end)?.to_vec(),
                ))
            });
            match entry {
                Some(entry) => found.push(entry),
                None => {
                    let path = segment.path.clone();
                    return Err(LogError::Damaged(path, format!("entry {index} is gone")));
                }
            }
        }
        Ok(found)
    }

    /// The segment that holds an entry.
    fn segment_of(&self, index: u64) -> Result<&Segment, LogError> {
        let behind = self.segments.partition_point(|s| s.first_index <= index);
        behind
            .checked_sub(1)
            .and_then(|nth| self.segments.get(nth))
            .ok_or_else(|| {
                let why = format!("no segment holds entry {index}");
                LogError::Damaged(self.dir.clone(), why)
            })
    }

    /// Appends entries behind the last one.
    pub fn append(&mut self, entries: &[Entry<'_>]) -> Result<(), LogError> {
        let Some(first) = entries.first() else {
            return Ok(());
        };
        if self.entries.is_empty() && self.pointers.purged.is_none() {
            self.entries.begin_at(first.position.index);
        }
        for (entry, index) in entries.iter().zip(self.end()..) {
            if entry.position.index != index {
                return Err(LogError::OutOfOrder(format!(
                    "entry {} to be appended where {index} follows",
                    entry.position.index
                )));
            }
        }
        self.changing(|log| log.append_frame(entries))
    }

    fn append_frame(&mut self, entries: &[Entry<'_>]) -> Result<(), LogError> {
        let span = frame::span(entries.iter().map(|e| e.payload.len()));
        if self.segments.back().is_none_or(|s| !s.fits(span)) {
            self.add_segment(span)?;
        }
        let committed = self.committed;
        let Some(segment) = self.segments.back_mut() else {
            return Err(LogError::OutOfOrder("no segment to append to".to_owned()));
        };
        let offset = segment.append(entries, committed)?;
        for entry in entries {
            let place = Place::new(offset, span as u32, entry.payload.len() as u32);
            self.entries.push(
                place.ok_or_else(|| segment.too_long())?,
                (entry.position.term, entry.position.leader),
            );
        }
        Ok(())
    }

    fn add_segment(&mut self, span: usize) -> Result<(), LogError> {
        let capacity = self.segment_bytes.max(span as u64 + 64);
        let number = self.next_number;
        let segment = Segment::create(
            &self.dir,
            number,
            self.end(),
            capacity,
            self.spares.pop().as_deref(),
        )?;
        self.next_number += 1;
        self.segments.push_back(segment);
        Ok(())
    }

    /// Removes the entries from `index` on.
    pub fn truncate(&mut self, index: u64) -> Result<(), LogError> {
        if index >= self.end() {
            return Ok(());
        }
        if index < self.first() {
            return Err(LogError::OutOfOrder(format!(
                "entry {index} to be removed, though it was purged"
            )));
        }
        self.changing(|log| {
            log.save(Pointers {
                reached: index.checked_sub(1),
                ..log.pointers
            })?;
            log.committed = log.committed.min(index.checked_sub(1));
            while let Some(last) = log.segments.back()
                && last.first_index >= index
            {
                let io = |e| LogError::Io(last.path.clone(), e);
                std::fs::remove_file(&last.path).map_err(io)?;
                durable::sync_dir(&log.dir).map_err(io)?;
                log.segments.pop_back();
            }
            if let Some(last) = log.segments.pop_back() {
                last.cut(&log.dir, index)?;
                let (cut, _) = Segment::open(last.path, last.number)?;
                log.segments.push_back(cut);
            }
            log.entries.truncate(index);
            log.relocate();
            Ok(())
        })
    }

    /// The frame that a cut has shortened ends the log: its entries learn its new span.
    fn relocate(&mut self) {
        let Some(last) = self.segments.back() else {
            return;
        };
        let (end, inside) = (last.used(), self.entries.end() - last.first_index);
        let mut frame = None;
        for place in self.entries.backwards().take(inside as usize) {
            if *frame.get_or_insert(place.frame()) != place.frame() {
                break;
            }
            place.span = (end - place.frame()) as u32;
        }
    }

    /// Gives up the entries up to `upto`, which is then the purge point. It may lie behind the
    /// last entry: the state came from elsewhere.
    pub fn purge(&mut self, upto: Position) -> Result<(), LogError> {
        if self.pointers.purged.is_some_and(|p| p.index >= upto.index) {
            return Ok(());
        }
        self.changing(|log| {
            let end = log.end().max(upto.index + 1);
            log.save(Pointers {
                purged: Some(upto),
                reached: end.checked_sub(1),
                ..log.pointers
            })?;
            log.entries.begin_at(upto.index + 1);
            while log.entries.is_empty() && !log.segments.is_empty()
                || log
                    .segments
                    .get(1)
                    .is_some_and(|next| next.first_index <= log.first())
            {
                let Some(oldest) = log.segments.pop_front() else {
                    break;
                };
                log.retire(oldest)?;
            }
            Ok(())
        })
    }

    /// Takes a segment out of the log; its file becomes a spare, or goes.
    fn retire(&mut self, segment: Segment) -> Result<(), LogError> {
        let io = |e| LogError::Io(segment.path.clone(), e);
        if self.spares.len() < SPARES_MAX {
            let spare = self.dir.join(format!("spare-{:016x}", segment.number));
            durable::rename(&segment.path, &spare).map_err(io)?;
            self.spares.push(spare);
            return Ok(());
        }
        std::fs::remove_file(&segment.path).map_err(io)?;
        durable::sync_dir(&self.dir).map_err(io)
    }

    /// Stores the vote.
    pub fn save_vote(&mut self, vote: Vote) -> Result<(), LogError> {
        self.changing(|log| {
            log.save(Pointers {
                vote: Some(vote),
                reached: log.end().checked_sub(1),
                ..log.pointers
            })
        })
    }

    /// Notes how far the log reaches, so that the loss of its last entries would be noticed, and
    /// takes no more changes.
    pub fn close(&mut self) -> Result<(), LogError> {
        if self.failed.is_some() {
            return Ok(());
        }
        self.changing(|log| {
            log.save(Pointers {
                reached: log.end().checked_sub(1),
                ..log.pointers
            })
        })?;
        self.failed = Some("it was closed".to_owned());
        Ok(())
    }

    fn save(&mut self, pointers: Pointers) -> Result<(), LogError> {
        pointers.save(&self.dir.join("pointers"))?;
        self.pointers = pointers;
        Ok(())
    }

    fn changing<T>(
        &mut self,
        change: impl FnOnce(&mut Self) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        if let Some(why) = &self.failed {
            return Err(LogError::Failed(why.clone()));
        }
        let result = change(self);
        if let Err(e) = &result {
            self.failed = Some(e.to_string());
        }
        result
    }
}
