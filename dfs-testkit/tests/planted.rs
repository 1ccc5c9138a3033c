//! A simulation that finds nothing proves nothing: each of these broken rules must be found. The
//! seed that finds it is the first one that is tried, so this is quick; when the code has changed
//! and that seed does not find it any more, others do (`SEEDS_MAX` at most).
//!
//! `DFS_SIM_FIND=1` looks from seed 1 on and prints what it finds.

use dfs_server::replica::{Planted, ReplicaCore};
use dfs_testkit::sim::{self, Around, Options};
use std::sync::atomic::{AtomicU64, Ordering};

const SEEDS_MAX: u64 = 2_000;

/// The lowest of the seeds, beginning near a known one, that finds a broken rule, and what it says.
fn find(name: &str, options: Options, known: u64) {
    let from = match std::env::var("DFS_SIM_FIND") {
        Ok(_) => 1,
        Err(_) => known,
    };
    let next = AtomicU64::new(from);
    let best = std::sync::Mutex::new(None::<(u64, String)>);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let found = best
                .lock()
                .expect("no panic")
                .as_ref()
                .map(|(seed, _)| *seed);
            if seed >= from + SEEDS_MAX || found.is_some_and(|found| found < seed) {
                return;
            }
            if let Err(violation) = sim::run(seed, options) {
                let mut best = best.lock().expect("no panic");
                if best.as_ref().is_none_or(|(found, _)| seed < *found) {
                    *best = Some((seed, violation.what));
                }
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(work);
        }
    });
    let found = best.into_inner().expect("no panic");
    let (seed, what) = found.unwrap_or_else(|| panic!("{name}: not found with {SEEDS_MAX} seeds"));
    let what: String = what.chars().take(300).collect();
    println!("{name}: seed {seed}: {what}");
}

fn core(plant: fn(&mut ReplicaCore)) -> Options {
    Options {
        plant,
        ..Options::default()
    }
}

/// Found by what clients see alone, with the invariants off.
fn by_clients(options: Options) -> Options {
    Options {
        clients_only: true,
        ..options
    }
}

macro_rules! found {
    ($(
        $test:ident: $bug:ident, $seed:literal $(, by clients $client_seed:literal)?;
    )*) => { $(
        #[test]
        fn $test() {
            let options = core(|core| core.plant(Planted::$bug));
            find(stringify!($bug), options, $seed);
            $( find(concat!(stringify!($bug), " by clients"), by_clients(options), $client_seed); )?
        }
    )* };
}

found! {
    an_answer_before_the_backups_have_it: AckBeforeBackups, 1, by clients 1;
    a_skipped_epoch_check: SkipEpochCheck, 1;
    forgotten_write_records: ForgetRecords, 14, by clients 14;
    answers_of_a_primary_that_was_voted_out: ServeWhenVotedOut, 15;
    a_joining_member_promoted_too_early: PromoteEarly, 10;
    members_that_are_not_made_equal: SkipEqualising, 3;
    an_epoch_that_serves_before_it_is_effective: ServeBeforeEffective, 1;
    a_sync_that_hides_a_lost_write: HideLostWrites, 131;
    a_failed_sync_answered_as_done: HideFailedSyncs, 16;
    an_adoption_without_the_fences: ForgetFences, 2;
    an_adoption_while_the_disk_works: AdoptUndrained, 843;
    writes_in_doubt_that_are_not_remembered: ForgetMarks, 7;
}

#[test]
fn a_server_that_stays_in_sync_over_its_restart() {
    let options = Options {
        around: Around::SameRun,
        ..Options::default()
    };
    find("SameRun", options, 8);
}

#[test]
fn a_cut_that_takes_what_was_written_after_it() {
    let options = Options {
        around: Around::LateCuts,
        ..Options::default()
    };
    find("LateCuts", options, 9);
}

#[test]
fn a_witness_that_is_believed_after_a_loss_of_power() {
    let options = Options {
        around: Around::WitnessBelieved,
        ..Options::default()
    };
    find("WitnessBelieved", options, 1610);
}

#[test]
fn a_loss_of_power_called_an_orderly_stop() {
    let options = Options {
        around: Around::CleanAfterPowerLoss,
        ..Options::default()
    };
    find("CleanAfterPowerLoss", options, 1610);
}

#[test]
fn a_dead_session_whose_answered_writes_are_cut_away() {
    let options = Options {
        around: Around::EndsForgotten,
        ..Options::default()
    };
    find("EndsForgotten", options, 11);
}
