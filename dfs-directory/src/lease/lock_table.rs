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

use super::lock_ranges::LockRanges;
use super::wait_graph;
use dfs_proto::ids::{InodeId, Sequence, SessionId};
use dfs_proto::limits::LOCK_WAITERS_MAX;
use dfs_proto::lock::{HeldLock, LockHolder, LockKind, LockRange, LockSpace};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

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

#[derive(Clone, Copy, Debug)]
struct Waiter {
    key: WaitKey,
    lock: HeldLock,
    /// Goes ahead of earlier waiters, since order would be a deadlock.
    skips: bool,
}

/// What one owner holds in one place.
#[derive(Debug)]
struct Holding {
    space: LockSpace,
    ranges: LockRanges,
}

#[derive(Default, Debug)]
struct InodeLocks {
    held: BTreeMap<LockHolder, Holding>,
    queue: VecDeque<Waiter>,
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
    waits: BTreeMap<WaitKey, (Place, LockHolder)>,
    waits_of: BTreeMap<LockHolder, BTreeSet<WaitKey>>,
}

/// Most locks of one owner on one inode: a bound for memory, far above what programs use.
const OWNER_RANGES_MAX: usize = 65_536;

fn opposes(kind: LockKind, other: LockKind) -> bool {
    kind == LockKind::Exclusive || other == LockKind::Exclusive
}

impl InodeLocks {
    /// Owners of locks that stand against this one.
    fn opponents(&self, lock: &HeldLock) -> impl Iterator<Item = (LockHolder, LockSpace)> {
        let lock = *lock;
        self.held
            .iter()
            .filter(move |(holder, held)| {
                let stands = held.ranges.first_conflict(lock.range, lock.kind);
                **holder != lock.holder && stands.is_some()
            })
            .map(|(holder, held)| (*holder, held.space))
    }

    fn is_opposed(&self, lock: &HeldLock) -> bool {
        self.opponents(lock).next().is_some()
    }

    /// Owners of waits before position `end` that this lock has to let go first. One that stands
    /// for all before it ends the list: reachability is all that counts.
    fn ahead_of(&self, lock: &HeldLock, end: usize) -> Vec<LockHolder> {
        let mut owners = Vec::new();
        for waiter in self.queue.iter().take(end).rev() {
            if !in_the_way(&waiter.lock, lock) {
                continue;
            }
            owners.push(waiter.lock.holder);
            let covers = waiter.lock.range.start <= lock.range.start
                && waiter.lock.range.last >= lock.range.last;
            if covers && waiter.lock.kind == LockKind::Exclusive && !waiter.skips {
                break;
            }
        }
        owners
    }
}

/// Whether an earlier wait for `first` goes before `second`.
fn in_the_way(first: &HeldLock, second: &HeldLock) -> bool {
    first.holder != second.holder
        && first.range.overlaps(&second.range)
        && opposes(first.kind, second.kind)
}

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
            self.grant_waiting(place, grants);
            opposed = self.places.entry(place).or_default().is_opposed(&lock);
        }
        let at = self.places.entry(place).or_default();
        let may_pass = converts && !opposed;
        let behind = request.wait && !may_pass && !at.ahead_of(&lock, at.queue.len()).is_empty();
        if !opposed && !behind {
            self.hold(place, &lock);
            self.grant_waiting(place, grants);
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
        self.places
            .entry(place)
            .or_default()
            .queue
            .push_back(waiter);
        self.waits.insert(request.key, (place, holder));
        self.waits_of.entry(holder).or_default().insert(request.key);
        // Nobody can wait for one who neither holds nor waits for anything else.
        let alone = !self.held.contains_key(&holder)
            && self
                .waits_of
                .get(&holder)
                .is_none_or(|waits| waits.len() == 1);
        if alone {
            return SetAnswer::Queued;
        }
        let deadlock = request.lock.space == LockSpace::Posix
            && wait_graph::circle(holder, |h| self.blocked_process(h)).is_some();
        if deadlock {
            self.unwait(request.key);
            self.grant_waiting(place, grants);
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
            self.grant_waiting(place, grants);
        }
        dropped
    }

    /// Ends a wait; `false` if there is none (granted already, or unknown).
    pub fn cancel(&mut self, key: WaitKey, grants: &mut Vec<LockGrant>) -> bool {
        let Some(place) = self.unwait(key) else {
            return false;
        };
        self.grant_waiting(place, grants);
        true
    }

    /// Whether this wait still goes on.
    pub fn is_waiting(&self, key: WaitKey) -> bool {
        self.waits.contains_key(&key)
    }

    /// All locks and waits of the session go.
    pub fn end_session(&mut self, session: SessionId, grants: &mut Vec<LockGrant>) {
        let waits: Vec<WaitKey> = self
            .waits
            .keys()
            .filter(|key| key.session == session)
            .copied()
            .collect();
        let mut places: BTreeSet<Place> = waits.iter().filter_map(|k| self.unwait(*k)).collect();
        let owners: Vec<(LockHolder, Place)> = self
            .held_by(session)
            .flat_map(|(holder, at)| at.iter().map(move |place| (*holder, *place)))
            .collect();
        for (holder, place) in owners {
            self.drop_held(place, holder, LockRange::WHOLE);
            places.insert(place);
        }
        for place in places {
            self.grant_waiting(place, grants);
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
            for waiter in &at.queue {
                sessions.extend(at.opponents(&waiter.lock).map(|(holder, _)| holder.session));
            }
        }
        sessions
    }

    /// Whether the session holds or waits for a lock on the inode.
    pub fn needs_interest(&self, session: SessionId, inode: InodeId) -> bool {
        [false, true].iter().any(|ranges| {
            self.places.get(&(inode, *ranges)).is_some_and(|at| {
                at.held.keys().any(|h| h.session == session)
                    || at.queue.iter().any(|w| w.key.session == session)
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
        let waits = self
            .waits
            .keys()
            .filter(|key| key.session == session)
            .count() as u64;
        (held, waits)
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
            all.extend(at.queue.iter().map(|w| (*at_inode, w.lock, true)));
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

    fn hold(&mut self, place: Place, lock: &HeldLock) {
        let at = self.places.entry(place).or_default();
        let held = at.held.entry(lock.holder).or_insert_with(|| Holding {
            space: lock.space,
            ranges: LockRanges::default(),
        });
        held.ranges.lock(lock.range, lock.kind, lock.pid);
        self.held.entry(lock.holder).or_default().insert(place);
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

    fn unwait(&mut self, key: WaitKey) -> Option<Place> {
        let (place, holder) = self.waits.remove(&key)?;
        if let Some(waits) = self.waits_of.get_mut(&holder) {
            waits.remove(&key);
            if waits.is_empty() {
                self.waits_of.remove(&holder);
            }
        }
        if let Some(at) = self.places.get_mut(&place) {
            at.queue.retain(|w| w.key != key);
        }
        self.forget_if_idle(place);
        Some(place)
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

    /// Grants in order what nothing held and no earlier waiter stands against.
    fn grant_waiting(&mut self, place: Place, grants: &mut Vec<LockGrant>) {
        while let Some(waiter) = self.first_grantable(place) {
            self.unwait(waiter.key);
            self.hold(place, &waiter.lock);
            grants.push(LockGrant {
                key: waiter.key,
                inode: place.0,
            });
        }
    }

    fn first_grantable(&self, place: Place) -> Option<Waiter> {
        let at = self.places.get(&place)?;
        let mut blocked: Vec<&HeldLock> = Vec::new();
        // An exclusive wait for the whole file stands before everybody of another owner: then
        // there is no need to look at all the others ahead.
        let mut wall: Option<LockHolder> = None;
        for waiter in &at.queue {
            if !waiter.skips
                && (wall.is_some_and(|holder| holder != waiter.lock.holder)
                    || blocked.iter().any(|b| in_the_way(b, &waiter.lock)))
            {
                if wall.is_none() {
                    blocked.push(&waiter.lock);
                }
                continue;
            }
            if !at.is_opposed(&waiter.lock) {
                return Some(*waiter);
            }
            blocked.push(&waiter.lock);
            if waiter.lock.kind == LockKind::Exclusive && waiter.lock.range == LockRange::WHOLE {
                wall = wall.or(Some(waiter.lock.holder));
            }
        }
        None
    }

    /// Owners whose held locks this owner's waits stand against.
    fn blocked_by_held(&self, holder: LockHolder) -> Vec<LockHolder> {
        self.blocked(holder, |_| true)
    }

    /// The same of a process that waits for a POSIX lock: what refuses a wait as a deadlock. It
    /// does not go on through waits for locks of open file descriptions, as on a local file system.
    fn blocked_process(&self, holder: LockHolder) -> Vec<LockHolder> {
        self.blocked(holder, |space| space == LockSpace::Posix)
    }

    fn blocked(&self, holder: LockHolder, counts: impl Fn(LockSpace) -> bool) -> Vec<LockHolder> {
        let waits = self.waits_of.get(&holder).into_iter().flatten();
        waits
            .filter_map(|key| {
                let (at, position) = self.waiter(*key)?;
                Some((at, at.queue.get(position)?))
            })
            .filter(|(_, waiter)| counts(waiter.lock.space))
            .flat_map(|(at, waiter)| at.opponents(&waiter.lock).map(|(holder, _)| holder))
            .collect()
    }

    /// Owners that this owner's waits stand behind by order.
    fn blocked_by_order(&self, holder: LockHolder) -> Vec<(WaitKey, LockHolder)> {
        let mut owners = Vec::new();
        for key in self.waits_of.get(&holder).into_iter().flatten() {
            let Some((at, position)) = self.waiter(*key) else {
                continue;
            };
            let Some(waiter) = at.queue.get(position) else {
                continue;
            };
            if !waiter.skips {
                owners.extend(
                    at.ahead_of(&waiter.lock, position)
                        .into_iter()
                        .map(|h| (*key, h)),
                );
            }
        }
        owners
    }

    fn waiter(&self, key: WaitKey) -> Option<(&InodeLocks, usize)> {
        let (place, _) = self.waits.get(&key)?;
        let at = self.places.get(place)?;
        let position = at.queue.iter().position(|w| w.key == key)?;
        Some((at, position))
    }

    /// Breaks the circles through `holder` that only the order of waiting closes.
    fn let_pass_what_order_would_deadlock(
        &mut self,
        holder: LockHolder,
        grants: &mut Vec<LockGrant>,
    ) {
        // Each round makes one more wait skip, so the rounds are bounded.
        loop {
            let circle = wait_graph::circle(holder, |h| {
                let mut next = self.blocked_by_held(h);
                next.extend(self.blocked_by_order(h).into_iter().map(|(_, owner)| owner));
                next
            });
            let Some(circle) = circle else { return };
            let next_of = |i: usize| circle[(i + 1) % circle.len()];
            let by_order = circle.iter().enumerate().find_map(|(i, node)| {
                if self.blocked_by_held(*node).contains(&next_of(i)) {
                    return None;
                }
                let edges = self.blocked_by_order(*node);
                edges
                    .into_iter()
                    .find(|(_, owner)| *owner == next_of(i))
                    .map(|(key, _)| key)
            });
            // A circle of held flocks: the callers' own.
            let Some(key) = by_order else { return };
            let Some((place, _)) = self.waits.get(&key).copied() else {
                return;
            };
            if let Some(at) = self.places.get_mut(&place)
                && let Some(waiter) = at.queue.iter_mut().find(|w| w.key == key)
            {
                waiter.skips = true;
            }
            self.grant_waiting(place, grants);
        }
    }
}
