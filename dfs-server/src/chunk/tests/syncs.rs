//! Who asks at the same time is served together.

use super::*;
use std::sync::Barrier;
use std::time::Duration;

const CALLERS: usize = 16;

#[test]
fn one_pass_of_the_disk_serves_all_who_ask_for_a_chunk() {
    let dir = scratch();
    let (store, _) = open(dir.path());
    store.disk.faults.slow_syncs(Duration::from_millis(50));
    let (key, barrier) = (key(1, 0), Barrier::new(CALLERS));
    for round in 1..=5u64 {
        // Always new blocks: an overwrite would sync a mark first.
        let data = bytes(round, 4096);
        let offset = (round as u32 - 1) * 4096;
        write_at(&store, key, 0, round, offset, &data).expect("written");
        std::thread::scope(|scope| {
            for _ in 0..CALLERS {
                scope.spawn(|| {
                    barrier.wait();
                    store.sync(&[key]).expect("synced");
                });
            }
        });
        let (asked, passes) = store.sync_counts();
        assert_eq!(passes, round, "a pass for each state");
        assert!(asked >= passes);
    }
    let (asked, passes) = store.sync_counts();
    assert!(asked > passes, "{asked} callers at one time found it done");
}
