//! Programs on two mounts that write one file at the same time: appends are whole, single writes
//! are atomic, a lock excludes.

#![allow(clippy::unwrap_used)]

use dfs_testkit::cluster::Cluster;
use dfs_testkit::rounds;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[test]
fn two_mounts_share_a_file() {
    let cluster = Cluster::with_mounts(2);
    let (a, b) = (cluster.mount(1), cluster.mount(2));
    appends_are_whole(&a, &b, 500, 100);
    appends_are_whole(&a, &b, rounds(100).min(500), 900 << 10);
    single_writes_are_atomic(&a, &b);
    what_was_cut_is_not_missed(&a, &b);
    let full = std::env::var_os("DFS_TEST_FULL").is_some();
    a_lock_excludes(&a, &b, Duration::from_secs(if full { 30 } else { 5 }));
}

/// fsync after writes that a truncation, on either mount, has taken on purpose.
fn what_was_cut_is_not_missed(a: &Path, b: &Path) {
    let written = vec![7; 10 << 20];
    let (here, there) = (a.join("cut"), b.join("cut"));
    let file = File::create(&here).unwrap();
    file.write_all_at(&written, 0).unwrap();
    file.set_len(1 << 20).unwrap();
    file.sync_all().unwrap();
    file.write_all_at(b"behind it", 9 << 20).unwrap();
    file.sync_all().unwrap();
    // By the other mount, between write and fsync; then grown again.
    for len in [1 << 20, 0] {
        file.write_all_at(&written, 0).unwrap();
        let other = OpenOptions::new().write(true).open(&there).unwrap();
        other.set_len(len).unwrap();
        file.sync_all().unwrap();
        assert_eq!(fs::metadata(&here).unwrap().len(), len);
        other.write_all_at(b"end", (10 << 20) - 3).unwrap();
        file.sync_all().unwrap();
    }
    let mut expected = vec![0; 10 << 20];
    expected[(10 << 20) - 3..].copy_from_slice(b"end");
    assert!(fs::read(&here).unwrap() == expected);
    // Without a name.
    file.write_all_at(&written, 0).unwrap();
    fs::remove_file(&here).unwrap();
    file.sync_all().unwrap();
    file.set_len(5).unwrap();
    file.sync_all().unwrap();
    assert_eq!(file.metadata().unwrap().len(), 5);
}

fn line(who: char, number: usize, len: usize) -> Vec<u8> {
    let mut line = format!("{who}{number:06} ").into_bytes();
    line.resize(len - 1, b'a' + (number % 26) as u8);
    line.push(b'\n');
    line
}

fn appends_are_whole(a: &Path, b: &Path, count: usize, len: usize) {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for (who, mount) in [('a', a), ('b', b)] {
            scope.spawn(move || {
                let path = mount.join("appended");
                let mut file = OpenOptions::new()
                    .append(true)
                    .create(true)
                    .open(path)
                    .unwrap();
                for number in 0..count {
                    // One write(2) a line.
                    let line = line(who, number, len);
                    assert_eq!(file.write(&line).unwrap(), len, "a short write");
                }
            });
        }
    });
    println!(
        "2 x {count} appends of {len} bytes: {:.1?}",
        start.elapsed()
    );
    let text = fs::read(b.join("appended")).unwrap();
    assert_eq!(text.len(), 2 * count * len, "lost or doubled bytes");
    let mut seen = BTreeSet::new();
    for found in text.chunks(len) {
        let who = char::from(found[0]);
        let number: usize = std::str::from_utf8(&found[1..7]).unwrap().parse().unwrap();
        assert!(
            found == line(who, number, len),
            "line {who}{number} is torn"
        );
        assert!(
            seen.insert((who, number)),
            "line {who}{number} is there twice"
        );
    }
    fs::remove_file(a.join("appended")).unwrap();
}

/// Two writers of the same 512 KiB across a chunk's border; a reader never sees a mixture.
fn single_writes_are_atomic(a: &Path, b: &Path) {
    const LEN: usize = 512 << 10;
    const AT: u64 = (4 << 20) - (LEN as u64 / 2);
    File::create(a.join("mixed"))
        .unwrap()
        .write_all_at(&[1; LEN], AT)
        .unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (mount, values) in [(a, [2u8, 3]), (b, [4, 5])] {
            let done = &done;
            scope.spawn(move || {
                let file = OpenOptions::new()
                    .write(true)
                    .open(mount.join("mixed"))
                    .unwrap();
                let mut turn = 0;
                while !done.load(Ordering::Relaxed) {
                    let data = vec![values[turn % 2]; LEN];
                    assert_eq!(file.write_at(&data, AT).unwrap(), LEN);
                    turn += 1;
                }
            });
        }
        let mut different = BTreeSet::new();
        for mount in [a, b] {
            let path = mount.join("mixed");
            let reader = OpenOptions::new()
                .read(true)
                .write(true)
                .open(path)
                .unwrap();
            let mut seen = vec![0; LEN];
            for _ in 0..rounds(100) {
                assert_eq!(reader.read_at(&mut seen, AT).unwrap(), LEN);
                let first = seen[0];
                let at = seen.iter().position(|x| *x != first);
                if let Some(at) = at {
                    done.store(true, Ordering::Relaxed);
                    panic!("a mixture of {first} and {} at {at}", seen[at]);
                }
                different.insert(first);
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(different.len() > 1, "the writers never wrote");
    });
    fs::remove_file(a.join("mixed")).unwrap();
}

fn a_lock_excludes(a: &Path, b: &Path, how_long: Duration) {
    File::create(a.join("lock")).unwrap();
    let inside = AtomicU64::new(0);
    let broken = AtomicU64::new(0);
    let grants = [AtomicU64::new(0), AtomicU64::new(0)];
    let start = Instant::now();
    std::thread::scope(|scope| {
        for (mount, count) in [(a, &grants[0]), (b, &grants[1])] {
            let (inside, broken) = (&inside, &broken);
            scope.spawn(move || {
                let file = File::open(mount.join("lock")).unwrap();
                while start.elapsed() < how_long {
                    file.lock().unwrap();
                    if inside.fetch_add(1, Ordering::SeqCst) != 0 {
                        broken.fetch_add(1, Ordering::SeqCst);
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                    inside.fetch_sub(1, Ordering::SeqCst);
                    file.unlock().unwrap();
                }
            });
        }
    });
    let counts = grants.map(AtomicU64::into_inner);
    let all = counts[0] + counts[1];
    println!("contended flock: {counts:?} in {how_long:?}");
    assert_eq!(broken.into_inner(), 0, "two held the lock at once");
    assert!(all > 100, "only {all} grants");
    assert!(
        counts.iter().all(|c| c * 4 >= all),
        "one mount starves: {counts:?}"
    );
}
