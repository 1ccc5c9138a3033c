//! Writing behind: large writes go through the page cache and out of it again at once.
//!
//! The kernel copies the bytes, begins to write them to the disk, and drops the pages when that is
//! done (`RWF_DONTCACHE`). So a writer waits for a copy in memory and the disk works meanwhile,
//! while the pages are memory that was used a moment ago: a write around the page cache
//! waits for the disk, and one that leaves its pages there has to be given new ones all the time.
//! What is on its way to the disk when the process dies gets there; when the machine loses its
//! power it is lost, as anything is that was not synced.
//!
//! A disk that is slower than the network must be felt by who writes, not only by who syncs: no
//! more than [`BEHIND_MAX`] are on their way, whoever writes more waits for the oldest of them.
//!
//! The kernel tells one caller of each descriptor that a write was lost. When that is who waits
//! here, a sync of the same file may find nothing wrong, and must not be believed before it has
//! asked ([`WriteBehind::check`]).

use super::file::DIRECT_MIN;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

/// Bytes of a store that may be on their way to the disk, beside those of the writes that wait.
const BEHIND_MAX: u64 = 32 << 20;

/// First kernel that is trusted with it: 6.14 and 6.15 have it too, but drop pages without another
/// look at whether they were written again meanwhile.
const KERNEL_MIN: (u32, u32) = (6, 16);

/// The writing behind of one store.
#[derive(Debug)]
pub(super) struct WriteBehind {
    allowed: AtomicBool,
    begun: Mutex<Begun>,
    lost: AtomicBool,
    /// Shared by those who may be told of a loss, until it is in `lost`.
    telling: RwLock<()>,
}

/// What may not be on disk yet, oldest first.
#[derive(Debug, Default)]
struct Begun {
    ranges: VecDeque<Range>,
    bytes: u64,
}

/// Bytes written to a file. A file that was closed is not waited for: its writing goes on all
/// the same.
#[derive(Debug)]
struct Range {
    file: Weak<File>,
    offset: u64,
    len: u64,
}

impl WriteBehind {
    /// Allowed where the kernel has it; whether the file system does shows at the first write.
    pub(super) fn new() -> Self {
        let release = rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned();
        Self::with(version(&release).is_some_and(|v| v >= KERNEL_MIN))
    }

    fn with(allowed: bool) -> Self {
        Self {
            allowed: AtomicBool::new(allowed),
            begun: Mutex::default(),
            lost: AtomicBool::new(false),
            telling: RwLock::default(),
        }
    }

    /// As on a kernel that does not have it.
    #[cfg(test)]
    pub(super) fn refused() -> Self {
        Self::with(false)
    }

    pub(super) fn is_allowed(&self) -> bool {
        self.allowed.load(Ordering::Relaxed)
    }

    /// Writes the pieces one after the other. `false`: that can't be done here, nothing was
    /// written.
    ///
    /// # Errors
    /// Also those of *earlier* writes, to whatever file: the disk under the store has failed.
    pub(super) fn write(
        &self,
        file: &Arc<File>,
        pieces: [&[u8]; 3],
        offset: u64,
    ) -> io::Result<bool> {
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        if len < DIRECT_MIN || !self.is_allowed() {
            return Ok(false);
        }
        let mut slices = pieces.map(IoSlice::new);
        let mut left: &mut [IoSlice<'_>] = &mut slices;
        IoSlice::advance_slices(&mut left, 0);
        let mut at = offset;
        while !left.is_empty() {
            match rustix::io::pwritev2(file, left, at, dont_cache()) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    at += written as u64;
                    IoSlice::advance_slices(&mut left, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::OPNOTSUPP) if at == offset => {
                    self.allowed.store(false, Ordering::Relaxed);
                    log::info!(
                        "the data dir's file system can't drop what was just written: large writes go around its page cache"
                    );
                    return Ok(false);
                }
                Err(e) => return Err(e.into()),
            }
        }
        let range = Range {
            file: Arc::downgrade(file),
            offset,
            len: len as u64,
        };
        for oldest in self.begin(range) {
            self.wait(&oldest)?;
        }
        Ok(true)
    }

    fn wait(&self, range: &Range) -> io::Result<()> {
        let _telling = self.telling.read().unwrap_or_else(PoisonError::into_inner);
        let waited = range.wait();
        if waited.is_err() {
            self.lost.store(true, Ordering::SeqCst);
        }
        let earlier = |e: io::Error| io::Error::new(e.kind(), format!("an earlier write: {e}"));
        waited.map_err(earlier)
    }

    /// After a sync that went well: whether nobody else was told of what it should have said.
    pub(super) fn check(&self) -> io::Result<()> {
        drop(self.telling.write().unwrap_or_else(PoisonError::into_inner));
        match self.lost.load(Ordering::SeqCst) {
            false => Ok(()),
            true => Err(io::Error::other("a write that was answered was lost")),
        }
    }

    /// Takes note of a range; gives those that there is no room for beside it.
    fn begin(&self, range: Range) -> Vec<Range> {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.bytes += range.len;
        begun.ranges.push_back(range);
        let mut too_many = Vec::new();
        while begun.bytes > BEHIND_MAX
            && let Some(oldest) = begun.ranges.pop_front()
        {
            begun.bytes -= oldest.len;
            too_many.push(oldest);
        }
        too_many
    }
}

impl Range {
    /// Until the disk has taken it. That does not make it durable: the disk may have a cache, and
    /// where the bytes are may not be written yet.
    fn wait(&self) -> io::Result<()> {
        match self.file.upgrade() {
            Some(file) => wait_written(&file, self.offset, self.len),
            None => Ok(()),
        }
    }
}

/// Not among those that rustix names.
fn dont_cache() -> rustix::io::ReadWriteFlags {
    rustix::io::ReadWriteFlags::from_bits_retain(libc::RWF_DONTCACHE as _)
}

#[allow(unsafe_code)]
fn wait_written(file: &File, offset: u64, len: u64) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else {
        return Err(ErrorKind::InvalidInput.into());
    };
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE;
    loop {
        // SAFETY: no memory is handed over; the descriptor is open as long as `file` is. No safe
        // wrapper of the call is among our crates.
        let done = unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, flags) };
        match io::Error::last_os_error() {
            _ if done == 0 => return Ok(()),
            e if e.kind() == ErrorKind::Interrupted => {}
            e => return Err(e),
        }
    }
}

/// Major and minor number of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    const MIB: usize = 1 << 20;

    fn file(dir: &tempfile::TempDir, name: &str) -> Arc<File> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        Arc::new(options.open(dir.path().join(name)).expect("opens"))
    }

    #[test]
    fn releases_are_compared_as_numbers() {
        assert_eq!(version("6.18.44-fc-v18"), Some((6, 18)));
        assert_eq!(version("6.9.0"), Some((6, 9)));
        assert!(version("6.9.0") < Some(KERNEL_MIN));
        assert_eq!(version("generic"), None);
    }

    #[test]
    fn no_more_than_the_bound_is_on_its_way() {
        let dir = tempfile::tempdir().expect("temp dir");
        let behind = WriteBehind::new();
        let (first, second) = (file(&dir, "first"), file(&dir, "second"));
        let bytes = vec![7; MIB];
        let mut first = Some(first);
        for at in 0..100 {
            let to = first.as_ref().filter(|_| at < 20).unwrap_or(&second);
            let whole = [&bytes[..100], &bytes[100..MIB - 1], &bytes[MIB - 1..]];
            if !behind.write(to, whole, (at * MIB) as u64).expect("writes") {
                assert!(!behind.is_allowed());
                return;
            }
            if at == 20 {
                first = None;
            }
        }
        let begun = behind.begun.lock().expect("not poisoned");
        let sum: u64 = begun.ranges.iter().map(|range| range.len).sum();
        assert_eq!((begun.bytes, sum), (BEHIND_MAX, BEHIND_MAX));
        drop(begun);
        let mut read = vec![0; MIB];
        second
            .read_exact_at(&mut read, 99 * MIB as u64)
            .expect("reads");
        assert_eq!(read, bytes);
    }

    #[test]
    fn no_sync_is_believed_when_the_loss_was_told_to_a_writer() {
        let dir = tempfile::tempdir().expect("temp dir");
        let behind = WriteBehind::with(true);
        // The kernel refuses to wait for a device that has no pages.
        let refuses = Arc::new(File::open("/dev/null").expect("opens"));
        behind.begin(Range {
            file: Arc::downgrade(&refuses),
            offset: 0,
            len: BEHIND_MAX,
        });
        behind.check().expect("nothing is lost yet");
        let written = behind.write(&file(&dir, "next"), [&[], &[7; DIRECT_MIN], &[]], 0);
        if behind.is_allowed() {
            written.expect_err("the writer is told");
            behind.check().expect_err("and who syncs, too");
        }
    }

    #[test]
    fn what_is_small_is_not_written_behind() {
        let dir = tempfile::tempdir().expect("temp dir");
        let behind = WriteBehind::new();
        let small = vec![1; DIRECT_MIN - 1];
        let file = file(&dir, "small");
        assert!(!behind.write(&file, [&[], &small, &[]], 0).expect("writes"));
        assert_eq!(file.metadata().expect("there").len(), 0);
    }
}
