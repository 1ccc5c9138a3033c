//! Reads, syncs, and the repair of a copy that a read found damaged.

use super::event::{Caller, DiskDone, DiskOp, Response};
use super::holdings::Holdings;
use super::lane::{CopyOp, Op, Purpose};
use super::{DiskFor, ReplicaCore};
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::{ChunkIndex, ChunkKey, GroupId, InodeId, ServerRun, SessionId, Version};
use dfs_proto::limits::IO_BYTES_MAX;
use dfs_proto::msg::chunk::{ReadChunk, SyncChunks};

/// How the repair of a damaged copy goes.
#[derive(Clone, Copy, Hash, Debug, Default)]
pub(super) struct Repair {
    running: bool,
    /// How many members could not help: the next one is asked next time.
    failed: usize,
}

impl ReplicaCore {
    pub(super) fn read(&mut self, caller: Caller, request: ReadChunk, h: &dyn Holdings) {
        let (key, group) = (request.key, request.group);
        let epoch = self.read_epoch(group, request.epoch);
        let admitted = self
            .admit_mount(group, epoch, h)
            .and_then(|()| self.admit_generation(group, key, request.generation, h));
        if let Err(error) = admitted {
            return self.refuse(caller, error);
        }
        let fits = request.offset.checked_add(request.len).is_some();
        if request.len as usize > IO_BYTES_MAX || !fits {
            let error = Error::new(ErrorCode::InvalidArgument, "a read has at most 1 MiB");
            return self.refuse(caller, error);
        }
        let op = DiskOp::Read {
            key,
            offset: request.offset,
            len: request.len,
        };
        self.disk(op, DiskFor::Read { caller, key, group }, None);
    }

    pub(super) fn read_ended(
        &mut self,
        caller: Caller,
        key: ChunkKey,
        group: GroupId,
        result: Result<DiskDone, Error>,
        h: &dyn Holdings,
    ) {
        match result {
            Ok(DiskDone::Read(read, payload)) => {
                self.answer(caller, Ok(Response::Read(read)), payload);
            }
            Ok(_) => self.refuse(caller, Error::bare(ErrorCode::Internal)),
            Err(error) => {
                if error.code == ErrorCode::Rotten {
                    self.found_rotten(key, group, &error, h);
                }
                self.refuse(caller, error);
            }
        }
    }

    /// Says once which copy is damaged, and replaces it by that of another member if that is of
    /// the same version. Each time that it is met anew the next member is asked.
    pub(super) fn found_rotten(
        &mut self,
        key: ChunkKey,
        group: GroupId,
        error: &Error,
        h: &dyn Holdings,
    ) {
        let repair = self.rotten.entry(key).or_default();
        if std::mem::replace(&mut repair.running, true) {
            return;
        }
        let failed = repair.failed;
        let me = self.me;
        // A joining member does as well: a version has one content, whoever holds it, and a wrong
        // suspicion may have left nobody else.
        let source = self.groups.get(&group).and_then(|g| {
            let others = g.others(me);
            let primary = g.primary().filter(|run| others.contains(run));
            let backups = others.iter().copied().filter(|run| Some(*run) != primary);
            let joining = g.config.joining().filter(|run| run.incarnation != me);
            let sources: Vec<ServerRun> =
                primary.into_iter().chain(backups).chain(joining).collect();
            let source = sources.get(failed % sources.len().max(1)).copied();
            Some((g.epoch(), source?))
        });
        let Some((epoch, source)) = source else {
            log::error!("{key} of {group}: {error}; no other member can repair it");
            return;
        };
        log::error!(
            "{key} of {group}: {error}; repairing it from {}",
            source.server
        );
        let op = CopyOp {
            group,
            epoch,
            purpose: Purpose::SelfRepair,
            pull: Some(source),
            expect: Some(h.chunk(key).map_or(Version::HOLE, |state| state.version)),
            adopt_torn: false,
            push: Vec::new(),
            running: 0,
            failed: Vec::new(),
        };
        self.enqueue(key, Op::Copy(op), h);
    }

    pub(super) fn self_repaired(&mut self, key: ChunkKey, failed: Option<&Error>) {
        // Either way the next read that meets damage reports and repairs it anew.
        match failed {
            None => {
                self.rotten.remove(&key);
                log::info!("{key}: the damaged copy is replaced");
            }
            Some(error) => {
                if let Some(repair) = self.rotten.get_mut(&key) {
                    repair.running = false;
                    repair.failed = repair.failed.wrapping_add(1);
                }
                log::warn!("{key}: the damaged copy is not replaced yet: {error}");
            }
        }
    }

    /// Data onto disk, whoever wrote them. Only acknowledged versions are named, and those are
    /// on all in-sync members: one that is missing here is lost.
    pub(super) fn sync(&mut self, caller: Caller, request: SyncChunks, h: &dyn Holdings) {
        if let Err(error) = self.admit_mount(request.group, request.epoch, h) {
            return self.refuse(caller, error);
        }
        let floor = h.floor(request.group, request.inode);
        if request.generation < floor {
            let error = Error::bare(ErrorCode::StaleGeneration).with_detail(floor.0);
            return self.refuse(caller, error);
        }
        let mut keys = Vec::with_capacity(request.chunks.len());
        for (index, version) in &request.chunks {
            let key = ChunkKey {
                inode: request.inode,
                index: *index,
            };
            if !self.planted.hides_lost_writes()
                && let Err(error) = stems_from(key, request.session, *version, h)
            {
                return self.refuse(caller, error);
            }
            keys.push(key);
        }
        let op = DiskOp::Sync {
            inode: request.inode,
            group: request.group,
            keys,
        };
        self.disk(op, DiskFor::Sync { caller }, None);
    }

    pub(super) fn sync_ended(&mut self, caller: Caller, result: Result<DiskDone, Error>) {
        match result {
            Ok(_) => self.done(caller),
            Err(_) if self.planted.hides_failed_syncs() => self.done(caller),
            Err(error) => {
                // The data may be gone: a later sync must not succeed. The store accepts
                // nothing any more, and every group goes on without this server.
                log::error!("a sync failed: {error}; this server leaves its groups");
                let ids: Vec<GroupId> = self.groups.keys().copied().collect();
                for id in ids {
                    self.suspect_self(id, format!("sync failed: {error}"));
                }
                self.refuse(caller, error);
            }
        }
    }
}

/// The key after which a list begins with this chunk: another chunk of the inode, or of the last one.
pub(super) fn before(inode: InodeId, from: ChunkIndex) -> Option<ChunkKey> {
    let (inode, index) = match from.0.checked_sub(1) {
        Some(index) => (inode, index),
        None => (InodeId(inode.0.checked_sub(1)?), u64::MAX),
    };
    let index = ChunkIndex(index);
    Some(ChunkKey { inode, index })
}

/// Whether the copy here has this write of the session in it. The chunk's version does not tell:
/// after a loss on all members, others may have written on what was left. The session's record
/// does, since records are kept and copied with the data.
pub(super) fn stems_from(
    key: ChunkKey,
    session: SessionId,
    version: Version,
    h: &dyn Holdings,
) -> Result<(), Error> {
    if version == Version::HOLE {
        return Ok(());
    }
    let held = h.chunk(key).map_or(Version::HOLE, |state| state.version);
    let last = match held < version {
        true => held,
        false => h
            .record(key, session)?
            .map_or(Version::HOLE, |record| record.version),
    };
    if last < version {
        log::error!("{key}: {version} was acknowledged to {session}, {last} is here: it is lost");
        return Err(Error::new(
            ErrorCode::WriteLost,
            format!("{key} stems from {last}, not {version}"),
        ));
    }
    Ok(())
}
