//! Every state of a replica group within small bounds: nothing may be wrong, and with any one
//! rule left out a client sees it.
//!
//! A debug build goes through the smallest bounds. The others want a release build:
//! `cargo test --release -p dfs-testkit --test exploration -- --ignored NAME`.

use dfs_server::replica::{Planted, ReplicaCore};
use dfs_testkit::explore::{self, Options, Outcome, Rule};
use std::time::Instant;

fn explored(options: Options) -> Outcome {
    let begin = Instant::now();
    let outcome = explore::run(&options);
    let time = begin.elapsed();
    println!(
        "{} states, depth {}, exhausted: {}, {time:.1?}",
        outcome.states, outcome.depth, outcome.exhausted,
    );
    outcome
}

/// Explores all of it; nothing may be wrong.
fn clean(options: Options) {
    let outcome = explored(options);
    if let Some(violation) = outcome.violation {
        panic!("{violation}");
    }
    assert!(outcome.exhausted);
}

/// One write, one wrong suspicion.
fn small() -> Options {
    Options {
        epochs: 2,
        writes: 1,
        ..Options::default()
    }
}

#[test]
fn one_write_and_a_wrong_suspicion() {
    clean(small());
}

#[test]
#[ignore = "takes a release build"]
fn two_writes_and_a_wrong_suspicion() {
    clean(Options {
        writes: 2,
        ..small()
    });
}

#[test]
#[ignore = "takes a release build"]
fn a_crash_and_the_end_of_a_session() {
    clean(Options {
        crashes: 1,
        power_losses: 1,
        session_ends: 1,
        ..small()
    });
}

#[test]
#[ignore = "takes a release build"]
fn a_stale_joiner() {
    clean(Options {
        stale_joiner: true,
        epochs: 3,
        ..small()
    });
}

#[test]
#[ignore = "takes a release build, minutes and some GB"]
fn three_epochs() {
    clean(Options {
        epochs: 3,
        ..small()
    });
}

/// Two members go on with one: the one that lost its power must not be that one.
#[test]
#[ignore = "takes a release build"]
fn all_gone_and_one_of_two_lost_its_power() {
    clean(Options {
        replicas: 2,
        epochs: 4,
        crashes: 1,
        power_losses: 1,
        ..small()
    });
}

#[test]
#[ignore = "takes a release build, minutes and some GB"]
fn two_writes_a_crash_and_the_end_of_a_session() {
    clean(Options {
        writes: 2,
        crashes: 1,
        power_losses: 1,
        session_ends: 1,
        ..small()
    });
}

#[test]
#[ignore = "takes a release build, minutes and some GB"]
fn three_epochs_and_two_writes() {
    clean(Options {
        epochs: 3,
        writes: 2,
        ..small()
    });
}

#[test]
#[ignore = "takes a release build, minutes and some GB"]
fn three_epochs_and_a_crash() {
    clean(Options {
        epochs: 3,
        crashes: 1,
        power_losses: 1,
        ..small()
    });
}

/// With a rule left out a client sees something wrong, before so many states are known.
fn found(options: Options, within: usize) {
    let outcome = explored(Options {
        clients_only: true,
        states_max: within,
        ..options
    });
    match outcome.violation {
        Some(violation) => println!("{violation}"),
        None => panic!("not found"),
    }
}

macro_rules! rules {
    ($( $name:ident: $rule:ident, $within:literal, { $($bound:ident: $value:expr),* }; )*) => {
        $( #[test]
        #[ignore = "takes a release build"]
        fn $name() {
            found(
                Options { rule: Rule::$rule, $($bound: $value,)* ..small() },
                $within,
            );
        } )*
    };
}

macro_rules! planted {
    ($( $name:ident: $bug:ident, $within:literal, { $($bound:ident: $value:expr),* }; )*) => {
        $( #[test]
        #[ignore = "takes a release build"]
        fn $name() {
            let plant = |core: &mut ReplicaCore| core.plant(Planted::$bug);
            found(Options { plant, $($bound: $value,)* ..small() }, $within);
        } )*
    };
}

rules! {
    reads_that_name_the_grants_epoch_are_stale:
        ReadsNameTheGrantsEpoch, 400_000, { writes: 2 };
    reads_beside_an_own_write_go_back: ReadsOverlapOwnWrites, 100_000, {};
    a_lease_given_back_unresolved_shows_what_vanishes: LeaseBackUnresolved, 100_000, {};
    epochs_must_name_runs:
        EpochsNameServers, 400_000, { crashes: 1, power_losses: 1, epochs: 3 };
    a_restarted_member_must_not_stay_in_sync:
        RestartedStaysInSync, 400_000, { crashes: 1, power_losses: 1, epochs: 3 };
    the_new_set_is_a_part_of_the_old: NewSetFromAnybody, 400_000, { epochs: 3 };
    records_are_copied_with_the_chunk: RecordsNotCopied, 800_000, { writes: 2, epochs: 3 };
    a_repeat_needs_a_record: NoRecords, 400_000, { writes: 2 };
    a_record_for_each_session: RecordPerChunk, 400_000, { writes: 2 };
    an_ended_session_must_be_fenced: NoFence, 100_000, { session_ends: 1 };
    an_adoption_carries_the_fences: AdoptionWithoutFences, 800_000, { session_ends: 1 };
}

planted! {
    an_answer_before_the_backups_have_it: AckBeforeBackups, 100_000, {};
    an_answer_by_majority: AckByMajority, 100_000, {};
    reads_of_any_epoch: ReadAnyEpoch, 400_000, { old_messages_count: true };
    reads_from_a_joining_member: ReadFromJoining, 100_000, {};
    old_forwards: OldForwards, 400_000, { old_messages_count: true };
    no_equalising: SkipEqualising, 100_000, {};
    a_joining_member_outside_the_set: LeaveJoiningOut, 400_000, { stale_joiner: true, epochs: 3 };
    a_proposed_member_that_is_dropped: DropProposed, 400_000, { stale_joiner: true, epochs: 3 };
    forgotten_records: ForgetRecords, 400_000, { writes: 2 };
    repeats_answered_early: AnswerRepeats, 100_000, {};
    a_fence_without_waiting: FenceEarly, 400_000, { session_ends: 1 };
    a_fenced_member_that_counts: CountFenced, 400_000, { session_ends: 1 };
}
