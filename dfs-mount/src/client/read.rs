//! Reading file data.

use super::core::Core;
use super::gate::Access;
use super::inode::Inode;
use super::opens::Open;
use super::read_ahead::Wanted;
use super::session::Session;
use super::types::{ReadData, ReadMode};
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::layout::{ChunkRange, FileLayout};
use dfs_proto::limits::{FILE_BYTES_MAX, IO_BYTES_MAX};
use dfs_proto::msg::session::LeaseKind;
use dfs_proto::payload::{Payload, PayloadMut};
use std::sync::Arc;
use tokio::task::JoinSet;

impl Core {
    /// Reads up to `len` bytes at `offset`; fewer at the end of the file.
    pub(super) async fn read(
        self: &Arc<Self>,
        open: &Arc<Open>,
        mode: ReadMode,
        offset: u64,
        len: usize,
    ) -> Result<ReadData> {
        let inode = &open.inode;
        // A recall waits for a READ that it unblocks: nothing else is begun then.
        let mut try_ahead = mode != ReadMode::Unblock;
        loop {
            inode.check(open.opened_at)?;
            self.right().await?;
            let unblock = mode == ReadMode::Unblock;
            // What is held suffices for a READ that a recall waits for.
            let kind = if unblock {
                LeaseKind::Shared
            } else {
                Self::read_kind(inode)
            };
            let right = self.lease(inode, kind, unblock).await?;
            let Some((layout, _)) = data_of(inode) else {
                continue;
            };
            let end = offset.saturating_add(len as u64).min(FILE_BYTES_MAX);
            let turn = inode
                .turn(Access::Read { start: offset, end }, layout)
                .await;
            // The size is looked at after earlier writes have ended.
            let Some((layout, size)) = data_of(inode) else {
                continue;
            };
            let len = end.min(size).saturating_sub(offset.min(size)) as usize;
            let session = self.session().await?;
            let wanted = Wanted {
                start: offset,
                end: offset + len as u64,
                size,
                layout,
            };
            if std::mem::take(&mut try_ahead) && len > 0 {
                let basis = right.basis();
                if let Some(found) = self.from_ahead(open, &right, &session, basis, wanted) {
                    drop(turn);
                    // The basis again: no write has begun since, so it is the present content.
                    if let Some(bytes) = found.bytes().await
                        && right.basis() == basis
                        && right.is_valid()
                        && !self.right_left().is_zero()
                    {
                        return Ok(ReadData {
                            bytes,
                            right: Some(right),
                        });
                    }
                    continue;
                }
            }
            let read = self.read_range(inode, session.clone(), layout, offset, len);
            let bytes = match read.await {
                Ok(bytes) => bytes,
                Err(error) if matches!(error.code, ErrorCode::Fenced | ErrorCode::SessionEnded) => {
                    // A read loses nothing with the session: it is made under the next one.
                    drop((turn, right));
                    self.session_after(&session).await?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            drop(turn);
            // What was read under a right that is over may be old by now.
            if right.is_valid() && !self.right_left().is_zero() {
                return Ok(ReadData {
                    bytes,
                    right: Some(right),
                });
            }
        }
    }

    pub(super) async fn read_range(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        session: Arc<Session>,
        layout: FileLayout,
        offset: u64,
        len: usize,
    ) -> Result<Payload> {
        let mut parts = pieces(layout, offset, len as u64);
        let (Some(first), second) = (parts.next(), parts.next()) else {
            return Ok(Payload::default());
        };
        let group = layout.group_of(first.index);
        let Some(second) = second else {
            let bytes = self.read_chunk(inode, session, group, first).await?;
            return Ok(if bytes.len() == len {
                bytes
            } else {
                with_zeros(len, [(0, bytes)].into_iter())
            });
        };
        let mut reads = JoinSet::new();
        let mut at = 0;
        for part in [first, second].into_iter().chain(parts) {
            let (core, inode, session) = (self.clone(), inode.clone(), session.clone());
            let group = layout.group_of(part.index);
            let place = at;
            at += part.len as usize;
            reads.spawn(async move {
                let bytes = core.read_chunk(&inode, session, group, part).await?;
                Ok::<_, Error>((place, bytes))
            });
        }
        let mut read = Vec::new();
        while let Some(joined) = reads.join_next().await {
            let part = joined.map_err(|e| Error::new(ErrorCode::Internal, e.to_string()))?;
            read.push(part?);
        }
        read.sort_by_key(|(place, _)| *place);
        Ok(with_zeros(len, read.into_iter()))
    }
}

/// Layout and size under the lease that is held.
pub(super) fn data_of(inode: &Inode) -> Option<(FileLayout, u64)> {
    let state = inode.state();
    state.data.as_ref().map(|data| (data.layout(), data.size()))
}

/// The parts of a range: within one chunk each, none larger than a request may be.
pub(super) fn pieces(
    layout: FileLayout,
    offset: u64,
    len: u64,
) -> impl Iterator<Item = ChunkRange> {
    layout.split(offset, len).flat_map(|whole| {
        let step = IO_BYTES_MAX as u32;
        (0..whole.len.div_ceil(step)).map(move |n| ChunkRange {
            index: whole.index,
            offset: whole.offset + n * step,
            len: step.min(whole.len - n * step),
        })
    })
}

/// The parts, in order of their places, in one buffer of `len` bytes; zeros in between.
pub(super) fn with_zeros(len: usize, parts: impl Iterator<Item = (usize, Payload)>) -> Payload {
    let mut whole = PayloadMut::with_len(len);
    let mut at = 0;
    for (place, bytes) in parts {
        whole[at..place].fill(0);
        at = place + bytes.len();
        whole[place..at].copy_from_slice(&bytes);
    }
    whole[at..].fill(0);
    whole.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::ids::GroupId;

    #[test]
    fn parts_are_put_together_with_zeros_where_nothing_is() {
        let parts = [
            (2, Payload::copy_from(b"ab")),
            (6, Payload::copy_from(b"c")),
            (7, Payload::default()),
        ];
        let whole = with_zeros(9, parts.into_iter());
        assert_eq!(&whole[..], b"\0\0ab\0\0c\0\0");
    }

    #[test]
    fn pieces_are_never_larger_than_a_request() {
        let layout = FileLayout {
            chunk_bytes: 4 << 20,
            first_group: GroupId(0),
            groups: 1,
        };
        let pieces: Vec<_> = pieces(layout, (4 << 20) - 10, (2 << 20) + 10).collect();
        let lens: Vec<u32> = pieces.iter().map(|p| p.len).collect();
        assert_eq!(lens, [10, 1 << 20, 1 << 20]);
        assert_eq!(pieces[2].offset, 1 << 20);
    }
}
