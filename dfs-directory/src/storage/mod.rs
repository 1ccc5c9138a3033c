//! What a directory member keeps on its disk.
//!
//! ```text
//! DIR/identity        who this dir belongs to (text), see `identity`
//! DIR/lock            locked while a process uses the dir
//! DIR/raft/pointers   vote and purge point, see `log::pointers`
//! DIR/raft/log-*      log segments, see `log`
//! DIR/tables.redb     the applied state, see `tables`
//! DIR/snapshot        the last state written out for another member, see `snapshot`
//! ```
//!
//! Nothing here knows Raft's rules: the log stores positions and bytes, the tables store keys and
//! values. What they mean is decided in `crate::raft`.

pub mod durable;
pub mod identity;
pub mod log;
pub mod snapshot;
pub mod tables;

pub use identity::{DataDir, Identity};
pub use tables::Store;
