//! A history of calls on a few names, and whether one order explains it.
//!
//! Each name is a register: empty, or what it refers to. The workers are threads of one process, so
//! they have one clock: a call that returned before another one began comes before it in any order.
//! Names are checked together, since a rename changes two. A history is explained by an order of all
//! its calls in which each sees what those before it left (it is linearizable); a call that is shown
//! something older than what was acknowledged before, by whichever leader, has none.
//!
//! Two exceptions, which `docs/semantics.md` names. Of two moves of the same name to the same place
//! that are under way at once the later one may be answered as done without any effect. And mounts
//! hear of a change one after the other: until it is answered, who looks on one mount may see what was
//! there before while another mount shows what is there now; but no mount goes back (`names`).

use super::shown::{Mount, NAMES, Names};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Calls that are shown when there is no order.
const SHOWN: usize = 25;

/// What a call did, or was told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Deed {
    /// Looked at a name.
    Saw(usize, Option<u64>),
    /// Made a name that was not there; `false`: it was.
    Made(usize, u64, bool),
    /// Put something in the place of whatever was there.
    Put(usize, u64),
    /// Gave one name's content to another one; `false`: there was none.
    Moved(usize, usize, bool),
    /// Took a name away; `false`: there was none.
    Removed(usize, bool),
}

impl Entry {
    /// The states that it may have left; none if it can't have gone so.
    fn after(&self, names: &Names) -> Vec<Names> {
        let look = (self.mount, self.called);
        match self.deed {
            Deed::Saw(name, seen) => names.looked(name, look, |found| found == seen),
            Deed::Made(name, _, false) => names.looked(name, look, |found| found.is_some()),
            Deed::Moved(name, _, false) | Deed::Removed(name, false) => {
                names.looked(name, look, |found| found.is_none())
            }
            Deed::Made(name, value, true) if names.newest(name).is_none() => {
                self.left(names, &[(name, Some(value))])
            }
            Deed::Put(name, value) => self.left(names, &[(name, Some(value))]),
            Deed::Moved(from, to, true) => match names.newest(from) {
                Some(value) => self.left(names, &[(from, None), (to, Some(value))]),
                None => Vec::new(),
            },
            Deed::Removed(name, true) if names.newest(name).is_some() => {
                self.left(names, &[(name, None)])
            }
            Deed::Made(..) | Deed::Removed(..) => Vec::new(),
        }
    }

    fn left(&self, names: &Names, changes: &[(usize, Option<u64>)]) -> Vec<Names> {
        let mut after = names.clone();
        for (name, content) in changes {
            after.change(*name, *content, self.returned);
        }
        vec![after]
    }

    /// A move that the kernel has answered by itself: it had the one name from before the same move
    /// by somebody else, and found the same thing behind the other one.
    fn is_done_already(&self, names: &Names) -> bool {
        matches!(self.deed, Deed::Moved(from, to, true)
            if names.newest(from).is_none() && names.newest(to).is_some())
    }
}

/// The moves during which somebody else made the same one.
fn twins(history: &[Entry]) -> BTreeSet<usize> {
    let mut moves: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    for (at, entry) in history.iter().enumerate() {
        if let Deed::Moved(from, to, true) = entry.deed {
            moves.entry((from, to)).or_default().push(at);
        }
    }
    let mut twins = BTreeSet::new();
    for same in moves.values_mut() {
        same.sort_by_key(|at| history[*at].called);
        for (n, one) in same.iter().enumerate() {
            let until = history[*one].returned;
            let during = same[n + 1..].iter();
            for other in during.take_while(|other| history[**other].called <= until) {
                twins.extend([*one, *other]);
            }
        }
    }
    twins
}

/// One call: from when it was made to when it had returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    /// On which mount.
    pub(super) mount: Mount,
    pub(super) called: Duration,
    pub(super) returned: Duration,
    pub(super) deed: Deed,
}

/// A lock that somebody held: certainly from `from` to `to`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Held {
    pub(super) by: usize,
    pub(super) from: Duration,
    pub(super) to: Duration,
}

/// An order that may have happened so far: which of the calls under way have had their effect, and
/// what they left.
type Possible = (BTreeSet<usize>, Names);

/// Looks for an order; says at which call there is none. All names are empty at first.
pub(super) fn explain(history: &[Entry]) -> Result<(), String> {
    // Calls begin and end at these times; at the same time, beginnings come first.
    let mut events: Vec<(Duration, bool, usize)> = Vec::with_capacity(history.len() * 2);
    for (at, entry) in history.iter().enumerate() {
        events.push((entry.called, false, at));
        events.push((entry.returned, true, at));
    }
    events.sort();
    let twins = twins(history);
    let mut under_way = BTreeSet::new();
    let mut possible: BTreeSet<Possible> = BTreeSet::from([Default::default()]);
    for (_, ends, at) in events {
        if !ends {
            under_way.insert(at);
            continue;
        }
        let before = possible.clone();
        possible = with(at, possible, &under_way, &twins, history);
        under_way.remove(&at);
        let now = history[at].returned;
        let begun = under_way.iter().map(|other| history[*other].called);
        let horizon = begun.min().unwrap_or(now).min(now);
        let forget = |(done, mut names): Possible| {
            names.forget_before(horizon);
            (done, names)
        };
        possible = possible.into_iter().map(forget).collect();
        if possible.is_empty() {
            return Err(unexplained(at, &before, &under_way, history));
        }
    }
    Ok(())
}

/// The orders in which the call `at` has had its effect by now.
fn with(
    at: usize,
    possible: BTreeSet<Possible>,
    under_way: &BTreeSet<usize>,
    twins: &BTreeSet<usize>,
    history: &[Entry],
) -> BTreeSet<Possible> {
    let mut seen = possible.clone();
    let mut open: Vec<Possible> = possible.into_iter().collect();
    let mut found = BTreeSet::new();
    while let Some((mut done, names)) = open.pop() {
        if done.remove(&at) {
            found.insert((done, names));
            continue;
        }
        for next in under_way.iter().filter(|next| !done.contains(next)) {
            let call = &history[*next];
            let mut after = call.after(&names);
            if after.is_empty() && twins.contains(next) && call.is_done_already(&names) {
                after.push(names.clone());
            }
            let mut done = done.clone();
            done.insert(*next);
            for names in after {
                if seen.insert((done.clone(), names.clone())) {
                    open.push((done.clone(), names));
                }
            }
        }
    }
    found
}

fn unexplained(
    at: usize,
    possible: &BTreeSet<Possible>,
    under_way: &BTreeSet<usize>,
    history: &[Entry],
) -> String {
    let call = history[at];
    let states: BTreeSet<[Option<u64>; NAMES]> =
        possible.iter().map(|(_, names)| names.all()).collect();
    let mut last: Vec<&Entry> = history
        .iter()
        .filter(|entry| entry.returned <= call.returned)
        .chain(under_way.iter().map(|other| &history[*other]))
        .collect();
    last.sort_by_key(|entry| entry.called);
    let shown = last.len().saturating_sub(SHOWN);
    let mut told = format!(
        "no order of calls explains {:?} on mount {}, answered at {:?}: before it the names may \
         have been {states:?}. The last calls, with their mounts, from when to when:",
        call.deed,
        call.mount + 1,
        call.returned
    );
    for entry in &last[shown..] {
        told += &format!(
            "\n  {} {:10.3} {:10.3} ms  {:?}",
            entry.mount + 1,
            entry.called.as_secs_f64() * 1e3,
            entry.returned.as_secs_f64() * 1e3,
            entry.deed
        );
    }
    told
}

/// Whether nobody held the lock together with another one.
pub(super) fn exclusive(held: &mut [Held]) -> Result<(), String> {
    held.sort_by_key(|held| held.from);
    for pair in held.windows(2) {
        if pair[1].from < pair[0].to {
            return Err(format!(
                "two held the lock at once: {:?} and {:?}",
                pair[0], pair[1]
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn entry(called: u64, returned: u64, deed: Deed) -> Entry {
        Entry {
            mount: 0,
            called: at(called),
            returned: at(returned),
            deed,
        }
    }

    #[test]
    fn calls_under_way_at_once_may_go_either_way() {
        for seen in [None, Some(1), Some(2)] {
            let history = [
                entry(0, 10, Deed::Made(0, 1, true)),
                entry(0, 10, Deed::Put(0, 2)),
                entry(5, 20, Deed::Saw(0, seen)),
            ];
            // Made and put: put came later, or it would not have been made. The look came anywhere.
            assert_eq!(explain(&history), Ok(()), "{seen:?}");
        }
    }

    #[test]
    fn one_of_two_equal_moves_at_once_may_find_it_done() {
        let history = |second: Entry| {
            let first = entry(20, 40, Deed::Moved(0, 1, true));
            [
                entry(0, 10, Deed::Put(0, 7)),
                first,
                second,
                entry(60, 70, Deed::Saw(1, Some(7))),
            ]
        };
        let at_once = entry(30, 50, Deed::Moved(0, 1, true));
        assert_eq!(explain(&history(at_once)), Ok(()));
        let later = entry(45, 50, Deed::Moved(0, 1, true));
        assert!(explain(&history(later)).is_err());
        let elsewhere = entry(30, 50, Deed::Moved(0, 2, true));
        assert!(explain(&history(elsewhere)).is_err());
    }

    #[test]
    fn what_was_acknowledged_is_seen_by_all_later_calls() {
        let stale = [
            entry(0, 10, Deed::Put(1, 7)),
            entry(20, 30, Deed::Put(1, 8)),
            entry(40, 50, Deed::Saw(1, Some(7))),
        ];
        let why = explain(&stale).expect_err("an old value");
        assert!(why.contains("Saw(1, Some(7))"), "{why}");
        // New, then old again.
        let back = [
            entry(0, 100, Deed::Put(0, 1)),
            entry(10, 20, Deed::Saw(0, Some(1))),
            entry(30, 40, Deed::Saw(0, None)),
        ];
        assert!(explain(&back).is_err());
    }

    #[test]
    fn before_it_is_answered_a_change_may_be_seen_on_one_mount_and_not_on_another() {
        let on = |mount, mut entry: Entry| {
            entry.mount = mount;
            entry
        };
        let history = |last: Entry| {
            [
                entry(0, 10, Deed::Put(0, 1)),
                entry(20, 60, Deed::Removed(0, true)),
                // Another mount hears that there is nothing to remove.
                on(1, entry(30, 40, Deed::Removed(0, false))),
                last,
            ]
        };
        let old = Deed::Saw(0, Some(1));
        assert_eq!(explain(&history(entry(50, 70, old))), Ok(()));
        assert!(explain(&history(on(1, entry(50, 70, old)))).is_err());
        assert!(explain(&history(entry(61, 70, old))).is_err());
    }

    #[test]
    fn a_move_changes_two_names_at_once() {
        let moved = |seen| {
            [
                entry(0, 10, Deed::Made(0, 5, true)),
                entry(20, 30, Deed::Moved(0, 2, true)),
                entry(40, 50, Deed::Saw(2, Some(5))),
                entry(60, 70, Deed::Saw(0, seen)),
            ]
        };
        assert_eq!(explain(&moved(None)), Ok(()));
        assert!(explain(&moved(Some(5))).is_err());
        let twice = [
            entry(0, 10, Deed::Made(0, 5, true)),
            entry(20, 30, Deed::Removed(0, true)),
            entry(40, 50, Deed::Removed(0, true)),
        ];
        assert!(explain(&twice).is_err());
    }

    #[test]
    fn a_lock_has_one_holder() {
        let held = |by, from, to| Held {
            by,
            from: at(from),
            to: at(to),
        };
        let mut good = [held(1, 20, 30), held(0, 0, 20), held(1, 40, 50)];
        assert_eq!(exclusive(&mut good), Ok(()));
        let mut bad = [held(1, 19, 30), held(0, 0, 20)];
        assert!(exclusive(&mut bad).is_err());
    }
}
