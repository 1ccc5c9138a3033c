use super::*;
use dfs_proto::attr::FileKind;

#[test]
fn dirs_count_their_dirs() {
    let mut cluster = Cluster::new();
    let dir = cluster.mkdir(ROOT, "d").unwrap();
    let now = cluster.now();
    let (root, made) = (cluster.attr(ROOT), cluster.attr(dir));
    assert_eq!(
        (made.kind, made.links, made.mode),
        (FileKind::Dir, 2, 0o755)
    );
    assert_eq!((root.links, root.modified, root.changed), (3, now, now));
    cluster.create(dir, "f").unwrap();
    assert_eq!(cluster.attr(dir).links, 2, "a file is no dir");
    cluster.mkdir(dir, "b").unwrap();
    assert_eq!(cluster.attr(dir).links, 3);
    assert_eq!(cluster.attr(ROOT).links, 3);
    assert_eq!(cluster.mkdir(ROOT, "d"), Err(ErrorCode::Exists));
}

#[test]
fn the_parent_of_a_dir() {
    let mut cluster = Cluster::new();
    let dir = cluster.mkdir(ROOT, "d").unwrap();
    let below = cluster.mkdir(dir, "b").unwrap();
    let parent = |inode| read::lookup(&cluster.tables, inode, None).unwrap();
    assert_eq!(parent(below).map(|a| a.inode), Ok(dir));
    assert_eq!(parent(dir).map(|a| a.inode), Ok(ROOT));
    assert_eq!(parent(ROOT).map(|a| a.inode), Ok(ROOT));
}

#[test]
fn only_empty_dirs_are_removed() {
    let mut cluster = Cluster::new();
    let dir = cluster.mkdir(ROOT, "d").unwrap();
    cluster.create(dir, "f").unwrap();
    assert_eq!(cluster.rmdir(ROOT, "d"), Err(ErrorCode::NotEmpty));
    assert_eq!(cluster.rmdir(dir, "f"), Err(ErrorCode::NotADir));
    assert_eq!(cluster.rmdir(ROOT, "x"), Err(ErrorCode::NotFound));
    cluster.unlink(dir, "f").unwrap();
    let removed = cluster.rmdir(ROOT, "d").unwrap();
    let now = cluster.now();
    assert_eq!(removed.orphaned, Some(dir));
    let attr = removed.attr.unwrap();
    assert_eq!((attr.inode, attr.links, attr.changed), (dir, 0, now));
    let root = cluster.attr(ROOT);
    assert_eq!((root.links, root.modified, root.changed), (2, now, now));
    assert_eq!(cluster.lookup(ROOT, "d"), Err(ErrorCode::NotFound));
}

#[test]
fn a_removed_dir_shows_nothing_and_takes_nothing() {
    let mut cluster = Cluster::new();
    let dir = cluster.mkdir(ROOT, "d").unwrap();
    cluster.rmdir(ROOT, "d").unwrap();
    assert_eq!(cluster.create(dir, "f"), Err(ErrorCode::NotFound));
    let listing = read::readdir(&cluster.tables, dir, 0, 10, false).unwrap();
    assert_eq!(listing, Err(ErrorCode::NotFound));
    let free = NamespaceCommand::FreeOrphan { inode: dir };
    assert_eq!(
        cluster.command(free).unwrap().cut,
        None,
        "a dir has no data"
    );
    let attr = read::attr(&cluster.tables, dir).unwrap();
    assert_eq!(attr, Err(ErrorCode::Stale));
}
