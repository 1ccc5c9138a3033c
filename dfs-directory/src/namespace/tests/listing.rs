use super::*;
use dfs_proto::attr::DirEntry;
use dfs_proto::msg::namespace::DirPageEntry;
use proptest::prelude::*;

fn page(cluster: &Cluster, dir: InodeId, cookie: u64, max: u32) -> (Vec<DirPageEntry>, bool) {
    let page = read::readdir(&cluster.tables, dir, cookie, max, true)
        .unwrap()
        .unwrap();
    (page.entries, page.end)
}

fn named(entries: &[DirPageEntry]) -> Vec<DirEntry> {
    entries
        .iter()
        .filter_map(|entry| match entry {
            DirPageEntry::Entry(entry) => Some(entry.clone()),
            _ => None,
        })
        .collect()
}

#[test]
fn dots_come_first() {
    let mut cluster = Cluster::new();
    let dir = cluster.mkdir(ROOT, "d").unwrap();
    let file = cluster.create(dir, "f").unwrap();
    let dots = [
        DirPageEntry::SelfDir { inode: dir },
        DirPageEntry::Parent { inode: ROOT },
    ];
    let (all, end) = page(&cluster, dir, 0, 100);
    assert_eq!((&all[..2], all.len(), end), (&dots[..], 3, true));
    let entry = &named(&all)[0];
    assert_eq!((entry.inode, entry.cookie), (file, 3));
    assert_eq!(entry.attr, Some(cluster.attr(file)));
    let (one, end) = page(&cluster, dir, 0, 1);
    assert_eq!((&one[..], end), (&dots[..1], false));
    let (two, end) = page(&cluster, dir, 1, 1);
    assert_eq!((&two[..], end), (&dots[1..], false));
    let (three, end) = page(&cluster, dir, 2, 1);
    assert_eq!((named(&three).len(), end), (1, true));
    assert_eq!(page(&cluster, dir, 3, 1), (vec![], true));
    assert_eq!(page(&cluster, dir, u64::MAX, 1), (vec![], true));
    let no_dir = read::readdir(&cluster.tables, file, 0, 1, false).unwrap();
    assert_eq!(no_dir, Err(ErrorCode::NotADir));
}

#[test]
fn a_replaced_name_keeps_its_place() {
    let mut cluster = Cluster::new();
    cluster.create(ROOT, "first").unwrap();
    cluster.create(ROOT, "last").unwrap();
    let place = named(&page(&cluster, ROOT, 0, 9).0)[0].cookie;
    cluster.create(ROOT, "new").unwrap();
    cluster.rename((ROOT, "new"), (ROOT, "first")).unwrap();
    let listing = named(&page(&cluster, ROOT, 0, 9).0);
    assert_eq!(listing.len(), 2);
    assert_eq!(
        (&listing[0].name, listing[0].cookie),
        (&name("first"), place)
    );
}

#[test]
fn names_of_any_bytes_are_listed() {
    let mut cluster = Cluster::new();
    let long = FileName::new(&[0xff; 255]).unwrap();
    let made = cluster.mutate(Mutation::MakeDir {
        parent: ROOT,
        name: long.clone(),
        mode: 0o700,
        creator: ALICE,
    });
    made.unwrap();
    assert_eq!(named(&page(&cluster, ROOT, 0, 9).0)[0].name, long);
}

proptest! {
    /// What stays during a listing is seen exactly once, whatever else comes and goes.
    #[test]
    fn a_listing_goes_on_while_entries_come_and_go(
        churn in proptest::collection::vec((any::<bool>(), 0u32..12), 0..40),
        page_size in 1u32..6,
    ) {
        let mut cluster = Cluster::new();
        let stays: Vec<String> = (0..8).map(|i| format!("stays{i}")).collect();
        for text in &stays {
            cluster.create(ROOT, text).unwrap();
            cluster.create(ROOT, &format!("goes{text}")).unwrap();
        }
        let mut churn = churn.into_iter();
        let (mut cookie, mut seen) = (0, Vec::new());
        loop {
            let (entries, end) = page(&cluster, ROOT, cookie, page_size);
            for entry in &entries {
                cookie = match entry {
                    DirPageEntry::SelfDir { .. } => 1,
                    DirPageEntry::Parent { .. } => 2,
                    DirPageEntry::Entry(entry) => {
                        prop_assert!(entry.cookie > cookie && entry.cookie < 1 << 63);
                        seen.push(entry.name.clone());
                        entry.cookie
                    }
                };
            }
            if end {
                break;
            }
            for (add, number) in churn.by_ref().take(3) {
                let text = format!("x{number}");
                if add {
                    let _ = cluster.create(ROOT, &text);
                } else {
                    let _ = cluster.unlink(ROOT, &text);
                    let _ = cluster.unlink(ROOT, &format!("goesstays{number}"));
                }
            }
        }
        for text in &stays {
            let times = seen.iter().filter(|n| **n == name(text)).count();
            prop_assert_eq!(times, 1, "{}", text);
        }
    }
}
