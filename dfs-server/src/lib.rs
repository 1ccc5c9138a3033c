//! dfs-server
