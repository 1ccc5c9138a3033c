//! The directory service: names -> inodes -> which servers; who is alive; who may do what.

pub mod admin_api;
pub mod backup;
pub mod config;
pub mod full_disk;
pub mod governor;
pub mod joining;
pub mod lease;
pub mod member_api;
pub mod members;
pub mod mount_api;
pub mod namespace;
pub mod node;
pub mod placement;
pub mod raft;
pub mod server_api;
pub mod session;
pub mod state;
pub mod storage;
pub mod tasks;
