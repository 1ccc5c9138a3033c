//! The mount: a client core that knows no FUSE, and a thin FUSE adapter over it.
//!
//! ```text
//! kernel <-> fuse (adapter, caches) -> client (leases, chunks, locks) -> dfs-proto
//! ```

pub mod client;

mod cli;
mod fuse;
mod launch;
mod mount_helper;
mod mount_point;
mod run;

/// Runs `dfs-mount` with the process's arguments.
pub fn run() -> std::process::ExitCode {
    run::run()
}
