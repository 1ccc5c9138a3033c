//! Calls with unusual arguments: what a local file system answers.

#![allow(clippy::unwrap_used)]

use dfs_testkit::cluster::{Cluster, run};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, RenameFlags, Timespec, Timestamps, fallocate, renameat_with,
    utimensat,
};
use rustix::io::Errno;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

#[test]
fn unusual_calls() {
    let cluster = Cluster::with_mounts(2);
    let (a, b) = (cluster.mount(1), cluster.mount(2));
    whiteouts_are_refused(&a, &b);
    far_times_come_back(&a, &b);
    files_end_at_8_eib(&a, &b);
    limits_of_a_process_hold(&a, &b);
    flags_of_single_writes_are_taken(&a, &b);
    a_map_ends_where_its_file_is_cut(&a);
    a_file_is_cut_while_what_was_stored_into_its_map_is_not_written_out(&a, &b);
}

/// RENAME_WHITEOUT is of overlayfs alone; it is refused before anything is moved.
fn whiteouts_are_refused(a: &Path, b: &Path) {
    fs::write(a.join("old"), "x").unwrap();
    for flags in [
        RenameFlags::WHITEOUT,
        RenameFlags::WHITEOUT | RenameFlags::NOREPLACE,
    ] {
        let renamed = renameat_with(CWD, a.join("old"), CWD, a.join("new"), flags);
        assert_eq!(renamed, Err(Errno::INVAL));
    }
    assert_eq!(fs::read_to_string(b.join("old")).unwrap(), "x");
    assert!(!b.join("new").exists());
}

/// Times before 1970 and after 2106, with their nanoseconds, on the other mount too.
fn far_times_come_back(a: &Path, b: &Path) {
    let path = a.join("times");
    fs::write(&path, "").unwrap();
    let times = [
        (0, 0),
        (0, 1),
        (-1, 0),
        (-1, 1),
        (-1, 999_999_999),
        (-2_208_988_800, 123_456_789),
        (i64::from(i32::MIN), 5),
        (i64::from(i32::MIN) - 1, 999_999_999),
        (i64::from(u32::MAX) + 1, 7),
        (16_725_225_600, 8),
        (253_402_300_799, 999_999_999),
    ];
    for (which, (seconds, nanoseconds)) in times.into_iter().enumerate() {
        let time = Timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds,
        };
        let other = Timespec {
            tv_sec: which as i64,
            tv_nsec: 3,
        };
        let set = Timestamps {
            last_access: time,
            last_modification: other,
        };
        utimensat(CWD, &path, &set, AtFlags::empty()).unwrap();
        for seen in [
            fs::metadata(&path).unwrap(),
            fs::metadata(b.join("times")).unwrap(),
        ] {
            assert_eq!((seen.atime(), seen.atime_nsec()), (seconds, nanoseconds));
            assert_eq!((seen.mtime(), seen.mtime_nsec()), (which as i64, 3));
        }
    }
    // The farthest there are: whatever they become, nothing breaks.
    for seconds in [i64::MIN, i64::MIN + 1, i64::MAX] {
        let time = Timespec {
            tv_sec: seconds,
            tv_nsec: 999_999_999,
        };
        let set = Timestamps {
            last_access: time,
            last_modification: time,
        };
        utimensat(CWD, &path, &set, AtFlags::empty()).unwrap();
        let here = fs::metadata(&path).unwrap();
        let there = fs::metadata(b.join("times")).unwrap();
        assert_eq!(
            (here.mtime(), here.mtime_nsec()),
            (there.mtime(), there.mtime_nsec())
        );
    }
    // Both mounts still serve.
    run(Command::new("touch").arg(b.join("times")));
    assert!(fs::metadata(&path).unwrap().mtime() > 1_700_000_000);
}

/// The largest file has 8 EiB less one byte; EFBIG is what lies beyond.
fn files_end_at_8_eib(a: &Path, b: &Path) {
    let end = i64::MAX as u64;
    let options = fs::OpenOptions::new().read(true).write(true).clone();
    let create = options.clone().create(true).open(a.join("huge"));
    let file = create.unwrap();
    file.set_len(end).unwrap();
    let other = options.open(b.join("huge")).unwrap();
    let seen = other.metadata().unwrap();
    assert_eq!((seen.len(), seen.blocks()), (end, 0));
    other.write_all_at(b"z", end - 1).unwrap();
    let mut last = [9; 3];
    assert_eq!(file.read_at(&mut last, end - 3).unwrap(), 3);
    assert_eq!(last, *b"\0\0z");
    assert_eq!(file.metadata().unwrap().blocks(), 8);
    // The kernel refuses offsets that it can't count; it leaves lengths to us.
    let refused = file.write_at(b"!", end).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
    let refused = fallocate(&file, FallocateFlags::empty(), end - 1, 2);
    assert_eq!(refused, Err(Errno::FBIG));
    assert_eq!(other.metadata().unwrap().len(), end);
    fs::remove_file(a.join("huge")).unwrap();
}

fn python(script: &str, dir: &Path) -> String {
    // A call that hangs is a failure.
    run(Command::new("timeout")
        .args(["120", "python3", "-c", script])
        .current_dir(dir))
}

/// RLIMIT_FSIZE: a write that crosses it is cut short, the next one is refused, with a signal.
fn limits_of_a_process_hold(a: &Path, b: &Path) {
    let script = "
import os, resource, signal
got = []
signal.signal(signal.SIGXFSZ, lambda *_: got.append('signal'))
resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))
f = os.open('limited', os.O_RDWR | os.O_CREAT)
print(os.pwrite(f, b'x' * 6000, 7000))
for call in [lambda: os.pwrite(f, b'x', 10000), lambda: os.ftruncate(f, 10001),
             lambda: os.posix_fallocate(f, 0, 10001)]:
    try:
        print(call())
    except OSError as e:
        print(e.strerror)
os.ftruncate(f, 9000)
print(len(got), 'signals')
";
    let refused = "File too large\n".repeat(3);
    assert_eq!(python(script, a), format!("3000\n{refused}3 signals\n"));
    let content = fs::read(b.join("limited")).unwrap();
    assert_eq!(content.len(), 9000);
    assert!(content[..7000].iter().all(|byte| *byte == 0));
}

/// `pwritev2`: a single write can be synced, and polled for; one that must not wait is refused, as
/// the kernel does for every file system of this kind.
fn flags_of_single_writes_are_taken(a: &Path, b: &Path) {
    let script = "
import os
f = os.open('flags', os.O_RDWR | os.O_CREAT)
hipri, nowait = 1, 8
for at, flags in enumerate([os.RWF_DSYNC, os.RWF_SYNC, hipri, os.RWF_DSYNC | hipri]):
    print(os.pwritev(f, [b'ab', b'c'], 3 * at, flags))
try:
    os.pwritev(f, [b'ab'], 0, nowait)
except OSError as e:
    print(e.strerror)
for flag in [os.O_SYNC, os.O_DSYNC]:
    g = os.open('flags', os.O_WRONLY | os.O_APPEND | flag)
    print(os.write(g, b'end'))
print(os.pwritev(f, [b'!'], 0, os.RWF_APPEND))
";
    let said = python(script, a);
    assert_eq!(said, "3\n3\n3\n3\nOperation not supported\n3\n3\n1\n");
    let content = fs::read_to_string(b.join("flags")).unwrap();
    assert_eq!(content, "abcabcabcabcendend!");
}

/// Loads behind the end of a file that this host has cut are SIGBUS, as are stores.
fn a_map_ends_where_its_file_is_cut(a: &Path) {
    for touch in ["m[5000]", "m[5000] = 1"] {
        let script = format!(
            "
import mmap, os, signal, sys
f = open('mapped', 'w+b')
f.write(b'x' * 8192)
f.flush()
m = mmap.mmap(f.fileno(), 8192)
m[4096]
if os.fork() == 0:
    os.ftruncate(f.fileno(), 100)
    assert m[50] == 120 and m[200] == 0
    {touch}
    os._exit(0)
print(os.WTERMSIG(os.wait()[1]) == signal.SIGBUS)
"
        );
        assert_eq!(python(&script, a), "True\n", "{touch}");
    }
}

/// The kernel writes no page out before a truncation is answered: it must not wait for that, also while
/// another host writes and has this one drop its pages.
fn a_file_is_cut_while_what_was_stored_into_its_map_is_not_written_out(a: &Path, b: &Path) {
    let script = "
import mmap, os
f = open('cut', 'w+b')
f.truncate(1 << 20)
m = mmap.mmap(f.fileno(), 1 << 20)
for i in range(150):
    m[5000] = 1 + i
    m[700000] = 1 + i
    os.ftruncate(f.fileno(), 300001 + i)
    assert os.fstat(f.fileno()).st_size == 300001 + i
    assert m[5000] == 1 + i
    os.ftruncate(f.fileno(), 1 << 20)
    assert os.pread(f.fileno(), 1, 700000) == b'\\0'
print('cut')
";
    fs::write(a.join("cut"), "").unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let other = fs::OpenOptions::new().write(true).open(b.join("cut"));
            let other = other.unwrap();
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                other.write_all_at(b"other", 9000).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(3));
            }
        });
        let cut = python(script, a);
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(cut, "cut\n");
    });
    assert_eq!(fs::metadata(b.join("cut")).unwrap().len(), 1 << 20);
}
