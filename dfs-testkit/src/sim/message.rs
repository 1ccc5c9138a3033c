//! What nodes say to each other. Requests to file servers are the replica core's own; the rest
//! is what the directory, its file servers and its mounts have to tell, without the wire.

use dfs_proto::cluster::ClusterMap;
use dfs_proto::error::Error;
use dfs_proto::ids::{
    Epoch, GrantId, GroupId, Incarnation, InodeId, MapVersion, ServerId, ServerRun, SessionId,
};
use dfs_proto::msg::registry::DataDirPast;
use dfs_proto::msg::session::LeaseKind;
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
    Register {
        incarnation: Incarnation,
        past: DataDirPast,
        epochs: Vec<(GroupId, Epoch)>,
    },
    Alive(ServerRun),
    Suspect {
        suspect: ServerRun,
        groups: Vec<(GroupId, Epoch)>,
    },
    Propose {
        from: ServerRun,
        group: GroupId,
        epoch: Epoch,
        joined: ServerRun,
    },
    // Mount -> directory.
    OpenSession(Incarnation),
    Beat(SessionId),
    Map,
    Lease {
        session: SessionId,
        inode: InodeId,
        kind: LeaseKind,
    },
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
    },
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
    Adopted(Called),
    Equalised(Called),
    Informed(Called),
    Fenced(ServerRun, Vec<SessionId>),
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
}

/// Whom the directory called about which epochs, on which of its connections.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Called {
    pub(crate) run: ServerRun,
    pub(crate) link: u64,
    pub(crate) asked: Vec<(GroupId, Epoch)>,
}

/// What a process has to do later, by itself.
#[derive(Clone, Debug)]
pub(crate) enum Timer {
    Tick,
    Register,
    Beat,
    Patrol,
    Stop,
    DiskWorks(Token, Box<dfs_server::replica::DiskOp>),
    DiskEnds(Token, Result<dfs_server::replica::DiskDone, Error>),
    /// A client's task goes on.
    Task(usize),
    /// A client looks again at a recall that is not answered.
    Recall(usize),
}
