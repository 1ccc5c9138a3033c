//! Making the in-sync members of a new epoch equal before it serves (R3, R11).
//!
//! After all of them have adopted, the primary asks each which chunks may differ, compares
//! those, and replaces what differs by its own copy. A member that cannot tell (it was
//! restarted) makes it compare the inventories instead. Nothing is served meanwhile.
//!
//! Cuts may have reached some members and not others. Between runs that never stopped a copy in
//! which more cuts are made wins over the primary's. After an end of all members it does not count: a
//! floor does not tell whether a chunk is missing for its cut, or was lost with the power. A cut
//! that has ended was durable on all of them, and one that has not is made again.

use super::difference::{compare_pages, plan};
use super::event::{Caller, Request, Response};
use super::group::{Role, Stage};
use super::holdings::Holdings;
use super::lane::Op;
use super::{ReplicaCore, SendFor};
use dfs_proto::cluster;
use dfs_proto::error::Error;
use dfs_proto::ids::{ChunkKey, Epoch, GroupId, ServerId, ServerRun};
use dfs_proto::msg::control::{EqualiseGroups, GroupsEqualised};
use dfs_proto::msg::peer::{ChunkState, GetChunkStates, GetMarks, HeldChunk, ListChunks};
use dfs_proto::payload::Payload;
use std::collections::{BTreeMap, BTreeSet};

/// Items of one page of an inventory, chunks compared and copied at a time.
const PAGE: usize = 1024;
const BATCH: usize = 64;

/// An `EqualiseGroups` that is not answered yet.
#[derive(Clone, Hash, Debug)]
pub(super) struct EqualiseBatch {
    caller: Caller,
    pending: BTreeSet<GroupId>,
    done: Vec<(GroupId, Epoch)>,
    suspects: Vec<(GroupId, ServerRun)>,
}

/// What the equalising of a group is at.
#[derive(Clone, Hash, Debug)]
enum Step {
    /// Asking for marks; who has not answered.
    Marks(BTreeSet<ServerId>),
    /// Comparing inventories: with which member, from where on.
    Scan(usize, Option<ChunkKey>),
    /// Asking for the states of some chunks.
    States(Vec<ChunkKey>, BTreeMap<ServerId, Vec<HeldChunk>>),
    /// Copying what differs.
    Copying(BTreeSet<ChunkKey>),
}

/// The equalising of one group in one epoch.
#[derive(Clone, Hash, Debug)]
pub(super) struct Equaliser {
    others: Vec<ServerRun>,
    step: Step,
    /// Marks are not known: inventories are compared.
    full: bool,
    /// The highest version of each chunk wins instead of the primary's.
    highest: bool,
    /// Chunks to be compared.
    chunks: BTreeSet<ChunkKey>,
}

impl ReplicaCore {
    pub(super) fn equalise(&mut self, caller: Caller, request: EqualiseGroups, h: &dyn Holdings) {
        let mut batch = EqualiseBatch {
            caller,
            pending: BTreeSet::new(),
            done: Vec::new(),
            suspects: Vec::new(),
        };
        let mut begin = Vec::new();
        for (id, epoch) in request.groups {
            let Some(g) = self.groups.get(&id) else {
                continue;
            };
            if g.epoch() != epoch || g.stage == Stage::Adopting || g.role != Role::Primary {
                continue;
            }
            if g.equalised {
                batch.done.push((id, epoch));
                continue;
            }
            batch.pending.insert(id);
            if g.equaliser.is_none() {
                begin.push(id);
            }
        }
        self.batches.push(batch);
        for id in begin {
            self.begin_equalising(id, h);
        }
        self.end_batches();
    }

    fn begin_equalising(&mut self, id: GroupId, h: &dyn Holdings) {
        if self.planted.skips_equalising() {
            return self.equalising_ended(id);
        }
        let me = self.me;
        let Some(g) = self.groups.get_mut(&id) else {
            return;
        };
        let highest = g.config.equalise == cluster::Equalise::Everything;
        let full = highest || !g.marks.known || g.marks.too_many();
        let others = g.others(me);
        let epoch = g.epoch();
        let chunks = match full {
            true => BTreeSet::new(),
            false => g.marks.chunks(),
        };
        g.equaliser = Some(Box::new(Equaliser {
            step: Step::Marks(others.iter().map(|run| run.server).collect()),
            full,
            highest,
            chunks,
            others: others.clone(),
        }));
        if others.is_empty() || full {
            return self.after_marks(id, h);
        }
        for run in others {
            let request = Request::Marks(GetMarks { group: id, epoch });
            self.ask(id, epoch, run, request);
        }
    }

    fn ask(&mut self, group: GroupId, epoch: Epoch, run: ServerRun, request: Request) {
        let what = SendFor::Equalise { group, epoch, run };
        self.send(run, request, Payload::default(), what);
    }

    fn equaliser(&mut self, id: GroupId) -> Option<(&mut Equaliser, Epoch)> {
        let g = self.groups.get_mut(&id)?;
        let epoch = g.config.epoch;
        Some((g.equaliser.as_deref_mut()?, epoch))
    }

    pub(super) fn equalise_answered(
        &mut self,
        id: GroupId,
        epoch: Epoch,
        run: ServerRun,
        result: Result<Response, Error>,
        h: &dyn Holdings,
    ) {
        let Some((e, present)) = self.equaliser(id) else {
            return;
        };
        if present != epoch {
            return;
        }
        match (result, &mut e.step) {
            (Ok(Response::Marks(marks)), Step::Marks(missing)) => {
                missing.remove(&run.server);
                let all = missing.is_empty();
                e.full |= marks.unknown;
                e.chunks.extend(marks.chunks);
                if all {
                    self.after_marks(id, h);
                }
            }
            (Ok(Response::Page(page)), Step::Scan(..)) => {
                self.scanned(id, &page.chunks, page.end, h);
            }
            (Ok(Response::States(held)), Step::States(keys, answers)) => {
                if held.len() != keys.len() {
                    log::warn!(
                        "{}: states of {} chunks for {}",
                        run,
                        held.len(),
                        keys.len()
                    );
                    return self.equalising_failed(id, run);
                }
                answers.insert(run.server, held);
                if answers.len() == e.others.len() {
                    self.compare(id, h);
                }
            }
            (Ok(_), _) => {}
            (Err(error), _) => {
                log::warn!("{id}: {run} does not answer while {epoch} is equalised: {error}");
                self.equalising_failed(id, run);
            }
        }
    }

    fn after_marks(&mut self, id: GroupId, h: &dyn Holdings) {
        let Some((e, _)) = self.equaliser(id) else {
            return;
        };
        if e.full {
            e.step = Step::Scan(0, None);
            self.scan(id, h);
        } else {
            self.next_states(id, h);
        }
    }

    /// Asks for the next page of the inventory that is compared with the own one.
    fn scan(&mut self, id: GroupId, h: &dyn Holdings) {
        let Some((e, epoch)) = self.equaliser(id) else {
            return;
        };
        let Step::Scan(member, after) = e.step else {
            return;
        };
        if let Some(run) = e.others.get(member).copied() {
            let request = ListChunks {
                group: id,
                epoch,
                after,
                items_max: PAGE as u32,
            };
            return self.ask(id, epoch, run, Request::List(request));
        }
        // Own damaged copies are to be replaced even where nobody differs.
        let mut after = None;
        loop {
            let (chunks, end) = h.chunks(id, after, PAGE);
            after = chunks.last().map(|state| state.key);
            let damaged = chunks.iter().filter(|state| state.damaged);
            e.chunks.extend(damaged.map(|state| state.key));
            if end || chunks.is_empty() {
                break;
            }
        }
        self.next_states(id, h);
    }

    fn scanned(&mut self, id: GroupId, theirs: &[ChunkState], their_end: bool, h: &dyn Holdings) {
        let Some((e, _)) = self.equaliser(id) else {
            return;
        };
        let Step::Scan(member, after) = e.step else {
            return;
        };
        let (ours, our_end) = h.chunks(id, after, PAGE);
        let (differing, next) = compare_pages(&ours, our_end, theirs, their_end);
        e.chunks.extend(differing);
        e.step = match next {
            Some(key) => Step::Scan(member, Some(key)),
            None => Step::Scan(member + 1, None),
        };
        self.scan(id, h);
    }

    /// Asks for the states of the next chunks that may differ.
    fn next_states(&mut self, id: GroupId, h: &dyn Holdings) {
        let Some((e, epoch)) = self.equaliser(id) else {
            return;
        };
        let mut keys = Vec::new();
        while keys.len() < BATCH
            && let Some(key) = e.chunks.pop_first()
        {
            keys.push(key);
        }
        if keys.is_empty() {
            return self.equalising_ended(id);
        }
        e.step = Step::States(keys.clone(), BTreeMap::new());
        let others = e.others.clone();
        if others.is_empty() {
            return self.compare(id, h);
        }
        for run in others {
            let request = GetChunkStates {
                group: id,
                epoch,
                keys: keys.clone(),
            };
            self.ask(id, epoch, run, Request::States(request));
        }
    }

    /// Decides for each chunk whose copy wins, and has it copied to the others.
    fn compare(&mut self, id: GroupId, h: &dyn Holdings) {
        let Some((e, epoch)) = self.equaliser(id) else {
            return;
        };
        let (others, highest) = (e.others.clone(), e.highest);
        let step = std::mem::replace(&mut e.step, Step::Copying(BTreeSet::new()));
        let Step::States(keys, answers) = step else {
            return;
        };
        let mut copies = Vec::new();
        for (at, key) in keys.into_iter().enumerate() {
            let own = HeldChunk {
                floor: h.floor(id, key.inode),
                state: h.chunk(key),
            };
            let theirs: Vec<(ServerRun, HeldChunk)> = others
                .iter()
                .filter_map(|run| Some((*run, *answers.get(&run.server)?.get(at)?)))
                .collect();
            copies.extend(plan(id, epoch, own, &theirs, highest).map(|op| (key, op)));
        }
        let Some((e, _)) = self.equaliser(id) else {
            return;
        };
        if copies.is_empty() {
            return self.next_states(id, h);
        }
        e.step = Step::Copying(copies.iter().map(|(key, _)| *key).collect());
        for (key, op) in copies {
            self.enqueue(key, Op::Copy(op), h);
        }
    }

    pub(super) fn chunk_equalised(
        &mut self,
        id: GroupId,
        epoch: Epoch,
        key: ChunkKey,
        failed: &[(ServerRun, Error)],
        h: &dyn Holdings,
    ) {
        let Some((e, present)) = self.equaliser(id) else {
            return;
        };
        if present != epoch {
            return;
        }
        if let Some((run, error)) = failed.first() {
            log::warn!("{id}: {key} could not be made equal with {run}: {error}");
            return self.equalising_failed(id, *run);
        }
        if let Step::Copying(keys) = &mut e.step {
            keys.remove(&key);
            if keys.is_empty() {
                self.next_states(id, h);
            }
        }
    }

    fn equalising_ended(&mut self, id: GroupId) {
        let Some(g) = self.groups.get_mut(&id) else {
            return;
        };
        g.equaliser = None;
        g.equalised = true;
        let epoch = g.epoch();
        for batch in &mut self.batches {
            if batch.pending.remove(&id) {
                batch.done.push((id, epoch));
            }
        }
        self.end_batches();
    }

    fn equalising_failed(&mut self, id: GroupId, run: ServerRun) {
        for batch in &mut self.batches {
            if batch.pending.contains(&id) {
                batch.suspects.push((id, run));
            }
        }
        self.drop_equaliser(id);
    }

    fn drop_equaliser(&mut self, id: GroupId) {
        if let Some(g) = self.groups.get_mut(&id) {
            g.equaliser = None;
        }
        self.drop_from_batches(id);
    }

    /// The group's equalising ends without success.
    pub(super) fn drop_from_batches(&mut self, id: GroupId) {
        for batch in &mut self.batches {
            batch.pending.remove(&id);
        }
        self.end_batches();
    }

    fn end_batches(&mut self) {
        let (ended, pending): (Vec<_>, Vec<_>) = std::mem::take(&mut self.batches)
            .into_iter()
            .partition(|batch| batch.pending.is_empty());
        self.batches = pending;
        for batch in ended {
            let response = GroupsEqualised {
                groups: batch.done,
                suspects: batch.suspects,
            };
            let response = Ok(Response::Equalised(response));
            self.answer(batch.caller, response, Payload::default());
        }
    }
}
