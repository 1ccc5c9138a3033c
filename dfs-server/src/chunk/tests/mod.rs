//! Tests of the store as a whole: against a model, and through crashes, power cuts and rot.

mod behaviour;
mod crash;
mod kill;
mod model;
mod power;
mod rot;
mod stored;
mod syncs;

use super::*;
use dfs_proto::ids::{
    ChunkIndex, ChunkKey, Epoch, Generation, GroupId, InodeId, Sequence, SessionId, Version,
};
use dfs_proto::layout::FileLayout;
use dfs_proto::payload::{PayloadMut, block_checksums};
use std::path::{Path, PathBuf};

/// Chunks of the tests are this large.
const CHUNK: u32 = 256 << 10;

const LAYOUT: FileLayout = FileLayout {
    chunk_bytes: CHUNK,
    first_group: GroupId(1),
    groups: 3,
};

/// Random cases; a failing one is printed and belongs into a test of its own.
fn config(cases: u32) -> proptest::test_runner::Config {
    proptest::test_runner::Config {
        failure_persistence: None,
        ..proptest::test_runner::Config::with_cases(cases)
    }
}

/// A dir in memory where there is one: these tests sync a lot, and what they check does not
/// depend on what the disk does.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a dir for the test")
}

fn key(inode: u64, index: u64) -> ChunkKey {
    ChunkKey {
        inode: InodeId(inode),
        index: ChunkIndex(index),
    }
}

fn group_of(key: ChunkKey) -> GroupId {
    LAYOUT.group_of(key.index)
}

fn version(counter: u64) -> Version {
    Version {
        epoch: Epoch(1),
        counter,
    }
}

/// Bytes that differ from block to block and from seed to seed; aligned for direct I/O.
fn bytes(seed: u64, len: usize) -> PayloadMut {
    let mut bytes = PayloadMut::with_len(len);
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for byte in bytes.iter_mut() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = (state >> 24) as u8;
    }
    bytes
}

fn open(dir: &Path) -> (ChunkStore, Opened) {
    // Two chunks open at a time: what is evicted has to be found again on disk.
    let options = OpenOptions {
        open_files_max: 4,
        reserve: Some(0),
        accept_copy: true,
        ..OpenOptions::default()
    };
    ChunkStore::open(dir, options).expect("the dir opens")
}

fn write_at(
    store: &ChunkStore,
    key: ChunkKey,
    generation: u64,
    counter: u64,
    offset: u32,
    data: &[u8],
) -> Result<()> {
    store.write(&WriteRequest {
        key,
        group: group_of(key),
        generation: Generation(generation),
        session: SessionId(7),
        sequence: Sequence(counter),
        version: version(counter),
        offset,
        data,
        checksums: &block_checksums(offset, data),
    })
}

/// The whole content as a reader sees it.
fn content(store: &ChunkStore, key: ChunkKey) -> Result<Vec<u8>> {
    let mut buffer = PayloadMut::with_len(CHUNK as usize);
    let read = store.read(key, 0, &mut buffer)?;
    assert_eq!(read.checksums, block_checksums(0, &buffer[..read.len]));
    Ok(buffer[..read.len].to_vec())
}

fn file_of(dir: &Path, key: ChunkKey) -> PathBuf {
    file::chunk_path(&dir.join("data"), key)
}

/// Changes bytes of a file behind the store's back.
fn flip(path: &Path, at: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("opens");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("reads");
    file.write_all_at(&[byte[0] ^ 0x10], at).expect("writes");
}
