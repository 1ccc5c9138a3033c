//! Mounts a dfs file system: `dfs-mount HOST:PORT[,HOST:PORT...] MOUNTPOINT [-o OPTIONS] [-f]`.

fn main() -> std::process::ExitCode {
    dfs_mount::run()
}
