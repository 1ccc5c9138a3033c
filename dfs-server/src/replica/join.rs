//! Bringing a joining member up to date while writes go on (R4).
//!
//! From the moment its epoch is effective a joining member receives every write. It applies
//! those that follow exactly what it holds, and refuses the others, which makes them chunks to
//! be copied. Beside that the inventories are compared. When nothing differs any more and the
//! member has everything on disk, it is proposed; from then on a write needs it like any other.

use super::difference::compare_pages;
use super::event::{Action, Request, Response};
use super::group::{Group, Role, Stage};
use super::holdings::Holdings;
use super::lane::{CopyOp, Op, Purpose};
use super::primary::does_not_fit;
use super::{RETRY_AFTER, ReplicaCore, SendFor};
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::{ChunkKey, Epoch, GroupId, InodeId, ServerId, ServerRun};
use dfs_proto::msg::peer::{InstallFloors, ListChunks, SyncGroup};
use dfs_proto::msg::registry::JoinProgress;
use dfs_proto::payload::Payload;
use dfs_proto::timing::REQUEST_DEADLINE;
use std::collections::BTreeSet;
use std::time::Duration;

/// Chunks copied at a time to one member in one group, and of all groups.
const COPIES_MAX: usize = 4;
const COPIES_IN_ALL_MAX: usize = 12;

/// Items of one page; the comparison pauses while so many chunks wait to be copied.
const PAGE: usize = 1024;

/// After a failure that is not a matter of milliseconds the next attempt begins after this.
const ATTEMPT_AFTER: Duration = Duration::from_secs(1);

/// A proposal is repeated after this, until the epoch changes.
const PROPOSE_AFTER: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Giving it the floors, from this inode on.
    Floors(Option<InodeId>),
    /// Comparing inventories, from this chunk on; whether a page is asked for.
    Compare(Option<ChunkKey>, bool),
    /// The inventories have been compared; what differed is being copied.
    Copy,
    /// Everything is copied; it is making it durable.
    Sync,
    Proposed(Duration),
    /// This attempt has failed: it receives no writes until the next one.
    Broken(Duration),
}

/// A joining member as its primary sees it.
#[derive(Clone, Debug)]
pub(super) struct Join {
    pub(super) run: ServerRun,
    attempt: u64,
    phase: Phase,
    /// Chunks to be copied.
    differing: BTreeSet<ChunkKey>,
    copying: BTreeSet<ChunkKey>,
    done: Done,
}

/// What was found to differ, and what was copied, for those who look on.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    bytes_found: u64,
    chunks: u64,
    bytes: u64,
}

impl Join {
    /// A chunk of so many bytes is to be copied.
    fn found(&mut self, key: ChunkKey, bytes: u64) {
        if self.differing.insert(key) {
            self.done.bytes_found += bytes;
        }
    }

    fn progress(&self, group: GroupId) -> JoinProgress {
        JoinProgress {
            group,
            server: self.run.server,
            compared: !matches!(
                self.phase,
                Phase::Floors(_) | Phase::Compare(..) | Phase::Broken(_)
            ),
            chunks_left: (self.differing.len() + self.copying.len()) as u64,
            bytes_left: self.done.bytes_found.saturating_sub(self.done.bytes),
            chunks_copied: self.done.chunks,
            bytes_copied: self.done.bytes,
        }
    }

    /// Whether it receives the writes.
    pub(super) fn in_set(&self) -> bool {
        !matches!(self.phase, Phase::Broken(_))
    }

    pub(super) fn attempt(&self) -> u64 {
        self.attempt
    }

    /// Everything but times and the attempt's number.
    pub(super) fn lasting(&self) -> impl std::hash::Hash + '_ {
        let phase = match self.phase {
            Phase::Floors(after) => (0, after, None, false),
            Phase::Compare(after, asked) => (1, None, after, asked),
            Phase::Copy => (2, None, None, false),
            Phase::Sync => (3, None, None, false),
            Phase::Proposed(_) => (4, None, None, false),
            Phase::Broken(_) => (5, None, None, false),
        };
        (phase, &self.differing, &self.copying)
    }

    fn is_proposed(&self) -> bool {
        matches!(self.phase, Phase::Proposed(_))
    }
}

impl ReplicaCore {
    /// Starts with the joining members of an epoch that has become effective.
    pub(super) fn begin_joins(&mut self, group: GroupId, h: &dyn Holdings) {
        let runs: Vec<ServerRun> = match self.groups.get(&group) {
            Some(g) if g.role == Role::Primary && g.stage == Stage::Effective => {
                g.config.joining().collect()
            }
            _ => return,
        };
        for run in runs {
            self.begin_attempt(group, run, h);
        }
    }

    fn begin_attempt(&mut self, group: GroupId, run: ServerRun, h: &dyn Holdings) {
        let attempt = self.next_id();
        // Writes in progress are not sent to it: their chunks are to be copied whatever the
        // comparison says.
        let differing: BTreeSet<ChunkKey> = self
            .lanes
            .iter()
            .filter(|(_, lane)| match &lane.current {
                Some(Op::Write(op)) => op.request.group == group,
                _ => false,
            })
            .map(|(key, _)| *key)
            .collect();
        let phase = match self.planted.promotes_early() {
            true => Phase::Proposed(self.now),
            false => Phase::Floors(None),
        };
        if let Some(g) = self.groups.get_mut(&group) {
            let join = Join {
                run,
                attempt,
                phase,
                done: Done {
                    bytes_found: differing.iter().map(|key| h.chunk_bytes(*key)).sum(),
                    ..Done::default()
                },
                differing,
                copying: BTreeSet::new(),
            };
            g.joins.insert(run.server, join);
        }
        self.go_on_joining(group, run.server, h);
    }

    fn join(&mut self, group: GroupId, server: ServerId) -> Option<(&mut Join, Epoch)> {
        let g = self.groups.get_mut(&group)?;
        let epoch = g.config.epoch;
        Some((g.joins.get_mut(&server)?, epoch))
    }

    /// A member whose failure does not hold up writes.
    pub(super) fn is_joining(&self, group: GroupId, server: ServerId) -> bool {
        self.groups
            .get(&group)
            .and_then(|g| g.joins.get(&server))
            .is_some_and(|join| !join.is_proposed() || self.planted.drops_proposed())
    }

    /// A joining member did not take a forwarded write.
    pub(super) fn join_missed(
        &mut self,
        group: GroupId,
        run: ServerRun,
        key: ChunkKey,
        error: &Error,
    ) {
        let Some((join, _)) = self.join(group, run.server) else {
            return;
        };
        if does_not_fit(error) || error.code == ErrorCode::StaleGeneration {
            join.found(key, 0);
        } else {
            self.join_failed(group, run.server, error);
        }
    }

    fn join_failed(&mut self, group: GroupId, server: ServerId, error: &Error) {
        let now = self.now;
        let Some((join, epoch)) = self.join(group, server) else {
            return;
        };
        if join.is_proposed() {
            // Only a new epoch takes it out; writes that it misses stay in doubt until then.
            return;
        }
        let run = join.run;
        // It has not heard of this epoch yet, or only one chunk was not as expected: it does
        // its part. Anything else is told to the directory.
        let behind = error.code == ErrorCode::WrongEpoch && error.detail < epoch.0;
        let brief = behind
            || does_not_fit(error)
            || matches!(
                error.code,
                ErrorCode::StaleGeneration | ErrorCode::Overloaded
            );
        join.phase = Phase::Broken(now + if brief { RETRY_AFTER } else { ATTEMPT_AFTER });
        join.differing.clear();
        if !brief {
            log::warn!("{group}: {run} does not come up to date: {error}");
            self.suspect(group, run, format!("joining: {error}"));
        }
    }

    /// Does what a joining member needs next.
    fn go_on_joining(&mut self, group: GroupId, server: ServerId, h: &dyn Holdings) {
        self.copy_differing(group, server, h);
        let now = self.now;
        let Some((join, epoch)) = self.join(group, server) else {
            return;
        };
        let (run, attempt) = (join.run, join.attempt);
        let request = match join.phase {
            Phase::Floors(after) => {
                let (floors, _) = h.floors(group, after, PAGE);
                Request::InstallFloors(InstallFloors {
                    group,
                    epoch,
                    floors,
                })
            }
            Phase::Compare(after, false) if join.differing.len() < PAGE => {
                join.phase = Phase::Compare(after, true);
                Request::List(ListChunks {
                    group,
                    epoch,
                    after,
                    items_max: PAGE as u32,
                })
            }
            Phase::Copy if join.differing.is_empty() && join.copying.is_empty() => {
                join.phase = Phase::Sync;
                Request::SyncGroup(SyncGroup { group, epoch })
            }
            Phase::Proposed(at) if at <= now => {
                join.phase = Phase::Proposed(now + PROPOSE_AFTER);
                self.out.push(Action::Propose {
                    group,
                    epoch,
                    joined: run,
                });
                return;
            }
            _ => return,
        };
        let what = SendFor::Join {
            group,
            epoch,
            server,
            attempt,
        };
        self.send_within(run, request, Payload::default(), what, REQUEST_DEADLINE);
    }

    pub(super) fn join_answered(
        &mut self,
        group: GroupId,
        epoch: Epoch,
        server: ServerId,
        attempt: u64,
        result: Result<Response, Error>,
        h: &dyn Holdings,
    ) {
        let now = self.now;
        let Some((join, present)) = self.join(group, server) else {
            return;
        };
        if present != epoch || join.attempt != attempt {
            return;
        }
        let response = match result {
            Ok(response) => response,
            Err(error) => return self.join_failed(group, server, &error),
        };
        match (response, join.phase) {
            (Response::Done, Phase::Floors(after)) => {
                let (floors, end) = h.floors(group, after, PAGE);
                join.phase = match floors.last() {
                    Some((inode, _)) if !end => Phase::Floors(Some(*inode)),
                    _ => Phase::Compare(None, false),
                };
            }
            (Response::Page(page), Phase::Compare(after, true)) => {
                let (ours, end) = h.chunks(group, after, PAGE);
                let (differing, next) = compare_pages(&ours, end, &page.chunks, page.end);
                for key in differing {
                    join.found(key, h.chunk_bytes(key));
                }
                join.phase = match next {
                    Some(key) => Phase::Compare(Some(key), false),
                    None => Phase::Copy,
                };
            }
            (Response::Done, Phase::Sync) => {
                // What was found to differ meanwhile is copied, and made durable, first.
                let ready = join.differing.is_empty() && join.copying.is_empty();
                join.phase = match ready {
                    true => Phase::Proposed(now),
                    false => Phase::Copy,
                };
                if ready {
                    log::debug!("{group}: {} is up to date in {epoch}", join.run);
                }
            }
            _ => return,
        }
        self.go_on_joining(group, server, h);
    }

    /// Starts copies of chunks that differ, as many as may run.
    fn copy_differing(&mut self, group: GroupId, server: ServerId, h: &dyn Holdings) {
        let running: usize = self
            .groups
            .values()
            .flat_map(|g| g.joins.values())
            .map(|join| join.copying.len())
            .sum();
        let room = COPIES_IN_ALL_MAX.saturating_sub(running);
        let now = self.now;
        let mut budget = std::mem::take(&mut self.budget);
        let keys = self.next_copies(group, server, room, |key| {
            let open = budget.is_open(now);
            if open {
                budget.charge(h.chunk_bytes(key));
            }
            open
        });
        self.budget = budget;
        let Some((join, epoch)) = self.join(group, server) else {
            return;
        };
        let run = join.run;
        for key in keys {
            let op = CopyOp {
                group,
                epoch,
                purpose: Purpose::Join(server),
                pull: None,
                expect: None,
                adopt_torn: false,
                push: vec![run],
                running: 0,
                failed: Vec::new(),
            };
            self.enqueue(key, Op::Copy(op), h);
        }
    }

    /// Takes chunks that may be copied now out of those that differ.
    fn next_copies(
        &mut self,
        group: GroupId,
        server: ServerId,
        room: usize,
        mut may_begin: impl FnMut(ChunkKey) -> bool,
    ) -> Vec<ChunkKey> {
        let mut keys = Vec::new();
        let Some((join, _)) = self.join(group, server) else {
            return keys;
        };
        if !join.in_set() {
            return keys;
        }
        while join.copying.len() < COPIES_MAX
            && keys.len() < room
            && let Some(key) = join.differing.difference(&join.copying).next().copied()
            && may_begin(key)
        {
            join.differing.remove(&key);
            join.copying.insert(key);
            keys.push(key);
        }
        keys
    }

    /// How far all joining members are.
    pub(super) fn join_progress(&self) -> Vec<JoinProgress> {
        let of = |(id, group): (&GroupId, &Group)| {
            let joins = group.joins.values().map(|join| join.progress(*id));
            joins.collect::<Vec<_>>()
        };
        self.groups.iter().flat_map(of).collect()
    }

    pub(super) fn chunk_joined(
        &mut self,
        group: GroupId,
        epoch: Epoch,
        server: ServerId,
        key: ChunkKey,
        error: Option<Error>,
        h: &dyn Holdings,
    ) {
        let Some((join, present)) = self.join(group, server) else {
            return;
        };
        if present != epoch {
            return;
        }
        join.copying.remove(&key);
        if error.is_none() {
            let bytes = h.chunk_bytes(key);
            join.done.chunks += 1;
            join.done.bytes += bytes;
            self.budget.copied(bytes);
        }
        if let Some(error) = error {
            if error.code == ErrorCode::Rotten && h.chunk(key).is_some_and(|s| s.damaged) {
                self.found_rotten(key, group, &error, h);
            }
            self.join_failed(group, server, &error);
            return;
        }
        self.go_on_joining(group, server, h);
        // Another member may have waited for the room.
        let waiting: Vec<(GroupId, ServerId)> = self
            .groups
            .iter()
            .flat_map(|(id, g)| g.joins.iter().map(|(server, join)| (*id, *server, join)))
            .filter(|(_, _, join)| !join.differing.is_empty() && join.copying.is_empty())
            .map(|(id, server, _)| (id, server))
            .collect();
        for (id, server) in waiting {
            self.copy_differing(id, server, h);
        }
    }

    pub(super) fn tick_joins(&mut self, h: &dyn Holdings) {
        let now = self.now;
        let joins: Vec<(GroupId, ServerRun, Phase)> = self
            .groups
            .iter()
            .flat_map(|(id, g)| g.joins.values().map(|j| (*id, j.run, j.phase)))
            .collect();
        for (group, run, phase) in joins {
            match phase {
                Phase::Broken(until) if until <= now => self.begin_attempt(group, run, h),
                Phase::Broken(_) | Phase::Floors(_) | Phase::Sync => {}
                Phase::Compare(..) | Phase::Copy | Phase::Proposed(_) => {
                    self.go_on_joining(group, run.server, h);
                }
            }
        }
    }
}
