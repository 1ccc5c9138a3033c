//! Executes the steps of `super::chunk_op` against the real file servers.

use super::call::Wait;
use super::chunk_op::{ChunkOp, OpKind, Step};
use super::core::Core;
use super::inode::Inode;
use super::patience::{Patience, backoff};
use super::session::Session;
use super::sync::Unsynced;
use super::together::together;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{
    ChunkIndex, ChunkKey, Epoch, Generation, GroupId, MapVersion, ServerId, Version,
};
use dfs_proto::layout::ChunkRange;
use dfs_proto::msg::chunk::{ReadChunk, SyncChunks, WriteChunk};
use dfs_proto::msg::namespace::GetAttr;
use dfs_proto::payload::{Payload, block_checksums, verify_checksums};
use dfs_proto::timing::{REQUEST_DEADLINE, SERVER_SILENT};
use dfs_proto::transport::Connection;
use std::sync::Arc;
use std::time::Duration;

/// A replica that does not answer a read by then is passed over for another.
pub(super) const READ_DEADLINE: Duration = SERVER_SILENT;

/// Why a wait for a server is long, as long as nothing else is known.
const NO_ANSWER: &str = "no answer yet";

/// A request under way.
pub(super) struct Run<'a> {
    core: &'a Arc<Core>,
    inode: &'a Inode,
    session: Arc<Session>,
    pub(super) op: ChunkOp,
    group: GroupId,
    patience: Patience,
    cause: Option<Error>,
    /// Without a lease: the generation that requests carry.
    seen: Option<Generation>,
}

/// Where to send next.
pub(super) struct Target {
    pub(super) server: ServerId,
    pub(super) connection: Connection,
    pub(super) epoch: Epoch,
    pub(super) generation: Generation,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        core: &'a Arc<Core>,
        inode: &'a Inode,
        session: Arc<Session>,
        kind: OpKind,
        group: GroupId,
        spread: u64,
    ) -> Self {
        let what = match kind {
            OpKind::Read => "a read",
            OpKind::Write => "a write",
            OpKind::Sync => "a sync",
        };
        Self {
            core,
            inode,
            session,
            op: ChunkOp::new(kind, group, spread),
            group,
            patience: Patience::new(what),
            cause: None,
            seen: None,
        }
    }

    /// The same without a lease, for attributes with this generation.
    pub(super) fn seen(mut self, generation: Generation) -> Self {
        self.seen = Some(generation);
        self
    }

    /// Takes steps until there is something to send (`None`: done).
    async fn sending(&mut self) -> Result<Option<(ServerId, Epoch)>> {
        loop {
            let map = self.core.map.get();
            let known = self.core.map.known_epoch(self.group);
            match self.op.next(&map, known) {
                Step::Done => return Ok(None),
                Step::GiveUp(error) => return Err(error),
                Step::Wait { refresh, tries } => self.wait(map.version, refresh, tries).await?,
                Step::LearnGeneration(wanted) => self.learn_generation(wanted).await?,
                Step::Send { server, epoch } => return Ok(Some((server, epoch))),
            }
        }
    }

    /// The same, with a connection to where it is to be sent.
    pub(super) async fn target(&mut self) -> Result<Option<Target>> {
        while let Some((server, epoch)) = self.sending().await? {
            match self.core.server(server, &self.session).await {
                Ok(connection) => {
                    let generation = self.generation().await?;
                    return Ok(Some(Target {
                        server,
                        connection,
                        epoch,
                        generation,
                    }));
                }
                Err(error) => self.failed(server, error),
            }
        }
        Ok(None)
    }

    async fn wait(&mut self, seen: MapVersion, refresh: bool, tries: u32) -> Result<()> {
        if self.session.has_ended() {
            return Err(Error::new(
                ErrorCode::SessionEnded,
                format!(
                    "{}: the session ended before the request did",
                    self.inode.id
                ),
            ));
        }
        if *self.core.stopping.borrow() {
            return Err(Error::bare(ErrorCode::ShuttingDown));
        }
        let cause = match &self.cause {
            Some(error) => error.to_string(),
            None => "no replica may serve it".to_owned(),
        };
        let target = format!("{} {}", self.inode.id, self.group);
        self.patience.note(&target, &cause);
        // A newer map ends the wait: the directory pushes it when an epoch becomes effective.
        let newer = self.core.map.newer_than(seen);
        let _ = tokio::time::timeout(backoff(tries), newer).await;
        if refresh && tries > 1 && self.core.map.version() == seen {
            self.core.refresh_map(MapVersion(seen.0 + 1)).await;
        }
        Ok(())
    }

    pub(super) fn failed(&mut self, server: ServerId, error: Error) {
        if error.code == ErrorCode::Rotten {
            log::error!(
                "{server} has a damaged copy of a chunk of {} ({}): {error}",
                self.inode.id,
                self.group
            );
        } else {
            log::debug!("{server}, {} {}: {error}", self.inode.id, self.group);
        }
        self.cause = Some(error.clone());
        self.op.failed(server, error);
    }

    /// The generation that requests carry now.
    async fn generation(&self) -> Result<Generation> {
        let known = self.inode.state().data.as_ref().map(|d| d.generation());
        match self.seen.or(known) {
            Some(generation) => Ok(generation),
            // A sync after the lease has gone.
            None => Ok(self.present_generation().await?),
        }
    }

    async fn present_generation(&self) -> Result<Generation> {
        let inode = self.inode.id;
        let (seen, _) = self
            .core
            .ask(Wait::Long, |session| GetAttr { session, inode })
            .await?;
        Ok(seen.attr.generation)
    }

    async fn learn_generation(&mut self, wanted: Generation) -> Result<()> {
        let present = self.present_generation().await?;
        if let Some(seen) = &mut self.seen {
            *seen = present;
        } else if let Some(data) = &mut self.inode.state().data {
            data.raise_generation(present);
        }
        if present < wanted {
            let cause = Error::new(
                ErrorCode::StaleGeneration,
                format!("a replica has {wanted}, the directory {present}"),
            );
            self.patience.pause(&self.inode.id, &cause).await;
        }
        self.op.generation_learnt();
        Ok(())
    }
}

impl Core {
    /// Reads a part of a chunk. What is missing at its end is zeros.
    pub(super) async fn read_chunk(
        self: &Arc<Self>,
        inode: &Inode,
        session: Arc<Session>,
        group: GroupId,
        part: ChunkRange,
    ) -> Result<Payload> {
        let spread = part.index.0 ^ inode.id.0;
        let mut run = Run::new(self, inode, session, OpKind::Read, group, spread);
        let key = ChunkKey {
            inode: inode.id,
            index: part.index,
        };
        let mut bytes = Payload::default();
        while let Some(target) = run.target().await? {
            let request = ReadChunk {
                key,
                group,
                epoch: target.epoch,
                generation: target.generation,
                offset: part.offset,
                len: part.len,
            };
            let call = target
                .connection
                .call(&request, Payload::default(), READ_DEADLINE);
            let read = self.watched(target.server, &target.connection, call);
            let server = target.server;
            match run.patience.awaited(&server, &NO_ANSWER, read).await {
                Ok((read, payload)) => {
                    let whole = payload.len() <= part.len as usize
                        && verify_checksums(part.offset, &payload, &read.checksums);
                    if whole {
                        bytes = payload;
                        run.op.answered(target.server);
                    } else {
                        log::error!("{}: bytes of {key} came damaged", target.server);
                        run.failed(target.server, ErrorCode::PayloadDamaged.into());
                    }
                }
                Err(error) => run.failed(target.server, error),
            }
        }
        Ok(bytes)
    }

    /// Writes a part of a chunk, exactly once. At most one for each chunk at a time.
    pub(super) async fn write_chunk(
        self: &Arc<Self>,
        inode: &Inode,
        session: Arc<Session>,
        group: GroupId,
        part: ChunkRange,
        payload: Payload,
    ) -> Result<Unsynced> {
        let sequence = session.next_write();
        let id = session.id;
        let checksums = block_checksums(part.offset, &payload);
        let mut run = Run::new(self, inode, session, OpKind::Write, group, 0);
        let mut unsynced = Unsynced {
            version: Version::HOLE,
            generation: Generation(0),
        };
        while let Some(target) = run.target().await? {
            let unsynced_here = inode.state().unsynced.get(&part.index).copied();
            let after = unsynced_here.map_or(Version::HOLE, |u| u.named(target.generation));
            let request = WriteChunk {
                after,
                key: ChunkKey {
                    inode: inode.id,
                    index: part.index,
                },
                group,
                epoch: target.epoch,
                generation: target.generation,
                session: id,
                sequence,
                offset: part.offset,
                checksums: checksums.clone(),
            };
            let call = target
                .connection
                .call(&request, payload.clone(), REQUEST_DEADLINE);
            let call = self.watched(target.server, &target.connection, call);
            let server = target.server;
            let call = run.patience.awaited(&server, &NO_ANSWER, call);
            let written = tokio::select! {
                written = call => written.map(|(written, _)| written),
                () = self.map.epoch_left(group, target.epoch) => Err(Error::new(
                    ErrorCode::WrongEpoch,
                    "the group has another epoch now",
                )),
            };
            match written {
                Ok(written) => {
                    unsynced = Unsynced {
                        version: written.version,
                        generation: target.generation,
                    };
                    self.map.hear(group, written.epoch);
                    run.op.answered(target.server);
                }
                Err(error) => run.failed(target.server, error),
            }
        }
        Ok(unsynced)
    }

    /// Has the named chunks (and whatever else of the inode) of a group on disk, on every
    /// in-sync replica.
    pub(super) async fn sync_group(
        self: &Arc<Self>,
        inode: &Inode,
        session: Arc<Session>,
        group: GroupId,
        chunks: Vec<(ChunkIndex, Unsynced)>,
    ) -> Result<()> {
        let mut run = Run::new(self, inode, session.clone(), OpKind::Sync, group, 0);
        while let Some((first, epoch)) = run.sending().await? {
            let generation = run.generation().await?;
            let request = SyncChunks {
                session: session.id,
                inode: inode.id,
                group,
                epoch,
                generation,
                chunks: chunks
                    .iter()
                    .map(|(index, unsynced)| (*index, unsynced.named(generation)))
                    .collect(),
            };
            // All at once: their disks work side by side.
            let beside = run.op.beside(&self.map.get(), first);
            let servers: Vec<ServerId> = [first].into_iter().chain(beside).collect();
            let calls = servers
                .iter()
                .map(|server| self.sync_replica(*server, &session, &request));
            let all = together(calls);
            let answers = run.patience.awaited(&group, &NO_ANSWER, all).await;
            for (server, synced) in servers.into_iter().zip(answers) {
                match synced {
                    Ok(()) => run.op.answered(server),
                    // Perhaps a cut took it, of which nothing was known here yet.
                    Err(error) if error.code == ErrorCode::WriteLost => {
                        let present = run.present_generation().await?;
                        if present <= generation {
                            return Err(error);
                        }
                        let cut = Error::new(ErrorCode::StaleGeneration, error.message);
                        run.failed(server, cut.with_detail(present.0));
                    }
                    Err(error) => run.failed(server, error),
                }
            }
        }
        Ok(())
    }

    async fn sync_replica(
        self: &Arc<Self>,
        server: ServerId,
        session: &Arc<Session>,
        request: &SyncChunks,
    ) -> Result<()> {
        let connection = self.server(server, session).await?;
        let call = connection.call(request, Payload::default(), REQUEST_DEADLINE);
        let call = self.watched(server, &connection, call);
        tokio::select! {
            synced = call => synced.map(|_| ()),
            () = self.map.epoch_left(request.group, request.epoch) => Err(Error::new(
                ErrorCode::WrongEpoch,
                "the group has another epoch now",
            )),
        }
    }
}
