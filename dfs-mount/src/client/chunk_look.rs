//! What the file servers know of an inode's chunks beside their content: where data and holes begin,
//! and how much is stored. Any in-sync replica answers.

use super::chunk_io::{READ_DEADLINE, Run, Target};
use super::chunk_op::OpKind;
use super::core::Core;
use super::inode::Inode;
use super::session::Session;
use super::sparse::Question;
use dfs_proto::error::{ErrorCode, Result};
use dfs_proto::ids::{Generation, GroupId};
use dfs_proto::msg::Request;
use dfs_proto::msg::chunk::{FindChunks, FoundChunks, MeasureStored, Seek};
use dfs_proto::payload::Payload;
use std::sync::Arc;

/// Whether an answer says something, and in order.
fn is_progress(found: &FoundChunks, question: Question, chunk_bytes: u32) -> bool {
    let last = found.found.map(|(index, _)| index);
    let mut named = found.whole.iter().copied().chain(last);
    let mut least = question.from;
    let rises = named.all(|index| {
        let in_order = index >= least;
        least.0 = index.0.saturating_add(1);
        in_order
    });
    let within = found.found.is_none_or(|(_, at)| at < chunk_bytes);
    rises && within && (found.end || found.found.is_some() || !found.whole.is_empty())
}

impl Core {
    /// Where in a group's chunks what is looked for begins.
    pub(super) async fn find_chunks(
        self: &Arc<Self>,
        inode: &Inode,
        session: Arc<Session>,
        seek: Seek,
        question: Question,
        (chunk_bytes, items_max): (u32, usize),
    ) -> Result<FoundChunks> {
        let spread = inode.id.0;
        let run = Run::new(self, inode, session, OpKind::Read, question.group, spread);
        let request = |target: &Target| FindChunks {
            inode: inode.id,
            group: question.group,
            epoch: target.epoch,
            generation: target.generation,
            seek,
            from: question.from,
            offset: question.offset,
            chunk_bytes,
            items_max: items_max as u32,
        };
        self.look(run, request, |found| {
            is_progress(found, question, chunk_bytes)
        })
        .await
    }

    /// How many bytes a group stores of the inode. Without a lease: as of this generation.
    pub(super) async fn measure_group(
        self: &Arc<Self>,
        inode: &Inode,
        session: Arc<Session>,
        group: GroupId,
        seen: Option<Generation>,
    ) -> Result<u64> {
        let mut run = Run::new(self, inode, session, OpKind::Read, group, inode.id.0);
        if let Some(generation) = seen {
            run = run.seen(generation);
        }
        let request = |target: &Target| MeasureStored {
            inode: inode.id,
            group,
            epoch: target.epoch,
            generation: target.generation,
        };
        Ok(self.look(run, request, |_| true).await?.bytes)
    }

    async fn look<R: Request>(
        self: &Arc<Self>,
        mut run: Run<'_>,
        request: impl Fn(&Target) -> R,
        is_sound: impl Fn(&R::Response) -> bool,
    ) -> Result<R::Response> {
        let mut found = None;
        while let Some(target) = run.target().await? {
            let request = request(&target);
            let call = target
                .connection
                .call(&request, Payload::default(), READ_DEADLINE);
            match self.watched(target.server, &target.connection, call).await {
                Ok((answer, _)) if is_sound(&answer) => {
                    found = Some(answer);
                    run.op.answered(target.server);
                }
                Ok(_) => run.failed(target.server, ErrorCode::Malformed.into()),
                Err(error) => run.failed(target.server, error),
            }
        }
        found.ok_or_else(|| ErrorCode::Internal.into())
    }
}
