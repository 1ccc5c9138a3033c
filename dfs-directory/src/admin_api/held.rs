//! What servers hold beside what the directory says they should: the decision about one chunk.

use dfs_proto::attr::{FileAttr, FileKind};
use dfs_proto::ids::{ChunkKey, GroupId, ServerId};
use dfs_proto::msg::scrub::{HeldCopy, HeldFault, HeldFinding};
use std::collections::{BTreeMap, BTreeSet};

/// What the directory knows of a chunk's inode.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Owner {
    /// A cut of it is being made: what is there is not decided.
    Busy,
    /// There is none.
    Gone,
    Here(FileAttr),
}

/// The servers of a group.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Roles {
    pub(super) in_sync: BTreeSet<ServerId>,
    /// Wanted members; those that are not in-sync are on their way, and may hold anything.
    pub(super) home: BTreeSet<ServerId>,
}

/// What is wrong with a chunk.
pub(super) fn judge(
    group: GroupId,
    key: ChunkKey,
    copies: &BTreeMap<ServerId, HeldCopy>,
    owner: Owner,
    roles: &Roles,
) -> Vec<HeldFinding> {
    let mut found = Vec::new();
    let mut add = |server: ServerId, fault, what: String| {
        found.push(HeldFinding {
            server,
            key,
            fault,
            what,
            removed: false,
        });
    };
    for (server, copy) in copies {
        if !roles.home.contains(server) {
            let what = format!("{} of {group}, of which it is no member", copy.version);
            add(*server, HeldFault::Stray, what);
        }
    }
    let garbage = match owner {
        Owner::Busy => return found,
        Owner::Gone => Some((HeldFault::Freed, "its file is gone".to_owned())),
        Owner::Here(attr) => beyond(group, key, &attr).map(|what| (HeldFault::Beyond, what)),
    };
    let members = || {
        roles
            .in_sync
            .iter()
            .map(|server| (server, copies.get(server)))
    };
    if let Some((fault, what)) = garbage {
        for (server, _) in members().filter(|(_, copy)| copy.is_some()) {
            add(*server, fault, what.clone());
        }
        return found;
    }
    let latest = members()
        .filter_map(|(server, copy)| Some((copy.copied()?, *server)))
        .max_by_key(|(copy, _)| (!copy.damaged, copy.generation, copy.version));
    let Some((latest, model)) = latest else {
        return found;
    };
    for (server, copy) in members() {
        match copy {
            None => {
                let what = format!("missing, {model} has {}", latest.version);
                add(*server, HeldFault::Missing, what);
            }
            Some(copy) if copy.damaged => {
                add(
                    *server,
                    HeldFault::Damaged,
                    "the copy is damaged".to_owned(),
                );
            }
            Some(copy)
                if (copy.generation, copy.version, copy.len)
                    != (latest.generation, latest.version, latest.len) =>
            {
                let what = format!(
                    "is {} of {} with {} bytes, {model} has {} of {} with {}",
                    copy.version,
                    copy.generation,
                    copy.len,
                    latest.version,
                    latest.generation,
                    latest.len
                );
                add(*server, HeldFault::Differs, what);
            }
            Some(_) => {}
        }
    }
    found
}

/// Why the file has no such chunk here.
fn beyond(group: GroupId, key: ChunkKey, attr: &FileAttr) -> Option<String> {
    let layout = attr.layout;
    if attr.kind != FileKind::Regular || !layout.is_valid() {
        return Some("its inode is no regular file".into());
    }
    let right = layout.group_of(key.index);
    if right != group {
        return Some(format!("this chunk of its file is in {right}"));
    }
    let start = key.index.0.saturating_mul(u64::from(layout.chunk_bytes));
    (start >= attr.size).then(|| format!("its file ends at byte {}", attr.size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::attr::Timestamp;
    use dfs_proto::ids::{ChunkIndex, Epoch, Generation, InodeId, Version};
    use dfs_proto::layout::FileLayout;

    const GROUP: GroupId = GroupId(2);

    fn key(index: u64) -> ChunkKey {
        ChunkKey {
            inode: InodeId(7),
            index: ChunkIndex(index),
        }
    }

    fn file(size: u64) -> Owner {
        Owner::Here(FileAttr {
            inode: InodeId(7),
            kind: FileKind::Regular,
            mode: 0,
            links: 1,
            uid: 0,
            gid: 0,
            device: 0,
            size,
            sparse: false,
            accessed: Timestamp::default(),
            modified: Timestamp::default(),
            changed: Timestamp::default(),
            generation: Generation(0),
            layout: FileLayout {
                chunk_bytes: 4096,
                first_group: GROUP,
                groups: 4,
            },
            xattrs: Default::default(),
        })
    }

    fn copy(counter: u64) -> HeldCopy {
        HeldCopy {
            key: key(0),
            generation: Generation(0),
            version: Version {
                epoch: Epoch(1),
                counter,
            },
            len: 10,
            damaged: false,
        }
    }

    fn found(key: ChunkKey, owner: Owner, held: &[(u32, HeldCopy)]) -> Vec<(u32, HeldFault)> {
        let copies = held.iter().map(|(server, copy)| (ServerId(*server), *copy));
        let roles = Roles {
            in_sync: [1, 2].map(ServerId).into(),
            home: [1, 2, 3].map(ServerId).into(),
        };
        let found = judge(GROUP, key, &copies.collect(), owner, &roles);
        found.into_iter().map(|f| (f.server.0, f.fault)).collect()
    }

    #[test]
    fn what_should_be_there_is_no_finding() {
        let both = [(1, copy(5)), (2, copy(5))];
        assert_eq!(found(key(0), file(1), &both), []);
        assert_eq!(found(key(4), file(16_385), &both), []);
        // A member on its way may hold anything, or nothing.
        assert_eq!(
            found(key(0), file(1), &[(1, copy(5)), (2, copy(5)), (3, copy(1))]),
            []
        );
        assert_eq!(found(key(0), Owner::Busy, &[(1, copy(5))]), []);
    }

    #[test]
    fn garbage_is_what_belongs_to_no_file_there() {
        use HeldFault::{Beyond, Freed, Stray};
        let both = [(1, copy(5)), (2, copy(5))];
        assert_eq!(found(key(0), Owner::Gone, &both), [(1, Freed), (2, Freed)]);
        assert_eq!(
            found(key(4), file(16_384), &both),
            [(1, Beyond), (2, Beyond)]
        );
        assert_eq!(
            found(key(1), file(1 << 20), &both),
            [(1, Beyond), (2, Beyond)]
        );
        assert_eq!(
            found(key(0), file(1), &[(1, copy(5)), (2, copy(5)), (9, copy(5))]),
            [(9, Stray)]
        );
    }

    #[test]
    fn members_that_do_not_agree_are_named() {
        use HeldFault::{Damaged, Differs, Missing};
        assert_eq!(found(key(0), file(1), &[(1, copy(5))]), [(2, Missing)]);
        assert_eq!(
            found(key(0), file(1), &[(1, copy(5)), (2, copy(6))]),
            [(1, Differs)]
        );
        let rotten = HeldCopy {
            damaged: true,
            ..copy(6)
        };
        assert_eq!(
            found(key(0), file(1), &[(1, copy(6)), (2, rotten)]),
            [(2, Damaged)]
        );
    }
}
