//! The long run: mixed work on two mounts, one fault after the other, and everything compared at
//! the end.

use super::calls::Calls;
use super::faults;
use super::files::Worker;
use super::processes::{self, Usage};
use super::shared::{LastTurn, Sharer};
use super::{Ending, MOUNTS, Result};
use crate::cluster::{Cluster, output};
use crate::random::Random;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Workers with files of their own on each mount, and shared files.
const WORKERS: u64 = 3;
const SHARED: u64 = 2;

/// After this what a process uses is taken as what it needs.
const WARM: Duration = Duration::from_secs(60);

/// A server is in-sync again within this after its fault.
const HEALED: Duration = Duration::from_secs(120);

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Endurance {
    pub time: Duration,
    pub seed: u64,
}

/// Runs it; what is wrong, if anything is.
pub fn endurance(run: Endurance) -> Result<()> {
    println!("seed {}, {:?}", run.seed, run.time);
    let cluster = super::cluster();
    let at_rest = processes::usage(&cluster)?;
    let calls = Calls::default();
    let turns: Vec<LastTurn> = (0..SHARED).map(|_| LastTurn::default()).collect();
    let mounts: Vec<PathBuf> = (1..=MOUNTS).map(|n| cluster.mount(n)).collect();
    let warm = std::thread::scope(|scope| {
        let ending = Ending::of(&cluster, &calls);
        let mut seeds = Random::new(run.seed);
        for mount in 0..MOUNTS {
            let both = (&mounts[mount], &mounts[(mount + 1) % MOUNTS]);
            for number in 0..WORKERS {
                let name = format!("worker-{}-{number}", mount + 1);
                let worker = Worker::new(&calls, seeds.next_number(), both, &name)?;
                scope.spawn(move || worker.run());
            }
            for (number, last) in turns.iter().enumerate() {
                let sharer = Sharer {
                    calls: &calls,
                    random: Random::new(seeds.next_number()),
                    path: both.0.join(format!("shared-{number}")),
                    last,
                };
                scope.spawn(move || sharer.run());
            }
        }
        ending.went(disturb(&cluster, &calls, run, &mut seeds))
    });
    println!("{} calls\n\n{calls}", calls.count());
    let warm = warm?;
    // What the workers found when they looked at everything.
    calls.check()?;
    compare(&cluster)?;
    settle(&cluster, &at_rest, &warm)
}

/// One fault after the other until the time is over; returns what processes used when warm.
fn disturb(
    cluster: &Cluster,
    calls: &Calls,
    run: Endurance,
    random: &mut Random,
) -> Result<BTreeMap<String, Usage>> {
    let began = Instant::now();
    let mut warm = None;
    let mut number = 0;
    loop {
        wait(calls, random.micros(200_000, 2_000_000))?;
        if warm.is_none() && began.elapsed() >= WARM.min(run.time / 2) {
            warm = Some(processes::usage(cluster)?);
        }
        if began.elapsed() >= run.time
            && let Some(warm) = warm
        {
            return Ok(warm);
        }
        number += 1;
        let fault = faults::draw(random);
        let label = fault.kind.to_string();
        calls.set_fault(Some(&label));
        calls.take_longest();
        let since = Instant::now();
        fault.begin(cluster);
        wait(calls, fault.lasts.saturating_sub(since.elapsed()))?;
        fault.end(cluster);
        let healed = super::in_sync_for_good(cluster, HEALED, |time| wait(calls, time))
            .map_err(|e| format!("{e}, fault {number}: {fault:?}"))?;
        calls.set_fault(None);
        println!(
            "{:>5.0} s  {number:>3}  server {}  {label:<26} {:>5.1} s  in-sync {:>4.1} s after it  longest call {:>5} ms",
            began.elapsed().as_secs_f64(),
            fault.server,
            fault.lasts.as_secs_f64(),
            healed.as_secs_f64(),
            calls.take_longest().as_millis()
        );
    }
}

/// Waits, but not when something is wrong.
fn wait(calls: &Calls, time: Duration) -> Result<()> {
    let until = Instant::now() + time;
    loop {
        calls.check()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
}

/// All replicas are equal, and hold what they should.
fn compare(cluster: &Cluster) -> Result<()> {
    cluster.wait_healthy(HEALED);
    for question in ["verify", "fsck"] {
        let answer = output(&mut cluster.ctl(&[question]));
        let told = String::from_utf8_lossy(&answer.stdout).into_owned();
        if !answer.status.success() {
            let more = String::from_utf8_lossy(&answer.stderr).into_owned();
            return Err(format!("dfsctl {question}: {told}{more}"));
        }
        println!("dfsctl {question}: {}", told.lines().last().unwrap_or("ok"));
    }
    Ok(())
}

/// Memory and descriptors, once nothing is done any more and no file is left.
fn settle(
    cluster: &Cluster,
    at_rest: &BTreeMap<String, Usage>,
    warm: &BTreeMap<String, Usage>,
) -> Result<()> {
    remove_files(&cluster.mount(1))?;
    let began = Instant::now();
    let (now, checked) = loop {
        let now = processes::usage(cluster)?;
        let checked = processes::check_memory(warm, &now)
            .and_then(|()| processes::check_descriptors(at_rest, &now));
        if checked.is_ok() || began.elapsed() > Duration::from_secs(60) {
            break (now, checked);
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    println!("\n| node | memory when warm, MiB | at the end | descriptors at rest | at the end |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    for (node, used) in &now {
        println!(
            "| {node} | {} | {} | {} | {} |",
            warm.get(node).map_or(0, |u| u.memory_kib) >> 10,
            used.memory_kib >> 10,
            at_rest.get(node).map_or(0, |u| u.descriptors),
            used.descriptors
        );
    }
    checked
}

fn remove_files(mount: &PathBuf) -> Result<()> {
    let failed = |e: std::io::Error| format!("{}: {e}", mount.display());
    for entry in std::fs::read_dir(mount).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        match entry.file_type().map_err(failed)?.is_dir() {
            true => std::fs::remove_dir_all(entry.path()).map_err(failed)?,
            false => std::fs::remove_file(entry.path()).map_err(failed)?,
        }
    }
    Ok(())
}
