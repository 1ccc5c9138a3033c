//! Mirror of the replicated interest records, so that repeated lease and lock cycles on one
//! inode cost no log write.
//!
//! A record is committed before the session's first exclusive lease or lock on an inode and
//! dropped lazily, in batches, after the last of them is gone. While a drop is on its way to the
//! log nothing may be acquired on the strength of the record: it would be ordered before.

use super::Moment;
use dfs_proto::ids::{InodeId, SessionId};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Record {
    Logged,
    Dropping,
}

/// What an acquisition has to do first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ready {
    /// The record is in the log.
    Yes,
    /// Commit one, then call `logged`.
    Missing,
    /// A drop is on its way: ask again when it has ended.
    Dropping,
}

/// The interest records that the log holds.
#[derive(Default, Debug)]
pub struct InterestMirror {
    records: BTreeMap<(SessionId, InodeId), Record>,
    /// Records that may not be needed any more, and since when.
    unused: BTreeMap<(SessionId, InodeId), Moment>,
}

impl InterestMirror {
    pub fn ready(&self, session: SessionId, inode: InodeId) -> Ready {
        match self.records.get(&(session, inode)) {
            Some(Record::Logged) => Ready::Yes,
            Some(Record::Dropping) => Ready::Dropping,
            None => Ready::Missing,
        }
    }

    /// The record is in the log.
    pub fn logged(&mut self, session: SessionId, inode: InodeId) {
        self.records.insert((session, inode), Record::Logged);
    }

    /// The record is about to be needed: it is not looked at until `maybe_unused`.
    pub fn use_again(&mut self, session: SessionId, inode: InodeId) {
        self.unused.remove(&(session, inode));
    }

    /// A lease or lock of the session on this inode went away at `now`: look later whether the
    /// record is still needed.
    pub fn maybe_unused(&mut self, session: SessionId, inode: InodeId, now: Moment) {
        if self.records.get(&(session, inode)) == Some(&Record::Logged) {
            self.unused.insert((session, inode), now);
        }
    }

    /// Up to `most` records that have been unused since `before` and are not `needed`: they are
    /// being dropped now; `dropped` must follow.
    pub fn begin_drop(
        &mut self,
        before: Moment,
        most: usize,
        mut needed: impl FnMut(SessionId, InodeId) -> bool,
    ) -> Vec<(SessionId, InodeId)> {
        let due: Vec<(SessionId, InodeId)> = self
            .unused
            .iter()
            .filter(|(_, since)| **since <= before)
            .map(|(key, _)| *key)
            .take(most)
            .collect();
        let mut batch = Vec::new();
        for key in due {
            self.unused.remove(&key);
            if !needed(key.0, key.1)
                && let Some(record) = self.records.get_mut(&key)
                && *record == Record::Logged
            {
                *record = Record::Dropping;
                batch.push(key);
            }
        }
        batch
    }

    /// The drop has ended: it is in the log, or (`failed`) nobody knows and the records are
    /// taken as there.
    pub fn dropped(&mut self, batch: &[(SessionId, InodeId)], failed: bool) {
        for key in batch {
            if failed {
                self.records.insert(*key, Record::Logged);
            } else {
                self.records.remove(key);
            }
        }
    }

    /// The session is gone, and its records with it.
    pub fn end_session(&mut self, session: SessionId) {
        let keys: BTreeSet<_> = self.of(session).map(|inode| (session, inode)).collect();
        self.records.retain(|key, _| !keys.contains(key));
        self.unused.retain(|key, _| !keys.contains(key));
    }

    /// Inodes that the session has a record of.
    pub fn of(&self, session: SessionId) -> impl Iterator<Item = InodeId> {
        self.records
            .range((session, InodeId(0))..)
            .take_while(move |((s, _), _)| *s == session)
            .map(|((_, inode), _)| *inode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: SessionId = SessionId(1);
    const F: InodeId = InodeId(10);

    fn at(ms: u64) -> Moment {
        Moment::from_millis(ms)
    }

    #[test]
    fn nothing_is_acquired_while_its_record_is_being_dropped() {
        let mut mirror = InterestMirror::default();
        assert_eq!(mirror.ready(S, F), Ready::Missing);
        mirror.logged(S, F);
        assert_eq!(mirror.ready(S, F), Ready::Yes);
        mirror.maybe_unused(S, F, at(5));
        assert!(mirror.begin_drop(at(4), 10, |_, _| false).is_empty());
        let batch = mirror.begin_drop(at(5), 10, |_, _| false);
        assert_eq!(batch, [(S, F)]);
        assert_eq!(mirror.ready(S, F), Ready::Dropping);
        mirror.dropped(&batch, false);
        assert_eq!(mirror.ready(S, F), Ready::Missing);
    }

    #[test]
    fn a_record_in_use_again_stays() {
        let mut mirror = InterestMirror::default();
        mirror.logged(S, F);
        mirror.maybe_unused(S, F, at(0));
        assert!(mirror.begin_drop(at(9), 10, |_, _| true).is_empty());
        assert_eq!(mirror.ready(S, F), Ready::Yes);
        mirror.maybe_unused(S, F, at(0));
        mirror.use_again(S, F);
        assert!(mirror.begin_drop(at(9), 10, |_, _| false).is_empty());
        // A failed drop leaves the record as it was for all that is known.
        mirror.maybe_unused(S, F, at(9));
        let batch = mirror.begin_drop(at(9), 10, |_, _| false);
        mirror.dropped(&batch, true);
        assert_eq!(mirror.ready(S, F), Ready::Yes);
    }

    #[test]
    fn records_end_with_their_session() {
        let mut mirror = InterestMirror::default();
        mirror.logged(S, F);
        mirror.logged(S, InodeId(11));
        mirror.logged(SessionId(2), F);
        assert_eq!(mirror.of(S).count(), 2);
        mirror.end_session(S);
        assert_eq!(mirror.of(S).count(), 0);
        assert_eq!(mirror.of(SessionId(2)).count(), 1);
    }
}
