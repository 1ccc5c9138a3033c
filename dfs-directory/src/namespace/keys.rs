//! Keys of the namespace's tables: big-endian numbers, so that byte order is number order.
//!
//! | table | key | order |
//! | --- | --- | --- |
//! | `Inodes`, `Orphans`, `Targets` | inode | by number |
//! | `Entries` | parent, name | a dir's names together, by bytes |
//! | `Cookies` | parent, cookie | a dir's listing, in its order |
//! | `Intents` | inode, generation | an inode's cuts in the order they must be made |
//! | `Xattrs` | inode, name | an inode's attributes together, after a record of their room |
//! | `Meta` | the words below | |

use dfs_proto::ids::{Generation, InodeId};
use dfs_proto::xattr::XattrName;

/// `Meta`: what the cluster was formatted with.
pub(super) const FORMAT: &[u8] = b"format";
/// `Meta`: the next inode number and the number of inodes.
pub(super) const COUNTERS: &[u8] = b"inodes";

pub(super) fn inode(inode: InodeId) -> [u8; 8] {
    inode.0.to_be_bytes()
}

/// A name in a dir.
pub(super) fn entry(parent: InodeId, name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(8 + name.len());
    key.extend_from_slice(&parent.0.to_be_bytes());
    key.extend_from_slice(name);
    key
}

pub(super) fn cookie(parent: InodeId, cookie: u64) -> [u8; 16] {
    pair(parent.0, cookie)
}

pub(super) fn intent(inode: InodeId, generation: Generation) -> [u8; 16] {
    pair(inode.0, generation.0)
}

/// An extended attribute of an inode.
pub(super) fn xattr(inode: InodeId, name: &XattrName) -> Vec<u8> {
    entry(inode, &name.to_bytes())
}

fn pair(high: u64, low: u64) -> [u8; 16] {
    ((u128::from(high) << 64) | u128::from(low)).to_be_bytes()
}

/// Reads an `inode` key.
pub(super) fn read_inode(key: &[u8]) -> Option<InodeId> {
    Some(InodeId(u64::from_be_bytes(key.try_into().ok()?)))
}

/// Reads an `entry` key: the parent and the name's bytes.
pub(super) fn read_entry(key: &[u8]) -> Option<(InodeId, &[u8])> {
    let (parent, name) = key.split_first_chunk::<8>()?;
    Some((InodeId(u64::from_be_bytes(*parent)), name))
}

/// Reads a `cookie` key.
pub(super) fn read_cookie(key: &[u8]) -> Option<(InodeId, u64)> {
    let (parent, cookie) = read_pair(key)?;
    Some((InodeId(parent), cookie))
}

/// Reads an `intent` key.
pub(super) fn read_intent(key: &[u8]) -> Option<(InodeId, Generation)> {
    let (inode, generation) = read_pair(key)?;
    Some((InodeId(inode), Generation(generation)))
}

/// Reads an `xattr` key; without a name it is that of the record of their room.
pub(super) fn read_xattr(key: &[u8]) -> Option<(InodeId, Option<XattrName>)> {
    let (inode, name) = read_entry(key)?;
    let name = match name {
        [] => None,
        name => Some(XattrName::new(name).ok()?),
    };
    Some((inode, name))
}

fn read_pair(key: &[u8]) -> Option<(u64, u64)> {
    let both = u128::from_be_bytes(key.try_into().ok()?);
    Some(((both >> 64) as u64, both as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_sort_as_what_they_name(a in any::<(u64, u64)>(), b in any::<(u64, u64)>()) {
            let (pa, pb) = (InodeId(a.0), InodeId(b.0));
            prop_assert_eq!(inode(pa).cmp(&inode(pb)), a.0.cmp(&b.0));
            prop_assert_eq!(cookie(pa, a.1).cmp(&cookie(pb, b.1)), a.cmp(&b));
            let (ga, gb) = (Generation(a.1), Generation(b.1));
            prop_assert_eq!(intent(pa, ga).cmp(&intent(pb, gb)), a.cmp(&b));
        }

        #[test]
        fn entries_sort_by_parent_then_name(
            a in any::<(u64, Vec<u8>)>(),
            b in any::<(u64, Vec<u8>)>(),
        ) {
            let keys = (entry(InodeId(a.0), &a.1), entry(InodeId(b.0), &b.1));
            prop_assert_eq!(keys.0.cmp(&keys.1), a.cmp(&b));
        }

        #[test]
        fn keys_read_back(parent in any::<u64>(), low in any::<u64>(), name in any::<Vec<u8>>()) {
            let id = InodeId(parent);
            prop_assert_eq!(read_inode(&inode(id)), Some(id));
            prop_assert_eq!(read_cookie(&cookie(id, low)), Some((id, low)));
            prop_assert_eq!(
                read_intent(&intent(id, Generation(low))),
                Some((id, Generation(low)))
            );
            let key = entry(id, &name);
            prop_assert_eq!(read_entry(&key), Some((id, &name[..])));
        }

        #[test]
        fn garbage_is_no_key(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(read_inode(&bytes).is_some(), bytes.len() == 8);
            prop_assert_eq!(read_cookie(&bytes).is_some(), bytes.len() == 16);
            prop_assert_eq!(read_entry(&bytes).is_some(), bytes.len() >= 8);
        }
    }
}
