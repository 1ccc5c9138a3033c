//! One chunk file: slots and blocks on disk, through the page cache or around it.
//!
//! Small accesses are buffered. Large writes leave no pages behind ([`super::behind`]); where that
//! can't be done they go, as large reads do, around the page cache on a second descriptor, since
//! filling fresh cache pages costs more than the disk does. The chunk's lock orders all accesses to
//! one file, so that these ways never run against each other on one range; one after the other, the
//! kernel keeps them coherent.

use super::behind::WriteBehind;
use super::slot::{DATA_OFFSET, NoSlot, SLOT_READ_AHEAD, SLOT_SPAN, SLOTS, Slot};
use dfs_proto::ids::ChunkKey;
use dfs_proto::limits::BLOCK_BYTES;
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Accesses below this size are buffered.
pub(super) const DIRECT_MIN: usize = 64 << 10;

/// Dirs that the chunk files are spread over.
pub(super) const FAN_OUT: usize = 256;

/// Cleared when the file system refuses direct I/O; shared by all files of a store.
#[derive(Debug)]
pub(super) struct DirectIo(AtomicBool);

impl DirectIo {
    pub(super) fn allowed() -> Self {
        Self(AtomicBool::new(true))
    }

    fn is_allowed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn refuse(&self) {
        if self.0.swap(false, Ordering::Relaxed) {
            log::info!(
                "the data dir's file system refuses direct I/O: all data go through the page cache"
            );
        }
    }
}

/// Which of the fan-out dirs a chunk is in.
pub(super) fn fan_of(key: ChunkKey) -> usize {
    let mixed = key
        .inode
        .0
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .wrapping_add(key.index.0);
    (mixed ^ mixed >> 32) as usize % FAN_OUT
}

/// Path of a fan-out dir.
pub(super) fn fan_path(data: &Path, fan: usize) -> PathBuf {
    data.join(format!("{fan:02x}"))
}

/// Path of a chunk's file.
pub(super) fn chunk_path(data: &Path, key: ChunkKey) -> PathBuf {
    fan_path(data, fan_of(key)).join(format!("{:x}.{:x}", key.inode.0, key.index.0))
}

/// The chunk that a file name stands for.
pub(super) fn key_of_name(name: &str) -> Option<ChunkKey> {
    let (inode, index) = name.split_once('.')?;
    Some(ChunkKey {
        inode: dfs_proto::ids::InodeId(number_of(inode)?),
        index: dfs_proto::ids::ChunkIndex(number_of(index)?),
    })
}

/// A number as `{:x}` prints it, and in no other form.
fn number_of(digits: &str) -> Option<u64> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let canonical = digits == "0" || (!digits.starts_with('0') && digits.bytes().all(is_digit));
    match canonical {
        true => u64::from_str_radix(digits, 16).ok(),
        false => None,
    }
}

/// An open chunk file.
#[derive(Debug)]
pub(super) struct ChunkFile {
    path: PathBuf,
    buffered: Arc<File>,
    /// Opened at the first large access.
    direct: OnceLock<Option<File>>,
}

impl ChunkFile {
    /// Creates the file, which must not exist (what an earlier attempt left is replaced).
    pub(super) fn create(path: PathBuf) -> io::Result<Self> {
        let buffered = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)?;
        Ok(Self {
            path,
            buffered: Arc::new(buffered),
            direct: OnceLock::new(),
        })
    }

    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let buffered = File::options().read(true).write(true).open(&path)?;
        Ok(Self {
            path,
            buffered: Arc::new(buffered),
            direct: OnceLock::new(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes a new name, replacing what has it.
    pub(super) fn rename(&mut self, path: PathBuf) -> io::Result<()> {
        std::fs::rename(&self.path, &path)?;
        self.path = path;
        Ok(())
    }

    /// Whether the name still leads to this file.
    pub(super) fn is_linked(&self) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        match std::fs::metadata(&self.path) {
            Ok(named) => Ok(named.ino() == self.buffered.metadata()?.ino()),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The slots, each as far as it is valid.
    pub(super) fn read_slots(&self) -> io::Result<[Result<Slot, NoSlot>; SLOTS]> {
        let mut slots = [const { Err(NoSlot::Blank) }; SLOTS];
        let mut bytes = vec![0; SLOT_READ_AHEAD];
        for (at, slot) in slots.iter_mut().enumerate() {
            let read = self.read_up_to(&mut bytes, at as u64 * SLOT_SPAN)?;
            *slot = match Slot::decode(&bytes[..read]) {
                Err(NoSlot::Short(len)) => {
                    let mut whole = vec![0; len];
                    let read = self.read_up_to(&mut whole, at as u64 * SLOT_SPAN)?;
                    Slot::decode(&whole[..read])
                }
                other => other,
            };
        }
        Ok(slots)
    }

    pub(super) fn write_slot(&self, at: usize, slot: &[u8]) -> io::Result<()> {
        self.buffered.write_all_at(slot, at as u64 * SLOT_SPAN)
    }

    /// Reads whole blocks; what lies beyond the end of the file reads as zeros.
    pub(super) fn read_blocks(
        &self,
        first: u32,
        buffer: &mut [u8],
        direct: Option<&DirectIo>,
    ) -> io::Result<()> {
        let offset = offset_of(first);
        let mut done = 0;
        if let Some(switch) = direct
            && is_direct_sized(buffer.as_ptr(), buffer.len())
            && let Some(file) = self.direct(switch)
        {
            match file.read_at(buffer, offset) {
                Ok(read) => done = read / BLOCK_BYTES * BLOCK_BYTES,
                Err(e) if e.kind() == ErrorKind::InvalidInput => switch.refuse(),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let read = self.read_up_to(&mut buffer[done..], offset + done as u64)?;
        buffer[done + read..].fill(0);
        Ok(())
    }

    /// Writes whole blocks, given in pieces that follow each other. Says whether the page cache
    /// does without them.
    pub(super) fn write_blocks(
        &self,
        first: u32,
        pieces: [&[u8]; 3],
        behind: &WriteBehind,
        switch: &DirectIo,
    ) -> io::Result<bool> {
        let [head, middle, tail] = pieces;
        let offset = offset_of(first);
        if behind.write(&self.buffered, pieces, offset)? {
            return Ok(true);
        }
        let middle_at = offset + head.len() as u64;
        if is_direct_sized(middle.as_ptr(), middle.len())
            && let Some(file) = self.direct(switch)
        {
            match file.write_all_at(middle, middle_at) {
                Ok(()) => {
                    if !head.is_empty() {
                        self.buffered.write_all_at(head, offset)?;
                    }
                    if !tail.is_empty() {
                        self.buffered
                            .write_all_at(tail, middle_at + middle.len() as u64)?;
                    }
                    return Ok(true);
                }
                Err(e) if e.kind() == ErrorKind::InvalidInput => switch.refuse(),
                Err(e) => return Err(e),
            }
        }
        self.write_pieces(pieces, offset)?;
        Ok(false)
    }

    /// Writes a block as it is.
    pub(super) fn write_again(&self, block: u32) -> io::Result<()> {
        let mut bytes = [0; BLOCK_BYTES];
        self.read_blocks(block, &mut bytes, None)?;
        self.buffered.write_all_at(&bytes, offset_of(block))
    }

    /// What an interrupted write leaves.
    #[cfg(test)]
    pub(super) fn write_torn(&self, first: u32, bytes: &[u8]) {
        self.buffered
            .write_all_at(bytes, offset_of(first))
            .expect("writes");
    }

    fn write_pieces(&self, pieces: [&[u8]; 3], mut offset: u64) -> io::Result<()> {
        let mut slices = pieces.map(IoSlice::new);
        let mut left: &mut [IoSlice<'_>] = &mut slices;
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            let written = match rustix::io::pwritev(&self.buffered, left, offset) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            };
            offset += written as u64;
            IoSlice::advance_slices(&mut left, written);
        }
        Ok(())
    }

    /// Gives back the space of blocks from `blocks` on.
    pub(super) fn truncate_blocks(&self, blocks: u32) -> io::Result<()> {
        let end = offset_of(blocks);
        if self.buffered.metadata()?.len() > end {
            self.buffered.set_len(end)?;
        }
        Ok(())
    }

    /// Gives back the space of these blocks, if the file system can. Nobody reads them any more.
    pub(super) fn punch_blocks(&self, blocks: Range<u32>) -> io::Result<()> {
        use rustix::fs::FallocateFlags;
        if blocks.is_empty() {
            return Ok(());
        }
        let offset = offset_of(blocks.start);
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(
            &self.buffered,
            flags,
            offset,
            offset_of(blocks.end) - offset,
        ) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Everything written so far onto disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.buffered.sync_data()
    }

    fn direct(&self, switch: &DirectIo) -> Option<&File> {
        if !switch.is_allowed() {
            return None;
        }
        self.direct
            .get_or_init(|| {
                let opened = File::options()
                    .read(true)
                    .write(true)
                    .custom_flags(libc::O_DIRECT)
                    .open(&self.path);
                match opened {
                    Ok(file) => Some(file),
                    Err(e) => {
                        if e.kind() == ErrorKind::InvalidInput {
                            switch.refuse();
                        }
                        None
                    }
                }
            })
            .as_ref()
    }

    fn read_up_to(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self
                .buffered
                .read_at(&mut buffer[done..], offset + done as u64)
            {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }
}

fn offset_of(block: u32) -> u64 {
    DATA_OFFSET + u64::from(block) * BLOCK_BYTES as u64
}

fn is_direct_sized(start: *const u8, len: usize) -> bool {
    len >= DIRECT_MIN && len.is_multiple_of(BLOCK_BYTES) && start.addr().is_multiple_of(BLOCK_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::ids::{ChunkIndex, InodeId};
    use dfs_proto::payload::PayloadMut;

    #[test]
    fn names_lead_back_to_their_chunk() {
        let key = ChunkKey {
            inode: InodeId(0xFACE),
            index: ChunkIndex(u64::MAX),
        };
        let path = chunk_path(Path::new("d"), key);
        let name = path.file_name().expect("a name").to_string_lossy();
        assert_eq!(name, "face.ffffffffffffffff");
        assert_eq!(key_of_name(&name), Some(key));
        for wrong in [
            "",
            "1",
            "1.",
            ".1",
            "01.2",
            "1.00",
            "1.2.3",
            "+1.2",
            "G.1",
            "A.1",
            "10000000000000000.1",
        ] {
            assert_eq!(key_of_name(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn both_ways_into_a_file_see_each_other() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = ChunkFile::create(dir.path().join("f")).expect("creates");
        let (behind, switch) = (WriteBehind::new(), DirectIo::allowed());
        let mut large = PayloadMut::with_len(DIRECT_MIN);
        for way in [&behind, &WriteBehind::refused()] {
            large.fill(1);
            let went = file
                .write_blocks(0, [&[], &large, &[]], way, &switch)
                .expect("writes");
            assert_eq!(went, way.is_allowed() || switch.is_allowed());
            sees(&file, way, &switch);
        }
    }

    fn sees(file: &ChunkFile, behind: &WriteBehind, switch: &DirectIo) {
        file.write_blocks(2, [&[], &[2; BLOCK_BYTES], &[]], behind, switch)
            .expect("writes");
        for direct in [Some(switch), None] {
            let mut read = PayloadMut::with_len(DIRECT_MIN + BLOCK_BYTES);
            read.fill(9);
            file.read_blocks(0, &mut read, direct).expect("reads");
            assert!(read[..2 * BLOCK_BYTES].iter().all(|b| *b == 1));
            assert!(
                read[2 * BLOCK_BYTES..3 * BLOCK_BYTES]
                    .iter()
                    .all(|b| *b == 2)
            );
            assert!(read[DIRECT_MIN..].iter().all(|b| *b == 0), "beyond the end");
        }
    }
}
