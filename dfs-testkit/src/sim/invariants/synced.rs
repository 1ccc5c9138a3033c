//! A server that answers a sync has everything that the request names on disk (R9): a lost write
//! is not hidden. What a later cut has taken is not lost.

use super::Seen;
use dfs_proto::ids::{ChunkKey, Generation, InodeId, ServerRun};
use dfs_proto::msg::chunk::SyncChunks;
use std::collections::BTreeMap;

pub(super) fn check(
    run: ServerRun,
    request: &SyncChunks,
    cuts: &BTreeMap<InodeId, Generation>,
    servers: &[Seen<'_>],
) -> Result<(), String> {
    let Some(seen) = servers.iter().find(|seen| seen.run == Some(run)) else {
        return Ok(());
    };
    for (index, version) in &request.chunks {
        let key = ChunkKey {
            inode: request.inode,
            index: *index,
        };
        let durable = seen.disk.durable(key);
        let has =
            durable.is_some_and(|d| d.version >= *version || d.generation > request.generation);
        let cut = cuts
            .get(&key.inode)
            .is_some_and(|last| *last > request.generation);
        if !has && !cut && *version > dfs_proto::ids::Version::HOLE {
            return Err(format!(
                "{run} calls {version} of {key} synced, on its disk is {:?}",
                durable.map(|d| d.version)
            ));
        }
    }
    Ok(())
}
