//! What the tests of dfs stand on; nothing of it is in the product.

pub mod blocks;
pub mod cluster;
pub mod explore;
pub mod loop_disk;
pub mod map;
pub mod namespace;
pub mod one_file;
pub mod powered;
pub mod random;
pub mod sim;
pub mod subtree;
pub mod torture;
pub mod watch;

use std::time::{Duration, Instant};

/// Waits until `condition` holds; panics with `what` when it doesn't within `deadline`.
pub fn eventually(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < deadline,
            "{what}: not within {deadline:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    start.elapsed()
}

/// How often a repeated scenario runs: `DFS_TEST_ROUNDS`, else `default`.
pub fn rounds(default: usize) -> usize {
    std::env::var("DFS_TEST_ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(default)
}
