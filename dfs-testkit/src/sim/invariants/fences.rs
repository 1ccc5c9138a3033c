//! Nothing of a session that is over changes what serves: its leases belong to others.

use dfs_directory::placement::Placed;
use dfs_proto::ids::{GroupId, ServerRun, SessionId};
use dfs_proto::msg::peer::WriteRecord;
use std::collections::BTreeSet;

#[derive(Debug, Default)]
pub(super) struct Fences {
    over: BTreeSet<SessionId>,
}

impl Fences {
    pub(super) fn over(&mut self, session: SessionId) {
        self.over.insert(session);
    }

    pub(super) fn all(&self) -> &BTreeSet<SessionId> {
        &self.over
    }

    pub(super) fn written(
        &self,
        run: ServerRun,
        group: GroupId,
        record: &WriteRecord,
        placed: &Placed,
    ) -> Result<(), String> {
        if !self.over.contains(&record.session) {
            return Ok(());
        }
        match serves(run, group, placed) {
            true => Err(format!(
                "{run} applies {record:?} of a session that is over"
            )),
            false => Ok(()),
        }
    }

    pub(super) fn answered(
        &self,
        run: ServerRun,
        group: GroupId,
        session: SessionId,
        placed: &Placed,
    ) -> Result<(), String> {
        match self.over.contains(&session) && serves(run, group, placed) {
            true => Err(format!("{run} answers a write of {session}, which is over")),
            false => Ok(()),
        }
    }
}

/// One that was voted out and has not heard of it may still go on; nobody reads there.
fn serves(run: ServerRun, group: GroupId, placed: &Placed) -> bool {
    placed
        .groups
        .get(&group)
        .filter(|r| r.is_effective())
        .is_some_and(|r| r.config.in_sync().any(|member| member == run))
}
