//! A server with very many chunks: how long its start takes, and how much memory it needs.
//!
//! `DFS_TEST_CHUNKS` says how many (a million needs 20 GB of disk and some minutes, with
//! `--release`); `DFS_TEST_DIR` names a dir that is kept, so that a second run only opens it.

#![allow(clippy::unwrap_used)]

use dfs_proto::ids::{
    ChunkIndex, ChunkKey, Epoch, Generation, GroupId, InodeId, Sequence, SessionId, Version,
};
use dfs_proto::payload::block_checksums;
use dfs_server::chunk::{ChunkStore, OpenOptions, WriteRequest};
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

fn open(dir: &Path) -> (ChunkStore, bool) {
    let options = OpenOptions {
        reserve: Some(0),
        ..OpenOptions::default()
    };
    let (store, opened) = ChunkStore::open(dir, options).unwrap();
    (store, opened.clean)
}

fn fill(store: &ChunkStore, from: u64, to: u64) {
    let data = [7; 4096];
    let checksums = block_checksums(0, &data);
    for number in from..to {
        let request = WriteRequest {
            key: ChunkKey {
                inode: InodeId(number + 2),
                index: ChunkIndex(0),
            },
            group: GroupId((number % u64::from(GROUPS)) as u32),
            generation: Generation(0),
            session: SessionId(1),
            sequence: Sequence(number + 1),
            version: Version {
                epoch: Epoch(1),
                counter: number + 1,
            },
            offset: 0,
            data: &data,
            checksums: &checksums,
        };
        store.write(&request).unwrap();
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
    let (store, _) = open(dir);
    let (there, began) = (store.space().chunks, Instant::now());
    fill(&store, there, chunks);
    println!("{chunks} chunks, filled in {:.1?}", began.elapsed());
    let began = Instant::now();
    store.close_clean().unwrap();
    println!("closed in {:.1?}", began.elapsed());
    drop(store);

    let (before, began) = (resident(), Instant::now());
    let (store, clean) = open(dir);
    let took = began.elapsed();
    let memory = resident().saturating_sub(before);
    println!("clean start in {took:.2?}, {} KiB more", memory >> 10);
    assert!(clean && store.space().chunks == chunks);
    assert!(took < START_MAX);
    assert!(memory < MEMORY_MAX);
    drop(store);

    // Without the clean mark every header is read.
    let (before, began) = (resident(), Instant::now());
    let (store, clean) = open(dir);
    let took = began.elapsed();
    let memory = resident().saturating_sub(before);
    println!(
        "start after a crash in {took:.2?}, {} KiB more",
        memory >> 10
    );
    assert!(!clean && store.space().chunks == chunks);
    assert!(memory < MEMORY_MAX);
    store.close_clean().unwrap();
}
