//! An epoch that begins to serve: its in-sync members are equal (R3), hold every acknowledged
//! write (R5), have the epoch on disk (R1) and know every session that is over. And nobody serves
//! in an epoch before the directory's log says that it is effective.

use super::Seen;
use crate::sim::disk::Stored;
use dfs_directory::namespace::Intent;
use dfs_directory::placement::{GroupRecord, Placed};
use dfs_proto::ids::{ChunkKey, Generation, GroupId, InodeId, ServerRun, SessionId, Version};
use dfs_server::replica::{GroupView, Holdings};
use std::collections::{BTreeMap, BTreeSet};

/// The last acknowledged write of each chunk.
#[derive(Debug, Default)]
pub(super) struct Acknowledged {
    last: BTreeMap<(GroupId, ChunkKey), (Generation, Version)>,
    /// Cuts that have ended.
    cuts: Vec<Intent>,
}

impl Acknowledged {
    pub(super) fn wrote(
        &mut self,
        group: GroupId,
        key: ChunkKey,
        generation: Generation,
        version: Version,
    ) {
        // The answer of a primary that was voted out, to whoever does not wait for it any more.
        if self.cuts.iter().any(|cut| takes(cut, key, generation)) {
            return;
        }
        let last = self.last.entry((group, key)).or_default();
        *last = (*last).max((generation, version));
    }

    /// What a cut has taken is not asked for any more.
    pub(super) fn cut(&mut self, intent: &Intent) {
        self.last
            .retain(|(_, key), (generation, _)| !takes(intent, *key, *generation));
        self.cuts.push(*intent);
    }

    /// The group may have lost what was not synced.
    pub(super) fn lost(&mut self, group: GroupId) {
        self.last.retain(|(of, _), _| *of != group);
    }

    /// Every acknowledged write is on this disk, or a later cut has taken it.
    fn held_by(
        &self,
        group: GroupId,
        seen: &Seen<'_>,
        cutting: &BTreeSet<InodeId>,
    ) -> Result<(), String> {
        let of_group = (self.last.iter())
            .filter(|((of, key), _)| *of == group && !cutting.contains(&key.inode));
        for ((_, key), (generation, version)) in of_group {
            let held = seen.disk.stored(*key);
            let has = held.is_some_and(|h| h.version >= *version || h.generation > *generation);
            let cut = seen.disk.floor(group, key.inode) > *generation;
            if !has && !cut {
                return Err(format!(
                    "{:?} is to serve {group} and holds {:?} of {key}, {version} was acknowledged",
                    seen.run,
                    held.map(|h| h.version)
                ));
            }
        }
        Ok(())
    }
}

/// Whether a cut takes what a chunk holds of a generation.
fn takes(cut: &Intent, key: ChunkKey, generation: Generation) -> bool {
    let start = key.index.0 * u64::from(cut.layout.chunk_bytes);
    key.inode == cut.inode && start >= cut.from && generation < cut.generation
}

/// Checks the members of an epoch that serves from now on. Inodes in `cutting` have a cut under
/// way, which some members have made and others not.
pub(super) fn begins(
    group: GroupId,
    record: &GroupRecord,
    servers: &[Seen<'_>],
    acknowledged: &Acknowledged,
    over: &BTreeSet<SessionId>,
    cutting: &BTreeSet<InodeId>,
) -> Result<(), String> {
    let epoch = record.config.epoch;
    let mut first: Option<(ServerRun, BTreeMap<ChunkKey, &Stored>)> = None;
    for run in record.config.in_sync() {
        let Some(seen) = servers.iter().find(|seen| seen.run == Some(run)) else {
            // It has died since it said that it is ready.
            continue;
        };
        let durable = seen.disk.configs();
        if !durable.iter().any(|c| c.group == group && c.epoch >= epoch) {
            return Err(format!("{run} has not adopted {epoch} of {group}"));
        }
        let fenced: BTreeSet<SessionId> = seen.disk.fenced().into_iter().collect();
        if let Some(session) = over.difference(&fenced).next() {
            return Err(format!(
                "{run} is to serve {group} in {epoch} and does not know that {session} is over"
            ));
        }
        acknowledged.held_by(group, seen, cutting)?;
        let theirs: BTreeMap<ChunkKey, &Stored> = seen
            .disk
            .of_group(group)
            .filter(|(key, _)| !cutting.contains(&key.inode) && !seen.disk.is_damaged(*key))
            .collect();
        let Some((other, ours)) = &first else {
            first = Some((run, theirs));
            continue;
        };
        let damaged = |key: &ChunkKey| {
            let of = |run: ServerRun| servers.iter().find(|s| s.run == Some(run));
            [of(run), of(*other)]
                .into_iter()
                .flatten()
                .any(|s| s.disk.is_damaged(*key))
        };
        for key in ours.keys().chain(theirs.keys()) {
            if ours.get(key) != theirs.get(key) && !damaged(key) {
                return Err(format!(
                    "{epoch} of {group} is to serve, and {key} differs: {other} has {:?}, \
                     {run} has {:?}",
                    ours.get(key),
                    theirs.get(key)
                ));
            }
        }
    }
    Ok(())
}

/// Whoever calls its epoch effective is right.
pub(super) fn believed(
    run: ServerRun,
    group: GroupId,
    view: &GroupView,
    placed: &Placed,
) -> Result<(), String> {
    let record = placed.groups.get(&group);
    let effective = record.and_then(|r| r.effective.as_ref());
    let right = effective.is_some_and(|config| config.epoch >= view.epoch);
    if !view.effective || right {
        return Ok(());
    }
    Err(format!(
        "{run} serves {group} in {}, the log has {:?} as effective",
        view.epoch,
        effective.map(|config| config.epoch)
    ))
}
