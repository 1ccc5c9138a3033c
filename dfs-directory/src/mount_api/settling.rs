//! What a fenced session has written without telling the size.
//!
//! The invariant: a write that was answered is seen by everybody, also when its mount dies before the
//! directory knows of it; and what a logged cut has taken away does not come back. Nothing of the
//! session is in progress any more, and nobody else may write to its files before this is done. So where
//! their data end is what the file servers hold, once the cuts that are in the log are made there.

use super::MountApi;
use crate::namespace::{NamespaceCommand, read};
use crate::state::tables::{Read, TableError};
use crate::tasks::Unmeasured;
use dfs_proto::attr::FileKind;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{Generation, InodeId};
use dfs_proto::limits::MEASURED_INODES_MAX;
use tokio::task::JoinSet;

/// A file as the log has it, and the last cut of it that is not known to be made.
struct Left {
    file: Unmeasured,
    cut: Option<Generation>,
}

impl MountApi {
    /// Settles files of a fenced session; nothing writes to them meanwhile.
    pub(super) async fn settle(&self, inodes: Vec<InodeId>) -> Result<()> {
        let mut cuts = Vec::new();
        for some in inodes.chunks(MEASURED_INODES_MAX) {
            cuts.extend(self.settle_some(some.to_vec()).await?);
        }
        self.placement().intents_changed();
        for (inode, generation) in cuts {
            self.placement().cut_done(inode, generation).await?;
        }
        Ok(())
    }

    /// Returns the cuts that are logged then.
    async fn settle_some(&self, inodes: Vec<InodeId>) -> Result<Vec<(InodeId, Generation)>> {
        let asked = inodes.clone();
        let left = self.raft().read(move |tables| find(tables, &asked)).await?;
        for Left { file, cut } in &left {
            // Before it what is gone could still be counted.
            if let Some(generation) = cut {
                self.placement().cut_done(file.inode, *generation).await?;
            }
        }
        let files: Vec<Unmeasured> = left.iter().map(|left| left.file).collect();
        let ends = match files.is_empty() {
            true => Default::default(),
            false => self.placement().ends(files).await?,
        };
        let grown = left
            .iter()
            .filter(|left| ends.get(&left.file.inode) > Some(&left.file.from));
        match grown.count() {
            0 => {}
            count => log::info!("{count} files end where their data do: their size was not told"),
        }
        let mut commits = JoinSet::new();
        for inode in inodes {
            let end = ends.get(&inode).copied().unwrap_or_default();
            let api = self.clone();
            commits.spawn(async move {
                let settle = NamespaceCommand::Settle { inode, end };
                let settled = api.commit_namespace(settle).await?;
                Ok::<_, Error>(settled.cut.map(|generation| (inode, generation)))
            });
        }
        let mut cuts = Vec::new();
        while let Some(joined) = commits.join_next().await {
            let cut = joined.map_err(|e| Error::new(ErrorCode::Internal, e.to_string()))?;
            cuts.extend(cut?);
        }
        Ok(cuts)
    }
}

/// Those of the inodes that are files still.
fn find(tables: &dyn Read, inodes: &[InodeId]) -> Result<Vec<Left>, TableError> {
    let mut found = Vec::new();
    for inode in inodes {
        let Ok(attr) = read::attr(tables, *inode)? else {
            continue;
        };
        if attr.kind != FileKind::Regular {
            continue;
        }
        let intents = read::intents_of(tables, *inode)?;
        found.push(Left {
            file: Unmeasured {
                inode: *inode,
                layout: attr.layout,
                from: attr.size,
            },
            cut: intents.last().map(|intent| intent.generation),
        });
    }
    Ok(found)
}
