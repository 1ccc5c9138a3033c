//! How the kernel's cached pages of an inode go away without a stale byte and without a
//! deadlock: the park-exclude scheme, as a pure state machine.
//!
//! The kernel locks a page before it sends the READ for it, and an invalidation waits for that
//! lock. So an invalidation must not cover the pages of READs that are kept waiting, and a READ
//! that arrives while an invalidation already waits for it must be answered. What such an answer
//! put into the cache goes away with another pass; the recall ends with a pass in which nothing
//! was answered.
//!
//! The FUSE adapter owns one `PageGate` an inode, tells it of every READ that goes through the
//! page cache, and executes the actions; the lease itself is the client core's business
//! (`super::lease`). No clock in here: the adapter reports that the grace of a pass is over.

use std::collections::BTreeMap;

/// One READ of the kernel, as the gate knows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReadId(pub u64);

/// Bytes `start..end`, page-aligned; `end` `u64::MAX` is the end of the file, whatever it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRange {
    pub start: u64,
    pub end: u64,
}

/// Size of the kernel's pages; larger folios are split by the kernel at an invalidation.
pub const PAGE_BYTES: u64 = 4096;

/// How long a pass may be blocked before the READs that are kept waiting are answered.
pub const PASS_GRACE: std::time::Duration = std::time::Duration::from_millis(1);

impl PageRange {
    /// The pages that a READ of `len` bytes at `offset` fills.
    pub fn covering(offset: u64, len: u64) -> Self {
        let end = offset.saturating_add(len);
        Self {
            start: offset - offset % PAGE_BYTES,
            end: end.checked_next_multiple_of(PAGE_BYTES).unwrap_or(u64::MAX),
        }
    }

    const WHOLE: Self = Self {
        start: 0,
        end: u64::MAX,
    };
}

/// What becomes of a READ that arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// Ask the client core for the data.
    Serve,
    /// Keep it: a later action names it.
    Park,
}

/// Whether answers with the data of the lease that goes are still true.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OldRights {
    /// The lease is held until the recall ends: old data are the present data.
    StillValid,
    /// The right has lapsed: only data read under a new right may be shown.
    Lost,
}

/// What the adapter does next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecallAction {
    /// Drop the kernel's cached attributes (an invalidation of offset -1).
    InvalidateAttributes,
    /// Invalidate these ranges on a notifier thread; when all are done, `pass_finished`. If that
    /// takes longer than `PASS_GRACE`, `grace_over`, once for each grace that goes by.
    Invalidate { pass: u64, ranges: Vec<PageRange> },
    /// Answer these READs now, with `ReadMode::Unblock`, whatever else they wait for; then
    /// `read_answered` for each.
    Answer(Vec<ReadId>),
    /// The pages are gone: resolve `KernelCache::drop_data`.
    Finished,
    /// Serve these READs as if they had arrived just now.
    Resume(Vec<ReadId>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Progress {
    /// With the client core, in the usual way.
    Serving,
    /// Kept here.
    Parked,
    /// With the client core, told not to wait for the recall.
    Unblocked,
}

#[derive(Debug)]
struct Read {
    pages: PageRange,
    progress: Progress,
}

#[derive(Debug)]
struct Pass {
    number: u64,
    rights: OldRights,
    /// Something was answered since the pass began: it may be in the cache.
    answered: bool,
    /// The invalidations are done; the next pass waits for the unblocked READs.
    done: bool,
}

/// The READs of one inode and the recall in progress, if any.
#[derive(Debug, Default)]
pub struct PageGate {
    reads: BTreeMap<ReadId, Read>,
    last_read: u64,
    last_pass: u64,
    pass: Option<Pass>,
}

impl PageGate {
    /// Nothing waits and no recall runs: the gate can be dropped.
    pub fn is_idle(&self) -> bool {
        self.reads.is_empty() && self.pass.is_none()
    }

    /// Whether a recall is in progress: attributes must not be answered now.
    pub fn is_recalling(&self) -> bool {
        self.pass.is_some()
    }

    /// A READ has come.
    pub fn read_arrived(&mut self, pages: PageRange) -> (ReadId, Admission) {
        self.last_read += 1;
        let id = ReadId(self.last_read);
        let (progress, admission) = match self.pass {
            None => (Progress::Serving, Admission::Serve),
            Some(_) => (Progress::Parked, Admission::Park),
        };
        self.reads.insert(id, Read { pages, progress });
        (id, admission)
    }

    /// A READ was answered, with data or an error. A second report of one READ changes nothing.
    pub fn read_answered(&mut self, id: ReadId) -> Vec<RecallAction> {
        let known = self.reads.remove(&id).is_some();
        let settled = !self.any_unblocked();
        if let (true, Some(pass)) = (known, &mut self.pass) {
            pass.answered = true;
            if pass.done && settled {
                let rights = pass.rights;
                return vec![self.begin_pass(rights)];
            }
        }
        Vec::new()
    }

    fn any_unblocked(&self) -> bool {
        self.reads
            .values()
            .any(|read| read.progress == Progress::Unblocked)
    }

    /// A WRITE that is no launder write (a store of a shared map) was served in the meantime.
    pub fn write_served(&mut self) {
        if let Some(pass) = &mut self.pass {
            pass.answered = true;
        }
    }

    /// The client core wants the pages gone. It asks again only after `Finished`.
    pub fn recall_begins(&mut self, rights: OldRights) -> Vec<RecallAction> {
        debug_assert!(self.pass.is_none(), "one recall at a time");
        vec![RecallAction::InvalidateAttributes, self.begin_pass(rights)]
    }

    fn begin_pass(&mut self, rights: OldRights) -> RecallAction {
        self.last_pass += 1;
        let number = self.last_pass;
        self.pass = Some(Pass {
            number,
            rights,
            answered: false,
            done: false,
        });
        RecallAction::Invalidate {
            pass: number,
            ranges: without(PageRange::WHOLE, self.reads.values().map(|r| r.pages)),
        }
    }

    /// The pass's invalidations are blocked for longer than the grace: what is kept waiting may
    /// hold the page that they wait for.
    pub fn grace_over(&mut self, pass: u64) -> Vec<RecallAction> {
        if self.pass.as_ref().is_none_or(|p| p.number != pass) {
            return Vec::new();
        }
        let waiting: Vec<ReadId> = self
            .reads
            .iter_mut()
            .filter(|(_, read)| read.progress != Progress::Unblocked)
            .map(|(id, read)| {
                read.progress = Progress::Unblocked;
                *id
            })
            .collect();
        if waiting.is_empty() {
            return Vec::new();
        }
        vec![RecallAction::Answer(waiting)]
    }

    /// All invalidations of the pass are done.
    pub fn pass_finished(&mut self, pass: u64) -> Vec<RecallAction> {
        let unblocked = self.any_unblocked();
        let Some(present) = self.pass.as_mut().filter(|p| p.number == pass && !p.done) else {
            return Vec::new();
        };
        let rights = present.rights;
        if rights == OldRights::StillValid && unblocked {
            // A READ that was told not to wait may be answered at any moment, with data of the
            // right that goes: the recall can't end before it was.
            present.done = true;
            return Vec::new();
        }
        if rights == OldRights::StillValid && present.answered {
            return vec![self.begin_pass(rights)];
        }
        self.pass = None;
        let mut resumed = Vec::new();
        for (id, read) in &mut self.reads {
            if read.progress == Progress::Parked {
                read.progress = Progress::Serving;
                resumed.push(*id);
            }
        }
        let mut actions = vec![RecallAction::Finished];
        if !resumed.is_empty() {
            actions.push(RecallAction::Resume(resumed));
        }
        actions
    }
}

/// `whole` less the holes, in order.
fn without(whole: PageRange, holes: impl Iterator<Item = PageRange>) -> Vec<PageRange> {
    let mut holes: Vec<PageRange> = holes.collect();
    holes.sort_by_key(|hole| hole.start);
    let mut ranges = Vec::new();
    let mut at = whole.start;
    for hole in holes {
        if hole.start > at {
            ranges.push(PageRange {
                start: at,
                end: hole.start,
            });
        }
        at = at.max(hole.end);
    }
    if at < whole.end {
        ranges.push(PageRange {
            start: at,
            end: whole.end,
        });
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(n: u64) -> PageRange {
        PageRange::covering(n * PAGE_BYTES, PAGE_BYTES)
    }

    fn pass_of(actions: &[RecallAction]) -> (u64, Vec<PageRange>) {
        actions
            .iter()
            .find_map(|action| match action {
                RecallAction::Invalidate { pass, ranges } => Some((*pass, ranges.clone())),
                _ => None,
            })
            .expect("an invalidation")
    }

    #[test]
    fn an_idle_inode_is_invalidated_whole_in_one_pass() {
        let mut gate = PageGate::default();
        let actions = gate.recall_begins(OldRights::StillValid);
        assert_eq!(actions[0], RecallAction::InvalidateAttributes);
        let (pass, ranges) = pass_of(&actions);
        assert_eq!(ranges, [PageRange::WHOLE]);
        assert_eq!(gate.pass_finished(pass), [RecallAction::Finished]);
        assert!(gate.is_idle());
    }

    #[test]
    fn a_waiting_read_is_left_out_and_resumed_afterwards() {
        let mut gate = PageGate::default();
        let (early, admission) = gate.read_arrived(page(2));
        assert_eq!(admission, Admission::Serve);
        let (pass, ranges) = pass_of(&gate.recall_begins(OldRights::StillValid));
        assert_eq!(
            ranges,
            [
                PageRange {
                    start: 0,
                    end: 2 * PAGE_BYTES
                },
                PageRange {
                    start: 3 * PAGE_BYTES,
                    end: u64::MAX
                }
            ]
        );
        let (late, admission) = gate.read_arrived(page(7));
        assert_eq!(admission, Admission::Park);
        assert_eq!(
            gate.pass_finished(pass),
            [RecallAction::Finished, RecallAction::Resume(vec![late])]
        );
        gate.read_answered(early);
        gate.read_answered(late);
        assert!(gate.is_idle());
    }

    #[test]
    fn a_blocked_pass_answers_and_is_repeated() {
        let mut gate = PageGate::default();
        let (pass, _) = pass_of(&gate.recall_begins(OldRights::StillValid));
        let (read, _) = gate.read_arrived(page(0));
        assert_eq!(gate.grace_over(pass), [RecallAction::Answer(vec![read])]);
        assert_eq!(gate.grace_over(pass), [], "nothing is answered twice");
        gate.read_answered(read);
        let second = gate.pass_finished(pass);
        let (next, ranges) = pass_of(&second);
        assert!(next > pass);
        assert_eq!(
            ranges,
            [PageRange::WHOLE],
            "the answered page is invalidated too"
        );
        assert_eq!(gate.pass_finished(next), [RecallAction::Finished]);
        assert_eq!(
            gate.pass_finished(pass),
            [],
            "a late report changes nothing"
        );
    }

    #[test]
    fn an_unblocked_read_is_waited_for_before_the_right_goes() {
        let mut gate = PageGate::default();
        let (pass, _) = pass_of(&gate.recall_begins(OldRights::StillValid));
        let (read, _) = gate.read_arrived(page(0));
        gate.grace_over(pass);
        assert_eq!(gate.pass_finished(pass), [], "its answer is waited for");
        let (second, ranges) = pass_of(&gate.read_answered(read));
        assert_eq!(ranges, [PageRange::WHOLE]);
        assert_eq!(gate.pass_finished(second), [RecallAction::Finished]);
    }

    #[test]
    fn fresh_answers_after_a_lost_right_need_no_further_pass() {
        let mut gate = PageGate::default();
        let (pass, _) = pass_of(&gate.recall_begins(OldRights::Lost));
        let (read, _) = gate.read_arrived(page(0));
        assert_eq!(gate.grace_over(pass), [RecallAction::Answer(vec![read])]);
        gate.read_answered(read);
        assert_eq!(gate.pass_finished(pass), [RecallAction::Finished]);
    }

    #[test]
    fn a_write_beside_the_pass_repeats_it() {
        let mut gate = PageGate::default();
        let (pass, _) = pass_of(&gate.recall_begins(OldRights::StillValid));
        gate.write_served();
        let (next, _) = pass_of(&gate.pass_finished(pass));
        assert_eq!(gate.pass_finished(next), [RecallAction::Finished]);
    }

    #[test]
    fn holes_overlap_and_touch() {
        let holes = [
            page(1),
            PageRange::covering(PAGE_BYTES, 3 * PAGE_BYTES),
            page(0),
        ];
        assert_eq!(
            without(PageRange::WHOLE, holes.into_iter()),
            [PageRange {
                start: 4 * PAGE_BYTES,
                end: u64::MAX
            }]
        );
        assert_eq!(
            without(PageRange::WHOLE, [PageRange::WHOLE].into_iter()),
            []
        );
    }
}
