//! What single operations promise.

use super::*;
use dfs_proto::cluster::{Equalise, GroupConfig};
use dfs_proto::msg::peer::WriteRecord;
use std::time::Duration;

#[test]
fn a_hole_reads_as_nothing_and_gaps_read_as_zeros() {
    let dir = scratch();
    let (store, opened) = open(dir.path());
    assert!(opened.clean && opened.cluster.is_none());
    assert_eq!(content(&store, key(1, 0)), Ok(vec![]));
    write_at(&store, key(1, 0), 0, 1, 10_000, b"abc").expect("writes");
    let mut expected = vec![0; 10_000];
    expected.extend(b"abc");
    assert_eq!(content(&store, key(1, 0)), Ok(expected));
    let mut part = [9; 100];
    let read = store.read(key(1, 0), 9_990, &mut part).expect("reads");
    assert_eq!((read.len, read.stored_len), (13, 10_003));
    assert_eq!(&part[..13], b"\0\0\0\0\0\0\0\0\0\0abc");
    assert_eq!(read.checksums, block_checksums(9_990, &part[..13]));
    assert_eq!(
        store.read(key(1, 0), 20_000, &mut part).expect("reads").len,
        0
    );
}

#[test]
fn older_versions_generations_and_damaged_payloads_are_refused_before_anything_changes() {
    let dir = scratch();
    let (store, _) = open(dir.path());
    let at = key(1, 0);
    write_at(&store, at, 2, 5, 0, b"first").expect("writes");
    assert!(matches!(
        write_at(&store, at, 2, 5, 0, b"again"),
        Err(StoreError::StaleVersion { .. })
    ));
    assert!(matches!(
        write_at(&store, at, 1, 6, 0, b"older"),
        Err(StoreError::StaleGeneration { present, .. }) if present == Generation(2)
    ));
    let damaged = store.write(&WriteRequest {
        key: at,
        group: group_of(at),
        generation: Generation(2),
        session: SessionId(1),
        sequence: Sequence(1),
        version: version(9),
        offset: 0,
        data: b"wrong",
        checksums: &[1],
    });
    assert_eq!(damaged, Err(StoreError::PayloadDamaged { key: at }));
    let beyond = write_at(&store, at, 2, 9, u32::MAX - 10, b"0123456789");
    assert!(matches!(beyond, Err(StoreError::Invalid(_))));
    assert_eq!(content(&store, at), Ok(b"first".to_vec()));
    let record = store.record(at, SessionId(7)).expect("reads");
    assert_eq!(
        record,
        Some(WriteRecord {
            session: SessionId(7),
            sequence: Sequence(5),
            version: version(5)
        })
    );
    assert_eq!(store.record(at, SessionId(8)), Ok(None));
}

#[test]
fn a_cut_removes_shortens_and_refuses_what_is_older() {
    let dir = scratch();
    let (store, _) = open(dir.path());
    let groups = [GroupId(0), GroupId(1), GroupId(2)];
    for index in 0..4 {
        let data = bytes(index, CHUNK as usize);
        write_at(&store, key(1, index), 0, 1 + index, 0, &data).expect("writes");
        write_at(&store, key(2, index), 0, 1 + index, 0, &data).expect("writes");
    }
    let from = u64::from(CHUNK) + 5000;
    store
        .cut(InodeId(1), Generation(1), from..u64::MAX, LAYOUT, &groups)
        .expect("cuts");
    assert_eq!(store.state(key(1, 1)).map(|s| s.len), Some(5000));
    assert_eq!(store.state(key(1, 2)), None);
    assert_eq!(store.state(key(2, 2)).map(|s| s.len), Some(CHUNK));
    assert!(!file_of(dir.path(), key(1, 3)).exists());
    assert_eq!(store.floor(GroupId(0), InodeId(1)), Some(Generation(1)));
    for index in 0..4 {
        assert!(matches!(
            write_at(&store, key(1, index), 0, 50, 0, b"late"),
            Err(StoreError::StaleGeneration { .. })
        ));
    }
    // What was cut reads as zeros when the chunk grows again.
    write_at(&store, key(1, 1), 1, 60, 9000, b"x").expect("writes");
    let read = content(&store, key(1, 1)).expect("reads");
    assert_eq!(read[..5000], bytes(1, CHUNK as usize)[..5000]);
    assert!(read[5000..9000].iter().all(|b| *b == 0));
    // A late repeat does nothing, and neither does one for floors that are forgotten.
    write_at(&store, key(1, 3), 1, 61, 0, b"new").expect("writes");
    store
        .cut(InodeId(1), Generation(1), from..u64::MAX, LAYOUT, &groups)
        .expect("cuts");
    store.drop_floors(GroupId(1), Epoch(1)).expect("drops");
    assert_eq!(store.floor(GroupId(1), InodeId(1)), None);
    store
        .cut(InodeId(1), Generation(1), 0..u64::MAX, LAYOUT, &groups)
        .expect("cuts");
    assert_eq!(content(&store, key(1, 3)), Ok(b"new".to_vec()));
    assert_eq!(store.state(key(1, 1)).map(|s| s.len), Some(9001));
}

#[test]
fn a_hole_gives_its_space_back_and_keeps_length_and_records() {
    let dir = scratch();
    let (store, _) = open(dir.path());
    let (at, groups) = (key(1, 0), [GroupId(0), GroupId(1), GroupId(2)]);
    let before = bytes(1, CHUNK as usize);
    write_at(&store, at, 0, 1, 0, &before).expect("writes");
    store.sync(&[at]).expect("syncs");
    let stored = || {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(file_of(dir.path(), at))
            .expect("is there")
            .blocks()
            * 512
    };
    let full = stored();
    let end = u64::from(CHUNK) - 5000;
    store
        .cut(InodeId(1), Generation(1), 100..end, LAYOUT, &groups)
        .expect("punches");
    let mut expected = before.to_vec();
    expected[100..end as usize].fill(0);
    assert_eq!(content(&store, at), Ok(expected.clone()));
    let state = store.state(at).expect("is there");
    assert_eq!((state.len, state.generation), (CHUNK, Generation(1)));
    assert_eq!(state.version, version(1));
    assert!(store.record(at, SessionId(7)).expect("reads").is_some());
    if full >= u64::from(CHUNK) {
        // All but the two blocks at its edges, the last one and the header.
        assert!(
            stored() < full - u64::from(CHUNK) / 2,
            "{full} {}",
            stored()
        );
    }
    // A late repeat takes nothing of what was written since, nor does an older write come in.
    write_at(&store, at, 1, 2, 8192, b"new").expect("writes");
    store
        .cut(InodeId(1), Generation(1), 100..end, LAYOUT, &groups)
        .expect("does nothing");
    assert!(write_at(&store, at, 0, 3, 8192, b"late").is_err());
    expected[8192..8195].copy_from_slice(b"new");
    drop(store);
    let (store, _) = open(dir.path());
    assert_eq!(content(&store, at), Ok(expected));
    let nothing = store.cut(InodeId(1), Generation(2), 7..7, LAYOUT, &groups);
    assert!(matches!(nothing, Err(StoreError::Invalid(_))));
}

#[test]
fn floors_and_promises_are_durable_at_once() {
    let dir = scratch();
    let (store, _) = open(dir.path());
    let config = |group, epoch| GroupConfig {
        group: GroupId(group),
        epoch: Epoch(epoch),
        primary: None,
        members: Vec::new(),
        min_in_sync: 1,
        equalise: Equalise::Marked,
    };
    store
        .put_epochs(&[config(1, 5), config(0, 2)])
        .expect("keeps");
    store
        .put_epochs(&[config(1, 4)])
        .expect("an older one is ignored");
    store
        .put_fences(&[SessionId(3), SessionId(4)])
        .expect("keeps");
    store.drop_fences(&[SessionId(3)]).expect("drops");
    store.put_note("server", b"12").expect("keeps");
    store
        .install_floors(
            GroupId(1),
            &[(InodeId(5), Generation(2)), (InodeId(9), Generation(1))],
        )
        .expect("keeps");
    store
        .install_floors(GroupId(1), &[(InodeId(5), Generation(1))])
        .expect("a lower one is ignored");
    drop(store);
    let (store, opened) = open(dir.path());
    assert!(!opened.clean);
    assert_eq!(store.epochs(), [config(0, 2), config(1, 5)]);
    assert_eq!(store.fences(), [SessionId(4)]);
    assert_eq!(store.note("server"), Some(b"12".to_vec()));
    let (page, end) = store.floors(GroupId(1), None, 1);
    assert_eq!((page, end), (vec![(InodeId(5), Generation(2))], false));
    let (page, end) = store.floors(GroupId(1), Some(InodeId(5)), 1);
    assert_eq!((page, end), (vec![(InodeId(9), Generation(1))], true));
    store
        .drop_floors(GroupId(1), Epoch(5))
        .expect("nothing is older");
    assert_eq!(store.floors(GroupId(1), None, 9).0.len(), 2);
    store.drop_floors(GroupId(1), Epoch(6)).expect("drops");
    assert!(store.floors(GroupId(1), None, 9).0.is_empty());
}

#[test]
fn an_image_is_invisible_until_its_last_part() {
    let dir = scratch();
    let (store, _) = open(dir.path());
    let at = key(1, 0);
    write_at(&store, at, 0, 9, 0, b"before").expect("writes");
    let data = bytes(3, 200_000);
    let image = Image {
        generation: Generation(0),
        version: version(4),
        len: 200_000,
        records: vec![WriteRecord {
            session: SessionId(1),
            sequence: Sequence(2),
            version: version(4),
        }],
    };
    let part = |offset: u32, end: usize| {
        let data = &data[offset as usize..end];
        store.install(&InstallPart {
            key: at,
            group: group_of(at),
            image: &image,
            offset,
            data,
            checksums: &block_checksums(offset, data),
            holes: &[],
            last: end == 200_000,
        })
    };
    part(0, 131_072).expect("first part");
    assert!(matches!(part(65_536, 131_072), Err(StoreError::Invalid(_))));
    part(0, 131_072).expect("starts over");
    assert_eq!(content(&store, at), Ok(b"before".to_vec()));
    part(131_072, 200_000).expect("last part");
    assert_eq!(content(&store, at), Ok(data.to_vec()));
    assert_eq!(store.image(at), Ok(Some(image.clone())));
    assert_eq!(store.record(at, SessionId(7)), Ok(None));
    assert!(matches!(
        part(131_072, 200_000),
        Err(StoreError::Invalid(_))
    ));
    store.remove(at).expect("removes");
    assert_eq!(store.state(at), None);
    assert_eq!(store.space().chunks, 0);
}

#[test]
fn the_clean_mark_is_left_by_an_orderly_stop_only() {
    let dir = scratch();
    let (store, _) = open(dir.path());
    write_at(&store, key(1, 0), 0, 1, 0, b"data").expect("writes");
    store.close_clean().expect("closes");
    assert!(write_at(&store, key(1, 0), 0, 2, 0, b"late").is_err());
    drop(store);
    let (store, opened) = open(dir.path());
    assert!(opened.clean);
    assert_eq!(content(&store, key(1, 0)), Ok(b"data".to_vec()));
    drop(store);
    assert!(!open(dir.path()).1.clean);
}

#[test]
fn a_sync_of_an_inode_takes_what_others_wrote_along() {
    let dir = scratch();
    let (store, _) = open(dir.path());
    let group = group_of(key(1, 0));
    let next = (1..).find(|n| group_of(key(1, *n)) == group).expect("some");
    for (counter, at) in [(1, key(1, 0)), (2, key(1, next)), (3, key(2, 0))] {
        write_at(&store, at, 0, counter, 0, b"data").expect("writes");
    }
    let named = [key(1, 0), key(1, 999)];
    let synced = store.sync_inode(InodeId(1), group, &named);
    synced.expect("a hole is no error");
    let left = store.sync_aged(Duration::ZERO, 10).expect("syncs");
    assert_eq!(left, 1, "the other inode's chunk");
}

#[test]
fn the_reserve_is_kept_and_said_before_anything_is_applied() {
    let dir = scratch();
    let options = OpenOptions {
        reserve: Some(1 << 20),
        ..OpenOptions::default()
    };
    let probe = |_: &Path| Ok((1 << 30, (1 << 20) + 100_000));
    let (store, _) = ChunkStore::open_with(dir.path(), options, probe).expect("opens");
    write_at(&store, key(1, 0), 0, 1, 0, &bytes(1, 40_000)).expect("fits");
    assert!(matches!(
        write_at(&store, key(1, 1), 0, 2, 0, &bytes(1, 100_000)),
        Err(StoreError::NoSpace { reserve, .. }) if reserve == 1 << 20
    ));
    assert_eq!(store.state(key(1, 1)), None);
    assert!(!file_of(dir.path(), key(1, 1)).exists());
    let full = write_at(&store, key(1, 0), 0, 3, 30_000, &bytes(1, 120_000));
    assert!(matches!(full, Err(StoreError::NoSpace { .. })));
    assert_eq!(content(&store, key(1, 0)), Ok(bytes(1, 40_000).to_vec()));
    write_at(&store, key(1, 0), 0, 4, 0, &bytes(2, 40_000)).expect("an overwrite takes nothing");
}

#[test]
fn threads_work_on_the_same_and_on_different_chunks() {
    let dir = scratch();
    let (store, _) = open(dir.path());
    let counter = std::sync::atomic::AtomicU64::new(1);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (store, counter) = (&store, &counter);
            scope.spawn(move || {
                let mut written = 0;
                while written < 30 {
                    let at = key(1, written % 3);
                    let counter = counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    // One value a write: a mixture would show.
                    let data = vec![counter as u8; 9000];
                    match write_at(store, at, 0, counter, 100, &data) {
                        Ok(()) => written += 1,
                        Err(StoreError::StaleVersion { .. }) => continue,
                        Err(e) => panic!("{e}"),
                    }
                    let read = content(store, at).expect("reads");
                    assert!(read[100..].iter().all(|byte| *byte == read[100]));
                    if thread == 0 {
                        store.sync(&[at]).expect("syncs");
                    }
                }
            });
        }
    });
    store.sync_group(GroupId(1)).expect("syncs");
    store.sync_aged(Duration::ZERO, 100).expect("syncs");
    drop(store);
    let (store, _) = open(dir.path());
    for index in 0..3 {
        assert_eq!(store.state(key(1, index)).map(|s| s.damaged), Some(false));
    }
}

#[test]
fn a_write_that_waits_for_a_mark_or_for_another_says_so() {
    let dir = scratch();
    let (store, _) = open(dir.path());
    let at = key(1, 0);
    assert!(!store.write_may_wait(at, 0, 4096), "a new chunk");
    write_at(&store, at, 0, 1, 0, &bytes(1, 9000)).expect("writes");
    assert!(!store.write_may_wait(at, 0, 4096), "nothing is synced");
    store.sync(&[at]).expect("syncs");
    assert!(store.write_may_wait(at, 100, 10), "a synced block");
    assert!(!store.write_may_wait(at, 12_288, 4096), "a new block");
    write_at(&store, at, 0, 2, 0, b"over").expect("writes");
    assert!(!store.write_may_wait(at, 5000, 10), "the mark is durable");
    store.sync(&[at]).expect("syncs");
    assert!(
        !store.write_may_wait(at, 5000, 10),
        "and stays through a sync"
    );
    store.sync_aged(Duration::ZERO, 10).expect("syncs");
    assert!(store.write_may_wait(at, 5000, 10), "until it is cleared");
    assert!(!store.read_may_wait(at));
    let handle = store.handles.get(at);
    let _locked = handle.write();
    assert!(store.read_may_wait(at) && store.write_may_wait(at, 12_288, 1));
}
