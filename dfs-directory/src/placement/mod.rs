//! Where data live: file servers, replica groups and their epochs, as replicated state.
//!
//! Pure: no network, clock or disk. `transition` decides which epoch a group gets next and
//! `spread` which servers a group gets at all, `repair` which ones it gets instead of others; the leader's tasks (`crate::tasks`) ask them, put
//! the answer into the log as a `PlacementCommand`, and carry it out. The tables `Servers` and
//! `Groups`, and the `Meta` key `placement.map`, belong to this module.

mod command;
mod import;
mod plan;
mod record;
mod repair;
mod spread;
mod stored;
pub mod transition;

#[cfg(test)]
mod tests;

pub use command::{NewHome, PlacementCommand, PlacementOutcome, apply};
pub use import::imported;
pub use plan::plan;
pub use record::{GroupRecord, Placed, ServerRecord, map_version};
pub use repair::{Condition, Conditions, is_left, is_settled, moves, rebalance, stuck};
pub use spread::first_epochs;
