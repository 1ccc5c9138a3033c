//! Comparing the copies of a chunk on the primary and all in-sync members, and replacing those
//! that are wrong (R9).
//!
//! A comparison is an operation of the chunk's lane, so no write of the chunk is in flight while
//! its copies are read, and what differs then is a fault. It only reads, so a write that comes
//! meanwhile need not wait for it: the comparison is given up and made another time.

use super::event::{Caller, DiskDone, DiskOp, Request, Response};
use super::gate::Asker;
use super::group::{Role, Stage};
use super::holdings::Holdings;
use super::lane::{CopyOp, Op, Purpose};
use super::verdict::verdict;
use super::{DiskFor, ReplicaCore, SendFor};
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::{ChunkKey, Epoch, Generation, GroupId, Incarnation, ServerId, ServerRun};
use dfs_proto::msg::peer::{ChunkState, ListChunks};
use dfs_proto::msg::scrub::{CheckChunk, CheckedChunk, ScrubFinding};
use dfs_proto::payload::Payload;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A member that has not read a chunk by then is not asked any more.
const CHECK_DEADLINE: Duration = Duration::from_secs(15);

/// Chunks of one page.
const KEYS_MAX: usize = 512;

/// Which chunks a group holds, on any in-sync member, in order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ScrubKeys {
    pub group: GroupId,
    /// Start after this one.
    pub after: Option<ChunkKey>,
}

/// Compare one chunk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ScrubChunk {
    pub group: GroupId,
    pub key: ChunkKey,
    /// Not given up for a write.
    pub insist: bool,
}

/// A page of a group's chunks.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ScrubPage {
    pub keys: Vec<ChunkKey>,
    /// Where to go on; `None` at the end.
    pub next: Option<ChunkKey>,
}

/// What was found of one chunk.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Scrubbed {
    /// Read from all members.
    pub bytes: u64,
    pub findings: Vec<ScrubFinding>,
}

/// A page that is being put together.
#[derive(Clone, Hash, Debug)]
pub(super) struct Listing {
    caller: Caller,
    pub(super) group: GroupId,
    missing: BTreeSet<ServerId>,
    keys: BTreeSet<ChunkKey>,
    /// Where the shortest page ends.
    bound: Option<ChunkKey>,
}

impl Listing {
    fn add(&mut self, page: &[ChunkState], end: bool) {
        self.keys.extend(page.iter().map(|state| state.key));
        if let (false, Some(last)) = (end, page.last()) {
            self.bound = Some(self.bound.map_or(last.key, |bound| bound.min(last.key)));
        }
    }
}

/// Copies that are being read.
#[derive(Clone, Hash, Debug)]
pub(super) struct ScrubOp {
    pub(super) caller: Caller,
    pub(super) group: GroupId,
    pub(super) insist: bool,
    id: u64,
    missing: BTreeSet<ServerRun>,
    copies: BTreeMap<ServerRun, CheckedChunk>,
}

/// A comparison whose wrong copies are being replaced.
#[derive(Clone, Hash, Debug)]
pub(super) struct Mending {
    pub(super) group: GroupId,
    scrubbed: Scrubbed,
}

/// A copy that is being read, and what was known before.
#[derive(Clone, Copy, Hash, Debug)]
pub(super) struct Checking {
    pub(super) key: ChunkKey,
    group: GroupId,
    floor: Generation,
}

impl Checking {
    /// What was read, unless a cut was made meanwhile.
    pub(super) fn ended(
        self,
        result: Result<DiskDone, Error>,
        h: &dyn Holdings,
    ) -> Result<CheckedChunk, Error> {
        let floor = h.floor(self.group, self.key.inode);
        match result? {
            DiskDone::Checked(copy) if floor == self.floor => Ok(CheckedChunk { floor, copy }),
            DiskDone::Checked(_) => Err(Error::new(
                ErrorCode::Overloaded,
                format!("{} was cut meanwhile", self.key),
            )),
            _ => Err(Error::bare(ErrorCode::Internal)),
        }
    }
}

impl ReplicaCore {
    fn admit_scrub(&self, group: GroupId) -> Result<(Epoch, Vec<ServerRun>), Error> {
        let g = self.groups.get(&group);
        match g.filter(|g| g.role == Role::Primary && g.stage == Stage::Effective) {
            Some(g) => Ok((g.epoch(), g.others(self.me))),
            None => Err(Error::new(
                ErrorCode::WrongRole,
                format!("this server does not lead {group} now"),
            )),
        }
    }

    pub(super) fn scrub_keys(&mut self, caller: Caller, request: ScrubKeys, h: &dyn Holdings) {
        let group = request.group;
        let (epoch, others) = match self.admit_scrub(group) {
            Ok(admitted) => admitted,
            Err(error) => return self.refuse(caller, error),
        };
        let mut listing = Listing {
            caller,
            group,
            missing: others.iter().map(|run| run.server).collect(),
            keys: BTreeSet::new(),
            bound: None,
        };
        let (own, end) = h.chunks(group, request.after, KEYS_MAX);
        listing.add(&own, end);
        let id = self.next_id();
        self.listings.insert(id, listing);
        for run in others {
            let request = ListChunks {
                group,
                epoch,
                after: request.after,
                items_max: KEYS_MAX as u32,
            };
            let what = SendFor::ScrubList { id, run };
            self.send(run, Request::List(request), Payload::default(), what);
        }
        self.end_listing(id);
    }

    pub(super) fn scrub_listed(
        &mut self,
        id: u64,
        run: ServerRun,
        result: Result<Response, Error>,
    ) {
        let Some(listing) = self.listings.get_mut(&id) else {
            return;
        };
        match result {
            Ok(Response::Page(page)) => {
                listing.add(&page.chunks, page.end);
                listing.missing.remove(&run.server);
                self.end_listing(id);
            }
            Ok(_) => self.drop_listing(id, Error::bare(ErrorCode::Malformed)),
            Err(error) => self.drop_listing(id, error),
        }
    }

    fn end_listing(&mut self, id: u64) {
        if self.listings.get(&id).is_some_and(|l| l.missing.is_empty())
            && let Some(listing) = self.listings.remove(&id)
        {
            let within = |key: &ChunkKey| listing.bound.is_none_or(|bound| *key <= bound);
            let page = ScrubPage {
                keys: listing.keys.into_iter().filter(within).collect(),
                next: listing.bound,
            };
            self.answer(listing.caller, Ok(Response::Keys(page)), Payload::default());
        }
    }

    pub(super) fn drop_listing(&mut self, id: u64, error: Error) {
        if let Some(listing) = self.listings.remove(&id) {
            self.refuse(listing.caller, error);
        }
    }

    pub(super) fn scrub_chunk(&mut self, caller: Caller, request: ScrubChunk, h: &dyn Holdings) {
        if let Err(error) = self.admit_scrub(request.group) {
            return self.refuse(caller, error);
        }
        let op = ScrubOp {
            caller,
            group: request.group,
            insist: request.insist,
            id: self.next_id(),
            missing: BTreeSet::new(),
            copies: BTreeMap::new(),
        };
        self.enqueue(request.key, Op::Scrub(op), h);
    }

    /// A comparison's turn has come. `None`: it is answered already.
    pub(super) fn start_scrub(
        &mut self,
        key: ChunkKey,
        mut op: ScrubOp,
        h: &dyn Holdings,
    ) -> Option<ScrubOp> {
        let group = op.group;
        let me = self.me;
        let own = self.groups.get(&group).and_then(|g| {
            let mut members = g.config.members.iter();
            members.find(|m| m.run.incarnation == me).map(|m| m.run)
        });
        let ((epoch, others), own) = match (self.admit_scrub(group), own) {
            (Ok(admitted), Some(own)) => (admitted, own),
            (Err(error), _) => {
                self.refuse(op.caller, error);
                return None;
            }
            (Ok(_), None) => {
                self.refuse(op.caller, Error::bare(ErrorCode::WrongRole));
                return None;
            }
        };
        let id = op.id;
        op.missing = others.iter().copied().chain([own]).collect();
        let check = Checking {
            key,
            group,
            floor: h.floor(group, key.inode),
        };
        let what = DiskFor::ScrubOwn { check, id, own };
        self.disk(DiskOp::Check { key }, what, None);
        for run in others {
            let request = Request::Check(CheckChunk { key, group, epoch });
            let what = SendFor::ScrubCheck { key, id, run };
            self.send_within(run, request, Payload::default(), what, CHECK_DEADLINE);
        }
        Some(op)
    }

    /// A write has come: a comparison that only reads makes room for it.
    pub(super) fn yield_scrub(&mut self, key: ChunkKey) {
        let Some(lane) = self.lanes.get_mut(&key) else {
            return;
        };
        if let Some(Op::Scrub(op)) = &lane.current
            && !op.insist
        {
            let caller = op.caller;
            lane.current = None;
            let busy = Error::new(ErrorCode::Overloaded, format!("{key} is being written"));
            self.refuse(caller, busy);
        }
    }

    /// The primary wants to know what is here.
    pub(super) fn check(
        &mut self,
        caller: Caller,
        from: Incarnation,
        request: CheckChunk,
        h: &dyn Holdings,
    ) {
        let (key, group) = (request.key, request.group);
        if let Err(error) = self.admit_peer(group, request.epoch, from, Asker::Primary) {
            return self.refuse(caller, error);
        }
        let check = Checking {
            key,
            group,
            floor: h.floor(group, key.inode),
        };
        let what = DiskFor::Checked { check, caller };
        self.disk(DiskOp::Check { key }, what, None);
    }

    pub(super) fn checked(
        &mut self,
        check: Checking,
        caller: Caller,
        result: Result<DiskDone, Error>,
        h: &dyn Holdings,
    ) {
        let result = check.ended(result, h).map(Response::Checked);
        self.answer(caller, result, Payload::default());
    }

    /// One copy has been read.
    pub(super) fn scrub_read(
        &mut self,
        key: ChunkKey,
        id: u64,
        run: ServerRun,
        result: Result<CheckedChunk, Error>,
        h: &dyn Holdings,
    ) {
        let mut op = match self.current(key) {
            Some(Op::Scrub(op)) if op.id == id => op,
            Some(other) => return self.put_back(key, other),
            None => return,
        };
        match result {
            Ok(copy) => {
                op.missing.remove(&run);
                op.copies.insert(run, copy);
            }
            Err(error) => {
                let text = format!("{run} did not read {key}: {error}");
                let error = Error::new(error.code, text);
                self.refuse(op.caller, error);
                return self.release(key, &Op::Scrub(op), h);
            }
        }
        if !op.missing.is_empty() {
            return self.put_back(key, Op::Scrub(op));
        }
        let floors: BTreeSet<Generation> = op.copies.values().map(|c| c.floor).collect();
        if floors.len() > 1 {
            let error = Error::new(ErrorCode::Overloaded, format!("{key} is being cut"));
            self.refuse(op.caller, error);
            return self.release(key, &Op::Scrub(op), h);
        }
        self.judge(key, op, h);
    }

    /// All copies are read: says what is wrong, and has it replaced.
    fn judge(&mut self, key: ChunkKey, op: ScrubOp, h: &dyn Holdings) {
        let (caller, group) = (op.caller, op.group);
        let copies = op.copies.values().filter_map(|c| c.copy.as_ref());
        let bytes = copies.map(|copy| u64::from(copy.len)).sum();
        let verdict = verdict(key, group, &op.copies, self.me);
        let mut scrubbed = Scrubbed {
            bytes,
            findings: verdict.findings,
        };
        for finding in &scrubbed.findings {
            let done = match verdict.right.first() {
                Some(source) => format!("replacing it by the copy of {}", source.server),
                None => "no good copy is left; what there is stays as it is".to_owned(),
            };
            log::error!(
                "{key} of {group} on {}: {}; {done}",
                finding.server,
                finding.what
            );
        }
        if verdict.right.is_empty() || scrubbed.findings.is_empty() {
            for finding in &mut scrubbed.findings {
                finding.repaired = Err("no good copy is left".into());
            }
            self.answer(caller, Ok(Response::Scrubbed(scrubbed)), Payload::default());
            return self.release(key, &Op::Scrub(op), h);
        }
        let me = self.me;
        let mine = |run: &ServerRun| run.incarnation == me;
        let own_is_right = verdict.right.iter().any(mine);
        let epoch = self.groups.get(&group).map_or(Epoch(0), |g| g.epoch());
        let wrong = op.copies.keys().filter(|run| !verdict.right.contains(run));
        let copy = CopyOp {
            group,
            epoch,
            purpose: Purpose::Scrub(caller),
            pull: (!own_is_right).then(|| verdict.right[0]),
            expect: (!own_is_right).then_some(verdict.version),
            adopt_torn: false,
            push: wrong.filter(|run| !mine(run)).copied().collect(),
            running: 0,
            failed: Vec::new(),
        };
        self.mendings.insert(caller, Mending { group, scrubbed });
        if let Some(copy) = self.start_copy(key, copy, h) {
            self.put_back(key, Op::Copy(copy));
        }
    }

    /// The wrong copies are replaced, as far as that was possible.
    pub(super) fn mended(
        &mut self,
        caller: Caller,
        key: ChunkKey,
        failed: &[(ServerRun, Error)],
        pulled: Option<ServerRun>,
    ) {
        let Some(Mending { mut scrubbed, .. }) = self.mendings.remove(&caller) else {
            return;
        };
        // Without a good copy of its own the primary has given none to anybody.
        let no_source = failed.iter().find(|(run, _)| Some(*run) == pulled);
        for finding in &mut scrubbed.findings {
            let own = failed.iter().find(|(run, _)| run.server == finding.server);
            finding.repaired = match no_source.or(own) {
                None => Ok(()),
                Some((_, error)) => Err(error.to_string()),
            };
            match &finding.repaired {
                Ok(()) => log::info!("{key} on {} is replaced", finding.server),
                Err(e) => log::error!("{key} on {} is not replaced: {e}", finding.server),
            }
        }
        self.answer(caller, Ok(Response::Scrubbed(scrubbed)), Payload::default());
    }

    /// Comparisons of a group end with its epoch.
    pub(super) fn leave_scrubs(&mut self, group: GroupId, error: &Error) {
        let over = self.listings.iter().filter(|(_, l)| l.group == group);
        for id in over.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.drop_listing(id, error.clone());
        }
        let over = self.mendings.iter().filter(|(_, m)| m.group == group);
        for caller in over.map(|(caller, _)| *caller).collect::<Vec<_>>() {
            self.mendings.remove(&caller);
            self.refuse(caller, error.clone());
        }
    }
}
