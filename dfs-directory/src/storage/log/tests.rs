#![allow(clippy::unwrap_used)]

use super::*;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

const SMALL: u64 = 4096;

fn at(index: u64) -> Position {
    Position {
        index,
        term: 1 + index / 10,
        leader: 1,
    }
}

fn payload(index: u64) -> Vec<u8> {
    vec![index as u8; 10 + index as usize % 90]
}

fn append(log: &mut Log, from: u64, to: u64) {
    for index in from..to {
        let payload = payload(index);
        let entry = Entry {
            position: at(index),
            payload: &payload,
        };
        log.append(&[entry]).unwrap();
    }
}

fn append_together(log: &mut Log, from: u64, to: u64) {
    let payloads: Vec<_> = (from..to).map(payload).collect();
    let entries: Vec<_> = payloads
        .iter()
        .zip(from..)
        .map(|(payload, index)| Entry {
            position: at(index),
            payload,
        })
        .collect();
    log.append(&entries).unwrap();
}

fn check(log: &Log, from: u64, to: u64) {
    let expected: Vec<_> = (from..to)
        .map(|index| (at(index), payload(index)))
        .collect();
    assert_eq!(log.read(0, u64::MAX, u64::MAX).unwrap(), expected);
    assert_eq!((log.first(), log.end()), (from, to));
}

fn open(dir: &Path) -> Log {
    Log::open_with(dir, SMALL).unwrap()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with("log-"))
        .collect();
    paths.sort();
    paths
}

#[test]
fn entries_are_found_after_reopening_across_segments() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    append(&mut log, 0, 100);
    append_together(&mut log, 100, 130);
    check(&log, 0, 130);
    assert!(segments(dir.path()).len() > 2);
    drop(log);
    let mut log = open(dir.path());
    check(&log, 0, 130);
    append(&mut log, 130, 140);
    check(&log, 0, 140);
}

#[test]
fn a_read_stops_at_its_bytes_but_gives_at_least_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    append(&mut log, 0, 20);
    assert_eq!(log.read(3, 20, 0).unwrap().len(), 1);
    assert_eq!(log.read(0, 20, 10 + 11 + 12).unwrap().len(), 3);
    assert_eq!(log.read(5, 5, 100).unwrap(), []);
}

#[test]
fn a_gap_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    append(&mut log, 0, 3);
    let entry = Entry {
        position: at(4),
        payload: b"x",
    };
    assert!(matches!(log.append(&[entry]), Err(LogError::OutOfOrder(_))));
    append(&mut log, 3, 5);
    check(&log, 0, 5);
}

#[test]
fn an_append_cut_at_any_byte_is_left_out_and_the_rest_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    append(&mut log, 0, 5);
    let before = log.segments[0].used();
    append_together(&mut log, 5, 8);
    let after = log.segments[0].used();
    drop(log);
    let path = segments(dir.path()).remove(0);
    let whole = std::fs::read(&path).unwrap();
    for cut in before..after {
        // The file ends there, or what follows never reached the disk.
        for shorter in [true, false] {
            let mut torn = whole.clone();
            torn[cut as usize..].fill(0);
            // Padding is not a part of the append.
            let complete = torn == whole;
            if shorter {
                torn.truncate(cut as usize);
            }
            // Also what the last round has added behind.
            for segment in segments(dir.path()) {
                std::fs::remove_file(segment).unwrap();
            }
            std::fs::write(&path, &torn).unwrap();
            let mut log = open(dir.path());
            if complete && !shorter {
                check(&log, 0, 8);
                continue;
            }
            let end = log.end();
            assert!(end == 5 || end == 8, "cut at {cut}");
            append(&mut log, end, 9);
            check(&log, 0, 9);
            drop(log);
            check(&open(dir.path()), 0, 9);
        }
    }
}

#[test]
fn a_flipped_byte_before_the_last_append_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    append(&mut log, 0, 8);
    let last = log.entries.get(7).unwrap().frame();
    drop(log);
    let path = segments(dir.path()).remove(0);
    let whole = std::fs::read(&path).unwrap();
    for at in 0..last as usize {
        // The header's reserved bytes and a frame's padding carry nothing.
        let mut damaged = whole.clone();
        damaged[at] ^= 4;
        std::fs::write(&path, &damaged).unwrap();
        match Log::open_with(dir.path(), SMALL) {
            Err(LogError::Damaged(..)) => {}
            Ok(log) => {
                check(&log, 0, 8);
                assert_eq!(whole[at], 0, "byte {at} carries something");
            }
            Err(e) => panic!("byte {at}: {e}"),
        }
    }
}

#[test]
fn a_flipped_byte_in_an_older_segment_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    append(&mut log, 0, 200);
    // The last append of the first segment: nothing good follows it in its file.
    let frame = log
        .entries
        .get(log.segments[1].first_index - 1)
        .unwrap()
        .frame();
    drop(log);
    let path = segments(dir.path()).remove(0);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0xff], frame + 40).unwrap();
    let error = Log::open_with(dir.path(), SMALL).unwrap_err();
    assert!(
        error.to_string().contains("a part of the log is missing"),
        "{error}"
    );
}

#[test]
fn a_missing_segment_and_a_lost_tail_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    append(&mut log, 0, 200);
    log.close().unwrap();
    drop(log);
    let paths = segments(dir.path());
    let away = dir.path().join("away");
    for path in &paths {
        std::fs::rename(path, &away).unwrap();
        assert!(matches!(
            Log::open_with(dir.path(), SMALL),
            Err(LogError::Damaged(..))
        ));
        std::fs::rename(&away, path).unwrap();
    }
    check(&open(dir.path()), 0, 200);
}

#[test]
fn a_flip_in_the_last_append_is_noticed_after_a_clean_close() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    append(&mut log, 0, 8);
    let frame = log.entries.get(7).unwrap().frame();
    log.close().unwrap();
    drop(log);
    let file = OpenOptions::new()
        .write(true)
        .open(&segments(dir.path())[0])
        .unwrap();
    file.write_all_at(&[0xff], frame + 40).unwrap();
    assert!(matches!(
        Log::open_with(dir.path(), SMALL),
        Err(LogError::Damaged(..))
    ));
}

#[test]
fn rot_under_a_running_log_is_noticed_by_the_reader() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    append(&mut log, 0, 8);
    let frame = log.entries.get(3).unwrap().frame();
    let file = OpenOptions::new()
        .write(true)
        .open(&segments(dir.path())[0])
        .unwrap();
    file.write_all_at(&[0xff], frame + 40).unwrap();
    assert!(matches!(log.read(3, 4, 100), Err(LogError::Damaged(..))));
    assert_eq!(log.read(2, 3, 100).unwrap().len(), 1);
}

#[test]
fn a_truncation_holds_after_reopening_also_inside_an_append() {
    for index in [0, 1, 4, 5, 6, 7, 30, 60, 119] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path());
        append(&mut log, 0, 5);
        append_together(&mut log, 5, 9);
        append(&mut log, 9, 120);
        log.save_vote(Vote::default()).unwrap();
        log.truncate(index).unwrap();
        check(&log, 0, index);
        drop(log);
        let mut log = open(dir.path());
        if index > 0 {
            check(&log, 0, index);
        }
        append(&mut log, index, index + 50);
        check(&log, 0, index + 50);
        drop(log);
        check(&open(dir.path()), 0, index + 50);
    }
}

#[test]
fn a_purge_frees_files_and_holds_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    append(&mut log, 0, 1000);
    let before = segments(dir.path()).len();
    log.purge(at(900)).unwrap();
    assert!(
        segments(dir.path()).len() <= before - 8,
        "files are given up"
    );
    check(&log, 901, 1000);
    assert_eq!(log.position(900), Some(at(900)));
    assert_eq!(log.position(899), None);
    drop(log);
    let mut log = open(dir.path());
    check(&log, 901, 1000);
    assert_eq!(log.purged(), Some(at(900)));
    // Spare files are used again, and what they held is not taken for entries.
    append(&mut log, 1000, 1200);
    check(&open(dir.path()), 901, 1200);
    assert!(matches!(log.truncate(800), Err(LogError::OutOfOrder(_))));
}

#[test]
fn a_purge_behind_the_end_leaves_an_empty_log_that_goes_on_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    append(&mut log, 0, 100);
    log.purge(at(500)).unwrap();
    assert_eq!(log.last(), Some(at(500)));
    drop(log);
    let mut log = open(dir.path());
    assert_eq!(log.last(), Some(at(500)));
    append(&mut log, 501, 510);
    check(&open(dir.path()), 501, 510);
}

#[test]
fn truncation_after_a_purge_inside_one_append() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    append_together(&mut log, 0, 10);
    log.purge(at(3)).unwrap();
    log.truncate(7).unwrap();
    check(&log, 4, 7);
    drop(log);
    check(&open(dir.path()), 4, 7);
}

#[test]
fn vote_and_committed_are_kept_and_a_missing_vote_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    let vote = Vote {
        term: 8,
        member: 2,
        committed: true,
    };
    log.save_vote(vote).unwrap();
    append(&mut log, 0, 5);
    log.set_committed(Some(4));
    append(&mut log, 5, 6);
    drop(log);
    let log = open(dir.path());
    assert_eq!(log.vote(), Some(vote));
    assert_eq!(log.committed(), Some(4));
    drop(log);
    let pointers = dir.path().join("pointers");
    let bytes = std::fs::read(&pointers).unwrap();
    std::fs::write(&pointers, &bytes[..40]).unwrap();
    assert!(matches!(
        Log::open_with(dir.path(), SMALL),
        Err(LogError::Damaged(..))
    ));
    std::fs::remove_file(&pointers).unwrap();
    assert!(matches!(
        Log::open_with(dir.path(), SMALL),
        Err(LogError::Damaged(..))
    ));
}

#[test]
fn an_append_larger_than_a_segment_gets_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    append(&mut log, 0, 3);
    let large = vec![7; 3 * SMALL as usize];
    let entry = Entry {
        position: at(3),
        payload: &large,
    };
    log.append(&[entry]).unwrap();
    append(&mut log, 4, 6);
    drop(log);
    let log = open(dir.path());
    assert_eq!(log.read(3, 4, 0).unwrap(), [(at(3), large)]);
    assert_eq!(log.end(), 6);
}
