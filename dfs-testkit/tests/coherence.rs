//! Two mounts see one copy: what a call did on one is there on the other when it returns.

#![allow(clippy::unwrap_used)]

use dfs_testkit::cluster::Cluster;
use dfs_testkit::map::SharedMap;
use dfs_testkit::rounds;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

type Scenario = fn(a: &Path, b: &Path, rounds: usize);

const SCENARIOS: &[(&str, Scenario)] = &[
    ("new file", new_file),
    ("overwrite in place, the reader keeps it open", overwrite),
    ("a long-lived map on the reading side", read_through_map),
    ("a map and msync on the writing side", write_through_map),
    ("truncate and rewrite", truncate_and_rewrite),
    ("append", append),
    ("rename over", rename_over),
    ("unlink", unlink),
    ("dirs", dirs),
    ("attributes", attributes),
];

#[test]
fn two_mounts_agree_after_every_call() {
    let cluster = Cluster::with_mounts(2);
    let (a, b) = (cluster.mount(1), cluster.mount(2));
    let rounds = rounds(100);
    for (name, scenario) in SCENARIOS {
        let start = std::time::Instant::now();
        scenario(&a, &b, rounds);
        scenario(&b, &a, rounds);
        println!("{name}: 2 x {rounds} rounds in {:.1?}", start.elapsed());
    }
}

fn block(round: usize) -> Vec<u8> {
    format!("round {round:06};").into_bytes().repeat(300)
}

fn new_file(a: &Path, b: &Path, rounds: usize) {
    for i in 0..rounds {
        let name = format!("new-{i}");
        // A miss must not be remembered.
        assert_eq!(
            fs::metadata(b.join(&name)).unwrap_err().kind(),
            ErrorKind::NotFound
        );
        fs::write(a.join(&name), block(i)).unwrap();
        assert_eq!(
            fs::metadata(b.join(&name)).unwrap().len(),
            block(i).len() as u64
        );
        assert_eq!(fs::read(b.join(&name)).unwrap(), block(i), "round {i}");
        fs::remove_file(b.join(&name)).unwrap();
        assert_eq!(
            fs::metadata(a.join(&name)).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }
}

fn overwrite(a: &Path, b: &Path, rounds: usize) {
    let writer = File::create(a.join("over")).unwrap();
    writer.write_all_at(&block(0), 0).unwrap();
    let reader = File::open(b.join("over")).unwrap();
    let mut seen = vec![0; block(0).len()];
    for i in 0..rounds {
        writer.write_all_at(&block(i), 0).unwrap();
        reader.read_exact_at(&mut seen, 0).unwrap();
        assert_eq!(seen, block(i), "through the open descriptor, round {i}");
        if i % 8 == 0 {
            assert_eq!(
                fs::read(b.join("over")).unwrap(),
                block(i),
                "newly opened, round {i}"
            );
        }
    }
    fs::remove_file(a.join("over")).unwrap();
}

fn read_through_map(a: &Path, b: &Path, rounds: usize) {
    let writer = File::create(a.join("mapped")).unwrap();
    writer.write_all_at(&[0; 16384], 0).unwrap();
    let reader = File::open(b.join("mapped")).unwrap();
    let map = SharedMap::read_only(&reader, 16384).unwrap();
    for i in 0..rounds {
        let value = (i % 251) as u8 + 1;
        writer.write_all_at(&[value; 16384], 0).unwrap();
        for at in [0, 1, 4095, 4096, 9000, 16383] {
            assert_eq!(map.get(at), value, "byte {at}, round {i}");
        }
    }
    drop(map);
    fs::remove_file(a.join("mapped")).unwrap();
}

fn write_through_map(a: &Path, b: &Path, rounds: usize) {
    fs::write(a.join("msync"), [0; 8192]).unwrap();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(a.join("msync"))
        .unwrap();
    let mut map = SharedMap::writable(&file, 8192).unwrap();
    let reader = File::open(b.join("msync")).unwrap();
    let mut seen = [0; 8192];
    for i in 0..rounds {
        let value = (i % 251) as u8 + 1;
        map.put(0, &[value; 100]);
        map.put(8000, &[value; 192]);
        map.sync().unwrap();
        reader.read_exact_at(&mut seen, 0).unwrap();
        assert_eq!(
            (seen[0], seen[99], seen[8000], seen[8191]),
            (value, value, value, value)
        );
    }
    drop(map);
    fs::remove_file(a.join("msync")).unwrap();
}

fn truncate_and_rewrite(a: &Path, b: &Path, rounds: usize) {
    let mut reader = None;
    for i in 0..rounds {
        let text = format!("{i}:").repeat(1 + i % 50);
        fs::write(a.join("trunc"), &text).unwrap();
        let reader = reader.get_or_insert_with(|| File::open(b.join("trunc")).unwrap());
        assert_eq!(
            reader.metadata().unwrap().len(),
            text.len() as u64,
            "size, round {i}"
        );
        let mut seen = String::new();
        reader.seek(SeekFrom::Start(0)).unwrap();
        reader.read_to_string(&mut seen).unwrap();
        assert_eq!(seen, text, "round {i}");
    }
    // What was cut off reads as zeros when the file grows again.
    let file = OpenOptions::new()
        .write(true)
        .open(a.join("trunc"))
        .unwrap();
    file.write_all_at(&[7; 10_000], 0).unwrap();
    file.set_len(5000).unwrap();
    file.set_len(10_000).unwrap();
    let seen = fs::read(b.join("trunc")).unwrap();
    assert!(seen[..5000].iter().all(|x| *x == 7) && seen[5000..].iter().all(|x| *x == 0));
    fs::remove_file(a.join("trunc")).unwrap();
}

fn append(a: &Path, b: &Path, rounds: usize) {
    let open = |path: &Path| {
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .unwrap()
    };
    let (mut from_a, mut from_b) = (open(&a.join("log")), open(&b.join("log")));
    let mut expected = Vec::new();
    for i in 0..rounds {
        for (file, who) in [(&mut from_a, 'a'), (&mut from_b, 'b')] {
            let line = format!("{who} {i}\n");
            file.write_all(line.as_bytes()).unwrap();
            expected.extend_from_slice(line.as_bytes());
        }
        assert_eq!(
            fs::metadata(b.join("log")).unwrap().len(),
            expected.len() as u64
        );
        if i % 16 == 0 {
            assert_eq!(
                fs::read(a.join("log")).unwrap(),
                expected,
                "on a, round {i}"
            );
            assert_eq!(
                fs::read(b.join("log")).unwrap(),
                expected,
                "on b, round {i}"
            );
        }
    }
    fs::remove_file(a.join("log")).unwrap();
}

fn rename_over(a: &Path, b: &Path, rounds: usize) {
    for i in 0..rounds {
        fs::write(a.join("fresh"), block(i)).unwrap();
        fs::rename(a.join("fresh"), a.join("target")).unwrap();
        assert_eq!(fs::read(b.join("target")).unwrap(), block(i), "round {i}");
        assert_eq!(
            fs::metadata(b.join("fresh")).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }
    // Who has the old file open keeps it.
    let mut old = File::open(b.join("target")).unwrap();
    fs::write(a.join("fresh"), "new").unwrap();
    fs::rename(a.join("fresh"), a.join("target")).unwrap();
    let mut seen = Vec::new();
    old.read_to_end(&mut seen).unwrap();
    assert_eq!(seen, block(rounds - 1));
    fs::remove_file(a.join("target")).unwrap();
}

fn unlink(a: &Path, b: &Path, rounds: usize) {
    for i in 0..rounds {
        fs::write(a.join("gone"), block(i)).unwrap();
        let mut open = File::open(b.join("gone")).unwrap();
        fs::remove_file(a.join("gone")).unwrap();
        assert_eq!(
            fs::metadata(b.join("gone")).unwrap_err().kind(),
            ErrorKind::NotFound
        );
        assert_eq!(open.metadata().unwrap().nlink(), 0, "round {i}");
        let mut seen = Vec::new();
        open.read_to_end(&mut seen).unwrap();
        assert_eq!(seen, block(i), "deleted but open, round {i}");
    }
}

fn dirs(a: &Path, b: &Path, rounds: usize) {
    for i in 0..rounds {
        fs::create_dir(a.join("dir")).unwrap();
        assert!(fs::metadata(b.join("dir")).unwrap().is_dir());
        fs::write(b.join("dir/file"), "x").unwrap();
        let names: Vec<_> = fs::read_dir(a.join("dir"))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["file"], "round {i}");
        let busy = fs::remove_dir(a.join("dir")).unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::DirectoryNotEmpty);
        fs::remove_file(a.join("dir/file")).unwrap();
        fs::remove_dir(b.join("dir")).unwrap();
        assert_eq!(
            fs::metadata(a.join("dir")).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }
}

fn attributes(a: &Path, b: &Path, rounds: usize) {
    let file = File::create(a.join("attr")).unwrap();
    let seen = File::open(b.join("attr")).unwrap();
    let mut size = 0;
    for i in 0..rounds {
        let mode = if i % 2 == 0 { 0o600 } else { 0o644 };
        fs::set_permissions(a.join("attr"), Permissions::from_mode(mode)).unwrap();
        assert_eq!(
            fs::metadata(b.join("attr")).unwrap().mode() & 0o7777,
            mode,
            "round {i}"
        );
        assert_eq!(
            seen.metadata().unwrap().mode() & 0o7777,
            mode,
            "by descriptor, round {i}"
        );
        file.write_all_at(b"0123456789", size).unwrap();
        size += 10;
        assert_eq!(
            fs::metadata(b.join("attr")).unwrap().len(),
            size,
            "round {i}"
        );
        assert_eq!(
            seen.metadata().unwrap().len(),
            size,
            "by descriptor, round {i}"
        );
        let links = b.join("attr-link");
        fs::hard_link(b.join("attr"), &links).unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 2);
        fs::remove_file(&links).unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 1);
    }
    let mut sink = File::create(a.join("attr")).unwrap();
    sink.write_all(b"!").unwrap();
    assert_eq!(seen.metadata().unwrap().len(), 1);
    fs::remove_file(a.join("attr")).unwrap();
}
