use super::acl::tests::acl;
use super::*;
use crate::namespace::fsck::Problem;
use crate::namespace::{inodes, keys};
use dfs_proto::attr::SetAttr;
use dfs_proto::limits::{XATTR_LIST_BYTES_MAX, XATTR_VALUE_BYTES_MAX};
use dfs_proto::xattr::{SetXattrIf, XattrKinds, XattrName};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

fn xattr(text: &str) -> XattrName {
    XattrName::new(text.as_bytes()).unwrap()
}

impl Cluster {
    pub(super) fn set_xattr(
        &mut self,
        inode: InodeId,
        text: &str,
        value: &[u8],
        only: SetXattrIf,
    ) -> Result<Changed, ErrorCode> {
        self.mutate(Mutation::SetXattr {
            inode,
            name: xattr(text),
            value: value.to_vec(),
            only,
            drop_setgid: false,
        })
    }

    fn put_xattr(&mut self, inode: InodeId, text: &str, value: &[u8]) -> FileAttr {
        let set = self.set_xattr(inode, text, value, SetXattrIf::Always);
        set.unwrap().attr.unwrap()
    }

    pub(super) fn remove_xattr(
        &mut self,
        inode: InodeId,
        text: &str,
    ) -> Result<Changed, ErrorCode> {
        let name = xattr(text);
        self.mutate(Mutation::RemoveXattr { inode, name })
    }

    fn xattr(&self, inode: InodeId, text: &str) -> Result<Vec<u8>, ErrorCode> {
        read::xattr(&self.tables, inode, &xattr(text)).unwrap()
    }

    pub(super) fn all_xattrs(&self, inode: InodeId) -> Vec<(String, Vec<u8>)> {
        let names = read::xattr_names(&self.tables, inode).unwrap().unwrap();
        let all = names.into_iter().map(|name| {
            let value = read::xattr(&self.tables, inode, &name).unwrap();
            (name.to_string(), value.unwrap())
        });
        all.collect()
    }

    fn xattr_records(&self) -> usize {
        self.records(&[Table::Xattrs]).len()
    }
}

fn chmod(mode: u16) -> SetAttr {
    SetAttr {
        mode: Some(mode),
        ..SetAttr::default()
    }
}

#[test]
fn attributes_come_back_and_change_the_ctime_alone() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    let before = cluster.attr(file);
    let after = cluster.put_xattr(file, "user.a", b"one");
    let expected = FileAttr {
        changed: cluster.now(),
        xattrs: XattrKinds::OTHER,
        ..before
    };
    assert_eq!(after, expected);
    cluster.put_xattr(file, "user.a", b"");
    cluster.put_xattr(file, "trusted.b", b"two\0");
    assert_eq!(cluster.xattr(file, "user.a"), Ok(Vec::new()));
    let names: Vec<String> = cluster
        .all_xattrs(file)
        .into_iter()
        .map(|(n, _)| n)
        .collect();
    assert_eq!(names, ["trusted.b", "user.a"]);
    cluster.remove_xattr(file, "user.a").unwrap();
    assert_eq!(cluster.attr(file).changed, cluster.now());
    assert_eq!(cluster.attr(file).xattrs, XattrKinds::OTHER);
    let gone = Err(ErrorCode::NoSuchAttribute);
    assert_eq!(cluster.xattr(file, "user.a"), gone);
    assert_eq!(
        cluster.remove_xattr(file, "user.a").map(drop),
        Err(ErrorCode::NoSuchAttribute)
    );
    cluster.remove_xattr(file, "trusted.b").unwrap();
    assert_eq!(cluster.attr(file).xattrs, XattrKinds::NONE);
    assert_eq!(cluster.xattr_records(), 0);
}

#[test]
fn create_and_replace_say_whether_it_was_there() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    let mut set = |only| cluster.set_xattr(file, "user.a", b"v", only).map(drop);
    assert_eq!(set(SetXattrIf::Present), Err(ErrorCode::NoSuchAttribute));
    assert_eq!(set(SetXattrIf::Absent), Ok(()));
    assert_eq!(set(SetXattrIf::Absent), Err(ErrorCode::Exists));
    assert_eq!(set(SetXattrIf::Present), Ok(()));
}

#[test]
fn not_everything_can_have_everything() {
    let mut cluster = Cluster::new();
    let dir = cluster.mkdir(ROOT, "d").unwrap();
    let file = cluster.create(ROOT, "f").unwrap();
    let link = cluster
        .symlink(ROOT, "s", b"to")
        .unwrap()
        .attr
        .unwrap()
        .inode;
    let value = acl("u::rwx,u:7:rwx,g::r-x,m::rwx,o::r-x");
    for (inode, text, expected) in [
        (dir, "user.a", Ok(())),
        (link, "user.a", Err(ErrorCode::NotPermitted)),
        (link, "trusted.a", Ok(())),
        (link, "security.a", Ok(())),
        (link, ACCESS, Err(ErrorCode::Unsupported)),
        (link, DEFAULT, Err(ErrorCode::Unsupported)),
        (file, DEFAULT, Err(ErrorCode::AccessDenied)),
        (file, ACCESS, Ok(())),
        (dir, DEFAULT, Ok(())),
        (InodeId(99), "user.a", Err(ErrorCode::Stale)),
    ] {
        let set = cluster.set_xattr(inode, text, &value, SetXattrIf::Always);
        assert_eq!(set.map(drop), expected, "{text} on {inode}");
    }
    let none = cluster.set_xattr(file, ACCESS, b"no ACL", SetXattrIf::Always);
    assert_eq!(none.map(drop), Err(ErrorCode::InvalidArgument));
}

#[test]
fn room_is_limited() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    let longest = vec![7; XATTR_VALUE_BYTES_MAX];
    cluster.put_xattr(file, "user.a", &longest);
    assert_eq!(cluster.xattr(file, "user.a"), Ok(longest.clone()));
    let longer = [&longest[..], b"x"].concat();
    let refused = cluster.set_xattr(file, "user.a", &longer, SetXattrIf::Always);
    assert_eq!(refused.map(drop), Err(ErrorCode::TooBig));
    // Names: a list of them is never longer than a caller can take.
    let mut made = 0;
    let refused = loop {
        let text = format!("user.{made:0>250}");
        match cluster.set_xattr(file, &text, b"", SetXattrIf::Always) {
            Ok(_) => made += 1,
            Err(code) => break code,
        }
    };
    assert_eq!(refused, ErrorCode::NoRoomForAttribute);
    assert_eq!(made, (XATTR_LIST_BYTES_MAX - "user.a\0".len()) / 256);
    // Values in all.
    let other = cluster.create(ROOT, "g").unwrap();
    let mut made = 0;
    while cluster
        .set_xattr(other, &format!("user.{made}"), &longest, SetXattrIf::Always)
        .is_ok()
    {
        made += 1;
    }
    assert_eq!(made, 64);
    // One that is replaced makes room.
    cluster.put_xattr(other, "user.0", b"short");
    cluster.put_xattr(other, "user.64", &longest[..100]);
}

#[test]
fn they_go_with_the_inode() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    let other = cluster.create(ROOT, "g").unwrap();
    cluster.put_xattr(file, "user.a", b"1");
    cluster.put_xattr(file, "user.b", b"2");
    cluster.put_xattr(other, "user.a", b"3");
    cluster.link(file, ROOT, "h").unwrap();
    cluster.unlink(ROOT, "f").unwrap();
    cluster.unlink(ROOT, "h").unwrap();
    // Open somewhere: still there, and can be changed.
    cluster.put_xattr(file, "user.a", b"4");
    cluster
        .command(NamespaceCommand::FreeOrphan { inode: file })
        .unwrap();
    assert_eq!(cluster.xattr(file, "user.a"), Err(ErrorCode::Stale));
    assert_eq!(cluster.xattr(other, "user.a"), Ok(b"3".to_vec()));
    assert_eq!(cluster.xattr_records(), 2);
}

#[test]
fn an_access_acl_and_the_mode_are_one() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    let named = acl("u::rw-,u:7:rwx,g::r-x,m::-wx,o::--x");
    let after = cluster.put_xattr(file, ACCESS, &named);
    assert_eq!((after.mode, after.xattrs), (0o631, XattrKinds::ACCESS_ACL));
    // A chmod changes the mask; the ACL says so.
    let set = chmod(0o4750);
    cluster
        .mutate(Mutation::SetAttr { inode: file, set })
        .unwrap();
    let expected = acl("u::rwx,u:7:rwx,g::r-x,m::r-x,o::---");
    assert_eq!(cluster.xattr(file, ACCESS), Ok(expected));
    // One that the mode says is not stored.
    let after = cluster.put_xattr(file, ACCESS, &acl("u::rw-,g::---,o::r--"));
    assert_eq!((after.mode, after.xattrs), (0o4604, XattrKinds::NONE));
    assert_eq!(cluster.xattr(file, ACCESS), Err(ErrorCode::NoSuchAttribute));
    // One that goes leaves the mode.
    cluster.put_xattr(file, ACCESS, &named);
    let after = cluster.remove_xattr(file, ACCESS).unwrap().attr.unwrap();
    assert_eq!((after.mode, after.xattrs), (0o4631, XattrKinds::NONE));
}

#[test]
fn setgid_goes_with_an_acl_that_is_set_by_somebody_outside_of_the_group() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    let set = chmod(0o2755);
    cluster
        .mutate(Mutation::SetAttr { inode: file, set })
        .unwrap();
    for (drop_setgid, mode) in [(false, 0o2770), (true, 0o770)] {
        let set = cluster.mutate(Mutation::SetXattr {
            inode: file,
            name: xattr(ACCESS),
            value: acl("u::rwx,g::rwx,o::---"),
            only: SetXattrIf::Always,
            drop_setgid,
        });
        assert_eq!(set.unwrap().attr.unwrap().mode, mode);
    }
}

#[test]
fn what_is_made_takes_the_default_acl_of_its_dir_instead_of_the_umask() {
    let mut cluster = Cluster::new();
    let creator = Creator {
        umask: 0o077,
        ..ALICE
    };
    let make = |cluster: &mut Cluster, parent, text: &str, mode| {
        let made = cluster.mutate(Mutation::MakeDir {
            parent,
            name: name(text),
            mode,
            creator,
        });
        made.unwrap().attr.unwrap()
    };
    let dir = make(&mut cluster, ROOT, "d", 0o1777);
    assert_eq!(dir.mode, 0o1700);
    let inherited = acl("u::rwx,u:7:rwx,g::r-x,m::rwx,o::r--");
    let after = cluster.put_xattr(dir.inode, DEFAULT, &inherited);
    assert_eq!(
        (after.mode, after.xattrs),
        (0o1700, XattrKinds::DEFAULT_ACL)
    );
    let made = cluster.mutate(Mutation::Create {
        parent: dir.inode,
        name: name("f"),
        mode: 0o666,
        creator,
        exclusive: true,
    });
    let made = made.unwrap().attr.unwrap();
    assert_eq!((made.mode, made.xattrs), (0o664, XattrKinds::ACCESS_ACL));
    let expected = acl("u::rw-,u:7:rwx,g::r-x,m::rw-,o::r--");
    assert_eq!(cluster.xattr(made.inode, ACCESS), Ok(expected));
    let below = make(&mut cluster, dir.inode, "below", 0o755);
    let both = XattrKinds::ACCESS_ACL.with(XattrKinds::DEFAULT_ACL);
    assert_eq!((below.mode, below.xattrs), (0o754, both));
    assert_eq!(cluster.xattr(below.inode, DEFAULT), Ok(inherited));
    // A symlink takes nothing.
    let link = cluster
        .symlink(dir.inode, "s", b"to")
        .unwrap()
        .attr
        .unwrap();
    assert_eq!((link.mode, link.xattrs), (0o777, XattrKinds::NONE));
    // A default ACL that a mode could say changes the bits only.
    cluster.put_xattr(dir.inode, DEFAULT, &acl("u::rw-,g::r--,o::---"));
    let plain = make(&mut cluster, dir.inode, "plain", 0o777);
    assert_eq!((plain.mode, plain.xattrs), (0o640, XattrKinds::DEFAULT_ACL));
}

#[test]
fn what_was_broken_on_purpose_is_found() {
    let sound = || {
        let mut cluster = Cluster::new();
        let file = cluster.create(ROOT, "f").unwrap();
        cluster.put_xattr(file, "user.a", b"value");
        cluster.put_xattr(file, ACCESS, &acl("u::rw-,u:7:rwx,g::r-x,m::rw-,o::---"));
        (cluster.tables, file)
    };
    let problems = |tables: &MemoryTables| check::fsck(tables).unwrap().problems;
    let (tables, file) = sound();
    assert_eq!(problems(&tables), []);
    let edits: [fn(&mut MemoryTables, InodeId); 6] = [
        |tables, file| {
            let key = keys::xattr(file, &xattr("user.a"));
            tables.delete(Table::Xattrs, &key).unwrap();
        },
        |tables, file| {
            let key = keys::xattr(file, &xattr("user.a"));
            tables.put(Table::Xattrs, &key, b"other value").unwrap();
        },
        |tables, file| tables.delete(Table::Xattrs, &keys::inode(file)).unwrap(),
        |tables, file| {
            let mut record = inodes::find(tables, file).unwrap().unwrap();
            record.mode = 0o777;
            inodes::put(tables, file, &record).unwrap();
        },
        |tables, file| {
            let mut record = inodes::find(tables, file).unwrap().unwrap();
            record.xattrs = 0;
            inodes::put(tables, file, &record).unwrap();
        },
        |tables, _| {
            let key = keys::xattr(InodeId(77), &xattr("user.a"));
            tables.put(Table::Xattrs, &key, b"").unwrap();
        },
    ];
    for (which, edit) in edits.into_iter().enumerate() {
        let (mut tables, _) = sound();
        edit(&mut tables, file);
        let found = problems(&tables);
        let told = |p: &Problem| matches!(p, Problem::WrongXattrs { .. });
        assert!(found.iter().any(told), "edit {which}: {found:?}");
    }
    let (mut tables, file) = sound();
    let key = [&keys::inode(file)[..], b"no name"].concat();
    tables.put(Table::Xattrs, &key, b"").unwrap();
    assert!(matches!(
        problems(&tables)[..],
        [Problem::Unreadable { .. }]
    ));
}
