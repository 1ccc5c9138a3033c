//! Being laid down.

use crate::state::tables::{TableError, Write};
use dfs_proto::attr::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SessionCommand {}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SessionOutcome {}

pub fn apply(
    _tables: &mut dyn Write,
    _now: Timestamp,
    command: &SessionCommand,
) -> Result<SessionOutcome, TableError> {
    match *command {}
}
