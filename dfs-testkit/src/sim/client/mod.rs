//! A mount: the client's protocol logic (leases, chunk requests, retries) with programs on top
//! that read, write and sync blocks of a few files at random.
//!
//! | module | part |
//! | --- | --- |
//! | `session` | heartbeats, leases, recalls, the map |
//! | `task` | one program: picks an operation, gets its lease, carries it out |
//! | `part` | the part of an operation that lies in one chunk |

mod part;
mod session;
mod task;

use super::message::{Answer, Ask, Node, Process, Then, Timer};
use super::oracle::Block;
use super::schedule::Schedule;
use dfs_mount::client::lease::LeaseState;
use dfs_proto::cluster::ClusterMap;
use dfs_proto::ids::{
    ChunkIndex, ChunkKey, Epoch, GrantId, GroupId, InodeId, MapVersion, SessionId, Version,
};
use dfs_proto::layout::FileLayout;
use dfs_proto::msg::session::LeaseKind;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use task::Task;

/// Bytes of a block: one value of the oracle.
pub(crate) const BLOCK: usize = 8;

/// Blocks of a chunk, chunks of a file, files.
pub(crate) const BLOCKS: u64 = 4;
pub(crate) const CHUNKS: u64 = 2;
pub(crate) const INODES: u64 = 2;

/// Programs that run on one mount.
const TASKS: usize = 3;

/// The layout of an inode.
pub(crate) fn layout(inode: InodeId, groups: u32) -> FileLayout {
    FileLayout {
        chunk_bytes: 4096,
        first_group: GroupId((inode.0 % u64::from(groups)) as u32),
        groups,
    }
}

/// The blocks that a group holds.
pub(crate) fn blocks_of(group: GroupId, groups: u32) -> impl Iterator<Item = Block> {
    (1..=INODES).map(InodeId).flat_map(move |inode| {
        let layout = layout(inode, groups);
        let chunks = (0..CHUNKS).map(ChunkIndex);
        let own = chunks.filter(move |index| layout.group_of(*index) == group);
        let blocks = own.flat_map(|index| index.0 * BLOCKS..(index.0 + 1) * BLOCKS);
        blocks.map(move |block| (inode, block))
    })
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
    groups: u32,
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
    unsynced: BTreeMap<ChunkKey, Version>,
    sequence: u64,
    values: u64,
    changes: u64,
    attempts: u64,
    /// No new operations are begun, but what was begun ends; then everything is read once.
    closing: bool,
    read_out: u64,
    pub(crate) finished: u64,
}

impl Client {
    pub(crate) fn new(place: usize, groups: u32) -> Self {
        Self {
            place,
            groups,
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
        self.closing && idle && self.read_out >= INODES * CHUNKS
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
                self.recalled(s, inode.0 as usize - 1, recall);
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
            Then::Part(task, part, attempt) => self.part_answered(s, task, part, attempt, answer),
            _ => {}
        }
    }

    pub(crate) fn woken(&mut self, s: &mut Schedule, timer: Timer) {
        match timer {
            Timer::Beat => self.beat(s),
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
        self.files = (0..INODES).map(|_| File::default()).collect();
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
