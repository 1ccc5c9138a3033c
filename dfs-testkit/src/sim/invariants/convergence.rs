//! When all faults are over, everybody is in-sync again and all replicas are equal.

use super::Seen;
use crate::sim::disk::Stored;
use dfs_directory::placement::Placed;
use dfs_proto::ids::ChunkKey;
use std::collections::BTreeMap;

/// What still keeps the groups from being whole.
pub(crate) fn missing(placed: &Placed, servers: &[Seen<'_>]) -> Result<(), String> {
    for (group, record) in &placed.groups {
        if !record.is_effective() {
            return Err(format!("{group} is not effective: {:?}", record.config));
        }
        for seen in servers {
            let in_sync = seen
                .run
                .is_some_and(|run| record.config.in_sync().any(|member| member == run));
            if !in_sync {
                return Err(format!(
                    "{:?} is not in-sync: {:?}",
                    seen.run, record.config
                ));
            }
        }
    }
    Ok(())
}

/// Whether all hold the same: content, versions, write records.
pub(crate) fn equal(servers: &[Seen<'_>]) -> Result<(), String> {
    let Some((first, rest)) = servers.split_first() else {
        return Ok(());
    };
    let ours: BTreeMap<ChunkKey, &Stored> = first.disk.inventory().collect();
    for other in rest {
        let theirs: BTreeMap<ChunkKey, &Stored> = other.disk.inventory().collect();
        for key in ours.keys().chain(theirs.keys()) {
            if ours.get(key) != theirs.get(key) {
                return Err(format!(
                    "{key} differs: server {} has {:?}, server {} has {:?}",
                    first.place,
                    ours.get(key),
                    other.place,
                    theirs.get(key)
                ));
            }
        }
    }
    Ok(())
}
