//! One block of a file as a register: which values it may have, given what is known.
//!
//! It is in one of several possible *situations*: its value, and which of the changes that are
//! under way have taken effect already.

use super::{ChangeId, Value};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Situation {
    value: Value,
    effective: BTreeSet<ChangeId>,
}

impl Situation {
    fn of(value: Value) -> Self {
        Self {
            value,
            effective: BTreeSet::new(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Register {
    situations: BTreeSet<Situation>,
    /// Changes that have begun and not ended: they may take effect at any moment, once.
    pending: BTreeMap<ChangeId, Value>,
    /// Values of changes that were given up in doubt: a late copy may bring them.
    late: BTreeMap<ChangeId, Value>,
    /// What disks may hold: values since the last one that was synced, with the moment at which
    /// their last change began.
    stored: BTreeMap<Value, u64>,
    /// When un-synced values may have gone last: a sync that began before says nothing.
    lost_at: u64,
}

impl Default for Register {
    fn default() -> Self {
        Self {
            situations: BTreeSet::from([Situation::of(0)]),
            pending: BTreeMap::new(),
            late: BTreeMap::new(),
            stored: BTreeMap::from([(0, 0)]),
            lost_at: 0,
        }
    }
}

impl Register {
    pub(super) fn begins(&mut self, change: ChangeId, value: Value, moment: u64) {
        self.pending.insert(change, value);
        self.stored.insert(value, moment);
    }

    /// Adds what changes under way make possible.
    fn close(&mut self) {
        let mut todo: Vec<Situation> = self.situations.iter().cloned().collect();
        while let Some(situation) = todo.pop() {
            let late = self.late.values().map(|value| Situation {
                value: *value,
                effective: situation.effective.clone(),
            });
            let begun = self.pending.iter();
            let begun = begun.filter(|(change, _)| !situation.effective.contains(change));
            let begun = begun.map(|(change, value)| {
                let mut next = situation.clone();
                next.value = *value;
                next.effective.insert(*change);
                next
            });
            for next in begun.chain(late) {
                if self.situations.insert(next.clone()) {
                    todo.push(next);
                }
            }
        }
    }

    pub(super) fn read(&mut self, value: Value) -> bool {
        self.close();
        self.situations.retain(|s| s.value == value);
        !self.situations.is_empty()
    }

    pub(super) fn answered(&mut self, change: ChangeId) -> bool {
        self.close();
        self.situations.retain(|s| s.effective.contains(&change));
        self.forget(change);
        !self.situations.is_empty()
    }

    /// The change has not taken effect and never will, but for a late copy of it.
    pub(super) fn refused(&mut self, change: ChangeId, in_doubt: bool) -> bool {
        if in_doubt {
            if let Some(value) = self.pending.get(&change) {
                self.late.insert(change, *value);
            }
        } else {
            self.situations.retain(|s| !s.effective.contains(&change));
        }
        let possible = !self.situations.is_empty();
        if in_doubt {
            self.decided(change);
        } else {
            self.forget(change);
        }
        possible
    }

    /// The change is decided, one way or the other.
    pub(super) fn decided(&mut self, change: ChangeId) {
        self.close();
        self.forget(change);
    }

    /// Nothing of the change comes any more.
    pub(super) fn over(&mut self, change: ChangeId) {
        self.late.remove(&change);
    }

    fn forget(&mut self, change: ChangeId) {
        self.pending.remove(&change);
        self.situations = std::mem::take(&mut self.situations)
            .into_iter()
            .map(|mut s| {
                s.effective.remove(&change);
                s
            })
            .collect();
    }

    /// Every value that it may have now or later.
    pub(super) fn values(&self) -> BTreeSet<Value> {
        let now = self.situations.iter().map(|s| s.value);
        let coming = self.pending.values().chain(self.late.values());
        now.chain(coming.copied()).collect()
    }

    /// Disks hold one of these, or something that was begun after the moment.
    pub(super) fn synced(&mut self, values: &BTreeSet<Value>, moment: u64) {
        if moment < self.lost_at {
            return;
        }
        self.stored
            .retain(|value, begun| values.contains(value) || *begun > moment);
    }

    /// Un-synced values may be gone, also those of changes that were answered before: the answer
    /// may be on its way. Or it is not, and the change is repeated and takes effect once more.
    pub(super) fn lost(&mut self, moment: u64) {
        self.lost_at = moment;
        self.close();
        let mut effects = BTreeSet::new();
        let mut todo: Vec<BTreeSet<ChangeId>> = self
            .situations
            .iter()
            .map(|s| s.effective.clone())
            .collect();
        while let Some(effective) = todo.pop() {
            if !effects.insert(effective.clone()) {
                continue;
            }
            for change in &effective {
                let mut fewer = effective.clone();
                fewer.remove(change);
                todo.push(fewer);
            }
        }
        for value in self.stored.keys().copied() {
            let lost = effects.iter().cloned();
            let lost = lost.map(|effective| Situation { value, effective });
            self.situations.extend(lost);
        }
    }

    /// It is this for certain, also on every disk.
    pub(super) fn is_now(&mut self, value: Value, moment: u64) {
        self.situations = BTreeSet::from([Situation::of(value)]);
        self.stored = BTreeMap::from([(value, moment)]);
    }
}
