//! A version of a group names one write. The counter starts anew with each epoch, so this also
//! says that an epoch has one primary that gives versions out.

use dfs_proto::ids::{ChunkKey, Epoch, GroupId, Sequence, ServerRun, SessionId, Version};
use dfs_proto::msg::chunk::ChunkWritten;
use dfs_proto::msg::peer::WriteRecord;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Versions {
    given: BTreeMap<(GroupId, Version), (ChunkKey, SessionId, Sequence)>,
    primaries: BTreeMap<(GroupId, Epoch), ServerRun>,
}

impl Versions {
    pub(super) fn given(
        &mut self,
        group: GroupId,
        key: ChunkKey,
        record: &WriteRecord,
    ) -> Result<(), String> {
        let write = (key, record.session, record.sequence);
        let known = *self.given.entry((group, record.version)).or_insert(write);
        if known == write {
            return Ok(());
        }
        let version = record.version;
        Err(format!(
            "{version} of {group} is both {known:?} and {write:?}"
        ))
    }

    pub(super) fn acknowledged(
        &mut self,
        run: ServerRun,
        group: GroupId,
        written: &ChunkWritten,
    ) -> Result<(), String> {
        let epoch = written.epoch;
        let known = *self.primaries.entry((group, epoch)).or_insert(run);
        if known == run {
            return Ok(());
        }
        Err(format!(
            "{known} and {run} both answer writes of {group} in {epoch}"
        ))
    }
}
