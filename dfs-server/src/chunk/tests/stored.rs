//! What is counted as stored: block by block, the same after a restart and in a copy.

use super::*;
use dfs_proto::limits::BLOCK_BYTES;

const BLOCK: u32 = BLOCK_BYTES as u32;
const INODE: InodeId = InodeId(1);

/// Blocks 2, 3 and 20, with 20 as the last one.
fn sparse(store: &ChunkStore, at: ChunkKey) {
    write_at(store, at, 0, 1, 2 * BLOCK + 5, &bytes(1, 5000)).expect("writes");
    write_at(store, at, 0, 2, 20 * BLOCK, b"end").expect("writes");
}

fn blocks(store: &ChunkStore, at: ChunkKey) -> u64 {
    store.stored(at.inode, group_of(at)) / u64::from(BLOCK)
}

/// Where blocks are stored, as ranges.
fn ranges(store: &ChunkStore, at: ChunkKey) -> Vec<(u32, u32)> {
    let find = |from, stored| store.find_block(at, from, stored).expect("looks");
    let mut ranges = Vec::new();
    let mut from = 0;
    while let Some(begin) = find(from, true) {
        from = find(begin, false).expect("there is always a hole");
        ranges.push((begin, from));
    }
    ranges
}

#[test]
fn blocks_are_counted_through_writes_cuts_and_restarts() {
    let dir = scratch();
    let (store, _) = open(dir.path());
    let at = key(1, 0);
    assert_eq!((blocks(&store, at), ranges(&store, at)), (0, vec![]));
    sparse(&store, at);
    assert_eq!(blocks(&store, at), 3);
    assert_eq!(ranges(&store, at), [(2, 4), (20, 21)]);
    // Within a stored block nothing is added; behind the last one there is a hole.
    write_at(&store, at, 0, 3, 20 * BLOCK, b"END").expect("writes");
    assert_eq!(blocks(&store, at), 3);
    let groups = [GroupId(0), GroupId(1), GroupId(2)];
    let whole = u64::from(2 * BLOCK)..u64::from(3 * BLOCK) + 1;
    store
        .cut(INODE, Generation(1), whole, LAYOUT, &groups)
        .expect("punches");
    assert_eq!(ranges(&store, at), [(3, 4), (20, 21)], "a part stays");
    let shorter = u64::from(10 * BLOCK)..u64::MAX;
    store
        .cut(INODE, Generation(2), shorter, LAYOUT, &groups)
        .expect("cuts");
    assert_eq!((blocks(&store, at), ranges(&store, at)), (1, vec![(3, 4)]));
    let other = key(1, 3);
    assert_eq!(group_of(other), group_of(at));
    write_at(&store, other, 2, 4, 0, &bytes(2, CHUNK as usize)).expect("writes");
    let all = u64::from(CHUNK / BLOCK) + 1;
    assert_eq!(blocks(&store, at), all);
    store.close_clean().expect("closes");
    drop(store);
    let (store, opened) = open(dir.path());
    assert!(opened.clean);
    assert_eq!(
        (blocks(&store, at), ranges(&store, at)),
        (all, vec![(3, 4)])
    );
    write_at(&store, at, 2, 5, 7 * BLOCK, b"x").expect("writes");
    drop(store);
    let (store, opened) = open(dir.path());
    assert!(!opened.clean);
    assert_eq!(blocks(&store, at), all + 1);
    assert_eq!(ranges(&store, at), [(3, 4), (7, 8)]);
}

#[test]
fn a_copy_has_the_same_holes() {
    let dirs = [scratch(), scratch()];
    let [(from, _), (to, _)] = [open(dirs[0].path()), open(dirs[1].path())];
    let at = key(1, 0);
    sparse(&from, at);
    let image = from.image(at).expect("reads").expect("is there");
    let part = 16 * BLOCK;
    for offset in (0..image.len).step_by(part as usize) {
        let len = part.min(image.len - offset);
        let mut data = PayloadMut::with_len(len as usize);
        let read = from.read(at, offset, &mut data).expect("reads");
        let blocks = offset / BLOCK..(offset + len).div_ceil(BLOCK);
        let holes = from.holes(at, blocks).expect("looks");
        to.install(&InstallPart {
            key: at,
            group: group_of(at),
            image: &image,
            offset,
            data: &data[..read.len],
            checksums: &read.checksums,
            holes: &holes,
            last: offset + len == image.len,
        })
        .expect("installs");
    }
    assert_eq!(content(&to, at), content(&from, at));
    assert_eq!((blocks(&to, at), ranges(&to, at)), (3, ranges(&from, at)));
    drop(to);
    let (to, _) = open(dirs[1].path());
    assert_eq!((blocks(&to, at), ranges(&to, at)), (3, ranges(&from, at)));
    assert_eq!(content(&to, at), content(&from, at));
}
