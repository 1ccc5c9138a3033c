//! What goes into the replica core and what comes out of it: plain data.
//!
//! A request looks the same whether it is received or sent, so whoever carries it between two
//! cores (the transport, or a simulated network) needs to know nothing of its meaning.

use super::scrub::{ScrubChunk, ScrubKeys, ScrubPage, Scrubbed};
use dfs_proto::cluster::GroupConfig;
use dfs_proto::error::Error;
use dfs_proto::ids::{
    ChunkKey, Epoch, Generation, GroupId, Incarnation, InodeId, ServerRun, SessionId, Version,
};
use dfs_proto::layout::FileLayout;
use dfs_proto::msg::chunk::{
    ChunkRead, ChunkWritten, FindChunks, FoundChunks, MeasureStored, ReadChunk, StoredMeasured,
    SyncChunks, WriteChunk,
};
use dfs_proto::msg::control::{
    AdoptEpochs, CutInode, CutMade, EpochsAdopted, EpochsEffective, EqualiseGroups, FenceSessions,
    GroupsEqualised, GroupsReleased, InodesMeasured, MeasureInodes, ReleaseGroups, SessionsFenced,
};
use dfs_proto::msg::peer::{
    ChunkImage, ChunkPage, Committed, FetchChunk, ForwardWrite, Forwarded, GetChunkStates,
    GetMarks, GroupMarks, HeldChunk, InstallChunk, InstallFloors, ListChunks, SyncGroup,
    WriteRecord,
};
use dfs_proto::msg::scrub::{CheckChunk, CheckedChunk, CheckedCopy};
use dfs_proto::payload::Payload;
use std::time::Duration;

/// Names a request that waits for its answer; chosen by whoever feeds the core, never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Caller(pub u64);

/// Names an action whose completion comes back as an event; chosen by the core.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(pub u64);

/// Who sent a request, as the connection it came on proves.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Sender {
    Mount,
    /// This server itself: what it looks after by itself, or was asked for by `dfsctl`.
    Own,
    /// A run of a file server. Runs draw random numbers, so the number alone names it.
    Server(Incarnation),
    Directory,
}

/// Everything that the core can be asked, and that it asks other servers.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Request {
    Read(ReadChunk),
    Write(WriteChunk),
    Sync(SyncChunks),
    Find(FindChunks),
    Stored(MeasureStored),
    Adopt(AdoptEpochs),
    Equalise(EqualiseGroups),
    Effective(EpochsEffective),
    Cut(CutInode),
    Fence(FenceSessions),
    Measure(MeasureInodes),
    Release(ReleaseGroups),
    Forward(ForwardWrite),
    Marks(GetMarks),
    List(ListChunks),
    States(GetChunkStates),
    InstallFloors(InstallFloors),
    Fetch(FetchChunk),
    Install(InstallChunk),
    SyncGroup(SyncGroup),
    Committed(Committed),
    ScrubKeys(ScrubKeys),
    ScrubChunk(ScrubChunk),
    Check(CheckChunk),
}

/// The answer of a request that succeeded.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Response {
    Read(ChunkRead),
    Written(ChunkWritten),
    Found(FoundChunks),
    Stored(StoredMeasured),
    Adopted(EpochsAdopted),
    Equalised(GroupsEqualised),
    Cut(CutMade),
    Fenced(SessionsFenced),
    Measured(InodesMeasured),
    Released(GroupsReleased),
    Forwarded(Forwarded),
    Marks(GroupMarks),
    Page(ChunkPage),
    States(Vec<HeldChunk>),
    Image(ChunkImage),
    Keys(ScrubPage),
    Scrubbed(Scrubbed),
    Checked(CheckedChunk),
    /// Done, and nothing more to say.
    Done,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    Request {
        from: Sender,
        caller: Caller,
        request: Request,
        payload: Payload,
    },
    /// A disk operation has ended. One comes for each, in any order.
    Disk {
        token: Token,
        result: Result<DiskDone, Error>,
    },
    /// A sent request was answered, or will not be: exactly one comes for each.
    Reply {
        token: Token,
        result: Result<Response, Error>,
        payload: Payload,
    },
    /// The store accepts nothing any more. Repeated for as long as this run lives.
    DiskFailed { reason: String },
    /// Time has passed; expected about every 100 ms.
    Tick,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    Answer {
        caller: Caller,
        result: Result<Response, Error>,
        payload: Payload,
    },
    Disk {
        token: Token,
        op: DiskOp,
    },
    Send {
        token: Token,
        to: ServerRun,
        request: Request,
        payload: Payload,
        deadline: Duration,
    },
    /// Tell the directory that a member does not do its part. The suspect may be this server
    /// itself, when its disk has failed.
    Suspect {
        suspect: ServerRun,
        groups: Vec<(GroupId, Epoch)>,
        reason: String,
    },
    /// Tell the directory that a joining member is up to date. Repeated until the epoch changes.
    Propose {
        group: GroupId,
        epoch: Epoch,
        joined: ServerRun,
    },
}

/// Work of the chunk store.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum DiskOp {
    Read {
        key: ChunkKey,
        offset: u32,
        len: u32,
    },
    Write {
        key: ChunkKey,
        group: GroupId,
        generation: Generation,
        record: WriteRecord,
        offset: u32,
        checksums: Vec<u32>,
        payload: Payload,
    },
    /// These chunks, and whatever else of the inode and the group is not on disk yet.
    Sync {
        inode: InodeId,
        group: GroupId,
        keys: Vec<ChunkKey>,
    },
    SyncGroup {
        group: GroupId,
    },
    /// Durable together, before it is done: both lists only add.
    Adopt {
        configs: Vec<GroupConfig>,
        fenced: Vec<SessionId>,
    },
    Cut {
        inode: InodeId,
        generation: Generation,
        from: u64,
        to: u64,
        layout: FileLayout,
        groups: Vec<GroupId>,
    },
    InstallFloors {
        group: GroupId,
        floors: Vec<(InodeId, Generation)>,
    },
    /// Forgets floors made in epochs before this one.
    DropFloors {
        group: GroupId,
        epoch: Epoch,
    },
    /// A part of a chunk with its head; a hole gives an image of length 0.
    Fetch {
        key: ChunkKey,
        group: GroupId,
        offset: u32,
        len: u32,
    },
    /// One part of a chunk's new content; `hole` removes the chunk.
    Install {
        key: ChunkKey,
        group: GroupId,
        hole: bool,
        image: ChunkImage,
        offset: u32,
        last: bool,
        payload: Payload,
    },
    /// Accepts a copy that a crash interrupted, because nobody holds a whole one. What it holds
    /// is what no version was until now, so it gets a new one.
    AdoptTorn {
        key: ChunkKey,
        version: Version,
    },
    /// Reads and verifies a whole copy.
    Check {
        key: ChunkKey,
    },
    /// Removes chunks of a group that is not this server's any more, as many as are quickly
    /// done, and with the last ones its floors of epochs before this one.
    Release {
        group: GroupId,
        epoch: Epoch,
    },
}

/// What a disk operation gave.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum DiskDone {
    Done,
    Read(ChunkRead, Payload),
    Image(ChunkImage, Payload),
    /// `None`: a hole.
    Checked(Option<CheckedCopy>),
    /// So many chunks were removed, and whether none is left.
    Released {
        chunks: u32,
        end: bool,
    },
}
