//! dfs-server

pub mod chunk;
