//! A mount: the client's protocol logic (leases, chunk requests, retries) with programs on top
//! that read, write and sync blocks of a few files at random.
//!
//! | module | part |
//! | --- | --- |
//! | `session` | heartbeats, leases, recalls, the map |
//! | `size` | sizes: pushed, set |
//! | `plan` | what a program is about to do |
//! | `task` | one program: picks an operation, gets its lease, carries it out |
//! | `resize` | a program truncates or extends |
//! | `part` | the part of an operation that lies in one chunk |
//! | `learn` | such a part learns the inode's generation |

mod learn;
mod part;
mod plan;
mod resize;
mod session;
mod size;
mod task;

use super::directory::FILES;
use super::message::{Answer, Ask, Node, Process, Then, Timer};
use super::oracle::Block;
use super::schedule::Schedule;
use dfs_mount::client::authority::Authority;
use dfs_mount::client::lease::LeaseState;
use dfs_proto::attr::FileAttr;
use dfs_proto::cluster::ClusterMap;
use dfs_proto::ids::{
    ChunkIndex, ChunkKey, Epoch, Generation, GrantId, GroupId, InodeId, MapVersion, SessionId,
    Version,
};
use dfs_proto::layout::FileLayout;
use dfs_proto::msg::session::LeaseKind;
use size::Pushing;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;
use task::Task;

/// Bytes of a block: one value of the oracle.
pub(crate) const BLOCK: usize = 8;

/// Blocks of a chunk, chunks of a file.
pub(crate) const BLOCKS: u64 = 4;
pub(crate) const CHUNKS: u64 = 2;
const CHUNK_BYTES: u64 = 4096;

/// Sizes are pushed this often.
const PUSH_INTERVAL: Duration = Duration::from_millis(300);

/// Programs that run on one mount.
const TASKS: usize = 3;

/// Where a block of a file begins.
pub(crate) fn byte_of(block: u64) -> u64 {
    block / BLOCKS * CHUNK_BYTES + block % BLOCKS * BLOCK as u64
}

/// The blocks that a group holds.
pub(crate) fn blocks_of(files: &[(InodeId, FileLayout)], group: GroupId) -> Vec<Block> {
    let mut blocks = Vec::new();
    for (inode, layout) in files {
        let own = (0..CHUNKS).filter(|index| layout.group_of(ChunkIndex(*index)) == group);
        let of_file = own.flat_map(|index| index * BLOCKS..(index + 1) * BLOCKS);
        blocks.extend(of_file.map(|block| (*inode, block)));
    }
    blocks
}

/// A lease that is being asked for.
#[derive(Clone, Copy, Debug)]
struct Asking {
    ask: u64,
    kind: LeaseKind,
}

/// A granted lease that waits for a map of that version.
#[derive(Clone, Copy, Debug)]
struct Grant {
    held: dfs_mount::client::lease::Held,
    map: MapVersion,
    ask: u64,
    lapses: u64,
    attr: FileAttr,
}

/// A recall that the directory has asked and not been answered.
#[derive(Clone, Copy, Debug)]
struct Recall {
    call: u64,
    grant: GrantId,
    keep: Option<LeaseKind>,
    tries: u32,
}

#[derive(Debug, Default)]
struct File {
    lease: LeaseState,
    asking: Option<Asking>,
    granted: Option<Grant>,
    recalls: Vec<Recall>,
    /// Size and generation, while a lease is held.
    data: Option<Authority>,
    /// The last generation that was heard of.
    generation: Generation,
    pushing: Option<Pushing>,
    /// An operation on the whole file is under way.
    resizing: bool,
}

impl File {
    /// Rights are lost: what was known under them is of the past.
    fn forget_lost(&mut self) {
        if self.lease.held().is_none() {
            self.data = None;
            self.pushing = None;
        }
    }
}

/// The last acknowledged write of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Unsynced {
    version: Version,
    generation: Generation,
}

/// Who uses a chunk now: one write, or any number of reads.
#[derive(Clone, Copy, Debug, Default)]
struct Users {
    writing: bool,
    reading: u32,
}

#[derive(Debug)]
pub(crate) struct Client {
    place: usize,
    process: Option<Process>,
    session: Option<SessionId>,
    opening: Option<Duration>,
    map: Rc<ClusterMap>,
    mapping: bool,
    heard: BTreeMap<GroupId, Epoch>,
    files: Vec<File>,
    lapses: u64,
    /// Until when shared leases are good.
    right: Duration,
    tasks: Vec<Task>,
    users: BTreeMap<ChunkKey, Users>,
    /// The last acknowledged version of each chunk that is not synced.
    unsynced: BTreeMap<ChunkKey, Unsynced>,
    sequence: u64,
    values: u64,
    changes: u64,
    stamps: u64,
    open_stamps: BTreeSet<u64>,
    attempts: u64,
    /// No new operations are begun, but what was begun ends; then everything is read once.
    closing: bool,
    read_out: u64,
    pub(crate) finished: u64,
}

impl Client {
    pub(crate) fn new(place: usize) -> Self {
        Self {
            place,
            process: None,
            session: None,
            opening: None,
            map: Rc::default(),
            mapping: false,
            heard: BTreeMap::new(),
            files: Vec::new(),
            lapses: 0,
            right: Duration::ZERO,
            tasks: Vec::new(),
            users: BTreeMap::new(),
            unsynced: BTreeMap::new(),
            sequence: 0,
            values: 0,
            changes: 0,
            stamps: 0,
            open_stamps: BTreeSet::new(),
            attempts: 0,
            closing: false,
            read_out: 0,
            finished: 0,
        }
    }

    /// The time as its clock shows it.
    fn now(&self, s: &Schedule) -> Duration {
        s.clock(Node::Client(self.place))
    }

    /// A process begins.
    pub(crate) fn start(&mut self, s: &mut Schedule) {
        let process = s.start(Node::Client(self.place));
        self.process = Some(process);
        self.map = Rc::default();
        self.mapping = false;
        self.heard.clear();
        self.read_out = 0;
        self.lose_session(s);
        s.timer(process, Duration::ZERO, Timer::Beat);
        s.timer(process, PUSH_INTERVAL, Timer::Push);
    }

    pub(crate) fn kill(&mut self, s: &mut Schedule) {
        s.trace(|| format!("client {} is killed with {:?}", self.place, self.session));
        self.process = None;
        self.session = None;
        s.kill(Node::Client(self.place));
    }

    pub(crate) fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// No more new operations; every block is read once more.
    pub(crate) fn close(&mut self) {
        self.closing = true;
    }

    /// Whether everything has been read after `close`.
    pub(crate) fn is_done(&self) -> bool {
        let idle = self.tasks.iter().all(Task::is_idle);
        self.closing && idle && self.read_out >= FILES as u64 * CHUNKS
    }

    /// What is not over.
    pub(crate) fn describe(&self) -> String {
        format!(
            "client {}: {:?}, read out {}, map {}, {:?}",
            self.place, self.session, self.read_out, self.map.version, self.tasks
        )
    }

    pub(crate) fn requested(&mut self, s: &mut Schedule, call: u64, ask: Ask) {
        let Some(process) = self.process else { return };
        match ask {
            Ask::MapChanged(map) => {
                self.install(s, map);
                s.answer(process, call, Ok(super::message::Told::Done));
            }
            Ask::Recall { inode, grant, keep } => {
                let recall = Recall {
                    call,
                    grant,
                    keep,
                    tries: 0,
                };
                if let Some(file) = s.files.iter().position(|(of, _)| *of == inode) {
                    self.recalled(s, file, recall);
                }
            }
            _ => {}
        }
    }

    pub(crate) fn answered(&mut self, s: &mut Schedule, then: Then, answer: Answer) {
        match then {
            Then::Opened => self.opened(s, answer),
            Then::Beaten { session, sent } => self.beaten(s, session, sent, &answer),
            Then::Mapped => {
                self.mapping = false;
                if let Ok(super::message::Told::Map(map)) = answer {
                    self.install(s, map);
                }
            }
            Then::Leased {
                session,
                inode,
                ask,
                lapses,
            } => self.leased(s, session, inode, ask, lapses, answer),
            Then::Learnt(task, part, attempt) => self.learnt(s, task, part, attempt, answer),
            Then::Sized(task, attempt) => self.sized(s, task, attempt, answer),
            Then::Pushed(session, file, number) => {
                self.push_answered(s, session, file, number, answer);
            }
            Then::Part(task, part, attempt) => self.part_answered(s, task, part, attempt, answer),
            _ => {}
        }
    }

    pub(crate) fn woken(&mut self, s: &mut Schedule, timer: Timer) {
        match timer {
            Timer::Beat => self.beat(s),
            Timer::Push => {
                if let Some(process) = self.process {
                    s.timer(process, PUSH_INTERVAL, Timer::Push);
                }
                self.push_all(s);
            }
            Timer::Task(task) => self.woken_task(s, task),
            Timer::Recall(file) => self.look_at_recalls(s, file),
            _ => {}
        }
    }

    /// Everything that the session stood for is gone.
    fn lose_session(&mut self, s: &mut Schedule) {
        s.trace(|| format!("client {} loses {:?}", self.place, self.session));
        self.session = None;
        self.opening = None;
        self.lapses += 1;
        self.right = Duration::ZERO;
        self.files = (0..FILES).map(|_| File::default()).collect();
        self.stamps = 0;
        self.open_stamps.clear();
        self.tasks = (0..TASKS).map(|_| Task::default()).collect();
        self.users.clear();
        self.unsynced.clear();
        self.sequence = 0;
        for task in 0..TASKS {
            let delay = s.random.micros(0, 5_000);
            self.wake(s, task, delay);
        }
    }

    /// The highest epoch of a group that this mount has heard of.
    fn known(&self, group: GroupId) -> Epoch {
        let heard = self.heard.get(&group).copied().unwrap_or_default();
        let mapped = self.map.group(group).map(|entry| entry.epoch);
        heard.max(mapped.unwrap_or_default())
    }
}
