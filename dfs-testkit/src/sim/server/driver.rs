//! The core's events and actions, and what the server asks of itself.

use super::{DIRECTORY_DEADLINE, Server, World};
use crate::sim::invariants::Seen;
use crate::sim::message::{Ask, Node, Process, Then, Timer, Told};
use crate::sim::schedule::Schedule;
use dfs_proto::ids::{ChunkKey, Generation, GroupId};
use dfs_proto::msg::chunk::ReadChunk;
use dfs_proto::msg::registry::{ProposeInSync, ReportSuspect};
use dfs_proto::payload::Payload;
use dfs_server::replica::{
    Action, Caller, DiskOp, Event, ReplicaCore, Request, Response, ScrubChunk, Sender,
};

impl Server {
    /// Reads everything, so that damage is found; a read of a damaged copy has it repaired.
    pub(super) fn patrol(&mut self, s: &mut Schedule, world: &World<'_>) {
        self.disk.verify();
        for (group, key) in self.disk.damaged() {
            let view = self.core.as_ref().and_then(|core| core.view(group));
            let Some(view) = view.filter(|view| view.in_sync && view.effective) else {
                continue;
            };
            let request = Request::Read(ReadChunk {
                key,
                group,
                epoch: view.epoch,
                generation: Generation(u64::MAX),
                offset: 0,
                len: 1,
            });
            self.ask_itself(s, Sender::Mount, request, world);
        }
        // The copies of some chunk of each group are compared.
        let led = self.core.as_ref().map(ReplicaCore::led).unwrap_or_default();
        for group in led {
            let keys: Vec<ChunkKey> = self.disk.of_group(group).map(|(key, _)| key).collect();
            if !keys.is_empty() {
                let key = keys[s.random.index(keys.len())];
                let insist = s.random.chance(100);
                let request = Request::ScrubChunk(ScrubChunk { group, key, insist });
                self.ask_itself(s, Sender::Own, request, world);
            }
        }
    }

    fn ask_itself(&mut self, s: &mut Schedule, from: Sender, request: Request, world: &World<'_>) {
        self.callers += 1;
        let caller = Caller(self.callers);
        let event = Event::Request {
            from,
            caller,
            request,
            payload: Payload::default(),
        };
        self.patrols.insert(caller);
        self.feed(s, event, world);
    }

    pub(super) fn feed(&mut self, s: &mut Schedule, event: Event, world: &World<'_>) {
        let (Some(process), Some(core)) = (self.process, &mut self.core) else {
            return;
        };
        let actions = core.handle(s.clock(process.node), event, &self.disk);
        for action in actions {
            self.act(s, process, action, world);
        }
        let (Some(core), Some(run)) = (&self.core, self.run()) else {
            return;
        };
        for group in (0..world.groups).map(GroupId) {
            if let Some(view) = core.view(group) {
                let result = s
                    .invariants
                    .viewed(self.place, run, group, &view, world.placed);
                s.check(result);
            }
        }
    }

    fn everybody<'a>(&'a self, world: &World<'a>) -> Vec<Seen<'a>> {
        let others = world.others.iter().map(|other| other.seen());
        others.chain([self.seen()]).collect()
    }

    fn act(&mut self, s: &mut Schedule, process: Process, action: Action, world: &World<'_>) {
        let directory = s.process(Node::Directory);
        match action {
            Action::Answer {
                caller,
                result,
                payload,
            } => {
                if self.patrols.remove(&caller) {
                    return;
                }
                let Some(asked) = self.asked.remove(&caller) else {
                    return s.violate(format!("{process:?} answers {caller:?} twice"));
                };
                s.trace(|| format!("  server {} -> {:?} {result:?}", self.place, asked.from));
                if let (Err(error), Some(run)) = (&result, self.run()) {
                    let servers = self.everybody(world);
                    let (admission, placed) = (&asked.admission, world.placed);
                    let checked = s
                        .invariants
                        .refuses(run, admission, error.code, placed, &servers);
                    s.check(checked);
                }
                if let (Ok(response), Some(run)) = (&result, self.run()) {
                    let servers = self.everybody(world);
                    let checked = s.invariants.answers(
                        run,
                        &asked.admission,
                        response,
                        world.placed,
                        &servers,
                    );
                    s.check(checked);
                    if let Response::Adopted(adopted) = response {
                        s.invariants.adopted(self.place, &adopted.epochs);
                    }
                }
                let answer = result.map(|response| Told::Chunk(response, payload));
                s.answer(process, asked.call, answer);
            }
            Action::Disk { token, op } => {
                if let Some(run) = self.run() {
                    let checked = s.invariants.disk_begins(run, &op, world.placed);
                    s.check(checked);
                }
                let delay = match s.random.chance(20) {
                    true => s.random.micros(1_000, 60_000),
                    false => s.random.micros(20, 400),
                } * self.disk.trouble.slow.max(1);
                if let DiskOp::Write { .. } = &op {
                    self.waiting.insert(token, op.clone());
                }
                s.timer(process, delay, Timer::DiskWorks(token, Box::new(op)));
            }
            Action::Send {
                token,
                to,
                request,
                payload,
                deadline,
            } => {
                let from = Sender::Server(s.incarnation(process));
                let ask = Ask::Chunk {
                    from,
                    request,
                    payload,
                };
                let then = Then::Core(token);
                // A connection to another run of that server is refused by its handshake.
                let place = s.places.get(&to.server).copied().unwrap_or(usize::MAX);
                let target = s
                    .process(Node::Server(place))
                    .filter(|p| s.incarnation(*p) == to.incarnation)
                    .unwrap_or(Process {
                        node: Node::Server(place),
                        life: 0,
                    });
                s.call(process, target, ask, deadline, then);
            }
            Action::Suspect {
                suspect,
                groups,
                reason,
            } => {
                s.trace(|| format!("server {} suspects {suspect}: {reason}", self.place));
                if let (Some(directory), Some(from)) = (directory, self.run()) {
                    let ask = Ask::Suspect(ReportSuspect {
                        from,
                        suspect,
                        groups,
                        reason,
                    });
                    s.call(process, directory, ask, DIRECTORY_DEADLINE, Then::Nothing);
                }
            }
            Action::Propose {
                group,
                epoch,
                joined,
            } => {
                if let (Some(directory), Some(from)) = (directory, self.run()) {
                    let ask = Ask::Propose(ProposeInSync {
                        from,
                        group,
                        epoch,
                        joined,
                    });
                    s.call(process, directory, ask, DIRECTORY_DEADLINE, Then::Nothing);
                }
            }
        }
    }
}
