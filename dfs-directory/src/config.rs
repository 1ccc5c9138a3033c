//! What the command line says, checked.

use crate::namespace::Format;
use crate::state::level::{FEATURE_LEVEL, FIRST_LEVEL};
use clap::Parser;
use dfs_proto::ids::ClusterId;
use dfs_proto::layout::FileLayout;
use dfs_proto::limits::{CHUNK_BYTES_DEFAULT, GROUPS_DEFAULT, REPLICAS_DEFAULT, REPLICAS_MAX};
use dfs_proto::timing::LAST_SERVING_WAIT;
use std::path::PathBuf;

/// Most replica groups: the epochs of all of them travel in one message.
pub const GROUPS_MAX: u32 = 4096;

/// The directory service of a dfs cluster: names, placement, leases and locks.
#[derive(Clone, PartialEq, Eq, Debug, Parser)]
#[command(name = "dfs-directory", version)]
pub struct Config {
    /// Data dir of this member.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Address to listen on; port 0 takes a free one. Beyond loopback --secret-file is required.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    pub listen: String,
    /// Address under which others reach this member [default: the one listened on].
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// File with the cluster's secret: the same on all machines.
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// Found a new cluster if DIR is empty. The options below count only then.
    #[arg(long)]
    pub format: bool,
    /// Members of a running directory: become one more of them if DIR is empty.
    #[arg(
        long,
        value_name = "HOST:PORT",
        value_delimiter = ',',
        conflicts_with = "format"
    )]
    pub join: Vec<String>,
    /// Make DIR the first member of a new directory out of this backup (`dfsctl directory export`):
    /// for a cluster that has lost the disks of most of its members, while its file servers still
    /// hold the chunks. DIR must be empty.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["format", "join"])]
    pub import: Option<PathBuf>,
    /// Write a backup of what a stopped member has in DIR, and exit.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["format", "join", "import"])]
    pub export: Option<PathBuf>,
    /// When all servers of a group were gone and those that are back may lack un-synced writes:
    /// how long the missing ones are waited for before the group goes on without them.
    #[arg(long, value_name = "SECONDS", default_value_t = LAST_SERVING_WAIT.as_secs())]
    pub return_wait: u64,
    /// Take part up to this feature level only, as an older version would, so that the cluster's
    /// level is not raised before a new version is trusted [default: all that this one knows].
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(u16).range(i64::from(FIRST_LEVEL)..=i64::from(FEATURE_LEVEL)))]
    pub feature_level: Option<u16>,
    #[command(flatten)]
    pub shape: Shape,
}

/// What a new cluster is to be; fixed from then on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::Args)]
pub struct Shape {
    /// Servers that hold each chunk; the cluster takes files once so many have registered.
    #[arg(long, value_name = "N", default_value_t = REPLICAS_DEFAULT, requires = "format")]
    pub replicas: u8,
    /// Replica groups.
    #[arg(long, value_name = "N", default_value_t = GROUPS_DEFAULT, requires = "format")]
    pub groups: u32,
    /// With fewer replicas than this in-sync, writes wait [default: 2 of 3 or more, else 1].
    #[arg(long, value_name = "N", requires = "format")]
    pub min_in_sync: Option<u8>,
    /// Chunk size of new files: a power of two.
    #[arg(long, value_name = "BYTES", default_value_t = CHUNK_BYTES_DEFAULT, requires = "format")]
    pub chunk_size: u32,
}

impl Shape {
    /// The format of a new cluster; all that is wrong with the numbers, in words, if anything is.
    pub fn format(&self, cluster: ClusterId) -> Result<Format, String> {
        let min_in_sync = self
            .min_in_sync
            .unwrap_or(default_min_in_sync(self.replicas));
        let mut wrong = Vec::new();
        if !(1..=REPLICAS_MAX).contains(&usize::from(self.replicas)) {
            wrong.push(format!("--replicas is 1 to {REPLICAS_MAX}"));
        }
        if !(1..=GROUPS_MAX).contains(&self.groups) {
            wrong.push(format!("--groups is 1 to {GROUPS_MAX}"));
        }
        if !(1..=self.replicas.max(1)).contains(&min_in_sync) {
            wrong.push("--min-in-sync is 1 to --replicas".to_owned());
        }
        let layout = FileLayout {
            chunk_bytes: self.chunk_size,
            first_group: dfs_proto::ids::GroupId(0),
            groups: self.groups.max(1),
        };
        if !layout.is_valid() {
            wrong.push("--chunk-size is a power of two, 4096 to 64 MiB".to_owned());
        }
        if !wrong.is_empty() {
            return Err(wrong.join("; "));
        }
        Ok(Format {
            groups: self.groups,
            chunk_bytes: self.chunk_size,
            replicas: self.replicas,
            min_in_sync,
            // So that an ordinary user can use the cluster that it runs.
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            ..Format::defaults(cluster)
        })
    }
}

/// A majority of three; with one or two replicas writes go on with the last one.
fn default_min_in_sync(replicas: u8) -> u8 {
    if replicas >= 3 { 2 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Config, clap::Error> {
        let program = ["dfs-directory", "--data", "d"];
        Config::try_parse_from(program.iter().chain(arguments))
    }

    #[test]
    fn the_least_number_in_sync_follows_the_replicas() {
        for (replicas, expected) in [("1", 1), ("2", 1), ("3", 2), ("5", 2)] {
            let config = parse(&["--format", "--replicas", replicas]).expect("valid");
            let format = config.shape.format(ClusterId(1)).expect("valid");
            assert_eq!(format.min_in_sync, expected);
        }
    }

    #[test]
    fn the_shape_belongs_to_the_format() {
        assert!(parse(&["--replicas", "2"]).is_err());
        assert!(parse(&[]).is_ok());
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let config = parse(&["--format", "--replicas", "0", "--chunk-size", "5000"]);
        let refused = config
            .expect("parses")
            .shape
            .format(ClusterId(1))
            .expect_err("invalid");
        assert!(
            refused.contains("--replicas") && refused.contains("--chunk-size"),
            "{refused}"
        );
        let few = parse(&["--format", "--replicas", "2", "--min-in-sync", "3"]).expect("parses");
        assert!(few.shape.format(ClusterId(1)).is_err());
    }
}
