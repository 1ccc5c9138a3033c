//! The directory: its real state machine, governor and lease table in one process that never
//! fails. A change of groups takes a moment to be in the log, others are there when decided.
//!
//! | module | part |
//! | --- | --- |
//! | `placement` | groups: drives the governor |
//! | `cuts` | cuts and fences |
//! | `sessions` | mounts: their lives, leases and recalls, the end of a session |
//! | `files` | sizes: set, pushed; what a grant tells of them |
//! | `settling` | where the files of a dead session end |

mod cuts;
mod files;
mod placement;
mod sessions;
mod settling;

pub(crate) use files::FILES;
pub(crate) use placement::Asked;
pub(crate) use sessions::CACHE_RIGHT;

use super::message::{Answer, Ask, Process, Then, Timer, Told};
use super::schedule::{Schedule, error};
use super::shape::Shape;
use dfs_directory::namespace::{Format, Intent, NamespaceCommand};
use dfs_directory::placement::Placed;
use dfs_directory::session::{SessionCommand, SessionOutcome};
use dfs_directory::state::memory::MemoryTables;
use dfs_directory::state::{self, Command, Outcome};
use dfs_proto::attr::Timestamp;
use dfs_proto::cluster::ClusterMap;
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::ClusterId;
use files::Files;
use placement::Placement;
use sessions::Sessions;
use settling::Settling;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Silence, waits and retries are looked at this often.
const TICK: Duration = Duration::from_millis(20);

/// How long the directory waits for a mount.
const MOUNT_DEADLINE: Duration = Duration::from_millis(300);

#[derive(Debug)]
pub(crate) struct Directory {
    process: Process,
    tables: MemoryTables,
    /// What is logged.
    pub(crate) placed: Arc<Placed>,
    pub(crate) map: Rc<ClusterMap>,
    placement: Placement,
    sessions: Sessions,
    files: Files,
    settling: Settling,
    /// Cuts that have ended and that nobody has looked at yet.
    pub(crate) ended_cuts: Vec<Intent>,
}

impl Directory {
    pub(crate) fn start(s: &mut Schedule, format: Format) -> Self {
        let process = s.start(super::message::Node::Directory);
        s.own_timer(process, TICK, Timer::Tick);
        let placed = Arc::new(Placed::default());
        let mut new = Self {
            process,
            tables: MemoryTables::default(),
            placement: Placement::new(placed.clone(), s.directory_now()),
            placed,
            map: Rc::default(),
            sessions: Sessions::default(),
            files: Files::default(),
            settling: Settling::default(),
            ended_cuts: Vec::new(),
        };
        new.commit(
            s,
            state::Change::Namespace(NamespaceCommand::Format(format)),
        );
        new.make_files(s);
        new.reload(s);
        new.placement = Placement::new(new.placed.clone(), s.directory_now());
        new
    }

    /// What a cluster of the simulation is formatted with.
    pub(crate) fn format(shape: &Shape) -> Format {
        Format {
            groups: shape.groups,
            replicas: shape.replicas,
            min_in_sync: shape.min_in_sync,
            chunk_bytes: 4096,
            ..Format::defaults(ClusterId(1))
        }
    }

    /// Executes one command of the log.
    fn commit(&mut self, s: &mut Schedule, change: state::Change) -> Option<Outcome> {
        let now = Timestamp {
            seconds: s.now.as_secs() as i64,
            nanoseconds: s.now.subsec_nanos(),
        };
        match state::apply(&mut self.tables, &Command { now, change }) {
            Ok(outcome) => Some(outcome),
            Err(failed) => {
                s.violate(format!("the state machine failed: {failed}"));
                None
            }
        }
    }

    fn reload(&mut self, s: &mut Schedule) {
        match Placed::load(&self.tables) {
            Ok(placed) => self.placed = Arc::new(placed),
            Err(failed) => s.violate(format!("the state cannot be read: {failed}")),
        }
    }

    fn commit_session(
        &mut self,
        s: &mut Schedule,
        command: SessionCommand,
    ) -> Option<SessionOutcome> {
        match self.commit(s, state::Change::Session(command)) {
            Some(Outcome::Session(outcome)) => Some(outcome),
            _ => None,
        }
    }

    pub(crate) fn requested(&mut self, s: &mut Schedule, call: u64, from: Process, ask: Ask) {
        let answer: Answer = match ask {
            Ask::Register(_) | Ask::Alive(_) | Ask::Suspect(_) | Ask::Propose(_) => {
                self.server_asks(s, call, from, ask);
                return self.step(s);
            }
            Ask::Map => Ok(Told::Map(self.map.clone())),
            Ask::OpenSession(incarnation) => self.open_session(s, from, incarnation),
            Ask::Beat(session) => self.beaten(session, s.directory_now()),
            Ask::Lease {
                session,
                inode,
                kind,
            } => {
                self.lease(s, call, session, inode, kind);
                return self.step(s);
            }
            Ask::SetSize { stamp, inode, size } => {
                self.set_size(s, call, stamp, inode, size);
                return self.step(s);
            }
            Ask::Push {
                stamp,
                inode,
                grant,
                push,
            } => self.pushed(s, stamp, inode, grant, push),
            Ask::GetAttr(inode) => self.attr(s, inode).map(Told::Attr),
            Ask::Chunk { .. } | Ask::MapChanged(_) | Ask::Recall { .. } => {
                Err(error(ErrorCode::UnknownMethod))
            }
        };
        s.answer(self.process, call, answer);
        self.step(s);
    }

    pub(crate) fn answered(&mut self, s: &mut Schedule, then: Then, answer: Answer) {
        match then {
            Then::Server(kind) => self.server_answers(s, *kind, answer),
            Then::Recalled(session, inode, grant) => {
                self.recall_answered(s, session, inode, grant, answer);
            }
            _ => {}
        }
        self.step(s);
    }

    pub(crate) fn woken(&mut self, s: &mut Schedule, timer: Timer) {
        match timer {
            Timer::Tick => s.own_timer(self.process, TICK, Timer::Tick),
            Timer::Logged(command) => self.logged(s, *command),
            _ => return,
        }
        self.step(s);
    }

    /// A file server whose connection has ended counts as gone.
    pub(crate) fn closed(&mut self, s: &mut Schedule, peer: Process) {
        self.server_closed(s, peer);
        self.step(s);
    }

    fn step(&mut self, s: &mut Schedule) {
        self.step_placement(s);
        self.step_settling(s);
        self.step_sessions(s);
    }

    /// Mounts are told of a new map.
    fn publish(&mut self, s: &mut Schedule) {
        if self.map.version == self.placed.map_version && !self.map.groups.is_empty() {
            return;
        }
        self.map = Rc::new(self.placed.cluster_map());
        for mount in self.sessions.mounts() {
            let ask = Ask::MapChanged(self.map.clone());
            s.call(self.process, mount, ask, MOUNT_DEADLINE, Then::Nothing);
        }
    }
}
