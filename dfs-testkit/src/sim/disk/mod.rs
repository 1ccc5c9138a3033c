//! A file server's chunk store in memory. It has the parts that matter: what is on disk and what
//! a power cut would take, damage, full disks and failures (`trouble`); the work that it does (`work`)
//! what may be looked up in it (`holdings`), and what proves after a kill that all is there (`witness`).

mod holdings;
mod trouble;
mod witness;
mod work;

use dfs_proto::cluster::GroupConfig;
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::{ChunkKey, Epoch, Generation, GroupId, InodeId, SessionId, Version};
use dfs_proto::msg::peer::{ChunkState, WriteRecord};
use std::collections::{BTreeMap, BTreeSet};
pub(crate) use trouble::Trouble;
use witness::Witness;

/// One chunk as it is stored.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Stored {
    pub(crate) generation: Generation,
    pub(crate) version: Version,
    pub(crate) bytes: Vec<u8>,
    pub(crate) records: BTreeMap<SessionId, WriteRecord>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Damage {
    #[default]
    None,
    /// Not read since.
    Hidden,
    Rot,
    /// A power cut left neither the old nor the new state.
    Torn,
}

/// A state of a chunk on disk.
#[derive(Clone, Debug, Default)]
struct Copy {
    /// `None`: a hole.
    stored: Option<Stored>,
    damage: Damage,
}

impl Copy {
    fn is_whole(&self) -> bool {
        self.stored.is_some() && self.damage == Damage::None
    }

    /// It is read: damage is noticed.
    fn found(&mut self) {
        if self.damage == Damage::Hidden {
            self.damage = Damage::Rot;
        }
    }

    fn is_known_damaged(&self) -> bool {
        matches!(self.damage, Damage::Rot | Damage::Torn)
    }
}

#[derive(Clone, Debug)]
struct Slot {
    group: GroupId,
    now: Copy,
    /// What a power cut may go back to: the last synced state and those since, oldest first.
    past: Vec<Copy>,
}

/// The disk of one server; it outlives its processes.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    slots: BTreeMap<ChunkKey, Slot>,
    /// With the epoch in which it was raised.
    floors: BTreeMap<(GroupId, InodeId), (Generation, Epoch)>,
    configs: BTreeMap<GroupId, GroupConfig>,
    fenced: BTreeSet<SessionId>,
    pub(crate) trouble: Trouble,
    /// What the last process left in the machine's memory.
    witness: Option<Witness>,
    /// A planted bug: the witness is not in memory.
    pub(crate) keeps_witness: bool,
    /// A planted bug: cuts take what was written after them.
    pub(crate) late_cuts: bool,
}

impl Disk {
    /// The epochs that were made durable.
    pub(crate) fn configs(&self) -> Vec<GroupConfig> {
        self.configs.values().cloned().collect()
    }

    pub(crate) fn fenced(&self) -> Vec<SessionId> {
        self.fenced.iter().copied().collect()
    }

    pub(crate) fn stored(&self, key: ChunkKey) -> Option<&Stored> {
        self.slots.get(&key)?.now.stored.as_ref()
    }

    /// What a power cut would leave at least.
    pub(crate) fn durable(&self, key: ChunkKey) -> Option<&Stored> {
        let slot = self.slots.get(&key)?;
        slot.past.first().unwrap_or(&slot.now).stored.as_ref()
    }

    /// Whether a chunk is damaged, known or not.
    pub(crate) fn is_damaged(&self, key: ChunkKey) -> bool {
        let slot = self.slots.get(&key);
        slot.is_some_and(|slot| slot.now.damage != Damage::None)
    }

    /// Every chunk of a group that is no hole.
    pub(crate) fn of_group(&self, group: GroupId) -> impl Iterator<Item = (ChunkKey, &Stored)> {
        let slots = self.slots.iter().filter(move |(_, s)| s.group == group);
        slots.filter_map(|(key, slot)| Some((*key, slot.now.stored.as_ref()?)))
    }

    /// An orderly stop has everything on disk.
    pub(crate) fn sync_all(&mut self) {
        self.sync(|_, _| true);
    }

    fn change(&mut self, key: ChunkKey, group: GroupId, new: Option<Stored>) {
        let slot = self.slots.entry(key).or_insert_with(|| Slot {
            group,
            now: Copy::default(),
            past: Vec::new(),
        });
        let new = Copy {
            stored: new,
            damage: Damage::None,
        };
        slot.past.push(std::mem::replace(&mut slot.now, new));
    }

    /// Reads a chunk: damage is noticed.
    fn look(&mut self, key: ChunkKey) -> Result<Option<&Stored>, Error> {
        let Some(slot) = self.slots.get_mut(&key) else {
            return Ok(None);
        };
        slot.now.found();
        match slot.now.damage {
            Damage::None => Ok(slot.now.stored.as_ref()),
            _ => Err(Error::bare(ErrorCode::Rotten)),
        }
    }

    fn sync(&mut self, which: impl Fn(ChunkKey, GroupId) -> bool) {
        for (key, slot) in &mut self.slots {
            if which(*key, slot.group) {
                slot.past.clear();
            }
        }
    }

    fn floor_of(&self, group: GroupId, inode: InodeId) -> Generation {
        self.floors
            .get(&(group, inode))
            .map_or(Generation(0), |f| f.0)
    }

    fn raise_floor(&mut self, group: GroupId, inode: InodeId, generation: Generation) -> bool {
        let epoch = self.configs.get(&group).map_or(Epoch(0), |c| c.epoch);
        // A cut that is made again in a later epoch counts as made in that one.
        let floor = self.floors.entry((group, inode)).or_default();
        let higher = (generation, epoch) > *floor;
        if higher {
            *floor = (generation, epoch);
        }
        higher
    }
}

fn state(key: ChunkKey, copy: &Copy) -> Option<ChunkState> {
    let stored = copy.stored.as_ref()?;
    Some(ChunkState {
        key,
        generation: stored.generation,
        version: stored.version,
        damaged: copy.is_known_damaged(),
    })
}
