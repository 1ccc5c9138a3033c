//! Whether a request may be served: the checks that stand before everything else, in order.

use super::group::{Role, Stage};
use super::holdings::Holdings;
use super::{Planted, ReplicaCore};
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::{ChunkKey, Epoch, Generation, GroupId, Incarnation, SessionId};

/// Who may ask a question of a peer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    Primary,
    /// Any member that holds or is to hold the data.
    Member,
}

pub(super) fn wrong_epoch(own: Epoch) -> Error {
    Error::bare(ErrorCode::WrongEpoch).with_detail(own.0)
}

impl ReplicaCore {
    /// A mount's request: mounts know effective epochs only, so one that names the adopted
    /// epoch proves that it is effective, should the directory's word have been lost.
    pub(super) fn admit_mount(
        &mut self,
        group: GroupId,
        epoch: Epoch,
        h: &dyn Holdings,
    ) -> Result<(), Error> {
        if self.planted.serves_while_joining()
            && self
                .groups
                .get(&group)
                .is_some_and(|g| g.role == Role::Joining)
        {
            return Ok(());
        }
        let planted: Planted = self.planted;
        let g = self
            .groups
            .get(&group)
            .ok_or_else(|| wrong_epoch(Epoch(0)))?;
        if g.epoch() != epoch && !planted.skips_epoch_check() {
            return Err(wrong_epoch(g.epoch()));
        }
        if g.stage == Stage::Adopting {
            return Err(Error::bare(ErrorCode::GroupUnavailable));
        }
        if !g.is_in_sync() {
            return Err(Error::bare(ErrorCode::WrongRole));
        }
        if g.stage == Stage::Adopted {
            if g.epoch() != epoch || (g.role == Role::Primary && !g.equalised) {
                return Err(Error::bare(ErrorCode::GroupUnavailable));
            }
            self.become_effective(group, h);
        }
        Ok(())
    }

    /// The epoch that a read counts for: the one that it names.
    pub(super) fn read_epoch(&self, group: GroupId, named: Epoch) -> Epoch {
        let own = self.groups.get(&group).map_or(named, |g| g.epoch());
        let older = named < own && self.planted.serves_older_epochs();
        match older || self.planted.serves_any_epoch() {
            true => own,
            false => named,
        }
    }

    /// A server's request about a group.
    pub(super) fn admit_peer(
        &self,
        group: GroupId,
        epoch: Epoch,
        from: Incarnation,
        asker: Asker,
    ) -> Result<(), Error> {
        let g = self
            .groups
            .get(&group)
            .ok_or_else(|| wrong_epoch(Epoch(0)))?;
        if self.planted.takes_old_forwards() && asker == Asker::Primary && epoch < g.epoch() {
            return Ok(());
        }
        if g.epoch() != epoch && !self.planted.skips_epoch_check() {
            return Err(wrong_epoch(g.epoch()));
        }
        if g.stage == Stage::Adopting {
            // Not durable: a crash would make it an older epoch again.
            return Err(wrong_epoch(g.durable));
        }
        let sender_fits = match asker {
            Asker::Primary => g.primary().is_some_and(|run| run.incarnation == from),
            Asker::Member => g
                .config
                .in_sync()
                .chain(g.config.joining())
                .any(|run| run.incarnation == from),
        };
        if !sender_fits || g.role == Role::Stranger {
            return Err(Error::bare(ErrorCode::WrongRole));
        }
        Ok(())
    }

    pub(super) fn admit_session(&self, session: SessionId) -> Result<(), Error> {
        if self.fenced.contains(&session) {
            return Err(Error::bare(ErrorCode::Fenced));
        }
        Ok(())
    }

    /// Refuses what a cut has removed.
    pub(super) fn admit_generation(
        &self,
        group: GroupId,
        key: ChunkKey,
        generation: Generation,
        h: &dyn Holdings,
    ) -> Result<(), Error> {
        let present = h
            .chunk(key)
            .map_or(Generation(0), |state| state.generation)
            .max(h.floor(group, key.inode));
        if generation < present {
            return Err(Error::bare(ErrorCode::StaleGeneration).with_detail(present.0));
        }
        Ok(())
    }
}
