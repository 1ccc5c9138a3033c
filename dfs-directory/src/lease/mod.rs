//! Who may do what: leases, locks, opens, the life of sessions.
//!
//! Pure tables in the memory of the directory's leader: time and ids come in with the call, what
//! is to be done comes out. They are not replicated: after a change of the leader the mounts
//! reclaim what they held (`grace`), and the interest records of the replicated state say whom
//! to wait for. `mount_api` owns them (its `Core`) and does the talking.
//!
//! | module | holds |
//! | --- | --- |
//! | `table`, `inode_leases` | leases: holders, waiting requests, operations, recalls |
//! | `dir_rights` | rights to keep the names and attributes of dirs |
//! | `lock_ranges` | the byte ranges that one owner has locked |
//! | `lock_table` | flock and POSIX locks with their waiters |
//! | `opens` | which session has which inode open |
//! | `clock` | when each session was last heard of |
//! | `interest` | mirror of the replicated interest records |
//! | `grace` | what waits for whom after a change of the leader |
//! | `asks` | questions to exclusive holders, one at a time and never too old |

pub mod asks;
pub mod clock;
pub mod dir_rights;
pub mod grace;
mod inode_leases;
pub mod interest;
pub mod lock_ranges;
pub mod lock_table;
pub mod opens;
pub mod table;
mod wait_graph;

#[cfg(test)]
mod tests;

use std::time::Duration;

/// A moment on the leader's CLOCK_BOOTTIME: time since an origin that is the same for the whole
/// life of the leader.
pub type Moment = Duration;

/// Names one waiting request; chosen by the caller, never reused in a leader's life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(pub u64);
