//! Load and faults on a real cluster: `scripts/torture`.
//!
//! Workers on two mounts make calls and check every answer against what was acknowledged before,
//! while a seeded schedule kills, pauses, restarts and cuts off one file server after the other.
//! `endurance` is the long mixed run, `failover` the table of stalls; `leaders` is the table for the
//! directory's leader. All want a cluster whose
//! nodes have networks of their own.
//!
//! A call that fails, waits too long or shows other bytes than the acknowledged ones ends the run.

mod calls;
mod content;
mod endurance;
mod failover;
mod faults;
mod files;
mod history;
mod leaders;
mod load;
mod machine;
mod names;
mod processes;
mod shared;
mod shown;
mod table;

pub use endurance::{Endurance, endurance};
pub use failover::{Failover, failover};
pub use leaders::{Leaders, leaders};

use crate::cluster::Cluster;
use std::time::{Duration, Instant};

/// What is wrong, in words.
pub type Result<T> = std::result::Result<T, String>;

/// Mounts of a run.
const MOUNTS: usize = 2;

/// File servers of a run, each of which holds everything.
const SERVERS: u64 = 3;

/// What a mount or another server has noticed of a fault is heard of within this, also when the
/// fault is over by then: the server leaves its groups then. Before that has come to its end the
/// next fault would not be the only one.
const HEARD: Duration = Duration::from_millis(1500);

/// Waits until all replicas are in-sync and stay so; returns how long it took from now until they
/// were. `pause` waits for the time given, and looks whether all is well.
fn in_sync_for_good(
    cluster: &Cluster,
    longest: Duration,
    mut pause: impl FnMut(Duration) -> Result<()>,
) -> Result<Duration> {
    let began = Instant::now();
    let mut since = None;
    loop {
        match (cluster.is_healthy(), since) {
            (false, _) => since = None,
            (true, None) => since = Some(began.elapsed()),
            (true, Some(since)) if began.elapsed() > since + HEARD => return Ok(since),
            (true, Some(_)) => {}
        }
        if since.is_none() && began.elapsed() > longest {
            return Err(format!("not in-sync after {longest:?}"));
        }
        pause(Duration::from_millis(30))?;
    }
}

/// Ends the workers. When the run goes badly it ends the cluster too, since calls may hang in it
/// and whoever makes them is waited for.
struct Ending<'a> {
    cluster: &'a Cluster,
    calls: &'a calls::Calls,
    well: bool,
}

impl<'a> Ending<'a> {
    fn of(cluster: &'a Cluster, calls: &'a calls::Calls) -> Self {
        Self {
            cluster,
            calls,
            well: false,
        }
    }

    /// Takes over how the run went.
    fn went<T>(mut self, result: Result<T>) -> Result<T> {
        self.well = result.is_ok();
        result
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if !self.well {
            self.calls.fail("given up".to_owned());
            self.cluster.give_up();
        }
        self.calls.stop();
    }
}

/// A cluster for a run.
fn cluster() -> Cluster {
    let (mounts, servers) = (MOUNTS.to_string(), SERVERS.to_string());
    let options = ["--isolated", "--mounts", &mounts, "--servers", &servers];
    Cluster::up(&options)
}
