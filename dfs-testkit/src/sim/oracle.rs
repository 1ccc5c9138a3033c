//! What clients may see: a register for each block, checked as the history grows.
//!
//! A block is in one of several possible situations: its value, and which of the writes that
//! are under way have taken effect already. A write that begins may take effect at any moment
//! until it is answered; one that is answered has taken effect; one whose session is over and
//! fenced has or has not, for ever. A read keeps the situations that explain what it saw. None
//! left: no order of the operations explains the history.
//!
//! Reads count at the moment in which their client uses them, with the lease still held: then
//! no write of anybody else can be taking effect.

use super::random::Random;
use dfs_proto::ids::{InodeId, SessionId};
use std::collections::{BTreeMap, BTreeSet};

/// A block of a file.
pub(crate) type Block = (InodeId, u64);

/// A write as the oracle names it; also the value that it writes. `0` is the beginning.
pub(crate) type WriteId = u64;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Situation {
    value: WriteId,
    effective: BTreeSet<WriteId>,
}

#[derive(Debug)]
struct Register {
    situations: BTreeSet<Situation>,
    pending: BTreeSet<WriteId>,
}

impl Default for Register {
    fn default() -> Self {
        let untouched = Situation {
            value: 0,
            effective: BTreeSet::new(),
        };
        Self {
            situations: BTreeSet::from([untouched]),
            pending: BTreeSet::new(),
        }
    }
}

impl Register {
    /// Adds what pending writes make possible.
    fn close(&mut self) {
        let mut todo: Vec<Situation> = self.situations.iter().cloned().collect();
        while let Some(situation) = todo.pop() {
            for write in self.pending.difference(&situation.effective) {
                let mut next = situation.clone();
                next.value = *write;
                next.effective.insert(*write);
                if self.situations.insert(next.clone()) {
                    todo.push(next);
                }
            }
        }
    }

    fn read(&mut self, value: WriteId) -> bool {
        self.close();
        self.situations.retain(|s| s.value == value);
        !self.situations.is_empty()
    }

    fn answered(&mut self, write: WriteId) -> bool {
        self.close();
        self.situations.retain(|s| s.effective.contains(&write));
        self.forget(write);
        !self.situations.is_empty()
    }

    /// The write is decided, one way or the other.
    fn decided(&mut self, write: WriteId) {
        self.close();
        self.forget(write);
    }

    fn forget(&mut self, write: WriteId) {
        self.pending.remove(&write);
        self.situations = std::mem::take(&mut self.situations)
            .into_iter()
            .map(|mut s| {
                s.effective.remove(&write);
                s
            })
            .collect();
    }

    fn values(&self) -> BTreeSet<WriteId> {
        let now = self.situations.iter().map(|s| s.value);
        now.chain(self.pending.iter().copied()).collect()
    }
}

/// A write that was begun.
#[derive(Clone, Debug)]
struct Begun {
    session: SessionId,
    blocks: Vec<Block>,
}

/// The history of all clients.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    registers: BTreeMap<Block, Register>,
    open: BTreeMap<WriteId, Begun>,
    over: BTreeSet<SessionId>,
    pub(crate) writes: u64,
    pub(crate) reads: u64,
}

impl Oracle {
    /// A client begins to write.
    pub(crate) fn write_begins(&mut self, write: WriteId, session: SessionId, blocks: Vec<Block>) {
        // The directory may have ended the session before its client hears of it: then nothing
        // of it may take effect.
        if self.over.contains(&session) {
            return;
        }
        for block in &blocks {
            self.registers
                .entry(*block)
                .or_default()
                .pending
                .insert(write);
        }
        self.open.insert(write, Begun { session, blocks });
    }

    /// A client was told that its write is done.
    pub(crate) fn write_answered(&mut self, write: WriteId) -> Result<(), String> {
        let Some(begun) = self.open.remove(&write) else {
            return Ok(());
        };
        self.writes += 1;
        for block in begun.blocks {
            let register = self.registers.entry(block).or_default();
            if !register.answered(write) {
                return Err(format!(
                    "{block:?}: write {write} cannot have been before its answer"
                ));
            }
        }
        Ok(())
    }

    /// The directory gives the session's leases to others: its writes are decided.
    pub(crate) fn session_over(&mut self, session: SessionId) {
        self.over.insert(session);
        let mut decided = Vec::new();
        self.open.retain(|write, begun| {
            let keep = begun.session != session;
            if !keep {
                decided.push((*write, begun.blocks.clone()));
            }
            keep
        });
        for (write, blocks) in decided {
            for block in blocks {
                self.registers.entry(block).or_default().decided(write);
            }
        }
    }

    /// A client has read a block.
    pub(crate) fn read(&mut self, block: Block, value: WriteId) -> Result<(), String> {
        self.reads += 1;
        let register = self.registers.entry(block).or_default();
        let possible = register.values();
        if register.read(value) {
            return Ok(());
        }
        Err(format!(
            "{block:?}: a read saw {value}, possible was {possible:?}"
        ))
    }
}

/// A value that no other write writes, and that tells its client.
pub(crate) fn value_of(client: usize, number: u64, random: &mut Random) -> WriteId {
    ((client as u64 + 1) << 56) | (number << 16) | random.below(1 << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: Block = (InodeId(1), 0);
    const A: SessionId = SessionId(1);
    const B: SessionId = SessionId(2);

    #[test]
    fn an_answered_write_is_seen_by_every_later_read() {
        let mut oracle = Oracle::default();
        oracle.write_begins(7, A, vec![BLOCK]);
        assert_eq!(oracle.write_answered(7), Ok(()));
        assert_eq!(oracle.read(BLOCK, 7), Ok(()));
        assert!(oracle.read(BLOCK, 0).is_err());
    }

    #[test]
    fn a_pending_write_may_be_seen_and_then_stays() {
        let mut oracle = Oracle::default();
        oracle.write_begins(7, A, vec![BLOCK]);
        assert_eq!(oracle.read(BLOCK, 0), Ok(()));
        assert_eq!(oracle.read(BLOCK, 7), Ok(()));
        assert!(oracle.read(BLOCK, 0).is_err());
    }

    #[test]
    fn a_write_takes_effect_once() {
        let mut oracle = Oracle::default();
        oracle.write_begins(7, A, vec![BLOCK]);
        assert_eq!(oracle.write_answered(7), Ok(()));
        oracle.write_begins(8, A, vec![BLOCK]);
        assert_eq!(oracle.write_answered(8), Ok(()));
        assert!(oracle.read(BLOCK, 7).is_err());
    }

    #[test]
    fn what_a_dead_session_left_is_decided_once() {
        for seen in [0, 7] {
            let mut oracle = Oracle::default();
            oracle.write_begins(7, A, vec![BLOCK]);
            oracle.session_over(A);
            assert_eq!(oracle.read(BLOCK, seen), Ok(()), "both may be");
            assert!(
                oracle.read(BLOCK, 7 - seen).is_err(),
                "but not one after the other"
            );
            oracle.write_begins(9, B, vec![BLOCK]);
        }
    }

    #[test]
    fn a_write_begun_after_the_end_never_counts() {
        let mut oracle = Oracle::default();
        oracle.session_over(A);
        oracle.write_begins(7, A, vec![BLOCK]);
        assert_eq!(oracle.write_answered(7), Ok(()));
        assert!(oracle.read(BLOCK, 7).is_err());
    }
}
