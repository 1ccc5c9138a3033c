//! Seeds: none may break a rule. (`planted` shows that broken rules are found.)

use super::run::{Report, run};
use super::world::Options;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs a seed; a violation is shown with its trace and how to see it again.
fn run_one(seed: u64, options: Options) -> Report {
    run(seed, options).unwrap_or_else(|first| {
        let trace = Options {
            trace: true,
            ..options
        };
        let violation = run(seed, trace).err().unwrap_or(first);
        panic!(
            "{violation}\nseed {seed}; to see it again:\n\
             DFS_DIRSIM_SEED={seed} cargo test -p dfs-testkit --test directory_simulation seeds_break_no_rule"
        )
    })
}

/// Runs seeds, each once, on all cores.
fn run_all(from: u64, seeds: u64) -> Vec<Report> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let threads = number("DFS_DIRSIM_THREADS").unwrap_or(cores);
    let next = AtomicU64::new(from);
    let work = || {
        let mut reports = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + seeds {
                return reports;
            }
            reports.push(run_one(seed, Options::default()));
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().map(|worker| worker.join());
        joined
            .flat_map(|reports| reports.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

#[test]
fn seeds_break_no_rule() {
    if let Some(seed) = number("DFS_DIRSIM_SEED") {
        let live = number("DFS_DIRSIM_LIVE").is_some();
        let options = Options {
            live,
            ..Options::default()
        };
        println!("{:?}", run_one(seed, options));
        return;
    }
    let from = number("DFS_DIRSIM_FROM").unwrap_or(1);
    let seeds = number("DFS_DIRSIM_SEEDS").unwrap_or(80);
    let reports = run_all(from, seeds);
    let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
    let (changes, looks, locks) = (sum(|r| r.changes), sum(|r| r.looks), sum(|r| r.locks));
    let (writes, elections) = (sum(|r| r.writes), sum(|r| r.elections));
    let longest = reports.iter().map(|r| r.recovery).max().unwrap_or_default();
    println!(
        "{seeds} seeds: {} steps, {} entries ({} repeats), {changes} changes, {looks} looks, {} reads, \
         {writes} writes, {locks} locks, {elections} elections; longest recovery {longest:?}",
        sum(|r| r.steps),
        sum(|r| r.entries),
        sum(|r| r.repeats),
        sum(|r| r.reads),
    );
    // A simulation in which nothing happens finds nothing.
    assert!(changes > 50 * seeds && looks > 100 * seeds && locks > 30 * seeds);
    assert!(writes > 10 * seeds && elections > seeds);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 1..=5 {
        let first = run_one(seed, Options::default());
        assert_eq!(first, run_one(seed, Options::default()), "seed {seed}");
        let traced = Options {
            trace: true,
            ..Options::default()
        };
        assert_eq!(
            first,
            run_one(seed, traced),
            "a trace changes nothing, seed {seed}"
        );
        assert_ne!(
            first.digest,
            run_one(seed + 1000, Options::default()).digest
        );
    }
}
