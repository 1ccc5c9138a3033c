//! Runs the governor (`crate::governor`) while this member leads: hands it what happens with the
//! time, and does what it says - logs, calls, answers, publishes.

use super::events::{Event, ends_reign, stopping};
use super::view::{Link, Links, View, clock, now};
use crate::governor::{self, Action, Answer, Call, Called, Governor, LinkId, Pace, Signs, Ticket};
use crate::placement::{Placed, PlacementCommand};
use crate::raft::RaftHandle;
use crate::state::{Change, Outcome};
use dfs_proto::attr::StatFs;
use dfs_proto::cluster::ClusterMap;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::msg::Request;
use dfs_proto::payload::Payload;
use dfs_proto::transport::Connection;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// Where the governor publishes what it knows.
#[derive(Debug)]
pub(super) struct Outlets {
    pub(super) map: watch::Sender<Arc<ClusterMap>>,
    pub(super) space: watch::Sender<StatFs>,
    pub(super) view: watch::Sender<Arc<View>>,
    pub(super) signs: watch::Sender<Signs>,
}

/// What a piece of work of this task has come to: an event, or the end of the reign.
type Came = std::result::Result<governor::Event, Error>;

pub(super) struct Driver<'a> {
    raft: RaftHandle,
    outlets: &'a Outlets,
    core: Governor,
    /// The connections of the governor's links.
    connections: BTreeMap<LinkId, Connection>,
    replies: BTreeMap<Ticket, oneshot::Sender<governor::Reply>>,
    tickets: u64,
    /// Calls, changes on their way to the log, watches over connections; they end with this.
    work: JoinSet<Came>,
}

impl<'a> Driver<'a> {
    /// Reads what is logged and begins.
    pub(super) async fn begin(raft: RaftHandle, outlets: &'a Outlets, pace: Pace) -> Result<Self> {
        let placed = Arc::new(raft.read(Placed::load).await?);
        Ok(Self {
            raft,
            outlets,
            core: Governor::new(pace, placed, now()).at_clock(clock()),
            connections: BTreeMap::new(),
            replies: BTreeMap::new(),
            tickets: 0,
            work: JoinSet::new(),
        })
    }

    /// Works until this member does not lead any more, or its log fails; returns why.
    pub(super) async fn run(mut self, events: &mut mpsc::Receiver<Event>) -> Error {
        loop {
            self.step();
            let pause = self.core.wake_at(now()).saturating_sub(now());
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.take(event),
                    None => return stopping(),
                },
                Some(came) = self.work.join_next(), if !self.work.is_empty() => {
                    if let Err(e) = self.came(came) {
                        return e;
                    }
                }
                () = tokio::time::sleep(pause) => {}
            }
            // What came meanwhile is decided on together.
            while let Ok(event) = events.try_recv() {
                self.take(event);
            }
            while let Some(came) = self.work.try_join_next() {
                if let Err(e) = self.came(came) {
                    return e;
                }
            }
        }
    }

    fn came(&mut self, came: std::result::Result<Came, tokio::task::JoinError>) -> Result<()> {
        let event = match came {
            Ok(came) => came?,
            // A lost call or change would be waited for, for ever.
            Err(e) => {
                return Err(Error::new(
                    ErrorCode::Internal,
                    format!("a part of the governor's work was lost: {e}"),
                ));
            }
        };
        if let governor::Event::Closed { link } = &event {
            self.connections.remove(link);
        }
        self.core.take(now(), event);
        Ok(())
    }

    fn ticket(&mut self, reply: oneshot::Sender<governor::Reply>) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.replies.insert(ticket, reply);
        ticket
    }

    fn take(&mut self, event: Event) {
        let event = match event {
            Event::Register {
                connection,
                request,
                reply,
            } => {
                let link = LinkId(connection.id());
                let ticket = self.ticket(reply);
                let watched = connection.clone();
                if self.connections.insert(link, connection).is_none() {
                    self.work.spawn(async move {
                        watched.closed().await;
                        Ok(governor::Event::Closed { link })
                    });
                }
                governor::Event::Register {
                    link,
                    request,
                    ticket,
                }
            }
            Event::Heartbeat {
                connection,
                request,
                reply,
            } => governor::Event::Heartbeat {
                link: LinkId(connection),
                request,
                ticket: self.ticket(reply),
            },
            Event::Propose { request, reply } => governor::Event::Propose {
                request,
                ticket: self.ticket(reply),
            },
            Event::GoOn { reply } => governor::Event::GoOn {
                ticket: self.ticket(reply),
            },
            Event::Order { order, reply } => governor::Event::Order {
                order,
                ticket: self.ticket(reply),
            },
            Event::Said(event) => {
                if matches!(event, governor::Event::Suspect(_)) {
                    self.look_for_ends();
                }
                event
            }
        };
        self.core.take(now(), event);
    }

    /// A member often notices another one's death in the same instant as this process; what its
    /// report means depends on whether the connection has ended here too.
    fn look_for_ends(&mut self) {
        let ended = self.connections.iter().filter(|(_, c)| c.is_closed());
        for (link, _) in ended {
            self.core
                .take(now(), governor::Event::Closed { link: *link });
        }
    }

    fn step(&mut self) {
        for action in self.core.step(now()) {
            match action {
                Action::Read => self.read(),
                Action::Commit(command) => self.commit(command),
                Action::Call {
                    called,
                    request,
                    deadline,
                } => self.call(called, request, deadline),
                Action::Reply { ticket, reply } => {
                    if let Some(waiting) = self.replies.remove(&ticket) {
                        let _ = waiting.send(reply);
                    }
                }
                Action::Close { link, why } => {
                    if let Some(connection) = self.connections.get(&link) {
                        connection.close(why);
                    }
                }
                Action::Publish => self.publish(),
            }
        }
        self.outlets.signs.send_replace(self.core.signs().clone());
        self.outlets.space.send_replace(self.core.space());
    }

    fn read(&mut self) {
        let raft = self.raft.clone();
        self.work.spawn(async move {
            let placed = Arc::new(raft.read(Placed::load).await?);
            Ok(governor::Event::Read { placed })
        });
    }

    fn commit(&mut self, command: PlacementCommand) {
        let raft = self.raft.clone();
        self.work.spawn(async move {
            let outcome = match raft.commit(Change::Placement(command)).await {
                Ok(Outcome::Placement(outcome)) => Ok(outcome),
                Ok(other) => Err(Error::new(
                    ErrorCode::Internal,
                    format!("a strange outcome: {other:?}"),
                )),
                Err(e) if ends_reign(&e) => return Err(e),
                Err(e) => Err(e),
            };
            let placed = Arc::new(raft.read(Placed::load).await?);
            Ok(governor::Event::Logged { outcome, placed })
        });
    }

    fn call(&mut self, called: Called, request: Call, deadline: Option<Duration>) {
        let connection = self.connections.get(&called.link).cloned();
        self.work.spawn(async move {
            let answer = match request {
                Call::Adopt(r) => Answer::Adopted(ask(connection, r, deadline).await),
                Call::Equalise(r) => Answer::Equalised(ask(connection, r, deadline).await),
                Call::Tell(r) => Answer::Told(ask(connection, r, deadline).await),
                Call::Release(r) => Answer::Released(ask(connection, r, deadline).await),
            };
            Ok(governor::Event::Answered { called, answer })
        });
    }

    fn publish(&mut self) {
        let placed = self.core.placed().clone();
        let present = self.outlets.map.borrow().clone();
        if present.version != placed.map_version || present.groups.is_empty() {
            let map = Arc::new(placed.cluster_map());
            self.outlets.map.send_replace(map);
        }
        let link = |link: &governor::Link| {
            let connection = self.connections.get(&link.link)?.clone();
            Some(Link {
                run: link.run,
                connection,
            })
        };
        let known = self.core.links().iter();
        let links: Links = known.filter_map(|(s, l)| Some((*s, link(l)?))).collect();
        let conditions = self.core.conditions().clone();
        self.outlets.view.send_replace(Arc::new(View {
            placed,
            links,
            conditions,
        }));
    }
}

async fn ask<R: Request>(
    connection: Option<Connection>,
    request: R,
    deadline: Option<Duration>,
) -> Result<R::Response> {
    let Some(connection) = connection else {
        return Err(ErrorCode::Disconnected.into());
    };
    let payload = Payload::default();
    let answer = match deadline {
        Some(deadline) => connection.call(&request, payload, deadline).await,
        None => connection.call_undated(&request, payload).await,
    };
    answer.map(|(answer, _)| answer)
}
