//! Groups and their epochs, cuts and fences: drives the product's governor. What is here is what
//! the real directory's tasks do: connections, the log, calls, answers.

use super::Directory;
use crate::sim::message::{Answer, Ask, CallKind, Node, Process, Then, Timer, Told};
use crate::sim::schedule::{Schedule, error};
use dfs_directory::governor::cuts::{CutEvent, Cuts};
use dfs_directory::governor::fences::{FenceEvent, Fences};
use dfs_directory::governor::{
    self, Action, Call, Called, Event, Governor, LinkId, Pace, Reply, Ticket,
};
use dfs_directory::placement::{Placed, PlacementCommand};
use dfs_directory::state::{self, Outcome};
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::SessionId;
use dfs_proto::payload::Payload;
use dfs_server::replica::{Request, Response, Sender};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// As the product's, but faster.
const PACE: Pace = Pace {
    tick: Duration::from_millis(20),
    place_after: Duration::from_millis(100),
    quiet: Duration::from_millis(1_500),
    withhold: Duration::from_millis(1_000),
    returns: Duration::from_secs(600),
    repair: Duration::from_millis(250),
    moving_max: 2,
    rebalance: Duration::from_secs(5),
    return_wait: Duration::from_secs(20),
};

/// A call without a deadline ends with its connection; here a lost one is noticed by then.
const UNDATED: Duration = Duration::from_millis(4_000);

/// Who waits for something to end.
#[derive(Clone, Copy, Debug)]
pub(super) enum Waiting {
    /// A caller.
    Call(u64),
    /// The end of a session, for its fence.
    Session(SessionId),
    /// The same, for the cuts of what it left.
    Settled(SessionId),
    /// A grant, a change of a size.
    Cut(u64),
}

pub(super) struct Placement {
    pub(super) governor: Governor,
    pub(super) cuts: Cuts,
    pub(super) fences: Fences,
    links: BTreeMap<LinkId, Process>,
    numbers: u64,
    pub(super) waiting: BTreeMap<Ticket, Waiting>,
}

impl std::fmt::Debug for Placement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Placement").finish_non_exhaustive()
    }
}

impl Placement {
    pub(super) fn new(placed: Arc<Placed>, now: Duration) -> Self {
        Self {
            governor: Governor::new(PACE, placed, now),
            cuts: Cuts::default(),
            fences: Fences::default(),
            links: BTreeMap::new(),
            numbers: 0,
            waiting: BTreeMap::new(),
        }
    }

    pub(super) fn ticket(&mut self, waiting: Waiting) -> Ticket {
        self.numbers += 1;
        let ticket = Ticket(self.numbers);
        self.waiting.insert(ticket, waiting);
        ticket
    }

    /// The connections of a process.
    fn links_of(&self, process: Process) -> Vec<LinkId> {
        let links = self.links.iter().filter(|(_, p)| **p == process);
        links.map(|(link, _)| *link).collect()
    }
}

/// A request of the directory to a file server.
pub(super) fn control(request: Request) -> Ask {
    Ask::Chunk {
        from: Sender::Directory,
        request,
        payload: Payload::default(),
    }
}

impl Directory {
    /// What a file server says.
    pub(super) fn server_asks(&mut self, s: &mut Schedule, call: u64, from: Process, ask: Ask) {
        let now = s.directory_now();
        let event = match ask {
            Ask::Register(request) => {
                // Its connection may be over by the time that the directory reads from it.
                if !s.is_alive(from) {
                    return s.answer(self.process, call, Err(error(ErrorCode::Disconnected)));
                }
                self.server_closed(s, from);
                self.placement.numbers += 1;
                let link = LinkId(self.placement.numbers);
                self.placement.links.insert(link, from);
                Event::Register {
                    link,
                    request: *request,
                    ticket: self.placement.ticket(Waiting::Call(call)),
                }
            }
            Ask::Alive(request) => {
                let Some(link) = self.placement.links_of(from).last().copied() else {
                    let answer = Err(error(ErrorCode::NotRegistered));
                    return s.answer(self.process, call, answer);
                };
                Event::Heartbeat {
                    link,
                    request,
                    ticket: self.placement.ticket(Waiting::Call(call)),
                }
            }
            Ask::Suspect(report) => {
                s.answer(self.process, call, Ok(Told::Done));
                Event::Suspect(report)
            }
            Ask::Propose(request) => Event::Propose {
                request,
                ticket: self.placement.ticket(Waiting::Call(call)),
            },
            _ => return s.answer(self.process, call, Err(error(ErrorCode::UnknownMethod))),
        };
        self.placement.governor.take(now, event);
    }

    /// The connection of a file server has ended.
    pub(super) fn server_closed(&mut self, s: &Schedule, process: Process) {
        let now = s.directory_now();
        for link in self.placement.links_of(process) {
            self.placement.links.remove(&link);
            self.placement.governor.take(now, Event::Closed { link });
        }
    }

    /// The answer to a call of the governor, of the cuts, of the fences, or for the end of a file.
    pub(super) fn server_answers(&mut self, s: &mut Schedule, kind: CallKind, answer: Answer) {
        let now = s.directory_now();
        let answer = match answer {
            Ok(Told::Chunk(response, _)) => Ok(response),
            Ok(_) => Err(error(ErrorCode::Malformed)),
            Err(e) => Err(e),
        };
        match kind {
            CallKind::Governor(called) => {
                let answer = fit(&called, answer);
                let called = called.0;
                let event = Event::Answered { called, answer };
                self.placement.governor.take(now, event);
            }
            CallKind::Cut { inode, run, link } => {
                let answer = answer.and_then(|response| match response {
                    Response::Cut(made) => Ok(made),
                    _ => Err(error(ErrorCode::Malformed)),
                });
                let event = CutEvent::Answered {
                    inode,
                    run,
                    link,
                    answer,
                };
                let actions = self.placement.cuts.take(now, event);
                self.carry_out_cuts(s, actions);
            }
            CallKind::Fence { run, link, asked } => {
                let answer = answer.and_then(|response| match response {
                    Response::Fenced(fenced) => Ok(fenced),
                    _ => Err(error(ErrorCode::Malformed)),
                });
                let event = FenceEvent::Answered {
                    run,
                    link,
                    asked,
                    answer,
                };
                let actions = self.placement.fences.take(now, event);
                self.carry_out_fences(s, actions);
            }
            CallKind::Measure { session, run } => {
                let answer = answer.and_then(|response| match response {
                    Response::Measured(measured) => Ok(measured),
                    _ => Err(error(ErrorCode::Malformed)),
                });
                self.measured(s, session, run, answer);
            }
        }
    }

    /// A change of the governor is in the log.
    pub(super) fn logged(&mut self, s: &mut Schedule, command: PlacementCommand) {
        trace(s, &command);
        let outcome = self.commit(s, state::Change::Placement(command));
        self.reload(s);
        let outcome = match outcome {
            Some(Outcome::Placement(outcome)) => outcome,
            _ => return s.violate("a change of groups had no outcome".into()),
        };
        for (server, record) in &self.placed.servers {
            s.places.insert(*server, record.node.0 as usize - 1);
        }
        let event = Event::Logged {
            outcome: Ok(outcome),
            placed: self.placed.clone(),
        };
        let now = s.directory_now();
        self.placement.governor.take(now, event);
    }

    /// Does everything that can be done now.
    pub(super) fn step_placement(&mut self, s: &mut Schedule) {
        let now = s.directory_now();
        loop {
            let actions = self.placement.governor.step(now);
            let mut again = false;
            for action in actions {
                again |= action == Action::Read;
                self.carry_out(s, action);
            }
            if !again {
                break;
            }
        }
        let links = self.placement.governor.links().clone();
        let placed = self.placement.governor.placed().clone();
        let actions = self.placement.cuts.step(now, &placed, &links);
        self.carry_out_cuts(s, actions);
        let actions = self.placement.fences.step(now, &placed, &links);
        self.carry_out_fences(s, actions);
    }

    fn carry_out(&mut self, s: &mut Schedule, action: Action) {
        let now = s.directory_now();
        match action {
            Action::Read => {
                let placed = self.placed.clone();
                self.placement.governor.take(now, Event::Read { placed });
            }
            Action::Commit(command) => {
                let delay = s.random.micros(50, 2_000);
                let timer = Timer::Logged(Box::new(command));
                s.timer(self.process, delay, timer);
            }
            Action::Call {
                called,
                request,
                deadline,
            } => {
                let link = called.link;
                let (request, kind) = match request {
                    Call::Adopt(r) => (Request::Adopt(r), Asked::Adopt),
                    Call::Equalise(r) => (Request::Equalise(r), Asked::Equalise),
                    Call::Tell(r) => (Request::Effective(r), Asked::Tell),
                    Call::Release(r) => (Request::Release(r), Asked::Release),
                };
                let deadline = deadline.unwrap_or(UNDATED);
                let kind = CallKind::Governor((called, kind));
                self.call_server(s, link, request, deadline, kind);
            }
            Action::Reply { ticket, reply } => {
                let Some(Waiting::Call(call)) = self.placement.waiting.remove(&ticket) else {
                    return;
                };
                let answer = match reply {
                    Reply::Registered(answer) => answer.map(|r| Told::Registered(r.server)),
                    Reply::Heard(answer) => answer.map(|_| Told::Done),
                    Reply::Done(answer) => answer.map(|()| Told::Done),
                    Reply::GoesOn(_) => Ok(Told::Done),
                };
                s.answer(self.process, call, answer);
            }
            Action::Close { link, .. } => {
                if let Some(process) = self.placement.links.get(&link).copied() {
                    s.reset(self.process.node, process.node);
                }
            }
            Action::Publish => self.publish(s),
        }
    }

    pub(super) fn call_server(
        &mut self,
        s: &mut Schedule,
        link: LinkId,
        request: Request,
        deadline: Duration,
        kind: CallKind,
    ) {
        // A connection that is gone answers at once.
        let target = self.placement.links.get(&link).copied().unwrap_or(Process {
            node: Node::Server(usize::MAX),
            life: 0,
        });
        let then = Then::Server(Box::new(kind));
        s.call(self.process, target, control(request), deadline, then);
    }
}

/// What a call of the governor asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asked {
    Adopt,
    Equalise,
    Tell,
    Release,
}

fn fit((_, asked): &(Called, Asked), answer: Result<Response, Error>) -> governor::Answer {
    let malformed = || error(ErrorCode::Malformed);
    match asked {
        Asked::Adopt => governor::Answer::Adopted(answer.and_then(|r| match r {
            Response::Adopted(adopted) => Ok(adopted),
            _ => Err(malformed()),
        })),
        Asked::Equalise => governor::Answer::Equalised(answer.and_then(|r| match r {
            Response::Equalised(equalised) => Ok(equalised),
            _ => Err(malformed()),
        })),
        Asked::Tell => governor::Answer::Told(answer.map(|_| ())),
        Asked::Release => governor::Answer::Released(answer.and_then(|r| match r {
            Response::Released(released) => Ok(released),
            _ => Err(malformed()),
        })),
    }
}

fn trace(s: &mut Schedule, command: &PlacementCommand) {
    match command {
        PlacementCommand::Change { gone, groups } => {
            for run in gone {
                s.trace(|| format!("directory: {run} is gone"));
            }
            for (_, config) in groups {
                s.trace(|| format!("directory: {config:?}"));
            }
        }
        other => s.trace(|| format!("directory: {other:?}")),
    }
}
