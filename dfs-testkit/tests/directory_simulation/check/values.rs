//! The contents of files: one number each, which only grows, by one under a lock.

use dfs_proto::ids::InodeId;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
struct Value {
    /// The largest that was answered to a write, or read.
    known: u64,
}

/// What mounts know of the files.
#[derive(Debug, Default)]
pub(crate) struct Values {
    files: BTreeMap<InodeId, Value>,
    pub(crate) reads: u64,
    pub(crate) writes: u64,
}

impl Values {
    /// A read begins: it must find at least this.
    pub(crate) fn floor(&self, inode: InodeId) -> u64 {
        self.files.get(&inode).map_or(0, |value| value.known)
    }

    /// A read has ended; `stored` is what the file server has now.
    pub(crate) fn read(
        &mut self,
        inode: InodeId,
        floor: u64,
        found: u64,
        stored: u64,
    ) -> Result<(), String> {
        self.reads += 1;
        if found < floor {
            return Err(format!(
                "{inode} was read as {found} after {floor} was known"
            ));
        }
        if found > stored {
            return Err(format!("{inode} was read as {found}, it is {stored}"));
        }
        self.knows(inode, found);
        Ok(())
    }

    /// A write was answered.
    pub(crate) fn written(&mut self, inode: InodeId, value: u64) {
        self.writes += 1;
        self.knows(inode, value);
    }

    fn knows(&mut self, inode: InodeId, value: u64) {
        let known = &mut self.files.entry(inode).or_default().known;
        *known = value.max(*known);
    }
}
