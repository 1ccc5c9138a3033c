//! Opening a log: which of the files belong to it, and whether they make a whole.

use super::places::{Place, Places};
use super::pointers::Pointers;
use super::segment::{self, Segment};
use super::{Log, LogError, SEGMENT_BYTES};
use crate::storage::durable;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

/// The files in a log's dir.
#[derive(Debug, Default)]
struct Files {
    /// Numbers of the segments, rising.
    numbers: Vec<u64>,
    spares: Vec<PathBuf>,
}

fn list(dir: &Path) -> Result<Files, LogError> {
    let io = |e| LogError::Io(dir.to_owned(), e);
    let mut files = Files::default();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(number) = segment::number(name) {
            files.numbers.push(number);
        } else if name.starts_with("spare-") {
            files.spares.push(dir.join(name));
        } else if name == "segment.new" {
            std::fs::remove_file(dir.join(name)).map_err(io)?;
        }
    }
    files.numbers.sort_unstable();
    Ok(files)
}

impl Log {
    /// Opens the log in `dir`, making an empty one if there is none.
    pub fn open(dir: &Path) -> Result<Self, LogError> {
        Self::open_with(dir, SEGMENT_BYTES)
    }

    /// The same with another size of segments.
    pub fn open_with(dir: &Path, segment_bytes: u64) -> Result<Self, LogError> {
        let io = |e| LogError::Io(dir.to_owned(), e);
        std::fs::create_dir_all(dir).map_err(io)?;
        let files = list(dir)?;
        let path = dir.join("pointers");
        let pointers = match Pointers::load(&path)? {
            Some(pointers) => pointers,
            None if files.numbers.is_empty() => {
                let pointers = Pointers::default();
                pointers.save(&path)?;
                if let Some(parent) = dir.parent() {
                    durable::sync_dir(parent).map_err(io)?;
                }
                pointers
            }
            None => return Err(LogError::Damaged(path, "it is missing".to_owned())),
        };
        let mut log = Self {
            dir: dir.to_owned(),
            segment_bytes,
            pointers,
            segments: VecDeque::new(),
            entries: Places::starting_at(pointers.purged.map_or(0, |p| p.index + 1)),
            committed: None,
            spares: files.spares,
            next_number: files.numbers.last().map_or(1, |n| n + 1),
            failed: None,
        };
        let mut end = None;
        for number in files.numbers {
            end = Some(log.load_segment(number, end)?);
        }
        log.check_reach()?;
        while log.entries.is_empty()
            && let Some(segment) = log.segments.pop_front()
        {
            log.retire(segment)?;
        }
        Ok(log)
    }

    /// Loads a segment that must start at `expected`, if the one before it says so; returns the
    /// index behind its last entry.
    fn load_segment(&mut self, number: u64, expected: Option<u64>) -> Result<u64, LogError> {
        let (segment, found) = Segment::open(segment::path(&self.dir, number), number)?;
        let starts = segment.first_index;
        let wrong = match expected {
            Some(expected) => starts != expected,
            None => starts > self.first(),
        };
        if wrong {
            return Err(LogError::Damaged(
                segment.path,
                format!(
                    "it starts with entry {starts} where {} should follow: a part of the log is \
                     missing",
                    expected.unwrap_or(self.first()),
                ),
            ));
        }
        let mut end = starts;
        for found in &found {
            self.committed = self.committed.max(found.frame.committed);
            for place in &found.frame.entries {
                end = place.position.index + 1;
                if place.position.index >= self.first() {
                    let at = Place::new(found.offset, found.frame.span as u32, place.length);
                    self.entries.push(
                        at.ok_or_else(|| segment.too_long())?,
                        (place.position.term, place.position.leader),
                    );
                }
            }
        }
        self.segments.push_back(segment);
        Ok(end)
    }

    /// Refuses a log that has lost entries that were once flushed.
    fn check_reach(&self) -> Result<(), LogError> {
        let end = self.end();
        match self.pointers.reached {
            Some(reached) if reached >= end => Err(LogError::Damaged(
                self.dir.clone(),
                format!("it ends before entry {end}, though it once held entry {reached}"),
            )),
            _ => Ok(()),
        }
    }
}
