//! Punching holes: a range of a file reads as zeros from now on, and its space is free.
//!
//! The directory carries it out as a cut, like a truncation: it is logged, made on every
//! replica whatever dies, and has ended before the caller is answered. So a write that was made
//! before the hole never fills it later, and one that is made after it is never taken away.

use super::clock;
use super::core::Core;
use super::gate::Access;
use super::inode::{Changing, Inode};
use super::opens::Open;
use super::read::data_of;
use super::types::Allocate;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::ChunkIndex;
use dfs_proto::limits::FILE_BYTES_MAX;
use dfs_proto::msg::namespace::Mutation;
use dfs_proto::msg::session::LeaseKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Core {
    /// Punches a hole on behalf of the holder of the handle. The size stays, whatever
    /// `keep_size` says.
    pub(super) async fn punch(self: &Arc<Self>, open: Arc<Open>, range: Allocate) -> Result<()> {
        if range.len == 0 {
            return Err(ErrorCode::InvalidArgument.into());
        }
        let end = range.offset.saturating_add(range.len);
        if end > FILE_BYTES_MAX {
            return Err(ErrorCode::FileTooLarge.into());
        }
        // In the background: a caller that goes away leaves it running, so that its outcome is
        // defined.
        let core = self.clone();
        let punched = self
            .data
            .spawn(async move { core.punch_now(&open, range.offset, end).await });
        let result = punched.await;
        result.unwrap_or_else(|e| Err(Error::new(ErrorCode::Internal, e.to_string())))
    }

    async fn punch_now(self: &Arc<Self>, open: &Open, from: u64, end: u64) -> Result<()> {
        let inode: &Arc<Inode> = &open.inode;
        loop {
            let right = self.lease(inode, LeaseKind::Exclusive, false).await?;
            let Some((layout, _)) = data_of(inode) else {
                continue;
            };
            let whole = Access::Write {
                start: 0,
                end: u64::MAX,
            };
            let _turn = inode.turn(whole, layout).await;
            self.push(inode).await?;
            let session = self.session().await?;
            if !right.is_valid() {
                continue;
            }
            inode.check(open.opened_at)?;
            let Some((_, size)) = data_of(inode) else {
                continue;
            };
            if from >= size {
                return Ok(());
            }
            // Behind the size there is nothing: the last chunk goes as a whole.
            let chunk = u64::from(layout.chunk_bytes);
            let to = match end >= size {
                true => size.next_multiple_of(chunk),
                false => end,
            };
            let mutation = Mutation::Punch {
                inode: inode.id,
                from,
                to,
            };
            let asked = self.attr_changes.load(Ordering::SeqCst);
            let before = inode.begin_cut();
            let _changing = Changing::all(inode);
            let Some(mutated) = self.mutate_within(&session, mutation).await? else {
                continue;
            };
            let Some(attr) = mutated.attr else {
                return Err(Error::new(
                    ErrorCode::Internal,
                    format!("{}: no attributes after a hole was punched", inode.id),
                ));
            };
            let now = self.attr_changes.fetch_add(1, Ordering::SeqCst) + 1;
            let mut state = inode.state();
            if let Some(data) = &mut state.data {
                data.resized(&attr);
            }
            state.changed_here(Some(&attr), asked, now);
            // Chunks within the hole are gone on purpose, the others stay.
            let gone = ChunkIndex(from.div_ceil(chunk))..ChunkIndex(to / chunk);
            state.unsynced.retain(|index, _| !gone.contains(index));
            for unsynced in state.unsynced.values_mut() {
                if Some(unsynced.generation) == before {
                    unsynced.generation = attr.generation;
                }
            }
            state.used_at = clock::now();
            return Ok(());
        }
    }
}
