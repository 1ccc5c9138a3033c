//! What a file takes up (`st_blocks`).
//!
//! A file that is not sparse takes up its size, and nobody is asked. Of a sparse one each group of
//! its chunks is asked what it stores, and the answers are kept under the lease. Without a lease
//! (another mount is writing) nothing is kept, and no lease is taken for it either: the map is
//! fetched after the attributes, so its epochs are no older than what that mount has been answered
//! in, and an in-sync replica of them has all of that.

use super::call::Wait;
use super::core::Core;
use super::stored::groups_of;
use super::types::{AttrAnswer, AttrRight};
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::InodeId;
use dfs_proto::msg::session::GetMap;
use std::sync::Arc;
use tokio::task::JoinSet;

impl Core {
    /// Attributes with what the inode takes up.
    pub(super) async fn getattr_measured(self: &Arc<Self>, id: InodeId) -> Result<AttrAnswer> {
        loop {
            let mut answer = self.getattr(id).await?;
            if answer.stored.is_none() {
                answer.stored = self.measure(&answer).await?;
            }
            if answer.stored.is_some() {
                return Ok(answer);
            }
        }
    }

    /// `None`: the right of the attributes, or the session, was lost meanwhile.
    async fn measure(self: &Arc<Self>, answer: &AttrAnswer) -> Result<Option<u64>> {
        let attr = answer.attr;
        let inode = self.inodes.entry(attr.inode);
        let era = match answer.right {
            AttrRight::Lease { era, .. } => Some(era),
            _ => None,
        };
        if era.is_none() {
            let (map, _) = self.ask(Wait::Long, |_| GetMap).await?;
            self.map.install(map);
        }
        let session = self.session().await?;
        let (moment, groups, mut total) = {
            let state = inode.state();
            let unknown = match era.is_some_and(|era| state.lease.is_valid(era)) {
                true => state.stored.unknown(attr.layout, attr.size),
                false if era.is_some() => return Ok(None),
                false => groups_of(attr.layout, attr.size).collect(),
            };
            let known: u64 = groups_of(attr.layout, attr.size)
                .filter(|group| !unknown.contains(group))
                .map(|group| state.stored.of(group))
                .sum();
            (state.stored.moment(), unknown, known)
        };
        let seen = era.is_none().then_some(attr.generation);
        let mut asked = JoinSet::new();
        for group in groups {
            let (core, inode, session) = (self.clone(), inode.clone(), session.clone());
            asked.spawn(async move {
                let measured = core.measure_group(&inode, session, group, seen);
                (group, measured.await)
            });
        }
        let mut answers = Vec::new();
        while let Some(joined) = asked.join_next().await {
            let (group, measured) =
                joined.map_err(|e| Error::new(ErrorCode::Internal, e.to_string()))?;
            match measured {
                Ok(bytes) => {
                    total += bytes;
                    answers.push((group, bytes));
                }
                // Nothing is lost with the session: it is asked under the next one.
                Err(e) if matches!(e.code, ErrorCode::Fenced | ErrorCode::SessionEnded) => {
                    self.session_after(&session).await?;
                    return Ok(None);
                }
                Err(e) => return Err(e),
            }
        }
        if let Some(era) = era {
            let mut state = inode.state();
            if !state.lease.is_valid(era) || self.right_left().is_zero() {
                return Ok(None);
            }
            if let Some(moment) = moment {
                for (group, bytes) in answers {
                    state.stored.answered(moment, group, bytes);
                }
            }
        }
        Ok(Some(total))
    }
}
