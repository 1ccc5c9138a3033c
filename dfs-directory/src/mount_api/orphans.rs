//! Freeing of inodes that have neither a name nor an open.

use super::MountApi;
use crate::namespace::{NamespaceCommand, read};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::InodeId;
use dfs_proto::timing::RETRY_DELAY_MAX;
use std::time::Duration;

/// Frees that are on their way to the log at once, and orphans read from it at once.
const BATCH: usize = 256;

/// Orphans are gathered for so long before they are freed: a free is two entries of the log and a
/// flush on every server, which many can share, and nobody waits for it.
const GATHER: Duration = Duration::from_millis(200);

impl MountApi {
    pub(super) async fn free_orphans_for_ever(self) {
        let mut scanned_life = 0;
        let mut changes = self.changes();
        loop {
            tokio::select! {
                biased;
                () = self.shared.orphans.notified() => {}
                // The end of the grace period is a change.
                () = changes.changed(), if self.core().life != scanned_life => {}
            }
            let (life, over) = {
                let core = self.core();
                (core.life, core.grace.is_over())
            };
            if life == 0 || !over {
                // Sessions that have not reclaimed may have any orphan open.
                continue;
            }
            if life != scanned_life && self.find_orphans().await {
                scanned_life = life;
            }
            tokio::time::sleep(GATHER).await;
            while self.free_some().await {}
        }
    }

    /// Learns of the orphans that are in the log since an earlier leader's life.
    async fn find_orphans(&self) -> bool {
        let mut after = None;
        loop {
            let page = self
                .raft()
                .read(move |tables| read::orphans(tables, after, BATCH))
                .await;
            match page {
                Ok(page) => {
                    let end = page.len() < BATCH;
                    after = page.last().copied().or(after);
                    self.core().orphans.extend(page);
                    if end {
                        return true;
                    }
                }
                Err(e) => {
                    log::debug!("orphans can't be read: {e}");
                    return false;
                }
            }
        }
    }

    /// Frees a batch; `true` if there may be more.
    async fn free_some(&self) -> bool {
        let batch: Vec<InodeId> = {
            let mut core = self.core();
            let batch: Vec<InodeId> = core
                .orphans
                .iter()
                .filter(|inode| !core.opens.is_open(**inode))
                .take(BATCH)
                .copied()
                .collect();
            for inode in &batch {
                core.orphans.remove(inode);
                core.freeing.insert(*inode);
            }
            batch
        };
        if batch.is_empty() {
            return false;
        }
        let full = batch.len() == BATCH;
        let frees: Vec<_> = batch
            .into_iter()
            .map(|inode| {
                let api = self.clone();
                tokio::spawn(async move {
                    let command = NamespaceCommand::FreeOrphan { inode };
                    (inode, api.commit_namespace(command).await)
                })
            })
            .collect();
        let mut failed = false;
        for free in frees {
            let Ok((inode, result)) = free.await else {
                continue;
            };
            let mut core = self.core();
            core.freeing.remove(&inode);
            match result {
                Ok(_) => {
                    let mut effects = Vec::new();
                    for session in core.leases.forget(self.now(), inode, &mut effects) {
                        core.interest.maybe_unused(session, inode, self.now());
                    }
                    self.carry_out(&mut core, effects);
                }
                // It has a name again (a rename was repeated), or was freed before.
                Err(e) if matches!(e.code, ErrorCode::Busy | ErrorCode::Stale) => {}
                Err(e) => {
                    log::debug!("{inode} can't be freed yet: {e}");
                    core.orphans.insert(inode);
                    failed = true;
                }
            }
        }
        self.placement().intents_changed();
        if failed {
            tokio::time::sleep(RETRY_DELAY_MAX).await;
            self.shared.orphans.notify_one();
            return false;
        }
        full
    }
}
