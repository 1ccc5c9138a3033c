//! When all faults are over, everybody is in-sync again, all replicas of a group are equal and
//! whole, and nobody holds anything of a group that is not his.

use super::Seen;
use crate::sim::disk::Stored;
use dfs_directory::placement::{GroupRecord, Placed};
use dfs_proto::ids::{ChunkKey, GroupId};
use std::collections::BTreeMap;

/// What still keeps the groups from being whole.
pub(crate) fn missing(placed: &Placed, servers: &[Seen<'_>]) -> Result<(), String> {
    for (group, record) in &placed.groups {
        if !record.is_effective() {
            return Err(format!("{group} is not effective: {:?}", record.config));
        }
        let in_sync = record.config.in_sync().count();
        if in_sync < record.home.len() {
            return Err(format!("{group} is not whole: {:?}", record.config));
        }
    }
    for seen in servers {
        if seen.run.is_none() {
            return Err(format!("server {} is down", seen.place));
        }
        for (group, record) in &placed.groups {
            let member = |run| record.config.in_sync().any(|m| Some(m) == run);
            if !member(seen.run) && seen.disk.of_group(*group).next().is_some() {
                return Err(format!("server {} still holds {group}", seen.place));
            }
        }
        if let Some((group, key)) = seen.disk.damaged().first() {
            return Err(format!(
                "server {}: {key} of {group} is damaged",
                seen.place
            ));
        }
    }
    Ok(())
}

/// Whether all members of each group hold the same: content, versions, write records.
pub(crate) fn equal(placed: &Placed, servers: &[Seen<'_>]) -> Result<(), String> {
    for (group, record) in &placed.groups {
        of_group(*group, record, servers)?;
    }
    Ok(())
}

fn of_group(group: GroupId, record: &GroupRecord, servers: &[Seen<'_>]) -> Result<(), String> {
    let member = |seen: &Seen<'_>| {
        seen.run
            .is_some_and(|run| record.config.in_sync().any(|member| member == run))
    };
    let mut first: Option<(usize, BTreeMap<ChunkKey, &Stored>)> = None;
    for seen in servers {
        let theirs: BTreeMap<ChunkKey, &Stored> = seen.disk.of_group(group).collect();
        if !member(seen) {
            if let Some(key) = theirs.keys().next() {
                return Err(format!(
                    "server {} is no member of {group} and holds {key}",
                    seen.place
                ));
            }
            continue;
        }
        let Some((place, ours)) = &first else {
            first = Some((seen.place, theirs));
            continue;
        };
        for key in ours.keys().chain(theirs.keys()) {
            if ours.get(key) != theirs.get(key) {
                return Err(format!(
                    "{key} of {group} differs: server {place} has {:?}, server {} has {:?}",
                    ours.get(key),
                    seen.place,
                    theirs.get(key)
                ));
            }
        }
    }
    Ok(())
}
