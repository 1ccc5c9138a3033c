//! Random calls on one file from two mounts. `DFS_TEST_FILE_SEEDS` (as in "1 2 3") and
//! `DFS_TEST_FILE_CALLS` say how many.

#![allow(clippy::unwrap_used)]

use dfs_testkit::cluster::Cluster;
use dfs_testkit::one_file::{Ground, check, generate, run};

fn count(default: usize) -> usize {
    let set = std::env::var("DFS_TEST_FILE_CALLS").ok();
    set.map_or(default, |n| n.parse().unwrap())
}

fn seeds() -> Vec<u64> {
    let set = std::env::var("DFS_TEST_FILE_SEEDS").unwrap_or_else(|_| "1 2".into());
    set.split_whitespace().map(|n| n.parse().unwrap()).collect()
}

#[test]
fn two_mounts_see_one_file() {
    let cluster = Cluster::with_mounts(2);
    let ground = Ground::mounts(&cluster.mount(1), &cluster.mount(2));
    for seed in seeds() {
        let begun = std::time::Instant::now();
        check(&ground, seed, count(1000));
        println!(
            "seed {seed}: {} calls in {:?}",
            count(1000),
            begun.elapsed()
        );
    }
}

/// The model is right: a local file system does what it says. Some, like those in memory, know no
/// zeros in place of a range or no O_DIRECT, and say nothing.
#[test]
fn a_local_file_system_is_as_the_model() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let ground = Ground::local(dir.path());
    for seed in 100..104 {
        if let Err(failure) = run(&ground, "file", &generate(seed, 2000)) {
            let unknown = ["not supported", "Invalid argument"];
            let is_unknown = unknown.iter().any(|what| failure.what.contains(what));
            assert!(is_unknown, "seed {seed}, {failure}");
        }
    }
}
