//! Explores the replica-set protocol exhaustively within small bounds: one replica group, one
//! chunk (a register), two mounts. What decides is the product's own: the replica core of each
//! server, and `placement::transition`.
//!
//! Everything that can happen in a state is tried, breadth first: every message is delivered
//! late, twice or never; the directory holds servers for gone and suspects members, wrongly too;
//! servers crash, with and without the loss of what was not synced; sessions are ended while
//! their mounts go on. Checked on the way: what mounts read is linearizable, what is acknowledged
//! is kept, nothing of a fenced session takes effect, members are equal while nothing is in flight.
//!
//! | module | what it is |
//! | --- | --- |
//! | `options` | bounds, and the rule that is left out |
//! | `state` | one state, and how an event goes on through it |
//! | `directory`, `host`, `disk`, `packet` | its parts |
//! | `oracle` | what mounts may see |
//! | `step` | what can happen |
//! | `check` | what must hold after every step |
//! | `search` | breadth first, with digests and the way back |
//!
//! Left out: several chunks, cuts and sizes, syncs by mounts, damage and full disks, the grant
//! messages themselves, kernel caches, the directory's failures, progress. To keep it small,
//! disks do their work at once; questions of a primary (marks, states, lists) are asked and
//! answered at once, and answers to forwarded writes and copies are taken when those are
//! delivered, or never. The simulation (`crate::sim`) has all of these.

mod check;
mod cut;
mod digest;
mod directory;
mod disk;
mod host;
mod options;
mod oracle;
mod packet;
mod search;
mod setup;
mod state;
mod step;

pub use options::{Options, Rule};

use dfs_proto::ids::{ChunkIndex, ChunkKey, GroupId, InodeId};
use std::fmt;

const GROUP: GroupId = GroupId(0);
const CHUNK: ChunkKey = ChunkKey {
    inode: InodeId(1),
    index: ChunkIndex(0),
};

/// What an exploration found.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub states: usize,
    /// Steps from the beginning.
    pub depth: usize,
    /// There is nothing else within the bounds.
    pub exhausted: bool,
    pub violation: Option<Violation>,
}

/// A rule that is broken, and a shortest way to it.
#[derive(Clone, Debug)]
pub struct Violation {
    pub what: String,
    pub trace: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, line) in self.trace.iter().enumerate() {
            writeln!(f, "{:>3} {line}", at + 1)?;
        }
        write!(f, "{}", self.what)
    }
}

/// Explores within the bounds.
pub fn run(options: &Options) -> Outcome {
    search::run(options)
}
