//! The part of an operation that lies in one chunk (of a sync: in one group), driven by the
//! client's own protocol machine.

use super::{Client, Unsynced};
use crate::sim::message::{Answer, Ask, Node, Process, Then, Told};
use crate::sim::oracle::{ChangeId, Value};
use crate::sim::schedule::{Schedule, error};
use dfs_mount::client::chunk_op::{ChunkOp, OpKind, Step};
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::{
    ChunkIndex, ChunkKey, Epoch, Generation, GroupId, InodeId, Sequence, ServerId, SessionId,
    Version,
};
use dfs_proto::msg::chunk::{ReadChunk, SyncChunks, WriteChunk};
use dfs_proto::payload::{Payload, block_checksums};
use dfs_proto::timing::{RETRY_DELAY_MAX, RETRY_DELAY_MIN};
use dfs_server::replica::{Request, Response, Sender};
use std::time::Duration;

const READ_DEADLINE: Duration = Duration::from_millis(300);
const WRITE_DEADLINE: Duration = Duration::from_millis(1_500);

/// Steps that a machine may take at one moment: more is a loop.
const STEPS_MAX: u32 = 100;

/// Where a part stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Progress {
    GoesOn,
    /// The servers accept nothing of the session any more.
    Refused,
}

/// A request that has not been answered.
#[derive(Clone, Copy, Debug)]
struct Sent {
    attempt: u64,
    server: ServerId,
    epoch: Epoch,
    generation: Generation,
}

/// What a sync met that does not go together with what is known of the inode.
type Met = (ServerId, Generation, Error);

#[derive(Debug)]
pub(super) struct Part {
    kind: OpKind,
    pub(super) op: ChunkOp,
    pub(super) key: ChunkKey,
    pub(super) group: GroupId,
    sequence: Sequence,
    offset: u32,
    len: u32,
    /// What is written, or was read.
    payload: Payload,
    /// What a sync names.
    chunks: Vec<(ChunkIndex, Unsynced)>,
    sent: Option<Sent>,
    /// Waits for the inode's attributes; with what a sync met.
    pub(super) learning: Option<(u64, Option<Met>)>,
    resume: Duration,
    refused: bool,
    /// A write: its name in the history.
    pub(super) change: ChangeId,
    /// It ended with an error that a program may be told.
    pub(super) failed: bool,
    pub(super) done: bool,
}

impl Part {
    fn new(kind: OpKind, key: ChunkKey, group: GroupId, spread: u64) -> Self {
        Self {
            kind,
            op: ChunkOp::new(kind, group, spread),
            key,
            group,
            sequence: Sequence(0),
            offset: 0,
            len: 0,
            payload: Payload::default(),
            chunks: Vec::new(),
            sent: None,
            learning: None,
            resume: Duration::ZERO,
            refused: false,
            change: 0,
            failed: false,
            done: false,
        }
    }

    pub(super) fn read(key: ChunkKey, group: GroupId, spread: u64, offset: u32, len: u32) -> Self {
        Self {
            offset,
            len,
            ..Self::new(OpKind::Read, key, group, spread)
        }
    }

    pub(super) fn write(
        key: ChunkKey,
        group: GroupId,
        sequence: u64,
        offset: u32,
        len: u32,
        value: Value,
    ) -> Self {
        let block = value.to_le_bytes();
        let bytes: Vec<u8> = block.iter().copied().cycle().take(len as usize).collect();
        Self {
            sequence: Sequence(sequence),
            offset,
            len,
            payload: Payload::copy_from(&bytes),
            ..Self::new(OpKind::Write, key, group, 0)
        }
    }

    pub(super) fn sync(
        inode: InodeId,
        group: GroupId,
        chunks: Vec<(ChunkIndex, Unsynced)>,
    ) -> Self {
        let key = ChunkKey {
            inode,
            index: ChunkIndex(0),
        };
        Self {
            chunks,
            ..Self::new(OpKind::Sync, key, group, 0)
        }
    }

    /// The bytes that were read; what is missing is zeros.
    pub(super) fn content(&self) -> Vec<u8> {
        let mut bytes = self.payload.to_vec();
        bytes.resize(self.len as usize, 0);
        bytes
    }

    /// The chunks and versions that a sync has made durable.
    pub(super) fn synced(&self) -> Vec<(ChunkKey, Unsynced)> {
        let inode = self.key.inode;
        let key = |index| ChunkKey { inode, index };
        self.chunks
            .iter()
            .map(|(index, unsynced)| (key(*index), *unsynced))
            .collect()
    }

    fn request(
        &self,
        session: SessionId,
        epoch: Epoch,
        generation: Generation,
    ) -> (Request, Payload, Duration) {
        let (key, group) = (self.key, self.group);
        match self.kind {
            OpKind::Read => {
                let request = ReadChunk {
                    key,
                    group,
                    epoch,
                    generation,
                    offset: self.offset,
                    len: self.len,
                };
                (Request::Read(request), Payload::default(), READ_DEADLINE)
            }
            OpKind::Write => {
                let request = WriteChunk {
                    after: Version::HOLE,
                    key,
                    group,
                    epoch,
                    generation,
                    session,
                    sequence: self.sequence,
                    offset: self.offset,
                    checksums: block_checksums(self.offset, &self.payload),
                };
                (
                    Request::Write(request),
                    self.payload.clone(),
                    WRITE_DEADLINE,
                )
            }
            OpKind::Sync => {
                let request = SyncChunks {
                    session,
                    inode: key.inode,
                    group,
                    epoch,
                    generation,
                    // In a later generation a cut may have taken it.
                    chunks: (self.chunks.iter())
                        .map(|(index, u)| match u.generation < generation {
                            true => (*index, Version::HOLE),
                            false => (*index, u.version),
                        })
                        .collect(),
                };
                (Request::Sync(request), Payload::default(), WRITE_DEADLINE)
            }
        }
    }
}

impl Client {
    /// Takes the steps of one part that can be taken now.
    pub(super) fn advance(&mut self, s: &mut Schedule, task: usize, part: usize) -> Progress {
        for _ in 0..STEPS_MAX {
            let (map, groups) = (self.map.clone(), self.tasks[task].parts()[part].group);
            let known = self.known(groups);
            let this = &mut self.tasks[task].parts()[part];
            if this.refused {
                return Progress::Refused;
            }
            if this.done || this.sent.is_some() || this.learning.is_some() {
                return Progress::GoesOn;
            }
            if this.resume > s.now {
                let delay = this.resume - s.now;
                self.wake(s, task, delay);
                return Progress::GoesOn;
            }
            match this.op.next(&map, known) {
                Step::Send { server, epoch } => self.send(s, task, part, server, epoch),
                Step::Wait { refresh, tries } => {
                    let delay = backoff(s, tries);
                    this.resume = s.now + delay;
                    if refresh {
                        self.refresh_map(s);
                    }
                }
                Step::Done => this.done = true,
                Step::GiveUp(e) if e.code == ErrorCode::Fenced => this.refused = true,
                Step::GiveUp(e) if is_survivable(this.kind, e.code) => {
                    this.failed = true;
                    this.done = true;
                    let (change, in_doubt) = (this.change, this.op.is_in_doubt());
                    if this.kind == OpKind::Write {
                        let checked = s.oracle.refused(change, in_doubt);
                        s.check(checked);
                    }
                }
                Step::GiveUp(e) => {
                    this.refused = true;
                    let (key, kind) = (this.key, this.kind);
                    s.violate(format!("a {kind:?} of {key} by a live session failed: {e}"));
                }
                Step::LearnGeneration(_) => {
                    self.learn(s, task, part);
                    return Progress::GoesOn;
                }
            }
        }
        s.violate(format!("client {} makes steps without end", self.place));
        Progress::GoesOn
    }

    fn send(&mut self, s: &mut Schedule, task: usize, part: usize, server: ServerId, epoch: Epoch) {
        self.attempts += 1;
        let attempt = self.attempts;
        let Some(process) = self.process else { return };
        let Some(session) = self.session else { return };
        let file = self.tasks[task].file();
        let state = &self.files[file];
        let known = state.data.as_ref().map(|data| data.generation());
        let generation = known.unwrap_or(state.generation);
        let this = &mut self.tasks[task].parts()[part];
        let kind = this.kind;
        let (request, payload, deadline) = this.request(session, epoch, generation);
        this.sent = Some(Sent {
            attempt,
            server,
            epoch,
            generation,
        });
        s.trace(|| {
            format!(
                "client {} sends {kind:?} to {server}: {request:?}",
                self.place
            )
        });
        let place = s.places.get(&server).copied().unwrap_or(usize::MAX);
        let node = Node::Server(place);
        let to = s.process(node).unwrap_or(Process { node, life: 0 });
        let ask = Ask::Chunk {
            from: Sender::Mount,
            request,
            payload,
        };
        s.call(process, to, ask, deadline, Then::Part(task, part, attempt));
    }

    pub(super) fn part_answered(
        &mut self,
        s: &mut Schedule,
        task: usize,
        part: usize,
        attempt: u64,
        answer: Answer,
    ) {
        let Some(this) = self.tasks[task].parts().get_mut(part) else {
            return;
        };
        let Some(sent) = this.sent.filter(|sent| sent.attempt == attempt) else {
            return;
        };
        this.sent = None;
        match answer {
            Ok(Told::Chunk(response, payload)) => {
                match response {
                    Response::Read(_) => this.payload = payload,
                    Response::Written(written) => {
                        let unsynced = Unsynced {
                            version: written.version,
                            generation: sent.generation,
                        };
                        self.unsynced.insert(this.key, unsynced);
                        let checked = s.oracle.answered(this.change);
                        s.check(checked);
                        let heard = self.heard.entry(this.group).or_default();
                        *heard = (*heard).max(written.epoch);
                    }
                    _ => {}
                }
                this.op.answered(sent.server);
            }
            Ok(_) => this.op.failed(sent.server, error(ErrorCode::Malformed)),
            // Perhaps a cut took it, of which nothing was known here yet.
            Err(e) if e.code == ErrorCode::WriteLost => {
                let met = (sent.server, sent.generation, e);
                this.learning = Some((0, Some(met)));
                return self.learn(s, task, part);
            }
            Err(e) => this.op.failed(sent.server, e),
        }
        self.go_on(s, task);
    }

    /// A new map: requests of epochs that are over will not be answered, waits are over.
    pub(super) fn leave_epochs(&mut self, s: &mut Schedule) {
        let map = self.map.clone();
        for task in 0..self.tasks.len() {
            for part in self.tasks[task].parts() {
                part.resume = Duration::ZERO;
                let present = map.group(part.group).map(|entry| entry.epoch);
                let over = part.sent.filter(|sent| present > Some(sent.epoch));
                if let Some(sent) = over.filter(|_| part.kind != OpKind::Read) {
                    part.sent = None;
                    let left = Error::new(ErrorCode::WrongEpoch, "the group has another epoch");
                    part.op.failed(sent.server, left);
                }
            }
            if !self.tasks[task].is_idle() {
                self.wake(s, task, Duration::ZERO);
            }
        }
    }
}

/// Whether a program may be told this.
fn is_survivable(kind: OpKind, code: ErrorCode) -> bool {
    match kind {
        // All in-sync copies are damaged, another one may yet be found.
        OpKind::Read => code == ErrorCode::Rotten,
        OpKind::Write => code == ErrorCode::NoSpace,
        OpKind::Sync => code == ErrorCode::WriteLost,
    }
}

/// The delay after so many failures.
fn backoff(s: &mut Schedule, tries: u32) -> Duration {
    let doubled = RETRY_DELAY_MIN.saturating_mul(1 << tries.saturating_sub(1).min(7));
    let most = doubled.min(RETRY_DELAY_MAX).as_micros() as u64;
    s.random.micros(most / 2, most)
}
