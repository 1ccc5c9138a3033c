//! Every state of a replica group within small bounds: nothing may be wrong, and with any one
//! rule left out a client sees it.
//!
//! So that this is quick in a debug build, a rule that is left out is looked for from a state
//! in which half of what it takes has happened. `DFS_EXPLORE=whole` begins at the beginning, and
//! explores the larger bounds too; that wants a release build, hours and some GB:
//! `DFS_EXPLORE=whole cargo test --release -p dfs-testkit --test exploration NAME`.
//! `DFS_EXPLORE_STATES` ends each of these after so many states.

use dfs_server::replica::{Planted, ReplicaCore};
use dfs_testkit::explore::{self, Options, Outcome, Rule};
use std::time::Instant;

fn is_whole() -> bool {
    std::env::var("DFS_EXPLORE").is_ok_and(|how| how == "whole")
}

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
    let limit = std::env::var("DFS_EXPLORE_STATES").ok();
    let limit = limit.and_then(|states| states.parse().ok());
    let outcome = explored(Options {
        states_max: limit.unwrap_or(options.states_max),
        ..options
    });
    if let Some(violation) = outcome.violation {
        panic!("{violation}");
    }
    assert!(outcome.exhausted || limit.is_some());
}

/// The same, for bounds that are too large for a debug build.
fn clean_by_hand(options: Options) {
    match is_whole() {
        true => clean(options),
        false => println!("explored with DFS_EXPLORE=whole"),
    }
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

/// In the second epoch, of two members that are in-sync and a joining one: all that can happen
/// to it without another epoch.
#[test]
fn a_stale_joiner() {
    clean(Options {
        stale_joiner: true,
        writes: 2,
        ..small()
    });
}

/// From a cut that has begun to everything that can come between it and its end.
#[test]
fn a_cut_and_a_wrong_suspicion() {
    clean(Options {
        cuts: 1,
        begin: match is_whole() {
            true => &[],
            false => &[
                WRITTEN,
                &[
                    "mount 0 cuts all off",
                    "the cut of gen:2 reaches C",
                    "the cut of gen:2 reaches A",
                ],
            ],
        },
        ..small()
    });
}

#[test]
fn two_writes_and_a_wrong_suspicion() {
    clean_by_hand(Options {
        writes: 2,
        ..small()
    });
}

#[test]
fn a_cut_a_crash_and_a_loss_of_power() {
    clean_by_hand(Options {
        cuts: 1,
        crashes: 1,
        power_losses: 1,
        ..small()
    });
}

#[test]
fn a_crash_and_the_end_of_a_session() {
    clean_by_hand(Options {
        crashes: 1,
        power_losses: 1,
        session_ends: 1,
        ..small()
    });
}

#[test]
fn a_stale_joiner_and_its_promotion() {
    clean_by_hand(Options {
        stale_joiner: true,
        writes: 2,
        epochs: 3,
        ..small()
    });
}

#[test]
fn three_epochs() {
    clean_by_hand(Options {
        epochs: 3,
        ..small()
    });
}

/// Two members go on with one: the one that lost its power must not be that one.
#[test]
fn all_gone_and_one_of_two_lost_its_power() {
    clean_by_hand(Options {
        replicas: 2,
        epochs: 4,
        crashes: 1,
        power_losses: 1,
        ..small()
    });
}

#[test]
fn two_writes_a_crash_and_the_end_of_a_session() {
    clean_by_hand(Options {
        writes: 2,
        crashes: 1,
        power_losses: 1,
        session_ends: 1,
        ..small()
    });
}

#[test]
fn three_epochs_and_two_writes() {
    clean_by_hand(Options {
        epochs: 3,
        writes: 2,
        ..small()
    });
}

#[test]
fn three_epochs_and_a_crash() {
    clean_by_hand(Options {
        epochs: 3,
        crashes: 1,
        power_losses: 1,
        ..small()
    });
}

/// States after which a rule that is left out must have been found, from where the search begins.
const WITHIN: usize = 30_000;

/// The same from the beginning.
const WITHIN_WHOLE: usize = 20_000_000;

fn without(options: Options) -> Options {
    Options {
        clients_only: true,
        states_max: match is_whole() {
            true => WITHIN_WHOLE,
            false => WITHIN,
        },
        begin: match is_whole() {
            true => &[],
            false => options.begin,
        },
        ..options
    }
}

/// With a rule left out a client sees something wrong.
fn found(options: Options) {
    match explored(without(options)).violation {
        Some(violation) => println!("{violation}"),
        None => panic!("not found"),
    }
}

/// This rule alone can be left out within these bounds: others see to it as well.
fn redundant(options: Options) {
    let outcome = explored(without(options));
    if let Some(violation) = outcome.violation {
        panic!("a client sees it now:\n{violation}");
    }
    assert!(outcome.exhausted);
}

/// Write 1 is on all members, and its mount knows it.
const WRITTEN: &[&str] = &[
    "mount 0 begins write 1",
    "write 1 of mount 0 reaches A",
    "forwarded write v1.1 from A reaches C",
    "forwarded write v1.1 from A reaches B",
    "mount 0 hears that its write 1 is done",
];

/// Write 1 is on the primary.
const AT_PRIMARY: &[&str] = &["mount 0 begins write 1", "write 1 of mount 0 reaches A"];

/// Write 1 is on the primary and one other member.
const HALF_WRITTEN: &[&str] = &[
    "mount 0 begins write 1",
    "write 1 of mount 0 reaches A",
    "forwarded write v1.1 from A reaches C",
];

/// An epoch of which B is primary, without A, serves.
const B_LEADS: &[&str] = &[
    "A is held for gone -> epoch:2: A Offline, B* InSync, C InSync",
    "B adopts",
    "C adopts",
    "the primary is asked to equalise",
    "the epoch is effective",
];

/// An epoch without B is about to serve.
const WITHOUT_B: &[&str] = &[
    "B is held for gone -> epoch:2: A* InSync, B Offline, C InSync",
    "A adopts",
    "C adopts",
    "the primary is asked to equalise",
];

/// The joining member was brought up to date.
const COPIED: &[&str] = &[
    "the members hear that it is",
    "copy v1.1 of epoch:2 from A reaches C",
];

/// The next epoch is logged.
const A_SUSPECTED: &[&str] = &["A is suspected -> epoch:2: A Joining, B* InSync, C InSync"];

/// Two epochs that did not serve: C is the last one that is in-sync.
const C_ALONE: &[&str] = &[
    "A is suspected -> epoch:2: A Joining, B* InSync, C InSync",
    "B is suspected -> epoch:3: A Joining, B Joining, C* InSync",
];

macro_rules! rules {
    ($( $check:ident $name:ident: $rule:ident, { $($bound:ident: $value:expr),* }, $begin:expr; )*) => {
        $( #[test]
        fn $name() {
            $check(Options { rule: Rule::$rule, begin: $begin, $($bound: $value,)* ..small() });
        } )*
    };
}

macro_rules! planted {
    ($( $check:ident $name:ident: $bug:ident, { $($bound:ident: $value:expr),* }, $begin:expr; )*) => {
        $( #[test]
        fn $name() {
            let plant = |core: &mut ReplicaCore| core.plant(Planted::$bug);
            $check(Options { plant, begin: $begin, $($bound: $value,)* ..small() });
        } )*
    };
}

rules! {
    found reads_that_name_the_grants_epoch_are_stale:
        ReadsNameTheGrantsEpoch, { writes: 2 }, &[];
    found reads_beside_an_own_write_go_back: ReadsOverlapOwnWrites, {}, &[];
    found a_lease_given_back_unresolved_shows_what_vanishes: LeaseBackUnresolved, {}, &[];
    found epochs_must_name_runs:
        EpochsNameServers, { crashes: 1, power_losses: 1, epochs: 3 }, &[WRITTEN, C_ALONE];
    found a_restarted_member_must_not_stay_in_sync:
        RestartedStaysInSync, { crashes: 1, power_losses: 1, epochs: 3 }, &[WRITTEN, C_ALONE];
    redundant an_adoption_that_is_not_durable: AdoptionNotDurable, { crashes: 1 }, &[
        HALF_WRITTEN,
        &[
            "A is held for gone -> epoch:2: A Offline, B* InSync, C InSync",
            "B adopts",
            "B crashes",
        ],
    ];
    found the_new_set_is_a_part_of_the_old:
        NewSetFromAnybody, { epochs: 3 }, &[HALF_WRITTEN, WITHOUT_B];
    redundant the_set_of_the_last_effective_epoch_would_do:
        NewSetFromLastEffective, { epochs: 3 }, &[
            HALF_WRITTEN,
            A_SUSPECTED,
            &["C adopts", "B is held for gone"],
        ];
    redundant the_highest_version_wins: HighestVersionWins, {}, &[HALF_WRITTEN, A_SUSPECTED];
    found records_are_copied_with_the_chunk: RecordsNotCopied, { writes: 2, epochs: 4 }, &[
        WRITTEN,
        &[
            "mount 0 begins write 2",
            "write 2 of mount 0 reaches A",
            "forwarded write v1.2 from A reaches B",
            "A is suspected -> epoch:2: A Joining, B InSync, C* InSync",
            "B adopts",
            "C adopts",
            "the primary is asked to equalise",
            "copy v1.1 of epoch:2 from C reaches B",
            "the epoch is effective",
            "C is suspected -> epoch:3: A Joining, B* InSync, C Joining",
            "B adopts",
            "C adopts",
            "the primary is asked to equalise",
            "the epoch is effective",
            "the members hear that it is",
        ],
    ];
    found a_repeat_needs_a_record: NoRecords, { writes: 2 }, &[WRITTEN];
    found a_record_for_each_session: RecordPerChunk, { writes: 2 }, &[WRITTEN];
    found an_ended_session_must_be_fenced: NoFence, { session_ends: 1 }, &[];
    found an_adoption_carries_the_fences:
        AdoptionWithoutFences, { session_ends: 1, stale_joiner: true, writes: 2, epochs: 4 }, &[
            COPIED,
            &[
                "the session of mount 0 is ended",
                "A is asked to fence",
                "B is asked to fence",
                "C is proposed (epoch:2) -> epoch:3: A* InSync, B InSync, C InSync",
                "A adopts",
                "B adopts",
                "C adopts",
                "the primary is asked to equalise",
                "the epoch is effective",
                "A is held for gone -> epoch:4: A Offline, B InSync, C* InSync",
            ],
        ];
    found a_late_cut_takes_no_later_write: LateCuts, { cuts: 1, writes: 2 }, &[
        WRITTEN,
        &[
            "mount 0 cuts all off",
            "the cut of gen:2 reaches C",
            "the cut of gen:2 reaches A",
            "the cut of gen:2 reaches B",
            "mount 0 begins write 2",
        ],
    ];
    found a_cut_leaves_a_floor: NoFloors, { cuts: 1 }, &[WRITTEN, &["mount 0 cuts all off"]];
    found a_cut_tells_its_epoch: CutsHideTheirEpoch, { cuts: 1 }, &[
        WRITTEN, &["mount 0 cuts all off"],
    ];
    found a_cut_is_made_by_all_in_one_epoch: CutsOfAnyEpoch, { cuts: 1, epochs: 3 }, &[
        WRITTEN,
        &[
            "mount 0 cuts all off",
            "the cut of gen:2 reaches C",
            "C is suspected -> epoch:2: A* InSync, B InSync, C Joining",
            "A adopts",
            "B adopts",
            "C adopts",
            "the primary is asked to equalise",
            "the epoch is effective",
            "the members hear that it is",
            "copy v1.1 of epoch:2 from A reaches C",
            "C is proposed (epoch:2) -> epoch:3: A* InSync, B InSync, C InSync",
        ],
    ];
}

planted! {
    found an_answer_before_the_backups_have_it: AckBeforeBackups, {}, &[];
    found an_answer_by_majority: AckByMajority, {}, &[];
    found reads_of_any_epoch: ReadAnyEpoch, { old_messages_count: true }, &[];
    redundant reads_of_an_older_epoch: ReadOlderEpoch, {}, &[HALF_WRITTEN, A_SUSPECTED];
    found reads_from_a_joining_member: ReadFromJoining, {}, &[];
    found old_forwards: OldForwards, { old_messages_count: true }, &[AT_PRIMARY, A_SUSPECTED];
    found no_equalising: SkipEqualising, { session_ends: 1 }, &[HALF_WRITTEN, B_LEADS];
    found marks_that_are_forgotten: ForgetMarks, {}, &[HALF_WRITTEN];
    found marks_of_the_last_epoch_only: ForgetOlderMarks, { epochs: 3, session_ends: 1 }, &[
        HALF_WRITTEN,
        &[
            "A is suspected -> epoch:2: A Joining, B* InSync, C InSync",
            "B adopts",
            "C adopts",
            "A is held for gone -> epoch:3: A Offline, B* InSync, C InSync",
        ],
    ];
    found a_joining_member_outside_the_set:
        LeaveJoiningOut, { stale_joiner: true, writes: 2, epochs: 3 }, &[
            COPIED,
            &[
                "mount 0 begins write 2",
                "write 2 of mount 0 reaches A",
                "forwarded write v2.1 from A reaches B",
            ],
        ];
    found a_proposed_member_that_is_dropped: DropProposed,
        { stale_joiner: true, writes: 2, epochs: 3, old_messages_count: true }, &[
            COPIED,
            &[
                "mount 0 begins write 2",
                "write 2 of mount 0 reaches A",
                "C is proposed (epoch:2) -> epoch:3: A* InSync, B InSync, C InSync",
                "C adopts",
            ],
        ];
    found forgotten_records: ForgetRecords, { writes: 2 }, &[WRITTEN];
    found repeats_answered_early: AnswerRepeats, {}, &[];
    found a_fence_without_waiting: FenceEarly, { session_ends: 1 }, &[
        AT_PRIMARY,
        &["the session of mount 0 is ended", "A is asked to fence"],
    ];
    found a_fenced_member_that_counts: CountFenced, { session_ends: 1 }, &[
        HALF_WRITTEN,
        &[
            "the session of mount 0 is ended",
            "A is asked to fence",
            "B is asked to fence",
        ],
    ];
    redundant an_epoch_that_serves_when_its_primary_has_adopted: ServeBeforeEffective, {}, &[];
}
