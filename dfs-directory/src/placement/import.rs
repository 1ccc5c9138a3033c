//! Groups and servers as they come out of a backup.
//!
//! Groups may have had later epochs since. Their epochs jump above all of these, so that every
//! server adopts the next one. Nobody serves at first: the servers that were in-sync when the backup
//! was made are waited for, as after the end of all of them, and then everything that they hold is
//! compared; of each chunk the highest generation and version is kept. Which run of a server
//! served last is not known, so none counts as complete.

use super::record;
use crate::state::IMPORT_JUMP;
use crate::state::tables::{TableError, Write};
use dfs_proto::attr::Timestamp;
use dfs_proto::cluster::{Equalise, MemberState};
use dfs_proto::ids::{Epoch, Incarnation};

/// Stands for a run that the imported tables do not know.
pub(super) const UNKNOWN_RUN: Incarnation = Incarnation(0);

/// Makes the imported tables safe for servers that went on. Once for each import.
pub fn imported(tables: &mut dyn Write, now: Timestamp) -> Result<(), TableError> {
    for (server, mut known) in record::servers(tables)? {
        known.alive = false;
        known.gone_at = Some(now.seconds);
        record::store_server(tables, server, &known)?;
    }
    for (group, mut known) in record::groups(tables)? {
        known.config.epoch = Epoch(known.config.epoch.0 + IMPORT_JUMP);
        known.config.primary = None;
        known.config.equalise = Equalise::Everything;
        if let Some(effective) = &mut known.effective {
            for member in &mut effective.members {
                member.run.incarnation = UNKNOWN_RUN;
            }
            known.config.members.clone_from(&effective.members);
        }
        for member in &mut known.config.members {
            member.state = match member.state {
                MemberState::InSync | MemberState::LastServing => MemberState::LastServing,
                MemberState::Joining | MemberState::Offline => MemberState::Offline,
            };
        }
        record::store_group(tables, group, &known)?;
    }
    record::raise_map_version_by(tables, IMPORT_JUMP)
}
