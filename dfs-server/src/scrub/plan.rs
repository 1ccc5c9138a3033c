//! When which group is gone through, and how far it is. Pure: time comes in.
//!
//! Every group has its own time, so the groups of a cluster are spread over the whole period and
//! never start together. A member that is asked for its copy notes how far the primary is, so
//! that it can go on from there when it leads the group itself.

use dfs_proto::ids::{ChunkIndex, ChunkKey, GroupId, InodeId};
use std::collections::BTreeMap;
use std::fmt::Write;

/// A group's last or present pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Pass {
    /// When it went on, or ended. Seconds since 1970.
    pub(super) at: u64,
    pub(super) running: bool,
    /// Where it is.
    after: Option<ChunkKey>,
    /// It was made up, to spread the first ones.
    pub(super) never: bool,
}

/// The passes of all groups.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Plan {
    /// Seconds between two passes of a group; 0: never.
    every: u64,
    /// Differs from server to server.
    seed: u64,
    groups: BTreeMap<GroupId, Pass>,
}

impl Plan {
    pub(super) fn new(every: u64, seed: u64) -> Self {
        Self {
            every,
            seed,
            groups: BTreeMap::new(),
        }
    }

    /// What an earlier run wrote down. A line that makes no sense is left out: that group is
    /// gone through at some other time.
    pub(super) fn restore(&mut self, text: &str) {
        for line in text.lines() {
            let numbers: Result<Vec<u64>, _> = line.split(' ').map(str::parse).collect();
            let numbers = numbers.unwrap_or_default();
            let [group, at, running, has, inode, index] = numbers[..] else {
                continue;
            };
            let (inode, index) = (InodeId(inode), ChunkIndex(index));
            let pass = Pass {
                at,
                running: running == 1,
                after: (has == 1).then_some(ChunkKey { inode, index }),
                never: running == 2,
            };
            if let Ok(group) = u32::try_from(group) {
                self.groups.insert(GroupId(group), pass);
            }
        }
    }

    /// One line a group: group, time, whether it runs (2: never yet), and the place.
    pub(super) fn render(&self) -> String {
        let mut text = String::new();
        for (group, pass) in &self.groups {
            let running = match pass.never {
                true => 2,
                false => u8::from(pass.running),
            };
            let key = pass.after.unwrap_or_default();
            let _ = writeln!(
                text,
                "{} {} {running} {} {} {}",
                group.0,
                pass.at,
                u8::from(pass.after.is_some()),
                key.inode.0,
                key.index.0
            );
        }
        text
    }

    /// The group to go on with, and where. The one that waits the longest comes first.
    pub(super) fn next(
        &mut self,
        led: &[GroupId],
        now: u64,
    ) -> Option<(GroupId, Option<ChunkKey>)> {
        if self.every == 0 {
            return None;
        }
        for group in led {
            let (every, seed) = (self.every, self.seed);
            let pass = self.groups.entry(*group).or_insert_with(|| {
                let share = spread(seed, *group) % every;
                Pass {
                    at: now.saturating_sub(share),
                    never: true,
                    ..Pass::default()
                }
            });
            // A clock that was set back must not put it off for long.
            pass.at = pass.at.min(now);
        }
        let passes = led.iter().filter_map(|g| Some((g, self.groups.get(g)?)));
        let due = passes.filter(|(_, pass)| pass.running || pass.at + self.every <= now);
        let (group, pass) = due.min_by_key(|(_, pass)| (!pass.running, pass.at))?;
        Some((*group, pass.after.filter(|_| pass.running)))
    }

    /// A pass has come to this chunk.
    pub(super) fn went_on(&mut self, group: GroupId, after: ChunkKey, now: u64) {
        let pass = Pass {
            at: now,
            running: true,
            after: Some(after),
            never: false,
        };
        self.groups.insert(group, pass);
    }

    /// A pass has come to the end.
    pub(super) fn ended(&mut self, group: GroupId, now: u64) {
        let pass = Pass {
            at: now,
            ..Pass::default()
        };
        self.groups.insert(group, pass);
    }

    pub(super) fn pass(&self, group: GroupId) -> Option<&Pass> {
        self.groups.get(&group)
    }
}

/// A number that is as good as random, and the same in every run.
fn spread(seed: u64, group: GroupId) -> u64 {
    let mut mixed = seed ^ u64::from(group.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEEK: u64 = 604_800;
    const NOW: u64 = 1_800_000_000;

    fn key(inode: u64) -> ChunkKey {
        ChunkKey {
            inode: InodeId(inode),
            index: ChunkIndex(3),
        }
    }

    #[test]
    fn first_passes_are_spread_over_the_period_and_then_come_once_in_it() {
        let led: Vec<GroupId> = (0..64).map(GroupId).collect();
        let mut plan = Plan::new(WEEK, 5);
        let mut passes: BTreeMap<GroupId, u32> = BTreeMap::new();
        let mut by_day = [0; 7];
        for minute in 0..WEEK / 60 {
            let now = NOW + minute * 60;
            while let Some((group, after)) = plan.next(&led, now) {
                assert_eq!(after, None);
                *passes.entry(group).or_default() += 1;
                by_day[(minute / 1440) as usize] += 1;
                plan.ended(group, now);
            }
        }
        assert_eq!(passes.len(), 64);
        assert!(passes.values().all(|count| *count == 1), "{passes:?}");
        assert!(by_day.iter().all(|count| *count >= 3), "{by_day:?}");
        let mut other = Plan::new(WEEK, 6);
        assert_eq!(other.next(&led, NOW), None);
        assert_ne!(other.render(), Plan::new(WEEK, 5).render());
    }

    #[test]
    fn a_pass_goes_on_where_it_was_after_a_restart() {
        let led = [GroupId(1), GroupId(2)];
        let mut plan = Plan::new(WEEK, 1);
        plan.next(&led, NOW);
        plan.went_on(GroupId(2), key(9), NOW);
        let mut again = Plan::new(WEEK, 1);
        again.restore(&plan.render());
        again.restore("nonsense\n1 2\n");
        assert_eq!(again, plan);
        assert_eq!(again.next(&led, NOW), Some((GroupId(2), Some(key(9)))));
        assert_eq!(again.next(&led[..1], NOW), None, "another one leads it now");
        again.ended(GroupId(2), NOW);
        assert_eq!(again.next(&[GroupId(2)], NOW + WEEK - 1), None);
        assert_eq!(
            again.next(&[GroupId(2)], NOW + WEEK),
            Some((GroupId(2), None))
        );
    }

    #[test]
    fn zero_means_never_and_a_clock_that_goes_back_puts_nothing_off() {
        let led = [GroupId(1)];
        let mut never = Plan::new(0, 1);
        assert_eq!(never.next(&led, NOW), None);
        let mut plan = Plan::new(WEEK, 1);
        plan.ended(GroupId(1), NOW + 50 * WEEK);
        assert_eq!(plan.next(&led, NOW), None);
        assert!(plan.next(&led, NOW + WEEK).is_some());
    }
}
