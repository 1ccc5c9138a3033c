//! A write that is refused because disks are full is on nobody's disk (R10).

use super::Seen;
use dfs_directory::placement::Placed;
use dfs_proto::ids::ServerRun;
use dfs_proto::msg::chunk::WriteChunk;

pub(super) fn check(
    run: ServerRun,
    request: &WriteChunk,
    placed: &Placed,
    servers: &[Seen<'_>],
) -> Result<(), String> {
    let record = placed.groups.get(&request.group);
    let Some(record) = record.filter(|r| r.is_effective() && r.config.epoch == request.epoch)
    else {
        return Ok(());
    };
    for member in record.config.in_sync() {
        let Some(seen) = servers.iter().find(|seen| seen.run == Some(member)) else {
            continue;
        };
        let applied = seen.disk.stored(request.key).is_some_and(|stored| {
            let known = stored.records.get(&request.session);
            known.is_some_and(|record| record.sequence == request.sequence)
        });
        if applied {
            return Err(format!(
                "{run} refuses write {:?} of {} to {} for want of space, {member} has applied it",
                request.sequence, request.session, request.key
            ));
        }
    }
    Ok(())
}
