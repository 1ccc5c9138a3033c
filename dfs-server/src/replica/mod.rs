//! The replica core: primary/backup replication as a pure state machine.
//!
//! Events go in, actions come out; time comes with the events. The same code is driven by the
//! file server (`service`) and by the simulation, so what is explored is what runs. It decides;
//! it never touches disk, network or clock. Chunk contents pass through as `Payload` handles.
//!
//! | module | what it decides |
//! | --- | --- |
//! | `gate` | whether a request may be served at all: epoch, role, fence, generation |
//! | `lane` | the order of changes of one chunk (data only) |
//! | `pending` | what is waited for, and why |
//! | `primary` | writes of mounts: order, forward, commit |
//! | `backup` | forwarded writes and the questions of a primary |
//! | `reader` | reads, syncs and the repair of damaged copies |
//! | `sparse` | what is stored of a sparse file |
//! | `adopt` | epochs, fences, what is effective |
//! | `cut` | cuts, serialised with the writes of their inode |
//! | `transfer` | copying one chunk between two members |
//! | `equalise` | making the members of a new epoch equal |
//! | `difference` | what differs, and whose copy wins |
//! | `scrub` | comparing the copies of a chunk, replacing wrong ones |
//! | `verdict` | which copy is right |
//! | `join` | bringing a joining member up to date |
//! | `budget` | how fast |
//! | `release` | deleting what is held of groups that this server left |
//! | `fingerprint` | telling states apart, for the exploration |
//!
//! The rules (R1-R11) are described in `docs/replication.md`.

mod adopt;
mod backup;
mod budget;
mod cut;
mod difference;
mod equalise;
mod event;
mod fingerprint;
mod gate;
mod group;
mod holdings;
mod join;
mod lane;
mod measure;
mod pending;
mod planted;
mod primary;
mod reader;
mod release;
mod scrub;
mod sparse;
#[cfg(test)]
mod tests;
mod transfer;
mod verdict;

pub use event::{Action, Caller, DiskDone, DiskOp, Event, Request, Response, Sender, Token};
pub use holdings::Holdings;
pub use planted::Planted;
pub use scrub::{ScrubChunk, ScrubKeys, ScrubPage, Scrubbed};

use adopt::{Adoption, FenceTask};
use budget::Budget;
use cut::CutGate;
use dfs_proto::cluster::GroupConfig;
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::{ChunkKey, Epoch, GroupId, Incarnation, InodeId, ServerRun, SessionId};
use dfs_proto::msg::registry::RepairWork;
use dfs_proto::payload::Payload;
use dfs_proto::timing::FORWARD_DEADLINE;
use equalise::EqualiseBatch;
use group::{Group, Role, Stage};
use lane::{LANE_BYTES_MAX, LANE_MAX, Lane, Op};
use pending::{DiskFor, PendingDisk, SendFor};
use release::Release;
use scrub::{Listing, Mending};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use transfer::Transfer;

/// A member that failed is asked again, and reported again, after this.
const RETRY_AFTER: Duration = Duration::from_millis(200);
const REPORT_AFTER: Duration = Duration::from_millis(500);

/// A failed disk is reported again after this: who is out already may not have been told.
const DISK_REPORT_AFTER: Duration = Duration::from_secs(5);

/// What the core shows of a group, for status and for the invariants of the simulation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupView {
    pub epoch: Epoch,
    /// The epoch on disk.
    pub durable: Epoch,
    pub primary: bool,
    /// In-sync in the present epoch (the primary too).
    pub in_sync: bool,
    pub effective: bool,
    /// Writes that have a version and are not on all members yet.
    pub in_flight: usize,
}

/// The state of all replica groups of one run of a file server.
#[derive(Clone, Debug)]
pub struct ReplicaCore {
    me: Incarnation,
    planted: Planted,
    now: Duration,
    groups: BTreeMap<GroupId, Group>,
    fenced: BTreeSet<SessionId>,
    lanes: BTreeMap<ChunkKey, Lane>,
    lane_bytes: usize,
    cuts: BTreeMap<InodeId, CutGate>,
    adoptions: BTreeMap<u64, Adoption>,
    fence_tasks: BTreeMap<u64, FenceTask>,
    releases: BTreeMap<u64, Release>,
    batches: Vec<EqualiseBatch>,
    transfers: BTreeMap<u64, Transfer>,
    listings: BTreeMap<u64, Listing>,
    mendings: BTreeMap<Caller, Mending>,
    /// Chunks whose damage was reported already.
    rotten: BTreeMap<ChunkKey, reader::Repair>,
    disks: BTreeMap<Token, PendingDisk>,
    sends: BTreeMap<Token, SendFor>,
    last_id: u64,
    budget: Budget,
    out: Vec<Action>,
}

impl ReplicaCore {
    /// `remembered` and `fenced` are what earlier runs kept on disk. This run has no part in
    /// those epochs; it waits for one that names it.
    pub fn new(me: Incarnation, remembered: Vec<GroupConfig>, fenced: Vec<SessionId>) -> Self {
        Self {
            me,
            planted: Planted::default(),
            now: Duration::ZERO,
            groups: remembered
                .into_iter()
                .map(|config| (config.group, Group::remembered(config)))
                .collect(),
            fenced: fenced.into_iter().collect(),
            lanes: BTreeMap::new(),
            lane_bytes: 0,
            cuts: BTreeMap::new(),
            adoptions: BTreeMap::new(),
            fence_tasks: BTreeMap::new(),
            releases: BTreeMap::new(),
            batches: Vec::new(),
            transfers: BTreeMap::new(),
            listings: BTreeMap::new(),
            mendings: BTreeMap::new(),
            rotten: BTreeMap::new(),
            disks: BTreeMap::new(),
            sends: BTreeMap::new(),
            last_id: 0,
            budget: Budget::default(),
            out: Vec::new(),
        }
    }

    /// Breaks a rule on purpose.
    #[cfg(feature = "planted-bugs")]
    pub fn plant(&mut self, bug: Planted) {
        self.planted = bug;
    }

    /// Takes one event in. `now` is the time since any fixed moment; it never goes back.
    pub fn handle(&mut self, now: Duration, event: Event, holdings: &dyn Holdings) -> Vec<Action> {
        self.now = self.now.max(now);
        match event {
            Event::Request {
                from,
                caller,
                request,
                payload,
            } => self.requested(from, caller, request, payload, holdings),
            Event::Disk { token, result } => self.disk_ended(token, result, holdings),
            Event::Reply {
                token,
                result,
                payload,
            } => self.replied(token, result, payload, holdings),
            Event::DiskFailed { reason } => self.disk_failed(&reason),
            Event::Tick => self.tick(holdings),
        }
        std::mem::take(&mut self.out)
    }

    /// The durable epochs, ordered by group: what a registration names.
    pub fn epochs(&self) -> Vec<(GroupId, Epoch)> {
        self.groups.iter().map(|(id, g)| (*id, g.durable)).collect()
    }

    /// Limits what is copied to joining members, in bytes a second; 0 does not.
    pub fn limit_repair(&mut self, bytes_per_second: u64) {
        self.budget.set_rate(bytes_per_second);
    }

    /// What this server does to bring members up to date.
    pub fn repair_work(&self) -> RepairWork {
        RepairWork {
            joins: self.join_progress(),
            bytes_per_second: self.budget.bytes_per_second(),
        }
    }

    /// What is known of a group.
    pub fn view(&self, group: GroupId) -> Option<GroupView> {
        let g = self.groups.get(&group)?;
        Some(GroupView {
            epoch: g.epoch(),
            durable: g.durable,
            primary: g.role == Role::Primary,
            in_sync: g.is_in_sync(),
            effective: g.stage == Stage::Effective,
            in_flight: g.outstanding.len(),
        })
    }

    /// Whether this run is a member that receives the group's writes, as far as it knows.
    pub fn takes_part(&self, group: GroupId) -> bool {
        self.groups
            .get(&group)
            .is_some_and(|g| g.role != Role::Stranger)
    }

    /// The groups that this run leads and that serve.
    pub fn led(&self) -> Vec<GroupId> {
        let led = |g: &Group| g.role == Role::Primary && g.stage == Stage::Effective;
        let groups = self.groups.iter().filter(|(_, g)| led(g));
        groups.map(|(id, _)| *id).collect()
    }

    /// Whether nothing is in progress: what a clean stop waits for.
    pub fn is_idle(&self) -> bool {
        self.lanes.is_empty() && self.disks.is_empty() && self.cuts.is_empty()
    }

    fn requested(
        &mut self,
        from: Sender,
        caller: Caller,
        request: Request,
        payload: Payload,
        h: &dyn Holdings,
    ) {
        match (request, from) {
            (Request::Read(r), _) => self.read(caller, r, h),
            (Request::Write(r), _) => self.write(caller, r, payload, h),
            (Request::Sync(r), _) => self.sync(caller, r, h),
            (Request::Find(r), _) => self.find(caller, r, h),
            (Request::Stored(r), _) => self.measure_stored(caller, r, h),
            (Request::Adopt(r), Sender::Directory) => self.adopt(caller, r, h),
            (Request::Equalise(r), Sender::Directory) => self.equalise(caller, r, h),
            (Request::Effective(r), Sender::Directory) => self.effective(caller, r, h),
            (Request::Cut(r), Sender::Directory) => self.cut(caller, r, h),
            (Request::Fence(r), Sender::Directory) => self.fence(caller, r, h),
            (Request::Measure(r), Sender::Directory) => self.measure(caller, &r, h),
            (Request::Release(r), Sender::Directory) => self.release_groups(caller, r, h),
            (Request::Forward(r), Sender::Server(run)) => {
                self.forwarded(caller, run, r, payload, h)
            }
            (Request::Marks(r), Sender::Server(run)) => self.marks(caller, run, r),
            (Request::List(r), Sender::Server(run)) => self.list(caller, run, r, h),
            (Request::States(r), Sender::Server(run)) => self.states(caller, run, &r, h),
            (Request::InstallFloors(r), Sender::Server(run)) => {
                self.install_floors(caller, run, r);
            }
            (Request::Fetch(r), Sender::Server(run)) => self.fetch(caller, run, r),
            (Request::Install(r), Sender::Server(run)) => {
                self.install(caller, run, r, payload, h);
            }
            (Request::SyncGroup(r), Sender::Server(run)) => self.sync_group(caller, run, r),
            (Request::Committed(r), Sender::Server(run)) => self.committed(caller, run, &r),
            (Request::Check(r), Sender::Server(run)) => self.check(caller, run, r, h),
            (Request::ScrubKeys(r), Sender::Own) => self.scrub_keys(caller, r, h),
            (Request::ScrubChunk(r), Sender::Own) => self.scrub_chunk(caller, r, h),
            (_, Sender::Mount | Sender::Own | Sender::Server(_) | Sender::Directory) => {
                self.refuse(caller, Error::bare(ErrorCode::UnknownMethod));
            }
        }
    }

    fn disk_ended(&mut self, token: Token, result: Result<DiskDone, Error>, h: &dyn Holdings) {
        let Some(PendingDisk { what, busy }) = self.disks.remove(&token) else {
            return;
        };
        if let Some(group) = busy.and_then(|id| self.groups.get_mut(&id)) {
            group.busy -= 1;
        }
        match what {
            DiskFor::Read { caller, key, group } => self.read_ended(caller, key, group, result, h),
            DiskFor::Sync { caller } => self.sync_ended(caller, result),
            DiskFor::Local { key, version } => self.local_ended(key, version, result, h),
            DiskFor::Apply { key } => self.apply_ended(key, result, h),
            DiskFor::Install { key } => self.install_ended(key, result, h),
            DiskFor::Adoption(id) => self.adoption_durable(id, result),
            DiskFor::Fence(id) => self.fence_durable(id, result),
            DiskFor::Cut(inode) => self.cut_ended(inode, result, h),
            DiskFor::Caller(caller) => match result {
                Ok(DiskDone::Image(image, payload)) => {
                    self.answer(caller, Ok(Response::Image(image)), payload);
                }
                Ok(_) => self.done(caller),
                Err(error) => self.refuse(caller, error),
            },
            DiskFor::CaughtUp {
                caller,
                group,
                epoch,
            } => self.caught_up(caller, group, epoch, result),
            DiskFor::Transfer { id, key } => self.transfer_disk_ended(id, key, result, h),
            DiskFor::Torn { key } => self.torn_adopted(key, result, h),
            DiskFor::Checked { check, caller } => self.checked(check, caller, result, h),
            DiskFor::ScrubOwn { check, id, own } => {
                let found = check.ended(result, h);
                self.scrub_read(check.key, id, own, found, h);
            }
            DiskFor::Release { number, group } => self.release_ended(number, group, result),
            DiskFor::OldFloors { group, epoch } => {
                self.old_floors_dropped(group, epoch, result, h);
            }
        }
        if busy.is_some() {
            self.put_drained_adoptions();
        }
    }

    fn replied(
        &mut self,
        token: Token,
        result: Result<Response, Error>,
        payload: Payload,
        h: &dyn Holdings,
    ) {
        match self.sends.remove(&token) {
            Some(SendFor::Forward { key, version, run }) => {
                self.forward_answered(key, version, run, result, h);
            }
            Some(SendFor::Transfer(id)) => self.transfer_answered(id, result, payload, h),
            Some(SendFor::ScrubList { id, run }) => self.scrub_listed(id, run, result),
            Some(SendFor::ScrubCheck { key, id, run }) => {
                let found = result.and_then(|response| match response {
                    Response::Checked(checked) => Ok(checked),
                    _ => Err(Error::bare(ErrorCode::Malformed)),
                });
                self.scrub_read(key, id, run, found, h);
            }
            Some(SendFor::Equalise { group, epoch, run }) => {
                self.equalise_answered(group, epoch, run, result, h);
            }
            Some(SendFor::Join {
                group,
                epoch,
                server,
                attempt,
            }) => self.join_answered(group, epoch, server, attempt, result, h),
            Some(SendFor::Nobody) | None => {}
        }
    }

    fn tick(&mut self, h: &dyn Holdings) {
        self.retry_forwards();
        self.retry_copies(h);
        let now = self.now;
        self.budget.measure(now);
        self.tick_joins(h);
        self.tell_committed();
    }

    // What every module needs to act.

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn answer(&mut self, caller: Caller, result: Result<Response, Error>, payload: Payload) {
        self.out.push(Action::Answer {
            caller,
            result,
            payload,
        });
    }

    fn done(&mut self, caller: Caller) {
        self.answer(caller, Ok(Response::Done), Payload::default());
    }

    fn refuse(&mut self, caller: Caller, error: Error) {
        self.answer(caller, Err(error), Payload::default());
    }

    fn disk(&mut self, op: DiskOp, what: DiskFor, busy: Option<GroupId>) {
        let token = Token(self.next_id());
        if let Some(group) = busy.and_then(|id| self.groups.get_mut(&id)) {
            group.busy += 1;
        }
        self.disks.insert(token, PendingDisk { what, busy });
        self.out.push(Action::Disk { token, op });
    }

    fn send(&mut self, to: ServerRun, request: Request, payload: Payload, what: SendFor) {
        self.send_within(to, request, payload, what, FORWARD_DEADLINE);
    }

    fn send_within(
        &mut self,
        to: ServerRun,
        request: Request,
        payload: Payload,
        what: SendFor,
        deadline: Duration,
    ) {
        let token = Token(self.next_id());
        self.sends.insert(token, what);
        self.out.push(Action::Send {
            token,
            to,
            request,
            payload,
            deadline,
        });
    }

    /// Reports a member, at most every `REPORT_AFTER` in one epoch.
    fn suspect(&mut self, group: GroupId, suspect: ServerRun, reason: String) {
        let now = self.now;
        let Some(g) = self.groups.get_mut(&group) else {
            return;
        };
        if let Some(at) = g.suspected.get(&suspect.server)
            && now < *at + REPORT_AFTER
        {
            return;
        }
        g.suspected.insert(suspect.server, now);
        let groups = vec![(group, g.epoch())];
        self.out.push(Action::Suspect {
            suspect,
            groups,
            reason,
        });
    }

    /// Reports this server itself: its disk does not keep what it is told to.
    fn suspect_self(&mut self, group: GroupId, reason: String) {
        let me = self.me;
        let run = self
            .groups
            .get(&group)
            .and_then(|g| g.config.members.iter().find(|m| m.run.incarnation == me))
            .map(|m| m.run);
        if let Some(run) = run {
            self.suspect(group, run, reason);
        }
    }

    /// The disk is of no use any more: this server leaves all its groups, also those that nobody
    /// writes to.
    fn disk_failed(&mut self, reason: &str) {
        let (me, now) = (self.me, self.now);
        let mut run = None;
        let mut groups = Vec::new();
        for (id, g) in &mut self.groups {
            let Some(member) = g.config.members.iter().find(|m| m.run.incarnation == me) else {
                continue;
            };
            let server = member.run.server;
            let told = g.suspected.get(&server);
            let again = told.is_none_or(|at| now >= *at + DISK_REPORT_AFTER);
            if g.is_in_sync() && again {
                run = Some(member.run);
                groups.push((*id, g.config.epoch));
                g.suspected.insert(server, now);
            }
        }
        if let Some(suspect) = run {
            self.out.push(Action::Suspect {
                suspect,
                groups,
                reason: format!("its disk has failed: {reason}"),
            });
        }
    }

    /// Queues a change of a chunk, and starts it if nothing is before it.
    fn enqueue(&mut self, key: ChunkKey, op: Op, h: &dyn Holdings) {
        if !matches!(op, Op::Scrub(_)) {
            self.yield_scrub(key);
        }
        let lane = self.lanes.entry(key).or_default();
        // Attempts to bring a member up to date that fail one after the other would queue a copy
        // each while a write waits for that very member. One that has not begun does for all.
        if let Op::Copy(new) = &op
            && lane.queue.iter().any(|op| op.is_copy_like(new))
        {
            return;
        }
        let full = lane.queue.len() >= LANE_MAX || self.lane_bytes + op.bytes() > LANE_BYTES_MAX;
        if full && !matches!(op, Op::Copy(_)) {
            for caller in op.callers() {
                self.refuse(caller, Error::bare(ErrorCode::Overloaded));
            }
        } else {
            self.lane_bytes += op.bytes();
            lane.queue.push_back(op);
        }
        self.kick(key, h);
    }

    /// Starts what waits for a chunk, if it may.
    fn kick(&mut self, key: ChunkKey, h: &dyn Holdings) {
        loop {
            let Some(lane) = self.lanes.get_mut(&key) else {
                return;
            };
            if lane.current.is_some() {
                return;
            }
            if lane.queue.is_empty() {
                self.lanes.remove(&key);
                return;
            }
            if self.cuts.contains_key(&key.inode) {
                return;
            }
            let Some(op) = lane.queue.pop_front() else {
                return;
            };
            let bytes = op.bytes();
            let started = match op {
                Op::Write(op) => self.start_write(op, h).map(Op::Write),
                Op::Apply(op) => self.start_apply(op, h).map(Op::Apply),
                Op::Install(op) => self.start_install(op, h).map(Op::Install),
                Op::Copy(op) => self.start_copy(key, op, h).map(Op::Copy),
                Op::Scrub(op) => self.start_scrub(key, op, h).map(Op::Scrub),
                Op::Draining { .. } => None,
            };
            match (started, self.lanes.get_mut(&key)) {
                (Some(op), Some(lane)) => {
                    lane.current = Some(op);
                    return;
                }
                _ => self.lane_bytes -= bytes,
            }
        }
    }

    /// Takes the operation that a chunk is busy with, to go on with it.
    fn current(&mut self, key: ChunkKey) -> Option<Op> {
        self.lanes.get_mut(&key)?.current.take()
    }

    fn put_back(&mut self, key: ChunkKey, op: Op) {
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.current = Some(op);
        }
    }

    /// An operation taken with `current` is over.
    fn release(&mut self, key: ChunkKey, op: &Op, h: &dyn Holdings) {
        self.lane_bytes -= op.bytes();
        self.start_cut(key.inode, h);
        self.kick(key, h);
        self.end_fences();
    }
}
