//! What goes wrong with a disk, and what a power cut leaves of it.

use super::{Copy, Damage, Disk, Stored};
use crate::sim::random::Random;
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::{ChunkKey, GroupId};
use dfs_server::replica::DiskOp;
use std::collections::BTreeSet;

/// Bytes that a power cut leaves or takes as a whole.
const SECTOR: usize = 8;

/// The state of a disk beside what it holds.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    /// Neither new chunks nor longer ones.
    pub(crate) full: bool,
    /// The reserve is near.
    pub(crate) low: bool,
    /// The next sync, or write, fails.
    pub(crate) sync_fails: bool,
    pub(crate) write_fails: bool,
    /// Something has failed: nothing is changed any more until the process is restarted.
    pub(crate) failed: bool,
    /// Everything takes so many times as long.
    pub(crate) slow: u32,
}

impl Trouble {
    /// Whether it has failed, or does at its next sync or write.
    pub(crate) fn is_failing(&self) -> bool {
        self.failed || self.sync_fails || self.write_fails
    }

    /// Whether an operation fails now, with all that follow.
    pub(super) fn strikes(&mut self, op: &DiskOp) -> Result<(), Error> {
        self.failed |= match op {
            DiskOp::Read { .. } | DiskOp::Fetch { .. } | DiskOp::Check { .. } => return Ok(()),
            DiskOp::Sync { .. } | DiskOp::SyncGroup { .. } => self.sync_fails,
            DiskOp::Write { .. } => self.write_fails,
            _ => false,
        };
        match self.failed {
            true => Err(Error::bare(ErrorCode::DiskFailed)),
            false => Ok(()),
        }
    }
}

impl Disk {
    /// The power goes: each chunk falls back to some state between its last sync and now, or is
    /// torn between them. The groups of which something is lost.
    pub(crate) fn lose_power(&mut self, random: &mut Random) -> BTreeSet<GroupId> {
        if !self.keeps_witness {
            self.witness = None;
        }
        let mut lost = BTreeSet::new();
        for slot in self.slots.values_mut() {
            if slot.past.is_empty() {
                continue;
            }
            if slot.now.is_whole() && slot.past.iter().all(Copy::is_whole) && random.chance(150) {
                tear(&mut slot.now, &slot.past, random);
                lost.insert(slot.group);
            } else {
                let chosen = random.index(slot.past.len() + 1);
                if chosen < slot.past.len() {
                    slot.now = slot.past.swap_remove(chosen);
                    lost.insert(slot.group);
                }
            }
            // What is read after the boot is what the disk has.
            slot.past.clear();
        }
        lost
    }

    /// What a process was writing when it was killed is there in part. What it only appended counts
    /// as not there.
    pub(crate) fn tear(&mut self, op: DiskOp, random: &mut Random) {
        let DiskOp::Write { key, offset, .. } = &op else {
            return;
        };
        let (key, offset) = (*key, *offset as usize);
        let before = self.slots.get(&key).map(|slot| slot.now.clone());
        let overwrites = |copy: &Copy| copy.stored.as_ref().is_some_and(|s| offset < s.bytes.len());
        let Some(before) = before.filter(|copy| copy.is_whole() && overwrites(copy)) else {
            return;
        };
        if self.work(op).is_ok()
            && let Some(slot) = self.slots.get_mut(&key)
        {
            tear(&mut slot.now, &[before], random);
        }
    }

    /// Some chunk rots, unnoticed.
    pub(crate) fn rot(&mut self, key: ChunkKey) {
        if let Some(slot) = self.slots.get_mut(&key)
            && slot.now.is_whole()
        {
            slot.now.damage = Damage::Hidden;
        }
    }

    /// Whole chunks, in order.
    pub(crate) fn whole(&self) -> Vec<(GroupId, ChunkKey)> {
        let whole = self.slots.iter().filter(|(_, slot)| slot.now.is_whole());
        whole.map(|(key, slot)| (slot.group, *key)).collect()
    }

    /// Chunks whose copies are damaged, known or not.
    pub(crate) fn damaged(&self) -> Vec<(GroupId, ChunkKey)> {
        let damaged = |slot: &super::Slot| slot.now.damage != Damage::None;
        let slots = self.slots.iter().filter(|(_, slot)| damaged(slot));
        slots.map(|(key, slot)| (slot.group, *key)).collect()
    }

    /// Those of them that a power cut has no part in.
    pub(crate) fn rotten(&self) -> Vec<(GroupId, ChunkKey)> {
        let rotten = |slot: &super::Slot| matches!(slot.now.damage, Damage::Hidden | Damage::Rot);
        let slots = self.slots.iter().filter(|(_, slot)| rotten(slot));
        slots.map(|(key, slot)| (slot.group, *key)).collect()
    }

    /// What has rotted in a group can be read again, and the disk does not fail after all.
    pub(crate) fn spare(&mut self, group: GroupId) {
        self.trouble.sync_fails = false;
        self.trouble.write_fails = false;
        for slot in self.slots.values_mut().filter(|slot| slot.group == group) {
            if matches!(slot.now.damage, Damage::Hidden | Damage::Rot) {
                slot.now.damage = Damage::None;
            }
        }
    }

    /// Everything is read and verified.
    pub(crate) fn verify(&mut self) {
        for slot in self.slots.values_mut() {
            slot.now.found();
        }
    }
}

/// A copy that is neither this state nor another one.
fn tear(now: &mut Copy, past: &[Copy], random: &mut Random) {
    let Some(new) = &mut now.stored else { return };
    for (at, sector) in new.bytes.chunks_mut(SECTOR).enumerate() {
        let old = &past[random.index(past.len())];
        let bytes = old.stored.as_ref().map(|old: &Stored| old.bytes.as_slice());
        let old = bytes.and_then(|bytes| bytes.get(at * SECTOR..at * SECTOR + sector.len()));
        if let Some(old) = old.filter(|_| random.chance(500)) {
            sector.copy_from_slice(old);
        }
    }
    // Who accepts it takes only the records of the state that was on disk.
    let synced = past.first().and_then(|copy| copy.stored.as_ref());
    new.records = synced.map_or_else(Default::default, |synced| synced.records.clone());
    now.damage = Damage::Torn;
}
