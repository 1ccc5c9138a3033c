//! Writing and truncating file data.

use super::clock;
use super::core::Core;
use super::gate::Access;
use super::guard::lock;
use super::inode::{Changing, Inode, Resizing};
use super::lasting::Lasting;
use super::opens::Open;
use super::privileges::Writer;
use super::read::{data_of, pieces};
use super::session::Session;
use super::types::{WriteAt, WriteMode};
use dfs_proto::attr::FileAttr;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::layout::{ChunkRange, FileLayout};
use dfs_proto::limits::FILE_BYTES_MAX;
use dfs_proto::msg::namespace::Mutation;
use dfs_proto::msg::session::LeaseKind;
use dfs_proto::payload::Payload;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::task::JoinSet;

/// Chunks with unsynced writes that are remembered of one inode; at this many it is synced.
pub(super) const UNSYNCED_CHUNKS_MAX: usize = 4096;

/// Bytes of a chunk, and where they are in the data of the request.
type Part = (ChunkRange, usize);

impl Core {
    /// Writes. The caller may go away: the outcome is defined all the same.
    pub(super) async fn write(
        self: &Arc<Self>,
        open: Arc<Open>,
        at: WriteAt,
        data: Payload,
        mode: WriteMode,
        writer: Writer,
    ) -> Result<usize> {
        let core = self.clone();
        let write = async move { core.write_now(&open, at, data, mode, &writer).await };
        Lasting::new(&self.data, write).await
    }

    async fn write_now(
        self: &Arc<Self>,
        open: &Open,
        at: WriteAt,
        data: Payload,
        mode: WriteMode,
        writer: &Writer,
    ) -> Result<usize> {
        let inode = &open.inode;
        let launder = mode == WriteMode::Launder;
        loop {
            inode.check(open.opened_at)?;
            if launder {
                // Not waited for: a recall may wait for this.
                check_launder(inode)?;
            }
            let right = self.lease(inode, LeaseKind::Exclusive, launder).await?;
            let Some((layout, size)) = data_of(inode) else {
                continue;
            };
            let wanted = match at {
                WriteAt::Offset(offset) => Access::Write {
                    start: offset,
                    end: end_of(offset, data.len())?,
                },
                // Wherever the end will be, it is not before the present one.
                WriteAt::End => Access::Write {
                    start: size,
                    end: u64::MAX,
                },
            };
            let _turn = inode.turn(wanted, layout).await;
            // In this order: if it is a later session than the one that was looked at above, the
            // right is over and the handle perhaps broken.
            let session = self.session().await?;
            let Some((layout, size)) = data_of(inode).filter(|_| right.is_valid()) else {
                continue;
            };
            inode.check(open.opened_at)?;
            if launder {
                check_launder(inode)?;
            }
            if !self.may_write(inode, writer) && !data.is_empty() {
                drop((_turn, right));
                self.drop_privileges(inode.id, writer).await?;
                continue;
            }
            let offset = match (at, wanted) {
                (WriteAt::Offset(offset), _) => offset,
                // It was truncated meanwhile: the place in the order is the wrong one.
                (WriteAt::End, Access::Write { start, .. }) if size < start => continue,
                (WriteAt::End, _) => size,
            };
            end_of(offset, data.len())?;
            inode.state().changes += 1;
            let end = offset + data.len() as u64;
            let _changing = Changing::range(inode, layout, offset, end);
            let mut taken = data.clone();
            if launder {
                // A page reaches past the end of the file; the file does not.
                let len = size.saturating_sub(offset).min(data.len() as u64) as usize;
                taken = taken.slice(0..len);
            }
            let written = self
                .write_range(inode, &session, layout, offset, size, &taken)
                .await?;
            drop(right);
            if inode.state().unsynced.len() >= UNSYNCED_CHUNKS_MAX {
                self.sync_data(inode).await?;
            }
            return Ok(if launder { data.len() } else { written });
        }
    }

    /// Writes under the lease. Returns how many bytes from the start are written.
    pub(super) async fn write_range(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        session: &Arc<Session>,
        layout: FileLayout,
        offset: u64,
        size: u64,
        data: &Payload,
    ) -> Result<usize> {
        let mut chunks: Vec<Vec<Part>> = Vec::new();
        let mut at = 0;
        for part in pieces(layout, offset, data.len() as u64) {
            match chunks.last_mut() {
                Some(parts) if parts[0].0.index == part.index => parts.push((part, at)),
                _ => chunks.push(vec![(part, at)]),
            }
            at += part.len as usize;
        }
        // Beyond the end, the chunks go one after the other: bytes behind a part that failed
        // would lie past the end of the file, where zeros have to be.
        let extends = offset + data.len() as u64 > size;
        let mut done: Vec<(usize, Result<()>)> = Vec::new();
        if extends || chunks.len() < 2 {
            for parts in chunks {
                let result = self.write_parts(inode, session, layout, parts, data).await;
                let failed = result.1.is_err();
                done.push(result);
                if failed {
                    break;
                }
            }
        } else {
            let mut writes = JoinSet::new();
            for (n, parts) in chunks.into_iter().enumerate() {
                let (core, inode) = (self.clone(), inode.clone());
                let (session, data) = (session.clone(), data.clone());
                writes.spawn(async move {
                    let write = core.write_parts(&inode, &session, layout, parts, &data);
                    (n, write.await)
                });
            }
            let mut all = Vec::new();
            while let Some(joined) = writes.join_next().await {
                all.push(joined.map_err(|e| Error::new(ErrorCode::Internal, e.to_string()))?);
            }
            all.sort_by_key(|(n, _)| *n);
            done.extend(all.into_iter().map(|(_, result)| result));
        }
        let mut written = 0;
        let mut failure = None;
        for (bytes, result) in done {
            written += bytes;
            if let Err(error) = result {
                failure = Some(error);
                break;
            }
        }
        if written > 0 || (failure.is_none() && !data.is_empty()) {
            let now = self.clock.time();
            let mut state = inode.state();
            if let Some(known) = &mut state.data {
                known.wrote(offset, offset + written as u64, now, clock::now());
            }
            state.used_at = clock::now();
            drop(state);
            lock(&self.unpushed).insert(inode.id);
        }
        match failure {
            // The program learns of the rest with its next call.
            Some(error) if written == 0 => Err(error),
            _ => Ok(written),
        }
    }

    /// Writes the parts of one chunk in turn. Returns the bytes written and what stopped it.
    async fn write_parts(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        session: &Arc<Session>,
        layout: FileLayout,
        parts: Vec<Part>,
        data: &Payload,
    ) -> (usize, Result<()>) {
        let mut written = 0;
        for (part, at) in parts {
            let bytes = data.slice(at..at + part.len as usize);
            let group = layout.group_of(part.index);
            let mut result = self
                .write_chunk(inode, session.clone(), group, part, bytes.clone())
                .await;
            if let Err(error) = &result
                && error.code == ErrorCode::WriteLost
            {
                // Not this one: one before it, of which the next fsync has to tell.
                log::error!("{}: an unsynced write is lost: {error}", inode.id);
                inode.lost_write(part.index);
                result = self
                    .write_chunk(inode, session.clone(), group, part, bytes)
                    .await;
            }
            match result {
                Ok(unsynced) => {
                    inode.state().unsynced.insert(part.index, unsynced);
                    written += part.len as usize;
                }
                Err(error) => return (written, Err(error)),
            }
        }
        (written, Ok(()))
    }

    /// Truncates or extends, on behalf of any caller; with `open` of the holder of that handle.
    pub(super) async fn set_size(
        self: &Arc<Self>,
        inode: Arc<Inode>,
        open: Option<Arc<Open>>,
        size: u64,
    ) -> Result<FileAttr> {
        let core = self.clone();
        let resized = self.data.spawn(async move {
            let open = open.as_deref();
            core.set_size_now(&inode, open, size).await
        });
        let result = resized.await;
        result.unwrap_or_else(|e| Err(Error::new(ErrorCode::Internal, e.to_string())))
    }

    async fn set_size_now(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        open: Option<&Open>,
        size: u64,
    ) -> Result<FileAttr> {
        if size > FILE_BYTES_MAX {
            return Err(ErrorCode::FileTooLarge.into());
        }
        loop {
            // Until it is answered the kernel writes no page out, and a recall that has it drop them
            // waits for that: so this goes on under the lease that is being given back.
            let right = self.lease(inode, LeaseKind::Exclusive, true).await?;
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
            if let Some(open) = open {
                inode.check(open.opened_at)?;
            }
            let mutation = Mutation::SetSize {
                inode: inode.id,
                size,
                modified: true,
            };
            let asked = self.attr_changes.load(Ordering::SeqCst);
            let before = inode.begin_cut();
            let _changing = Changing::all(inode);
            // Until the answer is taken in, or the lease is lost.
            let _resizing = Resizing::begin(inode);
            // Under this session only: with it the right, and perhaps the handle, would be lost.
            let Some(mutated) = self.mutate_within(&session, mutation).await? else {
                continue;
            };
            let Some(attr) = mutated.attr else {
                return Err(Error::new(
                    ErrorCode::Internal,
                    format!("{}: no attributes after a change of the size", inode.id),
                ));
            };
            let now = self.attr_changes.fetch_add(1, Ordering::SeqCst) + 1;
            let mut state = inode.state();
            if let Some(data) = &mut state.data {
                data.resized(&attr);
            }
            state.changed_here(Some(&attr), asked, now);
            // Chunks behind the cut are gone on purpose, those before it stay as they are.
            let kept = size.div_ceil(u64::from(layout.chunk_bytes));
            state.unsynced.retain(|index, _| index.0 < kept);
            // One of an older generation may have been taken by another mount's cut before.
            for unsynced in state.unsynced.values_mut() {
                if Some(unsynced.generation) == before {
                    unsynced.generation = attr.generation;
                }
            }
            state.used_at = clock::now();
            return Ok(attr);
        }
    }
}

fn check_launder(inode: &Inode) -> Result<()> {
    if inode.state().may_launder() {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::SessionEnded,
        format!("{}: stored into a map under a lease that is lost", inode.id),
    ))
}

fn end_of(offset: u64, len: usize) -> Result<u64> {
    let end = offset.checked_add(len as u64);
    end.filter(|end| *end <= FILE_BYTES_MAX).ok_or_else(|| {
        Error::new(
            ErrorCode::FileTooLarge,
            format!("a write of {len} bytes at {offset}"),
        )
    })
}
