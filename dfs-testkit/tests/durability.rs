//! What is on disk when a call returns: after `kill -9` of everything, and after a power cut.

#![allow(clippy::unwrap_used)]

use dfs_testkit::blocks::{Blocks, Durable};
use dfs_testkit::cluster::{Cluster, output, run};
use dfs_testkit::loop_disk::{Format, LoopDisk};
use dfs_testkit::powered::Powered;
use dfs_testkit::rounds;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SERVERS: [&str; 3] = ["server-1", "server-2", "server-3"];
const DISKS: [(&str, u64); 4] = [
    ("directory-1", 1024),
    ("server-1", 1024),
    ("server-2", 1024),
    ("server-3", 1024),
];

/// All replicas are in-sync again within this, whatever happened.
const RETURN: Duration = Duration::from_secs(60);

/// Blocks of one writer's file: some chunks.
const BLOCKS: u32 = 2304;

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

/// Ends the writers, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes and syncs in all ways until it is told to stop. Returns how often a call failed.
fn write_until(stop: &AtomicBool, blocks: &mut Blocks, dice: &mut Dice) -> usize {
    let mut failed = 0;
    while !stop.load(Ordering::Relaxed) {
        let durable = dice.one_of(&Durable::ALL);
        let count = dice.one_of(&[1u64, 1, 2, 16, 64, 300]);
        let first = dice.below(u64::from(blocks.blocks()) - count);
        if blocks.write(first as u32, count as u32, durable).is_err() {
            // What was not synced may be gone, and this call says so.
            failed += 1;
        }
    }
    failed
}

/// A file that is replaced as a whole: written beside, synced, renamed.
fn replace_until(stop: &AtomicBool, dir: &Path, number: &mut u64) {
    let (draft, path) = (dir.join("replaced.new"), dir.join("replaced"));
    while !stop.load(Ordering::Relaxed) {
        let text = format!("{}\n", *number + 1).repeat(2000);
        let replaced = fs::write(&draft, text)
            .and_then(|()| fs::File::open(&draft)?.sync_all())
            .and_then(|()| fs::rename(&draft, &path));
        if replaced.is_ok() {
            *number += 1;
        }
    }
}

fn check_replaced(dir: &Path, number: u64) {
    if number == 0 {
        return;
    }
    let text = fs::read_to_string(dir.join("replaced")).unwrap();
    let seen: u64 = text.lines().next().unwrap().parse().unwrap();
    assert!(
        seen == number || seen == number + 1,
        "{seen} is there, {number} was put into place"
    );
    assert_eq!(text, format!("{seen}\n").repeat(2000));
}

fn check_replicas(cluster: &Cluster) {
    let verify = output(&mut cluster.ctl(&["verify"]));
    assert!(
        verify.status.success(),
        "{}{}",
        String::from_utf8_lossy(&verify.stdout),
        String::from_utf8_lossy(&verify.stderr)
    );
}

/// Load on two mounts, then `strike`, then everything is looked at. `whole`: nothing that was
/// answered may be missing, synced or not.
fn survives(cluster: &Cluster, rounds: usize, whole: bool, strike: impl Fn()) -> usize {
    let mounts = [cluster.mount(1), cluster.mount(2)];
    let mut files: Vec<Blocks> = (0..4)
        .map(|id| {
            let path = mounts[id % 2].join(format!("blocks-{id}"));
            Blocks::new(path, id as u32, BLOCKS)
        })
        .collect();
    let (mut replaced, mut failures) = (0, 0);
    let mut dice = Dice(0x5eed);
    for round in 0..rounds {
        let stop = AtomicBool::new(false);
        let failed: usize = std::thread::scope(|scope| {
            let writers: Vec<_> = files
                .iter_mut()
                .map(|blocks| {
                    let mut dice = Dice(dice.below(u64::MAX));
                    let stop = &stop;
                    scope.spawn(move || write_until(stop, blocks, &mut dice))
                })
                .collect();
            scope.spawn(|| replace_until(&stop, &mounts[0], &mut replaced));
            std::thread::sleep(Duration::from_millis(1500 + dice.below(1500)));
            let ends = Stop(&stop);
            strike();
            drop(ends);
            writers.into_iter().map(|w| w.join().unwrap()).sum()
        });
        failures += failed;
        let waited = cluster.wait_healthy(RETURN);
        println!("round {round}: {failed} calls failed, in-sync after {waited:.1?}");
        for (id, blocks) in files.iter().enumerate() {
            let other = mounts[1 - id % 2].join(format!("blocks-{id}"));
            for path in [blocks.path().to_owned(), other] {
                let checked = match whole {
                    true => blocks.check_all(&path),
                    false => blocks.check(&path),
                };
                checked.unwrap_or_else(|e| panic!("round {round}: {e}"));
            }
        }
        check_replaced(&mounts[1], replaced);
        check_replicas(cluster);
    }
    failures
}

fn missing(format: Format) -> bool {
    let missing = LoopDisk::missing(format);
    if let Some(why) = &missing {
        println!("SKIPPED, {format:?}: {why}");
    }
    missing.is_some()
}

#[test]
fn what_was_synced_survives_a_power_cut_of_everything() {
    for format in [Format::Ext4, Format::Xfs] {
        if !missing(format) {
            let powered = Powered::up(&["--mounts", "2"], format, &DISKS);
            survives(&powered.cluster, rounds(1), false, || powered.cut_power());
        }
    }
}

#[test]
fn what_was_answered_survives_the_death_of_all_servers() {
    let cluster = Cluster::with_mounts(2);
    let failures = survives(&cluster, rounds(2), true, || {
        for node in SERVERS {
            cluster.node("kill", node);
        }
        for node in SERVERS {
            cluster.node("start", node);
        }
    });
    assert_eq!(failures, 0, "callers wait, and see no error");
}

#[test]
fn killed_servers_do_not_wait_for_one_that_never_returns() {
    let cluster = Cluster::with_mounts(2);
    let path = |mount: usize| cluster.mount(mount).join("answered");
    let content = |round: u8| -> Vec<u8> {
        let block = |n: u32| [n as u8 ^ round; 4096];
        (0..2048).flat_map(block).collect()
    };
    for round in 0..2 {
        // Answered, and not synced by anybody.
        fs::write(path(1), content(round)).unwrap();
        // At once: one after the other the last one would have served alone.
        let pids = SERVERS.map(|node| cluster.pid(node).to_string());
        run(Command::new("kill").arg("-9").args(pids));
        let (back, away) = SERVERS.split_at(2);
        for node in back {
            cluster.node("start", node);
        }
        // Its process was killed and its machine was not: each of the two knows that it has
        // everything. Else the third one would be waited for, ten minutes.
        dfs_testkit::eventually("all groups serve with two members", RETURN, || {
            let status = cluster.ask("status");
            status["groups_degraded"] == status["groups"]
        });
        assert!(fs::read(path(2)).unwrap() == content(round));
        fs::write(path(2), content(round + 10)).unwrap();
        cluster.node("start", away[0]);
        cluster.wait_healthy(RETURN);
        check_replicas(&cluster);
        assert!(fs::read(path(1)).unwrap() == content(round + 10));
    }
    for node in SERVERS {
        let log = cluster.log(node);
        assert!(
            log.contains("last stop a kill: nothing is missing"),
            "{log}"
        );
    }
}
