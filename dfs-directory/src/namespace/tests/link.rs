use super::*;
use crate::namespace::{inodes, keys};
use crate::state::record::store_record;
use dfs_proto::limits::LINKS_MAX;

#[test]
fn a_link_is_a_second_name() {
    let mut cluster = Cluster::new();
    let dir = cluster.mkdir(ROOT, "d").unwrap();
    let file = cluster.create(ROOT, "f").unwrap();
    let made = cluster.now();
    let linked = cluster.link(file, dir, "g").unwrap().attr.unwrap();
    let now = cluster.now();
    assert_eq!((linked.inode, linked.links), (file, 2));
    assert_eq!((linked.changed, linked.modified), (now, made));
    let dir_attr = cluster.attr(dir);
    assert_eq!((dir_attr.modified, dir_attr.changed), (now, now));
    assert_eq!(cluster.lookup(dir, "g"), Ok(file));
}

#[test]
fn what_can_not_be_linked() {
    let mut cluster = Cluster::new();
    let dir = cluster.mkdir(ROOT, "d").unwrap();
    let file = cluster.create(ROOT, "f").unwrap();
    let gone = cluster.create(ROOT, "g").unwrap();
    cluster.unlink(ROOT, "g").unwrap();
    for (inode, text, code) in [
        (dir, "x", ErrorCode::NotPermitted),
        (file, "f", ErrorCode::Exists),
        (file, "d", ErrorCode::Exists),
        (gone, "x", ErrorCode::NotFound),
        (InodeId(99), "x", ErrorCode::Stale),
    ] {
        assert_eq!(cluster.link(inode, ROOT, text), Err(code), "{text}");
    }
}

#[test]
fn links_have_a_limit() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    // 65,000 real links would be slow; the record is what the operation looks at.
    let mut record = inodes::find(&cluster.tables, file).unwrap().unwrap();
    record.links = LINKS_MAX;
    let mut tables = cluster.tables.clone();
    store_record(&mut tables, Table::Inodes, &keys::inode(file), &record).unwrap();
    let command = NamespaceCommand::Mutate {
        stamp: cluster.stamp(),
        mutation: Mutation::Link {
            inode: file,
            parent: ROOT,
            name: name("g"),
        },
    };
    let outcome = crate::namespace::apply(&mut tables, at(9), &command).unwrap();
    assert_eq!(outcome.0, Err(ErrorCode::TooManyLinks));
}

#[test]
fn the_last_unlink_makes_an_orphan() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    cluster.link(file, ROOT, "g").unwrap();
    let first = cluster.unlink(ROOT, "f").unwrap();
    let now = cluster.now();
    assert_eq!(first.orphaned, None);
    let attr = first.attr.unwrap();
    assert_eq!((attr.links, attr.changed), (1, now));
    let root = cluster.attr(ROOT);
    assert_eq!((root.modified, root.changed), (now, now));
    assert_eq!(read::orphans(&cluster.tables, None, 9).unwrap(), []);
    let last = cluster.unlink(ROOT, "g").unwrap();
    assert_eq!(last.orphaned, Some(file));
    assert_eq!(last.attr.unwrap().links, 0);
    assert_eq!(read::orphans(&cluster.tables, None, 9).unwrap(), [file]);
    assert!(read::is_orphan(&cluster.tables, file).unwrap());
    assert_eq!(cluster.attr(file).links, 0, "open handles still see it");
}

#[test]
fn what_can_not_be_unlinked() {
    let mut cluster = Cluster::new();
    cluster.mkdir(ROOT, "d").unwrap();
    assert_eq!(cluster.unlink(ROOT, "d"), Err(ErrorCode::IsADir));
    assert_eq!(cluster.unlink(ROOT, "x"), Err(ErrorCode::NotFound));
}
