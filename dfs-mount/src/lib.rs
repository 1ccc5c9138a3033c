//! dfs-mount

pub mod client;
