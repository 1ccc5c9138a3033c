//! The process is killed and the machine is not: everything is there, and that is proven, or it
//! counts as a loss of power.

use super::*;

/// A store that was dropped as it is: what a kill leaves.
fn open_watched(dir: &Path, memory: &Path) -> (ChunkStore, Opened) {
    let options = OpenOptions {
        open_files_max: 4,
        reserve: Some(0),
        witness_dir: Some(memory.to_owned()),
        ..OpenOptions::default()
    };
    let (store, opened) = ChunkStore::open(dir, options).expect("the dir opens");
    store.watch().expect("it is watched");
    (store, opened)
}

/// Three chunks: 0 synced and overwritten since, 1 synced, 2 never synced.
fn killed() -> (tempfile::TempDir, tempfile::TempDir) {
    let (dir, memory) = (scratch(), scratch());
    let (store, opened) = open_watched(dir.path(), memory.path());
    assert!(opened.clean && opened.intact);
    for n in 0..3 {
        write_at(&store, key(1, n), 0, 1, 0, &bytes(n, 50_000)).expect("writes");
        if n < 2 {
            store.sync(&[key(1, n)]).expect("syncs");
        }
    }
    write_at(&store, key(1, 0), 0, 2, 8192, &bytes(9, 4096)).expect("writes");
    (dir, memory)
}

fn is_intact(dir: &Path, memory: &Path) -> bool {
    let (_, opened) = open_watched(dir, memory);
    assert!(!opened.clean);
    opened.intact
}

#[test]
fn a_kill_loses_nothing_as_often_as_it_happens() {
    let (dir, memory) = killed();
    assert!(is_intact(dir.path(), memory.path()));
    assert!(is_intact(dir.path(), memory.path()));
    let (store, opened) = open_watched(dir.path(), memory.path());
    assert!(opened.intact);
    let mut expected = bytes(0, 50_000).to_vec();
    expected[8192..12288].copy_from_slice(&bytes(9, 4096));
    assert_eq!(content(&store, key(1, 0)).expect("reads"), expected);
    store.close_clean().expect("closes");
    drop(store);
    assert_eq!(std::fs::read_dir(memory.path()).expect("lists").count(), 0);
    let (_, opened) = open_watched(dir.path(), memory.path());
    assert!(opened.clean && opened.intact);
}

#[test]
fn without_a_dir_in_memory_a_kill_counts_as_a_loss_of_power() {
    let (dir, memory) = killed();
    let (_, opened) = open(dir.path());
    assert!(!opened.intact);
    // Nor does the run after that one know better: the verdict is for a run that did not watch.
    drop(memory);
}

#[test]
fn an_overwrite_that_is_gone_is_noticed() {
    let (dir, memory) = (scratch(), scratch());
    let (store, _) = open_watched(dir.path(), memory.path());
    write_at(&store, key(1, 0), 0, 1, 0, &bytes(1, 50_000)).expect("writes");
    store.sync(&[key(1, 0)]).expect("syncs");
    let file = file_of(dir.path(), key(1, 0));
    let synced = std::fs::read(&file).expect("reads");
    write_at(&store, key(1, 0), 0, 2, 8192, &bytes(9, 4096)).expect("writes");
    drop(store);
    // What a file system shows that was taken away and mounted again, or whose pages were dropped
    // after their write-back had failed.
    std::fs::write(&file, synced).expect("writes");
    assert!(!is_intact(dir.path(), memory.path()));
    // The verdict is that of the store; that it stays is for whoever notes it. From here on
    // nothing is missing.
    assert!(is_intact(dir.path(), memory.path()));
}

#[test]
fn data_without_the_write_back_that_failed_are_noticed() {
    let (dir, memory) = killed();
    // The header is there, one block of the overwrite is not.
    flip(
        &file_of(dir.path(), key(1, 0)),
        super::super::slot::DATA_OFFSET + 9000,
    );
    assert!(!is_intact(dir.path(), memory.path()));
}

#[test]
fn a_new_file_that_is_gone_is_noticed() {
    let (dir, memory) = killed();
    std::fs::remove_file(file_of(dir.path(), key(1, 2))).expect("removes");
    assert!(!is_intact(dir.path(), memory.path()));
}

#[test]
fn a_synced_file_that_is_gone_is_noticed() {
    let (dir, memory) = killed();
    std::fs::remove_file(file_of(dir.path(), key(1, 1))).expect("removes");
    assert!(!is_intact(dir.path(), memory.path()));
}

#[test]
fn the_witness_of_another_run_says_nothing() {
    let (dir, memory) = killed();
    let file = std::fs::read_dir(memory.path()).expect("lists").next();
    let file = file.expect("a witness").expect("lists").path();
    let older = std::fs::read(&file).expect("reads");
    assert!(is_intact(dir.path(), memory.path()));
    std::fs::write(&file, older).expect("writes");
    assert!(!is_intact(dir.path(), memory.path()));
}

#[test]
fn after_a_failure_of_the_disk_nothing_is_claimed() {
    let (dir, memory) = (scratch(), scratch());
    let (store, _) = open_watched(dir.path(), memory.path());
    write_at(&store, key(1, 0), 0, 1, 0, &bytes(1, 50_000)).expect("writes");
    store.disk.faults.plan(super::super::disk::Step::Syncing, 0);
    assert!(store.sync(&[key(1, 0)]).is_err());
    drop(store);
    assert!(!is_intact(dir.path(), memory.path()));
}

#[test]
fn what_was_cut_or_removed_is_not_expected() {
    let (dir, memory) = killed();
    let (store, _) = open_watched(dir.path(), memory.path());
    let groups: Vec<GroupId> = (0..3).map(GroupId).collect();
    store
        .cut(InodeId(1), Generation(1), 100..u64::MAX, LAYOUT, &groups)
        .expect("cuts");
    assert_eq!(store.state(key(1, 2)), None);
    drop(store);
    assert!(is_intact(dir.path(), memory.path()));
}

/// Files keep their places. (Another process that copies would hold the locks of other tests'
/// dirs for a moment.)
fn copy_over(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("makes a dir");
    for entry in std::fs::read_dir(from).expect("lists") {
        let (from, to) = entry
            .map(|e| (e.path(), to.join(e.file_name())))
            .expect("lists");
        match from.is_dir() {
            true => copy_over(&from, &to),
            false => drop(std::fs::copy(&from, &to).expect("copies")),
        }
    }
}

#[test]
fn a_copy_of_the_dir_while_it_was_used_is_not_what_was_used() {
    for committed in [true, false] {
        let (dir, memory, old) = (scratch(), scratch(), scratch());
        let (store, _) = open_watched(dir.path(), memory.path());
        write_at(&store, key(1, 0), 0, 1, 0, &bytes(1, 50_000)).expect("writes");
        store.sync(&[key(1, 0)]).expect("syncs");
        copy_over(dir.path(), old.path());
        // Of what was synced since, the index knows a new chunk, and of an old one nothing yet.
        let number = u64::from(committed);
        write_at(&store, key(1, number), 0, 2, 0, &bytes(2, 50_000)).expect("writes");
        store.sync(&[key(1, number)]).expect("syncs");
        drop(store);
        copy_over(old.path(), dir.path());
        assert!(!is_intact(dir.path(), memory.path()), "{committed}");
    }
}

#[test]
fn only_what_the_witness_doubts_is_looked_at() {
    use super::super::slot::{SLOT_SPAN, SLOTS};
    let (dir, memory) = killed();
    // No slot of the synced chunk is valid: whoever looks finds it.
    let synced = file_of(dir.path(), key(1, 1));
    for slot in 0..SLOTS as u64 {
        flip(&synced, slot * SLOT_SPAN + 40);
    }
    let (store, opened) = open_watched(dir.path(), memory.path());
    assert!(opened.intact, "nothing doubts that chunk");
    assert_eq!(store.damage(key(1, 1)), None);
    assert!(content(&store, key(1, 1)).is_err(), "a read finds it");
    assert!(store.damage(key(1, 1)).is_some());
}

#[test]
fn when_something_is_missing_all_is_looked_at() {
    use super::super::slot::{SLOT_SPAN, SLOTS};
    let (dir, memory) = killed();
    let synced = file_of(dir.path(), key(1, 1));
    for slot in 0..SLOTS as u64 {
        flip(&synced, slot * SLOT_SPAN + 40);
    }
    std::fs::remove_file(file_of(dir.path(), key(1, 2))).expect("removes");
    let (store, opened) = open_watched(dir.path(), memory.path());
    assert!(!opened.intact);
    assert_eq!(store.damage(key(1, 1)), Some(Damage::Header));
}

#[test]
fn a_mark_is_known_after_a_kill_until_it_is_cleared() {
    let (dir, memory) = (scratch(), scratch());
    let (store, _) = open_watched(dir.path(), memory.path());
    // The two are synced together, so that the row of the overwritten one is committed too.
    let (at, new) = (key(1, 0), key(1, 1));
    write_at(&store, at, 0, 1, 0, &bytes(1, 50_000)).expect("writes");
    store.sync(&[at]).expect("syncs");
    write_at(&store, at, 0, 2, 8192, &bytes(2, 50_000)).expect("writes");
    write_at(&store, new, 0, 1, 0, &bytes(3, 50_000)).expect("writes");
    store.sync(&[at, new]).expect("syncs");
    drop(store);
    let (store, opened) = open_watched(dir.path(), memory.path());
    assert!(opened.intact);
    assert_eq!(store.catalog().marked(), [at]);
    store
        .sync_aged(std::time::Duration::ZERO, 10)
        .expect("clears");
    drop(store);
    let (store, opened) = open_watched(dir.path(), memory.path());
    assert!(opened.intact);
    assert_eq!(store.catalog().marked(), []);
}

#[test]
fn a_kill_before_the_row_of_a_removed_chunk_is_gone_leaves_the_chunk() {
    let (dir, memory) = killed();
    // The row of this one is that of its first sync, and its file is newer.
    let (store, _) = open_watched(dir.path(), memory.path());
    store.sync(&[key(1, 0)]).expect("syncs");
    let before = content(&store, key(1, 0)).expect("reads");
    assert!(store.catalog().remove(key(1, 0)), "the index has it");
    drop(store);
    let (store, opened) = open_watched(dir.path(), memory.path());
    assert!(opened.intact);
    assert_eq!(content(&store, key(1, 0)), Ok(before));
}
