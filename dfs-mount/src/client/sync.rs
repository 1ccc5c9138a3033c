//! fsync: data on the disks of every in-sync replica, size and times in the directory's log. For
//! fdatasync the times may follow later.

use super::call::Wait;
use super::core::Core;
use super::inode::Inode;
use super::lasting::Lasting;
use super::opens::Open;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{ChunkIndex, Generation, GroupId, Version};
use dfs_proto::layout::FileLayout;
use dfs_proto::msg::namespace::GetAttr;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Groups that are synced at once for one call.
const GROUPS_AT_ONCE: usize = 16;

/// What a sync is to bring onto disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Synced {
    /// fsync(2).
    Everything,
    /// fdatasync(2): what is needed to read the data again.
    Data,
}

/// The last acknowledged write of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Unsynced {
    pub(super) version: Version,
    /// In a later one the write may be gone on purpose.
    pub(super) generation: Generation,
}

impl Unsynced {
    /// What a sync in this generation names: a cut may have taken the chunk since.
    pub(super) fn named(self, generation: Generation) -> Version {
        match self.generation < generation {
            true => Version::HOLE,
            false => self.version,
        }
    }
}

type Chunks = BTreeMap<GroupId, Vec<(ChunkIndex, Unsynced)>>;

impl Core {
    pub(super) async fn fsync(self: &Arc<Self>, open: Arc<Open>, what: Synced) -> Result<()> {
        let core = self.clone();
        let sync = async move {
            open.inode.check(open.opened_at)?;
            // Side by side: each is needed before the return, neither for the other.
            let (synced, pushed) = tokio::join!(
                core.sync_data(&open.inode),
                core.push_for(&open.inode, what)
            );
            synced?;
            pushed?;
            // The session may have ended beside the sync, and what was unpushed with it.
            open.inode.check(open.opened_at)
        };
        Lasting::new(&self.data, sync).await
    }

    async fn push_for(self: &Arc<Self>, inode: &Arc<Inode>, what: Synced) -> Result<()> {
        let needed = what == Synced::Everything || {
            let state = inode.state();
            state.data.is_some_and(|data| data.is_size_unpushed())
        };
        match needed {
            true => self.push(inode).await.map(drop),
            false => Ok(()),
        }
    }

    /// Everything that any mount has written to the inode, onto disk.
    pub(super) async fn sync_data(self: &Arc<Self>, inode: &Arc<Inode>) -> Result<()> {
        let known = {
            let state = inode.state();
            let exclusive = state.lease.holds_exclusive();
            state
                .data
                .as_ref()
                .filter(|_| exclusive)
                .map(|data| (data.layout(), data.size(), state.lost_at))
        };
        let was_exclusive = known.is_some();
        let (layout, size, lost_at) = match known {
            Some(known) => known,
            None => {
                // Asks the holder of the exclusive lease, which pushes before it answers.
                let lost_at = inode.state().lost_at;
                let id = inode.id;
                let asked = self.ask(Wait::Long, |session| GetAttr { session, inode: id });
                let (seen, _) = asked.await?;
                (seen.attr.layout, seen.attr.size, lost_at)
            }
        };
        let (own, everything) = {
            let state = inode.state();
            (state.unsynced.clone(), !state.others_synced)
        };
        let groups = groups_to_sync(layout, size, &own, everything);
        let session = self.session().await?;
        let mut waiting = groups.into_iter();
        let mut syncs = JoinSet::new();
        let mut failure = None;
        if waiting.len() == 1
            && let Some((group, chunks)) = waiting.next()
        {
            // No task for that.
            let synced = self.sync_group(inode, session.clone(), group, chunks);
            failure = synced.await.err();
        }
        loop {
            while syncs.len() < GROUPS_AT_ONCE
                && let Some((group, chunks)) = waiting.next()
            {
                let (core, inode, session) = (self.clone(), inode.clone(), session.clone());
                syncs.spawn(async move { core.sync_group(&inode, session, group, chunks).await });
            }
            let Some(joined) = syncs.join_next().await else {
                break;
            };
            let result = joined.map_err(|e| Error::new(ErrorCode::Internal, e.to_string()))?;
            if let Err(error) = result {
                failure = Some(error);
            }
        }
        let mut state = inode.state();
        if failure.is_none() && std::mem::take(&mut state.write_lost) {
            failure = Some(Error::new(ErrorCode::WriteLost, "servers lost a write"));
        }
        let lost = failure
            .as_ref()
            .is_some_and(|e| e.code == ErrorCode::WriteLost);
        if failure.is_none() || lost {
            // A loss is reported once, to the fsync that meets it, as a local disk's would be.
            state
                .unsynced
                .retain(|index, unsynced| own.get(index) != Some(unsynced));
        }
        match failure {
            Some(error) => {
                drop(state);
                log::error!("{}: fsync failed: {error}", inode.id);
                Err(error)
            }
            None => {
                // Nobody else can have written since the sync began.
                if was_exclusive && state.lease.holds_exclusive() && state.lost_at == lost_at {
                    state.others_synced = true;
                }
                Ok(())
            }
        }
    }
}

/// The groups to ask, each with what this mount knows to have written there.
fn groups_to_sync(
    layout: FileLayout,
    size: u64,
    own: &BTreeMap<ChunkIndex, Unsynced>,
    everything: bool,
) -> Chunks {
    let mut groups = Chunks::new();
    if everything {
        let chunks = size.div_ceil(u64::from(layout.chunk_bytes));
        for index in 0..chunks.min(u64::from(layout.groups)) {
            groups
                .entry(layout.group_of(ChunkIndex(index)))
                .or_default();
        }
    }
    for (index, unsynced) in own {
        let group = groups.entry(layout.group_of(*index)).or_default();
        group.push((*index, *unsynced));
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::ids::Epoch;

    #[test]
    fn what_others_wrote_is_synced_with_the_own() {
        let layout = FileLayout {
            chunk_bytes: 4096,
            first_group: GroupId(2),
            groups: 4,
        };
        let version = Version {
            epoch: Epoch(1),
            counter: 5,
        };
        let unsynced = Unsynced {
            version,
            generation: Generation(3),
        };
        assert_eq!(unsynced.named(Generation(3)), version);
        assert_eq!(unsynced.named(Generation(4)), Version::HOLE);
        let own = BTreeMap::from([(ChunkIndex(1), unsynced)]);
        let groups = groups_to_sync(layout, 3 * 4096, &own, false);
        assert_eq!(
            groups,
            Chunks::from([(GroupId(3), vec![(ChunkIndex(1), unsynced)])])
        );
        let groups = groups_to_sync(layout, 3 * 4096, &own, true);
        assert_eq!(
            groups,
            Chunks::from([
                (GroupId(2), vec![]),
                (GroupId(3), vec![(ChunkIndex(1), unsynced)]),
                (GroupId(0), vec![]),
            ])
        );
        let all: Vec<GroupId> = groups_to_sync(layout, 1 << 40, &own, true)
            .into_keys()
            .collect();
        assert_eq!(all.len(), 4);
    }
}
