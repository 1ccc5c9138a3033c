//! The dir that is mounted: the file system's root, or one below it.

use crate::client::Client;
use dfs_proto::attr::FileKind;
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{InodeId, ROOT};
use dfs_proto::name::FileName;
use fuser::INodeNo;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

/// The mounted dir. The kernel knows it by the number 1, whatever its own is; all other inodes it
/// knows by theirs. Nothing above it is ever told to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Root(InodeId);

impl Root {
    /// Finds the dir that `path` names, from the file system's root on. Symbolic links are not
    /// followed: where they lead is the kernel's business, and it does not know this tree yet.
    pub(crate) async fn find(client: &Client, path: &Path) -> Result<Self, String> {
        let say = |what: &str| format!("{}: {what}", path.display());
        let mut dir = ROOT;
        for part in path.components() {
            let name = match part {
                Component::RootDir | Component::CurDir => continue,
                Component::Normal(name) => name,
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(say("'..' has no place in the path of a sub-tree"));
                }
            };
            dir = step(client, dir, name).await.map_err(|e| say(&e))?;
        }
        Ok(Self(dir))
    }

    pub(super) fn dir(self) -> InodeId {
        self.0
    }

    /// The inode that the kernel means.
    pub(super) fn inode(self, number: INodeNo) -> InodeId {
        match number {
            INodeNo::ROOT => self.0,
            INodeNo(number) => InodeId(number),
        }
    }

    /// What the kernel knows the inode by.
    pub(super) fn number(self, inode: InodeId) -> u64 {
        match inode == self.0 {
            true => INodeNo::ROOT.0,
            false => inode.0,
        }
    }
}

/// The dir of this name in `dir`.
async fn step(client: &Client, dir: InodeId, name: &OsStr) -> Result<InodeId, String> {
    let name = FileName::new(name.as_bytes()).map_err(|e| format!("{e:?}"))?;
    let answer = client.lookup(dir, Some(name.clone())).await;
    let found = match answer.map(|answer| answer.found) {
        Ok(Some(found)) => found,
        Ok(None) => return Err(format!("there is no '{name}' in the file system")),
        Err(e) if e.code == ErrorCode::NotADir => return Err(format!("no dir before '{name}'")),
        Err(e) => return Err(e.to_string()),
    };
    match found.attr.kind {
        FileKind::Dir => Ok(found.attr.inode),
        _ => Err(format!("'{name}' is not a dir")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mounted_dir_has_the_number_1_in_the_kernel() {
        let root = Root(InodeId(77));
        assert_eq!(root.inode(INodeNo(1)), InodeId(77));
        assert_eq!(root.number(InodeId(77)), 1);
        for number in [2, 76, 1 << 40] {
            assert_eq!(root.inode(INodeNo(number)), InodeId(number));
            assert_eq!(root.number(InodeId(number)), number);
        }
    }
}
