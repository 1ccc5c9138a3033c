//! What goes into the governor and what comes out of it.

use crate::placement::{Placed, PlacementCommand, PlacementOutcome};
use dfs_proto::cluster::{ClusterSettings, ServerLife};
use dfs_proto::error::Result;
use dfs_proto::ids::{Epoch, GroupId, ServerId, ServerRun, SessionId};
use dfs_proto::msg::control::{
    AdoptEpochs, EpochsAdopted, EpochsEffective, EqualiseGroups, GroupsEqualised, GroupsReleased,
    ReleaseGroups,
};
use dfs_proto::msg::registry::{
    Heard, ProposeInSync, RegisterServer, ReportSlow, ReportSuspect, ServerHeartbeat,
    ServerRegistered,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A connection of a file server, as the driver numbers it. No number is used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkId(pub u64);

/// Names a request that waits for its answer; chosen by the driver.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// A registered run and the connection on which it can be called.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Link {
    pub run: ServerRun,
    pub link: LinkId,
}

pub type Links = BTreeMap<ServerId, Link>;

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A run of a server is there, to be called on this connection from now on.
    Register {
        link: LinkId,
        request: RegisterServer,
        ticket: Ticket,
    },
    Heartbeat {
        link: LinkId,
        request: ServerHeartbeat,
        ticket: Ticket,
    },
    /// A person does not wait any more for servers that served last (`msg::admin::GoOn`).
    GoOn { ticket: Ticket },
    /// A connection has ended. May be said more than once.
    Closed { link: LinkId },
    /// A member does not answer another one.
    Suspect(ReportSuspect),
    /// A mount cannot reach these servers. Said again with each of its heartbeats.
    Unreachable {
        session: SessionId,
        runs: Vec<ServerRun>,
    },
    /// A member's writes take much longer than those of the others.
    Slow(ReportSlow),
    /// A joining member is up to date.
    Propose {
        request: ProposeInSync,
        ticket: Ticket,
    },
    /// A run gives signs of life but did not acknowledge what it must: it leaves its groups.
    Unanswered { run: ServerRun },
    /// A joining server does not do what its groups need: it is left aside for a while.
    Unable { server: ServerId },
    /// A person wants something; answered with `Reply::Done`.
    Order { order: Order, ticket: Ticket },
    /// The answer to an `Action::Call`, or why there is none.
    Answered { called: Called, answer: Answer },
    /// The logged state that `Action::Read` asked for.
    Read { placed: Arc<Placed> },
    /// What became of `Action::Commit`, and the state after it. With an error the outcome is
    /// unknown; what follows is decided on what is really there.
    Logged {
        outcome: Result<PlacementOutcome>,
        placed: Arc<Placed>,
    },
}

/// What a person may want.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    SetLife { server: ServerId, life: ServerLife },
    Configure(ClusterSettings),
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Read the logged state; answered by `Event::Read`.
    Read,
    /// Log this; answered by `Event::Logged`. Never a second one before that.
    Commit(PlacementCommand),
    /// Call a server; answered by `Event::Answered`, in any case.
    Call {
        called: Called,
        request: Call,
        /// `None`: it ends with the connection.
        deadline: Option<Duration>,
    },
    Reply {
        ticket: Ticket,
        reply: Reply,
    },
    /// The connection is to be ended.
    Close {
        link: LinkId,
        why: &'static str,
    },
    /// Servers, connections or groups have changed: let others see it.
    Publish,
}

/// A call to a server: on which connection, and about which epochs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Called {
    pub run: ServerRun,
    pub link: LinkId,
    pub asked: Vec<(GroupId, Epoch)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    Adopt(AdoptEpochs),
    Equalise(EqualiseGroups),
    Tell(EpochsEffective),
    Release(ReleaseGroups),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    Adopted(Result<EpochsAdopted>),
    Equalised(Result<GroupsEqualised>),
    Told(Result<()>),
    Released(Result<GroupsReleased>),
}

/// The answer to a request of a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    Registered(Result<ServerRegistered>),
    Heard(Result<Heard>),
    Done(Result<()>),
    /// So many groups go on.
    GoesOn(u32),
}
