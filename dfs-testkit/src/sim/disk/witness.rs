//! What tells a kill from a loss of power at the next start: what the machine's memory keeps of a process
//! that ended, and what is found of it.

use super::{Copy, Damage, Disk, Slot};
use dfs_proto::ids::{ChunkKey, Generation, Version};
use std::collections::{BTreeMap, BTreeSet};

/// What the machine remembers of a process that is no more.
#[derive(Clone, Debug, Default)]
pub(super) struct Witness {
    /// What was not known to be on disk.
    chunks: BTreeMap<ChunkKey, (Generation, Version)>,
    /// Damage that was known.
    damaged: BTreeSet<ChunkKey>,
}

impl Disk {
    /// The process ends, and its machine goes on.
    pub(crate) fn process_ends(&mut self) {
        let unsynced = |(key, slot): (&ChunkKey, &Slot)| {
            let stored = slot.now.stored.as_ref().filter(|_| !slot.past.is_empty())?;
            Some((*key, (stored.generation, stored.version)))
        };
        self.witness = Some(Witness {
            chunks: self.slots.iter().filter_map(unsynced).collect(),
            damaged: self.known_damage(),
        });
    }

    /// Whether nothing is missing of what the last process had written. Whoever believes a witness
    /// does not look.
    pub(crate) fn is_proven(&mut self, believes: bool) -> bool {
        let Some(witness) = self.witness.take() else {
            return false;
        };
        if believes {
            return true;
        }
        let unsynced = |slot: &&mut Slot| !slot.past.is_empty();
        for slot in self.slots.values_mut().filter(unsynced) {
            slot.now.found();
        }
        let whole = |key| {
            self.slots
                .get(key)
                .map(|slot| &slot.now)
                .filter(|now| now.is_whole())
        };
        let state = |copy: &Copy| {
            Some((
                copy.stored.as_ref()?.generation,
                copy.stored.as_ref()?.version,
            ))
        };
        let mut said = witness.chunks.iter();
        said.all(|(key, least)| whole(key).and_then(state) >= Some(*least))
            && self.known_damage().is_subset(&witness.damaged)
    }

    fn known_damage(&self) -> BTreeSet<ChunkKey> {
        let damaged = |slot: &Slot| matches!(slot.now.damage, Damage::Rot | Damage::Torn);
        let slots = self.slots.iter().filter(|(_, slot)| damaged(slot));
        slots.map(|(key, _)| *key).collect()
    }
}
