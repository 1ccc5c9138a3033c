//! What this server has promised, kept durably for the replica layer: generation floors,
//! adopted epochs, fenced sessions, and notes. The store obeys the floors; of the rest it
//! understands nothing.

use super::error::{Result, StoreError};
use super::index::{Change, Content, Floor};
use super::store::ChunkStore;
use dfs_proto::cluster::GroupConfig;
use dfs_proto::ids::{Epoch, Generation, GroupId, InodeId, SessionId};
use std::collections::{BTreeMap, BTreeSet};

/// Longest value of a note.
const NOTE_BYTES_MAX: usize = 4096;

/// The promises in memory. They change here before they are durable: to refuse too early is
/// safe, and whoever answers somebody waits for the disk first.
#[derive(Debug, Default)]
pub(super) struct Promises {
    floors: BTreeMap<(GroupId, InodeId), Floor>,
    epochs: BTreeMap<GroupId, GroupConfig>,
    fences: BTreeSet<SessionId>,
    notes: BTreeMap<String, Vec<u8>>,
}

impl Promises {
    pub(super) fn of(content: &mut Content) -> Self {
        Self {
            floors: std::mem::take(&mut content.floors)
                .into_iter()
                .map(|(group, inode, floor)| ((group, inode), floor))
                .collect(),
            epochs: std::mem::take(&mut content.epochs)
                .into_iter()
                .map(|config| (config.group, config))
                .collect(),
            fences: std::mem::take(&mut content.fences).into_iter().collect(),
            notes: std::mem::take(&mut content.notes).into_iter().collect(),
        }
    }

    pub(super) fn floor(&self, group: GroupId, inode: InodeId) -> Option<Generation> {
        self.floors
            .get(&(group, inode))
            .map(|floor| floor.generation)
    }

    /// A note that is a number.
    pub(super) fn number(&self, note: &str) -> Option<u64> {
        let bytes = self.notes.get(note)?.as_slice().try_into().ok()?;
        Some(u64::from_le_bytes(bytes))
    }

    /// Raises floors; what is to be written.
    pub(super) fn raise(
        &mut self,
        group: GroupId,
        inode: InodeId,
        generation: Generation,
    ) -> Option<Change> {
        let epoch = self.epochs.get(&group).map_or(Epoch(0), |c| c.epoch);
        // A cut that is made again in a later epoch counts as made in that one: else one
        // replica would forget its floor while another, which made it later, keeps it.
        let kept = self.floors.get(&(group, inode));
        if kept.is_some_and(|kept| (kept.generation, kept.epoch) >= (generation, epoch)) {
            return None;
        }
        let floor = Floor { generation, epoch };
        self.floors.insert((group, inode), floor);
        Some(Change::PutFloor(group, inode, floor))
    }
}

impl ChunkStore {
    /// The generation below which requests for chunks of this inode in this group are refused.
    pub fn floor(&self, group: GroupId, inode: InodeId) -> Option<Generation> {
        self.promises().floor(group, inode)
    }

    /// The same, if it was raised in that epoch of the group or a later one.
    pub fn floor_since(&self, group: GroupId, inode: InodeId, epoch: Epoch) -> Option<Generation> {
        let promises = self.promises();
        let floor = promises.floors.get(&(group, inode));
        let since = floor.filter(|floor| floor.epoch >= epoch);
        since.map(|floor| floor.generation)
    }

    /// Floors of a group in the order of inodes, and whether that was the end.
    pub fn floors(
        &self,
        group: GroupId,
        after: Option<InodeId>,
        max: usize,
    ) -> (Vec<(InodeId, Generation)>, bool) {
        use std::ops::Bound::{Excluded, Included};
        let promises = self.promises();
        let start = match after {
            Some(inode) => Excluded((group, inode)),
            None => Included((group, InodeId(0))),
        };
        let end = Included((group, InodeId(u64::MAX)));
        let mut left = promises.floors.range((start, end));
        let page = left
            .by_ref()
            .take(max)
            .map(|((_, inode), floor)| (*inode, floor.generation))
            .collect();
        (page, left.next().is_none())
    }

    /// Takes floors over from another replica; a lower floor than the present one is ignored.
    /// Chunks of older generations stay, to be compared. Durable when it returns.
    pub fn install_floors(&self, group: GroupId, floors: &[(InodeId, Generation)]) -> Result<()> {
        let _open = self.usable()?;
        let ticket = {
            let mut promises = self.promises();
            let changes = floors
                .iter()
                .filter_map(|(inode, generation)| promises.raise(group, *inode, *generation))
                .collect();
            self.index.enqueue(changes)
        };
        self.wait(ticket)
    }

    /// Forgets floors of the group that were made in an epoch before `epoch`.
    pub fn drop_floors(&self, group: GroupId, epoch: Epoch) -> Result<()> {
        let _open = self.usable()?;
        let ticket = {
            let mut promises = self.promises();
            let old: Vec<InodeId> = promises
                .floors
                .range((group, InodeId(0))..=(group, InodeId(u64::MAX)))
                .filter(|(_, floor)| floor.epoch < epoch)
                .map(|((_, inode), _)| *inode)
                .collect();
            for inode in &old {
                promises.floors.remove(&(group, *inode));
            }
            let changes = old.into_iter().map(|inode| Change::DropFloor(group, inode));
            self.index.enqueue(changes.collect())
        };
        self.wait(ticket)
    }

    /// Keeps the adopted epochs; an older epoch of a group than the one kept is ignored.
    /// Durable when it returns (one fsync for all, and for concurrent callers).
    pub fn put_epochs(&self, configs: &[GroupConfig]) -> Result<()> {
        self.adopt(configs, &[])
    }

    /// Keeps adopted epochs and the ended sessions that belong to the adoption, together: both
    /// durable when it returns, or neither.
    pub fn adopt(&self, configs: &[GroupConfig], ended: &[SessionId]) -> Result<()> {
        let _open = self.usable()?;
        // Copies are made within an epoch.
        let groups: BTreeSet<GroupId> = configs.iter().map(|config| config.group).collect();
        self.installations
            .give_up(|_, group| groups.contains(&group));
        let ticket = {
            let mut promises = self.promises();
            let mut changes = Vec::new();
            for session in ended {
                if promises.fences.insert(*session) {
                    changes.push(Change::PutFence(*session));
                }
            }
            for config in configs {
                let kept = promises.epochs.get(&config.group);
                if kept.is_some_and(|kept| kept.epoch > config.epoch) {
                    continue;
                }
                promises.epochs.insert(config.group, config.clone());
                changes.push(Change::PutEpoch(config.clone()));
            }
            self.index.enqueue(changes)
        };
        self.wait(ticket)
    }

    /// The adopted epochs, ordered by group.
    pub fn epochs(&self) -> Vec<GroupConfig> {
        self.promises().epochs.values().cloned().collect()
    }

    /// Adds ended sessions. Durable when it returns.
    pub fn put_fences(&self, sessions: &[SessionId]) -> Result<()> {
        self.adopt(&[], sessions)
    }

    /// The ended sessions that are kept, in order.
    pub fn fences(&self) -> Vec<SessionId> {
        self.promises().fences.iter().copied().collect()
    }

    /// Forgets ended sessions.
    pub fn drop_fences(&self, sessions: &[SessionId]) -> Result<()> {
        let _open = self.usable()?;
        let ticket = {
            let mut promises = self.promises();
            let mut changes = Vec::new();
            for session in sessions {
                if promises.fences.remove(session) {
                    changes.push(Change::DropFence(*session));
                }
            }
            self.index.enqueue(changes)
        };
        self.wait(ticket)
    }

    /// Keeps a small value of the replica layer under a name (at most 4 KiB). Durable when it
    /// returns.
    pub fn put_note(&self, name: &str, value: &[u8]) -> Result<()> {
        let _open = self.usable()?;
        if value.len() > NOTE_BYTES_MAX {
            return Err(StoreError::Invalid(format!(
                "the note {name} has {} bytes, more than {NOTE_BYTES_MAX}",
                value.len()
            )));
        }
        let ticket = {
            let mut promises = self.promises();
            promises.notes.insert(name.to_owned(), value.to_owned());
            let change = Change::PutNote(name.to_owned(), value.to_owned());
            self.index.enqueue(vec![change])
        };
        self.wait(ticket)
    }

    /// A value kept by `put_note`.
    pub fn note(&self, name: &str) -> Option<Vec<u8>> {
        self.promises().notes.get(name).cloned()
    }
}
