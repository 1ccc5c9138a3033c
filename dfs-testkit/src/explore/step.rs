//! What can happen in a state.

use super::directory::{Equalising, Session, bit};
use super::options::{Options, Rule};
use super::packet::{Message, Writing};
use super::state::{ADOPT, Client, EQUALISE, FENCE, State, TELL, session};
use super::{GROUP, check};
use dfs_directory::placement::transition::{self, Event as Change};
use dfs_proto::ids::{ServerId, ServerRun, SessionId};
use dfs_proto::msg::control::{AdoptEpochs, EpochsEffective, EqualiseGroups, FenceSessions};
use dfs_proto::payload::Payload;
use dfs_server::replica::{Event, Request, Sender};
use std::rc::Rc;
use std::time::Duration;

/// One thing that happens. Servers are named by their place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// The message at this place of the set is delivered (once more).
    Deliver(usize),
    Read(u8, usize),
    Write(u8),
    /// A mount cuts everything off.
    Cut(u8),
    /// A mount hears of the epoch that serves, and asks again for what is not answered.
    Refresh(u8),
    /// The lease goes over to this mount.
    Lease(u8),
    End(u8),
    Adopt(usize),
    Equalise,
    Effective,
    /// The members hear that their epoch serves.
    Tell,
    Fence(usize),
    Suspect(usize),
    Expel(usize),
    /// The directory holds a server for gone, rightly or wrongly.
    Gone(usize),
    /// It registers, after a restart if it was down.
    Back(usize),
    WaitOver,
    Crash(usize, bool),
    /// Time passes on a server.
    Tick(usize),
}

/// Everything that can happen in a state, and the state that it leads to.
pub(super) fn successors(state: &State, options: &Options) -> Vec<(Step, State)> {
    let mut next = Successors {
        state,
        options,
        found: Vec::with_capacity(32),
    };
    next.messages();
    next.mounts();
    next.epochs();
    next.suspicions();
    next.servers();
    next.found
}

struct Successors<'a> {
    state: &'a State,
    options: &'a Options,
    found: Vec<(Step, State)>,
}

impl Successors<'_> {
    fn add(&mut self, step: Step, mut state: State) {
        check::settle(&mut state, self.options);
        self.found.push((step, state));
    }

    fn then(&mut self, step: Step, change: impl FnOnce(&mut State, &Options)) {
        let mut state = self.state.clone();
        change(&mut state, self.options);
        self.add(step, state);
    }

    /// An event that the directory decides about, in all ways that it may. Without a new epoch
    /// it happens only if `lasting`: something else has changed.
    fn decides(&mut self, step: Step, event: Change, state: &State, lasting: bool) {
        let outcomes = state.directory.outcomes(event, self.options.rule);
        for choice in 0..outcomes.len() {
            let mut next = state.clone();
            if Rc::make_mut(&mut next.directory).decide(event, choice, self.options) {
                self.add(step, next);
            }
        }
        if outcomes.is_empty() && lasting {
            self.add(step, state.clone());
        }
    }

    fn messages(&mut self) {
        for (at, packet) in self.state.packets.clone().iter().enumerate() {
            if let Message::Cut { to, .. } = packet.message
                && self.state.directory.cut_asked & bit(to.server) != 0
            {
                continue;
            }
            if let Message::Propose {
                from,
                epoch,
                joined,
            } = packet.message
            {
                let event = Change::Propose {
                    from,
                    epoch,
                    joined,
                };
                self.decides(Step::Deliver(at), event, self.state, false);
            } else {
                self.then(Step::Deliver(at), |s, o| s.deliver(packet, o));
            }
        }
    }

    fn mounts(&mut self) {
        let directory = &self.state.directory;
        let effective = directory.record.effective.as_ref();
        let (epoch, primary) = match effective {
            Some(effective) => {
                let run = |server| effective.member(server).map(|m| m.run);
                (effective.epoch, effective.primary.and_then(run))
            }
            None => return,
        };
        for c in 0..2 {
            let client = self.state.clients[usize::from(c)];
            let alive = directory.sessions[usize::from(c)] == Session::Alive;
            let writes = self.options.writes;
            if client.holds && client.writing.is_none() && self.state.spent.writes < writes {
                self.then(Step::Write(c), |s, _| begin_write(s, c));
            }
            let free = client.holds && client.writing.is_none() && alive;
            if free && self.state.spent.cuts < self.options.cuts && directory.cut.is_none() {
                self.then(Step::Cut(c), |s, _| super::cut::begins(s, c));
            }
            if client.holds && client.epoch < epoch {
                self.then(Step::Refresh(c), |s, _| {
                    s.clients[usize::from(c)] = Client {
                        epoch,
                        primary,
                        ..client
                    };
                    s.send_write(c);
                });
            }
            let overlaps = self.options.rule == Rule::ReadsOverlapOwnWrites;
            if client.holds && alive && (client.writing.is_none() || overlaps) {
                for at in 0..self.state.hosts.len() {
                    if self.state.hosts[at].core.is_some() {
                        self.then(Step::Read(c, at), |s, o| read(s, c, at, o));
                    }
                }
            }
            if alive && self.is_lease_free(c) {
                self.then(Step::Lease(c), |s, _| {
                    if let Some(holder) = s.directory.holder {
                        let holder = &mut s.clients[usize::from(holder)];
                        holder.holds = false;
                        holder.writing = None;
                    }
                    let directory = Rc::make_mut(&mut s.directory);
                    directory.holder = Some(c);
                    let generation = directory.generation;
                    s.clients[usize::from(c)] = Client {
                        holds: true,
                        epoch,
                        primary,
                        granted: epoch,
                        generation,
                        ..client
                    };
                });
            }
            let ends = self.options.session_ends;
            if alive && directory.holder == Some(c) && self.state.spent.ends < ends {
                self.then(Step::End(c), |s, _| {
                    s.spent.ends += 1;
                    let directory = Rc::make_mut(&mut s.directory);
                    directory.sessions[usize::from(c)] = Session::Ending;
                });
            }
        }
    }

    /// Whether a mount that wants the lease gets it: its holder has nothing unresolved.
    fn is_lease_free(&self, client: u8) -> bool {
        let directory = &self.state.directory;
        let unresolved = self.options.rule == Rule::LeaseBackUnresolved;
        match directory.holder {
            // Until something is written the mounts are alike.
            Some(0) if self.state.spent.writes + self.state.spent.cuts == 0 => false,
            Some(holder) if holder != client => {
                let at = usize::from(holder);
                directory.sessions[at] == Session::Alive
                    && (self.state.clients[at].writing.is_none() || unresolved)
            }
            Some(_) => false,
            None => true,
        }
    }

    fn epochs(&mut self) {
        let directory = self.state.directory.clone();
        let config = directory.config();
        let epoch = config.epoch;
        for at in 0..self.state.hosts.len() {
            let run = self.state.hosts[at].run();
            let Some(view) = self.view(at) else { continue };
            if directory.takes_part(run) && view.is_none_or(|view| view.durable < epoch) {
                self.then(Step::Adopt(at), |s, o| adopt(s, at, o));
            }
            let asks = directory.is_fencing()
                && directory.is_effective()
                && directory.fence_asked & bit(run.server) == 0
                && directory.takes_part(run)
                && directory.unfenced().any(|member| member == run);
            if asks {
                self.then(Step::Fence(at), |s, o| fence(s, at, o));
            }
        }
        if directory.is_effective() {
            let unaware = |at: &usize| {
                let view = self.view(*at).flatten();
                directory.takes_part(self.state.hosts[*at].run())
                    && view.is_some_and(|v| v.epoch == epoch && v.durable == epoch && !v.effective)
            };
            let members: Vec<usize> = (0..self.state.hosts.len()).filter(unaware).collect();
            if !members.is_empty() {
                self.then(Step::Tell, |s, o| tell(s, &members, o));
            }
        } else if directory.equalising == Equalising::Done {
            self.then(Step::Effective, |s, _| {
                let record = &mut Rc::make_mut(&mut s.directory).record;
                record.effective = Some(record.config.clone());
            });
        } else if directory.equalising == Equalising::No && directory.is_adopted_by_all() {
            self.then(Step::Equalise, equalise);
        }
    }

    /// What a server that is up shows of the group.
    fn view(&self, at: usize) -> Option<Option<dfs_server::replica::GroupView>> {
        let core = self.state.hosts[at].core.as_ref()?;
        Some(core.view(GROUP))
    }

    fn suspicions(&mut self) {
        let directory = self.state.directory.clone();
        let state = self.state;
        for run in directory.config().in_sync() {
            let at = State::at(run.server);
            self.decides(Step::Suspect(at), Change::Suspect(run), state, false);
            if directory.is_fencing() && directory.unfenced().any(|member| member == run) {
                self.decides(Step::Expel(at), Change::Expel(run), state, false);
            }
        }
        for at in 0..state.hosts.len() {
            let server = state.hosts[at].server;
            let alive = directory.run(server).is_some();
            if alive {
                let mut next = state.clone();
                let directory = Rc::make_mut(&mut next.directory);
                if let Some(view) = directory.servers.get_mut(&server) {
                    view.alive = false;
                }
                directory.disconnected(server);
                self.decides(Step::Gone(at), Change::Review, &next, true);
            }
            if !alive || state.hosts[at].core.is_none() {
                let mut next = state.clone();
                registers(&mut next, at, self.options);
                self.decides(Step::Back(at), Change::Review, &next, true);
            }
        }
        let back = transition::awaited(&directory.record, &directory.servers);
        if back.is_some_and(|awaited| !awaited.back.is_empty()) {
            self.decides(Step::WaitOver, Change::ReturnWaitOver, state, false);
        }
    }

    fn servers(&mut self) {
        for at in 0..self.state.hosts.len() {
            let Some(core) = &self.state.hosts[at].core else {
                continue;
            };
            if core.view(GROUP).is_some_and(|view| view.primary) {
                self.then(Step::Tick(at), |s, o| {
                    let host = Rc::make_mut(&mut s.hosts[at]);
                    host.clock += Duration::from_secs(60);
                    s.feed(at, Event::Tick, o);
                });
            }
            if self.state.spent.crashes < self.options.crashes {
                self.then(Step::Crash(at, false), |s, _| crash(s, at, false));
                let losses = self.options.power_losses;
                if self.state.spent.losses < losses && self.may_lose(at) {
                    self.then(Step::Crash(at, true), |s, _| crash(s, at, true));
                }
            }
        }
    }

    /// Un-synced data may go with a server as long as another one that served has them.
    fn may_lose(&self, at: usize) -> bool {
        let host = &self.state.hosts[at];
        let Some(effective) = &self.state.directory.record.effective else {
            return false;
        };
        let holds = |run: ServerRun| {
            let other = &self.state.hosts[State::at(run.server)];
            run.server != host.server && !other.lost
        };
        host.disk.is_dirty() && effective.in_sync().any(holds)
    }
}

fn begin_write(s: &mut State, c: u8) {
    s.spent.writes += 1;
    let value = s.spent.writes + s.spent.cuts;
    let client = &mut s.clients[usize::from(c)];
    client.sequence += 1;
    client.writing = Some(Writing {
        client: c,
        sequence: client.sequence,
        value,
        generation: client.generation,
        cuts: false,
    });
    // Its session may be over without its knowing: then the write must not take effect.
    if s.directory.sessions[usize::from(c)] != Session::Over {
        s.oracle.begins(value);
    }
    s.send_write(c);
}

fn read(s: &mut State, c: u8, at: usize, options: &Options) {
    let Some(value) = s.read(c, at, options) else {
        return;
    };
    let possible = s.oracle.possible();
    if !s.oracle.read(value) {
        s.violate(format!("mount {c} read {value}, possible was {possible:?}"));
    }
}

pub(super) fn control(request: Request, caller: dfs_server::replica::Caller) -> Event {
    Event::Request {
        from: Sender::Directory,
        caller,
        request,
        payload: Payload::default(),
    }
}

pub(super) fn adopt(s: &mut State, at: usize, options: &Options) {
    let ended = |c: &u8| s.directory.sessions[usize::from(*c)] != Session::Alive;
    let mut fenced: Vec<SessionId> = (0..2).filter(ended).map(session).collect();
    if matches!(options.rule, Rule::AdoptionWithoutFences | Rule::NoFence) {
        fenced.clear();
    }
    let request = AdoptEpochs {
        configs: vec![s.directory.config().clone()],
        servers: Vec::new(),
        fenced,
    };
    s.feed(at, control(Request::Adopt(request), ADOPT), options);
}

fn fence(s: &mut State, at: usize, options: &Options) {
    let server: ServerId = s.hosts[at].server;
    Rc::make_mut(&mut s.directory).fence_asked |= bit(server);
    let ending = |c: &u8| s.directory.sessions[usize::from(*c)] == Session::Ending;
    let sessions = (0..2).filter(ending).map(session).collect();
    let request = Request::Fence(FenceSessions { sessions });
    s.feed(at, control(request, FENCE), options);
}

pub(super) fn tell(s: &mut State, members: &[usize], options: &Options) {
    let groups = vec![(GROUP, s.directory.config().epoch)];
    for at in members {
        let groups = groups.clone();
        let request = Request::Effective(EpochsEffective { groups });
        s.feed(*at, control(request, TELL), options);
    }
}

pub(super) fn equalise(s: &mut State, options: &Options) {
    let directory = Rc::make_mut(&mut s.directory);
    directory.equalising = Equalising::Asked;
    let config = directory.config();
    let groups = vec![(GROUP, config.epoch)];
    if let Some(primary) = config.primary {
        let request = Request::Equalise(EqualiseGroups { groups });
        s.feed(State::at(primary), control(request, EQUALISE), options);
    }
}

fn registers(s: &mut State, at: usize, options: &Options) {
    let host = Rc::make_mut(&mut s.hosts[at]);
    if host.core.is_none() {
        host.start(options);
        host.refresh();
    }
    let run = host.run();
    Rc::make_mut(&mut s.directory).registers(run, options.rule);
}

fn crash(s: &mut State, at: usize, loss: bool) {
    s.spent.crashes += 1;
    let host = Rc::make_mut(&mut s.hosts[at]);
    host.core = None;
    if loss {
        s.spent.losses += 1;
        host.disk.lose_power();
        host.lost = true;
    }
    host.refresh();
    let server = host.server;
    Rc::make_mut(&mut s.directory).disconnected(server);
}
