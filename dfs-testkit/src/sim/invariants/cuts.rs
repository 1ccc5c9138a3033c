//! A cut has ended only when every member of its groups has made it: on those that are in-sync
//! nothing of an older generation is left from its place on. (A joining one may still have what
//! it had before it went away.)

use super::Seen;
use dfs_directory::namespace::Intent;
use dfs_directory::placement::Placed;

pub(super) fn ended(intent: &Intent, placed: &Placed, servers: &[Seen<'_>]) -> Result<(), String> {
    let size = u64::from(intent.layout.chunk_bytes);
    for (group, record) in placed.groups.iter().filter(|(_, r)| r.is_effective()) {
        let config = &record.config;
        for run in config.in_sync() {
            let Some(seen) = servers.iter().find(|seen| seen.run == Some(run)) else {
                continue;
            };
            for (key, stored) in seen.disk.of_group(*group) {
                let end = key.index.0 * size + stored.bytes.len() as u64;
                let old = stored.generation < intent.generation;
                let of = key.inode == intent.inode && !seen.disk.is_damaged(key);
                if of && old && end > intent.from {
                    return Err(format!(
                        "the cut {:?} of {} at {} has ended, {run} holds {key} of {:?} up to {end}",
                        intent.generation, intent.inode, intent.from, stored.generation
                    ));
                }
            }
        }
    }
    Ok(())
}
