//! dfs-server

pub mod chunk;
pub mod replica;
