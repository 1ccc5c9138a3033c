//! Random lock calls of several processes on a mount and on a local file system, in step: the same
//! answers, and the same locks held after each.
//!
//! Processes alternate between two mounts. They lock with flock, as a process (F_SETLK) and as an
//! open file (F_OFD_SETLK); they open, close, duplicate descriptors, leave them to a child, wait, are
//! told of deadlocks, and are killed. What a local file system leaves to chance is not asked for:
//! two waiters never want what excludes the other.

#![allow(clippy::unwrap_used)]

#[path = "lock_oracle/agent.rs"]
mod agent;
#[path = "lock_oracle/calls.rs"]
mod calls;
#[path = "lock_oracle/host.rs"]
mod host;

use calls::{Call, Calls};
use dfs_testkit::cluster::Cluster;
use host::{Cluster as OnCluster, Host, Local, Seen};

/// So many processes: two on each mount.
const AGENTS: usize = 4;

#[test]
fn locks_are_those_of_a_local_file_system() {
    let steps = std::env::var("DFS_TEST_STEPS").ok();
    let steps: usize = steps.and_then(|n| n.parse().ok()).unwrap_or(600);
    let cluster = Cluster::with_mounts(2);
    let local = tempfile::tempdir().unwrap();
    for seed in 1..=dfs_testkit::rounds(1) as u64 {
        let name = format!("locked-{seed}");
        let paths: Vec<_> = (0..AGENTS)
            .map(|i| cluster.mount(i % 2 + 1).join(&name))
            .collect();
        let mut ours = Host::new(OnCluster::new(&cluster, &paths[0]), &paths);
        let oracle = local.path().join(&name);
        std::fs::write(&oracle, "").unwrap();
        let mut theirs = Host::new(Local::new(&oracle), &vec![oracle.clone(); AGENTS]);
        let mut calls = Calls::new(seed, AGENTS);
        let mut history: Vec<(Call, Seen)> = Vec::new();
        for _ in 0..steps {
            let call = calls.next();
            let expected = theirs.run(call);
            history.push((call, expected.clone()));
            let found = ours.run_until(call, &expected);
            if let Err(difference) = found {
                let last: Vec<String> = history
                    .iter()
                    .rev()
                    .take(40)
                    .rev()
                    .map(|(call, seen)| format!("{call:?} -> {seen:?}"))
                    .collect();
                panic!("seed {seed}:\n{}\n{difference}", last.join("\n"));
            }
            calls.saw(call, &expected);
        }
    }
}
