//! A simulation that finds nothing proves nothing: each of these broken rules must be found. The seed
//! that finds it is the first one that is tried, so this is quick; when the code has changed and that
//! seed does not find it any more, others do (`SEEDS_MAX` at most).
//!
//! `DFS_DIRSIM_FIND=1` looks from seed 1 on.

use super::run::run;
use super::seeds::number;
use super::world::{Options, Planted};

const SEEDS_MAX: u64 = 1_000;

/// The first of the seeds, beginning with a known one, that finds a broken rule.
fn find(planted: Planted, known: u64) {
    let from = match number("DFS_DIRSIM_FIND") {
        Some(_) => 1,
        None => known,
    };
    let options = Options {
        planted,
        ..Options::default()
    };
    for seed in from..from + SEEDS_MAX {
        if let Err(violation) = run(seed, options) {
            let what: String = violation.what.chars().take(300).collect();
            println!("{planted:?}: seed {seed}: {what}");
            return;
        }
    }
    panic!("{planted:?}: not found with {SEEDS_MAX} seeds");
}

macro_rules! found {
    ($( $test:ident: $bug:ident, $seed:literal; )*) => { $(
        #[test]
        fn $test() {
            find(Planted::$bug, $seed);
        }
    )* };
}

found! {
    a_grant_of_what_is_still_to_be_reclaimed: GrantDuringGrace, 2;
    locks_given_on_without_a_fence: ForgetToFence, 5;
    a_ledger_that_is_lost_with_the_leader: LedgerLost, 2;
    a_right_counted_from_the_reply: RightFromReply, 34;
    grants_of_a_deposed_leader: DeposedGrants, 1;
}
