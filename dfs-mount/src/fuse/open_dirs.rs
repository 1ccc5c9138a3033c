//! Dirs that programs of this mount have open. The directory keeps nothing of a removed dir for
//! those who have it open, so what the kernel was last told of it is kept here.

use dfs_proto::attr::{FileAttr, FileKind, Timestamp};
use dfs_proto::ids::InodeId;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Clone, Copy, Debug)]
struct OpenDir {
    opens: u32,
    told: FileAttr,
    removed: bool,
}

/// The open dirs. The kernel bounds them: it has one for each open file description.
#[derive(Debug, Default)]
pub(super) struct OpenDirs(Mutex<BTreeMap<InodeId, OpenDir>>);

impl OpenDirs {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<InodeId, OpenDir>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One open more; `attr` is the dir as it is now.
    pub(super) fn opened(&self, attr: FileAttr) {
        let mut dirs = self.lock();
        let dir = dirs.entry(attr.inode).or_insert(OpenDir {
            opens: 0,
            told: attr,
            removed: false,
        });
        dir.opens += 1;
        dir.learn(attr);
    }

    pub(super) fn closed(&self, inode: InodeId) {
        let mut dirs = self.lock();
        if let Some(dir) = dirs.get_mut(&inode) {
            dir.opens -= 1;
            if dir.opens == 0 {
                dirs.remove(&inode);
            }
        }
    }

    /// The kernel is told these attributes.
    pub(super) fn told(&self, attr: &FileAttr) {
        if attr.kind == FileKind::Dir
            && let Some(dir) = self.lock().get_mut(&attr.inode)
        {
            dir.learn(*attr);
        }
    }

    /// The directory does not have this inode any more: its last attributes, if it is an open dir.
    /// When it was removed nobody can say; it counts as changed when that was found, at `now`.
    pub(super) fn removed(&self, inode: InodeId, now: Timestamp) -> Option<FileAttr> {
        let mut dirs = self.lock();
        let dir = dirs.get_mut(&inode)?;
        if !dir.removed {
            dir.removed = true;
            dir.told.links = 0;
            dir.told.changed = dir.told.changed.max(now);
        }
        Some(dir.told)
    }
}

impl OpenDir {
    /// Answers may come in another order than they were given in.
    fn learn(&mut self, attr: FileAttr) {
        if !self.removed && attr.changed >= self.told.changed {
            self.told = attr;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::ids::{Generation, GroupId};
    use dfs_proto::layout::FileLayout;

    fn at(seconds: i64) -> Timestamp {
        Timestamp {
            seconds,
            nanoseconds: 0,
        }
    }

    fn dir(mode: u16, changed: i64) -> FileAttr {
        FileAttr {
            inode: InodeId(7),
            kind: FileKind::Dir,
            mode,
            links: 2,
            uid: 0,
            gid: 0,
            device: 0,
            size: 0,
            accessed: at(0),
            modified: at(0),
            changed: at(changed),
            generation: Generation(1),
            layout: FileLayout {
                chunk_bytes: 65536,
                first_group: GroupId(0),
                groups: 1,
            },
            xattrs: Default::default(),
            sparse: Default::default(),
        }
    }

    #[test]
    fn a_removed_dir_is_as_it_was_last_seen_until_it_is_closed() {
        let dirs = OpenDirs::default();
        dirs.opened(dir(0o755, 1));
        dirs.told(&dir(0o700, 5));
        dirs.told(&dir(0o711, 3));
        dirs.opened(dir(0o755, 4));
        let removed = dirs.removed(InodeId(7), at(9)).expect("it is open");
        assert_eq!((removed.mode, removed.links), (0o700, 0));
        assert_eq!(removed.changed, at(9));
        assert_eq!(dirs.removed(InodeId(7), at(20)), Some(removed));
        dirs.closed(InodeId(7));
        assert_eq!(dirs.removed(InodeId(7), at(21)), Some(removed));
        dirs.closed(InodeId(7));
        assert_eq!(dirs.removed(InodeId(7), at(22)), None);
    }
}
