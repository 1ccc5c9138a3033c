//! What a file server is told when it is started.

use clap::Parser;
use std::path::PathBuf;

/// Stores chunks of files and replicates them with other file servers.
#[derive(Clone, Debug, Parser)]
#[command(name = "dfs-server", version)]
pub struct Config {
    /// Dir for the data of this server; an empty one becomes a new server.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,

    /// Where to listen; port 0 takes a free one, to be found in DIR/address.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    pub listen: String,

    /// Address that is told to others, if it is not the one listened on.
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,

    /// Members of the directory service.
    #[arg(
        long,
        value_name = "HOST:PORT[,HOST:PORT...]",
        value_delimiter = ',',
        required = true
    )]
    pub directory: Vec<String>,

    /// File with the cluster's secret; needed to listen beyond loopback.
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,

    /// Bytes kept free on the disk (default: 5 % of it, at most 1 GiB).
    #[arg(long, value_name = "BYTES")]
    pub reserve: Option<u64>,

    /// Use the dir although it was copied from elsewhere; the original must be gone for good.
    #[arg(long)]
    pub accept_copy: bool,

    /// Let the dir count although it was set back to an older state, where no server has
    /// anything newer: what was written since is lost.
    #[arg(long)]
    pub accept_rollback: bool,
}
