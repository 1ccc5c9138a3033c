use super::*;
use crate::session::read::{has_interest, interested_in};
use dfs_proto::attr::{FileKind, SetAttr};
use dfs_proto::ids::GroupId;
use dfs_proto::limits::SYMLINK_BYTES_MAX;

#[test]
fn a_new_file_has_what_its_creator_gave() {
    let mut cluster = Cluster::new();
    let made = cluster.open(ROOT, "f", true).unwrap();
    let attr = made.attr.unwrap();
    assert!(made.created);
    assert_eq!(attr.inode, InodeId(2));
    assert_eq!(attr.kind, FileKind::Regular);
    assert_eq!((attr.mode, attr.links, attr.size), (0o644, 1, 0));
    assert_eq!((attr.uid, attr.gid), (1000, 100));
    let now = cluster.now();
    assert_eq!(
        (attr.accessed, attr.modified, attr.changed),
        (now, now, now)
    );
    assert_eq!(attr.layout.first_group, GroupId(2));
    let root = cluster.attr(ROOT);
    assert_eq!((root.modified, root.changed, root.links), (now, now, 2));
    assert_eq!(cluster.lookup(ROOT, "f"), Ok(attr.inode));
}

#[test]
fn the_creator_has_interest_in_its_file() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    assert!(has_interest(&cluster.tables, cluster.session, file).unwrap());
    let node = cluster
        .mutate(Mutation::MakeNode {
            parent: ROOT,
            name: name("n"),
            kind: FileKind::Regular,
            mode: 0o600,
            device: 9,
            creator: ALICE,
        })
        .unwrap();
    let node = node.attr.unwrap();
    assert_eq!(node.device, 0);
    assert_eq!(interested_in(&cluster.tables, node.inode).unwrap(), []);
}

#[test]
fn a_name_that_came_up_meanwhile_is_opened_or_refused() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    cluster.mkdir(ROOT, "d").unwrap();
    cluster.symlink(ROOT, "s", b"f").unwrap();
    for taken in ["f", "d", "s"] {
        let refused = cluster.open(ROOT, taken, true);
        assert_eq!(refused, Err(ErrorCode::Exists), "{taken}");
    }
    let root = cluster.attr(ROOT);
    let opened = cluster.open(ROOT, "f", false).unwrap();
    assert_eq!((opened.attr.unwrap().inode, opened.created), (file, false));
    assert_eq!(cluster.attr(ROOT), root, "opening changes no dir");
    assert_eq!(cluster.open(ROOT, "d", false), Err(ErrorCode::IsADir));
    assert_eq!(cluster.open(ROOT, "s", false), Err(ErrorCode::Stale));
}

#[test]
fn nothing_is_made_where_no_dir_is() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    let gone = cluster.mkdir(ROOT, "d").unwrap();
    cluster.rmdir(ROOT, "d").unwrap();
    for (parent, code) in [
        (file, ErrorCode::NotADir),
        (gone, ErrorCode::NotFound),
        (InodeId(99), ErrorCode::NotFound),
    ] {
        assert_eq!(cluster.create(parent, "x"), Err(code));
        assert_eq!(cluster.mkdir(parent, "x"), Err(code));
        assert_eq!(cluster.symlink(parent, "x", b"t").err(), Some(code));
        assert_eq!(cluster.link(file, parent, "x").err(), Some(code));
        assert_eq!(cluster.rename((ROOT, "f"), (parent, "x")).err(), Some(code));
        assert_eq!(cluster.unlink(parent, "x").err(), Some(code));
        assert_eq!(cluster.rmdir(parent, "x").err(), Some(code));
    }
}

#[test]
fn a_setgid_dir_gives_its_group_on() {
    let mut cluster = Cluster::new();
    let dir = cluster.mkdir(ROOT, "d").unwrap();
    let set = SetAttr {
        mode: Some(0o2775),
        gid: Some(55),
        ..SetAttr::default()
    };
    cluster
        .mutate(Mutation::SetAttr { inode: dir, set })
        .unwrap();
    let file = cluster.create(dir, "f").unwrap();
    let below = cluster.mkdir(dir, "b").unwrap();
    let link = cluster.symlink(dir, "s", b"t").unwrap().attr.unwrap();
    let (file, below) = (cluster.attr(file), cluster.attr(below));
    assert_eq!((file.gid, file.mode), (55, 0o644));
    assert_eq!((below.gid, below.mode), (55, 0o2755));
    assert_eq!((link.gid, link.mode), (55, 0o777));
}

#[test]
fn nodes_of_every_kind() {
    let mut cluster = Cluster::new();
    let kinds = [
        (FileKind::Fifo, 0),
        (FileKind::Socket, 0),
        (FileKind::CharDevice, 0x0501),
        (FileKind::BlockDevice, 0x0801),
    ];
    for (number, (kind, device)) in kinds.into_iter().enumerate() {
        let made = cluster
            .mutate(Mutation::MakeNode {
                parent: ROOT,
                name: name(&number.to_string()),
                kind,
                mode: 0o600,
                device,
                creator: ALICE,
            })
            .unwrap();
        let attr = made.attr.unwrap();
        assert_eq!((attr.kind, attr.device, attr.links), (kind, device, 1));
    }
    for kind in [FileKind::Dir, FileKind::Symlink] {
        let refused = cluster.mutate(Mutation::MakeNode {
            parent: ROOT,
            name: name("x"),
            kind,
            mode: 0o600,
            device: 0,
            creator: ALICE,
        });
        assert_eq!(refused, Err(ErrorCode::InvalidArgument));
    }
}

#[test]
fn symlinks_hold_their_target() {
    let mut cluster = Cluster::new();
    let longest = vec![b'x'; SYMLINK_BYTES_MAX];
    let made = cluster.symlink(ROOT, "s", &longest).unwrap().attr.unwrap();
    assert_eq!(made.size, SYMLINK_BYTES_MAX as u64);
    assert_eq!(
        read::readlink(&cluster.tables, made.inode).unwrap(),
        Ok(longest)
    );
    let too_long = vec![b'x'; SYMLINK_BYTES_MAX + 1];
    for (target, code) in [
        (&too_long[..], ErrorCode::NameTooLong),
        (b"", ErrorCode::NotFound),
        (b"a\0b", ErrorCode::InvalidArgument),
    ] {
        assert_eq!(cluster.symlink(ROOT, "t", target).err(), Some(code));
    }
    assert_eq!(
        cluster.symlink(ROOT, "s", b"t").err(),
        Some(ErrorCode::Exists)
    );
    let file = cluster.create(ROOT, "f").unwrap();
    assert_eq!(
        read::readlink(&cluster.tables, file).unwrap(),
        Err(ErrorCode::InvalidArgument)
    );
}

#[test]
fn modes_and_owners_that_there_are_not() {
    let mut cluster = Cluster::new();
    let nobody = Creator {
        uid: u32::MAX,
        ..ALICE
    };
    for (mode, creator) in [(0o10000, ALICE), (0o644, nobody)] {
        let refused = cluster.mutate(Mutation::Create {
            parent: ROOT,
            name: name("f"),
            mode,
            creator,
            exclusive: false,
        });
        assert_eq!(refused, Err(ErrorCode::InvalidArgument));
    }
}

#[test]
fn numbers_are_never_given_again() {
    let mut cluster = Cluster::new();
    let first = cluster.create(ROOT, "f").unwrap();
    cluster.unlink(ROOT, "f").unwrap();
    cluster
        .command(NamespaceCommand::FreeOrphan { inode: first })
        .unwrap();
    cluster
        .command(NamespaceCommand::FreeDone { inode: first })
        .unwrap();
    assert!(cluster.create(ROOT, "f").unwrap() > first);
}
