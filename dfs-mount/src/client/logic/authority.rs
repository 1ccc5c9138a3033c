//! Size and times of one inode under this mount's exclusive lease: the mount is the authority
//! for them until they are pushed. Pure.
//!
//! Only acknowledged writes count. A push names the change up to which it goes, so that a write
//! acknowledged while the push is on its way stays unpushed.

use dfs_proto::attr::{FileAttr, SizeTimes, Timestamp, leaves_hole};
use dfs_proto::ids::Generation;
use dfs_proto::layout::FileLayout;

/// What the mount knows of an inode's data while it holds a lease.
#[derive(Clone, Copy, Debug)]
pub struct Authority {
    attr: FileAttr,
    /// Counts acknowledged changes.
    change: u64,
    /// The change up to which the directory knows.
    pushed: u64,
    /// The size that the directory has in its log.
    logged_size: u64,
    /// When the first unpushed change was made, by the caller's clock in nanoseconds.
    unpushed_since: u64,
}

/// A push under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Push {
    pub values: SizeTimes,
    change: u64,
}

impl Authority {
    /// As granted.
    pub fn new(attr: FileAttr) -> Self {
        Self {
            attr,
            change: 0,
            pushed: 0,
            logged_size: attr.size,
            unpushed_since: 0,
        }
    }

    /// All attributes, as far as they were told.
    pub fn attr(&self) -> FileAttr {
        self.attr
    }

    pub fn size(&self) -> u64 {
        self.attr.size
    }

    pub fn generation(&self) -> Generation {
        self.attr.generation
    }

    pub fn layout(&self) -> FileLayout {
        self.attr.layout
    }

    /// A write from byte `start` up to `end` is on all replicas. `now` is the directory's time,
    /// `clock` the caller's.
    pub fn wrote(&mut self, start: u64, end: u64, now: Timestamp, clock: u64) {
        self.attr.sparse |= leaves_hole(self.attr.size, start);
        self.attr.size = self.attr.size.max(end);
        self.attr.modified = now;
        self.attr.changed = self.attr.changed.max(now);
        if !self.is_unpushed() {
            self.unpushed_since = clock;
        }
        self.change += 1;
    }

    pub fn is_unpushed(&self) -> bool {
        self.change > self.pushed
    }

    /// Whether the directory does not know the size; the times are another matter.
    pub fn is_size_unpushed(&self) -> bool {
        self.attr.size != self.logged_size
    }

    /// When the first unpushed change was made.
    pub fn unpushed_since(&self) -> Option<u64> {
        self.is_unpushed().then_some(self.unpushed_since)
    }

    /// The present values, for the directory.
    pub fn values(&self) -> SizeTimes {
        SizeTimes {
            size: self.attr.size,
            sparse: self.attr.sparse,
            generation: self.attr.generation,
            modified: self.is_unpushed().then_some(self.attr.modified),
            accessed: None,
            wrote: self.is_unpushed(),
        }
    }

    /// What is to be pushed, if anything.
    pub fn push(&self) -> Option<Push> {
        self.is_unpushed().then(|| Push {
            values: self.values(),
            change: self.change,
        })
    }

    /// The directory has logged a push and answered with its attributes.
    pub fn push_logged(&mut self, push: Push, attr: &FileAttr, clock: u64) {
        if push.change > self.pushed {
            self.pushed = push.change;
            self.logged_size = push.values.size;
        }
        if self.is_unpushed() {
            self.unpushed_since = clock;
        }
        self.learn(attr);
    }

    /// Attributes came from the directory: all but what this mount is the authority for.
    pub fn learn(&mut self, attr: &FileAttr) {
        self.attr = self.over(attr);
    }

    /// The directory's attributes with this mount's size and times over them.
    pub fn over(&self, attr: &FileAttr) -> FileAttr {
        let mut merged = *attr;
        merged.size = self.attr.size;
        merged.sparse |= self.attr.sparse;
        merged.generation = merged.generation.max(self.attr.generation);
        if self.is_unpushed() {
            merged.modified = self.attr.modified;
            merged.changed = merged.changed.max(self.attr.changed);
        }
        merged
    }

    /// The size was changed at the directory by this mount: the answer's attributes hold.
    pub fn resized(&mut self, attr: &FileAttr) {
        self.attr = *attr;
        self.pushed = self.change;
        self.logged_size = attr.size;
    }

    /// A replica knows a later generation.
    pub fn raise_generation(&mut self, generation: Generation) {
        self.attr.generation = self.attr.generation.max(generation);
    }
}

#[cfg(test)]
pub(in crate::client) fn test_attr(size: u64) -> FileAttr {
    use dfs_proto::attr::FileKind;
    use dfs_proto::ids::{GroupId, InodeId};
    FileAttr {
        inode: InodeId(7),
        kind: FileKind::Regular,
        mode: 0o644,
        links: 1,
        uid: 0,
        gid: 0,
        device: 0,
        size,
        sparse: false,
        accessed: Timestamp::default(),
        modified: Timestamp::default(),
        changed: Timestamp::default(),
        generation: Generation(1),
        layout: FileLayout {
            chunk_bytes: 65536,
            first_group: GroupId(0),
            groups: 4,
        },
        xattrs: Default::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp {
            seconds,
            nanoseconds: 0,
        }
    }

    #[test]
    fn a_write_during_a_push_stays_unpushed() {
        let mut authority = Authority::new(test_attr(10));
        assert_eq!(authority.push(), None);
        authority.wrote(0, 20, at(1), 100);
        let push = authority.push().expect("a change");
        assert_eq!(push.values.size, 20);
        assert_eq!(push.values.modified, Some(at(1)));
        authority.wrote(0, 15, at(2), 200);
        authority.push_logged(push, &test_attr(20), 300);
        assert_eq!(authority.unpushed_since(), Some(300));
        assert_eq!(authority.size(), 20);
        let push = authority.push().expect("the second change");
        authority.push_logged(push, &test_attr(20), 400);
        assert!(!authority.is_unpushed());
    }

    #[test]
    fn an_overwrite_leaves_the_size_known() {
        let mut authority = Authority::new(test_attr(10));
        authority.wrote(0, 10, at(1), 100);
        assert!(authority.is_unpushed() && !authority.is_size_unpushed());
        authority.wrote(0, 11, at(2), 100);
        assert!(authority.is_size_unpushed());
        let push = authority.push().expect("a change");
        authority.wrote(0, 5, at(3), 200);
        authority.push_logged(push, &test_attr(11), 300);
        assert!(authority.is_unpushed() && !authority.is_size_unpushed());
        authority.wrote(0, 12, at(4), 400);
        authority.resized(&test_attr(3));
        assert!(!authority.is_size_unpushed());
    }

    #[test]
    fn a_write_behind_the_end_leaves_a_hole() {
        let mut authority = Authority::new(test_attr(10));
        // Within the last block, and then from the first byte behind it on.
        authority.wrote(4000, 4096, at(1), 0);
        authority.wrote(4096, 5000, at(1), 0);
        authority.wrote(8192, 8193, at(1), 0);
        assert!(!authority.values().sparse);
        authority.wrote(4 * 4096 - 1, 5 * 4096, at(1), 0);
        assert!(
            !authority.attr().sparse,
            "the third block is the one behind the end"
        );
        authority.wrote(6 * 4096, 7 * 4096, at(1), 0);
        assert!(authority.values().sparse);
        // An older answer does not take it back; emptying the file does.
        authority.learn(&test_attr(10));
        assert!(authority.attr().sparse);
        authority.resized(&test_attr(0));
        assert!(!authority.values().sparse);
    }

    #[test]
    fn the_directory_is_believed_for_everything_else() {
        let mut authority = Authority::new(test_attr(10));
        authority.wrote(0, 30, at(5), 0);
        let mut attr = test_attr(10);
        attr.mode = 0o600;
        attr.changed = at(9);
        let merged = authority.over(&attr);
        assert_eq!((merged.size, merged.mode), (30, 0o600));
        assert_eq!((merged.modified, merged.changed), (at(5), at(9)));
    }

    #[test]
    fn a_resize_replaces_what_was_known() {
        let mut authority = Authority::new(test_attr(10));
        authority.wrote(0, 30, at(5), 0);
        authority.resized(&test_attr(3));
        assert_eq!(authority.size(), 3);
        assert!(!authority.is_unpushed());
    }
}
