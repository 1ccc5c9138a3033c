//! The directory under a simulated network and clock, in one thread: three members, three mounts, and as much
//! of file servers as fencing needs. `docs/testing.md` says what is simulated and what is not.
//!
//! The service for mounts (`dfs_directory::mount_api`), the replicated state machine and the connections are the
//! product's own, as they run in a member; so are the mounts' pure machines. The log between the members
//! is a model of what openraft promises (`log`).
//!
//! `DFS_DIRSIM_SEED=N` runs that seed alone; with `DFS_DIRSIM_LIVE=1` it prints everything that happens.
//! `DFS_DIRSIM_SEEDS=N` runs so many, from `DFS_DIRSIM_FROM` on, on `DFS_DIRSIM_THREADS` threads.

mod chaos;
mod check;
mod cluster;
mod link;
mod log;
mod mount;
mod planted;
mod programs;
mod run;
mod seeds;
mod servers;
mod world;
