//! An answered write is on every in-sync member of the epoch in which it is answered (R5, R7):
//! else a read from another member, or the loss of one, shows that it is not.

use super::Seen;
use dfs_directory::placement::Placed;
use dfs_proto::ids::ServerRun;
use dfs_proto::msg::chunk::{ChunkWritten, WriteChunk};

pub(super) fn check(
    run: ServerRun,
    request: &WriteChunk,
    written: &ChunkWritten,
    placed: &Placed,
    servers: &[Seen<'_>],
) -> Result<(), String> {
    let Some(record) = placed.groups.get(&request.group) else {
        return Err(format!(
            "{run} answers a write of {}, which is nowhere",
            request.group
        ));
    };
    // Members of an epoch that is over may have gone on already: then the answer is late, and
    // the next epoch's primary has what it is about.
    let Some(effective) = &record.effective else {
        return Err(format!(
            "{run} answers a write of {} before its first epoch",
            request.group
        ));
    };
    if written.epoch != effective.epoch || !record.is_effective() {
        return Ok(());
    }
    if !effective.is_writable() {
        return Err(format!(
            "{run} answers a write of {} with {} in-sync members of {}",
            request.group,
            effective.in_sync().count(),
            effective.min_in_sync
        ));
    }
    for member in effective.in_sync() {
        let Some(seen) = servers.iter().find(|seen| seen.run == Some(member)) else {
            // It died meanwhile; what a power cut took from it is no matter of this write.
            continue;
        };
        let held = seen.disk.stored(request.key);
        let has = held.is_some_and(|stored| {
            stored.version >= written.version || stored.generation > request.generation
        });
        let cut = held.is_none() && {
            use dfs_server::replica::Holdings;
            seen.disk.floor(request.group, request.key.inode) > request.generation
        };
        if !has && !cut {
            return Err(format!(
                "{run} answers {} of {} ({}), but {member} holds {:?}",
                written.version,
                request.key,
                request.group,
                held.map(|stored| stored.version)
            ));
        }
    }
    Ok(())
}
