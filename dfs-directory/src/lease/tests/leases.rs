//! Leases by example.

use super::super::table::{Effect, Granted, LeaseTable, Wanted};
use super::super::{Moment, Token};
use dfs_proto::ids::{GrantId, InodeId, SessionId};
use dfs_proto::msg::session::LeaseKind::{self, Exclusive, Shared};
use dfs_proto::timing::GRANT_TERM_MIN;

const A: SessionId = SessionId(1);
const B: SessionId = SessionId(2);
const C: SessionId = SessionId(3);
const F: InodeId = InodeId(7);

/// A table with a clock and numbered requests.
struct Bench {
    table: LeaseTable,
    now: Moment,
    last: u64,
    effects: Vec<Effect>,
}

impl Bench {
    fn new() -> Self {
        Self {
            table: LeaseTable::new(GrantId(100)),
            now: Moment::from_secs(1),
            last: 0,
            effects: Vec::new(),
        }
    }

    fn ask(&mut self, session: SessionId, wanted: Wanted) -> Token {
        self.last += 1;
        let token = Token(self.last);
        self.table
            .request(self.now, token, session, F, wanted, &mut self.effects);
        token
    }

    fn lease(&mut self, session: SessionId, kind: LeaseKind) -> Token {
        self.ask(session, Wanted::Lease(kind))
    }

    /// Asks for what is free, and has the answer delivered.
    fn take(&mut self, session: SessionId, kind: LeaseKind) -> Granted {
        let token = self.lease(session, kind);
        let granted = self.granted(token).flatten().expect("free");
        self.deliver(session, granted.grant);
        granted
    }

    fn deliver(&mut self, session: SessionId, grant: GrantId) {
        self.table
            .delivered(self.now, session, F, grant, &mut self.effects);
    }

    fn granted(&self, wanted: Token) -> Option<Option<Granted>> {
        self.effects.iter().find_map(|effect| match effect {
            Effect::Granted { token, grant, .. } if *token == wanted => Some(*grant),
            _ => None,
        })
    }

    /// The recalls since the last look.
    fn recalls(&mut self) -> Vec<(SessionId, Option<LeaseKind>)> {
        let recalls = self.effects.iter().filter_map(|effect| match effect {
            Effect::Recall { session, keep, .. } => Some((*session, *keep)),
            _ => None,
        });
        let recalls = recalls.collect();
        self.effects
            .retain(|effect| !matches!(effect, Effect::Recall { .. }));
        recalls
    }

    fn give_back(&mut self, session: SessionId, grant: GrantId) {
        self.table
            .returned(self.now, session, F, grant, &mut self.effects);
    }

    fn wait(&mut self, time: Moment) {
        self.now += time;
        self.table.tick(self.now, &mut self.effects);
    }
}

#[test]
fn readers_share_and_a_writer_recalls_them_all() {
    let mut bench = Bench::new();
    let a = bench.take(A, Shared);
    let b = bench.take(B, Shared);
    let writer = bench.lease(C, Exclusive);
    assert_eq!(bench.recalls(), [(A, None), (B, None)]);
    bench.give_back(A, a.grant);
    assert_eq!(bench.granted(writer), None);
    bench.give_back(B, b.grant);
    let c = bench.granted(writer).flatten().expect("granted");
    assert_eq!(c.kind, Exclusive);
    assert!(c.grant > b.grant);
    assert_eq!(bench.table.exclusive_holder(F), Some((C, c.grant)));
}

#[test]
fn a_reader_leaves_the_writer_a_shared_lease() {
    let mut bench = Bench::new();
    let a = bench.take(A, Exclusive);
    let reader = bench.lease(B, Shared);
    assert_eq!(bench.recalls(), [(A, Some(Shared))]);
    bench.give_back(A, a.grant);
    assert!(bench.granted(reader).is_some());
    assert_eq!(bench.table.holds(A, F, a.grant), Some(Shared));
    assert_eq!(bench.table.count(A), (1, 0));
}

#[test]
fn an_upgrade_recalls_the_others_and_gets_a_new_grant() {
    let mut bench = Bench::new();
    let a = bench.take(A, Shared);
    let b = bench.take(B, Shared);
    let upgrade = bench.lease(A, Exclusive);
    assert_eq!(bench.recalls(), [(B, None)]);
    bench.give_back(B, b.grant);
    let upgraded = bench.granted(upgrade).flatten().expect("granted");
    assert!(upgraded.grant > a.grant);
    assert_eq!(bench.table.holds(A, F, a.grant), None);
}

#[test]
fn two_upgrades_do_not_wait_for_each_other() {
    let mut bench = Bench::new();
    bench.take(A, Shared);
    let b = bench.take(B, Shared);
    let first = bench.lease(A, Exclusive);
    let second = bench.lease(B, Exclusive);
    assert_eq!(bench.recalls(), [(B, None)]);
    bench.give_back(B, b.grant);
    let a = bench.granted(first).flatten().expect("granted");
    bench.deliver(A, a.grant);
    bench.wait(GRANT_TERM_MIN);
    assert_eq!(bench.recalls(), [(A, None)]);
    bench.give_back(A, a.grant);
    assert!(bench.granted(second).is_some());
}

#[test]
fn asking_again_for_what_is_held_is_granted_at_once() {
    let mut bench = Bench::new();
    let a = bench.take(A, Exclusive);
    assert_eq!(bench.take(A, Exclusive).grant, a.grant);
    let shared = bench.take(A, Shared);
    assert_eq!((shared.grant, shared.kind), (a.grant, Exclusive));
}

#[test]
fn a_recall_waits_for_the_answer_that_carries_the_grant() {
    let mut bench = Bench::new();
    let token = bench.lease(A, Exclusive);
    let a = bench.granted(token).flatten().expect("free");
    bench.lease(B, Exclusive);
    assert_eq!(bench.recalls(), []);
    bench.deliver(A, a.grant);
    assert_eq!(bench.recalls(), [(A, None)]);
}

#[test]
fn a_contended_holder_has_its_minimum_term() {
    let mut bench = Bench::new();
    let a = bench.take(A, Exclusive);
    let b = bench.lease(B, Exclusive);
    bench.lease(C, Exclusive);
    assert_eq!(
        bench.recalls(),
        [(A, None)],
        "nobody contended when it was granted"
    );
    bench.give_back(A, a.grant);
    let b = bench.granted(b).flatten().expect("granted");
    assert!(b.contended);
    bench.deliver(B, b.grant);
    assert_eq!(bench.recalls(), []);
    assert_eq!(
        bench.table.next_deadline(),
        Some(bench.now + GRANT_TERM_MIN)
    );
    bench.wait(GRANT_TERM_MIN);
    assert_eq!(bench.recalls(), [(B, None)]);
}

#[test]
fn two_that_hunt_the_same_lease_get_terms() {
    let mut bench = Bench::new();
    let a = bench.take(A, Exclusive);
    let b = bench.lease(B, Exclusive);
    bench.recalls();
    bench.give_back(A, a.grant);
    let b = bench.granted(b).flatten().expect("granted");
    bench.deliver(B, b.grant);
    // A asks again right after it lost the lease.
    bench.lease(A, Exclusive);
    assert_eq!(bench.recalls(), []);
    bench.wait(GRANT_TERM_MIN);
    assert_eq!(bench.recalls(), [(B, None)]);
}

#[test]
fn a_late_answer_counts_only_under_its_grant() {
    let mut bench = Bench::new();
    let a = bench.take(A, Exclusive);
    bench.give_back(A, a.grant);
    assert!(
        bench.table.holds(A, F, a.grant).is_some(),
        "nobody asked for it back"
    );
    let b = bench.lease(B, Exclusive);
    bench.give_back(A, GrantId(a.grant.0 - 1));
    assert_eq!(bench.granted(b), None);
    bench.give_back(A, a.grant);
    assert!(bench.granted(b).is_some());
}

#[test]
fn an_operation_excludes_other_sessions_only() {
    let mut bench = Bench::new();
    let a = bench.take(A, Shared);
    let b = bench.take(B, Shared);
    let operation = bench.ask(A, Wanted::Operation);
    assert_eq!(bench.recalls(), [(B, None)]);
    bench.give_back(B, b.grant);
    assert_eq!(bench.granted(operation), Some(None));
    assert_eq!(bench.table.holds(A, F, a.grant), Some(Shared));
    let again = bench.lease(B, Shared);
    assert_eq!(bench.granted(again), None);
    assert_eq!(bench.recalls(), []);
    bench.table.finish(bench.now, operation, &mut bench.effects);
    assert!(bench.granted(again).is_some());
}

#[test]
fn an_operation_of_the_holder_goes_before_those_who_wait_for_the_lease() {
    let mut bench = Bench::new();
    let a = bench.take(A, Exclusive);
    let b = bench.lease(B, Exclusive);
    assert_eq!(bench.recalls(), [(A, None)]);
    // A is being recalled and can't give back before its truncate is done.
    let operation = bench.ask(A, Wanted::Operation);
    assert_eq!(bench.granted(operation), Some(None));
    bench.give_back(A, a.grant);
    assert_eq!(bench.granted(b), None);
    bench.table.finish(bench.now, operation, &mut bench.effects);
    assert!(bench.granted(b).is_some());
}

#[test]
fn a_silent_readers_lease_lapses_but_no_writers() {
    let mut bench = Bench::new();
    bench.take(A, Shared);
    let writer = bench.lease(B, Exclusive);
    bench.table.lapse(bench.now, A, &mut bench.effects);
    let b = bench.granted(writer).flatten().expect("granted");
    bench.deliver(B, b.grant);
    bench.table.lapse(bench.now, B, &mut bench.effects);
    assert_eq!(bench.table.exclusive_holder(F), Some((B, b.grant)));
}

#[test]
fn the_end_of_a_session_frees_its_leases_and_waits() {
    let mut bench = Bench::new();
    bench.take(A, Exclusive);
    let b = bench.lease(B, Exclusive);
    let c = bench.lease(C, Shared);
    bench.table.end_session(bench.now, B, &mut bench.effects);
    assert!(bench.effects.contains(&Effect::Dropped { token: b }));
    bench.table.end_session(bench.now, A, &mut bench.effects);
    assert!(bench.granted(c).is_some());
    assert_eq!(bench.granted(b), None);
}

#[test]
fn the_leases_of_a_freed_inode_go_with_it() {
    let mut bench = Bench::new();
    bench.take(A, Exclusive);
    let b = bench.lease(B, Shared);
    assert_eq!(bench.table.held(A), 1);
    assert_eq!(bench.table.forget(bench.now, F, &mut bench.effects), [A]);
    assert_eq!(bench.table.held(A), 0);
    assert!(
        bench.granted(b).is_some(),
        "it finds out by itself that the inode is gone"
    );
}

#[test]
fn a_given_up_request_lets_the_next_one_go() {
    let mut bench = Bench::new();
    bench.take(A, Shared);
    let b = bench.lease(B, Exclusive);
    let c = bench.lease(C, Shared);
    assert_eq!(bench.granted(c), None, "in order");
    bench.table.finish(bench.now, b, &mut bench.effects);
    assert!(bench.granted(c).is_some());
}

#[test]
fn a_lease_without_waiting_is_refused_where_others_wait() {
    let mut bench = Bench::new();
    bench.take(A, Shared);
    assert!(bench.table.try_lease(B, F, Exclusive).is_none());
    assert!(!bench.table.is_free_for(B, F, Exclusive));
    bench.lease(C, Exclusive);
    assert!(bench.table.try_lease(B, F, Shared).is_none());
}
