//! Being laid down.

use crate::state::tables::{TableError, Write};
use dfs_proto::attr::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PlacementCommand {}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PlacementOutcome {}

pub fn apply(
    _tables: &mut dyn Write,
    _now: Timestamp,
    command: &PlacementCommand,
) -> Result<PlacementOutcome, TableError> {
    match *command {}
}
