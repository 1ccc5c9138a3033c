//! One state of the whole, and how an event at one server goes on through it.
//!
//! What happens without a choice happens at once: work of a disk, and the questions of a primary
//! that only ask (marks, states, lists). Forwarded writes and copies are messages on their way.

use super::digest::{Mix, digest};
use super::directory::{Directory, Equalising, Session, bit};
use super::host::Host;
use super::options::{Options, Rule};
use super::oracle::Oracle;
use super::packet::{Message, Packet, Writing};
use super::{CHUNK, GROUP};
use dfs_proto::error::Error;
use dfs_proto::ids::{
    Epoch, Generation, Incarnation, Sequence, ServerId, ServerRun, SessionId, Version,
};
use dfs_proto::msg::chunk::WriteChunk;
use dfs_proto::payload::{Payload, block_checksums};
use dfs_server::replica::{Action, Caller, Event, Request, Response, Sender, Token};
use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::rc::Rc;

// Who asked, in the upper byte of a caller's number.
const OF_MOUNT: u64 = 1 << 56;
const OF_PEER: u64 = 2 << 56;
const READ: Caller = Caller(3 << 56);
pub(super) const ADOPT: Caller = Caller(4 << 56);
pub(super) const EQUALISE: Caller = Caller(5 << 56);
pub(super) const FENCE: Caller = Caller(6 << 56);
pub(super) const TELL: Caller = Caller(7 << 56);
pub(super) const CUT: u64 = 8 << 56;

/// A mount.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Client {
    /// It believes that it has the lease.
    pub(super) holds: bool,
    /// What it knows of the group: the epoch and its primary.
    pub(super) epoch: Epoch,
    pub(super) primary: Option<ServerRun>,
    /// The epoch that it knew when it got the lease.
    pub(super) granted: Epoch,
    pub(super) writing: Option<Writing>,
    pub(super) sequence: u8,
    /// The inode's, as it learned with the lease or by its own cut.
    pub(super) generation: Generation,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Spent {
    pub(super) writes: u8,
    pub(super) cuts: u8,
    pub(super) crashes: u8,
    pub(super) losses: u8,
    pub(super) ends: u8,
}

#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) directory: Rc<Directory>,
    pub(super) hosts: Vec<Rc<Host>>,
    pub(super) clients: [Client; 2],
    pub(super) oracle: Oracle,
    /// Ordered by digest.
    pub(super) packets: Rc<Vec<Rc<Packet>>>,
    pub(super) spent: Spent,
    /// What a rule that is broken looks like; the first one counts.
    pub(super) violation: Option<String>,
}

pub(super) fn session(client: u8) -> SessionId {
    SessionId(u64::from(client) + 1)
}

impl State {
    pub(super) fn digest(&self) -> u64 {
        let mut mix = Mix::default();
        mix.write_u64(digest(&*self.directory));
        self.hosts
            .iter()
            .for_each(|host| mix.write_u64(host.digest));
        (self.clients, self.oracle, self.spent).hash(&mut mix);
        self.packets.iter().for_each(|p| mix.write_u64(p.digest));
        mix.finish()
    }

    pub(super) fn at(server: ServerId) -> usize {
        server.0 as usize - 1
    }

    /// The host on which a run is alive.
    pub(super) fn place(&self, run: ServerRun) -> Option<usize> {
        let at = Self::at(run.server);
        let host = self.hosts.get(at)?;
        (host.core.is_some() && host.run() == run).then_some(at)
    }

    fn place_of(&self, incarnation: Incarnation) -> Option<usize> {
        let alive = |host: &Rc<Host>| host.core.is_some() && host.run().incarnation == incarnation;
        self.hosts.iter().position(alive)
    }

    pub(super) fn post(&mut self, message: Message, token: Token) {
        let packet = Rc::new(Packet::new(message, token));
        let packets = Rc::make_mut(&mut self.packets);
        match packets.binary_search_by_key(&packet.digest, |p| p.digest) {
            Ok(at) => packets[at] = packet,
            Err(at) => packets.insert(at, packet),
        }
    }

    /// Sends a mount's write, as its mount knows the group now.
    pub(super) fn send_write(&mut self, client: u8) {
        let c = self.clients[usize::from(client)];
        if let (Some(write), Some(to)) = (c.writing, c.primary)
            && !write.cuts
        {
            let epoch = c.epoch;
            self.post(Message::Write { to, epoch, write }, Token(0));
        }
    }

    /// A message is delivered once more.
    pub(super) fn deliver(&mut self, packet: &Packet, options: &Options) {
        match &packet.message {
            Message::Write { to, epoch, write } => {
                let payload = Payload::copy_from(&[write.value]);
                let number = u64::from(write.client) << 8 | u64::from(write.sequence);
                let request = WriteChunk {
                    key: CHUNK,
                    group: GROUP,
                    epoch: *epoch,
                    generation: write.generation,
                    session: session(write.client),
                    sequence: Sequence(u64::from(write.sequence)),
                    after: Version::HOLE,
                    offset: 0,
                    checksums: block_checksums(0, &payload),
                };
                let event = Event::Request {
                    from: Sender::Mount,
                    caller: Caller(OF_MOUNT | number),
                    request: Request::Write(request),
                    payload,
                };
                self.feed(Self::at(to.server), event, options);
            }
            Message::Peer {
                from,
                to,
                request,
                payload,
                ..
            } => {
                let asker = self.place(*from).map(|at| (at, packet.token));
                let event = Event::Request {
                    from: Sender::Server(from.incarnation),
                    caller: Caller(OF_PEER),
                    request: request.clone(),
                    payload: payload.clone(),
                };
                self.run(Self::at(to.server), event, vec![asker], options);
            }
            Message::Written { client, sequence } => self.written(*client, *sequence),
            Message::Cut {
                to,
                generation,
                epoch,
            } => {
                super::cut::delivered(self, *to, (*generation, *epoch), options);
            }
            Message::Propose { .. } => {}
        }
    }

    fn written(&mut self, client: u8, sequence: u8) {
        let c = &mut self.clients[usize::from(client)];
        if let Some(write) = c.writing.take_if(|write| write.sequence == sequence) {
            let over = self.directory.sessions[usize::from(client)] == Session::Over;
            if !over && !self.oracle.answered(write.value) {
                let value = write.value;
                self.violate(format!("write {value} was answered, but was not before"));
            }
        }
    }

    pub(super) fn violate(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// A mount reads from a server under its lease; what it sees, if the server serves it.
    pub(super) fn read(&mut self, client: u8, at: usize, options: &Options) -> Option<u8> {
        let c = self.clients[usize::from(client)];
        let epoch = match options.rule {
            Rule::ReadsNameTheGrantsEpoch => c.granted,
            _ => c.epoch,
        };
        let request = dfs_proto::msg::chunk::ReadChunk {
            key: CHUNK,
            group: GROUP,
            epoch,
            generation: c.generation,
            offset: 0,
            len: 1,
        };
        let event = Event::Request {
            from: Sender::Mount,
            caller: READ,
            request: Request::Read(request),
            payload: Payload::default(),
        };
        self.feed(at, event, options)
    }

    /// An event at a server, and all that follows from it at once. The value of a read.
    pub(super) fn feed(&mut self, at: usize, event: Event, options: &Options) -> Option<u8> {
        self.run(at, event, Vec::new(), options)
    }

    fn run(
        &mut self,
        at: usize,
        event: Event,
        mut askers: Vec<Option<(usize, Token)>>,
        options: &Options,
    ) -> Option<u8> {
        let mut seen = None;
        let mut touched = 0_u8;
        let mut queue = VecDeque::from([(at, event)]);
        while let Some((at, event)) = queue.pop_front() {
            touched |= 1 << at;
            let host = Rc::make_mut(&mut self.hosts[at]);
            let (own, now) = (host.run(), host.clock);
            let Some(core) = host.core.as_mut() else {
                continue;
            };
            let actions = core.handle(now, event, &host.disk);
            for action in actions {
                match action {
                    Action::Disk { token, op } => {
                        let host = Rc::make_mut(&mut self.hosts[at]);
                        let result = host.disk.work(op, options.rule);
                        queue.push_back((at, Event::Disk { token, result }));
                    }
                    Action::Answer {
                        caller,
                        result,
                        payload,
                    } => match caller {
                        READ => {
                            let value = payload.first().copied().unwrap_or(0);
                            seen = result.is_ok().then_some(value);
                        }
                        Caller(n) if n >> 56 == OF_PEER >> 56 => {
                            let number = (n & 0xff_ffff) as usize;
                            if let Some(Some((to, token))) = askers.get(number).copied() {
                                let event = Event::Reply {
                                    token,
                                    result,
                                    payload,
                                };
                                queue.push_back((to, event));
                            }
                        }
                        _ => self.answered(at, caller, result),
                    },
                    Action::Send {
                        token,
                        to,
                        request,
                        payload,
                        ..
                    } => match request {
                        Request::Forward(_) | Request::Install(_) => {
                            let epoch = match &request {
                                Request::Forward(r) => r.epoch,
                                Request::Install(r) => r.epoch,
                                _ => Epoch(0),
                            };
                            let message = Message::Peer {
                                from: own,
                                to,
                                epoch,
                                request,
                                payload,
                            };
                            self.post(message, token);
                        }
                        request => {
                            if let Some(there) = self.place_of(to.incarnation) {
                                let caller = Caller(OF_PEER | askers.len() as u64);
                                askers.push(Some((at, token)));
                                let event = Event::Request {
                                    from: Sender::Server(own.incarnation),
                                    caller,
                                    request,
                                    payload,
                                };
                                queue.push_back((there, event));
                            }
                        }
                    },
                    // The directory suspects whom it likes, whenever it likes.
                    Action::Suspect { .. } => {}
                    Action::Propose { epoch, joined, .. } => {
                        let from = own;
                        let message = Message::Propose {
                            from,
                            epoch,
                            joined,
                        };
                        self.post(message, Token(0));
                    }
                }
            }
        }
        for at in 0..self.hosts.len() {
            if touched & (1 << at) != 0 {
                Rc::make_mut(&mut self.hosts[at]).refresh();
            }
        }
        seen
    }

    /// An answer for a mount or the directory.
    fn answered(&mut self, at: usize, caller: Caller, result: Result<Response, Error>) {
        let server = self.hosts[at].server;
        match (caller, result) {
            (ADOPT, Ok(Response::Adopted(adopted))) => {
                let epoch = self.directory.config().epoch;
                if adopted.epochs.contains(&(GROUP, epoch)) {
                    Rc::make_mut(&mut self.directory).adopted |= bit(server);
                }
            }
            (EQUALISE, result) => {
                let directory = Rc::make_mut(&mut self.directory);
                if directory.config().primary != Some(server)
                    || directory.equalising != Equalising::Asked
                {
                    return;
                }
                let epoch = directory.config().epoch;
                directory.equalising = match result {
                    Ok(Response::Equalised(done)) if done.groups.contains(&(GROUP, epoch)) => {
                        Equalising::Done
                    }
                    _ => Equalising::No,
                };
            }
            (FENCE, result) => {
                let directory = Rc::make_mut(&mut self.directory);
                directory.fence_asked &= !bit(server);
                if let Ok(Response::Fenced(fenced)) = result
                    && let Some((_, epoch)) = fenced.epochs.iter().find(|(g, _)| *g == GROUP)
                {
                    directory.fenced[at] = *epoch;
                }
            }
            (Caller(n), result) if n >> 56 == CUT >> 56 => {
                super::cut::answered(self, at, Generation(n & 0xff), result);
            }
            (Caller(n), Ok(Response::Written(_))) if n >> 56 == OF_MOUNT >> 56 => {
                let (client, sequence) = ((n >> 8) as u8, n as u8);
                self.post(Message::Written { client, sequence }, Token(0));
            }
            _ => {}
        }
    }
}
