//! The shell around the replica core: the network, the disk, the clock.
//!
//! | module | what it does |
//! | --- | --- |
//! | `driver` | feeds events to the core and carries its actions out |
//! | `facing` | requests of mounts, servers and the directory, decoded and answered |
//! | `disk` | the core's disk operations on the chunk store |
//! | `peers` | connections to other file servers |
//! | `directory_link` | registration, heartbeats, reports |
//! | `past` | what the data dir remembers of the runs that used it |
//! | `verify` | reads and checks everything that is held, for `dfsctl verify` |
//!
//! It decides nothing about replication.

mod directory_link;
mod disk;
mod driver;
mod facing;
mod past;
mod peers;
mod verify;

pub use directory_link::{DirectoryLink, Notice, refusal};
pub use driver::Driver;
pub use facing::Facing;
pub use past::{begin as begin_run, told_and_kept};
pub use peers::Peers;
