//! Where a sparse file has data, and where it has none: what the groups say is put together. Pure.
//!
//! Data and holes are told apart by blocks within a chunk; a chunk that nobody has is a hole. What is
//! behind the end of the file is a hole.

use dfs_proto::ids::{ChunkIndex, GroupId};
use dfs_proto::layout::FileLayout;
use dfs_proto::msg::chunk::{FoundChunks, Seek};
use std::collections::BTreeSet;

/// What a group has to be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question {
    pub group: GroupId,
    pub from: ChunkIndex,
    /// Bytes into that chunk.
    pub offset: u32,
}

/// The first place of what is looked for, group by group.
#[derive(Debug)]
pub struct Search {
    seek: Seek,
    layout: FileLayout,
    offset: u64,
    size: u64,
    /// The nearest place so far.
    nearest: u64,
}

impl Search {
    /// In a file of `size` bytes, more than `offset`. Also returns the first questions, one for
    /// each group that has a chunk of the rest.
    pub fn new(seek: Seek, layout: FileLayout, offset: u64, size: u64) -> (Self, Vec<Question>) {
        let first = layout.chunk_of(offset);
        let end = layout.chunk_of(size.saturating_sub(1)).0 + 1;
        let last = end.min(first.0.saturating_add(u64::from(layout.groups)));
        let questions = (first.0..last).map(|index| Question {
            group: layout.group_of(ChunkIndex(index)),
            from: ChunkIndex(index),
            offset: match index == first.0 {
                true => (offset % u64::from(layout.chunk_bytes)) as u32,
                false => 0,
            },
        });
        let search = Self {
            seek,
            layout,
            offset,
            size,
            nearest: size,
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

    /// Takes an answer. Returns the next question to the group, if it can still know of a nearer
    /// place.
    pub fn answered(&mut self, asked: Question, answer: &FoundChunks) -> Option<Question> {
        if self.seek == Seek::Data {
            if let Some((index, at)) = answer.found {
                self.take(index, at);
            }
            return None;
        }
        let whole: BTreeSet<ChunkIndex> = answer.whole.iter().copied().collect();
        let step = u64::from(self.layout.groups);
        let mut at = asked;
        while whole.contains(&at.from) {
            at.from = ChunkIndex(at.from.0.saturating_add(step));
            at.offset = 0;
        }
        match answer.found {
            Some((index, begin)) if index == at.from => self.take(index, begin),
            // It is not there though what follows it was looked at. A page that is full says
            // nothing of what follows.
            Some(_) => self.take(at.from, at.offset),
            None if answer.end => self.take(at.from, at.offset),
            None if answer.whole.last().is_some_and(|last| at.from < *last) => {
                self.take(at.from, at.offset);
            }
            None => return (self.place(at.from, at.offset) < self.nearest).then_some(at),
        }
        None
    }

    fn take(&mut self, index: ChunkIndex, at: u32) {
        self.nearest = self.nearest.min(self.place(index, at));
    }

    fn place(&self, index: ChunkIndex, at: u32) -> u64 {
        let start = index.0.saturating_mul(u64::from(self.layout.chunk_bytes));
        start.saturating_add(u64::from(at)).max(self.offset)
    }

    /// What was found; `None`: there are no data any more. A hole there always is.
    pub fn found(&self) -> Option<u64> {
        (self.seek == Seek::Hole || self.nearest < self.size).then_some(self.nearest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Two blocks, of one byte each.
    const CHUNK: u64 = 2;

    fn layout(groups: u32, first_group: u32) -> FileLayout {
        FileLayout {
            chunk_bytes: CHUNK as u32,
            first_group: GroupId(first_group),
            groups,
        }
    }

    /// As a file server answers that has these bytes of the group, in pages of at most `page`.
    fn answer(
        seek: Seek,
        asked: Question,
        there: &BTreeSet<u64>,
        layout: FileLayout,
        page: usize,
    ) -> FoundChunks {
        let mut answer = FoundChunks {
            whole: Vec::new(),
            found: None,
            end: false,
        };
        let chunks: BTreeSet<u64> = there.iter().map(|byte| byte / CHUNK).collect();
        for index in chunks.range(asked.from.0..) {
            if layout.group_of(ChunkIndex(*index)) != asked.group {
                continue;
            }
            let from = if *index == asked.from.0 {
                asked.offset
            } else {
                0
            };
            let wanted = seek == Seek::Data;
            let is = |at: &u32| there.contains(&(index * CHUNK + u64::from(*at))) == wanted;
            answer.found = (from..CHUNK as u32)
                .find(is)
                .map(|at| (ChunkIndex(*index), at));
            if answer.found.is_some() {
                return answer;
            }
            if seek == Seek::Hole {
                answer.whole.push(ChunkIndex(*index));
                if answer.whole.len() == page {
                    return answer;
                }
            }
        }
        answer.end = true;
        answer
    }

    proptest! {
        #[test]
        fn data_and_holes_are_where_a_look_at_each_block_finds_them(
            there in prop::collection::btree_set(0u64..48, 0..48),
            (groups, first_group) in (1u32..6).prop_flat_map(|n| (Just(n), 0..n)),
            size in 1u64..48,
            offset in 0u64..48,
            page in 1usize..4,
            seek in prop::sample::select(vec![Seek::Data, Seek::Hole]),
        ) {
            prop_assume!(offset < size);
            let layout = layout(groups, first_group);
            let (mut search, mut questions) = Search::new(seek, layout, offset, size);
            while let Some(question) = questions.pop() {
                let answer = answer(seek, question, &there, layout, page);
                questions.extend(search.answered(question, &answer));
            }
            let look = |wanted: bool| (offset..size).find(|at| there.contains(at) == wanted);
            let expected = match seek {
                Seek::Data => look(true),
                Seek::Hole => Some(look(false).unwrap_or(size)),
            };
            prop_assert_eq!(search.found(), expected);
        }
    }

    #[test]
    fn a_small_file_asks_one_group() {
        let (_, questions) = Search::new(Seek::Data, layout(64, 7), 1, 2);
        assert_eq!(
            questions,
            [Question {
                group: GroupId(7),
                from: ChunkIndex(0),
                offset: 1,
            }]
        );
        let (_, questions) = Search::new(Seek::Data, layout(64, 7), 0, u64::MAX / 2);
        assert_eq!(questions.len(), 64);
    }
}
