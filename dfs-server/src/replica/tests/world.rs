//! Several cores with stores in memory, and a network that delivers in a seeded order.

use super::memory::MemoryStore;
use crate::replica::*;
use dfs_proto::cluster::{Equalise, GroupConfig, GroupMember, MemberState};
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::*;
use dfs_proto::layout::FileLayout;
use dfs_proto::msg::chunk::{ReadChunk, WriteChunk};
use dfs_proto::msg::control::*;
use dfs_proto::payload::{Payload, block_checksums};
use std::collections::BTreeMap;
use std::time::Duration;

pub(super) const GROUP: GroupId = GroupId(0);
pub(super) const LAYOUT: FileLayout = FileLayout {
    chunk_bytes: 16384,
    first_group: GROUP,
    groups: 1,
};

pub(super) fn key(inode: u64, index: u64) -> ChunkKey {
    ChunkKey {
        inode: InodeId(inode),
        index: ChunkIndex(index),
    }
}

pub(super) struct Node {
    pub(super) core: ReplicaCore,
    pub(super) store: MemoryStore,
    pub(super) run: ServerRun,
    pub(super) up: bool,
}

/// What is on its way.
#[derive(Clone, Debug)]
pub(super) enum Mail {
    Request {
        from: ServerRun,
        to: ServerRun,
        token: Token,
        request: Request,
        payload: Payload,
    },
    Reply {
        to: ServerRun,
        token: Token,
        result: Result<Response, Error>,
        payload: Payload,
    },
    Disk {
        at: ServerRun,
        token: Token,
        op: DiskOp,
    },
}

pub(super) struct World {
    pub(super) nodes: BTreeMap<u32, Node>,
    pub(super) mail: Vec<Mail>,
    /// Requests between servers: who waits for a caller's answer.
    between: BTreeMap<Caller, (ServerRun, Token, ServerRun)>,
    pub(super) answers: BTreeMap<Caller, (Result<Response, Error>, Payload)>,
    pub(super) suspects: Vec<ServerRun>,
    pub(super) proposals: Vec<(Epoch, ServerRun)>,
    pub(super) now: Duration,
    last: u64,
    random: Option<u64>,
    /// Mail that is held back.
    pub(super) hold: Option<fn(&Mail) -> bool>,
}

impl World {
    /// With a seed, mail is delivered in a random order, else in the order of sending.
    pub(super) fn new(servers: u32, seed: Option<u64>) -> Self {
        let nodes = (1..=servers).map(|id| (id, node(id, 1))).collect();
        Self {
            nodes,
            mail: Vec::new(),
            between: BTreeMap::new(),
            answers: BTreeMap::new(),
            suspects: Vec::new(),
            proposals: Vec::new(),
            now: Duration::ZERO,
            last: 0,
            random: seed.map(|seed| seed.wrapping_mul(2).wrapping_add(1)),
            hold: None,
        }
    }

    pub(super) fn random(&mut self, below: usize) -> usize {
        let Some(state) = &mut self.random else {
            return 0;
        };
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below.max(1)
    }

    pub(super) fn run(&self, id: u32) -> ServerRun {
        self.nodes[&id].run
    }

    pub(super) fn config(&self, epoch: u64, in_sync: &[u32], joining: &[u32]) -> GroupConfig {
        let member = |id: &u32, state| GroupMember {
            run: self.run(*id),
            state,
        };
        let mut members: Vec<_> = in_sync
            .iter()
            .map(|id| member(id, MemberState::InSync))
            .collect();
        members.extend(joining.iter().map(|id| member(id, MemberState::Joining)));
        GroupConfig {
            group: GROUP,
            epoch: Epoch(epoch),
            primary: in_sync.first().map(|id| ServerId(*id)),
            members,
            min_in_sync: 1,
            equalise: Equalise::Marked,
        }
    }

    /// Sends a request of a mount or the directory.
    pub(super) fn ask(&mut self, to: u32, from: Sender, request: Request, bytes: &[u8]) -> Caller {
        self.last += 1;
        let caller = Caller(self.last);
        let payload = Payload::copy_from(bytes);
        let event = Event::Request {
            from,
            caller,
            request,
            payload,
        };
        self.feed(to, event);
        caller
    }

    pub(super) fn direct(&mut self, to: u32, request: Request) -> Caller {
        self.ask(to, Sender::Directory, request, &[])
    }

    pub(super) fn feed(&mut self, to: u32, event: Event) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&to).filter(|node| node.up) else {
            return;
        };
        let run = node.run;
        let actions = node.core.handle(now, event, &node.store);
        for action in actions {
            match action {
                Action::Answer {
                    caller,
                    result,
                    payload,
                } => match self.between.remove(&caller) {
                    Some((to, token, _)) => self.mail.push(Mail::Reply {
                        to,
                        token,
                        result,
                        payload,
                    }),
                    None => {
                        let before = self.answers.insert(caller, (result, payload));
                        assert!(before.is_none(), "{caller:?} is answered once");
                    }
                },
                Action::Disk { token, op } => self.mail.push(Mail::Disk { at: run, token, op }),
                Action::Send {
                    token,
                    to,
                    request,
                    payload,
                    ..
                } => self.mail.push(Mail::Request {
                    from: run,
                    to,
                    token,
                    request,
                    payload,
                }),
                Action::Suspect { suspect, .. } => self.suspects.push(suspect),
                Action::Propose { epoch, joined, .. } => self.proposals.push((epoch, joined)),
            }
        }
    }

    /// Delivers one piece of mail; false if there is none that may go.
    pub(super) fn step(&mut self) -> bool {
        let ready: Vec<usize> = (0..self.mail.len())
            .filter(|at| self.hold.is_none_or(|hold| !hold(&self.mail[*at])))
            .collect();
        if ready.is_empty() {
            return false;
        }
        let at = ready[self.random(ready.len())];
        let mail = self.mail.remove(at);
        self.deliver(mail);
        true
    }

    pub(super) fn deliver(&mut self, mail: Mail) {
        match mail {
            Mail::Disk { at, token, op } => {
                let Some(node) = self.nodes.get_mut(&at.server.0) else {
                    return;
                };
                if node.run == at && node.up {
                    let result = node.store.perform(op);
                    self.feed(at.server.0, Event::Disk { token, result });
                }
            }
            Mail::Reply {
                to,
                token,
                result,
                payload,
            } => {
                if self.is_up(to) {
                    let event = Event::Reply {
                        token,
                        result,
                        payload,
                    };
                    self.feed(to.server.0, event);
                }
            }
            Mail::Request {
                from,
                to,
                token,
                request,
                payload,
            } => {
                if !self.is_up(to) {
                    let result = Err(ErrorCode::Disconnected.into());
                    let payload = Payload::default();
                    self.mail.push(Mail::Reply {
                        to: from,
                        token,
                        result,
                        payload,
                    });
                    return;
                }
                self.last += 1;
                let caller = Caller(self.last);
                self.between.insert(caller, (from, token, to));
                let event = Event::Request {
                    from: Sender::Server(from.incarnation),
                    caller,
                    request,
                    payload,
                };
                self.feed(to.server.0, event);
            }
        }
    }

    fn is_up(&self, run: ServerRun) -> bool {
        self.nodes
            .get(&run.server.0)
            .is_some_and(|node| node.up && node.run == run)
    }

    /// Delivers everything that may go.
    pub(super) fn settle(&mut self) {
        for _ in 0..100_000 {
            if !self.step() {
                return;
            }
        }
        panic!("the servers never come to rest");
    }

    pub(super) fn tick(&mut self) {
        self.now += Duration::from_millis(250);
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.feed(id, Event::Tick);
        }
    }

    /// Delivers everything but the answers to one request.
    pub(super) fn settle_without_answers_to(&mut self, lost: Token) {
        loop {
            let is_lost = |mail: &Mail| matches!(mail, Mail::Reply { token, .. } if *token == lost);
            self.mail.retain(|mail| !is_lost(mail));
            if !self.step() {
                return;
            }
        }
    }

    pub(super) fn settle_with_ticks(&mut self, ticks: u32) {
        for _ in 0..ticks {
            self.settle();
            self.tick();
        }
        self.settle();
    }

    pub(super) fn kill(&mut self, id: u32) {
        let dead = self.run(id);
        self.nodes.get_mut(&id).expect("a server").up = false;
        self.mail
            .retain(|mail| !matches!(mail, Mail::Disk { at, .. } if *at == dead));
        // Whoever waits for its answers learns that the connection is gone.
        let between = std::mem::take(&mut self.between);
        for (caller, (from, token, to)) in between {
            if to == dead {
                self.mail.push(Mail::Reply {
                    to: from,
                    token,
                    result: Err(ErrorCode::Disconnected.into()),
                    payload: Payload::default(),
                });
            } else if from != dead {
                self.between.insert(caller, (from, token, to));
            }
        }
    }

    /// A new run of a server, with what its store holds.
    pub(super) fn restart(&mut self, id: u32) {
        let old = self.nodes.remove(&id).expect("a server");
        let mut fresh = node(id, old.run.incarnation.0 / 100 + 1);
        fresh.store = old.store;
        fresh.core = ReplicaCore::new(
            fresh.run.incarnation,
            fresh.store.epochs.values().cloned().collect(),
            fresh.store.fenced.iter().copied().collect(),
        );
        self.nodes.insert(id, fresh);
    }

    /// Takes a config through adoption, equalising and effectiveness, as the directory does.
    pub(super) fn enter(&mut self, config: GroupConfig) {
        let epoch = config.epoch;
        let members: Vec<u32> = config.members.iter().map(|m| m.run.server.0).collect();
        self.make_equal(config);
        for id in members {
            self.tell(id, epoch);
        }
    }

    /// Says that an epoch is effective.
    pub(super) fn tell(&mut self, id: u32, epoch: Epoch) {
        let effective = Request::Effective(EpochsEffective {
            groups: vec![(GROUP, epoch)],
        });
        self.direct(id, effective);
    }

    /// Has a config adopted, and its members made equal.
    pub(super) fn make_equal(&mut self, config: GroupConfig) {
        let epoch = config.epoch;
        let members: Vec<u32> = config.members.iter().map(|m| m.run.server.0).collect();
        let primary = config.primary.expect("a primary").0;
        let adopt = Request::Adopt(AdoptEpochs {
            configs: vec![config],
            servers: Vec::new(),
            fenced: Vec::new(),
        });
        let callers: Vec<Caller> = members
            .iter()
            .map(|id| self.direct(*id, adopt.clone()))
            .collect();
        self.settle();
        for caller in callers {
            let adopted = Response::Adopted(EpochsAdopted {
                epochs: vec![(GROUP, epoch)],
            });
            assert_eq!(self.answer(caller), Ok(adopted));
        }
        let equalise = Request::Equalise(EqualiseGroups {
            groups: vec![(GROUP, epoch)],
        });
        let caller = self.direct(primary, equalise);
        self.settle();
        let equalised = Response::Equalised(GroupsEqualised {
            groups: vec![(GROUP, epoch)],
            suspects: Vec::new(),
        });
        assert_eq!(self.answer(caller), Ok(equalised));
    }

    pub(super) fn answer(&self, caller: Caller) -> Result<Response, Error> {
        let (result, _) = self.answers.get(&caller).expect("an answer");
        result.clone()
    }

    pub(super) fn is_answered(&self, caller: Caller) -> bool {
        self.answers.contains_key(&caller)
    }

    pub(super) fn code(&self, caller: Caller) -> ErrorCode {
        self.answer(caller).expect_err("a refusal").code
    }

    /// Whether these servers hold the same of every chunk, write records included.
    pub(super) fn assert_equal(&self, ids: &[u32]) {
        for pair in ids.windows(2) {
            let (a, b) = (&self.nodes[&pair[0]].store, &self.nodes[&pair[1]].store);
            assert_eq!(a.chunks, b.chunks, "servers {} and {}", pair[0], pair[1]);
        }
    }
}

fn node(id: u32, run: u64) -> Node {
    let run = ServerRun {
        server: ServerId(id),
        incarnation: Incarnation(run * 100 + u64::from(id)),
    };
    Node {
        core: ReplicaCore::new(run.incarnation, Vec::new(), Vec::new()),
        store: MemoryStore::default(),
        run,
        up: true,
    }
}

/// A write of one byte value over a range.
#[derive(Clone, Copy, Debug)]
pub(super) struct Put {
    pub(super) key: ChunkKey,
    pub(super) epoch: u64,
    pub(super) generation: u64,
    pub(super) session: u64,
    pub(super) sequence: u64,
    pub(super) offset: u32,
    pub(super) len: usize,
    pub(super) byte: u8,
}

impl Put {
    pub(super) fn new(sequence: u64, byte: u8) -> Self {
        Self {
            key: key(1, 0),
            epoch: 1,
            generation: 0,
            session: 7,
            sequence,
            offset: 0,
            len: 100,
            byte,
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        vec![self.byte; self.len]
    }

    pub(super) fn request(&self) -> WriteChunk {
        WriteChunk {
            after: Version::HOLE,
            key: self.key,
            group: GROUP,
            epoch: Epoch(self.epoch),
            generation: Generation(self.generation),
            session: SessionId(self.session),
            sequence: Sequence(self.sequence),
            offset: self.offset,
            checksums: block_checksums(self.offset, &self.bytes()),
        }
    }

    pub(super) fn send(&self, world: &mut World, to: u32) -> Caller {
        world.ask(
            to,
            Sender::Mount,
            Request::Write(self.request()),
            &self.bytes(),
        )
    }
}

pub(super) fn read(world: &mut World, from: u32, epoch: u64, key: ChunkKey) -> Caller {
    let request = ReadChunk {
        key,
        group: GROUP,
        epoch: Epoch(epoch),
        generation: Generation(100),
        offset: 0,
        len: 16384,
    };
    world.ask(from, Sender::Mount, Request::Read(request), &[])
}
