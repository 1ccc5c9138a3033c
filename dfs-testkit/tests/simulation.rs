//! Seeds of the simulated cluster: none may break a rule, and each planted bug must be found.
//!
//! `DFS_SIM_SEED=N` runs that seed alone; with `DFS_SIM_LIVE=1` it prints everything that
//! happens. `DFS_SIM_SEEDS=N` runs so many, from
//! `DFS_SIM_FROM` on.

use dfs_server::replica::{Planted, ReplicaCore};
use dfs_testkit::sim::{self, Options};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs a seed; a violation is shown with its trace and how to see it again.
fn run(seed: u64, options: Options) -> sim::Report {
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
    let seeds = number("DFS_SIM_SEEDS").unwrap_or(200);
    let (mut reads, mut writes, mut epochs, mut steps) = (0, 0, 0, 0);
    for seed in from..from + seeds {
        let report = run(seed, Options::default());
        reads += report.reads;
        writes += report.writes;
        epochs += report.epochs;
        steps += report.steps;
    }
    println!("{seeds} seeds: {steps} steps, {reads} reads, {writes} writes, {epochs} epochs");
    // A simulation in which nothing happens finds nothing.
    assert!(reads > 100 * seeds && writes > 50 * seeds && epochs > 4 * seeds);
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

/// The first of some seeds that finds a planted bug.
fn found(plant: fn(&mut ReplicaCore), clients_only: bool, within: u64) -> (u64, String) {
    let options = Options {
        plant,
        clients_only,
        ..Options::default()
    };
    (1..=within)
        .find_map(|seed| Some((seed, sim::run(seed, options).err()?.what)))
        .unwrap_or_else(|| panic!("not found with {within} seeds"))
}

#[test]
fn an_answer_before_the_backups_have_it_is_found() {
    let plant = |core: &mut ReplicaCore| core.plant(Planted::AckBeforeBackups);
    let (seed, what) = found(plant, false, 20);
    println!("seed {seed}: {what}");
    let (seed, what) = found(plant, true, 100);
    println!("by clients alone, seed {seed}: {what}");
}

#[test]
fn a_skipped_epoch_check_is_found() {
    let plant = |core: &mut ReplicaCore| core.plant(Planted::SkipEpochCheck);
    let (seed, what) = found(plant, false, 20);
    println!("seed {seed}: {what}");
}

#[test]
fn forgotten_write_records_are_found() {
    let plant = |core: &mut ReplicaCore| core.plant(Planted::ForgetRecords);
    let (seed, what) = found(plant, true, 100);
    println!("by clients alone, seed {seed}: {what}");
}
