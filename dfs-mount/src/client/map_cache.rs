//! The cluster map as this mount knows it, and the highest epoch heard of for each group.

use super::guard::lock;
use dfs_proto::cluster::ClusterMap;
use dfs_proto::ids::{Epoch, GroupId, MapVersion};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// Only rises: an older map never replaces a newer one.
#[derive(Debug)]
pub(super) struct MapCache {
    map: watch::Sender<Arc<ClusterMap>>,
    /// Epochs of write answers that are ahead of the map.
    heard: Mutex<BTreeMap<GroupId, Epoch>>,
    /// One question for the map at a time; the others look at what it brought.
    pub(super) asking: tokio::sync::Mutex<()>,
}

impl Default for MapCache {
    fn default() -> Self {
        Self {
            map: watch::Sender::new(Arc::default()),
            heard: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        }
    }
}

impl MapCache {
    pub(super) fn get(&self) -> Arc<ClusterMap> {
        self.map.borrow().clone()
    }

    pub(super) fn version(&self) -> MapVersion {
        self.map.borrow().version
    }

    /// Takes a map over if it is newer.
    pub(super) fn install(&self, map: ClusterMap) {
        self.map.send_if_modified(|present| {
            let newer = map.version > present.version || present.groups.is_empty();
            if newer {
                *present = Arc::new(map);
            }
            newer
        });
    }

    /// Waits until a map of another version than `seen` is there.
    pub(super) async fn newer_than(&self, seen: MapVersion) {
        let mut watching = self.map.subscribe();
        // The sender lives in `self`: an error cannot come.
        let _ = watching.wait_for(|map| map.version > seen).await;
    }

    /// Waits until the group is known to have left this epoch.
    pub(super) async fn epoch_left(&self, group: GroupId, epoch: Epoch) {
        let mut watching = self.map.subscribe();
        let _ = watching
            .wait_for(|map| map.group(group).is_some_and(|g| g.epoch > epoch))
            .await;
    }

    /// An answer told of an epoch of a group.
    pub(super) fn hear(&self, group: GroupId, epoch: Epoch) {
        let mut heard = lock(&self.heard);
        let known = heard.entry(group).or_default();
        *known = (*known).max(epoch);
    }

    /// The highest epoch of the group that this mount has heard of.
    pub(super) fn known_epoch(&self, group: GroupId) -> Epoch {
        let heard = lock(&self.heard).get(&group).copied().unwrap_or_default();
        let mapped = self.map.borrow().group(group).map(|g| g.epoch);
        heard.max(mapped.unwrap_or_default())
    }
}
