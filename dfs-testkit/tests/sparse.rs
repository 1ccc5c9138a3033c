//! Sparse files: where data and holes are, on both mounts, after writes, cuts, punched holes and
//! stores into a map.

#![allow(clippy::unwrap_used)]

use dfs_testkit::cluster::{Cluster, run};
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Bytes of a chunk of a new cluster, and of what is data or hole as a whole.
const CHUNK: u64 = 4 << 20;
const BLOCK: u64 = 4096;

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
    demand(&[(3 * CHUNK, 3 * CHUNK + BLOCK)]);
    a.write_all_at(&vec![1; CHUNK as usize + 1], 4 * CHUNK - 1)
        .unwrap();
    let first = (3 * CHUNK, 3 * CHUNK + BLOCK);
    demand(&[first, (4 * CHUNK - BLOCK, 5 * CHUNK)]);
    a.write_all_at(b"end", 20 * CHUNK).unwrap();
    let last = (20 * CHUNK, 20 * CHUNK + 3);
    demand(&[first, (4 * CHUNK - BLOCK, 5 * CHUNK), last]);
    // A hole that is punched, a cut, and what grows again.
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&b, hole, 3 * CHUNK, CHUNK).unwrap();
    demand(&[(4 * CHUNK, 5 * CHUNK), last]);
    fallocate(&b, hole, 4 * CHUNK + BLOCK, 2 * BLOCK + 7).unwrap();
    demand(&[
        (4 * CHUNK, 4 * CHUNK + BLOCK),
        (4 * CHUNK + 3 * BLOCK, 5 * CHUNK),
        last,
    ]);
    a.set_len(20 * CHUNK).unwrap();
    a.set_len(30 * CHUNK).unwrap();
    demand(&[
        (4 * CHUNK, 4 * CHUNK + BLOCK),
        (4 * CHUNK + 3 * BLOCK, 5 * CHUNK),
    ]);
    b.set_len(0).unwrap();
    demand(&[]);
    // Far out.
    let far = (i64::MAX as u64) / BLOCK * BLOCK - BLOCK;
    a.write_all_at(b"far", far).unwrap();
    demand(&[(far, far + 3)]);
    a.set_len(0).unwrap();
    drop((a, b));
    stored_into_a_map(&paths);
    space(&cluster);
    programs(&cluster);
    restarts(&cluster);
}

/// A store into a shared map is data before anybody has written it out.
fn stored_into_a_map(paths: &[std::path::PathBuf; 2]) {
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
    let data = (5 * CHUNK + 7) / BLOCK * BLOCK;
    assert_eq!(said, format!("{data}\n{data}\n"));
}

/// `st_blocks` is true at once, on both mounts.
fn space(cluster: &Cluster) {
    let paths = [1, 2].map(|mount| cluster.mount(mount).join("space"));
    let [a, b] = [open(&paths[0]), open(&paths[1])];
    let demand = |blocks: u64, what: &str| {
        for path in &paths {
            let metadata = std::fs::metadata(path).unwrap();
            assert_eq!(metadata.blocks(), blocks * 8, "{what}: {}", path.display());
        }
        assert_eq!(a.metadata().unwrap().blocks(), blocks * 8, "{what}");
    };
    demand(0, "empty");
    a.write_all_at(&[1; 5000], 0).unwrap();
    demand(2, "written from its start");
    b.write_all_at(&[1; 10_000], 5000).unwrap();
    demand(4, "written on");
    a.set_len(100 * CHUNK).unwrap();
    demand(4, "extended");
    b.write_all_at(b"x", 70 * CHUNK + 5).unwrap();
    demand(5, "written into a hole");
    a.write_all_at(b"y", 70 * CHUNK + 5000).unwrap();
    demand(6, "beside it");
    a.write_all_at(&vec![2; 2 * CHUNK as usize], 80 * CHUNK)
        .unwrap();
    demand(6 + 2048, "two chunks");
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&b, hole, 80 * CHUNK, CHUNK + BLOCK + 1).unwrap();
    demand(6 + 1023, "punched");
    a.set_len(80 * CHUNK).unwrap();
    demand(6, "cut");
    b.set_len(4097).unwrap();
    demand(2, "cut within the second block");
    a.set_len(0).unwrap();
    demand(0, "emptied");
    b.write_all_at(b"x", 9 * BLOCK).unwrap();
    demand(1, "written behind its end");
    let written: u64 = (0..10)
        .map(|n| {
            b.write_all_at(&[3; BLOCK as usize], n * BLOCK).unwrap();
            BLOCK
        })
        .sum();
    demand(written / BLOCK, "filled");
    a.set_len(0).unwrap();
    // Room that is made is taken up.
    fallocate(&a, FallocateFlags::empty(), 0, 10 * BLOCK + 1).unwrap();
    demand(11, "allocated");
    assert_eq!(b.metadata().unwrap().len(), 10 * BLOCK + 1);
    fallocate(&b, FallocateFlags::KEEP_SIZE, 0, 90 * BLOCK).unwrap();
    demand(11, "as far as it reaches");
    a.set_len(2 * CHUNK).unwrap();
    b.write_all_at(b"x", CHUNK + 9 * BLOCK).unwrap();
    demand(12, "extended");
    fallocate(
        &b,
        FallocateFlags::KEEP_SIZE,
        CHUNK - 10 * BLOCK,
        30 * BLOCK,
    )
    .unwrap();
    demand(12 + 29, "allocated around what is there");
    let mut byte = [0];
    a.read_exact_at(&mut byte, CHUNK + 9 * BLOCK).unwrap();
    assert_eq!(byte, *b"x");
    fallocate(&a, FallocateFlags::ZERO_RANGE, 5, 3 * CHUNK - 5).unwrap();
    demand(3 * 1024, "zeros in its place");
    assert_eq!(
        std::fs::read(&paths[1]).unwrap(),
        vec![0; 3 * CHUNK as usize]
    );
    a.set_len(0).unwrap();
    let keep = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
    b.write_all_at(&[7; 3 * BLOCK as usize], 0).unwrap();
    fallocate(&a, keep, BLOCK + 10, CHUNK).unwrap();
    demand(3, "zeros that leave the size");
    let mut expected = vec![7; 3 * BLOCK as usize];
    expected[BLOCK as usize + 10..].fill(0);
    assert_eq!(std::fs::read(&paths[1]).unwrap(), expected);
}

/// Copies keep holes, and archives do.
fn programs(cluster: &Cluster) {
    let [here, there] = [1, 2].map(|mount| cluster.mount(mount));
    let source = open(&here.join("source"));
    source.set_len(3 * CHUNK + 77).unwrap();
    source.write_all_at(&[5; 3000], 7 * BLOCK).unwrap();
    source.write_all_at(&[6; 3000], 2 * CHUNK - 1000).unwrap();
    // Zeros that are stored, for --sparse=always to find.
    source
        .write_all_at(&[0; 64 * BLOCK as usize], CHUNK)
        .unwrap();
    drop(source);
    let content = std::fs::read(there.join("source")).unwrap();
    let script = "\
        du --block-size=1 source | cut -f1
        cp --sparse=auto source auto
        cp --sparse=always source always
        cp --sparse=never source never
        tar --sparse -cf sparse.tar source
        mkdir out && tar -C out -xf sparse.tar
        rsync -S source synced
        stat -c '%n %b' always never out/source synced | sort
        [ $(stat -c %s sparse.tar) -lt 400000 ]
    ";
    let said = run(Command::new("sh").args(["-euc", script]).current_dir(&here));
    let stored = (1 + 2 + 64) * BLOCK;
    let blocks = |bytes: u64| bytes / 512;
    let zeros_too = blocks(stored);
    let data_only = blocks(3 * BLOCK);
    let all = blocks((3 * CHUNK + 77).next_multiple_of(BLOCK));
    assert_eq!(
        said,
        format!(
            "{stored}\nalways {data_only}\nnever {all}\nout/source {zeros_too}\nsynced {data_only}\n"
        )
    );
    // Some versions look for zeros within what is data.
    let auto = here.join("auto").metadata().unwrap().blocks();
    assert!(auto == zeros_too || auto == data_only, "{auto}");
    for name in ["auto", "always", "never", "out/source", "synced"] {
        assert!(
            std::fs::read(there.join(name)).unwrap() == content,
            "{name}"
        );
        let [here, there] = [&here, &there].map(|dir| dir.join(name).metadata().unwrap());
        assert_eq!(here.blocks(), there.blocks(), "{name}");
    }
}

/// Restarts of file servers change nothing of it, and copies that one gets of what it has missed have
/// the same holes. Three files, one after the other: of each another server is asked.
fn restarts(cluster: &Cluster) {
    let mounts = [1, 2].map(|mount| cluster.mount(mount));
    let files = ["one", "two", "three"].map(|name| (name, open(&mounts[0].join(name))));
    let write = |offset: u64| {
        for (_, file) in &files {
            file.write_all_at(b"data", offset).unwrap();
        }
    };
    let demand = |blocks: u64| {
        for (name, _) in &files {
            for mount in &mounts {
                let stored = mount.join(name).metadata().unwrap().blocks();
                assert_eq!(stored, blocks * 8, "{name} on {}", mount.display());
            }
        }
    };
    write(3 * BLOCK);
    write(CHUNK + 5 * BLOCK);
    demand(2);
    cluster.node("kill", "server-1");
    write(30 * BLOCK);
    cluster.node("start", "server-1");
    cluster.wait_healthy(Duration::from_secs(60));
    cluster.node("stop", "server-2");
    cluster.node("start", "server-2");
    cluster.wait_healthy(Duration::from_secs(60));
    // Nobody remembers what was stored before.
    write(3 * BLOCK);
    write(CHUNK + 5 * BLOCK);
    demand(3);
}
