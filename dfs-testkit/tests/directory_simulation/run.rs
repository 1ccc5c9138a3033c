//! One run: a time of faults, a recovery, and a comparison.

use super::chaos::{self, Mood};
use super::cluster::Cluster;
use super::world::{Options, World, locked};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// After the last fault every program must end within this. The longest that one waits for is a
/// session that is silent: its time to live, and then what ends it.
const RECOVERY: Duration = Duration::from_secs(60);

/// A run that ended well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Report {
    /// The same for the same seed.
    pub(crate) digest: u64,
    pub(crate) steps: u64,
    /// Entries of the log, and changes of names among them that came more than once.
    pub(crate) entries: u64,
    pub(crate) repeats: u64,
    pub(crate) elections: u64,
    pub(crate) changes: u64,
    pub(crate) looks: u64,
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) locks: u64,
    /// From the last fault until every program has ended.
    pub(crate) recovery: Duration,
}

/// A run that broke a rule.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) what: String,
    pub(crate) trace: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        f.write_str(&self.what)
    }
}

/// Runs one seed.
pub(crate) fn run(seed: u64, options: Options) -> Result<Report, Violation> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime needs nothing of the system");
    runtime.block_on(async {
        let world = World::new(seed, options);
        let cluster = Cluster::start(&world);
        let report = until_the_end(&world, &cluster).await;
        cluster.forget();
        match world.violation() {
            None => Ok(report),
            Some(what) => Err(Violation {
                what,
                trace: world.trace_lines(),
            }),
        }
    })
}

async fn until_the_end(world: &Arc<World>, cluster: &Arc<Cluster>) -> Report {
    let mood = world.random(Mood::of).suit(world.options.planted);
    world.trace(|| format!("{mood:?}"));
    tokio::spawn(chaos::run(cluster.clone(), mood));
    let look = Duration::from_millis(50);
    while world.now() < mood.length && world.violation().is_none() {
        tokio::time::sleep(look).await;
    }
    world.trace(|| "--- everything is well from now on".into());
    world.heal();
    let healed = world.now();
    // What was dead is started again.
    tokio::time::sleep(4 * look).await;
    while world.violation().is_none() {
        let unfinished = cluster.unfinished();
        if unfinished.is_empty() {
            cluster.group.compare();
            break;
        }
        if world.now() > healed + RECOVERY {
            world.violate(format!(
                "not ended {RECOVERY:?} after the last fault: {unfinished:?}"
            ));
        }
        tokio::time::sleep(look).await;
    }
    let (digest, steps) = world.digest();
    let (entries, elections) = cluster.group.counts();
    let commits = locked(&cluster.group.commits);
    let values = locked(&cluster.values);
    Report {
        digest,
        steps,
        entries: entries as u64,
        repeats: commits.repeats,
        elections,
        changes: commits.changes,
        looks: commits.looks,
        reads: values.reads,
        writes: values.writes,
        locks: locked(&cluster.holds).taken,
        recovery: world.now() - healed,
    }
}
