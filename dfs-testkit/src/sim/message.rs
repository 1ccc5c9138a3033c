//! What nodes say to each other. Requests to file servers are the replica core's own; the rest
//! is what the directory, its file servers and its mounts have to tell, without the wire.

use super::directory::Asked;
use dfs_directory::governor::{Called, LinkId};
use dfs_directory::placement::PlacementCommand;
use dfs_proto::attr::{FileAttr, SizeTimes};
use dfs_proto::cluster::ClusterMap;
use dfs_proto::error::Error;
use dfs_proto::ids::{GrantId, Incarnation, InodeId, MapVersion, ServerId, ServerRun, SessionId};
use dfs_proto::msg::registry::{ProposeInSync, RegisterServer, ReportSuspect, ServerHeartbeat};
use dfs_proto::msg::session::{LeaseKind, Stamp};
use dfs_proto::payload::Payload;
use dfs_server::replica::{Request, Response, Sender, Token};
use std::rc::Rc;
use std::time::Duration;

/// A place in the cluster. It outlives the processes that run there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Node {
    Directory,
    Server(usize),
    Client(usize),
}

/// One process: the life of a node, `1` and up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Process {
    pub(crate) node: Node,
    pub(crate) life: u64,
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    // To a file server.
    Chunk {
        from: Sender,
        request: Request,
        payload: Payload,
    },
    // File server -> directory.
    Register(Box<RegisterServer>),
    Alive(ServerHeartbeat),
    Suspect(ReportSuspect),
    Propose(ProposeInSync),
    // Mount -> directory.
    OpenSession(Incarnation),
    Beat(SessionId),
    Map,
    Lease {
        session: SessionId,
        inode: InodeId,
        kind: LeaseKind,
    },
    SetSize {
        stamp: Stamp,
        inode: InodeId,
        size: u64,
    },
    Push {
        stamp: Stamp,
        inode: InodeId,
        grant: GrantId,
        push: SizeTimes,
    },
    GetAttr(InodeId),
    // Directory -> mount.
    MapChanged(Rc<ClusterMap>),
    Recall {
        inode: InodeId,
        grant: GrantId,
        keep: Option<LeaseKind>,
    },
}

/// The answer to a request that succeeded.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    Chunk(Response, Payload),
    Registered(ServerId),
    Session(SessionId, Rc<ClusterMap>),
    Map(Rc<ClusterMap>),
    Granted {
        grant: GrantId,
        kind: LeaseKind,
        map_version: MapVersion,
        attr: FileAttr,
    },
    Attr(FileAttr),
    Done,
}

pub(crate) type Answer = Result<Told, Error>;

/// What the caller does with the answer.
#[derive(Clone, Debug)]
pub(crate) enum Then {
    Nothing,
    /// A file server's core gets it.
    Core(Token),
    Registered,
    Lived,
    /// What the directory asked a file server.
    Server(Box<CallKind>),
    Recalled(SessionId, InodeId, GrantId),
    Opened,
    Beaten {
        session: SessionId,
        sent: Duration,
    },
    Mapped,
    Leased {
        session: SessionId,
        inode: usize,
        ask: u64,
        lapses: u64,
    },
    /// A part of a client's operation: task, part, attempt.
    Part(usize, usize, u64),
    /// The attributes that such a part waits for.
    Learnt(usize, usize, u64),
    /// A client's change of a size: task, attempt.
    Sized(usize, u64),
    /// A push of a file's size.
    Pushed(SessionId, usize, u64),
}

/// What the directory asked a file server, for what.
#[derive(Clone, Debug)]
pub(crate) enum CallKind {
    Governor((Called, Asked)),
    Cut {
        inode: InodeId,
        run: ServerRun,
        link: LinkId,
    },
    Fence {
        run: ServerRun,
        link: LinkId,
        asked: Vec<SessionId>,
    },
    Measure {
        session: SessionId,
        run: ServerRun,
    },
}

/// What a process has to do later, by itself.
#[derive(Clone, Debug)]
pub(crate) enum Timer {
    Tick,
    Register,
    Beat,
    /// A client pushes sizes.
    Push,
    Patrol,
    Stop,
    /// A change is in the directory's log.
    Logged(Box<PlacementCommand>),
    DiskWorks(Token, Box<dfs_server::replica::DiskOp>),
    DiskEnds(Token, Result<dfs_server::replica::DiskDone, Error>),
    /// A client's task goes on.
    Task(usize),
    /// A client looks again at a recall that is not answered.
    Recall(usize),
}
