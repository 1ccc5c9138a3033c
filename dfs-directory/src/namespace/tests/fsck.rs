//! What was broken on purpose is found.

use super::*;
use crate::namespace::fsck::Problem;
use crate::namespace::records::{CountersRecord, EntryRecord, InodeRecord};
use crate::namespace::{inodes, keys};
use crate::state::record::{load_record, store_record};
use dfs_proto::ids::Generation;

struct Broken {
    tables: MemoryTables,
    dir: InodeId,
    file: InodeId,
    link: InodeId,
}

fn sound() -> Broken {
    let mut cluster = Cluster::new();
    let dir = cluster.mkdir(ROOT, "d").unwrap();
    let file = cluster.create(dir, "f").unwrap();
    let link = cluster
        .symlink(ROOT, "s", b"to")
        .unwrap()
        .attr
        .unwrap()
        .inode;
    Broken {
        tables: cluster.tables,
        dir,
        file,
        link,
    }
}

impl Broken {
    fn inode(&mut self, inode: InodeId, change: impl FnOnce(&mut InodeRecord)) {
        let mut record = inodes::find(&self.tables, inode).unwrap().unwrap();
        change(&mut record);
        inodes::put(&mut self.tables, inode, &record).unwrap();
    }

    fn problems(&self) -> Vec<Problem> {
        check::fsck(&self.tables).unwrap().problems
    }
}

#[test]
fn a_sound_cluster_has_no_problems() {
    let sound = sound();
    let report = check::fsck(&sound.tables).unwrap();
    assert!(report.is_clean());
    assert_eq!((report.inodes, report.entries), (4, 3));
}

#[test]
fn wrong_links() {
    let mut broken = sound();
    let file = broken.file;
    broken.inode(file, |record| record.links = 2);
    assert_eq!(
        broken.problems(),
        [Problem::WrongLinks {
            inode: file,
            recorded: 2,
            counted: 1
        }]
    );
    let mut broken = sound();
    broken.inode(ROOT, |record| record.links = 2);
    assert_eq!(broken.problems().len(), 1);
}

#[test]
fn a_dangling_name_and_its_counters() {
    let mut broken = sound();
    let key = keys::inode(broken.file);
    broken.tables.delete(Table::Inodes, &key).unwrap();
    let problems = broken.problems();
    assert!(problems.contains(&Problem::Dangling {
        parent: broken.dir,
        name: name("f"),
        inode: broken.file,
    }));
    assert!(problems.contains(&Problem::WrongCounters {
        recorded: 4,
        counted: 3
    }));
}

#[test]
fn a_lost_name() {
    let mut broken = sound();
    let key = keys::entry(broken.dir, b"f");
    broken.tables.delete(Table::Entries, &key).unwrap();
    let problems = broken.problems();
    assert!(problems.contains(&Problem::Unreachable { inode: broken.file }));
    assert!(problems.contains(&Problem::CookieMismatch {
        parent: broken.dir,
        cookie: 3
    }));
}

#[test]
fn a_name_at_another_place_than_it_says() {
    let mut broken = sound();
    let key = keys::entry(broken.dir, b"f");
    let entry: EntryRecord = load_record(&broken.tables, Table::Entries, &key)
        .unwrap()
        .unwrap();
    let moved = EntryRecord { cookie: 9, ..entry };
    store_record(&mut broken.tables, Table::Entries, &key, &moved).unwrap();
    let at = |cookie| Problem::CookieMismatch {
        parent: broken.dir,
        cookie,
    };
    assert_eq!(broken.problems(), [at(9), at(3)]);
}

#[test]
fn a_wrong_parent() {
    let mut broken = sound();
    let (dir, file) = (broken.dir, broken.file);
    broken.inode(dir, |record| record.parent = file.0);
    assert_eq!(
        broken.problems(),
        [Problem::WrongParent {
            inode: dir,
            recorded: file,
            named_by: ROOT
        }]
    );
}

#[test]
fn a_circle_of_dirs() {
    let mut broken = sound();
    let dir = broken.dir;
    let key = keys::entry(ROOT, b"d");
    let entry: EntryRecord = load_record(&broken.tables, Table::Entries, &key)
        .unwrap()
        .unwrap();
    broken.tables.delete(Table::Entries, &key).unwrap();
    let inside = EntryRecord { cookie: 4, ..entry };
    store_record(
        &mut broken.tables,
        Table::Entries,
        &keys::entry(dir, b"d"),
        &inside,
    )
    .unwrap();
    broken.inode(dir, |record| record.parent = dir.0);
    assert!(
        broken
            .problems()
            .contains(&Problem::Unreachable { inode: dir })
    );
}

#[test]
fn orphans_that_are_none_and_others() {
    let mut broken = sound();
    let file = broken.file;
    inodes::add_orphan(&mut broken.tables, file).unwrap();
    assert_eq!(broken.problems(), [Problem::FalseOrphan { inode: file }]);
    let mut broken = sound();
    let key = keys::entry(broken.dir, b"f");
    broken.tables.delete(Table::Entries, &key).unwrap();
    broken.inode(file, |record| record.links = 0);
    let problems = broken.problems();
    assert!(problems.contains(&Problem::UnlistedOrphan { inode: file }));
}

#[test]
fn targets_without_symlinks_and_symlinks_without_targets() {
    let mut broken = sound();
    let key = keys::inode(broken.link);
    broken.tables.delete(Table::Targets, &key).unwrap();
    let wrong = [Problem::WrongTarget { inode: broken.link }];
    assert_eq!(broken.problems(), wrong);
    let mut broken = sound();
    let stray = keys::inode(InodeId(77));
    broken.tables.put(Table::Targets, &stray, b"x").unwrap();
    let wrong = [Problem::WrongTarget { inode: InodeId(77) }];
    assert_eq!(broken.problems(), wrong);
}

#[test]
fn intents_of_no_cut() {
    let mut broken = sound();
    let mut cluster = Cluster::new();
    let file = cluster.create(ROOT, "f").unwrap();
    cluster.set_size(file, 5).unwrap();
    cluster.set_size(file, 1).unwrap();
    let key = keys::intent(file, Generation(1));
    let value = cluster.tables.get(Table::Intents, &key).unwrap().unwrap();
    let (inode, generation) = (broken.file, Generation(5));
    let stray = keys::intent(inode, generation);
    broken.tables.put(Table::Intents, &stray, &value).unwrap();
    assert_eq!(
        broken.problems(),
        [Problem::StrayIntent { inode, generation }]
    );
}

#[test]
fn a_number_that_will_be_given_again() {
    let mut broken = sound();
    let counters = CountersRecord {
        next_inode: 3,
        inodes: 4,
    };
    inodes::put_counters(&mut broken.tables, &counters).unwrap();
    assert_eq!(
        broken.problems(),
        [Problem::WrongCounters {
            recorded: 3,
            counted: 4
        }]
    );
}

#[test]
fn records_that_are_none() {
    let mut broken = sound();
    let key = keys::inode(broken.link);
    broken.tables.put(Table::Inodes, &key, &[9, 9]).unwrap();
    assert!(broken.problems().contains(&Problem::Unreadable {
        table: Table::Inodes,
        key: key.to_vec()
    }));
    let mut broken = sound();
    let file = broken.file;
    broken.inode(file, |record| record.layout.groups = 0);
    assert!(matches!(broken.problems()[..], [Problem::BadInode { .. }]));
}
