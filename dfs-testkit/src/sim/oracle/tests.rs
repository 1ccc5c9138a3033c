use super::*;

const BLOCK: Block = (InodeId(1), 0);
const A: SessionId = SessionId(1);
const B: SessionId = SessionId(2);

fn written(values: &[Value]) -> Oracle {
    let mut oracle = Oracle::default();
    for value in values {
        oracle.write_begins(*value, *value, A, vec![BLOCK]);
        assert_eq!(oracle.answered(*value), Ok(()));
    }
    oracle
}

#[test]
fn an_answered_write_is_seen_by_every_later_read() {
    let mut oracle = Oracle::default();
    oracle.write_begins(7, 7, A, vec![BLOCK]);
    assert_eq!(oracle.answered(7), Ok(()));
    assert_eq!(oracle.read(BLOCK, 7), Ok(()));
    assert!(oracle.read(BLOCK, 0).is_err());
}

#[test]
fn a_write_under_way_is_seen_or_not_but_does_not_vanish() {
    let mut oracle = Oracle::default();
    oracle.write_begins(7, 7, A, vec![BLOCK]);
    assert_eq!(oracle.read(BLOCK, 0), Ok(()));
    assert_eq!(oracle.read(BLOCK, 7), Ok(()));
    assert!(oracle.read(BLOCK, 0).is_err());
}

#[test]
fn a_write_takes_effect_once() {
    let mut oracle = Oracle::default();
    oracle.write_begins(7, 7, A, vec![BLOCK]);
    assert_eq!(oracle.read(BLOCK, 7), Ok(()));
    oracle.write_begins(8, 8, A, vec![BLOCK]);
    assert_eq!(oracle.answered(8), Ok(()));
    assert!(oracle.read(BLOCK, 7).is_err());
}

#[test]
fn what_a_dead_session_left_is_decided_once() {
    for seen in [0, 7] {
        let mut oracle = Oracle::default();
        oracle.write_begins(7, 7, A, vec![BLOCK]);
        oracle.session_over(A);
        assert_eq!(oracle.read(BLOCK, seen), Ok(()), "both may be");
        assert!(
            oracle.read(BLOCK, 7 - seen).is_err(),
            "but not one after the other"
        );
        oracle.write_begins(9, 9, B, vec![BLOCK]);
    }
}

#[test]
fn a_write_begun_after_the_end_never_counts() {
    let mut oracle = Oracle::default();
    oracle.session_over(A);
    oracle.write_begins(7, 7, A, vec![BLOCK]);
    assert_eq!(oracle.answered(7), Ok(()));
    assert!(oracle.read(BLOCK, 7).is_err());
}

#[test]
fn a_cut_makes_zeros_also_over_a_loss_of_power() {
    let mut oracle = written(&[7]);
    oracle.cut_begins(100, A, vec![BLOCK]);
    assert_eq!(oracle.read(BLOCK, 7), Ok(()), "it has not taken effect");
    assert_eq!(oracle.answered(100), Ok(()));
    oracle.lost([BLOCK].into_iter());
    assert!(oracle.read(BLOCK, 7).is_err());
    assert_eq!(written(&[]).read(BLOCK, 0), Ok(()));
}

#[test]
fn a_refused_write_is_never_seen_unless_it_was_in_doubt() {
    for in_doubt in [false, true] {
        let mut oracle = written(&[7]);
        oracle.write_begins(8, 8, A, vec![BLOCK]);
        assert_eq!(oracle.refused(8, in_doubt), Ok(()));
        assert_eq!(oracle.read(BLOCK, 7), Ok(()));
        assert_eq!(oracle.read(BLOCK, 8).is_ok(), in_doubt);
    }
    let mut oracle = written(&[7]);
    oracle.write_begins(8, 8, A, vec![BLOCK]);
    assert_eq!(oracle.read(BLOCK, 8), Ok(()));
    assert!(oracle.refused(8, false).is_err(), "it was seen");
}

#[test]
fn a_loss_of_power_takes_what_was_not_synced_and_no_more() {
    let mut oracle = written(&[7]);
    let sync = oracle.sync_begins([BLOCK].into_iter());
    oracle.write_begins(8, 8, A, vec![BLOCK]);
    assert_eq!(oracle.answered(8), Ok(()));
    oracle.synced(&sync);
    oracle.lost([BLOCK].into_iter());
    assert!(oracle.read(BLOCK, 0).is_err(), "7 was on disk");

    let mut oracle = written(&[7, 8]);
    oracle.lost([BLOCK].into_iter());
    assert_eq!(oracle.read(BLOCK, 7), Ok(()));
    assert!(oracle.read(BLOCK, 8).is_err(), "lost is lost");
}

#[test]
fn a_write_that_still_waits_is_repeated_after_a_loss() {
    let mut oracle = written(&[7]);
    oracle.write_begins(8, 8, A, vec![BLOCK]);
    assert_eq!(oracle.read(BLOCK, 8), Ok(()));
    oracle.lost([BLOCK].into_iter());
    assert_eq!(oracle.read(BLOCK, 7), Ok(()));
    assert_eq!(oracle.answered(8), Ok(()));
    assert_eq!(oracle.read(BLOCK, 8), Ok(()));
}

#[test]
fn an_answer_may_be_on_its_way_when_the_power_fails_and_a_sync_may_have_begun() {
    let mut oracle = written(&[7]);
    oracle.write_begins(8, 8, A, vec![BLOCK]);
    let sync = oracle.sync_begins([BLOCK].into_iter());
    oracle.lost([BLOCK].into_iter());
    assert_eq!(oracle.answered(8), Ok(()));
    oracle.synced(&sync);
    assert_eq!(oracle.read(BLOCK, 0), Ok(()), "neither was on disk");
    let sync = oracle.sync_begins([BLOCK].into_iter());
    oracle.synced(&sync);
    oracle.lost([BLOCK].into_iter());
    assert!(oracle.read(BLOCK, 7).is_err(), "0 was on disk");
}
