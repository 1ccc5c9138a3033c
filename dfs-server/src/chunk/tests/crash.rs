//! A process that ends between two steps of an operation: with a witness, so that the next start
//! knows that it was killed and looks at what the witness doubts, and without, so that it looks at
//! everything.

use super::super::disk::Step;
use super::*;
use dfs_proto::cluster::{Equalise, GroupConfig};

const STEPS: [Step; 5] = [
    Step::Created,
    Step::Marked,
    Step::SlotWritten,
    Step::HalfWritten,
    Step::Written,
];

/// A data dir, and with a witness the dir of that.
struct Place {
    dir: tempfile::TempDir,
    memory: Option<tempfile::TempDir>,
}

impl Place {
    fn new(watched: bool) -> Self {
        Self {
            dir: scratch(),
            memory: watched.then(scratch),
        }
    }

    fn open(&self) -> (ChunkStore, Opened) {
        let options = OpenOptions {
            open_files_max: 4,
            reserve: Some(0),
            accept_copy: true,
            witness_dir: self.memory.as_ref().map(|dir| dir.path().to_owned()),
            ..OpenOptions::default()
        };
        let (store, opened) = ChunkStore::open(self.dir.path(), options).expect("the dir opens");
        store.watch().expect("it is watched");
        if self.memory.is_some() {
            store.disk.faults.kill();
        }
        (store, opened)
    }

    /// After an interruption that leaves no chunk torn: a watched store proves that nothing is
    /// missing.
    fn open_whole(&self) -> ChunkStore {
        let (store, opened) = self.open();
        assert_eq!(opened.intact, self.memory.is_some());
        store
    }
}

/// What is there before the write that is interrupted.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Before {
    Hole,
    Appended,
    Synced,
    SyncedAndOverwritten,
}

/// Writes, interrupts the last write at a step, and reopens; `None` if the step is not reached.
fn interrupted(
    watched: bool,
    before: Before,
    step: Step,
    offset: u32,
) -> Option<(Place, ChunkStore)> {
    let place = Place::new(watched);
    let (store, _) = place.open();
    // One that nothing doubts, and that nobody looks at.
    write_at(&store, key(1, 1), 0, 1, 0, b"beside").expect("writes");
    store.sync(&[key(1, 1)]).expect("syncs");
    let at = key(1, 0);
    if before != Before::Hole {
        write_at(&store, at, 0, 1, 0, &bytes(1, 50_000)).expect("writes");
    }
    if matches!(before, Before::Synced | Before::SyncedAndOverwritten) {
        store.sync(&[at]).expect("syncs");
    }
    if before == Before::SyncedAndOverwritten {
        write_at(&store, at, 0, 2, 8192, &bytes(2, 8192)).expect("writes");
    }
    store.disk.faults.plan(step, 0);
    let result = write_at(&store, at, 0, 3, offset, &bytes(3, 20_000));
    if result.is_ok() {
        return None;
    }
    assert!(store.failure().is_some());
    assert!(
        write_at(&store, at, 0, 4, 0, b"after").is_err(),
        "a store that failed accepts nothing"
    );
    drop(store);
    let (store, opened) = place.open();
    assert!(!opened.clean);
    let torn = store.damage(at).is_some();
    assert_eq!(opened.intact, watched && !torn, "{before:?} {step:?}");
    check(&store, before, step, offset);
    assert_eq!(content(&store, key(1, 1)), Ok(b"beside".to_vec()));
    Some((place, store))
}

/// What has to be there after the interruption.
fn check(store: &ChunkStore, before: Before, step: Step, offset: u32) {
    let at = key(1, 0);
    let mut old = match before {
        Before::Hole => Vec::new(),
        _ => bytes(1, 50_000).to_vec(),
    };
    if before == Before::SyncedAndOverwritten {
        old[8192..16_384].copy_from_slice(&bytes(2, 8192));
    }
    let mut new = old.clone();
    let end = offset as usize + 20_000;
    if new.len() < end {
        new.resize(end, 0);
    }
    new[offset as usize..end].copy_from_slice(&bytes(3, 20_000));

    let overwrites = (offset as usize) < old.len();
    if step == Step::HalfWritten && overwrites {
        assert_eq!(store.damage(at), Some(Damage::Torn), "{before:?} {offset}");
        assert!(store.state(at).expect("is there").damaged);
        assert!(matches!(content(store, at), Err(StoreError::Rotten { .. })));
        assert!(write_at(store, at, 0, 9, 0, b"x").is_err());
        let adopted = store.adopt_torn(at, version(4)).expect("adopts");
        let record = store.record(at, SessionId(7)).expect("reads");
        let known = record.map(|record| record.version);
        assert!(known < Some(version(3)), "{known:?}: a repeat is answered");
        assert_eq!((adopted.version, adopted.damaged), (version(4), false));
        let read = content(store, at).expect("reads");
        let mixed =
            |at: usize| read[at] == old.get(at).copied().unwrap_or(0) || read[at] == new[at];
        assert!((0..read.len()).all(mixed));
        assert!(store.adopt_torn(at, version(5)).is_err(), "no longer torn");
        return;
    }
    let read = content(store, at).expect("reads");
    if step == Step::Written {
        assert_eq!(read, new, "{before:?} {offset}");
    } else {
        assert_eq!(read, old, "{before:?} {step:?} {offset}");
    }
    let state = store.state(at);
    let counter = state.map_or(0, |state| state.version.counter);
    assert_eq!(counter == 3, step == Step::Written);
    // And it goes on from there.
    write_at(store, at, 0, 10, 0, b"on").expect("writes");
    store.sync(&[at]).expect("syncs");
}

#[test]
fn a_write_is_there_or_not_wherever_it_is_interrupted() {
    let befores = [
        Before::Hole,
        Before::Appended,
        Before::Synced,
        Before::SyncedAndOverwritten,
    ];
    for watched in [false, true] {
        let mut reached = Vec::new();
        for (before, step) in befores.iter().flat_map(|b| STEPS.map(|step| (*b, step))) {
            for offset in [0, 4096, 10_001, 53_248, 60_000] {
                if let Some((place, store)) = interrupted(watched, before, step, offset) {
                    reached.push(step);
                    // Nothing gets worse by another restart.
                    let state = store.state(key(1, 0));
                    drop(store);
                    assert_eq!(place.open_whole().state(key(1, 0)), state);
                }
            }
        }
        for step in STEPS {
            assert!(reached.contains(&step), "{step:?} was never reached");
        }
    }
}

#[test]
fn an_interrupted_installation_leaves_what_was_there() {
    let dir = scratch();
    let (store, _) = open(dir.path());
    let at = key(1, 0);
    write_at(&store, at, 0, 1, 0, b"before").expect("writes");
    let image = Image {
        generation: Generation(0),
        version: version(5),
        len: 5,
        records: Vec::new(),
    };
    store.disk.faults.plan(Step::ImageSynced, 0);
    let part = InstallPart {
        key: at,
        group: group_of(at),
        image: &image,
        offset: 0,
        data: b"after",
        checksums: &block_checksums(0, b"after"),
        holes: &[],
        last: true,
    };
    store.install(&part).expect_err("interrupted");
    drop(store);
    let (store, _) = open(dir.path());
    assert_eq!(content(&store, at), Ok(b"before".to_vec()));
    let left = std::fs::read_dir(dir.path().join("install")).expect("lists");
    assert_eq!(left.count(), 0);
    store.install(&part).expect("installs");
    assert_eq!(content(&store, at), Ok(b"after".to_vec()));
}

#[test]
fn an_installation_that_nobody_goes_on_with_leaves_nothing() {
    let dir = scratch();
    let (store, _) = open(dir.path());
    let at = key(1, 0);
    let data = bytes(1, 8192);
    let image = Image {
        generation: Generation(0),
        version: version(5),
        len: 8192,
        records: Vec::new(),
    };
    let part = |offset: usize| {
        let data = &data[offset..offset + 4096];
        store.install(&InstallPart {
            key: at,
            group: group_of(at),
            image: &image,
            offset: offset as u32,
            data,
            checksums: &block_checksums(offset as u32, data),
            holes: &[],
            last: offset > 0,
        })
    };
    let left = || {
        let left = std::fs::read_dir(dir.path().join("install")).expect("lists");
        left.count()
    };
    let config = |epoch| GroupConfig {
        group: group_of(at),
        epoch: Epoch(epoch),
        primary: None,
        members: Vec::new(),
        min_in_sync: 1,
        equalise: Equalise::Marked,
    };
    let groups = [group_of(at)];
    let breaks: [&dyn Fn(); 3] = [
        &|| store.put_epochs(&[config(7)]).expect("adopts"),
        &|| {
            let cut = store.cut(InodeId(1), Generation(1), 0..u64::MAX, LAYOUT, &groups);
            cut.expect("cuts");
        },
        &|| assert_eq!(store.release(group_of(at)).expect("releases"), (0, true)),
    ];
    for end in breaks {
        part(0).expect("begins");
        assert_eq!(left(), 1);
        end();
        assert_eq!(left(), 0);
        assert!(matches!(part(4096), Err(StoreError::Invalid(_))));
        part(0).expect("begins again");
        part(4096).expect("is whole");
        assert_eq!(left(), 0);
        store.remove(at).expect("removes");
    }
}

#[test]
fn an_interrupted_cut_is_made_again_and_no_file_comes_back() {
    for (watched, step, synced) in [
        (false, Step::BoundaryCut, true),
        (false, Step::RowsRemoved, true),
        (false, Step::RowsRemoved, false),
        (true, Step::BoundaryCut, true),
        (true, Step::BoundaryCut, false),
        (true, Step::RowsRemoved, true),
        (true, Step::RowsRemoved, false),
    ] {
        let place = Place::new(watched);
        let dir = &place.dir;
        let (store, _) = place.open();
        let groups = [GroupId(0), GroupId(1), GroupId(2)];
        for index in 0..3 {
            let at = key(1, index);
            write_at(&store, at, 0, 1 + index, 0, &bytes(index, 30_000)).expect("writes");
            if synced {
                store.sync(&[at]).expect("syncs");
            }
        }
        store.disk.faults.plan(step, 0);
        let cut = |store: &ChunkStore| {
            store.cut(InodeId(1), Generation(1), 5000..u64::MAX, LAYOUT, &groups)
        };
        cut(&store).expect_err("interrupted");
        drop(store);
        let store = place.open_whole();
        if step == Step::RowsRemoved {
            // The floor is durable: the files that are still there are removed.
            assert_eq!(store.state(key(1, 2)), None);
            assert!(!file_of(dir.path(), key(1, 2)).exists());
        }
        cut(&store).expect("is made again");
        for index in 1..3 {
            assert_eq!(store.state(key(1, index)), None, "{step:?}");
            assert!(!file_of(dir.path(), key(1, index)).exists());
        }
        assert_eq!(content(&store, key(1, 0)).map(|c| c.len()), Ok(5000));
        assert_eq!(store.floor(GroupId(0), InodeId(1)), Some(Generation(1)));
    }
}

#[test]
fn an_interrupted_hole_is_there_or_not_and_is_made_again() {
    let steps = [
        Step::Marked,
        Step::SlotWritten,
        Step::HalfWritten,
        Step::Written,
        Step::BoundaryCut,
    ];
    for (watched, step) in [false, true].iter().flat_map(|w| steps.map(|s| (*w, s))) {
        let place = Place::new(watched);
        let (store, _) = place.open();
        let at = key(1, 0);
        let before = bytes(1, 50_000);
        write_at(&store, at, 0, 1, 0, &before).expect("writes");
        store.sync(&[at]).expect("syncs");
        store.disk.faults.plan(step, 0);
        let punch = |store: &ChunkStore| {
            let groups = [GroupId(0), GroupId(1), GroupId(2)];
            store.cut(InodeId(1), Generation(1), 5000..40_000, LAYOUT, &groups)
        };
        punch(&store).expect_err("interrupted");
        drop(store);
        let mut punched = before.to_vec();
        punched[5000..40_000].fill(0);
        let (store, opened) = place.open();
        let torn = store.damage(at).is_some();
        assert_eq!(opened.intact, watched && !torn, "{step:?}");
        let found = content(&store, at);
        assert!(
            found == Ok(before.to_vec())
                || found == Ok(punched.clone())
                || store.damage(at).is_some(),
            "{step:?}"
        );
        if store.damage(at).is_none() {
            punch(&store).expect("is made again");
            assert_eq!(content(&store, at), Ok(punched), "{step:?}");
        }
    }
}

#[test]
fn files_that_are_synced_before_the_index_are_taken_up() {
    let dir = scratch();
    let (store, _) = open(dir.path());
    write_at(&store, key(1, 0), 0, 1, 0, b"data").expect("writes");
    store.disk.faults.plan(Step::FilesSynced, 0);
    store.sync(&[key(1, 0)]).expect_err("interrupted");
    drop(store);
    let (store, _) = open(dir.path());
    assert_eq!(content(&store, key(1, 0)), Ok(b"data".to_vec()));
    store.sync(&[key(1, 0)]).expect("syncs");
    drop(store);
    std::fs::remove_file(file_of(dir.path(), key(1, 0))).expect("removes");
    let (store, _) = open(dir.path());
    assert_eq!(store.damage(key(1, 0)), Some(Damage::Missing));
}

#[test]
fn a_failed_sync_is_never_retried_as_a_success() {
    let dir = scratch();
    let (store, _) = open(dir.path());
    let at = key(1, 0);
    write_at(&store, at, 0, 1, 0, b"data").expect("writes");
    store.disk.faults.plan(Step::Syncing, 0);
    assert!(matches!(store.sync(&[at]), Err(StoreError::Failed(_))));
    assert!(matches!(store.sync(&[at]), Err(StoreError::Failed(_))));
    assert!(matches!(
        store.sync_group(group_of(at)),
        Err(StoreError::Failed(_))
    ));
    assert!(matches!(
        store.put_note("a", b"b"),
        Err(StoreError::Failed(_))
    ));
    assert!(matches!(store.close_clean(), Err(StoreError::Failed(_))));
    assert!(store.failure().is_some());
    content(&store, at).expect("reading goes on");
    drop(store);
    assert!(!open(dir.path()).1.clean);
}
