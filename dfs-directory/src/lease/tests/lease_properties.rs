//! Leases under random requests: what must hold after every step, and that everybody gets what
//! it asked for once recalls are answered.

use super::super::table::{Effect, LeaseTable, Wanted};
use super::super::{Moment, Token};
use dfs_proto::ids::{GrantId, InodeId, SessionId};
use dfs_proto::msg::session::LeaseKind;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const F: InodeId = InodeId(7);

#[derive(Clone, Copy, Debug)]
enum Step {
    Ask(u64, Wanted),
    /// Answer the n-th outstanding recall.
    Return(usize),
    Release(u64),
    /// End the n-th running operation.
    Finish(usize),
    /// Give the n-th waiting request up.
    GiveUp(usize),
    Lapse(u64),
    End(u64),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let session = 1u64..5;
    let wanted = prop_oneof![
        Just(Wanted::Lease(LeaseKind::Shared)),
        Just(Wanted::Lease(LeaseKind::Exclusive)),
        Just(Wanted::Operation),
    ];
    let step = prop_oneof![
        6 => (session.clone(), wanted).prop_map(|(s, w)| Step::Ask(s, w)),
        4 => (0usize..4).prop_map(Step::Return),
        2 => session.clone().prop_map(Step::Release),
        3 => (0usize..4).prop_map(Step::Finish),
        1 => (0usize..4).prop_map(Step::GiveUp),
        1 => session.clone().prop_map(Step::Lapse),
        1 => session.prop_map(Step::End),
        3 => (0u64..5).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..60)
}

/// What an observer of the effects knows.
struct World {
    table: LeaseTable,
    now: Moment,
    last: u64,
    /// Leases that the mounts believe to hold.
    held: BTreeMap<u64, (GrantId, LeaseKind)>,
    recalls: VecDeque<(u64, GrantId, Option<LeaseKind>)>,
    operations: Vec<(Token, u64)>,
    waiting: Vec<(Token, u64, Wanted)>,
}

impl World {
    fn new() -> Self {
        Self {
            table: LeaseTable::new(GrantId(0)),
            now: Moment::ZERO,
            last: 0,
            held: BTreeMap::new(),
            recalls: VecDeque::new(),
            operations: Vec::new(),
            waiting: Vec::new(),
        }
    }

    fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Granted {
                    token,
                    session,
                    grant,
                    ..
                } => {
                    let at = self
                        .waiting
                        .iter()
                        .position(|w| w.0 == token)
                        .expect("asked for");
                    let (_, _, wanted) = self.waiting.remove(at);
                    match (wanted, grant) {
                        (Wanted::Lease(kind), Some(granted)) => {
                            assert!(granted.kind >= kind);
                            self.held.insert(session.0, (granted.grant, granted.kind));
                            let mut more = Vec::new();
                            let grant = granted.grant;
                            self.table.delivered(self.now, session, F, grant, &mut more);
                            self.take(more);
                        }
                        (Wanted::Operation, None) => self.operations.push((token, session.0)),
                        other => panic!("{other:?}"),
                    }
                }
                Effect::Recall {
                    session,
                    grant,
                    keep,
                    ..
                } => {
                    assert_eq!(self.held.get(&session.0).map(|h| h.0), Some(grant));
                    self.recalls.push_back((session.0, grant, keep));
                }
                Effect::Dropped { token } => self.waiting.retain(|w| w.0 != token),
            }
        }
    }

    fn run(&mut self, act: impl FnOnce(&mut LeaseTable, Moment, &mut Vec<Effect>)) {
        let mut effects = Vec::new();
        act(&mut self.table, self.now, &mut effects);
        self.take(effects);
    }

    fn answer(&mut self, nth: usize) {
        let Some((session, grant, keep)) = self.recalls.remove(nth) else {
            return;
        };
        if let Some(held) = self.held.get_mut(&session)
            && held.0 == grant
        {
            match keep {
                Some(kind) => held.1 = kind,
                None => {
                    self.held.remove(&session);
                }
            }
        }
        self.run(|t, now, e| t.returned(now, SessionId(session), F, grant, e));
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Ask(session, wanted) => {
                self.last += 1;
                let token = Token(self.last);
                self.waiting.push((token, session, wanted));
                self.run(|t, now, e| t.request(now, token, SessionId(session), F, wanted, e));
            }
            Step::Return(nth) => self.answer(nth),
            Step::Release(session) => {
                if let Some((grant, _)) = self.held.remove(&session) {
                    self.run(|t, now, e| t.release(now, SessionId(session), F, grant, e));
                }
            }
            Step::Finish(nth) => {
                if nth < self.operations.len() {
                    let (token, _) = self.operations.remove(nth);
                    self.run(|t, now, e| t.finish(now, token, e));
                }
            }
            Step::GiveUp(nth) => {
                if nth < self.waiting.len() {
                    let (token, ..) = self.waiting.remove(nth);
                    self.run(|t, now, e| t.finish(now, token, e));
                }
            }
            Step::Lapse(session) => {
                if self
                    .held
                    .get(&session)
                    .is_some_and(|h| h.1 == LeaseKind::Shared)
                {
                    self.held.remove(&session);
                }
                self.run(|t, now, e| t.lapse(now, SessionId(session), e));
            }
            Step::End(session) => {
                self.held.remove(&session);
                self.run(|t, now, e| t.end_session(now, SessionId(session), e));
            }
            Step::Wait(ms) => {
                self.now += Moment::from_millis(ms);
                self.run(|t, now, e| t.tick(now, e));
            }
        }
    }

    fn check(&self) {
        let writers = self
            .held
            .values()
            .filter(|h| h.1 == LeaseKind::Exclusive)
            .count();
        assert!(
            writers == 0 || self.held.len() == 1,
            "a writer beside others: {:?}",
            self.held
        );
        let operators: BTreeSet<u64> = self.operations.iter().map(|o| o.1).collect();
        assert!(operators.len() <= 1, "operations of several sessions");
        for operator in operators {
            assert!(
                self.held.keys().all(|session| *session == operator),
                "a lease beside an operation of another session"
            );
        }
        for (session, (grant, kind)) in &self.held {
            assert_eq!(
                self.table.holds(SessionId(*session), F, *grant),
                Some(*kind)
            );
        }
    }
}

proptest! {
    #[test]
    fn rights_exclude_each_other_and_everybody_is_served(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            world.check();
        }
        // From here on everybody answers: then everybody is served, in a bounded time.
        for _ in 0..1000 {
            if world.waiting.is_empty() {
                break;
            }
            world.step(Step::Return(0));
            world.step(Step::Finish(0));
            world.step(Step::Wait(5));
            world.check();
        }
        prop_assert!(world.waiting.is_empty(), "{:?} wait for ever", world.waiting);
    }
}
