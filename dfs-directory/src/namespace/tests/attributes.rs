use super::*;
use dfs_proto::attr::{SetAttr, SetTime};

fn set(cluster: &mut Cluster, inode: InodeId, set: SetAttr) -> Result<FileAttr, ErrorCode> {
    cluster
        .mutate(Mutation::SetAttr { inode, set })
        .map(|c| c.attr.unwrap())
}

#[test]
fn only_what_is_named_changes_and_the_ctime_always() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    let before = cluster.attr(file);
    let after = set(&mut cluster, file, SetAttr::default()).unwrap();
    let now = cluster.now();
    assert_eq!(
        after,
        FileAttr {
            changed: now,
            ..before
        }
    );
    let mode = SetAttr {
        mode: Some(0o7123),
        ..SetAttr::default()
    };
    let after = set(&mut cluster, file, mode).unwrap();
    let changed = cluster.now();
    assert_eq!(
        after,
        FileAttr {
            changed,
            mode: 0o7123,
            ..before
        }
    );
    assert_eq!(cluster.attr(file), after);
}

#[test]
fn times_are_now_or_given() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    let early = Timestamp {
        seconds: -5,
        nanoseconds: 999_999_999,
    };
    let times = SetAttr {
        accessed: Some(SetTime::At(early)),
        modified: Some(SetTime::Now),
        ..SetAttr::default()
    };
    let after = set(&mut cluster, file, times).unwrap();
    let now = cluster.now();
    assert_eq!(
        (after.accessed, after.modified, after.changed),
        (early, now, now)
    );
    let never = Timestamp {
        seconds: 0,
        nanoseconds: 1_000_000_000,
    };
    let bad = SetAttr {
        modified: Some(SetTime::At(never)),
        ..SetAttr::default()
    };
    assert_eq!(
        set(&mut cluster, file, bad),
        Err(ErrorCode::InvalidArgument)
    );
}

#[test]
fn a_file_that_changes_hands_loses_its_privileges() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    let dir = cluster.mkdir(ROOT, "d").unwrap();
    let mode = |mode| SetAttr {
        mode: Some(mode),
        ..SetAttr::default()
    };
    let owner = SetAttr {
        uid: Some(5),
        ..SetAttr::default()
    };
    for (inode, before, expected) in [
        (file, 0o6755, 0o755),
        (file, 0o6745, 0o2745),
        (file, 0o1644, 0o1644),
        (dir, 0o6755, 0o6755),
    ] {
        set(&mut cluster, inode, mode(before)).unwrap();
        let after = set(&mut cluster, inode, owner).unwrap();
        assert_eq!((after.mode, after.uid), (expected, 5), "{before:o}");
    }
    // The kernel's word counts when it says one.
    let both = SetAttr {
        mode: Some(0o4755),
        ..owner
    };
    assert_eq!(set(&mut cluster, file, both).unwrap().mode, 0o4755);
}

#[test]
fn values_that_there_are_not() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    let none = SetAttr::default();
    let bad = [
        SetAttr {
            mode: Some(0o10000),
            ..none
        },
        SetAttr {
            uid: Some(u32::MAX),
            ..none
        },
        SetAttr {
            gid: Some(u32::MAX),
            ..none
        },
    ];
    for bad in bad {
        assert_eq!(
            set(&mut cluster, file, bad),
            Err(ErrorCode::InvalidArgument)
        );
    }
    assert_eq!(set(&mut cluster, InodeId(99), none), Err(ErrorCode::Stale));
}
