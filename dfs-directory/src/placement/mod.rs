//! Where data live: file servers, replica groups and their epochs, as replicated state.
//!
//! Pure: no network, clock or disk. `transition` decides which epoch a group gets next and
//! `spread` which servers a group gets at all; the leader's tasks (`crate::tasks`) ask them, put
//! the answer into the log as a `PlacementCommand`, and carry it out. The tables `Servers` and
//! `Groups`, and `Meta` keys that begin with `placement.`, belong to this module.

mod command;
mod record;

pub use command::{FENCED_MAX, PlacementCommand, PlacementOutcome, apply};
pub use record::{ClusterFormat, GroupRecord, Placed, ServerRecord, fenced, format, map_version};
