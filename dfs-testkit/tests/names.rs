//! Names and attributes that mounts and their kernels keep: they are served without a question,
//! and never after a change of another mount has returned.
//!
//! Each dir is changed too rarely to become hot (then nobody keeps its names), but for the test
//! that wants that.

#![allow(clippy::unwrap_used)]

use dfs_testkit::cluster::Cluster;
use dfs_testkit::rounds;
use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

type Scenario = fn(a: &Path, b: &Path, round: usize);

const SCENARIOS: &[(&str, Scenario)] = &[
    ("names that are not there", names_that_are_not_there),
    ("names that go", names_that_go),
    ("names that move", names_that_move),
    ("dirs", dirs),
    ("attributes", attributes),
    ("a listing", a_listing),
];

fn is_there(path: &Path) -> bool {
    match fs::symlink_metadata(path) {
        Ok(_) => true,
        Err(e) if e.kind() == ErrorKind::NotFound => false,
        Err(e) => panic!("{}: {e}", path.display()),
    }
}

/// Looks until both the mount and its kernel have what they may keep.
fn warm(path: &Path) -> bool {
    is_there(path);
    is_there(path)
}

#[test]
fn what_is_kept_is_true() {
    let cluster = Cluster::with_mounts(2);
    let (a, b) = (cluster.mount(1), cluster.mount(2));
    for (name, scenario) in SCENARIOS {
        let start = Instant::now();
        for round in 0..rounds(40) {
            // A dir of its own for each round, seen by both before.
            let dir = PathBuf::from(format!("{}-{round}", name.replace(' ', "-")));
            fs::create_dir(a.join(&dir)).unwrap();
            let (first, second) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
            warm(&first.join(&dir));
            warm(&second.join(&dir));
            scenario(&first.join(&dir), &second.join(&dir), round);
        }
        println!("{name}: {} rounds in {:.1?}", rounds(40), start.elapsed());
    }
}

fn names_that_are_not_there(a: &Path, b: &Path, round: usize) {
    assert!(!warm(&b.join("file")));
    File::create_new(a.join("file")).unwrap();
    assert!(is_there(&b.join("file")), "round {round}");
    assert!(!warm(&b.join("link")));
    fs::hard_link(a.join("file"), a.join("link")).unwrap();
    assert_eq!(fs::metadata(b.join("link")).unwrap().nlink(), 2);
    assert_eq!(fs::metadata(b.join("file")).unwrap().nlink(), 2);
    assert!(!warm(&b.join("symlink")));
    symlink("file", a.join("symlink")).unwrap();
    assert_eq!(fs::read_link(b.join("symlink")).unwrap(), Path::new("file"));
    // The other way round, over the same names.
    fs::remove_file(b.join("symlink")).unwrap();
    assert!(!is_there(&a.join("symlink")), "round {round}");
}

fn names_that_go(a: &Path, b: &Path, round: usize) {
    fs::write(a.join("file"), "x").unwrap();
    assert!(warm(&b.join("file")));
    fs::remove_file(a.join("file")).unwrap();
    assert!(!is_there(&b.join("file")), "round {round}");
    fs::write(b.join("file"), "yy").unwrap();
    assert_eq!(fs::metadata(a.join("file")).unwrap().len(), 2);
    // Another file under the same name.
    let before = fs::metadata(a.join("file")).unwrap().ino();
    fs::remove_file(b.join("file")).unwrap();
    fs::write(b.join("file"), "zzz").unwrap();
    let after = fs::metadata(a.join("file")).unwrap();
    assert_ne!(after.ino(), before, "round {round}");
    assert_eq!(after.len(), 3);
}

fn names_that_move(a: &Path, b: &Path, round: usize) {
    fs::write(a.join("old"), "old").unwrap();
    fs::write(a.join("new"), "new").unwrap();
    fs::create_dir(a.join("sub")).unwrap();
    for name in ["old", "new", "sub", "sub/old"] {
        warm(&b.join(name));
    }
    fs::rename(a.join("new"), a.join("old")).unwrap();
    assert!(!is_there(&b.join("new")), "round {round}");
    assert_eq!(fs::read_to_string(b.join("old")).unwrap(), "new");
    fs::rename(a.join("old"), a.join("sub/old")).unwrap();
    assert!(!is_there(&b.join("old")), "round {round}");
    assert_eq!(fs::read_to_string(b.join("sub/old")).unwrap(), "new");
    // A dir takes what is below it along.
    warm(&b.join("moved/old"));
    fs::rename(a.join("sub"), a.join("moved")).unwrap();
    assert!(!is_there(&b.join("sub/old")), "round {round}");
    assert!(is_there(&b.join("moved/old")), "round {round}");
}

fn dirs(a: &Path, b: &Path, round: usize) {
    let links = fs::metadata(b).unwrap().nlink();
    assert!(!warm(&b.join("dir")));
    fs::create_dir(a.join("dir")).unwrap();
    assert_eq!(fs::metadata(b).unwrap().nlink(), links + 1, "round {round}");
    assert!(fs::metadata(b.join("dir")).unwrap().is_dir());
    assert!(!warm(&b.join("dir/file")));
    fs::write(a.join("dir/file"), "x").unwrap();
    assert!(is_there(&b.join("dir/file")), "round {round}");
    fs::remove_file(b.join("dir/file")).unwrap();
    fs::remove_dir(a.join("dir")).unwrap();
    assert!(!is_there(&b.join("dir")), "round {round}");
    assert_eq!(fs::metadata(b).unwrap().nlink(), links, "round {round}");
}

fn attributes(a: &Path, b: &Path, round: usize) {
    fs::write(a.join("file"), "x").unwrap();
    let mode = |path: PathBuf| fs::metadata(path).unwrap().mode() & 0o7777;
    let set = |path: PathBuf, mode| fs::set_permissions(path, Permissions::from_mode(mode));
    warm(&b.join("file"));
    for (who, other, bits) in [(a, b, 0o600), (b, a, 0o640), (a, b, 0o604)] {
        set(who.join("file"), bits).unwrap();
        assert_eq!(mode(other.join("file")), bits, "round {round}");
        assert_eq!(mode(who.join("file")), bits, "round {round}");
    }
    warm(b);
    set(a.to_path_buf(), 0o750).unwrap();
    assert_eq!(mode(b.to_path_buf()), 0o750, "round {round}");
    // Sizes and times of a file that is written by one and watched by the other.
    let seen = File::open(b.join("file")).unwrap();
    for len in [10, 5_000, 3] {
        fs::write(a.join("file"), vec![7; len]).unwrap();
        assert_eq!(seen.metadata().unwrap().len(), len as u64, "round {round}");
        let meta = |dir: &Path| {
            let meta = fs::metadata(dir.join("file")).unwrap();
            (
                meta.len(),
                meta.mtime(),
                meta.mtime_nsec(),
                meta.ctime(),
                meta.ctime_nsec(),
            )
        };
        assert_eq!(meta(a), meta(b), "round {round}");
    }
}

fn a_listing(a: &Path, b: &Path, round: usize) {
    let list = |dir: &Path| {
        let mut seen: Vec<(String, u64)> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let len = entry.metadata().unwrap().len();
                (entry.file_name().into_string().unwrap(), len)
            })
            .collect();
        seen.sort();
        seen
    };
    let mut expected = Vec::new();
    for (i, name) in ["p", "q", "r"].into_iter().enumerate() {
        fs::write(a.join(name), vec![1; i + 1]).unwrap();
        expected.push((name.to_owned(), i as u64 + 1));
        assert_eq!(list(b), expected, "round {round}");
        assert_eq!(list(a), expected, "round {round}");
    }
    fs::write(b.join("q"), vec![1; 100]).unwrap();
    expected[1].1 = 100;
    assert_eq!(list(a), expected, "round {round}");
    assert_eq!(list(b), expected, "round {round}");
}

/// What one mount does to a name, and how far it is: odd while it is being changed.
struct Watched {
    path: &'static str,
    state: AtomicU64,
    there: AtomicBool,
}

/// One mount makes, moves and removes names while threads on the other look at all of them: what
/// they see between two changes is what the last one has left.
#[test]
fn names_under_way() {
    const DIRS: usize = 16;
    let cluster = Cluster::with_mounts(2);
    let (a, b) = (cluster.mount(1), cluster.mount(2));
    for dir in 0..DIRS {
        fs::create_dir(a.join(format!("{dir}"))).unwrap();
    }
    let names: Vec<Vec<Watched>> = (0..DIRS)
        .map(|_| {
            ["x", "y"]
                .map(|path| Watched {
                    path,
                    state: AtomicU64::new(0),
                    there: AtomicBool::new(false),
                })
                .into()
        })
        .collect();
    let ended = AtomicBool::new(false);
    let looks = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let watchers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    while !ended.load(Ordering::SeqCst) {
                        for (dir, watched) in names.iter().enumerate() {
                            for name in watched {
                                let path = b.join(format!("{dir}")).join(name.path);
                                let before = name.state.load(Ordering::SeqCst);
                                let expected = name.there.load(Ordering::SeqCst);
                                let seen = is_there(&path);
                                let after = name.state.load(Ordering::SeqCst);
                                if before == after && before % 2 == 0 {
                                    looks.fetch_add(1, Ordering::Relaxed);
                                    assert_eq!(seen, expected, "{dir}/{}", name.path);
                                }
                            }
                        }
                    }
                })
            })
            .collect();
        let change = |names: &[(&Watched, bool)], act: &dyn Fn()| {
            for (name, _) in names {
                name.state.fetch_add(1, Ordering::SeqCst);
            }
            act();
            for (name, there) in names {
                name.there.store(*there, Ordering::SeqCst);
                name.state.fetch_add(1, Ordering::SeqCst);
            }
        };
        let end = Instant::now() + Duration::from_millis(rounds(100) as u64 * 200);
        while Instant::now() < end && watchers.iter().all(|w| !w.is_finished()) {
            for (dir, watched) in names.iter().enumerate() {
                let at = a.join(format!("{dir}"));
                let (x, y) = (&watched[0], &watched[1]);
                change(&[(x, true)], &|| {
                    drop(File::create_new(at.join("x")).unwrap())
                });
                change(&[(x, false), (y, true)], &|| {
                    fs::rename(at.join("x"), at.join("y")).unwrap();
                });
                change(&[(y, false)], &|| fs::remove_file(at.join("y")).unwrap());
            }
            // Too rarely for any of the dirs to become hot.
            std::thread::sleep(Duration::from_millis(400));
        }
        ended.store(true, Ordering::SeqCst);
    });
    println!("{} looks between changes", looks.load(Ordering::Relaxed));
    assert!(looks.load(Ordering::Relaxed) > 100);
}

/// Two mounts make and remove names in one dir at once: nobody waits for the other for long, and
/// both see what is there in the end.
#[test]
fn a_hot_dir_is_shared() {
    let cluster = Cluster::with_mounts(2);
    let mounts = [cluster.mount(1), cluster.mount(2)];
    fs::create_dir(mounts[0].join("hot")).unwrap();
    let rounds = rounds(60);
    std::thread::scope(|scope| {
        for (who, mount) in mounts.iter().enumerate() {
            scope.spawn(move || {
                let dir = mount.join("hot");
                for i in 0..rounds {
                    let (first, second) = (
                        dir.join(format!("{who}-{i}")),
                        dir.join(format!("{who}-{i}-moved")),
                    );
                    fs::create_dir(&first).unwrap();
                    assert!(is_there(&first));
                    fs::rename(&first, &second).unwrap();
                    assert!(!is_there(&first) && is_there(&second));
                    // What the other does is seen in whatever state it is, but never fails.
                    for entry in fs::read_dir(&dir).unwrap() {
                        is_there(&entry.unwrap().path());
                    }
                    if i % 2 == 0 {
                        fs::remove_dir(&second).unwrap();
                    }
                }
            });
        }
    });
    let list = |mount: &PathBuf| {
        let mut names: Vec<_> = fs::read_dir(mount.join("hot"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    assert_eq!(list(&mounts[0]), list(&mounts[1]));
    assert_eq!(list(&mounts[0]).len(), 2 * (rounds / 2));
}

/// A mount whose process is stopped: its kernel serves what it has for as long as the others wait,
/// and not longer.
#[test]
fn a_paused_mount_serves_no_old_names() {
    let cluster = Cluster::with_mounts(2);
    let (a, b) = (cluster.mount(1), cluster.mount(2));
    for round in 0..rounds(100).div_ceil(50) {
        let dir = format!("d{round}");
        fs::create_dir(a.join(&dir)).unwrap();
        fs::write(a.join(&dir).join("goes"), "x").unwrap();
        let b_dir = b.join(&dir);
        assert!(warm(&b_dir.join("goes")));
        assert!(!warm(&b_dir.join("comes")));
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        fs::write(a.join(&dir).join("stays"), "x").unwrap();
        assert_eq!(mode(&b_dir.join("stays")), 0o644);
        cluster.node("pause", "mount-2");
        fs::remove_file(a.join(&dir).join("goes")).unwrap();
        fs::write(a.join(&dir).join("comes"), "x").unwrap();
        let stays = a.join(&dir).join("stays");
        fs::set_permissions(&stays, Permissions::from_mode(0o600)).unwrap();
        // From here on no old answer counts. The kernel asks the mount, which is stopped.
        let looking = std::thread::spawn(move || {
            (
                is_there(&b_dir.join("goes")),
                is_there(&b_dir.join("comes")),
                mode(&b_dir.join("stays")),
            )
        });
        std::thread::sleep(Duration::from_millis(300));
        cluster.node("resume", "mount-2");
        assert_eq!(
            looking.join().unwrap(),
            (false, true, 0o600),
            "round {round}"
        );
    }
}

/// The directory forgets who keeps which names: the mounts have dropped them before it lets
/// anything change.
#[test]
fn cached_names_survive_no_restart() {
    let cluster = Cluster::with_mounts(2);
    let (a, b) = (cluster.mount(1), cluster.mount(2));
    for round in 0..rounds(100).div_ceil(25) {
        let dir = format!("d{round}");
        fs::create_dir(a.join(&dir)).unwrap();
        fs::write(a.join(&dir).join("goes"), "x").unwrap();
        let b_dir = b.join(&dir);
        assert!(warm(&b_dir.join("goes")));
        assert!(!warm(&b_dir.join("comes")));
        cluster.node("kill", "directory-1");
        let changing = {
            let a = a.join(&dir);
            std::thread::spawn(move || {
                fs::remove_file(a.join("goes")).unwrap();
                File::create_new(a.join("comes")).unwrap();
            })
        };
        cluster.node("start", "directory-1");
        changing.join().unwrap();
        assert!(!is_there(&b_dir.join("goes")), "round {round}");
        assert!(is_there(&b_dir.join("comes")), "round {round}");
    }
}

/// While the directory is stopped, what is kept is still served (for as long as the right lasts):
/// so it is kept.
#[test]
fn what_is_kept_needs_no_question() {
    let cluster = Cluster::with_mounts(1);
    let a = cluster.mount(1);
    fs::create_dir(a.join("dir")).unwrap();
    for i in 0..20 {
        fs::write(a.join(format!("dir/{i}")), "x").unwrap();
    }
    // A busy machine may take so long that the right ends first: then it is tried again.
    let served = (0..10).any(|_| {
        for i in 0..20 {
            assert!(is_there(&a.join(format!("dir/{i}"))));
            assert!(!is_there(&a.join(format!("dir/not-{i}"))));
        }
        cluster.node("pause", "directory-1");
        let path = a.clone();
        let (tell, told) = std::sync::mpsc::channel();
        let looking = std::thread::spawn(move || {
            for i in 0..20 {
                assert!(is_there(&path.join(format!("dir/{i}"))));
                assert!(!is_there(&path.join(format!("dir/not-{i}"))));
            }
            // Nobody listens when it took too long.
            let _ = tell.send(());
        });
        let served = told.recv_timeout(Duration::from_secs(1)).is_ok();
        cluster.node("resume", "directory-1");
        looking.join().unwrap();
        served
    });
    assert!(served, "each look was a question to the directory");
}

/// A dir that was removed and is still open: its attributes are there, it has no link any more.
#[test]
fn a_removed_dir_that_is_open_has_attributes() {
    let cluster = Cluster::with_mounts(2);
    let (a, b) = (cluster.mount(1), cluster.mount(2));
    fs::create_dir(a.join("dir")).unwrap();
    let open = [
        File::open(a.join("dir")).unwrap(),
        File::open(b.join("dir")).unwrap(),
    ];
    fs::remove_dir(a.join("dir")).unwrap();
    for dir in open {
        let meta = dir.metadata().unwrap();
        assert!(meta.is_dir());
        assert_eq!(meta.nlink(), 0);
    }
}
