//! Scrub on demand: passed on to the primary of the group, and what its findings are called.

use super::AdminApi;
use crate::namespace::{self, paths};
use crate::state::tables::{Read, TableError};
use crate::tasks::View;
use dfs_proto::attr::FileKind;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{GroupId, InodeId};
use dfs_proto::msg::scrub::{
    FindFile, FoundFile, GetScrubState, ListScrubs, NameInodes, ScrubChunks, ScrubGroup,
    ScrubbedPage, ServerScrub,
};
use dfs_proto::payload::Payload;
use dfs_proto::transport::Connection;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::task::JoinSet;

/// A page waits for chunks that are being written, and may replace some.
const PAGE_DEADLINE: Duration = Duration::from_secs(60);
const STATE_DEADLINE: Duration = Duration::from_secs(5);

/// Inodes of one question for names.
const NAMED_MAX: usize = 1024;

impl AdminApi {
    pub(super) async fn scrub(self, request: ScrubGroup) -> Result<ScrubbedPage> {
        let primary = primary(&self.placement.view(), request.group)?;
        let ask = ScrubChunks {
            group: request.group,
            after: request.after,
            inode: request.inode,
        };
        let answer = primary.call(&ask, Payload::default(), PAGE_DEADLINE).await;
        let (page, _) = answer.map_err(|e| {
            // Whoever leads it next can be asked again.
            Error::new(
                ErrorCode::GroupUnavailable,
                format!("{} could not be scrubbed: {e}", request.group),
            )
        })?;
        for found in &page.findings {
            log::warn!(
                "scrub of {}: {} on {}: {}; {}",
                found.group,
                found.key,
                found.server,
                found.what,
                match &found.repaired {
                    Ok(()) => "replaced by a good copy".to_owned(),
                    Err(why) => format!("NOT repaired: {why}"),
                }
            );
        }
        Ok(page)
    }

    pub(super) async fn scrubs(self, _: ListScrubs) -> Result<Vec<ServerScrub>> {
        let view = self.placement.view();
        let mut calls = JoinSet::new();
        for (server, link) in &view.links {
            let (server, connection) = (*server, link.connection.clone());
            calls.spawn(async move {
                let answer = connection
                    .call(&GetScrubState, Payload::default(), STATE_DEADLINE)
                    .await;
                let state = answer.map(|(state, _)| state).map_err(|e| e.to_string());
                ServerScrub { server, state }
            });
        }
        let mut scrubs = calls.join_all().await;
        let gone = view.placed.servers.keys();
        let gone = gone.filter(|server| !view.links.contains_key(server));
        scrubs.extend(gone.map(|server| ServerScrub {
            server: *server,
            state: Err("it is not connected".into()),
        }));
        scrubs.sort_by_key(|scrub| scrub.server);
        Ok(scrubs)
    }

    pub(super) async fn find_file(self, request: FindFile) -> Result<FoundFile> {
        let path = request.path.clone();
        let found = self.raft.read(move |tables| paths::find(tables, &path));
        let attr = found
            .await?
            .map_err(|code| Error::new(code, format!("there is no {}", request.path)))?;
        if attr.kind != FileKind::Regular {
            let text = format!("{} is no regular file", request.path);
            return Err(Error::new(ErrorCode::InvalidArgument, text));
        }
        let layout = attr.layout;
        let chunks = attr.size.div_ceil(u64::from(layout.chunk_bytes.max(1)));
        let groups: BTreeSet<GroupId> = (0..chunks.min(u64::from(layout.groups)))
            .map(|index| layout.group_of(dfs_proto::ids::ChunkIndex(index)))
            .collect();
        Ok(FoundFile {
            inode: attr.inode,
            size: attr.size,
            chunk_bytes: layout.chunk_bytes,
            groups: groups.into_iter().collect(),
        })
    }

    pub(super) async fn name_inodes(
        self,
        request: NameInodes,
    ) -> Result<Vec<(InodeId, Option<String>)>> {
        let wanted: BTreeSet<InodeId> = request.inodes.into_iter().take(NAMED_MAX).collect();
        let named = self.look(move |tables| {
            let paths = paths::name(tables, &wanted)?;
            let orphan = |inode| namespace::read::is_orphan(tables, inode);
            wanted
                .iter()
                .map(|inode| match paths.get(inode) {
                    Some(path) => Ok((*inode, Some(path.clone()))),
                    None if orphan(*inode)? => Ok((*inode, Some("(deleted, still open)".into()))),
                    None => Ok((*inode, None)),
                })
                .collect::<Result<Vec<_>, TableError>>()
        });
        named.await
    }

    /// Looks at much of the state without keeping this member from its work.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&dyn Read) -> Result<T, TableError> + Send + 'static,
    ) -> Result<T> {
        // Everything acknowledged before is applied here now.
        self.raft.read(|_| Ok(())).await?;
        let raft = self.raft.clone();
        let looking = tokio::task::spawn_blocking(move || raft.read_local(look)).await;
        looking.map_err(|e| Error::new(ErrorCode::Internal, e.to_string()))?
    }
}

fn primary(view: &View, group: GroupId) -> Result<Connection> {
    let unavailable =
        |what: &str| Error::new(ErrorCode::GroupUnavailable, format!("{group} {what}"));
    let record = view.placed.groups.get(&group);
    let record = record
        .filter(|record| record.is_effective())
        .ok_or_else(|| unavailable("does not serve now"))?;
    let primary = record
        .config
        .in_sync()
        .find(|run| Some(run.server) == record.config.primary)
        .ok_or_else(|| unavailable("has no server left"))?;
    let link = view.links.get(&primary.server);
    let link = link.filter(|link| link.run == primary);
    let link = link.ok_or_else(|| unavailable("has a primary that is not connected"))?;
    Ok(link.connection.clone())
}
