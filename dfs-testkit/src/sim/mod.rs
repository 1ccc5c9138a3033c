//! The cluster under a simulated network and clock, in one thread: one directory, up to five file
//! servers and four mounts. The pure cores are the product's own: the state machine, the governor with
//! its cuts and fences, and the lease table (directory), the replica core (file server), the lease
//! state, the sizes and the chunk requests (mount). What lies between them, disks, sockets, timers, is simulated.
//!
//! A run is a function of its seed. It consists of a time of faults, a recovery, and a
//! comparison of everything. What is checked on the way: `oracle` says which values a client may
//! see, `invariants` what the replicas must hold after every step. `docs/testing.md` tells how
//! to replay a seed.
//!
//! Not simulated here: the directory's own failures (Raft), punched holes, kernel caches.
//!
//! To prove that a broken rule is found, a run can plant a bug in the replica cores
//! (`Options::plant`). The bugs exist only in builds with `dfs-server`'s feature `planted-bugs`,
//! which this crate's *tests* ask for and nothing else does: no build of the binaries has them.

mod chaos;
mod client;
pub mod clock;
mod directory;
mod disk;
mod invariants;
mod message;
pub mod net;
mod oracle;
use crate::random;
mod schedule;
mod server;
mod shape;
mod world;

use dfs_server::replica::ReplicaCore;
use std::fmt;
use std::time::Duration;

/// How a run is made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long things go wrong, in simulated time.
    pub chaos: Duration,
    /// Keep the last lines of what happened, for a violation.
    pub trace: bool,
    /// Print every line at once.
    pub live: bool,
    /// Only what clients see counts, as if nothing else were known.
    pub clients_only: bool,
    /// Called with each new replica core.
    pub plant: fn(&mut ReplicaCore),
    /// What is wrong around the cores.
    pub around: Around,
}

/// A rule that whoever drives the cores breaks on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Around {
    #[default]
    Nothing,
    /// A file server that is started again goes on under the number of its last run.
    SameRun,
    /// After a loss of power a file server says that it was stopped in good order.
    CleanAfterPowerLoss,
    /// A file server believes a witness of before a loss of power, and looks at nothing.
    WitnessBelieved,
    /// A chunk store makes every cut that it is asked for, whatever it holds by then.
    LateCuts,
    /// The end of a session cuts its files where the log says that they end, whatever was written.
    EndsForgotten,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            chaos: Duration::from_secs(6),
            trace: false,
            live: false,
            clients_only: false,
            plant: |_| {},
            around: Around::Nothing,
        }
    }
}

/// A run that ended well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// The same for the same seed: everything that happened, and what was read.
    pub digest: u64,
    pub steps: u64,
    /// Simulated time.
    pub time: Duration,
    pub reads: u64,
    pub writes: u64,
    pub cuts: u64,
    pub syncs: u64,
    /// How often all copies of a group had lost power, so that what was not synced was gone.
    pub losses: u64,
    /// How often a server was killed, and could say at its next start that nothing is missing.
    pub kept: u64,
    /// Epochs that all groups went through.
    pub epochs: u64,
}

/// A run that broke a rule.
#[derive(Clone, Debug)]
pub struct Violation {
    pub what: String,
    /// Simulated time since the beginning.
    pub at: Duration,
    pub trace: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        write!(f, "after {:?}: {}", self.at, self.what)
    }
}

/// Runs one seed.
pub fn run(seed: u64, options: Options) -> Result<Report, Violation> {
    world::World::new(seed, options).run()
}
