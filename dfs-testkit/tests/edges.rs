//! Calls with unusual arguments: what a local file system answers.

#![allow(clippy::unwrap_used)]

use dfs_testkit::cluster::{Cluster, run};
use rustix::fs::{AtFlags, CWD, RenameFlags, Timespec, Timestamps, renameat_with, utimensat};
use rustix::io::Errno;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

#[test]
fn unusual_calls() {
    let cluster = Cluster::with_mounts(2);
    let (a, b) = (cluster.mount(1), cluster.mount(2));
    whiteouts_are_refused(&a, &b);
    far_times_come_back(&a, &b);
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
