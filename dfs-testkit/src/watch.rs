//! A watch over long work on a cluster: it must go on, also while a file server or the directory's
//! leader is killed every few seconds.

use crate::cluster::Cluster;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// No step takes longer than this.
const STALL_MAX: Duration = Duration::from_secs(60);

/// How often a long run says how far it is.
const NEWS: Duration = Duration::from_secs(60);

/// How long a killed node stays away, and all are left alone after it has come back.
const AWAY: Duration = Duration::from_secs(2);

/// All replicas are in-sync again so long after a death.
const HEALED: Duration = Duration::from_secs(60);

/// Counts the steps of the work.
#[derive(Debug)]
pub struct Watch {
    began: Instant,
    state: Mutex<State>,
    /// The work has ended.
    done: AtomicBool,
    /// Why it can't go on.
    stopped: Mutex<Option<String>>,
}

#[derive(Debug)]
struct State {
    steps: u64,
    last: Instant,
    longest: Duration,
    told: Instant,
}

impl Watch {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            state: Mutex::new(State {
                steps: 0,
                last: now,
                longest: Duration::ZERO,
                told: now,
            }),
            done: AtomicBool::new(false),
            stopped: Mutex::new(None),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A step has ended. Panics when the watch has found what the work itself can't see.
    pub fn step(&self) {
        let mut state = self.state();
        let now = Instant::now();
        let took = now - state.last;
        (state.last, state.longest) = (now, state.longest.max(took));
        state.steps += 1;
        let news = now - state.told > NEWS;
        if news {
            state.told = now;
        }
        drop(state);
        if news {
            self.tell();
        }
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = stopped.as_ref() {
            panic!("{why}");
        }
    }

    fn tell(&self) {
        let state = self.state();
        let took = self.began.elapsed();
        println!(
            "{} steps in {took:.0?}, {:.1} a second, the longest took {:.2?}",
            state.steps,
            state.steps as f64 / took.as_secs_f64(),
            state.longest
        );
    }

    fn stop(&self, why: String) {
        eprintln!("{why}");
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        stopped.get_or_insert(why);
    }

    /// Sleeps, but not longer than the work goes on. Whether it does.
    fn pause(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.done.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(50));
        }
        !self.done.load(Ordering::Relaxed)
    }

    /// Ends everything when a step does not end, so that no call waits for ever.
    fn demand_steps(&self, cluster: &Cluster) {
        while self.pause(Duration::from_secs(1)) {
            let waits = self.state().last.elapsed();
            if waits > STALL_MAX {
                self.stop(format!("a step has not ended after {waits:.0?}"));
                cluster.give_up();
                return;
            }
        }
    }

    /// Kills a file server or the directory's leader, and starts it again, over and over.
    fn kill_in_turn(&self, cluster: &Cluster) {
        let mut round = 0;
        while !self.done.load(Ordering::Relaxed) {
            let node = match round % 2 {
                0 => format!("server-{}", round / 2 % 3 + 1),
                _ => cluster.leader(),
            };
            cluster.node("kill", &node);
            self.pause(AWAY);
            cluster.node("start", &node);
            cluster.wait_healthy(HEALED);
            cluster.wait_for_members(3);
            self.pause(AWAY);
            round += 1;
        }
        println!("{round} nodes were killed");
    }
}

/// The text of a panic.
fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
    text.unwrap_or_default()
}

/// Works under a watch. With `faults` a file server or the directory's leader (of three members)
/// is killed every few seconds, and started again; all must be in-sync again each time.
pub fn watched<T>(cluster: &Cluster, faults: bool, work: impl FnOnce(&Watch) -> T) -> T {
    let watch = Watch::new();
    std::thread::scope(|scope| {
        scope.spawn(|| watch.demand_steps(cluster));
        if faults {
            scope.spawn(|| {
                let killed = catch_unwind(AssertUnwindSafe(|| watch.kill_in_turn(cluster)));
                if let Err(panic) = killed {
                    watch.stop(format!("between the kills: {}", words(&*panic)));
                }
            });
        }
        let worked = catch_unwind(AssertUnwindSafe(|| work(&watch)));
        watch.done.store(true, Ordering::Relaxed);
        watch.tell();
        worked.unwrap_or_else(|panic| resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_watch_has_found_ends_the_work() {
        let watch = Watch::new();
        watch.step();
        assert_eq!(watch.state().steps, 1);
        watch.stop("no replica is left".to_owned());
        watch.stop("and more".to_owned());
        let step = catch_unwind(AssertUnwindSafe(|| watch.step()));
        let panic = step.expect_err("it may not go on");
        assert_eq!(words(&*panic), "no replica is left");
    }
}
