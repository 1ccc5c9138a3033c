//! dfs-server

pub mod chunk;
pub mod config;
pub mod node;
pub mod replica;
pub mod service;
