//! Being laid down.

use crate::state::tables::{TableError, Write};
use dfs_proto::attr::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum NamespaceCommand {}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum NamespaceOutcome {}

pub fn apply(
    _tables: &mut dyn Write,
    _now: Timestamp,
    command: &NamespaceCommand,
) -> Result<NamespaceOutcome, TableError> {
    match *command {}
}
