//! The protocol of one chunk request: whom to ask, and what to do with each answer. Pure: no
//! clock, no network; the caller brings the map and the answers, and executes the steps. The
//! mount and the simulation drive the same code.
//!
//! | request | target |
//! | --- | --- |
//! | read | any in-sync replica, spread over them; another one after a failure |
//! | write | the primary, always with the same session and sequence |
//! | sync | every in-sync replica of one epoch; all of them again in another epoch |

use dfs_proto::cluster::{ClusterMap, GroupEntry};
use dfs_proto::error::{Applied, Error, ErrorCode, Retry};
use dfs_proto::ids::{Epoch, Generation, GroupId, ServerId};
use std::collections::BTreeSet;

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpKind {
    Read,
    Write,
    Sync,
}

/// What to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Send to this server with this epoch, then `answered` or `failed`.
    Send { server: ServerId, epoch: Epoch },
    /// Nothing can be sent now. Get a map (if `refresh`), wait for a newer one or for the back-off
    /// after `tries` failures, and ask again.
    Wait { refresh: bool, tries: u32 },
    /// The inode was cut: learn its generation (at least this one), then `generation_learnt`.
    LearnGeneration(Generation),
    /// It is done.
    Done,
    /// It can't be done.
    GiveUp(Error),
}

/// How often all in-sync replicas may answer that their copy is damaged, before the caller is
/// told: a repair from an out-of-sync replica or a new epoch may come in between.
const ROTTEN_ROUNDS_MAX: u32 = 3;

/// One request until its end.
#[derive(Debug)]
pub struct ChunkOp {
    kind: OpKind,
    group: GroupId,
    /// Spreads reads over the replicas.
    spread: u64,
    /// The highest epoch of the group that this mount has heard of.
    epoch_min: Epoch,
    /// The epoch of the last sending.
    epoch: Epoch,
    /// Replicas that failed in this round, or (sync) that have answered in this epoch.
    passed: BTreeSet<ServerId>,
    /// How many of `passed` are damaged.
    rotten: usize,
    rotten_rounds: u32,
    tries: u32,
    refresh: bool,
    wait: bool,
    generation: Option<Generation>,
    done: bool,
    failure: Option<Error>,
    /// A sending whose outcome is unknown: the write may have been applied.
    in_doubt: bool,
}

impl ChunkOp {
    pub fn new(kind: OpKind, group: GroupId, spread: u64) -> Self {
        Self {
            kind,
            group,
            spread,
            epoch_min: Epoch(0),
            epoch: Epoch(0),
            passed: BTreeSet::new(),
            rotten: 0,
            rotten_rounds: 0,
            tries: 0,
            refresh: false,
            wait: false,
            generation: None,
            done: false,
            failure: None,
            in_doubt: false,
        }
    }

    /// Whether an earlier sending may have been applied.
    pub fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// The next step under this map. `known` is the highest epoch of the group that the mount
    /// has heard of anywhere: no read is sent with a lower one (R7).
    pub fn next(&mut self, map: &ClusterMap, known: Epoch) -> Step {
        if self.done {
            return Step::Done;
        }
        if let Some(error) = self.failure.clone() {
            return Step::GiveUp(error);
        }
        if let Some(generation) = self.generation {
            return Step::LearnGeneration(generation);
        }
        if std::mem::take(&mut self.wait) {
            return Step::Wait {
                refresh: std::mem::take(&mut self.refresh),
                tries: self.tries,
            };
        }
        self.epoch_min = self.epoch_min.max(known);
        let Some(entry) = map.group(self.group) else {
            return self.wait_step(true);
        };
        if entry.epoch < self.epoch_min {
            return self.wait_step(true);
        }
        if entry.epoch != self.epoch {
            // Another epoch: nobody has failed or answered in it yet.
            self.epoch = entry.epoch;
            self.passed.clear();
            self.rotten = 0;
        }
        match self.kind {
            OpKind::Read => self.next_read(entry),
            OpKind::Write => match entry.primary.filter(|_| entry.writable) {
                Some(server) => self.send(server),
                None => self.wait_step(true),
            },
            OpKind::Sync => {
                let Some(next) = entry.in_sync.iter().find(|s| !self.passed.contains(s)) else {
                    if entry.in_sync.is_empty() {
                        return self.wait_step(true);
                    }
                    self.done = true;
                    return Step::Done;
                };
                self.send(*next)
            }
        }
    }

    fn next_read(&mut self, entry: &GroupEntry) -> Step {
        let count = entry.in_sync.len();
        for turn in 0..count {
            let at = (self.spread as usize).wrapping_add(turn) % count;
            let server = entry.in_sync[at];
            if !self.passed.contains(&server) {
                return self.send(server);
            }
        }
        if count > 0 && self.rotten >= count {
            self.rotten_rounds += 1;
            if self.rotten_rounds >= ROTTEN_ROUNDS_MAX {
                return Step::GiveUp(Error::new(
                    ErrorCode::Rotten,
                    format!("every in-sync replica of {} is damaged here", self.group),
                ));
            }
        }
        // All have failed: begin a new round after a pause.
        self.passed.clear();
        self.rotten = 0;
        self.tries += 1;
        self.wait_step(true)
    }

    fn send(&self, server: ServerId) -> Step {
        Step::Send {
            server,
            epoch: self.epoch,
        }
    }

    fn wait_step(&mut self, refresh: bool) -> Step {
        self.tries = self.tries.max(1);
        let step = Step::Wait {
            refresh,
            tries: self.tries,
        };
        self.tries += 1;
        step
    }

    /// The other replicas that a sync needs beside the one that `next` has just named: they may
    /// be asked at the same time. Each of them is then `answered` or `failed` as well.
    pub fn beside(&self, map: &ClusterMap, named: ServerId) -> Vec<ServerId> {
        let entry = map
            .group(self.group)
            .filter(|entry| self.kind == OpKind::Sync && entry.epoch == self.epoch);
        let members = entry.map_or(&[][..], |entry| &entry.in_sync);
        let others = members.iter().filter(|server| **server != named);
        others
            .filter(|server| !self.passed.contains(server))
            .copied()
            .collect()
    }

    /// A server has done it. For a sync, the next in-sync replica may follow.
    pub fn answered(&mut self, server: ServerId) {
        if self.kind == OpKind::Sync {
            self.passed.insert(server);
        } else {
            self.done = true;
        }
    }

    /// The inode's present generation is known now.
    pub fn generation_learnt(&mut self) {
        self.generation = None;
    }

    /// A server has refused, or could not be reached.
    pub fn failed(&mut self, server: ServerId, error: Error) {
        if error.applied() == Applied::Unknown {
            self.in_doubt = true;
        }
        match error.code {
            ErrorCode::WrongEpoch => {
                self.epoch_min = self.epoch_min.max(self.heard(&error));
                self.pass_over(server);
            }
            ErrorCode::StaleGeneration => {
                self.generation = Some(Generation(error.detail));
                self.tries += 1;
                self.wait = true;
            }
            ErrorCode::Rotten if self.kind == OpKind::Read => {
                self.rotten += 1;
                self.passed.insert(server);
            }
            _ if error.retry() == Retry::Never => self.failure = Some(error),
            _ => self.pass_over(server),
        }
    }

    /// The epoch that a refusal tells of. A server that is behind has nothing to tell, and one
    /// that has adopted an epoch which is not effective yet will not find it in the map for a
    /// moment: the back-off covers both.
    fn heard(&self, error: &Error) -> Epoch {
        match self.kind {
            OpKind::Read => self.epoch_min,
            OpKind::Write | OpKind::Sync => Epoch(error.detail).min(Epoch(self.epoch.0 + 1)),
        }
    }

    fn pass_over(&mut self, server: ServerId) {
        self.refresh = true;
        match self.kind {
            // Another replica may have it at once.
            OpKind::Read => {
                self.passed.insert(server);
            }
            OpKind::Write | OpKind::Sync => {
                self.tries += 1;
                self.wait = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::ids::MapVersion;

    const GROUP: GroupId = GroupId(0);

    fn map(epoch: u64, in_sync: &[u32], writable: bool) -> ClusterMap {
        ClusterMap {
            version: MapVersion(epoch),
            servers: Vec::new(),
            groups: vec![GroupEntry {
                group: GROUP,
                epoch: Epoch(epoch),
                primary: in_sync.first().map(|s| ServerId(*s)),
                in_sync: in_sync.iter().map(|s| ServerId(*s)).collect(),
                writable,
            }],
        }
    }

    fn sent(step: Step) -> (u32, u64) {
        match step {
            Step::Send { server, epoch } => (server.0, epoch.0),
            other => panic!("expected a sending, got {other:?}"),
        }
    }

    fn error(code: ErrorCode) -> Error {
        Error::bare(code)
    }

    #[test]
    fn reads_are_spread_and_go_on_to_the_next_replica() {
        let map = map(3, &[1, 2, 3], true);
        let mut op = ChunkOp::new(OpKind::Read, GROUP, 1);
        assert_eq!(sent(op.next(&map, Epoch(3))), (2, 3));
        op.failed(ServerId(2), error(ErrorCode::Disconnected));
        assert_eq!(sent(op.next(&map, Epoch(3))), (3, 3));
        op.failed(ServerId(3), error(ErrorCode::Rotten));
        assert_eq!(sent(op.next(&map, Epoch(3))), (1, 3));
        op.answered(ServerId(1));
        assert_eq!(op.next(&map, Epoch(3)), Step::Done);
    }

    #[test]
    fn a_sync_asks_all_replicas_at_once_and_all_again_in_another_epoch() {
        let first = map(3, &[1, 2, 3], true);
        let mut op = ChunkOp::new(OpKind::Sync, GROUP, 0);
        assert_eq!(sent(op.next(&first, Epoch(3))), (1, 3));
        let beside = op.beside(&first, ServerId(1));
        assert_eq!(beside, [ServerId(2), ServerId(3)]);
        op.answered(ServerId(3));
        op.failed(ServerId(1), error(ErrorCode::Disconnected));
        op.failed(ServerId(2), error(ErrorCode::Disconnected));
        assert!(matches!(op.next(&first, Epoch(3)), Step::Wait { .. }));
        assert_eq!(sent(op.next(&first, Epoch(3))), (1, 3));
        assert_eq!(op.beside(&first, ServerId(1)), [ServerId(2)]);
        let second = map(4, &[2, 3], true);
        assert_eq!(op.beside(&second, ServerId(1)), [], "not of that epoch");
        assert_eq!(sent(op.next(&second, Epoch(4))), (2, 4));
        assert_eq!(op.beside(&second, ServerId(2)), [ServerId(3)]);
    }

    #[test]
    fn damage_everywhere_is_an_error_after_some_rounds() {
        let map = map(3, &[1, 2], true);
        let mut op = ChunkOp::new(OpKind::Read, GROUP, 0);
        let mut sendings = 0;
        loop {
            match op.next(&map, Epoch(0)) {
                Step::Send { server, .. } => {
                    sendings += 1;
                    op.failed(server, error(ErrorCode::Rotten));
                }
                Step::Wait { .. } => {}
                Step::GiveUp(error) => {
                    assert_eq!(error.code, ErrorCode::Rotten);
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(sendings, 6);
    }

    #[test]
    fn a_read_waits_for_the_epoch_that_was_heard_of() {
        let old = map(3, &[1, 2], true);
        let mut op = ChunkOp::new(OpKind::Read, GROUP, 0);
        assert!(matches!(
            op.next(&old, Epoch(4)),
            Step::Wait { refresh: true, .. }
        ));
        assert_eq!(sent(op.next(&map(4, &[2], true), Epoch(4))), (2, 4));
    }

    #[test]
    fn a_write_follows_the_primary_through_epochs() {
        let old = map(3, &[1, 2, 3], true);
        let mut op = ChunkOp::new(OpKind::Write, GROUP, 7);
        assert_eq!(sent(op.next(&old, Epoch(3))), (1, 3));
        op.failed(ServerId(1), error(ErrorCode::Disconnected));
        assert!(op.is_in_doubt());
        assert!(matches!(
            op.next(&old, Epoch(3)),
            Step::Wait { refresh: true, .. }
        ));
        assert_eq!(sent(op.next(&map(4, &[2, 3], true), Epoch(3))), (2, 4));
        op.failed(ServerId(2), error(ErrorCode::GroupUnavailable));
        assert!(matches!(op.next(&old, Epoch(3)), Step::Wait { .. }));
        // Below min_in_sync: it waits, it does not fail.
        assert!(matches!(
            op.next(&map(5, &[3], false), Epoch(3)),
            Step::Wait { .. }
        ));
        assert_eq!(sent(op.next(&map(6, &[3, 1], true), Epoch(3))), (3, 6));
        op.answered(ServerId(3));
        assert_eq!(op.next(&map(6, &[3, 1], true), Epoch(3)), Step::Done);
    }

    #[test]
    fn a_refused_epoch_is_not_sent_again() {
        let old = map(3, &[1, 2], true);
        let mut op = ChunkOp::new(OpKind::Write, GROUP, 0);
        assert_eq!(sent(op.next(&old, Epoch(0))), (1, 3));
        op.failed(ServerId(1), error(ErrorCode::WrongEpoch).with_detail(4));
        assert!(matches!(op.next(&old, Epoch(0)), Step::Wait { .. }));
        assert!(matches!(op.next(&old, Epoch(0)), Step::Wait { .. }));
        assert_eq!(sent(op.next(&map(4, &[2], true), Epoch(0))), (2, 4));
    }

    #[test]
    fn a_sync_reaches_all_of_one_epoch() {
        let old = map(3, &[1, 2, 3], true);
        let mut op = ChunkOp::new(OpKind::Sync, GROUP, 0);
        assert_eq!(sent(op.next(&old, Epoch(0))), (1, 3));
        op.answered(ServerId(1));
        assert_eq!(sent(op.next(&old, Epoch(0))), (2, 3));
        op.failed(ServerId(2), error(ErrorCode::Disconnected));
        assert!(matches!(op.next(&old, Epoch(0)), Step::Wait { .. }));
        // The new epoch starts over, server 1 included.
        let new = map(4, &[1, 3], true);
        assert_eq!(sent(op.next(&new, Epoch(0))), (1, 4));
        op.answered(ServerId(1));
        assert_eq!(sent(op.next(&new, Epoch(0))), (3, 4));
        op.answered(ServerId(3));
        assert_eq!(op.next(&new, Epoch(0)), Step::Done);
    }

    #[test]
    fn final_errors_end_it() {
        let map = map(3, &[1], true);
        for code in [
            ErrorCode::NoSpace,
            ErrorCode::Fenced,
            ErrorCode::WriteForgotten,
            ErrorCode::WriteLost,
        ] {
            let mut op = ChunkOp::new(OpKind::Write, GROUP, 0);
            sent(op.next(&map, Epoch(0)));
            op.failed(ServerId(1), error(code));
            assert_eq!(op.next(&map, Epoch(0)), Step::GiveUp(error(code)));
        }
    }

    #[test]
    fn a_cut_is_learnt_before_the_repeat() {
        let map = map(3, &[1], true);
        let mut op = ChunkOp::new(OpKind::Read, GROUP, 0);
        sent(op.next(&map, Epoch(0)));
        op.failed(
            ServerId(1),
            error(ErrorCode::StaleGeneration).with_detail(9),
        );
        assert_eq!(
            op.next(&map, Epoch(0)),
            Step::LearnGeneration(Generation(9))
        );
        op.generation_learnt();
        assert!(matches!(op.next(&map, Epoch(0)), Step::Wait { .. }));
        assert_eq!(sent(op.next(&map, Epoch(0))), (1, 3));
    }
}
