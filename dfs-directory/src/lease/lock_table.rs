//! flock and POSIX locks of all inodes, with their waiters, as Linux behaves.
//!
//! Waiters of an inode are granted in order: one waits behind every earlier one that it
//! conflicts with, so readers don't starve a writer. A try-lock only looks at what is held, as
//! the local system does. Order must never make a deadlock that the local system would not
//! have: where it closes a circle, the one that only order holds back goes ahead.
//!
//! Circles of POSIX locks that are held are refused with `Deadlock`; of locks of open file
//! descriptions (flock, OFD) they are the callers' problem, as locally: any thread that shares the
//! description may open the circle.

mod circles;
mod place;

use super::lock_ranges::LockRanges;
use super::wait_graph;
use dfs_proto::ids::{InodeId, Sequence, SessionId};
use dfs_proto::limits::LOCK_WAITERS_MAX;
use dfs_proto::lock::{HeldLock, LockHolder, LockRange, LockSpace};
use place::{Holding, InodeLocks, Turn, Waiter, in_the_way};
use std::collections::{BTreeMap, BTreeSet};

/// Names a wait: the sequence of the request that began it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WaitKey {
    pub session: SessionId,
    pub sequence: Sequence,
}

/// A request for a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockRequest {
    pub key: WaitKey,
    pub inode: InodeId,
    pub lock: HeldLock,
    /// Queue when it conflicts.
    pub wait: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SetAnswer {
    Done,
    Queued,
    WouldBlock,
    /// Waiting would close a circle.
    Deadlock,
    /// Too many waiters or locks.
    NoLocks,
}

/// A wait that has ended with the lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockGrant {
    pub key: WaitKey,
    pub inode: InodeId,
}

/// What can conflict: the flocks of an inode, or (`true`) its byte ranges.
type Place = (InodeId, bool);

fn place_of(inode: InodeId, space: LockSpace) -> Place {
    (inode, space.is_ranges())
}

/// All locks.
#[derive(Default, Debug)]
pub struct LockTable {
    places: BTreeMap<Place, InodeLocks>,
    /// Where each owner holds something, and where a session does.
    held: BTreeMap<LockHolder, BTreeSet<Place>>,
    waits: BTreeMap<WaitKey, (Place, LockHolder, Turn)>,
    waits_of: BTreeMap<LockHolder, BTreeSet<WaitKey>>,
    turns: Turn,
}

/// Most locks of one owner on one inode: a bound for memory, far above what programs use.
const OWNER_RANGES_MAX: usize = 65_536;

impl LockTable {
    /// Sets a lock, or waits for it. Waits of others that this ends (a downgrade, a lost flock)
    /// are added to `grants`.
    pub fn set(&mut self, request: &LockRequest, grants: &mut Vec<LockGrant>) -> SetAnswer {
        let lock = request.lock;
        let place = place_of(request.inode, lock.space);
        let at = self.places.entry(place).or_default();
        let mine = at.held.get(&lock.holder);
        if mine.is_some_and(|held| held.ranges.covers(lock.range, lock.kind)) {
            return SetAnswer::Done;
        }
        if mine.is_some_and(|held| held.ranges.len() >= OWNER_RANGES_MAX) {
            return SetAnswer::NoLocks;
        }
        let converts = lock.space == LockSpace::Flock && mine.is_some();
        let mut opposed = at.is_opposed(&lock);
        if converts && opposed {
            // flock(2): a conversion that can't be had at once has lost the old lock.
            self.drop_held(place, lock.holder, LockRange::WHOLE);
            self.grant_waiting(place, LockRange::WHOLE, grants);
            opposed = self.places.entry(place).or_default().is_opposed(&lock);
        }
        let at = self.places.entry(place).or_default();
        let may_pass = converts && !opposed;
        let behind = request.wait && !may_pass && !at.ahead_of(&lock, Turn::MAX).is_empty();
        if !opposed && !behind {
            let converts = self.hold(place, &lock);
            if converts {
                // Others may share what was exclusive.
                self.grant_waiting(place, lock.range, grants);
            }
            return SetAnswer::Done;
        }
        if !request.wait {
            self.forget_if_idle(place);
            return SetAnswer::WouldBlock;
        }
        self.wait(request, place, grants)
    }

    fn wait(
        &mut self,
        request: &LockRequest,
        place: Place,
        grants: &mut Vec<LockGrant>,
    ) -> SetAnswer {
        if self.waits.len() >= LOCK_WAITERS_MAX || self.waits.contains_key(&request.key) {
            self.forget_if_idle(place);
            return SetAnswer::NoLocks;
        }
        let holder = request.lock.holder;
        let waiter = Waiter {
            key: request.key,
            lock: request.lock,
            skips: false,
        };
        self.turns += 1;
        let queue = &mut self.places.entry(place).or_default().queue;
        queue.insert(self.turns, waiter);
        self.waits.insert(request.key, (place, holder, self.turns));
        self.waits_of.entry(holder).or_default().insert(request.key);
        if !self.may_be_waited_for(holder) {
            return SetAnswer::Queued;
        }
        let deadlock = request.lock.space == LockSpace::Posix
            && wait_graph::circle(holder, |h| self.blocked_process(h)).is_some();
        if deadlock {
            self.unwait(request.key);
            self.grant_waiting(place, request.lock.range, grants);
            return SetAnswer::Deadlock;
        }
        self.let_pass_what_order_would_deadlock(holder, grants);
        if self.waits.contains_key(&request.key) {
            return SetAnswer::Queued;
        }
        grants.retain(|grant| grant.key != request.key);
        SetAnswer::Done
    }

    /// Unlocks a range; tells whether anything was locked.
    pub fn unlock(
        &mut self,
        inode: InodeId,
        space: LockSpace,
        holder: LockHolder,
        range: LockRange,
        grants: &mut Vec<LockGrant>,
    ) -> bool {
        let place = place_of(inode, space);
        let dropped = self.drop_held(place, holder, range);
        if dropped {
            self.grant_waiting(place, range, grants);
        }
        dropped
    }

    /// Ends a wait; `false` if there is none (granted already, or unknown).
    pub fn cancel(&mut self, key: WaitKey, grants: &mut Vec<LockGrant>) -> bool {
        let Some((place, range)) = self.unwait(key) else {
            return false;
        };
        self.grant_waiting(place, range, grants);
        true
    }

    /// Whether this wait still goes on.
    pub fn is_waiting(&self, key: WaitKey) -> bool {
        self.waits.contains_key(&key)
    }

    /// All locks and waits of the session go.
    pub fn end_session(&mut self, session: SessionId, grants: &mut Vec<LockGrant>) {
        let waits: Vec<WaitKey> = self.waits_by(session).collect();
        let left = waits.iter().filter_map(|key| self.unwait(*key));
        let mut places: BTreeSet<Place> = left.map(|(place, _)| place).collect();
        let owners: Vec<(LockHolder, Place)> = self
            .held_by(session)
            .flat_map(|(holder, at)| at.iter().map(move |place| (*holder, *place)))
            .collect();
        for (holder, place) in owners {
            self.drop_held(place, holder, LockRange::WHOLE);
            places.insert(place);
        }
        for place in places {
            self.grant_waiting(place, LockRange::WHOLE, grants);
        }
    }

    /// A mount reclaims a lock after a change of the leader; `false` if another owner's lock
    /// stands against it.
    pub fn reassert(&mut self, inode: InodeId, lock: &HeldLock) -> bool {
        let place = place_of(inode, lock.space);
        let free = !self.places.entry(place).or_default().is_opposed(lock);
        if free {
            self.hold(place, lock);
        }
        self.forget_if_idle(place);
        free
    }

    /// The lock that stands against this one, the lowest first (`F_GETLK`).
    pub fn test(&self, inode: InodeId, lock: &HeldLock) -> Option<HeldLock> {
        let at = self.places.get(&place_of(inode, lock.space))?;
        at.held
            .iter()
            .filter(|(holder, _)| **holder != lock.holder)
            .filter_map(|(holder, held)| {
                let (range, kind, pid) = held.ranges.first_conflict(lock.range, lock.kind)?;
                Some(HeldLock {
                    space: held.space,
                    holder: *holder,
                    kind,
                    range,
                    pid,
                })
            })
            .min_by_key(|held| (held.range.start, held.holder))
    }

    /// Owners of locks that stand against this one.
    pub fn opponents(&self, inode: InodeId, lock: &HeldLock) -> Vec<(LockHolder, LockSpace)> {
        self.places
            .get(&place_of(inode, lock.space))
            .map(|at| at.opponents(lock).collect())
            .unwrap_or_default()
    }

    /// Sessions that hold what somebody waits for.
    pub fn blocking_sessions(&self) -> BTreeSet<SessionId> {
        let mut sessions = BTreeSet::new();
        for at in self.places.values() {
            let mut unseen: BTreeSet<SessionId> = match at.queue.is_empty() {
                true => continue,
                false => at.held.keys().map(|holder| holder.session).collect(),
            };
            for waiter in at.queue.values() {
                if unseen.is_empty() {
                    break;
                }
                for (holder, _) in at.opponents(&waiter.lock) {
                    if unseen.remove(&holder.session) {
                        sessions.insert(holder.session);
                    }
                }
            }
        }
        sessions
    }

    /// Whether the session holds or waits for a lock on the inode.
    pub fn needs_interest(&self, session: SessionId, inode: InodeId) -> bool {
        [false, true].iter().any(|ranges| {
            self.places.get(&(inode, *ranges)).is_some_and(|at| {
                at.held.keys().any(|h| h.session == session)
                    || at.queue.values().any(|w| w.key.session == session)
            })
        })
    }

    /// Numbers of locks held and waited for by a session.
    pub fn count(&self, session: SessionId) -> (u64, u64) {
        let held = self
            .held_by(session)
            .flat_map(|(holder, places)| places.iter().map(move |p| (holder, p)))
            .filter_map(|(holder, place)| self.places.get(place)?.held.get(holder))
            .map(|held| held.ranges.len() as u64)
            .sum();
        (held, self.waits_by(session).count() as u64)
    }

    /// Every lock and wait (`true`), of one inode or of all.
    pub fn list(&self, inode: Option<InodeId>) -> Vec<(InodeId, HeldLock, bool)> {
        let mut all = Vec::new();
        for ((at_inode, _), at) in &self.places {
            if inode.is_some_and(|wanted| wanted != *at_inode) {
                continue;
            }
            for (holder, held) in &at.held {
                all.extend(held.ranges.iter().map(|(range, kind, pid)| {
                    let lock = HeldLock {
                        space: held.space,
                        holder: *holder,
                        kind,
                        range,
                        pid,
                    };
                    (*at_inode, lock, false)
                }));
            }
            all.extend(at.queue.values().map(|w| (*at_inode, w.lock, true)));
        }
        all
    }

    fn held_by(&self, session: SessionId) -> impl Iterator<Item = (&LockHolder, &BTreeSet<Place>)> {
        let from = LockHolder {
            session,
            owner: dfs_proto::ids::LockOwner(0),
        };
        self.held
            .range(from..)
            .take_while(move |(holder, _)| holder.session == session)
    }

    /// The waits of a session.
    fn waits_by(&self, session: SessionId) -> impl Iterator<Item = WaitKey> {
        let from = WaitKey {
            session,
            sequence: Sequence(0),
        };
        let waits = self.waits.range(from..).map(|(key, _)| *key);
        waits.take_while(move |key| key.session == session)
    }

    /// Tells whether the owner held something there before, which may be less now.
    fn hold(&mut self, place: Place, lock: &HeldLock) -> bool {
        let at = self.places.entry(place).or_default();
        let converts = at.held.contains_key(&lock.holder);
        let held = at.held.entry(lock.holder).or_insert_with(|| Holding {
            space: lock.space,
            ranges: LockRanges::default(),
        });
        held.ranges.lock(lock.range, lock.kind, lock.pid);
        self.held.entry(lock.holder).or_default().insert(place);
        converts
    }

    fn drop_held(&mut self, place: Place, holder: LockHolder, range: LockRange) -> bool {
        let Some(at) = self.places.get_mut(&place) else {
            return false;
        };
        let Some(held) = at.held.get_mut(&holder) else {
            return false;
        };
        let dropped = held.ranges.unlock(range);
        if held.ranges.is_empty() {
            at.held.remove(&holder);
            if let Some(places) = self.held.get_mut(&holder) {
                places.remove(&place);
                if places.is_empty() {
                    self.held.remove(&holder);
                }
            }
        }
        self.forget_if_idle(place);
        dropped
    }

    /// Returns what was waited for.
    fn unwait(&mut self, key: WaitKey) -> Option<(Place, LockRange)> {
        let (place, holder, turn) = self.waits.remove(&key)?;
        if let Some(waits) = self.waits_of.get_mut(&holder) {
            waits.remove(&key);
            if waits.is_empty() {
                self.waits_of.remove(&holder);
            }
        }
        let at = self.places.get_mut(&place);
        let waiter = at.and_then(|at| at.queue.remove(&turn))?;
        self.forget_if_idle(place);
        Some((place, waiter.lock.range))
    }

    fn forget_if_idle(&mut self, place: Place) {
        if self
            .places
            .get(&place)
            .is_some_and(|at| at.held.is_empty() && at.queue.is_empty())
        {
            self.places.remove(&place);
        }
    }

    /// Grants in order what nothing held and no earlier waiter stands against, after locks or waits in
    /// `freed` have gone: who wants nothing there waits for what it waited for before.
    fn grant_waiting(&mut self, place: Place, freed: LockRange, grants: &mut Vec<LockGrant>) {
        let mut freed = Some(freed);
        while let Some(range) = freed.take() {
            let turns = self.places.get(&place).map(|at| at.touched_by(range));
            for turn in turns.unwrap_or_default() {
                let Some(waiter) = self.grantable(place, turn) else {
                    continue;
                };
                self.unwait(waiter.key);
                if self.hold(place, &waiter.lock) {
                    // It may share now what it had for itself.
                    let lock = waiter.lock.range;
                    freed = Some(freed.map_or(lock, |before| LockRange {
                        start: before.start.min(lock.start),
                        last: before.last.max(lock.last),
                    }));
                }
                grants.push(LockGrant {
                    key: waiter.key,
                    inode: place.0,
                });
            }
        }
    }

    /// The waiter of this turn, if nothing stands against it.
    fn grantable(&self, place: Place, turn: Turn) -> Option<Waiter> {
        let at = self.places.get(&place)?;
        let waiter = at.queue.get(&turn)?;
        let mut earlier = at.queue.range(..turn);
        let behind =
            !waiter.skips && earlier.any(|(_, first)| in_the_way(&first.lock, &waiter.lock));
        (!behind && !at.is_opposed(&waiter.lock)).then_some(*waiter)
    }
}
