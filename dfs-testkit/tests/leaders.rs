//! The directory's leader is cut off, in one direction or both, or dies with a file server and a
//! mount, and everything is restarted in turn, while two mounts work: no call fails or waits for long, and what a deposed leader answered
//! is what the present one would have.
//!
//! These want networks of their own for each process, so only root can run them.

use dfs_testkit::torture::{Leaders, leaders};
use std::time::Duration;

/// The promise is 3 s; a machine that is busy with other tests gets more.
const STALL_MAX: Duration = Duration::from_secs(6);

fn nothing() -> Leaders {
    Leaders {
        seed: 1,
        kills: 0,
        pauses: 0,
        cuts: 0,
        machines: 0,
        rolls: 0,
        pause: Duration::from_secs(3),
        cut: Duration::from_secs(4),
        only: None,
        bound: STALL_MAX,
    }
}

fn run(what: Leaders) {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root may give processes networks of their own");
        return;
    }
    if let Err(why) = leaders(&what) {
        panic!("{why}");
    }
}

#[test]
fn a_leader_that_is_cut_off_answers_nothing_that_its_successor_would_not() {
    run(Leaders {
        cuts: 1,
        ..nothing()
    });
}

#[test]
fn a_leader_a_server_and_a_mount_die_at_once() {
    run(Leaders {
        machines: 1,
        ..nothing()
    });
}

#[test]
fn all_members_and_servers_are_restarted_in_turn() {
    run(Leaders {
        rolls: 1,
        ..nothing()
    });
}
