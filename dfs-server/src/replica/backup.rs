//! The other side of a primary: forwarded writes, copies, and the questions it asks.

use super::event::{Caller, DiskDone, DiskOp, Response};
use super::gate::Asker;
use super::group::Role;
use super::holdings::{Holdings, identity};
use super::lane::{ApplyOp, InstallOp, Op};
use super::{DiskFor, ReplicaCore};
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::{ChunkKey, Epoch, GroupId, Incarnation};
use dfs_proto::limits::{INVENTORY_PAGE_ITEMS_MAX, IO_BYTES_MAX};
use dfs_proto::msg::peer::{
    ChunkPage, Committed, FetchChunk, ForwardWrite, Forwarded, GetChunkStates, GetMarks,
    GroupMarks, HeldChunk, InstallChunk, InstallFloors, ListChunks, SyncGroup, WriteRecord,
};
use dfs_proto::payload::Payload;

impl ReplicaCore {
    pub(super) fn forwarded(
        &mut self,
        caller: Caller,
        from: Incarnation,
        request: ForwardWrite,
        payload: Payload,
        h: &dyn Holdings,
    ) {
        if let Err(error) = self.admit_peer(request.group, request.epoch, from, Asker::Primary) {
            return self.refuse(caller, error);
        }
        // Only the primary of an effective epoch forwards.
        self.become_effective(request.group, h);
        let key = request.key;
        let op = ApplyOp {
            caller,
            request,
            payload,
        };
        self.enqueue(key, Op::Apply(op), h);
    }

    /// A forwarded write's turn has come. `None`: it is answered already.
    ///
    /// A mismatch of the predecessor is refused at once instead of waited for: the primary has
    /// one write of a chunk in progress at a time, so what is missing here will not come by
    /// itself. The primary sends its copy instead.
    pub(super) fn start_apply(&mut self, op: ApplyOp, h: &dyn Holdings) -> Option<ApplyOp> {
        let request = &op.request;
        let (key, group) = (request.key, request.group);
        let held = h.chunk(key);
        let (generation, version) = identity(held.as_ref());
        let verdict = self.admit_session(request.session).and_then(|()| {
            if version >= request.version {
                // A repeat, or part of a copy that came since.
                return Ok(true);
            }
            self.admit_generation(group, key, request.generation, h)?;
            let fits = version == request.predecessor
                && generation == request.predecessor_generation
                && held.is_none_or(|state| !state.damaged);
            match fits {
                true => Ok(false),
                false => Err(Error::new(
                    ErrorCode::WrongPredecessor,
                    format!("{key} is at {version} here, not {}", request.predecessor),
                )),
            }
        });
        match verdict {
            Ok(true) => {
                self.answer_forward(op.caller, h);
                return None;
            }
            Err(error) => {
                self.refuse(op.caller, error);
                return None;
            }
            Ok(false) => {}
        }
        if let Some(g) = self.groups.get_mut(&group) {
            if !self.planted.forgets_marks() {
                g.marks.wrote(request.version, key);
            }
            g.marks.committed(request.epoch, request.committed);
        }
        self.disk(
            DiskOp::Write {
                key,
                group,
                generation: request.generation,
                record: WriteRecord {
                    session: request.session,
                    sequence: request.sequence,
                    version: request.version,
                },
                offset: request.offset,
                checksums: request.checksums.clone(),
                payload: op.payload.clone(),
            },
            DiskFor::Apply { key },
            Some(group),
        );
        Some(op)
    }

    fn answer_forward(&mut self, caller: Caller, h: &dyn Holdings) {
        let low_on_space = h.is_low();
        let response = Response::Forwarded(Forwarded { low_on_space });
        self.answer(caller, Ok(response), Payload::default());
    }

    pub(super) fn apply_ended(
        &mut self,
        key: ChunkKey,
        result: Result<DiskDone, Error>,
        h: &dyn Holdings,
    ) {
        match self.current(key) {
            Some(Op::Apply(op)) => {
                match result {
                    Ok(_) => self.answer_forward(op.caller, h),
                    Err(error) => {
                        if error.code != ErrorCode::Rotten {
                            log::error!("{key}: a forwarded write failed here: {error}");
                        }
                        self.refuse(op.caller, error);
                    }
                }
                self.release(key, &Op::Apply(op), h);
            }
            Some(other) => {
                self.put_back(key, other);
                self.drained(key, h);
            }
            None => {}
        }
    }

    /// The disk has finished a change of an epoch that is over: the lane is free again.
    pub(super) fn drained(&mut self, key: ChunkKey, h: &dyn Holdings) {
        if self.disks.values().any(|d| d.holds(key)) {
            return;
        }
        match self.current(key) {
            Some(op @ Op::Draining { .. }) => self.release(key, &op, h),
            Some(other) => self.put_back(key, other),
            None => {}
        }
    }

    pub(super) fn committed(&mut self, caller: Caller, from: Incarnation, request: &Committed) {
        for (group, epoch, counter) in &request.groups {
            let admitted = self.admit_peer(*group, *epoch, from, Asker::Primary);
            if let (Ok(()), Some(g)) = (admitted, self.groups.get_mut(group)) {
                g.marks.committed(*epoch, *counter);
            }
        }
        self.done(caller);
    }

    pub(super) fn marks(&mut self, caller: Caller, from: Incarnation, request: GetMarks) {
        if let Err(error) = self.admit_peer(request.group, request.epoch, from, Asker::Primary) {
            return self.refuse(caller, error);
        }
        let marks = self
            .groups
            .get(&request.group)
            .map(|g| match g.marks.known && !g.marks.too_many() {
                true => GroupMarks {
                    unknown: false,
                    chunks: g.marks.chunks().into_iter().collect(),
                },
                false => GroupMarks {
                    unknown: true,
                    chunks: Vec::new(),
                },
            })
            .unwrap_or_default();
        self.answer(caller, Ok(Response::Marks(marks)), Payload::default());
    }

    pub(super) fn list(
        &mut self,
        caller: Caller,
        from: Incarnation,
        request: ListChunks,
        h: &dyn Holdings,
    ) {
        if let Err(error) = self.admit_peer(request.group, request.epoch, from, Asker::Primary) {
            return self.refuse(caller, error);
        }
        let max = (request.items_max as usize).clamp(1, INVENTORY_PAGE_ITEMS_MAX);
        let (chunks, end) = h.chunks(request.group, request.after, max);
        let page = Response::Page(ChunkPage { chunks, end });
        self.answer(caller, Ok(page), Payload::default());
    }

    pub(super) fn states(
        &mut self,
        caller: Caller,
        from: Incarnation,
        request: &GetChunkStates,
        h: &dyn Holdings,
    ) {
        if let Err(error) = self.admit_peer(request.group, request.epoch, from, Asker::Primary) {
            return self.refuse(caller, error);
        }
        if request.keys.len() > INVENTORY_PAGE_ITEMS_MAX {
            return self.refuse(caller, Error::bare(ErrorCode::InvalidArgument));
        }
        let held = request
            .keys
            .iter()
            .map(|key| HeldChunk {
                floor: h.floor(request.group, key.inode),
                state: h.chunk(*key),
            })
            .collect();
        self.answer(caller, Ok(Response::States(held)), Payload::default());
    }

    pub(super) fn install_floors(
        &mut self,
        caller: Caller,
        from: Incarnation,
        request: InstallFloors,
    ) {
        if let Err(error) = self.admit_peer(request.group, request.epoch, from, Asker::Primary) {
            return self.refuse(caller, error);
        }
        let group = request.group;
        let op = DiskOp::InstallFloors {
            group,
            floors: request.floors,
        };
        // An adoption waits for it: made later, they would count as floors of that epoch.
        self.disk(op, DiskFor::Caller(caller), Some(group));
    }

    pub(super) fn fetch(&mut self, caller: Caller, from: Incarnation, request: FetchChunk) {
        if let Err(error) = self.admit_peer(request.group, request.epoch, from, Asker::Member) {
            return self.refuse(caller, error);
        }
        let op = DiskOp::Fetch {
            key: request.key,
            group: request.group,
            offset: request.offset,
            len: request.len.min(IO_BYTES_MAX as u32),
        };
        self.disk(op, DiskFor::Caller(caller), None);
    }

    pub(super) fn install(
        &mut self,
        caller: Caller,
        from: Incarnation,
        request: InstallChunk,
        payload: Payload,
        h: &dyn Holdings,
    ) {
        if let Err(error) = self.admit_peer(request.group, request.epoch, from, Asker::Primary) {
            return self.refuse(caller, error);
        }
        let key = request.key;
        let op = InstallOp {
            caller,
            request,
            payload,
        };
        self.enqueue(key, Op::Install(op), h);
    }

    /// A part's turn has come. `None`: it is answered already.
    pub(super) fn start_install(&mut self, op: InstallOp, h: &dyn Holdings) -> Option<InstallOp> {
        let request = &op.request;
        let (key, group, image) = (request.key, request.group, &request.image);
        let floor = h.floor_since(group, key.inode, request.epoch);
        if image.floor < floor {
            // The sender has a cut of this epoch still before it. Those of earlier ones refuse no
            // copy: they have ended, and are made in it, or will be made again.
            let error = Error::bare(ErrorCode::StaleGeneration).with_detail(floor.0);
            self.refuse(op.caller, error);
            return None;
        }
        let (generation, version) = identity(h.chunk(key).as_ref());
        let late =
            version.epoch == request.epoch && image.version < version && image.floor <= generation;
        if late {
            // Sent before writes of this epoch that are applied here already.
            let error = Error::bare(ErrorCode::WrongPredecessor);
            self.refuse(op.caller, error);
            return None;
        }
        if let Some(g) = self.groups.get_mut(&group) {
            g.marks.installed(key);
        }
        self.disk(
            DiskOp::Install {
                key,
                group,
                hole: request.hole,
                image: request.image.clone(),
                offset: request.offset,
                last: request.last,
                payload: op.payload.clone(),
            },
            DiskFor::Install { key },
            Some(group),
        );
        Some(op)
    }

    pub(super) fn install_ended(
        &mut self,
        key: ChunkKey,
        result: Result<DiskDone, Error>,
        h: &dyn Holdings,
    ) {
        match self.current(key) {
            Some(Op::Install(op)) => {
                match result {
                    Ok(_) => {
                        self.rotten.remove(&key);
                        self.done(op.caller);
                    }
                    Err(error) => self.refuse(op.caller, error),
                }
                self.release(key, &Op::Install(op), h);
            }
            Some(other) => {
                self.put_back(key, other);
                self.drained(key, h);
            }
            None => {}
        }
    }

    pub(super) fn sync_group(&mut self, caller: Caller, from: Incarnation, request: SyncGroup) {
        if let Err(error) = self.admit_peer(request.group, request.epoch, from, Asker::Primary) {
            return self.refuse(caller, error);
        }
        let op = DiskOp::SyncGroup {
            group: request.group,
        };
        let what = DiskFor::CaughtUp {
            caller,
            group: request.group,
            epoch: request.epoch,
        };
        self.disk(op, what, None);
    }

    /// What the primary copied here is on disk.
    pub(super) fn caught_up(
        &mut self,
        caller: Caller,
        group: GroupId,
        epoch: Epoch,
        result: Result<DiskDone, Error>,
    ) {
        match (result, self.groups.get_mut(&group)) {
            (Ok(_), Some(g)) if g.epoch() == epoch => {
                if g.role == Role::Joining {
                    g.marks.caught_up();
                }
                self.done(caller);
            }
            (Ok(_), _) => self.refuse(caller, Error::bare(ErrorCode::WrongEpoch)),
            (Err(error), _) => self.refuse(caller, error),
        }
    }
}
