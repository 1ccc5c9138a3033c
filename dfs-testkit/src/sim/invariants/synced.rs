//! A server that answers a sync has everything that the request names on disk (R9): a lost write
//! is not hidden.

use super::Seen;
use dfs_proto::ids::{ChunkKey, ServerRun};
use dfs_proto::msg::chunk::SyncChunks;
use dfs_server::replica::Holdings;

pub(super) fn check(
    run: ServerRun,
    request: &SyncChunks,
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
        let cut = seen.disk.floor(request.group, key.inode) > request.generation;
        if !has && !cut && *version > dfs_proto::ids::Version::HOLE {
            return Err(format!(
                "{run} calls {version} of {key} synced, on its disk is {:?}",
                durable.map(|d| d.version)
            ));
        }
    }
    Ok(())
}
