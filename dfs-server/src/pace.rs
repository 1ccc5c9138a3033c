//! Which member of the groups that this server leads is too slow: every write waits for all
//! in-sync members, so one slow disk holds everybody.
//!
//! A pure judge: durations and the time go in, a verdict comes out. A member is judged against
//! the others of the same time, never against a fixed figure: when all are slow, nobody is. What
//! follows from a verdict is the directory's to decide (never below `min_in_sync`, and a growing
//! pause before the member is taken back).

use dfs_proto::ids::ServerRun;
use std::collections::BTreeMap;
use std::time::Duration;

/// Durations are gathered and compared in windows of this length.
const WINDOW: Duration = Duration::from_secs(1);

/// Fewer writes than this in a window say nothing.
const SAMPLES_MIN: u32 = 3;

/// Nobody is slow whose mean is below this, however fast the others are: a hard disk beside
/// solid-state ones is no fault.
const SLOW_MIN: Duration = Duration::from_millis(50);

/// A window in which a member was as fast as the others takes back this many slow ones: a disk
/// that recovers for a moment is still slow, one that was slow for a moment soon is not.
const GOOD_WINDOW_WEIGHT: u32 = 3;

/// When a member is too slow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlowPolicy {
    /// So many times slower than each of the others; 0: nobody ever is.
    pub factor: u32,
    /// For so long.
    pub after: Duration,
}

impl Default for SlowPolicy {
    fn default() -> Self {
        Self {
            factor: 10,
            after: Duration::from_secs(10),
        }
    }
}

/// A member that holds everybody up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slow {
    /// `None`: this server itself.
    pub run: Option<ServerRun>,
    /// Its mean in the last window, and that of the slowest other member.
    pub mean: Duration,
    pub others: Duration,
}

#[derive(Debug, Default)]
struct Member {
    writes: u32,
    took: Duration,
    slow_windows: u32,
}

/// The members' writes of this server's groups, this server's own among them.
#[derive(Debug)]
pub struct Paces {
    policy: SlowPolicy,
    window_end: Duration,
    /// `None` is this server.
    members: BTreeMap<Option<ServerRun>, Member>,
}

impl Paces {
    pub fn new(policy: SlowPolicy) -> Self {
        Self {
            policy,
            window_end: Duration::ZERO,
            members: BTreeMap::new(),
        }
    }

    /// A member has applied a write; `None`: this server has.
    pub fn applied(&mut self, run: Option<ServerRun>, took: Duration) {
        if self.policy.factor == 0 {
            return;
        }
        let member = self.members.entry(run).or_default();
        member.writes += 1;
        member.took += took;
    }

    /// Time has passed. Names a member for as long as it is too slow, once a window.
    pub fn tick(&mut self, now: Duration) -> Option<Slow> {
        if now < self.window_end {
            return None;
        }
        self.window_end = now + WINDOW;
        let means: BTreeMap<Option<ServerRun>, Duration> = self
            .members
            .iter()
            .filter(|(_, member)| member.writes >= SAMPLES_MIN)
            .map(|(run, member)| (*run, member.took / member.writes))
            .collect();
        let needed = self.policy.after.as_secs().max(1) as u32;
        let mut verdict = None;
        for (run, mean) in &means {
            let others = means.iter().filter(|(other, _)| *other != run);
            let Some(others) = others.map(|(_, mean)| *mean).max() else {
                continue;
            };
            let Some(member) = self.members.get_mut(run) else {
                continue;
            };
            if *mean < SLOW_MIN || *mean < others.saturating_mul(self.policy.factor) {
                member.slow_windows = member.slow_windows.saturating_sub(GOOD_WINDOW_WEIGHT);
                continue;
            }
            member.slow_windows = (member.slow_windows + 1).min(needed);
            if member.slow_windows == needed {
                verdict = Some(Slow {
                    run: *run,
                    mean: *mean,
                    others,
                });
            }
        }
        // Who has nothing to do for the groups of this server any more is forgotten.
        self.members.retain(|_, member| {
            let idle = member.writes == 0;
            member.slow_windows -= u32::from(idle && member.slow_windows > 0);
            (member.writes, member.took) = (0, Duration::ZERO);
            !idle || member.slow_windows > 0
        });
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::ids::{Incarnation, ServerId};

    /// The first one is this server.
    fn run(server: u32) -> Option<ServerRun> {
        (server > 1).then_some(ServerRun {
            server: ServerId(server),
            incarnation: Incarnation(u64::from(server)),
        })
    }

    /// One second with 20 writes, which take the members so many milliseconds.
    fn second(paces: &mut Paces, at: u64, millis: [u64; 3]) -> Option<Slow> {
        for _ in 0..20 {
            for (server, took) in (1..).zip(millis) {
                paces.applied(run(server), Duration::from_millis(took));
            }
        }
        paces.tick(Duration::from_secs(at))
    }

    fn judge() -> Paces {
        let mut paces = Paces::new(SlowPolicy {
            factor: 10,
            after: Duration::from_secs(5),
        });
        assert_eq!(paces.tick(Duration::ZERO), None);
        paces
    }

    #[test]
    fn a_slow_member_is_named_after_the_time_and_not_before() {
        let mut paces = judge();
        for at in 1..5 {
            assert_eq!(second(&mut paces, at, [2, 3, 300]), None, "after {at} s");
        }
        let slow = second(&mut paces, 5, [2, 3, 300]).expect("slow for 5 s");
        assert_eq!((slow.run, slow.mean.as_millis()), (run(3), 300));
        assert_eq!(slow.others.as_millis(), 3);
        assert!(
            second(&mut paces, 6, [2, 3, 300]).is_some(),
            "and it still is"
        );
    }

    #[test]
    fn a_slow_moment_is_no_slow_disk() {
        let mut paces = judge();
        for at in 1..100 {
            let took = if at % 5 < 3 { 400 } else { 2 };
            assert_eq!(second(&mut paces, at, [2, 2, took]), None, "{at}");
        }
        // But one that is good for a moment only is one all the same.
        let mut paces = judge();
        let named = (1..60).any(|at| {
            let took = if at % 10 == 0 { 2 } else { 400 };
            second(&mut paces, at, [2, 2, took]).is_some()
        });
        assert!(named);
    }

    #[test]
    fn nobody_is_slow_when_all_are_or_when_it_hardly_matters() {
        let mut paces = judge();
        for at in 1..30 {
            assert_eq!(second(&mut paces, at, [300, 500, 900]), None);
        }
        for at in 30..60 {
            assert_eq!(second(&mut paces, at, [1, 1, 40]), None);
        }
        for at in 60..90 {
            assert_eq!(
                second(&mut paces, at, [1, 600, 600]),
                None,
                "two are no exception"
            );
        }
    }

    #[test]
    fn without_others_or_work_there_is_nothing_to_say() {
        let mut paces = judge();
        for at in 1..20 {
            for _ in 0..20 {
                paces.applied(run(1), Duration::from_secs(1));
            }
            assert_eq!(paces.tick(Duration::from_secs(at)), None);
        }
        for at in 20..40 {
            assert_eq!(paces.tick(Duration::from_secs(at)), None);
        }
        assert!(paces.members.is_empty());
        let mut never = Paces::new(SlowPolicy {
            factor: 0,
            after: Duration::ZERO,
        });
        assert_eq!(second(&mut never, 1, [1, 1, 900]), None);
    }
}
