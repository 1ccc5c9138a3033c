use super::*;

const EXCHANGE: RenameFlags = RenameFlags {
    no_replace: false,
    exchange: true,
};
const NO_REPLACE: RenameFlags = RenameFlags {
    no_replace: true,
    exchange: false,
};

#[test]
fn to_a_free_name() {
    let mut cluster = Cluster::new();
    let (a, b) = (
        cluster.mkdir(ROOT, "a").unwrap(),
        cluster.mkdir(ROOT, "b").unwrap(),
    );
    let file = cluster.create(a, "f").unwrap();
    let made = cluster.now();
    let moved = cluster.rename((a, "f"), (b, "g")).unwrap();
    let now = cluster.now();
    let attr = moved.attr.unwrap();
    assert_eq!((attr.inode, attr.changed, attr.modified), (file, now, made));
    assert_eq!((moved.replaced, moved.orphaned), (None, None));
    assert_eq!(cluster.lookup(a, "f"), Err(ErrorCode::NotFound));
    assert_eq!(cluster.lookup(b, "g"), Ok(file));
    for dir in [a, b] {
        let attr = cluster.attr(dir);
        assert_eq!((attr.modified, attr.changed, attr.links), (now, now, 2));
    }
}

#[test]
fn a_dir_takes_its_link_along() {
    let mut cluster = Cluster::new();
    let (a, b) = (
        cluster.mkdir(ROOT, "a").unwrap(),
        cluster.mkdir(ROOT, "b").unwrap(),
    );
    let dir = cluster.mkdir(a, "d").unwrap();
    assert_eq!((cluster.attr(a).links, cluster.attr(b).links), (3, 2));
    cluster.rename((a, "d"), (b, "d")).unwrap();
    assert_eq!((cluster.attr(a).links, cluster.attr(b).links), (2, 3));
    let parent = read::lookup(&cluster.tables, dir, None).unwrap().unwrap();
    assert_eq!(parent.inode, b);
    cluster.rename((b, "d"), (b, "e")).unwrap();
    assert_eq!(cluster.attr(b).links, 3);
}

#[test]
fn over_a_file() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    let old = cluster.create(ROOT, "g").unwrap();
    cluster.link(old, ROOT, "h").unwrap();
    let first = cluster.rename((ROOT, "f"), (ROOT, "g")).unwrap();
    assert_eq!((first.replaced, first.orphaned), (Some(old), None));
    let attr = cluster.attr(old);
    assert_eq!((attr.links, attr.changed), (1, cluster.now()));
    let last = cluster.rename((ROOT, "g"), (ROOT, "h")).unwrap();
    assert_eq!((last.replaced, last.orphaned), (Some(old), Some(old)));
    assert_eq!(cluster.lookup(ROOT, "h"), Ok(file));
    assert_eq!(cluster.lookup(ROOT, "g"), Err(ErrorCode::NotFound));
}

#[test]
fn over_a_dir() {
    let mut cluster = Cluster::new();
    let dir = cluster.mkdir(ROOT, "d").unwrap();
    let old = cluster.mkdir(ROOT, "e").unwrap();
    cluster.create(old, "f").unwrap();
    let full = cluster.rename((ROOT, "d"), (ROOT, "e"));
    assert_eq!(full, Err(ErrorCode::NotEmpty));
    cluster.unlink(old, "f").unwrap();
    let done = cluster.rename((ROOT, "d"), (ROOT, "e")).unwrap();
    assert_eq!((done.replaced, done.orphaned), (Some(old), Some(old)));
    assert_eq!(cluster.lookup(ROOT, "e"), Ok(dir));
    let attr = cluster.attr(old);
    assert_eq!((attr.links, attr.changed), (0, cluster.now()));
    assert_eq!(cluster.attr(ROOT).links, 3);
}

#[test]
fn over_another_type() {
    let mut cluster = Cluster::new();
    cluster.mkdir(ROOT, "d").unwrap();
    cluster.create(ROOT, "f").unwrap();
    let dir_over_file = cluster.rename((ROOT, "d"), (ROOT, "f"));
    assert_eq!(dir_over_file, Err(ErrorCode::NotADir));
    let file_over_dir = cluster.rename((ROOT, "f"), (ROOT, "d"));
    assert_eq!(file_over_dir, Err(ErrorCode::IsADir));
}

#[test]
fn two_names_of_one_file_both_stay() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    cluster.link(file, ROOT, "g").unwrap();
    let before = cluster.contents();
    let done = cluster.rename((ROOT, "f"), (ROOT, "g")).unwrap();
    assert_eq!((done.replaced, done.orphaned), (None, None));
    cluster.rename((ROOT, "f"), (ROOT, "f")).unwrap();
    assert_eq!(cluster.contents(), before);
    let refused = cluster.rename_with((ROOT, "f"), (ROOT, "f"), NO_REPLACE);
    assert_eq!(refused, Err(ErrorCode::Exists));
}

#[test]
fn into_itself() {
    let mut cluster = Cluster::new();
    let a = cluster.mkdir(ROOT, "a").unwrap();
    let b = cluster.mkdir(a, "b").unwrap();
    cluster.mkdir(b, "c").unwrap();
    for place in [(a, "x"), (b, "x"), (a, "b")] {
        let refused = cluster.rename((ROOT, "a"), place);
        assert_eq!(refused, Err(ErrorCode::InvalidArgument), "{place:?}");
    }
    let onto_ancestor = cluster.rename((b, "c"), (ROOT, "a"));
    assert_eq!(onto_ancestor, Err(ErrorCode::NotEmpty));
    let exchanged = cluster.rename_with((b, "c"), (ROOT, "a"), EXCHANGE);
    assert_eq!(exchanged, Err(ErrorCode::InvalidArgument));
    let exchanged = cluster.rename_with((ROOT, "a"), (b, "c"), EXCHANGE);
    assert_eq!(exchanged, Err(ErrorCode::InvalidArgument));
}

#[test]
fn names_that_must_or_must_not_be_there() {
    let mut cluster = Cluster::new();
    cluster.create(ROOT, "f").unwrap();
    cluster.create(ROOT, "g").unwrap();
    let missing = cluster.rename((ROOT, "x"), (ROOT, "y"));
    assert_eq!(missing, Err(ErrorCode::NotFound));
    let taken = cluster.rename_with((ROOT, "f"), (ROOT, "g"), NO_REPLACE);
    assert_eq!(taken, Err(ErrorCode::Exists));
    cluster
        .rename_with((ROOT, "f"), (ROOT, "h"), NO_REPLACE)
        .unwrap();
    let alone = cluster.rename_with((ROOT, "h"), (ROOT, "x"), EXCHANGE);
    assert_eq!(alone, Err(ErrorCode::NotFound));
    let both = RenameFlags {
        no_replace: true,
        exchange: true,
    };
    let refused = cluster.rename_with((ROOT, "g"), (ROOT, "h"), both);
    assert_eq!(refused, Err(ErrorCode::InvalidArgument));
}

#[test]
fn an_exchange_swaps_what_two_names_lead_to() {
    let mut cluster = Cluster::new();
    let (a, b) = (
        cluster.mkdir(ROOT, "a").unwrap(),
        cluster.mkdir(ROOT, "b").unwrap(),
    );
    let file = cluster.create(a, "f").unwrap();
    let dir = cluster.mkdir(b, "d").unwrap();
    cluster.create(dir, "inside").unwrap();
    let done = cluster.rename_with((a, "f"), (b, "d"), EXCHANGE).unwrap();
    let now = cluster.now();
    assert_eq!((done.replaced, done.orphaned), (Some(dir), None));
    assert_eq!(cluster.lookup(a, "f"), Ok(dir));
    assert_eq!(cluster.lookup(b, "d"), Ok(file));
    assert_eq!((cluster.attr(a).links, cluster.attr(b).links), (3, 2));
    for inode in [a, b, file, dir] {
        assert_eq!(cluster.attr(inode).changed, now);
    }
    let parent = read::lookup(&cluster.tables, dir, None).unwrap().unwrap();
    assert_eq!(parent.inode, a);
}
