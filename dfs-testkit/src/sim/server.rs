//! A file server: the replica core with a simulated disk and network around it. What is here is
//! what the real server's service does besides: carry requests, disk work and answers, register,
//! give signs of life.

use super::disk::Disk;
use super::invariants::{Admission, Seen};
use super::message::{Answer, Ask, Node, Process, Then, Timer, Told};
use super::schedule::Schedule;
use dfs_directory::placement::Placed;
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{GroupId, Incarnation, ServerId, ServerRun};
use dfs_proto::msg::registry::DataDirPast;
use dfs_proto::timing::SERVER_HEARTBEAT;
use dfs_server::replica::{Action, Caller, Event, ReplicaCore, Response};
use std::collections::BTreeMap;
use std::time::Duration;

/// Time of the core's tick.
const TICK: Duration = Duration::from_millis(100);

/// How long the server waits for the directory.
const DIRECTORY_DEADLINE: Duration = Duration::from_millis(500);

/// A request that the core has not answered.
#[derive(Debug)]
struct Asked {
    call: u64,
    from: Process,
    admission: Admission,
}

/// A machine with a disk, and the process on it.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) place: usize,
    pub(crate) disk: Disk,
    process: Option<Process>,
    core: Option<ReplicaCore>,
    /// As the directory numbered it.
    id: Option<ServerId>,
    /// The last stop left everything on disk.
    clean: bool,
    /// All runs that used the disk.
    runs: Vec<Incarnation>,
    registered: bool,
    asked: BTreeMap<Caller, Asked>,
    callers: u64,
    /// Un-synced data were lost, and it has not been in-sync since.
    pub(crate) poor: bool,
}

impl Server {
    pub(crate) fn new(place: usize) -> Self {
        Self {
            place,
            disk: Disk::default(),
            process: None,
            core: None,
            id: None,
            clean: true,
            runs: Vec::new(),
            registered: false,
            asked: BTreeMap::new(),
            callers: 0,
            poor: false,
        }
    }

    /// The run that lives here.
    pub(crate) fn run(&self) -> Option<ServerRun> {
        let process = self.process?;
        Some(ServerRun {
            server: self.id?,
            incarnation: Schedule::incarnation(process),
        })
    }

    pub(crate) fn is_up(&self) -> bool {
        self.process.is_some()
    }

    pub(crate) fn seen(&self) -> Seen<'_> {
        Seen {
            place: self.place,
            run: self.run(),
            disk: &self.disk,
        }
    }

    /// A process begins, with what the disk has. `plant` may break a rule of its core.
    pub(crate) fn start(&mut self, s: &mut Schedule, plant: fn(&mut ReplicaCore)) {
        let process = s.start(Node::Server(self.place));
        let me = Schedule::incarnation(process);
        let mut core = ReplicaCore::new(me, self.disk.configs(), self.disk.fenced());
        plant(&mut core);
        self.core = Some(core);
        self.runs.push(me);
        self.process = Some(process);
        self.registered = false;
        s.trace(|| format!("server {} starts as {me:?}", self.place));
        s.timer(process, Duration::ZERO, Timer::Register);
        s.timer(process, TICK, Timer::Tick);
        s.timer(process, SERVER_HEARTBEAT, Timer::Beat);
    }

    /// The process is killed; with `power` the machine too.
    pub(crate) fn kill(&mut self, s: &mut Schedule, power: bool) {
        self.process = None;
        self.core = None;
        self.clean = false;
        self.asked.clear();
        s.kill(Node::Server(self.place));
        if power {
            let lost = self.disk.lose_power(&mut s.random);
            self.poor |= lost > 0;
            s.trace(|| format!("server {} loses power, {lost} chunks", self.place));
        } else {
            s.trace(|| format!("server {} is killed", self.place));
        }
    }

    pub(crate) fn requested(
        &mut self,
        s: &mut Schedule,
        call: u64,
        from: Process,
        ask: Ask,
        world: &World<'_>,
    ) {
        let (
            Ask::Chunk {
                from: sender,
                request,
                payload,
            },
            Some(core),
        ) = (ask, &self.core)
        else {
            return;
        };
        let epoch = Admission::names(&request)
            .and_then(|(group, _)| core.view(group))
            .map(|view| view.epoch);
        self.callers += 1;
        let caller = Caller(self.callers);
        let admission = Admission {
            request: request.clone(),
            epoch,
        };
        s.trace(|| format!("  server {} <- {from:?} {request:?}", self.place));
        self.asked.insert(
            caller,
            Asked {
                call,
                from,
                admission,
            },
        );
        let event = Event::Request {
            from: sender,
            caller,
            request,
            payload,
        };
        self.feed(s, event, world);
    }

    pub(crate) fn answered(
        &mut self,
        s: &mut Schedule,
        then: Then,
        answer: Answer,
        world: &World<'_>,
    ) {
        let Some(process) = self.process else { return };
        match then {
            Then::Core(token) => {
                let (result, payload) = match answer {
                    Ok(Told::Chunk(response, payload)) => (Ok(response), payload),
                    Ok(_) => (Err(ErrorCode::Malformed.into()), Default::default()),
                    Err(error) => (Err(error), Default::default()),
                };
                let event = Event::Reply {
                    token,
                    result,
                    payload,
                };
                self.feed(s, event, world);
            }
            Then::Registered => match answer {
                Ok(Told::Registered(id)) => {
                    self.id = Some(id);
                    self.registered = true;
                }
                _ => s.timer(process, Duration::from_millis(20), Timer::Register),
            },
            Then::Lived => {
                let lost = match &answer {
                    Ok(_) => false,
                    Err(e) => e.code != ErrorCode::DeadlineExceeded,
                };
                if lost && std::mem::take(&mut self.registered) {
                    s.timer(process, Duration::from_millis(5), Timer::Register);
                }
            }
            _ => {}
        }
    }

    /// The connection to a peer has ended; without the directory the server registers anew.
    pub(crate) fn closed(&mut self, s: &mut Schedule, peer: Process) {
        if let Some(process) = self.process
            && peer.node == Node::Directory
            && std::mem::take(&mut self.registered)
        {
            s.timer(process, Duration::from_millis(2), Timer::Register);
        }
    }

    pub(crate) fn woken(&mut self, s: &mut Schedule, timer: Timer, world: &World<'_>) {
        let (Some(process), Some(directory)) = (self.process, s.process(Node::Directory)) else {
            return;
        };
        match timer {
            Timer::Tick => {
                s.timer(process, TICK, Timer::Tick);
                self.feed(s, Event::Tick, world);
            }
            Timer::Register => {
                let incarnation = Schedule::incarnation(process);
                let earlier = self.runs.iter().filter(|run| **run != incarnation);
                let runs: Vec<Incarnation> = earlier.copied().collect();
                let ask = Ask::Register {
                    incarnation,
                    past: DataDirPast {
                        intact: if self.clean { runs.len() as u32 } else { 0 },
                        runs,
                        accept_rollback: false,
                    },
                    epochs: (self.disk.configs().iter())
                        .map(|config| (config.group, config.epoch))
                        .collect(),
                };
                s.call(
                    process,
                    directory,
                    ask,
                    DIRECTORY_DEADLINE,
                    Then::Registered,
                );
            }
            Timer::Beat => {
                s.timer(process, SERVER_HEARTBEAT, Timer::Beat);
                if let Some(run) = self.run().filter(|_| self.registered) {
                    s.call(
                        process,
                        directory,
                        Ask::Alive(run),
                        DIRECTORY_DEADLINE,
                        Then::Lived,
                    );
                }
            }
            Timer::DiskWorks(token, op) => {
                let result = self.disk.work(*op);
                let delay = s.random.micros(0, 300);
                s.timer(process, delay, Timer::DiskEnds(token, result));
            }
            Timer::DiskEnds(token, result) => self.feed(s, Event::Disk { token, result }, world),
            Timer::Task(_) | Timer::Recall(_) => {}
        }
    }

    fn feed(&mut self, s: &mut Schedule, event: Event, world: &World<'_>) {
        let (Some(process), Some(core)) = (self.process, &mut self.core) else {
            return;
        };
        let actions = core.handle(s.now, event, &self.disk);
        for action in actions {
            self.act(s, process, action, world);
        }
        let (Some(core), Some(run)) = (&self.core, self.run()) else {
            return;
        };
        for group in (0..world.groups).map(GroupId) {
            if let Some(view) = core.view(group) {
                let result = s.invariants.viewed(self.place, run, group, &view);
                s.check(result);
            }
        }
    }

    fn act(&mut self, s: &mut Schedule, process: Process, action: Action, world: &World<'_>) {
        let directory = s.process(Node::Directory);
        match action {
            Action::Answer {
                caller,
                result,
                payload,
            } => {
                let Some(asked) = self.asked.remove(&caller) else {
                    return s.violate(format!("{process:?} answers {caller:?} twice"));
                };
                s.trace(|| format!("  server {} -> {:?} {result:?}", self.place, asked.from));
                if let (Ok(response), Some(run)) = (&result, self.run()) {
                    let mut servers: Vec<Seen<'_>> =
                        world.others.iter().map(|other| other.seen()).collect();
                    servers.push(self.seen());
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
                };
                s.timer(process, delay, Timer::DiskWorks(token, Box::new(op)));
            }
            Action::Send {
                token,
                to,
                request,
                payload,
                deadline,
            } => {
                let from = dfs_server::replica::Sender::Server(Schedule::incarnation(process));
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
                    .filter(|p| Schedule::incarnation(*p) == to.incarnation)
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
                if let Some(directory) = directory {
                    let ask = Ask::Suspect { suspect, groups };
                    s.call(process, directory, ask, DIRECTORY_DEADLINE, Then::Nothing);
                }
            }
            Action::Propose {
                group,
                epoch,
                joined,
            } => {
                if let (Some(directory), Some(from)) = (directory, self.run()) {
                    let ask = Ask::Propose {
                        from,
                        group,
                        epoch,
                        joined,
                    };
                    s.call(process, directory, ask, DIRECTORY_DEADLINE, Then::Nothing);
                }
            }
        }
    }
}

/// What a server's step may look at to be checked: everything else.
#[derive(Debug)]
pub(crate) struct World<'a> {
    pub(crate) placed: &'a Placed,
    pub(crate) groups: u32,
    pub(crate) others: Vec<&'a Server>,
}
