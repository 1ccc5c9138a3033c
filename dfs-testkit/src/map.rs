//! Shared maps of files, for tests that look at what another mount wrote.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;

/// A shared map of the first `len` bytes of a file. Reads and writes are volatile: what they see
/// may change behind the program's back, which is the point.
#[derive(Debug)]
pub struct SharedMap {
    start: NonNull<u8>,
    len: usize,
}

impl SharedMap {
    /// Maps a file opened for reading.
    pub fn read_only(file: &File, len: usize) -> io::Result<Self> {
        Self::map(file, 0, len, rustix::mm::ProtFlags::READ)
    }

    /// The same for a part of the file that begins with a page, perhaps behind its end.
    pub fn read_only_part(file: &File, part: Range<u64>) -> io::Result<Self> {
        let len = (part.end - part.start) as usize;
        Self::map(file, part.start, len, rustix::mm::ProtFlags::READ)
    }

    /// The same with a file opened for reading and writing.
    pub fn writable_part(file: &File, part: Range<u64>) -> io::Result<Self> {
        let len = (part.end - part.start) as usize;
        let protection = rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE;
        Self::map(file, part.start, len, protection)
    }

    /// Maps a file opened for reading and writing.
    pub fn writable(file: &File, len: usize) -> io::Result<Self> {
        Self::map(
            file,
            0,
            len,
            rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
        )
    }

    #[allow(unsafe_code)]
    fn map(
        file: &File,
        offset: u64,
        len: usize,
        protection: rustix::mm::ProtFlags,
    ) -> io::Result<Self> {
        // SAFETY: a fresh map at an address of the kernel's choice; it is only reached through
        // volatile accesses within `len`, and unmapped once, in `drop`.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                protection,
                rustix::mm::MapFlags::SHARED,
                file,
                offset,
            )?
        };
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { start, len })
    }

    /// The byte at `at`.
    #[allow(unsafe_code)]
    pub fn get(&self, at: usize) -> u8 {
        assert!(at < self.len);
        // SAFETY: within the map, which lives as long as `self`.
        unsafe { self.start.as_ptr().add(at).read_volatile() }
    }

    /// Stores `bytes` at `at`.
    #[allow(unsafe_code)]
    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.len);
        for (i, byte) in bytes.iter().enumerate() {
            // SAFETY: within the map, which is writable wherever this is called.
            unsafe { self.start.as_ptr().add(at + i).write_volatile(*byte) };
        }
    }

    /// The first `len` bytes as they are now.
    pub fn copy(&self, len: usize) -> Vec<u8> {
        self.part(0, len)
    }

    /// `len` bytes from `at` on.
    pub fn part(&self, at: usize, len: usize) -> Vec<u8> {
        (at..at + len).map(|at| self.get(at)).collect()
    }

    /// `msync(MS_SYNC)`.
    #[allow(unsafe_code)]
    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: exactly the range that was mapped.
        unsafe {
            rustix::mm::msync(
                self.start.as_ptr().cast(),
                self.len,
                rustix::mm::MsyncFlags::SYNC,
            )?;
        }
        Ok(())
    }
}

impl Drop for SharedMap {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: exactly the range that was mapped, and nobody reaches it any more.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
