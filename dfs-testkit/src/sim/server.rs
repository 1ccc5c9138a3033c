//! A file server: the replica core with a simulated disk and network around it. What is here is
//! what the real server's service does besides: carry requests, disk work and answers, register,
//! give signs of life.

use super::Around;
use super::disk::Disk;
use super::invariants::{Admission, Seen};
use super::message::{Answer, Ask, Node, Process, Then, Timer, Told};
use super::schedule::Schedule;
use dfs_directory::placement::Placed;
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{ChunkKey, Epoch, Generation, GroupId, Incarnation, ServerId, ServerRun};
use dfs_proto::msg::chunk::ReadChunk;
use dfs_proto::msg::registry::DataDirPast;
use dfs_proto::payload::Payload;
use dfs_proto::timing::SERVER_HEARTBEAT;
use dfs_server::replica::{
    Action, Caller, Event, ReplicaCore, Request, Response, ScrubChunk, Sender,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Time of the core's tick.
const TICK: Duration = Duration::from_millis(100);

/// Everything held is read and verified this often.
const PATROL: Duration = Duration::from_millis(300);

/// An orderly stop waits so long for what is in progress.
const STOP_PATIENCE: Duration = Duration::from_millis(500);

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
    me: Incarnation,
    /// As the directory numbered it.
    id: Option<ServerId>,
    /// All runs that used the disk, and how many of the earlier ones all stops since were orderly.
    runs: Vec<Incarnation>,
    intact: u32,
    registered: bool,
    asked: BTreeMap<Caller, Asked>,
    callers: u64,
    /// Reads that the server asks of itself.
    patrols: BTreeSet<Caller>,
    /// Groups of which un-synced data were lost, and in which it was not in-sync since.
    pub(crate) lost: BTreeSet<GroupId>,
    /// An orderly stop has begun: until when it waits for what is in progress.
    stopping: Option<Duration>,
}

impl Server {
    pub(crate) fn new(place: usize) -> Self {
        Self {
            place,
            disk: Disk::default(),
            process: None,
            core: None,
            me: Incarnation::default(),
            id: None,
            runs: Vec::new(),
            intact: 0,
            registered: false,
            asked: BTreeMap::new(),
            callers: 0,
            patrols: BTreeSet::new(),
            lost: BTreeSet::new(),
            stopping: None,
        }
    }

    /// The run that lives here.
    pub(crate) fn run(&self) -> Option<ServerRun> {
        self.process?;
        Some(ServerRun {
            server: self.id?,
            incarnation: self.me,
        })
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    pub(crate) fn is_up(&self) -> bool {
        self.process.is_some()
    }

    fn earlier_runs(&self, present: Incarnation) -> Vec<Incarnation> {
        let earlier = self.runs.iter().filter(|run| **run != present);
        earlier.copied().collect()
    }

    fn adopted(&self) -> Vec<(GroupId, Epoch)> {
        let configs = self.disk.configs().into_iter();
        configs.map(|config| (config.group, config.epoch)).collect()
    }

    /// Whether copies of a group here are not what the group was told that they are.
    pub(crate) fn is_poor(&self, group: GroupId) -> bool {
        let mut damaged = self.disk.damaged().into_iter();
        self.lost.contains(&group)
            || self.disk.trouble.failed
            || self.disk.trouble.sync_fails
            || self.disk.trouble.write_fails
            || damaged.any(|(of, _)| of == group)
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
        let me = s.incarnation(process);
        let mut core = ReplicaCore::new(me, self.disk.configs(), self.disk.fenced());
        plant(&mut core);
        self.core = Some(core);
        self.disk.late_cuts = s.around == Around::LateCuts;
        self.me = me;
        self.runs.push(me);
        self.process = Some(process);
        self.registered = false;
        s.trace(|| format!("server {} starts as {me:?}", self.place));
        s.timer(process, Duration::ZERO, Timer::Register);
        s.own_timer(process, TICK, Timer::Tick);
        s.own_timer(process, SERVER_HEARTBEAT, Timer::Beat);
        s.own_timer(process, PATROL, Timer::Patrol);
    }

    /// An orderly stop begins: nothing new is taken, what is in progress ends.
    pub(crate) fn stop(&mut self, s: &mut Schedule) {
        if let Some(process) = self.process {
            s.trace(|| format!("server {} stops", self.place));
            self.stopping = Some(s.now + STOP_PATIENCE);
            s.timer(process, Duration::ZERO, Timer::Stop);
        }
    }

    fn stop_goes_on(&mut self, s: &mut Schedule, process: Process, until: Duration) {
        let idle = self.core.as_ref().is_none_or(ReplicaCore::is_idle);
        if !idle && s.now < until {
            return s.timer(process, Duration::from_millis(5), Timer::Stop);
        }
        let clean = !self.disk.trouble.failed;
        let intact = self.intact;
        self.kill(s, false);
        if clean {
            self.disk.sync_all();
            self.intact = intact + 1;
        }
    }

    /// The process is killed; with `power` the machine too.
    pub(crate) fn kill(&mut self, s: &mut Schedule, power: bool) {
        self.process = None;
        self.core = None;
        self.intact = match s.around {
            Around::CleanAfterPowerLoss => self.runs.len() as u32,
            _ => 0,
        };
        self.stopping = None;
        self.asked.clear();
        self.patrols.clear();
        s.kill(Node::Server(self.place));
        // What a disk did not take is gone as well, at the latest with the process.
        let failed = std::mem::take(&mut self.disk.trouble.failed);
        self.disk.trouble.sync_fails = false;
        self.disk.trouble.write_fails = false;
        if power || failed {
            let lost = self.disk.lose_power(&mut s.random);
            s.trace(|| format!("server {} loses power, of {lost:?}", self.place));
            self.lost.extend(lost);
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
        if let (Some(process), Some(_)) = (self.process, self.stopping) {
            return s.answer(process, call, Err(ErrorCode::ShuttingDown.into()));
        }
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
                s.own_timer(process, TICK, Timer::Tick);
                self.feed(s, Event::Tick, world);
            }
            Timer::Register => {
                let incarnation = s.incarnation(process);
                let ask = Ask::Register {
                    incarnation,
                    past: DataDirPast {
                        runs: self.earlier_runs(incarnation),
                        intact: self.intact,
                        accept_rollback: false,
                    },
                    epochs: self.adopted(),
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
                s.own_timer(process, SERVER_HEARTBEAT, Timer::Beat);
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
                if self.disk.trouble.failed {
                    s.trace(|| format!("the disk of server {} has failed", self.place));
                }
                let delay = s.random.micros(0, 300) * self.disk.trouble.slow.max(1);
                s.timer(process, delay, Timer::DiskEnds(token, result));
            }
            Timer::DiskEnds(token, result) => self.feed(s, Event::Disk { token, result }, world),
            Timer::Patrol => {
                s.own_timer(process, PATROL, Timer::Patrol);
                self.patrol(s, world);
            }
            Timer::Stop => {
                if let Some(until) = self.stopping {
                    self.stop_goes_on(s, process, until);
                }
            }
            Timer::Task(_) | Timer::Recall(_) => {}
        }
    }

    /// Reads everything, so that damage is found; a read of a damaged copy has it repaired.
    fn patrol(&mut self, s: &mut Schedule, world: &World<'_>) {
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

    fn feed(&mut self, s: &mut Schedule, event: Event, world: &World<'_>) {
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
