//! The same random calls on a mount, or in turn on two, and on a local file system: the same
//! answers, the same tree after each, and the same times changed. By several users.
//!
//! `DFS_TEST_CALLS=N` makes so many calls, from the seed `DFS_TEST_SEED`; with `DFS_TEST_FAULTS=1`
//! file servers and the directory's leader are killed meanwhile. A failure is told as the fewest
//! calls that show it.

#![allow(clippy::unwrap_used)]

use dfs_testkit::cluster::Cluster;
use dfs_testkit::loop_disk::{Format, LoopDisk};
use dfs_testkit::namespace::call::Call;
use dfs_testkit::namespace::generate::{Kinds, next};
use dfs_testkit::namespace::look::{Time, differences, look};
use dfs_testkit::namespace::oracle::{After, Before};
use dfs_testkit::namespace::perform::{Performer, USERS};
use dfs_testkit::namespace::shrink::{kept, lines, shrink};
use dfs_testkit::random::Random;
use dfs_testkit::watch::{Watch, watched};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A tree gets so many calls, then there is a new one.
const CALLS_OF_A_TREE: usize = 250;

/// What files hold is compared after so many calls each.
const CONTENT_EVERY: usize = 10;

/// Fewer calls must fail once in so many runs to count: caches may be full or empty.
const RUNS_TO_FAIL: usize = 2;

const MOUNTS: usize = 2;

/// MiB of the local file system: a smaller one would have blocks of 1 KiB.
const LOCAL: u64 = 512;

/// Where trees are made: on each mount, and locally.
struct Places<'a> {
    cluster: &'a Cluster,
    watch: &'a Watch,
    mounts: Vec<PathBuf>,
    local: PathBuf,
    made: usize,
}

impl Places<'_> {
    /// A new tree, by what it is called on each mount and locally.
    fn tree(&mut self) -> (Vec<Performer>, Vec<Performer>) {
        self.made += 1;
        let name = format!("tree-{}", self.made);
        for place in [&self.mounts[0], &self.local] {
            let dir = place.join(&name);
            fs::create_dir(&dir).unwrap();
            fs::set_permissions(&dir, Permissions::from_mode(0o777)).unwrap();
        }
        let on = |place: &PathBuf| Performer::new(place.join(&name));
        let ours = self.mounts.iter().map(on).collect();
        let theirs = (0..self.mounts.len()).map(|_| on(&self.local)).collect();
        (ours, theirs)
    }

    /// Makes the calls on a new tree; tells the first difference.
    fn run(&mut self, calls: &[Call]) -> Result<(), String> {
        let (mut ours, mut theirs) = self.tree();
        let mut before = Before::default();
        for (number, call) in calls.iter().enumerate() {
            let content = number % CONTENT_EVERY == 0 || number + 1 == calls.len();
            let answer = ours[call.mount].perform(call);
            let began = now();
            let local = theirs[call.mount].perform(call);
            let fail = |what: String| format!("call {number}, {call}: {what}");
            let looked = |performers: &[Performer], by: usize| {
                let all: Vec<&Performer> = performers.iter().collect();
                look(all[by], &all, content).map_err(|e| fail(format!("the tree: {e}")))
            };
            let (first, second) = (looked(&ours, 0)?, looked(&ours, 1)?);
            if let [difference, ..] = differences(&first, &second).as_slice() {
                return Err(fail(format!("the mounts differ, {difference}")));
            }
            let after = After {
                answers: (&answer, &local),
                // The caller's own mount knows of its reads before the other one.
                looks: ([&first, &second][call.mount], &looked(&theirs, 0)?),
                began,
            };
            before.compare(after).map_err(fail)?;
            self.watch.step();
        }
        Ok(())
    }
}

fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    (since.as_secs() as i64, i64::from(since.subsec_nanos()))
}

fn number(variable: &str, default: u64) -> u64 {
    let set = std::env::var(variable).ok();
    set.and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn open_to_all(dir: &Path) {
    fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_tree_is_as_on_a_local_file_system() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root may be others");
        return;
    }
    if let Some(why) = LoopDisk::missing(Format::Ext4) {
        println!("SKIPPED: {why}");
        return;
    }
    let faults = number("DFS_TEST_FAULTS", 0) == 1;
    let mut options = vec!["--mounts", "2", "--mount-opts", "allow_other,suid,dev"];
    if faults {
        options.extend(["--directories", "3"]);
    }
    let cluster = Cluster::up(&options);
    for dir in cluster.mount(1).ancestors().skip(1).take(3) {
        open_to_all(dir);
    }
    let home = tempfile::tempdir().unwrap();
    open_to_all(home.path());
    let disk = LoopDisk::make(home.path(), "local", Format::Ext4, LOCAL);
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    watched(&cluster, faults, |watch| {
        make_calls(Places {
            cluster: &cluster,
            watch,
            mounts: (1..=MOUNTS).map(|n| cluster.mount(n)).collect(),
            local: disk.dir(),
            made: 0,
        });
    });
}

fn make_calls(mut places: Places<'_>) {
    for (name, calls) in kept() {
        let calls: Vec<Call> = calls;
        if let Err(what) = places.run(&calls) {
            panic!("{name}: {what}");
        }
    }
    let kinds = Kinds {
        mounts: MOUNTS,
        users: USERS.len(),
        // A local file system knows them; here they are refused.
        whiteouts: false,
    };
    let (first, calls) = (number("DFS_TEST_SEED", 1), number("DFS_TEST_CALLS", 1500));
    for seed in first..first + calls.div_ceil(CALLS_OF_A_TREE as u64) {
        let mut random = Random::new(seed);
        let calls: Vec<Call> = (0..CALLS_OF_A_TREE)
            .map(|_| next(&mut random, kinds))
            .collect();
        if let Err(what) = places.run(&calls) {
            eprintln!("seed {seed}: {what}");
            places.cluster.keep_logs();
            let mut said = what;
            let few = shrink(&calls, |some| {
                let failed = (0..RUNS_TO_FAIL).find_map(|_| places.run(some).err());
                let fails = failed.is_some();
                said = failed.unwrap_or_else(|| said.clone());
                fails
            });
            panic!("seed {seed}: {said}\n{}", lines(&few));
        }
    }
}
