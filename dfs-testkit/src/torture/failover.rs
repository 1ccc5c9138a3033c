//! The failover table: the longest stall of a single call for each kind of fault, many times.

use super::calls::Calls;
use super::faults::{Fault, Kind, Side, WAYS};
use super::load::{Load, Loader};
use super::table::Row;
use super::{Ending, MOUNTS, Result, SERVERS};
use crate::cluster::{Cluster, output};
use crate::random::Random;
use std::time::{Duration, Instant};

/// A server is in-sync again within this.
const HEALED: Duration = Duration::from_secs(120);

/// The longest stall of a call under a kill, and under anything silent, at the 95th percentile.
const KILLED: Duration = Duration::from_millis(500);
const SILENT: Duration = Duration::from_secs(3);

/// What to run.
#[derive(Clone, Debug)]
pub struct Failover {
    pub seed: u64,
    /// Kills under each load.
    pub kills: u64,
    /// Of each kind of pause and cut.
    pub rounds: u64,
    pub pause: Duration,
    pub cut: Duration,
    /// Only the kinds whose name contains this.
    pub only: Option<String>,
}

/// Runs it and prints the table; an error if a call failed or a bound was missed.
pub fn failover(run: &Failover) -> Result<()> {
    let cluster = super::cluster();
    let mut random = Random::new(run.seed);
    let mut rows = Vec::new();
    let wanted = |kind: &Kind| {
        let name = kind.to_string();
        run.only.as_ref().is_none_or(|only| name.contains(only))
    };
    for load in [Load::SequentialWrite, Load::RandomRead, Load::Mixed] {
        let mut kinds = vec![(Kind::Kill, run.kills, Duration::from_secs(2), KILLED)];
        if load == Load::Mixed {
            kinds.push((Kind::Pause, run.rounds, run.pause, SILENT));
            for side in [Side::Directory, Side::Mounts, Side::Peers, Side::Peer(0)] {
                let cuts = WAYS.map(|way| (Kind::Cut(side, way), run.rounds, run.cut, SILENT));
                kinds.extend(cuts);
            }
        }
        kinds.retain(|(kind, rounds, ..)| wanted(kind) && *rounds > 0);
        if !kinds.is_empty() {
            rows.extend(under(&cluster, load, &kinds, &mut random)?);
        }
    }
    Row::print_all(&rows, "in-sync after its end, s");
    let answer = output(&mut cluster.ctl(&["verify"]));
    if !answer.status.success() {
        let told = String::from_utf8_lossy(&answer.stdout).into_owned();
        return Err(format!("dfsctl verify: {told}"));
    }
    Row::missed(&rows)
}

type Planned = (Kind, u64, Duration, Duration);

fn under(
    cluster: &Cluster,
    load: Load,
    kinds: &[Planned],
    random: &mut Random,
) -> Result<Vec<Row>> {
    let calls = Calls::default();
    let rows = std::thread::scope(|scope| {
        let ending = Ending::of(cluster, &calls);
        for mount in 1..=MOUNTS {
            let path = cluster.mount(mount).join(format!("load-{mount}"));
            let loader = Loader::new(&calls, load, random.next_number(), &path)?;
            scope.spawn(move || loader.run());
        }
        ending.went(rounds(cluster, &calls, load, kinds, random))
    })?;
    calls.check()?;
    Ok(rows)
}

fn rounds(
    cluster: &Cluster,
    calls: &Calls,
    load: Load,
    kinds: &[Planned],
    random: &mut Random,
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (kind, rounds, lasts, bound) in kinds {
        let mut row = Row::new(kind.to_string(), load, *bound);
        for round in 0..*rounds {
            let server = 1 + (random.below(2) + round) % SERVERS;
            let fault = Fault {
                server,
                kind: aimed(*kind, server, round),
                lasts: *lasts,
            };
            one(cluster, calls, &fault, random, &mut row)?;
        }
        rows.push(row);
    }
    Ok(rows)
}

/// A cut from one peer: each other one in turn.
fn aimed(kind: Kind, server: u64, round: u64) -> Kind {
    match kind {
        Kind::Cut(Side::Peer(_), way) => {
            Kind::Cut(Side::Peer(1 + (server + round % 2) % SERVERS), way)
        }
        kind => kind,
    }
}

fn one(
    cluster: &Cluster,
    calls: &Calls,
    fault: &Fault,
    random: &mut Random,
    row: &mut Row,
) -> Result<()> {
    std::thread::sleep(random.micros(300_000, 1_500_000));
    calls.set_fault(Some(&row.name));
    calls.take_longest();
    let since = Instant::now();
    fault.begin(cluster);
    while since.elapsed() < fault.lasts {
        calls.check()?;
        std::thread::sleep(Duration::from_millis(20));
    }
    fault.end(cluster);
    // What waited for the healing comes to its end meanwhile.
    let healed = super::in_sync_for_good(cluster, HEALED, |time| {
        std::thread::sleep(time);
        calls.check()
    })
    .map_err(|e| format!("{e}: {fault:?}"))?;
    let stall = calls.take_longest();
    calls.set_fault(None);
    println!(
        "{} under {}: server {}, longest call {} ms, in-sync {:.1} s after it",
        row.name,
        row.load,
        fault.server,
        stall.as_millis(),
        healed.as_secs_f64()
    );
    row.stalls.push(stall);
    row.healed.push(healed);
    Ok(())
}
