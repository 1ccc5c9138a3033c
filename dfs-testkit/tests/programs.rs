//! What people do: git, tar, cargo, SQLite, on one mount and seen from the other.

#![allow(clippy::unwrap_used)]

use dfs_testkit::cluster::{Cluster, project, run};
use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn programs_run_unchanged() {
    let cluster = Cluster::with_mounts(2);
    let (a, b) = (cluster.mount(1), cluster.mount(2));
    git(&a, &b);
    tar(&a, &b);
    sqlite(&a, &b);
    cargo(&a, &b);
}

fn git_in(dir: &Path) -> Command {
    let mut git = Command::new("git");
    git.arg("-C")
        .arg(dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", dir);
    for (name, value) in [
        ("user.name", "t"),
        ("user.email", "t@t"),
        ("safe.directory", "*"),
    ] {
        git.args(["-c", &format!("{name}={value}")]);
    }
    git
}

fn git(a: &Path, b: &Path) {
    let source = tempfile::tempdir().unwrap();
    run(git_in(source.path()).args(["init", "-q"]));
    for number in 0..2000 {
        let dir = source.path().join(format!("d{}", number % 40));
        fs::create_dir_all(&dir).unwrap();
        fs::write(
            dir.join(format!("f{number}")),
            format!("file {number}\n").repeat(number % 30),
        )
        .unwrap();
    }
    run(git_in(source.path()).args(["add", "-A"]));
    run(git_in(source.path()).args(["commit", "-q", "-m", "all"]));
    let start = std::time::Instant::now();
    run(git_in(a)
        .args(["clone", "-q", "--no-hardlinks"])
        .arg(source.path())
        .arg(a.join("clone")));
    println!("git clone of 2000 files: {:.1?}", start.elapsed());
    run(git_in(&b.join("clone")).args(["fsck", "--full"]));
    assert_eq!(
        run(git_in(&b.join("clone")).args(["status", "--porcelain"])),
        ""
    );
    // And a commit from there, seen here.
    fs::write(b.join("clone/new"), "x").unwrap();
    run(git_in(&b.join("clone")).args(["add", "new"]));
    run(git_in(&b.join("clone")).args(["commit", "-q", "-m", "new"]));
    assert_eq!(
        run(git_in(&a.join("clone")).args(["status", "--porcelain"])),
        ""
    );
}

fn tar(a: &Path, b: &Path) {
    let archive = tempfile::NamedTempFile::new().unwrap();
    // All of /usr/include takes minutes; a part of it shows the same.
    let all = std::env::var_os("DFS_TEST_FULL").is_some();
    let candidates = [
        "/usr/include",
        "/usr/include/linux",
        "/usr/include",
        "/usr/share/doc",
    ];
    let source = candidates[usize::from(!all)..]
        .iter()
        .map(Path::new)
        .find(|p| p.is_dir());
    let source = source.expect("a dir with many files");
    run(Command::new("tar")
        .arg("-C")
        .arg(source)
        .arg("-cf")
        .arg(archive.path())
        .arg("."));
    fs::create_dir(a.join("tree")).unwrap();
    let start = std::time::Instant::now();
    run(Command::new("tar")
        .arg("-C")
        .arg(a.join("tree"))
        .arg("-xf")
        .arg(archive.path()));
    println!("tar -x of {}: {:.1?}", source.display(), start.elapsed());
    run(Command::new("diff")
        .args(["-r", "--no-dereference"])
        .arg(source)
        .arg(b.join("tree")));
    run(Command::new("rm").arg("-rf").arg(b.join("tree")));
    assert!(!a.join("tree").exists());
}

/// Four writers, two on each mount, in each rollback journal mode.
fn sqlite(a: &Path, b: &Path) {
    let script = r#"
import os, sqlite3, sys
mounts, mode, rows = sys.argv[1:3], sys.argv[3], 50
name = "/base-" + mode
c = sqlite3.connect(mounts[0] + name)
c.execute("pragma journal_mode=" + mode)
c.execute("create table t (who, n)")
c.commit()
c.close()
children = []
for who in range(4):
    pid = os.fork()
    if pid == 0:
        try:
            c = sqlite3.connect(mounts[who % 2] + name, timeout=60, isolation_level=None)
            c.execute("pragma journal_mode=" + mode)
            for n in range(rows):
                c.execute("begin immediate")
                c.execute("insert into t values (?, ?)", (who, n))
                c.execute("commit")
        except Exception as e:
            print("writer", who, "row", n, repr(e), flush=True)
            os._exit(1)
        os._exit(0)
    children.append(pid)
assert all(os.waitpid(p, 0)[1] == 0 for p in children), "a writer failed"
for mount in mounts:
    c = sqlite3.connect(mount + name, timeout=60)
    assert c.execute("select count(*), count(distinct who || '-' || n) from t").fetchone() == (4 * rows, 4 * rows)
    assert c.execute("pragma integrity_check").fetchone() == ("ok",)
    c.close()
"#;
    for mode in ["delete", "truncate", "persist"] {
        run(Command::new("python3")
            .arg("-c")
            .arg(script)
            .arg(a)
            .arg(b)
            .arg(mode));
    }
}

fn cargo(a: &Path, b: &Path) {
    let krate = a.join("crate");
    fs::create_dir_all(krate.join("src")).unwrap();
    fs::write(
        krate.join("Cargo.toml"),
        "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n",
    )
    .unwrap();
    fs::write(
        krate.join("src/main.rs"),
        "fn main() { println!(\"built here\"); }\n",
    )
    .unwrap();
    run(Command::new("cargo")
        .args(["build", "--offline", "--quiet"])
        .env_remove("CARGO_TARGET_DIR")
        .current_dir(&krate));
    assert_eq!(
        run(&mut Command::new(b.join("crate/target/debug/small"))),
        "built here\n"
    );
    assert!(project().join("Cargo.toml").exists());
}
