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
mod pointers;
mod segment;
#[cfg(test)]
mod tests;

use super::durable;
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

/// Where an entry is on disk.
#[derive(Clone, Copy, Debug)]
struct Located {
    term: u64,
    leader: u64,
    segment: u64,
    frame: u64,
    span: u32,
    length: u32,
}

/// The log of one member.
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    segment_bytes: u64,
    pointers: Pointers,
    /// Oldest first; the last one takes appends.
    segments: VecDeque<Segment>,
    /// The entries from `first` on.
    entries: VecDeque<Located>,
    first: u64,
    committed: Option<u64>,
    spares: Vec<PathBuf>,
    next_number: u64,
    failed: Option<String>,
}

impl Log {
    /// Position of the last entry, or the purge point if there is none.
    pub fn last(&self) -> Option<Position> {
        match self.entries.back() {
            Some(_) => self.position(self.end() - 1),
            None => self.pointers.purged,
        }
    }

    /// Position of the last purged entry.
    pub fn purged(&self) -> Option<Position> {
        self.pointers.purged
    }

    /// Index of the first entry there is, or will be.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Index behind the last entry.
    pub fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn located(&self, index: u64) -> Option<&Located> {
        let nth = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.entries.get(nth)
    }

    /// Position of an entry, the last purged one included.
    pub fn position(&self, index: u64) -> Option<Position> {
        if let Some(purged) = self.pointers.purged
            && purged.index == index
        {
            return Some(purged);
        }
        self.located(index).map(|e| Position {
            index,
            term: e.term,
            leader: e.leader,
        })
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
        for index in from.max(self.first)..to.min(self.end()) {
            let Some(at) = self.located(index) else { break };
            bytes_read += u64::from(at.length);
            if !found.is_empty() && bytes_read > bytes_max {
                break;
            }
            let key = (at.segment, at.frame);
            if frame.as_ref().is_none_or(|(held, _, _)| *held != key) {
                let segment = self.segment(at.segment)?;
                let (decoded, bytes) = segment.read(at.frame, at.span)?;
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
                    let path = segment::path(&self.dir, at.segment);
                    return Err(LogError::Damaged(path, format!("entry {index} is gone")));
                }
            }
        }
        Ok(found)
    }

    fn segment(&self, number: u64) -> Result<&Segment, LogError> {
        self.segments
            .iter()
            .rev()
            .find(|s| s.number == number)
            .ok_or_else(|| {
                LogError::Damaged(
                    segment::path(&self.dir, number),
                    "it is not open".to_owned(),
                )
            })
    }

    /// Appends entries behind the last one.
    pub fn append(&mut self, entries: &[Entry<'_>]) -> Result<(), LogError> {
        let Some(first) = entries.first() else {
            return Ok(());
        };
        if self.entries.is_empty() && self.pointers.purged.is_none() {
            self.first = first.position.index;
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
        let number = segment.number;
        self.entries.extend(entries.iter().map(|e| Located {
            term: e.position.term,
            leader: e.position.leader,
            segment: number,
            frame: offset,
            span: span as u32,
            length: e.payload.len() as u32,
        }));
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
        if index < self.first {
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
            log.entries.truncate((index - log.first) as usize);
            log.relocate();
            Ok(())
        })
    }

    /// The frame that a cut has shortened ends the log: its entries learn its new span.
    fn relocate(&mut self) {
        let Some(last) = self.entries.back().copied() else {
            return;
        };
        let same = |e: &Located| (e.segment, e.frame) == (last.segment, last.frame);
        let lengths = self
            .entries
            .iter()
            .rev()
            .take_while(|e| same(e))
            .map(|e| e.length as usize);
        // Entries of the frame that were purged are not listed: its span is then read from what
        // the segment knows, which ends with this frame.
        let listed = frame::span(lengths) as u64;
        let span = self
            .segments
            .back()
            .map_or(listed, |s| s.used() - last.frame);
        for entry in self.entries.iter_mut().rev().take_while(|e| same(e)) {
            entry.span = span as u32;
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
            let gone = (upto.index + 1)
                .saturating_sub(log.first)
                .min(log.entries.len() as u64);
            log.entries.drain(..gone as usize);
            log.first = upto.index + 1;
            while log.entries.is_empty() && !log.segments.is_empty()
                || log
                    .segments
                    .get(1)
                    .is_some_and(|next| next.first_index <= log.first)
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
