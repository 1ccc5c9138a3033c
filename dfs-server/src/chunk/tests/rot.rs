//! Damage behind the store's back: found, named, told from a hole and from a torn overwrite.

use super::super::slot::{DATA_OFFSET, SLOT_SPAN, SLOTS};
use super::*;

fn stored(orderly: bool) -> tempfile::TempDir {
    let dir = scratch();
    let (store, _) = open(dir.path());
    for index in 0..2 {
        let data = bytes(index, 70_000);
        write_at(&store, key(1, index), 0, 1, 0, &data).expect("writes");
    }
    if orderly {
        store.close_clean().expect("closes");
    } else {
        store.sync(&[key(1, 0), key(1, 1)]).expect("syncs");
    }
    dir
}

fn rotten(damage: Damage) -> StoreError {
    StoreError::Rotten {
        key: key(1, 0),
        damage,
    }
}

#[test]
fn a_flipped_bit_in_a_block_is_named_and_the_rest_is_served() {
    for orderly in [true, false] {
        for (at, block) in [(0, 0), (40_000, 9), (69_999, 17), (70_500, 17)] {
            let dir = stored(orderly);
            flip(&file_of(dir.path(), key(1, 0)), DATA_OFFSET + at);
            let (store, _) = open(dir.path());
            let mut part = [0; 100];
            let other = if block == 0 { 20_000 } else { 0 };
            store
                .read(key(1, 0), other, &mut part)
                .expect("another block");
            let damage = Damage::Block(block);
            let error = content(&store, key(1, 0)).expect_err("damaged");
            assert_eq!(error, rotten(damage.clone()));
            assert!(error.to_string().contains(&format!("block {block}")));
            assert!(store.state(key(1, 0)).expect("is there").damaged);
            let verified = store.verify(key(1, 0)).expect("checks").expect("is there");
            assert_eq!(verified.digest, Err(damage));
            assert!(write_at(&store, key(1, 0), 0, 5, 0, b"x").is_err());
            content(&store, key(1, 1)).expect("the other chunk is whole");
        }
    }
}

#[test]
fn a_write_to_a_part_of_a_rotten_block_does_not_hide_the_rot() {
    let dir = stored(true);
    flip(&file_of(dir.path(), key(1, 0)), DATA_OFFSET + 5000);
    let (store, _) = open(dir.path());
    let result = write_at(&store, key(1, 0), 0, 2, 4200, b"part");
    assert_eq!(result, Err(rotten(Damage::Block(1))));
}

#[test]
fn a_flipped_bit_in_the_header_costs_a_slot_or_is_damage_never_an_older_state() {
    for orderly in [true, false] {
        for slot in 0..SLOTS as u64 {
            for at in [3, 30, 60, 90, 130, 150] {
                let dir = stored(orderly);
                let path = file_of(dir.path(), key(1, 0));
                flip(&path, slot * SLOT_SPAN + at);
                let (store, _) = open(dir.path());
                match content(&store, key(1, 0)) {
                    Ok(read) => assert_eq!(read, bytes(0, 70_000).to_vec()),
                    Err(e) => assert_eq!(e, rotten(Damage::Header)),
                }
            }
            // All slots but this one: what is left must be enough, or be told.
            let dir = stored(orderly);
            let path = file_of(dir.path(), key(1, 0));
            for other in (0..SLOTS as u64).filter(|other| *other != slot) {
                flip(&path, other * SLOT_SPAN + 40);
            }
            let (store, _) = open(dir.path());
            match content(&store, key(1, 0)) {
                Ok(read) => assert_eq!(read, bytes(0, 70_000).to_vec()),
                Err(e) => assert_eq!(e, rotten(Damage::Header)),
            }
        }
    }
}

#[test]
fn an_older_slot_never_stands_in_for_a_damaged_newest_one() {
    for orderly in [true, false] {
        let dir = scratch();
        let (store, _) = open(dir.path());
        let at = key(1, 0);
        write_at(&store, at, 0, 1, 0, &bytes(1, 9000)).expect("writes");
        store.sync(&[at]).expect("syncs");
        write_at(&store, at, 0, 2, 20_000, &bytes(2, 9000)).expect("writes");
        store.sync(&[at]).expect("syncs");
        if orderly {
            store.close_clean().expect("closes");
        }
        drop(store);
        // Every slot that says the second state.
        let path = file_of(dir.path(), at);
        let file = super::super::file::ChunkFile::open(path.clone()).expect("opens");
        let slots = file.read_slots().expect("reads");
        let second = slots.iter().enumerate().filter(|(_, slot)| {
            let slot = slot.as_ref();
            slot.is_ok_and(|slot| slot.meta.version == version(2))
        });
        for (place, _) in second {
            flip(&path, place as u64 * SLOT_SPAN + 50);
        }
        let (store, _) = open(dir.path());
        match content(&store, at) {
            Err(e) => assert_eq!(e, rotten(Damage::Header)),
            // Not orderly: the first state may be what an unsynced second write left; the
            // version says so, and the other replicas have the second.
            Ok(_) => {
                assert!(!orderly);
                assert_eq!(store.state(at).map(|s| s.version), Some(version(1)));
            }
        }
    }
}

#[test]
fn a_missing_file_is_rot_and_a_missing_row_of_an_unsynced_chunk_is_not() {
    for orderly in [true, false] {
        let dir = stored(orderly);
        std::fs::remove_file(file_of(dir.path(), key(1, 0))).expect("removes");
        let (store, _) = open(dir.path());
        assert_eq!(content(&store, key(1, 0)), Err(rotten(Damage::Missing)));
        assert!(store.state(key(1, 0)).expect("is indexed").damaged);
        assert_eq!(
            store.sync(&[key(1, 0)]),
            Err(rotten(Damage::Missing)),
            "what is gone is not synced"
        );
        store
            .sync_group(group_of(key(1, 0)))
            .expect("syncs what is there");
        // It is remembered through an orderly stop, and repaired by an installation.
        store.close_clean().expect("closes");
        drop(store);
        let (store, opened) = open(dir.path());
        assert!(opened.clean);
        assert!(store.state(key(1, 0)).expect("is indexed").damaged);
        let data = bytes(0, 70_000);
        store
            .install(&InstallPart {
                key: key(1, 0),
                group: group_of(key(1, 0)),
                image: &Image {
                    generation: Generation(0),
                    version: version(1),
                    len: 70_000,
                    records: Vec::new(),
                },
                offset: 0,
                data: &data,
                checksums: &block_checksums(0, &data),
                holes: &[],
                last: true,
            })
            .expect("installs");
        assert_eq!(content(&store, key(1, 0)), Ok(data.to_vec()));
        assert!(!store.state(key(1, 0)).expect("is there").damaged);
    }
}

#[test]
fn verify_sees_what_is_on_disk_though_the_file_is_open() {
    let dir = scratch();
    let (store, _) = open(dir.path());
    let at = key(1, 0);
    write_at(&store, at, 0, 1, 0, &bytes(1, 9000)).expect("writes");
    let verified = store.verify(at).expect("checks").expect("is there");
    assert_eq!(verified.digest, Ok(crc32c::crc32c(&bytes(1, 9000))));
    assert_eq!(store.verify(key(9, 9)), Ok(None));
    std::fs::remove_file(file_of(dir.path(), at)).expect("removes");
    let verified = store.verify(at).expect("checks").expect("is indexed");
    assert_eq!(verified.digest, Err(Damage::Missing));

    let at = key(1, 1);
    write_at(&store, at, 0, 2, 0, &bytes(1, 9000)).expect("writes");
    for slot in 0..SLOTS as u64 {
        let path = file_of(dir.path(), at);
        if std::fs::metadata(&path).expect("stats").len() > slot * SLOT_SPAN {
            flip(&path, slot * SLOT_SPAN + 60);
        }
    }
    content(&store, at).expect("its table is in memory");
    let verified = store.verify(at).expect("checks").expect("is indexed");
    assert_eq!(verified.digest, Err(Damage::Header));
}

#[test]
fn garbage_in_the_data_dir_is_left_alone_or_told_never_a_panic() {
    let dir = stored(false);
    let fan = file_of(dir.path(), key(1, 0));
    let fan = fan.parent().expect("a dir");
    std::fs::write(fan.join("notes.txt"), "hello").expect("writes");
    std::fs::write(file_of(dir.path(), key(5, 5)), [0xAA; 10_000]).expect("writes");
    std::fs::write(file_of(dir.path(), key(1, 1)), [0x55; 900_000]).expect("writes");
    let (store, _) = open(dir.path());
    assert!(fan.join("notes.txt").exists());
    assert_eq!(store.state(key(5, 5)), None);
    assert_eq!(store.damage(key(1, 1)), Some(Damage::Header));
    content(&store, key(1, 0)).expect("reads");
}

#[test]
fn few_files_are_open_however_many_chunks_are_used() {
    let dir = scratch();
    let (store, _) = open(dir.path());
    for inode in 0..40 {
        write_at(
            &store,
            key(inode, 0),
            0,
            1 + inode,
            0,
            &bytes(inode, 70_000),
        )
        .expect("writes");
        assert!(store.handles.len() <= 2);
    }
    for inode in 0..40 {
        assert_eq!(
            content(&store, key(inode, 0)),
            Ok(bytes(inode, 70_000).to_vec())
        );
    }
    store
        .sync_group(GroupId(1))
        .expect("syncs what is no longer open, too");
}

#[test]
fn one_read_that_fails_is_rot_and_many_are_the_end_of_the_disk() {
    let dir = scratch();
    let (store, _) = open(dir.path());
    for index in 0..12 {
        write_at(&store, key(1, index), 0, 1, 0, &bytes(index, 5000)).expect("writes");
    }
    store.disk.faults.unreadable(true);
    assert_eq!(
        content(&store, key(1, 0)),
        Err(rotten(Damage::Block(0))),
        "an error of the disk"
    );
    // It is not read again and again.
    for _ in 0..20 {
        content(&store, key(1, 0)).expect_err("known to be damaged");
    }
    assert_eq!(store.failure(), None);
    write_at(&store, key(2, 0), 0, 2, 0, b"other chunks go on").expect("writes");
    for index in 1..8 {
        content(&store, key(1, index)).expect_err("an error of the disk");
    }
    let why = store.failure().expect("that is enough");
    assert!(
        why.contains("8 reads failed") && why.contains("1.7"),
        "{why}"
    );
    // What it still can read it does; it takes nothing.
    store.disk.faults.unreadable(false);
    content(&store, key(1, 11)).expect("reads");
    let refused = write_at(&store, key(2, 0), 0, 3, 0, b"x").expect_err("refused");
    assert!(matches!(refused, StoreError::Failed(_)), "{refused}");
    assert!(store.close_clean().is_err(), "and leaves no clean mark");
    drop(store);
    let (store, opened) = open(dir.path());
    assert!(!opened.clean && store.failure().is_none());
    content(&store, key(1, 3)).expect("reads on a disk that works");
}
