//! `fallocate` that makes room for a range, or puts zeros in its place.
//!
//! Room is zeros that are stored: what is overwritten later needs no new space, and what the file
//! takes up says so at once. The range is filled in steps, each one as a write is: under the lease,
//! and atomic for other hosts. Whoever goes away ends it after the present step.

use super::clock;
use super::core::Core;
use super::gate::Access;
use super::guard::lock;
use super::inode::{Changing, Inode};
use super::lasting::Lasting;
use super::opens::Open;
use super::read::{data_of, pieces};
use super::session::Session;
use super::sparse::Question;
use super::types::{Allocate, Fill};
use super::write::UNSYNCED_CHUNKS_MAX;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::layout::{ChunkRange, FileLayout};
use dfs_proto::limits::{FILE_BYTES_MAX, IO_BYTES_MAX};
use dfs_proto::msg::chunk::Seek;
use dfs_proto::msg::session::LeaseKind;
use dfs_proto::payload::PayloadMut;
use std::ops::Range;
use std::sync::Arc;

/// Filled at a time; steps begin at multiples of it.
const STEP: u64 = IO_BYTES_MAX as u64;

impl Core {
    /// Fills a range; with `keep_size` only as far as the file reaches.
    pub(super) async fn allocate(
        self: &Arc<Self>,
        open: Arc<Open>,
        range: Allocate,
        fill: Fill,
    ) -> Result<()> {
        open.inode.check(open.opened_at)?;
        if range.len == 0 {
            return Err(ErrorCode::InvalidArgument.into());
        }
        let end = range.offset.saturating_add(range.len);
        if end > FILE_BYTES_MAX {
            return Err(ErrorCode::FileTooLarge.into());
        }
        let size = self.attr_of(open.inode.id).await?.size;
        let new = match range.keep_size {
            true => 0,
            false => end.saturating_sub(range.offset.max(size)),
        };
        // What can't be done is not begun.
        if new > 0 {
            let space = self.space().await?;
            if new > space.free_bytes {
                return Err(Error::new(
                    ErrorCode::NoSpace,
                    format!("{new} bytes wanted, {} are free", space.free_bytes),
                ));
            }
        }
        let mut at = range.offset;
        while at < end {
            let to = end.min((at / STEP + 1) * STEP);
            let (core, open) = (self.clone(), open.clone());
            let step = async move { core.fill(&open, at..to, fill, range.keep_size).await };
            if !Lasting::new(&self.data, step).await? {
                break;
            }
            at = to;
        }
        Ok(())
    }

    /// One step. `false`: it is behind the end of the file, and to stay so.
    async fn fill(
        self: &Arc<Self>,
        open: &Open,
        step: Range<u64>,
        fill: Fill,
        keep_size: bool,
    ) -> Result<bool> {
        let inode = &open.inode;
        loop {
            inode.check(open.opened_at)?;
            let right = self.lease(inode, LeaseKind::Exclusive, false).await?;
            let Some((layout, _)) = data_of(inode) else {
                continue;
            };
            let access = Access::Write {
                start: step.start,
                end: step.end,
            };
            let _turn = inode.turn(access, layout).await;
            let session = self.session().await?;
            let Some((layout, size)) = data_of(inode).filter(|_| right.is_valid()) else {
                continue;
            };
            inode.check(open.opened_at)?;
            let range = match keep_size {
                true => step.start..step.end.min(size),
                false => step.clone(),
            };
            if range.is_empty() {
                return Ok(false);
            }
            let parts = match fill {
                Fill::Zeros => vec![range.clone()],
                Fill::Room => {
                    self.missing(inode, &session, layout, range.clone(), size)
                        .await?
                }
            };
            inode.state().changes += 1;
            let _changing = Changing::range(inode, layout, range.start, range.end);
            for part in parts {
                self.write_zeros(inode, &session, layout, part).await?;
            }
            let now = self.clock.time();
            {
                // The times change also where nothing was missing.
                let mut state = inode.state();
                if let Some(known) = &mut state.data {
                    known.wrote(range.start, range.end, now, clock::now());
                }
            }
            lock(&self.unpushed).insert(inode.id);
            drop(right);
            if inode.state().unsynced.len() >= UNSYNCED_CHUNKS_MAX {
                self.sync_data(inode).await?;
            }
            return Ok(true);
        }
    }

    async fn write_zeros(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        session: &Arc<Session>,
        layout: FileLayout,
        mut part: Range<u64>,
    ) -> Result<()> {
        while !part.is_empty() {
            let zeros = PayloadMut::zeroed((part.end - part.start) as usize).freeze();
            let size = data_of(inode).map_or(0, |(_, size)| size);
            let write = self.write_range(inode, session, layout, part.start, size, &zeros);
            // Less than all: the next one tells why.
            part.start += write.await? as u64;
        }
        Ok(())
    }

    /// Which parts of a range are not stored.
    async fn missing(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        session: &Arc<Session>,
        layout: FileLayout,
        range: Range<u64>,
        size: u64,
    ) -> Result<Vec<Range<u64>>> {
        let sparse = inode.state().data.as_ref().map(|data| data.attr().sparse);
        if sparse != Some(true) {
            // Up to its end nothing is missing.
            let behind = range.start.max(size)..range.end;
            return Ok(if behind.is_empty() {
                Vec::new()
            } else {
                vec![behind]
            });
        }
        let mut missing = Vec::new();
        for part in pieces(layout, range.start, range.end - range.start) {
            let start = part.index.0 * u64::from(layout.chunk_bytes);
            let end = part.offset + part.len;
            let mut at = part.offset;
            while let Some(hole) = self
                .place_in(inode, session, layout, Seek::Hole, part, at)
                .await?
                .filter(|hole| *hole < end)
            {
                let data = self.place_in(inode, session, layout, Seek::Data, part, hole);
                at = data.await?.map_or(end, |data| data.min(end));
                missing.push(start + u64::from(hole)..start + u64::from(at));
                if at >= end {
                    break;
                }
            }
        }
        Ok(missing)
    }

    /// Where in a chunk from a byte on data or a hole begin.
    async fn place_in(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        session: &Arc<Session>,
        layout: FileLayout,
        seek: Seek,
        part: ChunkRange,
        offset: u32,
    ) -> Result<Option<u32>> {
        let question = Question {
            group: layout.group_of(part.index),
            from: part.index,
            offset,
        };
        let page = (layout.chunk_bytes, 1);
        let answer = self
            .find_chunks(inode, session.clone(), seek, question, page)
            .await?;
        let found = answer.found.filter(|(index, _)| *index == part.index);
        Ok(match (found, seek) {
            (Some((_, at)), _) => Some(at),
            (None, Seek::Data) => None,
            (None, Seek::Hole) => (!answer.whole.contains(&part.index)).then_some(offset),
        })
    }
}
