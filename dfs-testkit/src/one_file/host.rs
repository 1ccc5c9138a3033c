//! One mount's descriptors and maps of the file, and what is done through them.

use super::{BASE, BLOCK, Call, Model, SPAN};
use crate::map::SharedMap;
use rustix::fs::{FallocateFlags, OFlags, SeekFrom, fallocate, seek};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

pub(super) struct Host {
    path: PathBuf,
    files: Files,
    /// Of the window; it outlives the descriptors.
    map: SharedMap,
    read_map: SharedMap,
}

struct Files {
    both: File,
    append: File,
    direct: File,
    /// Through the page cache.
    read: File,
}

impl Files {
    fn open(path: &PathBuf) -> Result<Self, String> {
        let open = |read: bool, write: bool, flags: OFlags| {
            OpenOptions::new()
                .read(read)
                .write(write)
                .custom_flags(flags.bits() as i32)
                .open(path)
                .map_err(|e| format!("open {} with {flags:?}: {e}", path.display()))
        };
        Ok(Self {
            both: open(true, true, OFlags::empty())?,
            append: open(false, true, OFlags::APPEND)?,
            direct: open(true, true, OFlags::DIRECT)?,
            read: open(true, false, OFlags::empty())?,
        })
    }
}

/// What a call writes: never zero, and different from call to call and from byte to byte.
fn pattern(number: usize, range: &Range<u64>) -> Vec<u8> {
    let of = |at: u64| ((at / 7 + at * 3 + number as u64 * 101) % 255 + 1) as u8;
    range.clone().map(of).collect()
}

fn first_difference(found: &[u8], expected: &[u8], at: u64) -> Option<String> {
    if found == expected {
        return None;
    }
    let same = found.iter().zip(expected).take_while(|(a, b)| a == b);
    let first = same.count();
    let wrong = |n: &usize| found.get(*n) != expected.get(*n);
    let count = (first..found.len().max(expected.len()))
        .filter(wrong)
        .count();
    Some(format!(
        "{count} bytes differ, the first at {} ({:?} in place of {:?}); {} bytes in place of {}",
        at + first as u64,
        found.get(first),
        expected.get(first),
        found.len(),
        expected.len(),
    ))
}

impl Host {
    pub(super) fn new(path: PathBuf) -> Result<Self, String> {
        let files = Files::open(&path)?;
        let (map, read_map) = maps(&files)?;
        Ok(Self {
            path,
            files,
            map,
            read_map,
        })
    }

    /// Makes a call, here and in the model.
    pub(super) fn perform(
        &mut self,
        call: &Call,
        number: usize,
        model: &mut Model,
    ) -> Result<(), String> {
        let failed = |e: std::io::Error| e.to_string();
        match *call {
            Call::Write { at, len, .. } => {
                let bytes = pattern(number, &(at..at + len));
                self.files.both.write_all_at(&bytes, at).map_err(failed)?;
                model.write(at, &bytes);
            }
            Call::Append { len, .. } => {
                let at = model.size();
                // The window is where the model looks.
                let len = len.min((BASE + SPAN).saturating_sub(at));
                if at < BASE || len == 0 {
                    return Ok(());
                }
                let bytes = pattern(number, &(at..at + len));
                std::io::Write::write_all(&mut &self.files.append, &bytes).map_err(failed)?;
                model.write(at, &bytes);
            }
            Call::WriteDirect { at, len, .. } => {
                let bytes = pattern(number, &(at..at + len));
                let aligned = Aligned::of(&bytes);
                let file = &self.files.direct;
                file.write_all_at(aligned.bytes(), at).map_err(failed)?;
                model.write(at, &bytes);
            }
            Call::Truncate { size, .. } => {
                self.files.both.set_len(size).map_err(failed)?;
                model.truncate(size);
            }
            Call::Punch { at, len, .. } => {
                let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(&self.files.both, mode, at, len).map_err(|e| failed(e.into()))?;
                model.punch(&(at..at + len));
            }
            Call::Zero {
                at, len, keep_size, ..
            } => {
                self.allocate(model, FallocateFlags::ZERO_RANGE, at..at + len, keep_size)?;
            }
            Call::Allocate {
                at, len, keep_size, ..
            } => {
                self.allocate(model, FallocateFlags::empty(), at..at + len, keep_size)?;
            }
            Call::Store {
                at,
                len,
                sync,
                host,
            } => {
                let range = model.within(at, len);
                if range.is_empty() {
                    return Ok(());
                }
                // A map reaches as far as this kernel knows the file to.
                self.compare_size(model, false)?;
                let bytes = pattern(number, &range);
                self.map.put((range.start - BASE) as usize, &bytes);
                model.write(range.start, &bytes);
                model.unwritten[host] = true;
                if sync {
                    self.sync_map(model, host)?;
                }
            }
            Call::SyncMap { host } => self.sync_map(model, host)?,
            Call::Read { at, len, way, .. } => self.read(model, model.within(at, len), way)?,
            Call::Fsync { .. } => self.files.both.sync_all().map_err(failed)?,
            Call::Reopen { .. } => self.files = Files::open(&self.path)?,
            Call::Remap { host } => {
                self.sync_map(model, host)?;
                (self.map, self.read_map) = maps(&self.files)?;
            }
        }
        Ok(())
    }

    fn allocate(
        &self,
        model: &mut Model,
        mode: FallocateFlags,
        range: Range<u64>,
        keep_size: bool,
    ) -> Result<(), String> {
        let (mut mode, zero) = (mode, mode == FallocateFlags::ZERO_RANGE);
        if keep_size {
            mode |= FallocateFlags::KEEP_SIZE;
        }
        let len = range.end - range.start;
        fallocate(&self.files.both, mode, range.start, len)
            .map_err(|e| format!("fallocate: {e}"))?;
        let within = match keep_size {
            true => model.within(range.start, len),
            false => range,
        };
        if zero {
            model.zero(&within);
        }
        model.store(&within);
        if !keep_size {
            model.grow(within.end);
        }
        Ok(())
    }

    fn sync_map(&self, model: &mut Model, host: usize) -> Result<(), String> {
        self.map.sync().map_err(|e| format!("msync: {e}"))?;
        model.unwritten[host] = false;
        Ok(())
    }

    /// Size, and with `blocks` what the file takes up.
    pub(super) fn compare_size(&self, model: &Model, blocks: bool) -> Result<(), String> {
        let found = self
            .files
            .read
            .metadata()
            .map_err(|e| format!("stat: {e}"))?;
        if found.len() != model.size() {
            return Err(format!(
                "{} bytes in place of {}",
                found.len(),
                model.size()
            ));
        }
        match model.sectors() {
            Some(expected) if blocks && found.blocks() != expected => Err(format!(
                "st_blocks is {} in place of {expected}: {}",
                found.blocks(),
                model.storage_against(&self.data())
            )),
            _ => Ok(()),
        }
    }

    /// Blocks that are data, as the file says.
    fn data(&self) -> BTreeSet<u64> {
        let file = &self.files.read;
        let mut blocks = BTreeSet::new();
        let mut at = 0;
        while let Ok(data) = seek(file, SeekFrom::Data(at)) {
            let Ok(hole) = seek(file, SeekFrom::Hole(data)) else {
                break;
            };
            blocks.extend(data / BLOCK..hole.div_ceil(BLOCK));
            at = hole;
        }
        blocks
    }

    /// Compares a part, by a way that depends on the number.
    pub(super) fn compare(&mut self, model: &Model, number: usize) -> Result<(), String> {
        let number = number as u64;
        if number.is_multiple_of(16) {
            return self.compare_all(model, number as usize / 16);
        }
        let at = BASE + number * 7919 % SPAN;
        self.read(model, model.within(at, 3000), number as usize)
    }

    /// Compares the whole window.
    pub(super) fn compare_all(&mut self, model: &Model, way: usize) -> Result<(), String> {
        self.read(model, model.within(BASE, SPAN), way)
    }

    fn read(&self, model: &Model, range: Range<u64>, way: usize) -> Result<(), String> {
        if range.is_empty() {
            return Ok(());
        }
        let failed = |e: std::io::Error| e.to_string();
        let len = (range.end - range.start) as usize;
        let (how, found) = match way % 4 {
            0 => (
                "the page cache",
                read_at(&self.files.read, &range).map_err(failed)?,
            ),
            1 => (
                "a writable descriptor",
                read_at(&self.files.both, &range).map_err(failed)?,
            ),
            2 => {
                self.compare_size(model, false)?;
                let map = match len.is_multiple_of(2) {
                    true => &self.map,
                    false => &self.read_map,
                };
                ("a map", map.part((range.start - BASE) as usize, len))
            }
            _ => {
                let start = range.start / BLOCK * BLOCK;
                let mut aligned =
                    Aligned::zeroed((range.end.next_multiple_of(BLOCK) - start) as usize);
                let read = self
                    .files
                    .direct
                    .read_at(aligned.bytes_mut(), start)
                    .map_err(failed)?;
                let skipped = (range.start - start) as usize;
                let end = (skipped + len).min(read);
                ("O_DIRECT", aligned.bytes()[skipped.min(end)..end].to_vec())
            }
        };
        match first_difference(&found, model.read(range.clone()), range.start) {
            Some(what) => Err(format!("a read of {range:?} through {how}: {what}")),
            None => Ok(()),
        }
    }
}

fn maps(files: &Files) -> Result<(SharedMap, SharedMap), String> {
    let failed = |e: std::io::Error| format!("mmap: {e}");
    let window = BASE..BASE + SPAN;
    let writable = SharedMap::writable_part(&files.both, window.clone()).map_err(failed)?;
    let read_only = SharedMap::read_only_part(&files.read, window).map_err(failed)?;
    Ok((writable, read_only))
}

/// As much of a range as there is.
fn read_at(file: &File, range: &Range<u64>) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], range.start + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

/// Memory as O_DIRECT wants it.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn zeroed(len: usize) -> Self {
        let memory = vec![0; len + BLOCK as usize];
        let start = memory.as_ptr().addr().wrapping_neg() % BLOCK as usize;
        Self { memory, start, len }
    }

    fn of(bytes: &[u8]) -> Self {
        let mut aligned = Self::zeroed(bytes.len());
        aligned.bytes_mut().copy_from_slice(bytes);
        aligned
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}
