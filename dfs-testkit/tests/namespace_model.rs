//! Random calls on two mounts at once, held against a model in memory: after each step both mounts
//! show exactly what the model says.
//!
//! A step is a call, or one on each mount at the same moment; then the answers and the tree must be
//! those of one order or the other. `DFS_TEST_STEPS=N` makes so many calls, from the seed
//! `DFS_TEST_SEED`; with `DFS_TEST_FAULTS=1` file servers and the directory's leader are killed
//! meanwhile. A failure is told as the fewest calls that show it.

#![allow(clippy::unwrap_used)]

use dfs_testkit::cluster::Cluster;
use dfs_testkit::namespace::call::Call;
use dfs_testkit::namespace::generate::{Kinds, next};
use dfs_testkit::namespace::look::{Look, Time, look};
use dfs_testkit::namespace::model::Model;
use dfs_testkit::namespace::orders::orders;
use dfs_testkit::namespace::perform::{Answer, Performer};
use dfs_testkit::namespace::shrink::{kept, lines, shrink};
use dfs_testkit::namespace::verdict::{Window, steps};
use dfs_testkit::random::Random;
use dfs_testkit::watch::{Watch, watched};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// A tree gets so many calls, then there is a new one.
const CALLS_OF_A_TREE: usize = 300;

/// What files hold is compared after so many steps each.
const CONTENT_EVERY: usize = 7;

/// What two calls at once lead to may depend on which is first: fewer calls must fail once in so
/// many runs to count.
const RUNS_TO_FAIL: usize = 3;

const MOUNTS: usize = 2;
const MODE: u32 = 0o755;

struct Places<'a> {
    cluster: &'a Cluster,
    watch: &'a Watch,
    mounts: Vec<PathBuf>,
    made: usize,
}

impl Places<'_> {
    fn tree(&mut self) -> Vec<Performer> {
        self.made += 1;
        let name = format!("tree-{}", self.made);
        let dir = self.mounts[0].join(&name);
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(MODE)).unwrap();
        let on = |mount: &PathBuf| Performer::new(mount.join(&name));
        self.mounts.iter().map(on).collect()
    }

    /// Makes the calls on a new tree; tells the first difference.
    fn run(&mut self, calls: &[Call]) -> Result<(), String> {
        let began = now();
        let mut performers = self.tree();
        let mut model = Model::new(MOUNTS, MODE);
        let window = |from| Window {
            began,
            from,
            to: now(),
        };
        let looks = look_from_all(&performers, true)?;
        model.verdict(&looks, window(began))?;
        for (number, step) in steps(calls).into_iter().enumerate() {
            let from = now();
            let answers = perform(&mut performers, step);
            let said = step.iter().zip(&answers);
            let said: Vec<String> = said.map(|(c, a)| format!("{c} -> {a:?}")).collect();
            let fail = |what: String| format!("step {number}, {said:?}: {what}");
            let content = number % CONTENT_EVERY == 0;
            let looks = look_from_all(&performers, content).map_err(fail)?;
            model = explain(&model, step, &answers, &looks, window(from)).map_err(fail)?;
            step.iter().for_each(|_| self.watch.step());
        }
        Ok(())
    }
}

/// The model after a step that explains what was answered and is seen: after one order of its calls.
fn explain(
    before: &Model,
    step: &[Call],
    answers: &[Answer],
    looks: &[Look],
    window: Window,
) -> Result<Model, String> {
    let mut refused = Vec::new();
    for order in orders(before, step, answers) {
        let mut model = before.clone();
        let other = order.iter().find_map(|which| {
            let answer = model.perform(&step[*which]);
            (answer != answers[*which]).then(|| format!("{} -> {answer:?}", step[*which]))
        });
        let verdict = match other {
            Some(other) => Err(format!("the model: {other}")),
            None => model.verdict(looks, window),
        };
        match verdict {
            Ok(()) => return Ok(model),
            Err(what) => refused.push(what),
        }
    }
    Err(refused.join("\nand in the other order: "))
}

/// Makes the calls of a step: all at once, each on its own mount.
fn perform(performers: &mut [Performer], step: &[Call]) -> Vec<Answer> {
    if let [call] = step {
        return vec![performers[call.mount].perform(call)];
    }
    let (left, right) = performers.split_at_mut(1);
    std::thread::scope(|scope| {
        let mut of = [Some(&mut left[0]), Some(&mut right[0])];
        let made: Vec<_> = step
            .iter()
            .map(|call| {
                let performer = of[call.mount].take().expect("one call on each mount");
                scope.spawn(move || performer.perform(call))
            })
            .collect();
        made.into_iter().map(|made| made.join().unwrap()).collect()
    })
}

fn look_from_all(performers: &[Performer], content: bool) -> Result<Vec<Look>, String> {
    let all: Vec<&Performer> = performers.iter().collect();
    let looks = all.iter().map(|by| look(by, &all, content));
    looks
        .collect::<Result<_, _>>()
        .map_err(|e| format!("the tree: {e}"))
}

fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    (since.as_secs() as i64, i64::from(since.subsec_nanos()))
}

fn number(variable: &str, default: u64) -> u64 {
    let set = std::env::var(variable).ok();
    set.and_then(|n| n.parse().ok()).unwrap_or(default)
}

#[test]
fn both_mounts_are_as_the_model() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root may give files away and make device nodes");
        return;
    }
    let faults = number("DFS_TEST_FAULTS", 0) == 1;
    let mut options = vec!["--mounts", "2", "--mount-opts", "allow_other,suid,dev"];
    if faults {
        options.extend(["--directories", "3"]);
    }
    let cluster = Cluster::up(&options);
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    watched(&cluster, faults, |watch| {
        make_calls(Places {
            cluster: &cluster,
            watch,
            mounts: (1..=MOUNTS).map(|n| cluster.mount(n)).collect(),
            made: 0,
        });
    });
}

fn make_calls(mut places: Places<'_>) {
    for (name, calls) in kept() {
        let calls = calls.into_iter();
        let by_root: Vec<Call> = calls.map(|call| Call { user: 0, ..call }).collect();
        if let Err(what) = places.run(&by_root) {
            panic!("{name}: {what}");
        }
    }
    let kinds = Kinds {
        mounts: MOUNTS,
        users: 1,
        whiteouts: true,
    };
    let (first, calls) = (
        number("DFS_TEST_SEED", 1),
        number("DFS_TEST_STEPS", 2100) as usize,
    );
    for seed in first..first + calls.div_ceil(CALLS_OF_A_TREE) as u64 {
        let mut random = Random::new(seed);
        let calls: Vec<Call> = (0..CALLS_OF_A_TREE)
            .map(|_| next(&mut random, kinds))
            .collect();
        if let Err(what) = places.run(&calls) {
            eprintln!("seed {seed}: {what}");
            places.cluster.keep_logs();
            let mut last = what;
            let few = shrink(&calls, |some| {
                let failed = (0..RUNS_TO_FAIL).find_map(|_| places.run(some).err());
                let fails = failed.is_some();
                last = failed.unwrap_or_else(|| last.clone());
                fails
            });
            panic!("seed {seed}: {last}\n{}", lines(&few));
        }
    }
}
