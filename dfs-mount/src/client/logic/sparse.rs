//! Where a sparse file has data, and where it has none: what the groups say is put together. Pure.
//!
//! A chunk that some server has is data as a whole, one that nobody has is a hole. What is behind
//! the end of the file is a hole.

use dfs_proto::ids::{ChunkIndex, GroupId};
use dfs_proto::layout::FileLayout;
use std::collections::BTreeSet;

/// What is looked for, from an offset on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seek {
    Data,
    Hole,
}

/// What a group has to be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question {
    pub group: GroupId,
    pub from: ChunkIndex,
}

/// The first chunk of the kind that is looked for, group by group.
#[derive(Debug)]
pub struct Search {
    seek: Seek,
    layout: FileLayout,
    /// Chunks that the file has room for: the first one behind it.
    end: ChunkIndex,
    /// The nearest one so far.
    nearest: ChunkIndex,
}

impl Search {
    /// In a file of `size` bytes, more than `offset`. Also returns the first questions, one for
    /// each group that has a chunk of the rest.
    pub fn new(seek: Seek, layout: FileLayout, offset: u64, size: u64) -> (Self, Vec<Question>) {
        let first = layout.chunk_of(offset);
        let end = ChunkIndex(layout.chunk_of(size.saturating_sub(1)).0 + 1);
        let last = end.0.min(first.0.saturating_add(u64::from(layout.groups)));
        let questions = (first.0..last).map(|index| Question {
            group: layout.group_of(ChunkIndex(index)),
            from: ChunkIndex(index),
        });
        let search = Self {
            seek,
            layout,
            end,
            nearest: end,
        };
        (search, questions.collect())
    }

    /// How many chunks a question is to be answered with at most.
    pub fn items_max(&self) -> usize {
        match self.seek {
            Seek::Data => 1,
            Seek::Hole => dfs_proto::limits::INVENTORY_PAGE_ITEMS_MAX,
        }
    }

    /// Takes an answer: chunks that the group has, in order, and whether those are all. Returns
    /// the next question to the group, if it can still know of a nearer one.
    pub fn answered(
        &mut self,
        asked: Question,
        chunks: &[ChunkIndex],
        end: bool,
    ) -> Option<Question> {
        let step = u64::from(self.layout.groups);
        match self.seek {
            Seek::Data => {
                if let Some(first) = chunks.first() {
                    self.nearest = self.nearest.min(*first);
                }
                None
            }
            Seek::Hole => {
                let there: BTreeSet<ChunkIndex> = chunks.iter().copied().collect();
                let mut at = asked.from;
                while there.contains(&at) {
                    at = ChunkIndex(at.0.saturating_add(step));
                }
                // A page that is full says nothing of what follows it.
                let told = end || chunks.last().is_some_and(|last| at < *last);
                if told {
                    self.nearest = self.nearest.min(at);
                    return None;
                }
                (at < self.nearest).then_some(Question { from: at, ..asked })
            }
        }
    }

    /// The offset of what was found, from `offset` on in a file of `size` bytes; `None`: there are
    /// no data any more. A hole there always is.
    pub fn found(&self, offset: u64, size: u64) -> Option<u64> {
        let start = self
            .nearest
            .0
            .saturating_mul(u64::from(self.layout.chunk_bytes));
        match self.seek {
            Seek::Data => (self.nearest < self.end).then(|| start.max(offset)),
            Seek::Hole => Some(start.max(offset).min(size)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHUNK: u64 = 4096;

    fn layout(groups: u32, first_group: u32) -> FileLayout {
        FileLayout {
            chunk_bytes: CHUNK as u32,
            first_group: GroupId(first_group),
            groups,
        }
    }

    /// Asks groups that have these chunks, in pages of at most `page`.
    fn seek(
        seek: Seek,
        layout: FileLayout,
        there: &BTreeSet<u64>,
        (offset, size): (u64, u64),
        page: usize,
    ) -> Option<u64> {
        let (mut search, mut questions) = Search::new(seek, layout, offset, size);
        while let Some(question) = questions.pop() {
            let has = |index: &&u64| layout.group_of(ChunkIndex(**index)) == question.group;
            let rest: Vec<ChunkIndex> = there
                .range(question.from.0..)
                .filter(has)
                .map(|index| ChunkIndex(*index))
                .collect();
            let count = page.min(search.items_max()).min(rest.len());
            let end = count == rest.len();
            questions.extend(search.answered(question, &rest[..count], end));
        }
        search.found(offset, size)
    }

    proptest! {
        #[test]
        fn data_and_holes_are_where_a_look_at_each_chunk_finds_them(
            there in prop::collection::btree_set(0u64..24, 0..24),
            (groups, first_group) in (1u32..6).prop_flat_map(|n| (Just(n), 0..n)),
            size in 1u64..24 * CHUNK,
            offset in 0u64..24 * CHUNK,
            page in 1usize..4,
        ) {
            prop_assume!(offset < size);
            let layout = layout(groups, first_group);
            let is_data = |at: u64| there.contains(&(at / CHUNK));
            let look = |wanted: bool| (offset..size).find(|at| is_data(*at) == wanted);
            let place = (offset, size);
            prop_assert_eq!(seek(Seek::Data, layout, &there, place, page), look(true));
            let hole = seek(Seek::Hole, layout, &there, place, page);
            prop_assert_eq!(hole, Some(look(false).unwrap_or(size)));
        }
    }

    #[test]
    fn a_small_file_asks_one_group() {
        let (_, questions) = Search::new(Seek::Data, layout(64, 7), 0, 100);
        assert_eq!(
            questions,
            [Question {
                group: GroupId(7),
                from: ChunkIndex(0)
            }]
        );
        let (_, questions) = Search::new(Seek::Data, layout(64, 7), 0, u64::MAX / 2);
        assert_eq!(questions.len(), 64);
    }
}
