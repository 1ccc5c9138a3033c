//! `scripts/torture`: the command line of `dfs_testkit::torture`.

use clap::Parser;
use dfs_testkit::torture::{Endurance, Failover, Leaders, endurance, failover, leaders};
use std::process::ExitCode;
use std::time::Duration;

/// Works on a real cluster of three servers and two mounts while its servers are killed, paused,
/// restarted and cut off, one at a time. Needs root.
#[derive(Debug, Parser)]
#[command(name = "torture")]
struct Options {
    /// How long.
    #[arg(long, value_name = "N", default_value_t = 3.0)]
    minutes: f64,
    /// Of the schedule; a new one each time if it is not given.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Print the failover table instead.
    #[arg(long)]
    failover: bool,
    /// Print the table of the directory's leaders instead: three members.
    #[arg(long, conflicts_with = "failover")]
    leaders: bool,
    /// Deaths of a leader, a file server and a mount at once, of the leaders' table.
    #[arg(long, value_name = "N", default_value_t = 20)]
    machines: u64,
    /// Restarts of all members and servers in turn, of the leaders' table.
    #[arg(long, value_name = "N", default_value_t = 1)]
    rolls: u64,
    /// Pauses of the leaders' table.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pauses: u64,
    /// Kills under each load of the failover table, or of the leader.
    #[arg(long, value_name = "N", default_value_t = 20)]
    kills: u64,
    /// Pauses, and cuts of each kind, of the failover table; cuts of each direction of the leaders'.
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: u64,
    /// How long a pause of a table lasts.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pause: u64,
    /// How long a cut of a table lasts.
    #[arg(long, value_name = "SECONDS", default_value_t = 8)]
    cut: u64,
    /// Only faults whose name contains this, for example "cut: mounts".
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |since| since.as_secs())
    });
    let (pause, cut) = (
        Duration::from_secs(options.pause),
        Duration::from_secs(options.cut),
    );
    let result = if options.leaders {
        leaders(&Leaders {
            seed,
            kills: options.kills,
            pauses: options.pauses,
            cuts: options.rounds,
            machines: options.machines,
            rolls: options.rolls,
            pause,
            cut,
            only: options.only,
            bound: Duration::from_secs(3),
        })
    } else if options.failover {
        failover(&Failover {
            seed,
            kills: options.kills,
            rounds: options.rounds,
            pause,
            cut,
            only: options.only,
        })
    } else {
        endurance(Endurance {
            time: Duration::from_secs_f64(options.minutes * 60.0),
            seed,
        })
    };
    match result {
        Ok(()) => {
            println!("torture: passed (seed {seed})");
            ExitCode::SUCCESS
        }
        Err(what) => {
            eprintln!("torture: FAILED (seed {seed})\n{what}");
            ExitCode::FAILURE
        }
    }
}
