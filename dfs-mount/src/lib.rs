//! dfs-mount
