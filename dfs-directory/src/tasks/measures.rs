//! Asks file servers where the data of files end, while this member leads.
//!
//! Nothing writes to these files any more: whoever did is fenced. So the answer of a group holds
//! from then on whatever becomes of its epochs: later ones begin with equal members that have all of it.

use super::events::stopping;
use super::handle::{MeasureWait, Unmeasured};
use super::view::{View, now};
use dfs_proto::error::{Error, Result};
use dfs_proto::ids::{Epoch, GroupId, InodeId};
use dfs_proto::msg::control::{InodesMeasured, MeasureInodes};
use dfs_proto::payload::Payload;
use dfs_proto::timing::{REQUEST_DEADLINE, SLOW_WAIT};
use dfs_proto::transport::Connection;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Between two questions to a group that did not answer: it may be between two epochs.
const RETRY: Duration = Duration::from_millis(20);

/// The byte after the last one that is stored, by inode; only of those that have something from where
/// they were asked for.
pub(crate) type Ends = BTreeMap<InodeId, u64>;

/// Works while this member leads.
pub(super) async fn run(
    waits: &mut mpsc::Receiver<MeasureWait>,
    view: watch::Receiver<Arc<View>>,
) -> Error {
    let mut measures = JoinSet::new();
    loop {
        tokio::select! {
            wait = waits.recv() => {
                let Some(MeasureWait { files, mut done }) = wait else {
                    return stopping();
                };
                let view = view.clone();
                measures.spawn(async move {
                    tokio::select! {
                        ends = measure(view, &files) => drop(done.send(ends)),
                        // Nobody waits for it any more.
                        () = done.closed() => {}
                    }
                });
            }
            Some(_) = measures.join_next(), if !measures.is_empty() => {}
        }
    }
}

/// Asks every group that may hold something of the files until each has answered.
async fn measure(mut view: watch::Receiver<Arc<View>>, files: &[Unmeasured]) -> Result<Ends> {
    let inodes: Vec<_> = files
        .iter()
        .map(|file| (file.inode, file.layout.chunk_of(file.from)))
        .collect();
    let layouts: BTreeMap<_, _> = files.iter().map(|file| (file.inode, file.layout)).collect();
    let groups = layouts.values().map(|layout| layout.groups).max();
    let mut left: BTreeSet<GroupId> = (0..groups.unwrap_or(0)).map(GroupId).collect();
    let mut ends = Ends::new();
    let (begun, mut told) = (now(), false);
    while !left.is_empty() {
        let present = view.borrow_and_update().clone();
        let mut calls = JoinSet::new();
        for (connection, groups) in primaries(&present, &left) {
            let inodes = inodes.clone();
            let request = MeasureInodes { groups, inodes };
            calls.spawn(async move {
                let call = connection.call(&request, Payload::default(), REQUEST_DEADLINE);
                call.await.map(|(answer, _)| answer)
            });
        }
        while let Some(joined) = calls.join_next().await {
            let answer = joined.unwrap_or_else(|_| Err(stopping()));
            match answer {
                Ok(InodesMeasured { groups, last }) => {
                    for (group, _) in groups {
                        left.remove(&group);
                    }
                    for (inode, index, stored) in last {
                        let Some(layout) = layouts.get(&inode) else {
                            continue;
                        };
                        let start = index.0.saturating_mul(u64::from(layout.chunk_bytes));
                        let end = ends.entry(inode).or_default();
                        *end = (*end).max(start.saturating_add(u64::from(stored)));
                    }
                }
                Err(e) => log::debug!("where files end is asked again: {e}"),
            }
        }
        if left.is_empty() {
            break;
        }
        if !told && now().saturating_sub(begun) > SLOW_WAIT {
            told = true;
            log::warn!(
                "what a dead session has written is not known yet: {} groups have nobody who \
                 could say it (dfsctl groups)",
                left.len()
            );
        }
        tokio::select! {
            changed = view.changed() => changed.map_err(|_| stopping())?,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
    Ok(ends)
}

/// Whom to ask for which of these groups: the primaries of those that serve.
fn primaries(view: &View, groups: &BTreeSet<GroupId>) -> Vec<(Connection, Vec<(GroupId, Epoch)>)> {
    let mut asked: BTreeMap<_, (Connection, Vec<(GroupId, Epoch)>)> = BTreeMap::new();
    for group in groups {
        let record = view.placed.groups.get(group).filter(|r| r.is_effective());
        let Some(config) = record.map(|record| &record.config) else {
            continue;
        };
        let Some(primary) = config.primary else {
            continue;
        };
        let run = config.in_sync().find(|run| run.server == primary);
        let link = view.links.get(&primary).filter(|l| Some(l.run) == run);
        if let Some(link) = link {
            let call = asked.entry(primary);
            let call = call.or_insert_with(|| (link.connection.clone(), Vec::new()));
            call.1.push((*group, config.epoch));
        }
    }
    asked.into_values().collect()
}
