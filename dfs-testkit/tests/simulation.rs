//! Seeds of the simulated cluster: none may break a rule. (`planted.rs` shows that broken rules
//! are found.)
//!
//! `DFS_SIM_SEED=N` runs that seed alone; with `DFS_SIM_LIVE=1` it prints everything that
//! happens. `DFS_SIM_SEEDS=N` runs so many, from `DFS_SIM_FROM` on, on `DFS_SIM_THREADS` threads.

use dfs_testkit::sim::{self, Options, Report};
use std::sync::atomic::{AtomicU64, Ordering};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs a seed; a violation is shown with its trace and how to see it again.
fn run(seed: u64, options: Options) -> Report {
    sim::run(seed, options).unwrap_or_else(|_| {
        let trace = Options {
            trace: true,
            ..options
        };
        let violation = sim::run(seed, trace).expect_err("the same seed does the same");
        panic!(
            "{violation}\nseed {seed}; to see it again:\n\
             DFS_SIM_SEED={seed} cargo test -p dfs-testkit --test simulation seeds_break_no_rule"
        )
    })
}

/// Runs seeds, each once, on all cores.
fn run_all(from: u64, seeds: u64) -> Vec<Report> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let threads = number("DFS_SIM_THREADS").unwrap_or(cores);
    let next = AtomicU64::new(from);
    let work = || {
        let mut reports = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + seeds {
                return reports;
            }
            reports.push(run(seed, Options::default()));
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
    if let Some(seed) = number("DFS_SIM_SEED") {
        let live = number("DFS_SIM_LIVE").is_some();
        let options = Options {
            live,
            ..Options::default()
        };
        println!("{:?}", run(seed, options));
        return;
    }
    let from = number("DFS_SIM_FROM").unwrap_or(1);
    let seeds = number("DFS_SIM_SEEDS").unwrap_or(500);
    let reports = run_all(from, seeds);
    let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
    let (reads, writes, epochs) = (sum(|r| r.reads), sum(|r| r.writes), sum(|r| r.epochs));
    println!(
        "{seeds} seeds: {} steps, {reads} reads, {writes} writes, {} cuts, {} syncs, \
         {epochs} epochs, {} losses of power in whole groups, {} kills that took nothing",
        sum(|r| r.steps),
        sum(|r| r.cuts),
        sum(|r| r.syncs),
        sum(|r| r.losses),
        sum(|r| r.kept),
    );
    // A simulation in which nothing happens finds nothing.
    assert!(reads > 100 * seeds && writes > 50 * seeds && epochs > 4 * seeds);
    assert!(seeds < 100 || sum(|r| r.kept) > seeds / 2);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 1..=5 {
        let first = run(seed, Options::default());
        let second = run(seed, Options::default());
        assert_eq!(first, second, "seed {seed}");
        let traced = Options {
            trace: true,
            ..Options::default()
        };
        assert_eq!(
            first,
            run(seed, traced),
            "a trace changes nothing, seed {seed}"
        );
        assert_ne!(first.digest, run(seed + 1000, Options::default()).digest);
    }
}
