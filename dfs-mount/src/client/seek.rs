//! SEEK_DATA and SEEK_HOLE: the file servers know which blocks there are.

use super::core::Core;
use super::gate::Access;
use super::opens::Open;
use super::read::data_of;
use super::sparse::{Question, Search};
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::msg::chunk::Seek;
use dfs_proto::msg::session::LeaseKind;
use std::sync::Arc;
use tokio::task::JoinSet;

impl Core {
    /// The first byte of data, or of a hole, from an offset on; `NoData` if there is none within
    /// the file. Its end is a hole.
    pub(super) async fn find_from(
        self: &Arc<Self>,
        open: &Arc<Open>,
        offset: u64,
        seek: Seek,
    ) -> Result<u64> {
        let inode = &open.inode;
        loop {
            inode.check(open.opened_at)?;
            self.right().await?;
            let right = self.lease(inode, LeaseKind::Shared, false).await?;
            let Some((layout, _)) = data_of(inode) else {
                continue;
            };
            // Writes of this mount end first, and none begins.
            let whole = Access::Read {
                start: 0,
                end: u64::MAX,
            };
            let turn = inode.turn(whole, layout).await;
            let Some((layout, size)) = data_of(inode) else {
                continue;
            };
            if offset >= size {
                return Err(ErrorCode::NoData.into());
            }
            let session = self.session().await?;
            let (mut search, questions) = Search::new(seek, layout, offset, size);
            let items_max = search.items_max();
            let mut asked = JoinSet::new();
            let ask = |asked: &mut JoinSet<_>, question: Question| {
                let (core, inode, session) = (self.clone(), inode.clone(), session.clone());
                asked.spawn(async move {
                    let page = (layout.chunk_bytes, items_max);
                    let found = core.find_chunks(&inode, session, seek, question, page);
                    (question, found.await)
                });
            };
            for question in questions {
                ask(&mut asked, question);
            }
            let mut ended = false;
            while let Some(joined) = asked.join_next().await {
                let (question, found) =
                    joined.map_err(|e| Error::new(ErrorCode::Internal, e.to_string()))?;
                match found {
                    Ok(found) => {
                        let next = search.answered(question, &found);
                        if let Some(next) = next {
                            ask(&mut asked, next);
                        }
                    }
                    // Nothing is lost with the session: it is asked under the next one.
                    Err(e) if matches!(e.code, ErrorCode::Fenced | ErrorCode::SessionEnded) => {
                        ended = true;
                        break;
                    }
                    Err(e) => return Err(e),
                }
            }
            drop(turn);
            if ended {
                drop(right);
                self.session_after(&session).await?;
                continue;
            }
            if right.is_valid() && !self.right_left().is_zero() {
                let found = search.found();
                return found.ok_or_else(|| ErrorCode::NoData.into());
            }
        }
    }

    /// Whether a shared map of this mount may have stored into the inode silently.
    pub(super) fn may_have_stored(&self, open: &Open) -> bool {
        open.inode.state().opens_shared_map > 0
    }
}
