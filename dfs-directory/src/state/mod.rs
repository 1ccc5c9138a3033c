//! The replicated state machine: commands in, outcomes out, everything in ordered tables.
//!
//! Deterministic: time, ids and randomness come in with the command, chosen by the leader. The
//! same commands on the same tables give the same tables and outcomes on every member.
//!
//! | part | commands | owns the tables |
//! | --- | --- | --- |
//! | `namespace` | names, attributes, sizes, intents | inodes, entries, links, orphans, intents |
//! | `session` | sessions, interest records, the ledger | sessions, interest, ledger |
//! | `placement` | servers, replica groups | servers, groups |
//! | `members` | members of the directory | members |

pub mod level;
pub mod memory;
pub mod record;
pub mod tables;

use crate::members::{self, MembersCommand, MembersOutcome};
use crate::namespace::{self, NamespaceCommand, NamespaceOutcome};
use crate::placement::{self, PlacementCommand, PlacementOutcome};
use crate::session::{self, SessionCommand, SessionOutcome};
use dfs_proto::attr::Timestamp;
use serde::{Deserialize, Serialize};
use tables::{TableError, Write};

/// What numbers jump by when the state is imported from a backup: far more than can have been given
/// since it was made.
pub const IMPORT_JUMP: u64 = 1 << 32;

/// One change of the replicated state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Command {
    /// The leader's clock when it proposed the command; the state's clock is
    /// `max(previous, now)`, so that it never goes back across leaders.
    pub now: Timestamp,
    pub change: Change,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Change {
    Namespace(NamespaceCommand),
    Session(SessionCommand),
    Placement(PlacementCommand),
    Members(MembersCommand),
}

/// The answer to a command, the same on every member.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Outcome {
    Namespace(NamespaceOutcome),
    Session(SessionOutcome),
    Placement(PlacementOutcome),
    Members(MembersOutcome),
}

/// Applies one command. An `Err` means that the tables themselves failed (disk, rot): the
/// member must stop. What a caller did wrong is in the outcome.
pub fn apply(tables: &mut dyn Write, command: &Command) -> Result<Outcome, TableError> {
    let now = tables::advance_clock(tables, command.now)?;
    Ok(match &command.change {
        Change::Namespace(c) => Outcome::Namespace(namespace::apply(tables, now, c)?),
        Change::Session(c) => Outcome::Session(session::apply(tables, now, c)?),
        Change::Placement(c) => Outcome::Placement(placement::apply(tables, now, c)?),
        Change::Members(c) => Outcome::Members(members::apply(tables, c)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::Format;
    use crate::state::memory::MemoryTables;
    use dfs_proto::ids::{ClusterId, ROOT};

    #[test]
    fn time_never_goes_back_when_a_leader_with_a_slow_clock_follows() {
        let mut tables = MemoryTables::default();
        let at = |seconds| Timestamp {
            seconds,
            nanoseconds: 0,
        };
        let format = NamespaceCommand::Format(Format::defaults(ClusterId(1)));
        let mut apply_at = |now, change: NamespaceCommand| {
            let change = Change::Namespace(change);
            apply(&mut tables, &Command { now, change }).expect("tables");
            let clock = tables::clock(&tables).expect("a clock");
            let root = namespace::read::attr(&tables, ROOT).expect("tables");
            (clock, root.expect("the root").changed)
        };
        assert_eq!(apply_at(at(100), format.clone()), (at(100), at(100)));
        // The next leader's clock is slow by a minute, and then right again.
        for (now, expected) in [(40, 100), (99, 100), (101, 101), (3, 101)] {
            let settle = NamespaceCommand::Settle {
                inode: ROOT,
                end: 0,
            };
            assert_eq!(apply_at(at(now), settle).0, at(expected));
        }
    }
}
