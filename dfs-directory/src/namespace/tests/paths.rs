use super::*;
use crate::namespace::paths;
use std::collections::BTreeSet;

#[test]
fn paths_lead_to_inodes_and_back() {
    let mut cluster = Cluster::new();
    let a = cluster.mkdir(ROOT, "a").unwrap();
    let b = cluster.mkdir(a, "b").unwrap();
    let file = cluster.create(b, "file").unwrap();
    let top = cluster.create(ROOT, "top").unwrap();
    let at = |path: &str| {
        let found = paths::find(&cluster.tables, path).unwrap();
        found.map(|attr| attr.inode)
    };
    assert_eq!(at("/a/b/file"), Ok(file));
    assert_eq!(at("a//./b/file"), Ok(file));
    assert_eq!(at("/"), Ok(ROOT));
    assert_eq!(at("/a/c"), Err(ErrorCode::NotFound));
    assert_eq!(at("/top/x"), Err(ErrorCode::NotADir));
    let wanted = BTreeSet::from([file, top, b, InodeId(999)]);
    let named = paths::name(&cluster.tables, &wanted).unwrap();
    assert_eq!(named[&file], "/a/b/file");
    assert_eq!(named[&top], "/top");
    assert_eq!(named[&b], "/a/b");
    assert_eq!(named.len(), 3);
}
