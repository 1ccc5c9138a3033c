//! A file of blocks that say themselves which write they come from, and what is known of each:
//! the last write that was synced, and the last one of all. After a crash a block must hold one
//! of the writes from the first to the second.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub const BLOCK: usize = 4096;

/// How something gets onto disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durable {
    /// Not at all.
    No,
    Fsync,
    Fdatasync,
    /// The descriptor is `O_SYNC`.
    OSync,
    /// The descriptor is `O_DSYNC`.
    ODsync,
    /// `pwritev2` with `RWF_DSYNC`.
    RwfDsync,
    /// Stored through a shared map, then `msync(MS_SYNC)`.
    Msync,
}

impl Durable {
    pub const ALL: [Self; 7] = [
        Self::No,
        Self::Fsync,
        Self::Fdatasync,
        Self::OSync,
        Self::ODsync,
        Self::RwfDsync,
        Self::Msync,
    ];
}

#[derive(Clone, Copy, Default, Debug)]
struct Known {
    synced: u32,
    latest: u32,
    /// A call has failed since the last write: it may be lost, and no later sync promises it.
    in_doubt: bool,
}

/// What one writer knows of its file. Nobody else writes it.
#[derive(Debug)]
pub struct Blocks {
    path: PathBuf,
    id: u32,
    known: Vec<Known>,
}

/// The content of a block: `stamp` counts the writes of this block, 0 is a hole.
fn content(id: u32, block: u32, stamp: u32) -> Vec<u8> {
    if stamp == 0 {
        return vec![0; BLOCK];
    }
    let mut state = (u64::from(id) << 48) ^ (u64::from(block) << 20) ^ u64::from(stamp);
    let mut bytes = Vec::with_capacity(BLOCK);
    for word in [0x626c_6b31, id, block, stamp] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    while bytes.len() < BLOCK {
        state = state
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        bytes.extend_from_slice(&(state ^ (state >> 31)).to_le_bytes());
    }
    bytes
}

/// Which write a block comes from.
fn stamp_of(id: u32, block: u32, bytes: &[u8]) -> Result<u32, String> {
    let stamp = u32::from_le_bytes(bytes[12..16].try_into().expect("four bytes"));
    if content(id, block, stamp) == bytes {
        return Ok(stamp);
    }
    Err(format!(
        "block {block} is of no single write: {:02x?}",
        &bytes[..32]
    ))
}

impl Blocks {
    pub fn new(path: PathBuf, id: u32, blocks: u32) -> Self {
        let known = vec![Known::default(); blocks as usize];
        Self { path, id, known }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many blocks it may have.
    pub fn blocks(&self) -> u32 {
        self.known.len() as u32
    }

    /// Writes blocks anew and makes them durable, as asked for. An error says that this write, or
    /// whatever was not synced before, may be lost: it is said once.
    pub fn write(&mut self, first: u32, count: u32, durable: Durable) -> io::Result<()> {
        let done = self.try_write(first, count, durable);
        if done.is_err() {
            for known in &mut self.known {
                known.in_doubt = known.synced < known.latest;
            }
        }
        done
    }

    fn try_write(&mut self, first: u32, count: u32, durable: Durable) -> io::Result<()> {
        let mut bytes = Vec::new();
        for block in first..first + count {
            let known = &mut self.known[block as usize];
            known.latest += 1;
            known.in_doubt = false;
            bytes.extend(content(self.id, block, known.latest));
        }
        let offset = u64::from(first) * BLOCK as u64;
        if durable == Durable::Msync {
            store_in_map(&self.path, &bytes, offset)?;
            self.synced(first as usize..(first + count) as usize);
            return Ok(());
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        match durable {
            Durable::OSync => drop(options.custom_flags(libc::O_SYNC)),
            Durable::ODsync => drop(options.custom_flags(libc::O_DSYNC)),
            _ => {}
        }
        let file = options.open(&self.path)?;
        match durable {
            Durable::RwfDsync => write_with_flag(&file, &bytes, offset)?,
            _ => file.write_all_at(&bytes, offset)?,
        }
        match durable {
            Durable::No => return Ok(()),
            Durable::Fsync => file.sync_all()?,
            Durable::Fdatasync => file.sync_data()?,
            _ => {}
        }
        let whole = matches!(durable, Durable::Fsync | Durable::Fdatasync);
        let range = match whole {
            true => 0..self.known.len(),
            false => first as usize..(first + count) as usize,
        };
        self.synced(range);
        Ok(())
    }

    fn synced(&mut self, blocks: Range<usize>) {
        for known in self.known[blocks]
            .iter_mut()
            .filter(|known| !known.in_doubt)
        {
            known.synced = known.latest;
        }
    }

    /// Reads everything through `path` and says what should not be.
    pub fn check(&self, path: &Path) -> Result<(), String> {
        self.look(path, |known| known.synced)
    }

    /// The same, where nothing that was answered may be missing, synced or not.
    pub fn check_all(&self, path: &Path) -> Result<(), String> {
        self.look(path, |known| known.latest)
    }

    fn look(&self, path: &Path, least: impl Fn(&Known) -> u32) -> Result<(), String> {
        let wrong = |what: String| format!("{}: {what}", path.display());
        if self.known.iter().all(|known| known.latest == 0) {
            return Ok(());
        }
        let mut all = fs::read(path).map_err(|e| wrong(e.to_string()))?;
        // What lies beyond the end was never written, or is lost.
        all.resize(self.known.len() * BLOCK, 0);
        for (block, known) in self.known.iter().enumerate() {
            let bytes = &all[block * BLOCK..][..BLOCK];
            let stamp = stamp_of(self.id, block as u32, bytes).map_err(wrong)?;
            if stamp < least(known) || stamp > known.latest {
                return Err(wrong(format!(
                    "block {block} holds write {stamp}; {} was synced, {} is the last",
                    known.synced, known.latest
                )));
            }
        }
        Ok(())
    }
}

fn write_with_flag(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let flag = rustix::io::ReadWriteFlags::DSYNC;
    let written = rustix::io::pwritev2(file, &[io::IoSlice::new(bytes)], offset, flag)?;
    if written < bytes.len() {
        let what = format!("{written} of {} bytes", bytes.len());
        return Err(io::Error::other(what));
    }
    Ok(())
}

/// In a process of its own, and no other has the file open meanwhile: a fault on a page that no
/// server can give holds the memory of the whole process, and every close (also one by an `exec`)
/// waits for the pages to be written. This process has to start those servers again.
fn store_in_map(path: &Path, bytes: &[u8], offset: u64) -> io::Result<()> {
    const STORE: &str = r"
import mmap, os, sys
data, offset = sys.stdin.buffer.read(), int(sys.argv[2])
end = offset + len(data)
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
if os.fstat(fd).st_size < end:
    os.ftruncate(fd, end)
page = offset // mmap.PAGESIZE * mmap.PAGESIZE
map = mmap.mmap(fd, end - page, offset=page)
map[offset - page:] = data
map.flush()
";
    let mut child = Command::new("python3")
        .args(["-c", STORE])
        .arg(path)
        .arg(offset.to_string())
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(bytes)?;
    }
    match child.wait()? {
        status if status.success() => Ok(()),
        status => Err(io::Error::other(format!(
            "msync in another process: {status}"
        ))),
    }
}
