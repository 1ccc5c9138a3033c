//! dfs-testkit
