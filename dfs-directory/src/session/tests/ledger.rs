use super::*;
use crate::session::ledger::{WINDOW, remembered_answers};
use proptest::prelude::*;
use std::collections::BTreeMap;

#[test]
fn a_repeat_is_answered_and_not_executed() {
    let mut tables = formatted();
    let (session, _) = open(&mut tables, 1);
    let first = create(&mut tables, session, (1, 1), "f").unwrap();
    let refused = create(&mut tables, session, (2, 1), "f");
    assert_eq!(refused, Err(ErrorCode::Exists));
    // What made the second fail is gone, and its answer is the same still.
    let unlink = NamespaceCommand::Mutate {
        stamp: Stamp {
            session,
            sequence: Sequence(3),
            lowest_unanswered: Sequence(1),
        },
        mutation: Mutation::Unlink {
            parent: ROOT,
            name: FileName::new(b"f").unwrap(),
            caller: 0,
        },
    };
    namespace::apply(&mut tables, NOW, &unlink)
        .unwrap()
        .0
        .unwrap();
    let before = tables.clone();
    assert_eq!(create(&mut tables, session, (1, 1), "f"), Ok(first));
    assert_eq!(create(&mut tables, session, (2, 1), "f"), refused);
    // Another command under a known sequence is no new one.
    assert_eq!(create(&mut tables, session, (1, 1), "other"), Ok(first));
    assert_eq!(tables, before);
}

#[test]
fn answers_go_when_nobody_can_ask_again() {
    let mut tables = formatted();
    let (session, _) = open(&mut tables, 1);
    for sequence in 1..=5 {
        let text = sequence.to_string();
        create(&mut tables, session, (sequence, 1), &text).unwrap();
    }
    assert_eq!(remembered_answers(&tables, session).unwrap(), 5);
    create(&mut tables, session, (6, 4), "6").unwrap();
    assert_eq!(remembered_answers(&tables, session).unwrap(), 3);
    let before = tables.clone();
    for sequence in 1..=3 {
        let late = create(&mut tables, session, (sequence, 1), "late");
        assert_eq!(late, Err(ErrorCode::SequenceForgotten));
    }
    // 4 and 5 can be asked again, also by a copy that was sent before the floor rose.
    assert!(
        create(&mut tables, session, (4, 1), "late")
            .unwrap()
            .created
    );
    assert_eq!(tables, before);
}

#[test]
fn a_late_first_arrival_below_the_floor_is_never_executed() {
    let mut tables = formatted();
    let (session, _) = open(&mut tables, 1);
    create(&mut tables, session, (10, 10), "f").unwrap();
    let late = create(&mut tables, session, (9, 2), "g");
    assert_eq!(late, Err(ErrorCode::SequenceForgotten));
    // Above the floor any order is good.
    create(&mut tables, session, (12, 10), "h").unwrap();
    create(&mut tables, session, (11, 9), "i").unwrap();
}

#[test]
fn stamps_that_make_no_sense() {
    let mut tables = formatted();
    let (session, _) = open(&mut tables, 1);
    let before = tables.clone();
    for (stamp, code) in [
        ((0, 0), ErrorCode::InvalidArgument),
        ((3, 4), ErrorCode::InvalidArgument),
        ((WINDOW + 1, 1), ErrorCode::Overloaded),
        ((u64::MAX, 1), ErrorCode::Overloaded),
    ] {
        let refused = create(&mut tables, session, stamp, "f");
        assert_eq!(refused, Err(code), "{stamp:?}");
    }
    let strange = create(&mut tables, SessionId(9), (1, 1), "f");
    assert_eq!(strange, Err(ErrorCode::SessionEnded));
    assert_eq!(tables, before);
    create(&mut tables, session, (WINDOW, 1), "f").unwrap();
    create(&mut tables, session, (u64::MAX, u64::MAX), "g").unwrap();
    run(&mut tables, SessionCommand::BeginEnd { session }).unwrap();
    run(&mut tables, SessionCommand::FinishEnd { session }).unwrap();
    assert_eq!(remembered_answers(&tables, session).unwrap(), 0);
}

#[test]
fn sessions_do_not_share_sequences() {
    let mut tables = formatted();
    let (one, _) = open(&mut tables, 1);
    let (two, _) = open(&mut tables, 2);
    create(&mut tables, one, (7, 7), "f").unwrap();
    assert!(create(&mut tables, two, (1, 1), "g").unwrap().created);
    assert!(create(&mut tables, two, (7, 1), "h").unwrap().created);
    assert_eq!(remembered_answers(&tables, one).unwrap(), 1);
    assert_eq!(remembered_answers(&tables, two).unwrap(), 2);
}

proptest! {
    /// Copies of requests arrive in any order, with what was the lowest when each was sent.
    #[test]
    fn every_sequence_is_executed_at_most_once(
        arrivals in prop::collection::vec((1u64..12, 0u64..6), 1..40),
    ) {
        let mut tables = formatted();
        let (session, _) = open(&mut tables, 1);
        let (mut floor, mut answers) = (1, BTreeMap::new());
        for (sequence, below) in arrivals {
            let lowest = sequence.saturating_sub(below).max(1);
            // Every third name is the same, so that some are refused.
            let text = (sequence % 3).to_string();
            let before = tables.clone();
            let outcome = create(&mut tables, session, (sequence, lowest), &text);
            if sequence < floor {
                prop_assert_eq!(outcome, Err(ErrorCode::SequenceForgotten));
                prop_assert!(tables == before);
            } else if let Some(answer) = answers.get(&sequence) {
                prop_assert_eq!(&outcome, answer);
                prop_assert!(tables == before);
            } else {
                let name = FileName::new(text.as_bytes()).unwrap();
                let taken = namespace::read::entry_exists(&before, ROOT, &name).unwrap();
                prop_assert_eq!(outcome.is_err(), taken);
                answers.insert(sequence, outcome);
                floor = floor.max(lowest);
                answers.retain(|sequence, _| *sequence >= floor);
            }
            prop_assert_eq!(remembered_answers(&tables, session).unwrap(), answers.len());
        }
    }
}
