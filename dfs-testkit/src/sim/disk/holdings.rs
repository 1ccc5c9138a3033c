//! What a replica core may look up without waiting.

use super::{Disk, state};
use dfs_proto::error::Error;
use dfs_proto::ids::{ChunkKey, Epoch, Generation, GroupId, InodeId, SessionId};
use dfs_proto::msg::peer::{ChunkState, WriteRecord};
use dfs_server::replica::Holdings;

impl Holdings for Disk {
    fn chunk(&self, key: ChunkKey) -> Option<ChunkState> {
        state(key, &self.slots.get(&key)?.now)
    }

    fn chunk_bytes(&self, key: ChunkKey) -> u64 {
        self.stored(key)
            .map_or(0, |stored| stored.bytes.len() as u64)
    }

    fn record(&self, key: ChunkKey, session: SessionId) -> Result<Option<WriteRecord>, Error> {
        let stored = self.stored(key);
        Ok(stored.and_then(|stored| stored.records.get(&session).copied()))
    }

    fn floor(&self, group: GroupId, inode: InodeId) -> Generation {
        self.floor_of(group, inode)
    }

    fn floor_since(&self, group: GroupId, inode: InodeId, epoch: Epoch) -> Generation {
        let floor = self.floors.get(&(group, inode));
        let since = floor.filter(|(_, made)| *made >= epoch);
        since.map_or(Generation(0), |floor| floor.0)
    }

    fn chunks(
        &self,
        group: GroupId,
        after: Option<ChunkKey>,
        max: usize,
    ) -> (Vec<ChunkState>, bool) {
        let mut of_group = self
            .slots
            .iter()
            .filter(|(key, slot)| slot.group == group && after.is_none_or(|after| **key > after))
            .filter_map(|(key, slot)| state(*key, &slot.now));
        let page: Vec<_> = of_group.by_ref().take(max).collect();
        let end = of_group.next().is_none();
        (page, end)
    }

    fn floors(
        &self,
        group: GroupId,
        after: Option<InodeId>,
        max: usize,
    ) -> (Vec<(InodeId, Generation)>, bool) {
        let mut of_group = self
            .floors
            .iter()
            .filter(|((of, inode), _)| *of == group && after.is_none_or(|after| *inode > after))
            .map(|((_, inode), (generation, _))| (*inode, *generation));
        let page: Vec<_> = of_group.by_ref().take(max).collect();
        let end = of_group.next().is_none();
        (page, end)
    }

    fn is_low(&self) -> bool {
        self.trouble.low || self.trouble.full
    }
}
