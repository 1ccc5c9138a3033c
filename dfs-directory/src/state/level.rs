//! Feature levels: how members of two versions of the program run side by side.
//!
//! The tables must become the same on every member, so a change of what a command does, or of what
//! is stored, must begin at the same entry of the log everywhere. The cluster's *feature level* is
//! therefore itself in the log. A member says which level its program knows when it comes in and
//! at each start; the leader raises the cluster's level to the lowest of these, never lowers it.
//! What is new at a level is done only from there on.
//!
//! A program that knows less than the cluster's level is refused: it does not start on such
//! tables, does not become a member, and stops before it would apply what it cannot understand.
//!
//! | level | from there on |
//! | --- | --- |
//! | 1 | - |
//! | 2 | a session's beginning is stored with it |

use super::tables::{self, Read, Table, TableError, Write};

/// The highest level that this program knows.
pub const FEATURE_LEVEL: u16 = 2;

/// Level of a cluster in which nothing was raised yet.
pub const FIRST_LEVEL: u16 = 1;

/// From this level on a session's beginning is stored.
pub const SESSION_TIMES: u16 = 2;

const LEVEL_KEY: &[u8] = b"level";

/// The cluster's level.
pub fn of_cluster(tables: &(impl Read + ?Sized)) -> Result<u16, TableError> {
    Ok(tables::load(tables, Table::Meta, LEVEL_KEY)?.unwrap_or(FIRST_LEVEL))
}

/// Raises the cluster's level; its caller knows that all members know it.
pub(crate) fn raise(tables: &mut dyn Write, level: u16) -> Result<(), TableError> {
    tables::store(tables, Table::Meta, LEVEL_KEY, &level)
}

/// Why a program cannot go on with a cluster, if so.
pub fn refusal(cluster: u16, supports: u16) -> Option<String> {
    (cluster > supports).then(|| {
        format!(
            "the cluster is at feature level {cluster}, this program knows up to {supports}: \
             install the version that the other members run"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::memory::MemoryTables;

    #[test]
    fn a_new_cluster_is_at_the_first_level() {
        let mut tables = MemoryTables::default();
        assert_eq!(of_cluster(&tables), Ok(FIRST_LEVEL));
        raise(&mut tables, 2).expect("stored");
        assert_eq!(of_cluster(&tables), Ok(2));
    }

    #[test]
    fn only_a_program_that_knows_less_is_refused() {
        assert_eq!(refusal(2, 2), None);
        assert_eq!(refusal(1, 2), None);
        let words = refusal(3, 2).expect("refused");
        assert!(words.contains("level 3") && words.contains("up to 2"));
    }
}
