//! Notifications to the kernel: what it is to drop from its caches. Written to the device as they
//! are, since the library hides whether the kernel knew the inode at all, and knows no epochs.

use super::root::Root;
use dfs_proto::ids::InodeId;
use dfs_proto::name::FileName;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

/// Codes of the FUSE protocol.
const INVAL_INODE: i32 = 2;
const INVAL_ENTRY: i32 = 3;
const INC_EPOCH: i32 = 8;

const HEADER_BYTES: usize = 16;

/// What the kernel answers to an invalidation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dropped {
    Done,
    /// It does not have the inode: never had, forgot it, or is still taking in an answer.
    Unknown,
}

/// The device of one mount.
#[derive(Debug)]
pub(super) struct Notify {
    device: OwnedFd,
    root: Root,
    no_epoch: AtomicBool,
}

fn message(code: i32, parts: &[&[u8]]) -> Vec<u8> {
    let len = HEADER_BYTES + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut bytes = Vec::with_capacity(len);
    bytes.extend((len as u32).to_ne_bytes());
    bytes.extend(code.to_ne_bytes());
    bytes.extend(0u64.to_ne_bytes());
    for part in parts {
        bytes.extend_from_slice(part);
    }
    bytes
}

impl Notify {
    /// `device` is a duplicate of the session's descriptor.
    pub(super) fn new(device: OwnedFd, root: Root) -> Self {
        Self {
            device,
            root,
            no_epoch: AtomicBool::new(false),
        }
    }

    fn send(&self, code: i32, parts: &[&[u8]]) -> io::Result<()> {
        rustix::io::write(&self.device, &message(code, parts))?;
        Ok(())
    }

    /// Drops the inode's attributes and, from `start` on, `len` bytes of its pages (0: to the end;
    /// `start` negative: none). Waits for READs of these pages and launder WRITEs.
    pub(super) fn inode(&self, inode: InodeId, start: i64, len: i64) -> Dropped {
        let sent = self.send(
            INVAL_INODE,
            &[
                &self.root.number(inode).to_ne_bytes(),
                &start.to_ne_bytes(),
                &len.to_ne_bytes(),
            ],
        );
        answer(inode, sent)
    }

    /// Drops a name. Waits for whatever locks the dir: requests in it that the mount has not
    /// answered.
    pub(super) fn entry(&self, dir: InodeId, name: &FileName) -> Dropped {
        let name = name.as_bytes();
        let sent = self.send(
            INVAL_ENTRY,
            &[
                &self.root.number(dir).to_ne_bytes(),
                &(name.len() as u32).to_ne_bytes(),
                &0u32.to_ne_bytes(),
                name,
                &[0],
            ],
        );
        answer(dir, sent)
    }

    /// Has the kernel look up every name again that it has now, also those in answers that it has
    /// not taken in. Never waits. False: it can't (before Linux 6.16).
    pub(super) fn all_names(&self) -> bool {
        if self.no_epoch.load(Ordering::Relaxed) {
            return false;
        }
        match self.send(INC_EPOCH, &[]) {
            Ok(()) => true,
            Err(e) if is_gone(&e) => true,
            Err(e) => {
                log::warn!(
                    "this kernel can't drop all cached names at once (Linux 6.16 can), so names \
                     are looked up at every use from now on: {e}"
                );
                self.no_epoch.store(true, Ordering::Relaxed);
                false
            }
        }
    }

    /// Whether the kernel may be given names to keep: not where they can't be taken back in time.
    pub(super) fn can_keep_names(&self) -> bool {
        !self.no_epoch.load(Ordering::Relaxed)
    }
}

/// The device is closed when the file system is unmounted.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOTCONN))
}

fn answer(inode: InodeId, sent: io::Result<()>) -> Dropped {
    match sent {
        Ok(()) => Dropped::Done,
        Err(e) if is_gone(&e) => Dropped::Done,
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Dropped::Unknown,
        // A name that is in use as a mount point, or that is being removed right now.
        Err(e)
            if matches!(
                e.raw_os_error(),
                Some(libc::ENOTEMPTY | libc::EBUSY | libc::ENOTDIR)
            ) =>
        {
            Dropped::Unknown
        }
        Err(e) => {
            // A defect that must be seen: something old may remain.
            log::error!("{inode}: the kernel refuses to drop what it has cached: {e}");
            Dropped::Done
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_laid_out_as_the_kernel_reads_them() {
        let bytes = message(INC_EPOCH, &[]);
        assert_eq!(bytes.len(), 16);
        assert_eq!(
            bytes[..8],
            [16u32.to_ne_bytes(), 8u32.to_ne_bytes()].concat()
        );
        let bytes = message(INVAL_ENTRY, &[&7u64.to_ne_bytes(), b"name\0"]);
        assert_eq!(bytes[..4], 29u32.to_ne_bytes());
        assert_eq!(bytes[16..24], 7u64.to_ne_bytes());
    }
}
