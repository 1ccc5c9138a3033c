//! A server with very many chunks: how long its start takes, and how much memory it needs.
//!
//! `DFS_TEST_CHUNKS` says how many (a million needs 20 GB of disk and some minutes, with
//! `--release`); `DFS_TEST_DIR` names a dir that is kept, so that a second run only opens it.

#![allow(clippy::unwrap_used)]

use dfs_proto::ids::{
    ChunkIndex, ChunkKey, Epoch, Generation, GroupId, InodeId, Sequence, SessionId, Version,
};
use dfs_proto::payload::block_checksums;
use dfs_server::chunk::{ChunkStore, OpenOptions, Opened, WriteRequest};
use std::path::Path;
use std::time::{Duration, Instant};

const GROUPS: u32 = 64;

/// What a million chunks may take.
const START_MAX: Duration = Duration::from_secs(10);
const MEMORY_MAX: u64 = 500 << 20;

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

fn open(dir: &Path, memory: Option<&Path>) -> (ChunkStore, Opened) {
    let options = OpenOptions {
        reserve: Some(0),
        witness_dir: memory.map(Path::to_owned),
        ..OpenOptions::default()
    };
    let (store, opened) = ChunkStore::open(dir, options).unwrap();
    store.watch().unwrap();
    (store, opened)
}

/// Writes block 0 of the chunk with that number; `counter` is of the version.
fn write(store: &ChunkStore, number: u64, counter: u64) {
    let data = [7; 4096];
    let request = WriteRequest {
        key: ChunkKey {
            inode: InodeId(number + 2),
            index: ChunkIndex(0),
        },
        group: GroupId((number % u64::from(GROUPS)) as u32),
        generation: Generation(0),
        session: SessionId(1),
        sequence: Sequence(counter),
        version: Version {
            epoch: Epoch(1),
            counter,
        },
        offset: 0,
        data: &data,
        checksums: &block_checksums(0, &data),
    };
    store.write(&request).unwrap();
}

fn fill(store: &ChunkStore, from: u64, to: u64) {
    for number in from..to {
        write(store, number, number + 1);
        if number % 10_000 == 9_999 {
            for group in 0..GROUPS {
                store.sync_group(GroupId(group)).unwrap();
            }
        }
    }
}

#[test]
fn a_start_with_many_chunks_is_quick_and_small() {
    let chunks: u64 = std::env::var("DFS_TEST_CHUNKS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(3_000);
    let scratch = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("DFS_TEST_DIR");
    let dir = kept.as_deref().map_or(scratch.path(), Path::new);
    let (store, _) = open(dir, None);
    let (there, began) = (store.space().chunks, Instant::now());
    fill(&store, there, chunks);
    println!("{chunks} chunks, filled in {:.1?}", began.elapsed());
    let began = Instant::now();
    store.close_clean().unwrap();
    println!("closed in {:.1?}", began.elapsed());
    drop(store);

    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let start = |name: &str, watched: bool| {
        let (before, began) = (resident(), Instant::now());
        let (store, opened) = open(dir, watched.then_some(memory.path()));
        let took = began.elapsed();
        let more = resident().saturating_sub(before);
        println!("start {name} in {took:.2?}, {} KiB more", more >> 10);
        assert_eq!(store.space().chunks, chunks);
        assert!(more < MEMORY_MAX);
        (store, opened, took)
    };
    let (store, opened, took) = start("after an orderly stop", true);
    assert!(opened.clean && took < START_MAX);
    // Two that are there are overwritten, and the process is gone.
    let latest = store
        .list(GroupId(0), None, 1)
        .0
        .first()
        .map_or(0, |(_, state)| state.version.counter);
    for number in [0, 1] {
        write(&store, number, latest.max(chunks) + 1);
    }
    drop(store);
    let (store, opened, took) = start("after a kill", true);
    assert!(!opened.clean && opened.intact && took < START_MAX);
    drop(store);
    // Nobody says what is on disk: every header is read.
    let (store, opened, _) = start("after a loss of power", false);
    assert!(!opened.clean && !opened.intact);
    store.close_clean().unwrap();
}
