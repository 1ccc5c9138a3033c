use super::*;
use dfs_proto::ids::Generation;

fn cut_done(inode: InodeId, generation: u64) -> NamespaceCommand {
    NamespaceCommand::CutDone {
        inode,
        generation: Generation(generation),
    }
}

fn pending(cluster: &Cluster) -> Vec<(InodeId, u64, u64)> {
    read::intents(&cluster.tables, None, 100)
        .unwrap()
        .into_iter()
        .map(|i| (i.inode, i.generation.0, i.from))
        .collect()
}

#[test]
fn two_cuts_stay_two_and_keep_their_order() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    for size in [9000, 100, 8000, 4500] {
        cluster.set_size(file, size).unwrap();
    }
    assert_eq!(pending(&cluster), [(file, 1, 100), (file, 2, 4500)]);
    cluster.command(cut_done(file, 1)).unwrap();
    assert_eq!(pending(&cluster), [(file, 2, 4500)]);
    assert!(read::intent_pending(&cluster.tables, file, Generation(2)).unwrap());
    cluster.command(cut_done(file, 2)).unwrap();
    cluster.command(cut_done(file, 2)).unwrap();
    assert_eq!(pending(&cluster), []);
    assert_eq!(cluster.attr(file).generation, Generation(2));
}

#[test]
fn intents_come_in_pages() {
    let mut cluster = Cluster::new();
    for text in ["f", "g", "h"] {
        let file = cluster.create(ROOT, text).unwrap();
        for size in [10, 5, 1] {
            cluster.set_size(file, size).unwrap();
        }
    }
    let all = read::intents(&cluster.tables, None, 100).unwrap();
    assert_eq!(all.len(), 6);
    let mut paged = Vec::new();
    loop {
        let after = paged
            .last()
            .map(|i: &super::super::Intent| (i.inode, i.generation));
        let page = read::intents(&cluster.tables, after, 2).unwrap();
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, all);
    let second = all[2].inode;
    assert_eq!(
        read::intents_of(&cluster.tables, second).unwrap(),
        all[2..4]
    );
}

#[test]
fn freeing_an_orphan_takes_its_cuts_with_it() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    let free = NamespaceCommand::FreeOrphan { inode: file };
    assert_eq!(cluster.command(free.clone()), Err(ErrorCode::Busy));
    cluster.set_size(file, 100).unwrap();
    cluster.set_size(file, 10).unwrap();
    cluster.unlink(ROOT, "f").unwrap();
    let freed = cluster.command(free.clone()).unwrap();
    assert_eq!((freed.attr, freed.cut), (None, Some(Generation::FREED)));
    let intents = read::intents(&cluster.tables, None, 9).unwrap();
    assert_eq!(intents.len(), 1);
    assert!(intents[0].is_free());
    assert_eq!((intents[0].from, intents[0].extent), (0, None));
    assert_eq!(read::orphans(&cluster.tables, None, 9).unwrap(), []);
    assert_eq!(cluster.command(free).unwrap(), Changed::default());
    let done = NamespaceCommand::FreeDone { inode: file };
    cluster.command(done).unwrap();
    assert_eq!(pending(&cluster), []);
    assert_eq!(read::counts(&cluster.tables).unwrap().inodes, 1);
}

#[test]
fn a_free_reaches_everywhere_while_somebody_may_have_written_unseen() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    cluster.set_size(file, 700).unwrap();
    cluster.unlink(ROOT, "f").unwrap();
    cluster
        .command(NamespaceCommand::FreeOrphan { inode: file })
        .unwrap();
    let intents = read::intents(&cluster.tables, None, 9).unwrap();
    assert_eq!(intents[0].extent, None);
    let left = crate::session::read::interested_in(&cluster.tables, file).unwrap();
    assert_eq!(left, [], "interest goes with the inode");
}

#[test]
fn a_free_knows_the_extent_when_nobody_can_have_written_unseen() {
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    cluster.set_size(file, 700).unwrap();
    cluster.unlink(ROOT, "f").unwrap();
    let drop = SessionCommand::DropInterest {
        session: cluster.session,
        inodes: vec![file],
    };
    cluster.apply(Change::Session(drop));
    cluster
        .command(NamespaceCommand::FreeOrphan { inode: file })
        .unwrap();
    let intents = read::intents(&cluster.tables, None, 9).unwrap();
    assert_eq!(intents[0].extent, Some(700));
}

#[test]
fn orphans_come_in_pages() {
    let mut cluster = Cluster::new();
    let mut files = Vec::new();
    for text in ["f", "g", "h"] {
        files.push(cluster.create(ROOT, text).unwrap());
        cluster.unlink(ROOT, text).unwrap();
    }
    let first = read::orphans(&cluster.tables, None, 2).unwrap();
    assert_eq!(first, files[..2]);
    let rest = read::orphans(&cluster.tables, Some(files[1]), 2).unwrap();
    assert_eq!(rest, files[2..]);
}
