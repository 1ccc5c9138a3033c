//! Sparse files: where data and holes are, on both mounts, after writes, cuts, punched holes and
//! stores into a map.

#![allow(clippy::unwrap_used)]

use dfs_testkit::cluster::{Cluster, run};
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// Bytes of a chunk of a new cluster: data and holes are told apart by chunks.
const CHUNK: u64 = 4 << 20;

fn open(path: &Path) -> File {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    options.open(path).unwrap()
}

/// Beginning and end of each part with data.
fn parts(file: &File) -> Vec<(u64, u64)> {
    let mut parts = Vec::new();
    let mut at = 0;
    loop {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => return parts,
            Err(e) => panic!("SEEK_DATA from {at}: {e}"),
        };
        let hole = seek(file, SeekFrom::Hole(data)).unwrap();
        assert!(at <= data && data < hole, "{at}, {data}, {hole}");
        parts.push((data, hole));
        at = hole;
    }
}

#[test]
fn data_and_holes_are_told_truly() {
    let cluster = Cluster::with_mounts(2);
    let paths = [
        cluster.mount(1).join("sparse"),
        cluster.mount(2).join("sparse"),
    ];
    let [a, b] = [open(&paths[0]), open(&paths[1])];
    let demand = |expected: &[(u64, u64)]| {
        for (file, path) in [(&a, &paths[0]), (&b, &paths[1])] {
            assert_eq!(parts(file), expected, "{}", path.display());
            assert_eq!(parts(&File::open(path).unwrap()), expected);
        }
    };
    demand(&[]);
    assert_eq!(seek(&a, SeekFrom::Hole(0)), Err(Errno::NXIO));
    a.set_len(20 * CHUNK).unwrap();
    demand(&[]);
    assert_eq!(seek(&b, SeekFrom::Hole(7)), Ok(7));
    assert_eq!(seek(&b, SeekFrom::Hole(20 * CHUNK)), Err(Errno::NXIO));
    assert_eq!(seek(&b, SeekFrom::Data(20 * CHUNK)), Err(Errno::NXIO));
    // Every write is seen at once on the other mount.
    b.write_all_at(b"x", 3 * CHUNK + 9).unwrap();
    demand(&[(3 * CHUNK, 4 * CHUNK)]);
    a.write_all_at(&vec![1; CHUNK as usize + 1], 4 * CHUNK - 1)
        .unwrap();
    demand(&[(3 * CHUNK, 5 * CHUNK)]);
    a.write_all_at(b"end", 20 * CHUNK).unwrap();
    demand(&[(3 * CHUNK, 5 * CHUNK), (20 * CHUNK, 20 * CHUNK + 3)]);
    // A hole that is punched, a cut, and what grows again.
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&b, hole, 3 * CHUNK, CHUNK).unwrap();
    demand(&[(4 * CHUNK, 5 * CHUNK), (20 * CHUNK, 20 * CHUNK + 3)]);
    a.set_len(20 * CHUNK).unwrap();
    a.set_len(30 * CHUNK).unwrap();
    demand(&[(4 * CHUNK, 5 * CHUNK)]);
    b.set_len(0).unwrap();
    demand(&[]);
    // Far out.
    let far = (i64::MAX as u64) / CHUNK * CHUNK - CHUNK;
    a.write_all_at(b"far", far).unwrap();
    demand(&[(far, far + 3)]);
    a.set_len(0).unwrap();
    drop((a, b));
    stored(&paths);
}

/// A store into a shared map is data before anybody has written it out.
fn stored(paths: &[std::path::PathBuf; 2]) {
    let script = format!(
        "import mmap, os\n\
         f = open({:?}, 'r+b')\n\
         os.ftruncate(f.fileno(), {})\n\
         m = mmap.mmap(f.fileno(), 0)\n\
         m[{}] = 65\n\
         print(os.lseek(f.fileno(), 0, os.SEEK_DATA))\n\
         g = open({:?}, 'rb')\n\
         print(os.lseek(g.fileno(), 0, os.SEEK_DATA))\n",
        paths[0],
        10 * CHUNK,
        5 * CHUNK + 7,
        paths[1],
    );
    let said = run(Command::new("python3").args(["-c", &script]));
    let data = 5 * CHUNK;
    assert_eq!(said, format!("{data}\n{data}\n"));
}
