//! What clients may see: a register for each block, checked as the history grows.
//!
//! A change (a write, or a cut, which makes zeros) may take effect at any moment between its
//! beginning and its answer; one that was answered has taken effect; one whose session is over
//! and fenced has or has not, for ever. A read keeps the situations that explain what it saw.
//! None left: no order of the operations explains the history.
//!
//! Reads count at the moment in which their client uses them, with the lease still held: then
//! no change of anybody else can be taking effect.
//!
//! Where all disks of a group lost power, what was not synced may be gone (`lost`); what was
//! synced may not.

mod register;
#[cfg(test)]
mod tests;

use super::random::Random;
use dfs_proto::ids::{InodeId, SessionId};
use register::Register;
use std::collections::{BTreeMap, BTreeSet};

/// A block of a file.
pub(crate) type Block = (InodeId, u64);

/// What a block holds; `0` is the beginning, and what a cut leaves.
pub(crate) type Value = u64;

/// A write, or a part of one, or a cut.
pub(crate) type ChangeId = u64;

/// A change that was begun.
#[derive(Clone, Debug)]
struct Begun {
    session: SessionId,
    blocks: Vec<Block>,
    moment: u64,
    cuts: bool,
}

/// A sync under way: what it promises when it is answered.
#[derive(Clone, Debug)]
pub(crate) struct Syncing {
    moment: u64,
    values: BTreeMap<Block, BTreeSet<Value>>,
}

/// The history of all clients.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    registers: BTreeMap<Block, Register>,
    open: BTreeMap<ChangeId, Begun>,
    /// Refused in doubt.
    late: BTreeMap<ChangeId, Begun>,
    over: BTreeSet<SessionId>,
    moments: u64,
    pub(crate) writes: u64,
    pub(crate) reads: u64,
    pub(crate) cuts: u64,
    pub(crate) syncs: u64,
    /// How often a group was allowed to lose what was not synced.
    pub(crate) losses: u64,
}

impl Oracle {
    fn moment(&mut self) -> u64 {
        self.moments += 1;
        self.moments
    }

    /// A client begins to write.
    pub(crate) fn write_begins(
        &mut self,
        write: ChangeId,
        value: Value,
        session: SessionId,
        blocks: Vec<Block>,
    ) {
        self.begins(write, value, session, blocks);
    }

    /// A client begins to make zeros of blocks.
    pub(crate) fn cut_begins(&mut self, cut: ChangeId, session: SessionId, blocks: Vec<Block>) {
        self.begins(cut, 0, session, blocks);
    }

    fn begins(&mut self, id: ChangeId, value: Value, session: SessionId, blocks: Vec<Block>) {
        // The directory may have ended the session before its client hears of it: then nothing
        // of it may take effect.
        if self.over.contains(&session) {
            return;
        }
        let moment = self.moment();
        for block in &blocks {
            let register = self.registers.entry(*block).or_default();
            register.begins(id, value, moment);
        }
        let cuts = value == 0;
        let begun = Begun {
            session,
            blocks,
            moment,
            cuts,
        };
        self.open.insert(id, begun);
    }

    /// A client was told that its change is done.
    pub(crate) fn answered(&mut self, change: ChangeId) -> Result<(), String> {
        let Some(begun) = self.open.remove(&change) else {
            return Ok(());
        };
        match begun.cuts {
            true => self.cuts += 1,
            false => self.writes += 1,
        }
        for block in begun.blocks {
            let register = self.registers.entry(block).or_default();
            if !register.answered(change) {
                return Err(format!(
                    "{block:?}: change {change} cannot have been before its answer"
                ));
            }
            if begun.cuts {
                // A cut is on disk when it is answered.
                register.synced(&BTreeSet::from([0]), begun.moment);
            }
        }
        Ok(())
    }

    /// A client was told that nobody has applied its write. With `in_doubt` an earlier sending of
    /// it may still be on its way.
    pub(crate) fn refused(&mut self, change: ChangeId, in_doubt: bool) -> Result<(), String> {
        let Some(begun) = self.open.remove(&change) else {
            return Ok(());
        };
        for block in &begun.blocks {
            let register = self.registers.entry(*block).or_default();
            if !register.refused(change, in_doubt) {
                return Err(format!("{block:?}: change {change} was refused and seen"));
            }
        }
        if in_doubt {
            self.late.insert(change, begun);
        }
        Ok(())
    }

    /// The directory gives the session's leases to others: its changes are decided.
    pub(crate) fn session_over(&mut self, session: SessionId) {
        self.over.insert(session);
        let of = |(_, begun): &(&ChangeId, &mut Begun)| begun.session == session;
        let open: Vec<ChangeId> = self.open.iter_mut().filter(of).map(|(c, _)| *c).collect();
        for change in open {
            let begun = self.open.remove(&change);
            for block in begun.into_iter().flat_map(|begun| begun.blocks) {
                self.registers.entry(block).or_default().decided(change);
            }
        }
        let late: Vec<ChangeId> = self.late.iter_mut().filter(of).map(|(c, _)| *c).collect();
        for change in late {
            let begun = self.late.remove(&change);
            for block in begun.into_iter().flat_map(|begun| begun.blocks) {
                let register = self.registers.entry(block).or_default();
                register.decided(change);
                register.over(change);
            }
        }
    }

    /// What lies beyond the size of a file that a session left is cut, and the cut has ended. An error
    /// if something was there that was answered.
    pub(crate) fn settled(&mut self, block: Block) -> Result<(), String> {
        let moment = self.moment();
        let register = self.registers.entry(block).or_default();
        let possible = register.values();
        register.is_now(0, moment);
        match possible.contains(&0) {
            true => Ok(()),
            false => Err(format!("{block:?} was one of {possible:?}")),
        }
    }

    /// A client begins to sync these blocks.
    pub(crate) fn sync_begins(&mut self, blocks: impl Iterator<Item = Block>) -> Syncing {
        let moment = self.moment();
        let values = blocks.map(|block| {
            let register = self.registers.entry(block).or_default();
            (block, register.values())
        });
        Syncing {
            values: values.collect(),
            moment,
        }
    }

    /// A client was told that they are on disk.
    pub(crate) fn synced(&mut self, sync: &Syncing) {
        self.syncs += 1;
        for (block, values) in &sync.values {
            let register = self.registers.entry(*block).or_default();
            register.synced(values, sync.moment);
        }
    }

    /// All that is left of these blocks is what disks have kept through a loss of power.
    pub(crate) fn lost(&mut self, blocks: impl Iterator<Item = Block>) {
        self.losses += 1;
        let moment = self.moment();
        for block in blocks {
            self.registers.entry(block).or_default().lost(moment);
        }
    }

    /// A client has read a block.
    pub(crate) fn read(&mut self, block: Block, value: Value) -> Result<(), String> {
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

/// A number that names one change.
pub(crate) fn change_of(client: usize, number: u64) -> ChangeId {
    ((client as u64 + 1) << 56) | number
}

/// A value that no other write writes, and that tells its client.
pub(crate) fn value_of(client: usize, number: u64, random: &mut Random) -> Value {
    ((client as u64 + 1) << 56) | (number << 16) | random.below(1 << 16)
}
