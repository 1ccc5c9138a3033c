//! Circles of waiting: refused where held locks close them, opened where only the order of waiting does.

use super::place::{InodeLocks, Turn};
use super::{LockGrant, LockTable, WaitKey};
use crate::lease::wait_graph;
use dfs_proto::lock::{LockHolder, LockSpace};

impl LockTable {
    /// Whether anybody can be waiting for this owner, which has just begun to wait: behind another wait
    /// of it, or for what it holds.
    pub(super) fn may_be_waited_for(&self, holder: LockHolder) -> bool {
        if self.waits_of.get(&holder).is_some_and(|w| w.len() > 1) {
            return true;
        }
        let places = self.held.get(&holder).into_iter().flatten();
        let mut queues = places.filter_map(|place| self.places.get(place));
        queues.any(|at| !at.queue.is_empty())
    }

    /// Owners whose held locks this owner's waits stand against.
    fn blocked_by_held(&self, holder: LockHolder) -> Vec<LockHolder> {
        self.blocked(holder, |_| true)
    }

    /// The same of a process that waits for a POSIX lock: what refuses a wait as a deadlock. It
    /// does not go on through waits for locks of open file descriptions, as on a local file system.
    pub(super) fn blocked_process(&self, holder: LockHolder) -> Vec<LockHolder> {
        self.blocked(holder, |space| space == LockSpace::Posix)
    }

    fn blocked(&self, holder: LockHolder, counts: impl Fn(LockSpace) -> bool) -> Vec<LockHolder> {
        let waits = self.waits_of.get(&holder).into_iter().flatten();
        waits
            .filter_map(|key| {
                let (at, turn) = self.waiter(*key)?;
                Some((at, at.queue.get(&turn)?))
            })
            .filter(|(_, waiter)| counts(waiter.lock.space))
            .flat_map(|(at, waiter)| at.opponents(&waiter.lock).map(|(holder, _)| holder))
            .collect()
    }

    /// Owners that this owner stands behind by order, and not for what they hold.
    fn blocked_by_order_only(&self, holder: LockHolder) -> Vec<(WaitKey, LockHolder)> {
        let held = self.blocked_by_held(holder);
        let mut order = self.blocked_by_order(holder);
        order.retain(|(_, owner)| !held.contains(owner));
        order
    }

    /// Owners that this owner's waits stand behind by order.
    fn blocked_by_order(&self, holder: LockHolder) -> Vec<(WaitKey, LockHolder)> {
        let mut owners = Vec::new();
        for key in self.waits_of.get(&holder).into_iter().flatten() {
            let Some((at, turn)) = self.waiter(*key) else {
                continue;
            };
            let Some(waiter) = at.queue.get(&turn) else {
                continue;
            };
            if !waiter.skips {
                owners.extend(
                    at.ahead_of(&waiter.lock, turn)
                        .into_iter()
                        .map(|h| (*key, h)),
                );
            }
        }
        owners
    }

    fn waiter(&self, key: WaitKey) -> Option<(&InodeLocks, Turn)> {
        let (place, _, turn) = self.waits.get(&key)?;
        Some((self.places.get(place)?, *turn))
    }

    /// Breaks the circles through `holder` that only the order of waiting closes.
    pub(super) fn let_pass_what_order_would_deadlock(
        &mut self,
        holder: LockHolder,
        grants: &mut Vec<LockGrant>,
    ) {
        // Each round makes one more wait skip, so the rounds are bounded.
        loop {
            // The second half of a node: whether the way to it goes over the order of waiting. A circle of
            // held locks beside it must not hide one that order closes.
            let way = wait_graph::way((holder, false), (holder, true), |(h, by_order)| {
                let held = self.blocked_by_held(h).into_iter();
                let mut next: Vec<_> = held.map(|owner| (owner, by_order)).collect();
                let order = self.blocked_by_order_only(h).into_iter();
                next.extend(order.map(|(_, owner)| (owner, true)));
                next
            });
            let Some(way) = way else { return };
            let goal = [(holder, true)];
            let ends = way.iter().skip(1).chain(&goal);
            let step = way.iter().zip(ends).find(|(from, to)| !from.1 && to.1);
            let by_order = step.and_then(|((from, _), (to, _))| {
                let edges = self.blocked_by_order_only(*from);
                edges.into_iter().find(|(_, owner)| owner == to)
            });
            let Some((key, _)) = by_order else { return };
            let Some((place, _, turn)) = self.waits.get(&key).copied() else {
                return;
            };
            let at = self.places.get_mut(&place);
            let Some(waiter) = at.and_then(|at| at.queue.get_mut(&turn)) else {
                return;
            };
            waiter.skips = true;
            let range = waiter.lock.range;
            self.grant_waiting(place, range, grants);
        }
    }
}
