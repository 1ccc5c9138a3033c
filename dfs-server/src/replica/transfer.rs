//! Copying one chunk between this server and another member, part by part.
//!
//! A transfer belongs to the operation that its chunk's lane is busy with, so on the primary
//! the chunk does not change under it. It ends with its epoch.

use super::event::{DiskDone, DiskOp, Request, Response};
use super::holdings::Holdings;
use super::lane::{CopyOp, Op, Purpose};
use super::{DiskFor, ReplicaCore, SendFor};
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::{ChunkKey, Epoch, Generation, GroupId, ServerRun, Version};
use dfs_proto::limits::IO_BYTES_MAX;
use dfs_proto::msg::peer::{ChunkImage, FetchChunk, InstallChunk};
use dfs_proto::payload::Payload;
use std::time::Duration;

/// A part of a copy that a member has not taken or given by then has failed.
const PART_DEADLINE: Duration = Duration::from_secs(3);

/// Times that a chunk may change under a pull before it is given up.
const RESTARTS_MAX: u32 = 3;

#[derive(Clone, Hash, Debug)]
pub(super) struct Transfer {
    pub(super) key: ChunkKey,
    pub(super) group: GroupId,
    epoch: Epoch,
    peer: ServerRun,
    pull: bool,
    /// With `pull`: the version that it must be.
    expect: Option<Version>,
    /// Bytes that are over.
    offset: u32,
    /// Version and end of the part that is on its way.
    part: Option<(Generation, Version, u32, bool)>,
    restarts: u32,
}

impl ReplicaCore {
    /// Gives the own copy of a chunk to a member.
    pub(super) fn push(
        &mut self,
        key: ChunkKey,
        group: GroupId,
        epoch: Epoch,
        peer: ServerRun,
        h: &dyn Holdings,
    ) {
        let id = self.begin_transfer(key, group, epoch, peer, false, None);
        self.push_part(id, h);
    }

    /// Replaces the own copy of a chunk by a member's.
    pub(super) fn pull(
        &mut self,
        key: ChunkKey,
        group: GroupId,
        epoch: Epoch,
        peer: ServerRun,
        expect: Option<Version>,
        _h: &dyn Holdings,
    ) {
        let id = self.begin_transfer(key, group, epoch, peer, true, expect);
        self.pull_part(id);
    }

    fn begin_transfer(
        &mut self,
        key: ChunkKey,
        group: GroupId,
        epoch: Epoch,
        peer: ServerRun,
        pull: bool,
        expect: Option<Version>,
    ) -> u64 {
        let id = self.next_id();
        let transfer = Transfer {
            key,
            group,
            epoch,
            peer,
            pull,
            expect,
            offset: 0,
            part: None,
            restarts: 0,
        };
        self.transfers.insert(id, transfer);
        id
    }

    fn push_part(&mut self, id: u64, h: &dyn Holdings) {
        let Some(t) = self.transfers.get(&id) else {
            return;
        };
        let (key, group) = (t.key, t.group);
        if h.chunk(key).is_none() {
            let image = hole(h.floor(group, key.inode));
            return self.send_part(id, true, image, Payload::default());
        }
        let op = DiskOp::Fetch {
            key,
            group,
            offset: t.offset,
            len: IO_BYTES_MAX as u32,
        };
        self.disk(op, DiskFor::Transfer { id, key }, None);
    }

    fn send_part(&mut self, id: u64, hole: bool, image: ChunkImage, payload: Payload) {
        let Some(t) = self.transfers.get_mut(&id) else {
            return;
        };
        let end = t.offset.saturating_add(payload.len() as u32);
        let last = end >= image.len;
        t.part = Some((image.generation, image.version, end, last));
        let request = InstallChunk {
            key: t.key,
            group: t.group,
            epoch: t.epoch,
            hole,
            image,
            offset: t.offset,
            last,
        };
        let (to, what) = (t.peer, SendFor::Transfer(id));
        self.send_within(to, Request::Install(request), payload, what, PART_DEADLINE);
    }

    fn pull_part(&mut self, id: u64) {
        let Some(t) = self.transfers.get(&id) else {
            return;
        };
        let request = FetchChunk {
            key: t.key,
            group: t.group,
            epoch: t.epoch,
            offset: t.offset,
            len: IO_BYTES_MAX as u32,
        };
        let (to, what) = (t.peer, SendFor::Transfer(id));
        let nothing = Payload::default();
        self.send_within(to, Request::Fetch(request), nothing, what, PART_DEADLINE);
    }

    pub(super) fn transfer_disk_ended(
        &mut self,
        id: u64,
        key: ChunkKey,
        result: Result<DiskDone, Error>,
        h: &dyn Holdings,
    ) {
        let Some(t) = self.transfers.get_mut(&id) else {
            return self.drained(key, h);
        };
        match result {
            Err(error) => self.end_transfer(id, Err(error), h),
            // A part to be pushed.
            Ok(DiskDone::Image(image, payload)) if !t.pull => {
                let progress = !payload.is_empty() || t.offset >= image.len;
                match progress {
                    true => self.send_part(id, false, image, payload),
                    false => self.end_transfer(id, Err(Error::bare(ErrorCode::Internal)), h),
                }
            }
            // A pulled part is on disk.
            Ok(_) => match t.part {
                Some((_, _, _, true)) => self.end_transfer(id, Ok(()), h),
                Some((_, _, end, false)) => {
                    t.offset = end;
                    self.pull_part(id);
                }
                None => self.end_transfer(id, Err(Error::bare(ErrorCode::Internal)), h),
            },
        }
    }

    pub(super) fn transfer_answered(
        &mut self,
        id: u64,
        result: Result<Response, Error>,
        payload: Payload,
        h: &dyn Holdings,
    ) {
        let Some(t) = self.transfers.get_mut(&id) else {
            return;
        };
        match result {
            Err(error) => self.end_transfer(id, Err(error), h),
            Ok(Response::Image(image)) if t.pull => self.take_part(id, image, payload, h),
            Ok(_) if !t.pull => match t.part {
                Some((_, _, end, false)) => {
                    t.offset = end;
                    self.push_part(id, h);
                }
                _ => self.end_transfer(id, Ok(()), h),
            },
            Ok(_) => self.end_transfer(id, Err(Error::bare(ErrorCode::Malformed)), h),
        }
    }

    /// Writes a part that was pulled.
    fn take_part(&mut self, id: u64, image: ChunkImage, payload: Payload, h: &dyn Holdings) {
        let Some(t) = self.transfers.get_mut(&id) else {
            return;
        };
        let (key, group) = (t.key, t.group);
        let identity = (image.generation, image.version);
        let changed = t.part.is_some_and(|part| (part.0, part.1) != identity);
        if changed {
            t.restarts += 1;
            t.offset = 0;
            t.part = None;
            match t.restarts > RESTARTS_MAX {
                true => self.end_transfer(id, Err(Error::bare(ErrorCode::Overloaded)), h),
                false => self.pull_part(id),
            }
            return;
        }
        let unexpected = t.expect.is_some_and(|version| version != image.version);
        let stale = image.floor < h.floor_since(group, key.inode, t.epoch);
        let end = t.offset.saturating_add(payload.len() as u32);
        let last = end >= image.len;
        if unexpected || stale || (payload.is_empty() && !last) {
            let error = Error::new(
                ErrorCode::WrongPredecessor,
                format!("{} offers {}", t.peer.server, image.version),
            );
            return self.end_transfer(id, Err(error), h);
        }
        t.part = Some((image.generation, image.version, end, last));
        let offset = t.offset;
        if let Some(g) = self.groups.get_mut(&group) {
            g.marks.installed(key);
        }
        let op = DiskOp::Install {
            key,
            group,
            hole: image.version == Version::HOLE,
            image,
            offset,
            last,
            payload,
        };
        self.disk(op, DiskFor::Transfer { id, key }, Some(group));
    }

    fn end_transfer(&mut self, id: u64, result: Result<(), Error>, h: &dyn Holdings) {
        let Some(t) = self.transfers.remove(&id) else {
            return;
        };
        match self.current(t.key) {
            Some(Op::Write(op)) => self.write_repaired(op, t.peer, t.pull, result, h),
            Some(Op::Copy(op)) => self.copied(t.key, op, t.peer, t.pull, result, h),
            Some(other) => self.put_back(t.key, other),
            None => {}
        }
    }

    /// A copy's turn has come. `None`: there is nothing to do any more.
    pub(super) fn start_copy(
        &mut self,
        key: ChunkKey,
        mut op: CopyOp,
        h: &dyn Holdings,
    ) -> Option<CopyOp> {
        if op.adopt_torn {
            op.adopt_torn = false;
            op.running = 1;
            let g = self.groups.get_mut(&op.group)?;
            g.counter += 1;
            let version = Version {
                epoch: op.epoch,
                counter: g.counter,
            };
            let what = DiskFor::Torn { key };
            self.disk(DiskOp::AdoptTorn { key, version }, what, Some(op.group));
            return Some(op);
        }
        if let Some(source) = op.pull {
            op.running = 1;
            self.pull(key, op.group, op.epoch, source, op.expect, h);
            return Some(op);
        }
        self.start_pushes(key, &mut op, h);
        if op.running == 0 {
            self.copy_ended(key, &op, h);
            return None;
        }
        Some(op)
    }

    fn start_pushes(&mut self, key: ChunkKey, op: &mut CopyOp, h: &dyn Holdings) {
        op.running = op.push.len();
        for run in op.push.clone() {
            self.push(key, op.group, op.epoch, run, h);
        }
    }

    fn copied(
        &mut self,
        key: ChunkKey,
        mut op: CopyOp,
        peer: ServerRun,
        pulled: bool,
        result: Result<(), Error>,
        h: &dyn Holdings,
    ) {
        op.running -= 1;
        let failed = result.is_err();
        if let Err(error) = result {
            op.failed.push((peer, error));
        }
        if pulled && !failed {
            self.start_pushes(key, &mut op, h);
        }
        self.copy_goes_on(key, op, h);
    }

    pub(super) fn torn_adopted(
        &mut self,
        key: ChunkKey,
        result: Result<DiskDone, Error>,
        h: &dyn Holdings,
    ) {
        let mut op = match self.current(key) {
            Some(Op::Copy(op)) => op,
            Some(other) => {
                self.put_back(key, other);
                return self.drained(key, h);
            }
            None => return,
        };
        op.running -= 1;
        match result {
            Ok(_) => self.start_pushes(key, &mut op, h),
            Err(error) => {
                // Nobody has it whole and it was not torn: rot on all replicas. The group must
                // not wait for it; reads of this chunk fail and say so.
                log::error!("{key}: no replica holds an undamaged copy: {error}");
            }
        }
        self.copy_goes_on(key, op, h);
    }

    fn copy_goes_on(&mut self, key: ChunkKey, op: CopyOp, h: &dyn Holdings) {
        if op.running > 0 {
            return self.put_back(key, Op::Copy(op));
        }
        self.copy_ended(key, &op, h);
        self.release(key, &Op::Copy(op), h);
    }

    fn copy_ended(&mut self, key: ChunkKey, op: &CopyOp, h: &dyn Holdings) {
        let failed = op.failed.first();
        match op.purpose {
            Purpose::Scrub(caller) => self.mended(caller, key, &op.failed, op.pull),
            Purpose::SelfRepair => self.self_repaired(key, failed.map(|(_, error)| error)),
            Purpose::Equalise => self.chunk_equalised(op.group, op.epoch, key, &op.failed, h),
            Purpose::Join(server) => {
                let error = failed.map(|(_, error)| error.clone());
                self.chunk_joined(op.group, op.epoch, server, key, error, h);
            }
        }
    }
}

fn hole(floor: Generation) -> ChunkImage {
    ChunkImage {
        floor,
        generation: Generation(0),
        version: Version::HOLE,
        len: 0,
        records: Vec::new(),
        checksums: Vec::new(),
        holes: Vec::new(),
    }
}
