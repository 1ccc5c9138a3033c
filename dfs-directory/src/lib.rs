//! The directory service: names -> inodes -> which servers; who is alive; who may do what.

pub mod namespace;
pub mod placement;
pub mod session;
pub mod state;
pub mod tasks;
