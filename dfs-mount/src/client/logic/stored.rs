//! How much the replica groups store of a sparse file, as far as it was asked under the lease that
//! is held. Pure.
//!
//! A change forgets what it may change when it begins. What is asked while one is under way is true
//! for whoever asked, since the change has not been answered, and of no use to anybody later.

use dfs_proto::ids::{ChunkIndex, GroupId};
use dfs_proto::layout::FileLayout;
use std::collections::BTreeMap;

/// What is known of one inode.
#[derive(Debug, Default)]
pub struct Stored {
    /// Bytes.
    groups: BTreeMap<GroupId, u64>,
    /// Changes under way, and how many have begun.
    changing: u32,
    begun: u64,
}

/// The moment of a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment(u64);

impl Stored {
    /// A change of chunks of these groups begins; `None`: of any. To be followed by `end`.
    pub fn begin(&mut self, groups: Option<&mut dyn Iterator<Item = GroupId>>) {
        self.changing += 1;
        self.begun += 1;
        match groups {
            Some(groups) => groups.for_each(|group| {
                self.groups.remove(&group);
            }),
            None => self.groups.clear(),
        }
    }

    pub fn end(&mut self) {
        self.changing = self.changing.saturating_sub(1);
    }

    /// The lease is gone.
    pub fn forget(&mut self) {
        self.groups.clear();
        // What was asked before says nothing of what comes.
        self.begun += 1;
    }

    /// To be looked at before groups are asked. `None`: a change is under way, so the answers are
    /// not to be kept.
    pub fn moment(&self) -> Option<Moment> {
        (self.changing == 0).then_some(Moment(self.begun))
    }

    /// A group has answered what was asked at that moment.
    pub fn answered(&mut self, asked: Moment, group: GroupId, bytes: u64) {
        if self.moment() == Some(asked) {
            self.groups.insert(group, bytes);
        }
    }

    /// The groups that have chunks of a file of this size and are not known.
    pub fn unknown(&self, layout: FileLayout, size: u64) -> Vec<GroupId> {
        groups_of(layout, size)
            .filter(|group| !self.groups.contains_key(group))
            .collect()
    }

    /// Bytes of all groups, if all are known.
    pub fn total(&self, layout: FileLayout, size: u64) -> Option<u64> {
        groups_of(layout, size)
            .map(|group| self.groups.get(&group).copied())
            .sum()
    }

    /// What is known of one group.
    pub fn of(&self, group: GroupId) -> u64 {
        self.groups.get(&group).copied().unwrap_or(0)
    }
}

/// The groups that have a chunk of a file of this size.
pub fn groups_of(layout: FileLayout, size: u64) -> impl Iterator<Item = GroupId> {
    let chunks = size.div_ceil(u64::from(layout.chunk_bytes.max(1)));
    let count = chunks.min(u64::from(layout.groups));
    (0..count).map(move |index| layout.group_of(ChunkIndex(index)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: FileLayout = FileLayout {
        chunk_bytes: 4096,
        first_group: GroupId(2),
        groups: 4,
    };

    fn known(size: u64) -> Stored {
        let mut stored = Stored::default();
        let moment = stored.moment().expect("quiet");
        for group in stored.unknown(LAYOUT, size) {
            stored.answered(moment, group, 100 + u64::from(group.0));
        }
        stored
    }

    #[test]
    fn a_write_leaves_what_other_groups_store() {
        let mut stored = known(9 * 4096);
        assert_eq!(stored.total(LAYOUT, 9 * 4096), Some(406));
        stored.begin(Some(&mut [GroupId(3)].into_iter()));
        assert_eq!(stored.total(LAYOUT, 9 * 4096), None);
        assert_eq!(stored.unknown(LAYOUT, 9 * 4096), [GroupId(3)]);
        assert_eq!(stored.moment(), None, "nothing is to be kept");
        stored.end();
        let moment = stored.moment().expect("quiet");
        stored.answered(moment, GroupId(3), 1000);
        assert_eq!(stored.total(LAYOUT, 9 * 4096), Some(1303));
    }

    #[test]
    fn an_answer_from_before_a_change_is_not_kept() {
        let mut stored = known(2 * 4096);
        let moment = stored.moment().expect("quiet");
        stored.begin(None);
        stored.end();
        stored.answered(moment, GroupId(2), 5);
        assert_eq!(stored.unknown(LAYOUT, 2 * 4096), [GroupId(2), GroupId(3)]);
        let moment = stored.moment().expect("quiet");
        stored.forget();
        stored.answered(moment, GroupId(2), 5);
        assert_eq!(stored.total(LAYOUT, 2 * 4096), None, "of another lease");
    }

    #[test]
    fn a_small_file_asks_few() {
        let stored = Stored::default();
        assert_eq!(stored.total(LAYOUT, 0), Some(0));
        assert_eq!(stored.unknown(LAYOUT, 1), [GroupId(2)]);
        assert_eq!(stored.unknown(LAYOUT, u64::MAX / 2).len(), 4);
    }
}
