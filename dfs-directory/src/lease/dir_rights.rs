//! Who may keep the names and the attributes of which dirs.
//!
//! The right of a dir covers the names in it, those that are there and those that are not, and
//! its own attributes. Unlike a lease it is not taken away by a change: the change is applied,
//! everybody else who has the right is told which names it was about, and only then is it
//! answered. So a session's right ends in few ways: with its right to cache, with the session,
//! or by being *ended*: told that nothing more is to be kept. What its kernel was allowed to keep
//! before that runs out by itself, so an ended right *fades*: for the length of a right to cache
//! its holder is still told of every change.
//!
//! A dir whose changes have to be told all the time is *hot*: telling costs the changer a round
//! trip, so the others' rights are ended, and no new ones are given for a while.

use super::Moment;
use dfs_proto::ids::{InodeId, SessionId};
use dfs_proto::timing::{
    CACHE_RIGHT, DRIFT_MARGIN, HOT_CHANGES, HOT_TERM_MAX, HOT_TERM_MIN, HOT_WINDOW,
};
use std::collections::{BTreeMap, BTreeSet};

/// Names one right of one session, for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RightId(u64);

/// Somebody to be told of a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holder {
    pub session: SessionId,
    pub right: RightId,
    /// False: it is also told to keep nothing more; `told` follows.
    pub keep: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Held,
    /// To be told that it has ended.
    Ending,
    /// Was told; kernels may keep what they have until then.
    Fading(Moment),
}

#[derive(Clone, Copy, Debug)]
struct Right {
    id: RightId,
    stage: Stage,
}

/// How often changes of a dir had to be told.
#[derive(Clone, Copy, Debug)]
struct Heat {
    window: Moment,
    changes: u32,
    /// Hot until then; and for how long it is the next time.
    until: Moment,
    term: Moment,
}

/// The rights of one session.
#[derive(Debug, Default)]
struct Held {
    /// With the last use of those that are held; `None` for those that end or fade.
    dirs: BTreeMap<InodeId, Option<u64>>,
    /// Those that are held, by last use.
    ages: BTreeMap<u64, InodeId>,
}

/// The rights of all sessions.
#[derive(Debug)]
pub struct DirRights {
    dirs: BTreeMap<InodeId, BTreeMap<SessionId, Right>>,
    held: BTreeMap<SessionId, Held>,
    heat: BTreeMap<InodeId, Heat>,
    fading: BTreeSet<(Moment, InodeId, SessionId)>,
    /// Rights of one session.
    most: usize,
    ages: u64,
    ids: u64,
}

impl DirRights {
    /// No rights; a session may have `most`.
    pub fn new(most: usize) -> Self {
        Self {
            dirs: BTreeMap::new(),
            held: BTreeMap::new(),
            heat: BTreeMap::new(),
            fading: BTreeSet::new(),
            most,
            ages: 0,
            ids: 0,
        }
    }

    /// Whether the session may keep what it is answered about the dir from now on: what is read
    /// after this call. If that is one right too many, its least recently used one ends; it is
    /// returned, to be told.
    pub fn grant(
        &mut self,
        now: Moment,
        session: SessionId,
        dir: InodeId,
    ) -> (bool, Option<(InodeId, Holder)>) {
        if let Some(right) = self.dirs.get(&dir).and_then(|at| at.get(&session)) {
            let held = right.stage == Stage::Held;
            if held {
                self.touch(session, dir);
            }
            return (held, None);
        }
        if self.is_hot(now, dir) {
            return (false, None);
        }
        self.ids += 1;
        let right = Right {
            id: RightId(self.ids),
            stage: Stage::Held,
        };
        self.dirs.entry(dir).or_default().insert(session, right);
        self.touch(session, dir);
        (true, self.end_oldest(session))
    }

    fn touch(&mut self, session: SessionId, dir: InodeId) {
        self.ages += 1;
        let held = self.held.entry(session).or_default();
        if let Some(Some(before)) = held.dirs.insert(dir, Some(self.ages)) {
            held.ages.remove(&before);
        }
        held.ages.insert(self.ages, dir);
    }

    fn end_oldest(&mut self, session: SessionId) -> Option<(InodeId, Holder)> {
        let held = self.held.get(&session)?;
        if held.ages.len() <= self.most {
            return None;
        }
        let (_, dir) = held.ages.first_key_value()?;
        let dir = *dir;
        self.end(session, dir).map(|holder| (dir, holder))
    }

    /// The right is to end: it counts as held no more, and its holder is to be told.
    fn end(&mut self, session: SessionId, dir: InodeId) -> Option<Holder> {
        let right = self.dirs.get_mut(&dir)?.get_mut(&session)?;
        // One that fades already goes on to.
        if right.stage == Stage::Held {
            right.stage = Stage::Ending;
        }
        let right = right.id;
        if let Some(held) = self.held.get_mut(&session)
            && let Some(Some(age)) = held.dirs.insert(dir, None)
        {
            held.ages.remove(&age);
        }
        Some(Holder {
            session,
            right,
            keep: false,
        })
    }

    /// The dir was changed by `by`: who has to be told before that is answered.
    pub fn changed(&mut self, now: Moment, by: SessionId, dir: InodeId) -> Vec<Holder> {
        let Some(at) = self.dirs.get(&dir) else {
            return Vec::new();
        };
        let others: Vec<(SessionId, Right)> = at
            .iter()
            .filter(|(session, _)| **session != by)
            .map(|(session, right)| (*session, *right))
            .collect();
        let keeps = others.iter().any(|(_, r)| r.stage == Stage::Held);
        let hot = keeps && self.warm(now, dir);
        let mut told = Vec::with_capacity(others.len());
        for (session, right) in others {
            if hot && right.stage == Stage::Held {
                told.extend(self.end(session, dir));
            } else {
                told.push(Holder {
                    session,
                    right: right.id,
                    keep: right.stage == Stage::Held,
                });
            }
        }
        told
    }

    /// The dir was removed by `by`, which knows: everybody else is told to keep nothing of it.
    pub fn removed(&mut self, by: SessionId, dir: InodeId) -> Vec<Holder> {
        self.drop_right(by, dir);
        self.heat.remove(&dir);
        let others: Vec<SessionId> = self
            .dirs
            .get(&dir)
            .map(|at| at.keys().copied().collect())
            .unwrap_or_default();
        let ended = others.into_iter().filter_map(|s| self.end(s, dir));
        ended.collect()
    }

    fn drop_right(&mut self, session: SessionId, dir: InodeId) {
        self.forget(session, dir);
        if let Some(held) = self.held.get_mut(&session) {
            if let Some(Some(age)) = held.dirs.remove(&dir) {
                held.ages.remove(&age);
            }
            if held.dirs.is_empty() {
                self.held.remove(&session);
            }
        }
    }

    /// Counts a change that has to be told; whether that makes the dir hot.
    fn warm(&mut self, now: Moment, dir: InodeId) -> bool {
        let heat = self.heat.entry(dir).or_insert(Heat {
            window: now,
            changes: 0,
            until: Moment::ZERO,
            term: HOT_TERM_MIN,
        });
        if now >= heat.window + HOT_WINDOW {
            heat.window = now;
            heat.changes = 0;
        }
        heat.changes += 1;
        if heat.changes <= HOT_CHANGES {
            return false;
        }
        // Hot again soon after it was: there is no end to be seen.
        let again = heat.until != Moment::ZERO && now < heat.until + HOT_TERM_MIN;
        heat.term = match again {
            true => (heat.term * 2).min(HOT_TERM_MAX),
            false => HOT_TERM_MIN,
        };
        heat.until = now + heat.term;
        heat.changes = 0;
        true
    }

    /// Whether nobody is given the right of the dir now.
    pub fn is_hot(&self, now: Moment, dir: InodeId) -> bool {
        self.heat.get(&dir).is_some_and(|heat| now < heat.until)
    }

    /// The holder has answered that it keeps nothing more of the dir.
    pub fn told_to_end(&mut self, now: Moment, session: SessionId, dir: InodeId, right: RightId) {
        let held = self.dirs.get_mut(&dir).and_then(|at| at.get_mut(&session));
        if let Some(present) = held.filter(|r| r.id == right && r.stage == Stage::Ending) {
            let until = now + CACHE_RIGHT + DRIFT_MARGIN;
            present.stage = Stage::Fading(until);
            self.fading.insert((until, dir, session));
        }
    }

    /// Whether its kernel may still keep something under this right.
    pub fn counts(&self, session: SessionId, dir: InodeId, right: RightId) -> bool {
        let present = self.dirs.get(&dir).and_then(|at| at.get(&session));
        present.is_some_and(|present| present.id == right)
    }

    /// Whether the session may keep what it is answered about the dir.
    pub fn holds(&self, session: SessionId, dir: InodeId) -> bool {
        let right = self.dirs.get(&dir).and_then(|at| at.get(&session));
        right.is_some_and(|right| right.stage == Stage::Held)
    }

    /// How many rights a session holds.
    pub fn held(&self, session: SessionId) -> usize {
        self.held.get(&session).map_or(0, |held| held.ages.len())
    }

    /// The session's right to cache is over, or it has ended: so has everything it kept.
    pub fn lapse(&mut self, session: SessionId) {
        let Some(held) = self.held.remove(&session) else {
            return;
        };
        for dir in held.dirs.into_keys() {
            self.forget(session, dir);
        }
    }

    fn forget(&mut self, session: SessionId, dir: InodeId) {
        let Some(at) = self.dirs.get_mut(&dir) else {
            return;
        };
        if let Some(Stage::Fading(until)) = at.remove(&session).map(|right| right.stage) {
            self.fading.remove(&(until, dir, session));
        }
        if at.is_empty() {
            self.dirs.remove(&dir);
        }
    }

    /// Forgets rights that have faded, and what was hot long ago.
    pub fn tick(&mut self, now: Moment) {
        while let Some((until, dir, session)) = self.fading.first().copied() {
            if until > now {
                break;
            }
            self.fading.pop_first();
            self.drop_right(session, dir);
        }
        self.heat
            .retain(|_, heat| now < heat.window + HOT_WINDOW || now < heat.until + HOT_TERM_MIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const A: SessionId = SessionId(1);
    const B: SessionId = SessionId(2);
    const C: SessionId = SessionId(3);
    const D: InodeId = InodeId(10);
    const E: InodeId = InodeId(11);

    fn at(ms: u64) -> Moment {
        Moment::from_millis(ms)
    }

    #[test]
    fn everybody_else_is_told_and_keeps_the_right() {
        let mut rights = DirRights::new(10);
        assert!(rights.grant(at(0), A, D).0);
        assert!(rights.grant(at(0), B, D).0);
        let told = rights.changed(at(1), A, D);
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].session, told[0].keep), (B, true));
        assert!(rights.holds(B, D) && rights.holds(A, D));
        assert!(rights.changed(at(1), A, E).is_empty());
    }

    #[test]
    fn a_hot_dir_is_kept_by_nobody_but_who_changes_it() {
        let mut rights = DirRights::new(10);
        rights.grant(at(0), A, D);
        rights.grant(at(0), B, D);
        for i in 0..u64::from(HOT_CHANGES) {
            assert!(rights.changed(at(i), A, D)[0].keep);
        }
        let told = rights.changed(at(50), A, D);
        assert_eq!((told[0].session, told[0].keep), (B, false));
        assert!(rights.holds(A, D) && !rights.holds(B, D));
        assert!(!rights.grant(at(60), B, D).0);
        assert!(!rights.grant(at(60), C, D).0);
        // Its kernel still keeps what it was given: it is told until that has run out.
        rights.told_to_end(at(60), B, D, told[0].right);
        assert_eq!(rights.changed(at(2_000), A, D).len(), 1);
        rights.tick(at(2_260));
        assert!(rights.changed(at(2_261), A, D).is_empty());
        assert!(!rights.grant(at(4_049), B, D).0);
        assert!(rights.grant(at(4_051), B, D).0);
    }

    #[test]
    fn a_dir_that_gets_hot_again_stays_so_for_longer() {
        let mut rights = DirRights::new(10);
        let mut now = 0;
        let mut terms = Vec::new();
        for _ in 0..7 {
            assert!(rights.grant(at(now), B, D).0);
            loop {
                let told = rights.changed(at(now), A, D);
                if !told[0].keep {
                    rights.told_to_end(at(now), B, D, told[0].right);
                    break;
                }
            }
            let begun = now;
            while rights.is_hot(at(now), D) {
                now += 1_000;
                rights.tick(at(now));
            }
            terms.push(now - begun);
        }
        assert_eq!(
            terms,
            [4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]
        );
        // After a quiet time it begins anew.
        now += 120_000;
        rights.tick(at(now));
        assert!(rights.heat.is_empty());
    }

    #[test]
    fn a_right_that_was_asked_for_too_often_ends_the_oldest() {
        let mut rights = DirRights::new(2);
        assert_eq!(rights.grant(at(0), A, D), (true, None));
        assert_eq!(rights.grant(at(0), A, E), (true, None));
        rights.grant(at(0), A, D);
        let (granted, ended) = rights.grant(at(0), A, InodeId(12));
        assert!(granted);
        let (dir, holder) = ended.expect("the oldest");
        assert_eq!((dir, holder.keep), (E, false));
        assert_eq!(rights.held(A), 2);
        assert!(!rights.grant(at(1), A, E).0, "until it has faded");
        rights.told_to_end(at(1), A, E, holder.right);
        rights.tick(at(3_000));
        assert!(rights.grant(at(3_000), A, E).0);
    }

    #[test]
    fn nothing_is_left_of_a_removed_dir() {
        let mut rights = DirRights::new(10);
        rights.grant(at(0), A, D);
        rights.grant(at(0), B, D);
        let told = rights.removed(A, D);
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].session, told[0].keep), (B, false));
        rights.told_to_end(at(0), B, D, told[0].right);
        rights.tick(at(3_000));
        assert!(rights.dirs.is_empty() && rights.held.is_empty());
    }

    #[test]
    fn a_right_of_the_past_is_not_ended_again() {
        let mut rights = DirRights::new(10);
        rights.grant(at(0), B, D);
        let told = rights.changed(at(0), A, D)[0];
        rights.lapse(B);
        assert!(!rights.counts(B, D, told.right));
        rights.grant(at(1), B, D);
        assert!(!rights.counts(B, D, told.right));
        rights.told_to_end(at(1), B, D, told.right);
        assert!(rights.holds(B, D));
    }

    /// What a session's kernel may keep of a dir, as the table's promises have it.
    #[derive(Default)]
    struct Model {
        /// (session, dir) -> until when, if it was told to keep nothing more.
        keeps: BTreeMap<(SessionId, InodeId), Option<Moment>>,
    }

    /// A small generator: the same numbers in every run.
    fn random(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[test]
    fn nobody_who_may_keep_something_is_left_out() {
        for seed in 1..200u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let (mut rights, mut model) = (DirRights::new(3), Model::default());
            let mut now = 0;
            let mut untold: Vec<(InodeId, Holder)> = Vec::new();
            for _ in 0..400 {
                now += random(&mut state) % 300;
                rights.tick(at(now));
                let session = SessionId(1 + random(&mut state) % 4);
                let dir = InodeId(10 + random(&mut state) % 5);
                match random(&mut state) % 12 {
                    0..=4 => {
                        let (granted, ended) = rights.grant(at(now), session, dir);
                        if granted {
                            model.keeps.insert((session, dir), None);
                        }
                        untold.extend(ended);
                        assert!(rights.held(session) <= 3);
                    }
                    5..=9 => {
                        let told = rights.changed(at(now), session, dir);
                        let names: BTreeSet<_> = told.iter().map(|h| h.session).collect();
                        for ((s, d), until) in &model.keeps {
                            let keeps = until.is_none_or(|until| at(now) < until);
                            if *d == dir && *s != session && keeps {
                                assert!(names.contains(s), "seed {seed}: {s} keeps {d}");
                            }
                        }
                        untold.extend(told.into_iter().filter(|h| !h.keep).map(|h| (dir, h)));
                    }
                    10 => {
                        for (dir, holder) in untold.drain(..) {
                            let counts = rights.counts(holder.session, dir, holder.right);
                            rights.told_to_end(at(now), holder.session, dir, holder.right);
                            let kept = model.keeps.get_mut(&(holder.session, dir));
                            if let Some(until @ None) = kept
                                && counts
                            {
                                *until = Some(at(now) + CACHE_RIGHT);
                            }
                        }
                    }
                    _ => {
                        rights.lapse(session);
                        model.keeps.retain(|(s, _), _| *s != session);
                        assert_eq!(rights.held(session), 0);
                    }
                }
            }
        }
    }
}
