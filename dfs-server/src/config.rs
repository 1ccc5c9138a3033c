//! What a file server is told when it is started.

use clap::Parser;
use std::path::PathBuf;
use std::time::Duration;

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

    /// Each chunk is read, checked and compared with the other replicas this often: a number
    /// with s, m, h or d; 0: never by itself.
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = seconds)]
    pub scrub_every: Duration,

    /// Bytes a second that are read for it, from all replicas together, by each server.
    #[arg(long, value_name = "BYTES", default_value_t = 32 << 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub scrub_rate: u64,

    /// A member of a group leaves it if its writes take so many times longer than those of each
    /// other member; 0: never.
    #[arg(long, value_name = "FACTOR", default_value_t = 10)]
    pub slow_factor: u32,

    /// It leaves after so long, with s, m, h or d, and only while enough others are in-sync.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = seconds)]
    pub slow_after: Duration,

    /// Dir in memory (tmpfs) that outlives this process and not the machine. With it a server that
    /// was killed is told from one whose machine was: see docs/replication.md.
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    pub witness_dir: PathBuf,

    /// Use the dir although it was copied from elsewhere; the original must be gone for good.
    #[arg(long)]
    pub accept_copy: bool,

    /// Groups that are down because the data dirs of all that served last are lost go on with
    /// what this server has, old or not: what was written since is lost.
    #[arg(long)]
    pub accept_rollback: bool,
}

/// `7d`, `12h`, `30m`, `90s` or `0`.
fn seconds(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix(['s', 'm', 'h', 'd']) {
        Some(number) => (number, text.as_bytes()[text.len() - 1]),
        None if text == "0" => (text, b's'),
        None => return Err("a number with s, m, h or d, for example 7d".into()),
    };
    let unit = match unit {
        b'd' => 86_400,
        b'h' => 3_600,
        b'm' => 60,
        _ => 1,
    };
    number
        .parse::<u32>()
        .map(|number| Duration::from_secs(u64::from(number) * unit))
        .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        assert_eq!(seconds("7d"), Ok(Duration::from_secs(604_800)));
        assert_eq!(seconds("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(seconds("2h"), seconds("120m"));
        assert_eq!(seconds("0"), Ok(Duration::ZERO));
        assert!(seconds("7").is_err() && seconds("d").is_err() && seconds("-1s").is_err());
    }
}
