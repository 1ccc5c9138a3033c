//! `dfsctl`: looks inside a cluster, and says which servers and settings are to be used.

mod client;
mod export;
mod fsck;
mod manage;
mod overview;
mod repair;
mod scrub;
mod scrub_status;
mod show;
mod verify;

use clap::{Parser, Subcommand};
use client::Client;
use dfs_proto::ids::{InodeId, MemberId, SessionId};
use dfs_proto::msg::admin::{EvictSession, GoOn, ListGroups, ListLocks, ListServers, ListSessions};
use dfs_proto::msg::member::RemoveMember;
use std::path::PathBuf;
use std::process::ExitCode;

/// Exit codes: 0 all is well, 1 faults were found (and are left, where something repairs), 2 the
/// question could not be answered, 3 faults were found and all of them are repaired.
const FAULTS: u8 = 1;
const FAILED: u8 = 2;
const REPAIRED: u8 = 3;

/// Looks inside a dfs cluster, and manages its servers.
///
/// Exits with 0 when the answer is there and nothing is wrong, with 1 when `verify`, `scrub` or
/// `fsck` found faults that are left, or `repair` is under way, with 3 when `scrub` or `fsck` found
/// faults and repaired all of them, with 2 when the cluster could not be asked or cannot be
/// repaired.
#[derive(Debug, Parser)]
#[command(name = "dfsctl", version)]
struct Options {
    /// Members of the directory [default: the environment's DFS_DIRECTORY].
    #[arg(long, value_name = "HOST:PORT[,HOST:PORT...]", global = true)]
    directory: Option<String>,
    /// File with the cluster's secret.
    #[arg(long, value_name = "FILE", global = true)]
    secret_file: Option<PathBuf>,
    /// Print JSON for programs instead of tables for people.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    question: Question,
}

#[derive(Debug, Subcommand)]
enum Question {
    /// One view of the whole cluster.
    Status,
    /// File servers: address, space, signs of life.
    Servers,
    /// Replica groups: epoch, primary, members.
    Groups,
    /// Mounts and what they hold.
    Sessions,
    /// Ends a mount's session.
    #[command(subcommand)]
    Session(SessionOrder),
    /// Locks: who holds them and who waits for them.
    Locks {
        /// Only those of this file: a path on a mount, or from the root of the file system.
        #[arg(conflicts_with = "inode")]
        path: Option<PathBuf>,
        /// Only those of this inode.
        #[arg(long)]
        inode: Option<u64>,
    },
    /// Members of the directory service: who they are; takes one out.
    Directory {
        #[command(subcommand)]
        order: Option<DirectoryOrder>,
    },
    /// How far the cluster is from having every copy. Exits with 0 when all are there, 1 while
    /// they are being made, 2 when that cannot be done (it says why).
    Repair {
        /// Shows progress until nothing is left to do.
        #[arg(long)]
        watch: bool,
    },
    /// Empties, gives up or uses a server. SERVER is its number or its address.
    #[command(subcommand)]
    Server(manage::ServerOrder),
    /// Shows the cluster's settings, and changes those that are named.
    Set(manage::Changes),
    /// Groups that lost all their servers go on with those that are back, without the others: for
    /// machines that will not come back. What only these hold is lost.
    GoOn,
    /// Reads every replica of every chunk, checks and compares them.
    Verify {
        /// Only this group.
        #[arg(long)]
        group: Option<u32>,
    },
    /// Compares the replicas of every chunk now, and repairs what is wrong. File servers do it
    /// by themselves as well: see `--status`.
    Scrub(scrub::Options),
    /// Checks the namespace, and that every server holds what it should and nothing else.
    Fsck {
        /// Remove what belongs to nobody: chunks of files that are gone, and of groups that
        /// their server is no member of.
        #[arg(long)]
        repair: bool,
    },
}

#[derive(Debug, Subcommand)]
enum SessionOrder {
    /// Ends a session now: its mount is fenced, then its locks, leases and open files are free.
    /// The mount begins a new session; its handles that held a lock or unsynced data get EIO until
    /// they are opened again.
    Evict { session: u64 },
}

#[derive(Debug, Subcommand)]
enum DirectoryOrder {
    /// Takes a member out for good, by its number: it votes no more and may be stopped. (A new one
    /// comes in by itself: `dfs-directory --join`.)
    Remove { member: u64 },
    /// Writes a backup of the names to FILE: for the day on which the disks of most members are
    /// lost. `dfs-directory --import` makes a new directory of it; the file servers keep the data.
    Export { file: PathBuf },
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("error")).init();
    let options = Options::parse();
    let answered = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| e.to_string())
        .and_then(|runtime| runtime.block_on(Box::pin(answer(&options))));
    match answered {
        Ok(code) => code,
        Err(e) => {
            eprintln!("dfsctl: {e}");
            ExitCode::from(FAILED)
        }
    }
}

async fn answer(options: &Options) -> Result<ExitCode, String> {
    let client = Client::connect(options.directory.clone(), options.secret_file.as_deref()).await?;
    let json = options.json;
    let text = match &options.question {
        Question::Status => overview::status(&client, json).await?,
        Question::Servers => show::servers(&client.ask(&ListServers).await?, json),
        Question::Groups => show::groups(&client.ask(&ListGroups).await?, json),
        Question::Sessions => show::sessions(&client.ask(&ListSessions).await?, json),
        Question::Session(SessionOrder::Evict { session }) => {
            let session = SessionId(*session);
            client.ask(&EvictSession { session }).await?;
            format!("{session} has ended: what it held is free\n")
        }
        Question::Locks { path, inode } => {
            let inode = match path {
                Some(path) => Some(scrub::find(&client, path).await?.inode),
                None => inode.map(InodeId),
            };
            let locks = client.ask(&ListLocks { inode }).await?;
            let names = scrub::names(&client, locks.iter().map(|lock| lock.inode)).await;
            show::locks(&locks, &names, json)
        }
        Question::Directory { order: None } => overview::directory(&client, json).await?,
        Question::Directory {
            order: Some(DirectoryOrder::Export { file }),
        } => export::run(&client, file).await?,
        Question::Directory {
            order: Some(DirectoryOrder::Remove { member }),
        } => {
            let member = MemberId(*member);
            client.ask(&RemoveMember { member }).await?;
            format!("{member} is being taken out; see `dfsctl status`\n")
        }
        Question::Repair { watch } => return repair::run(&client, *watch, json).await,
        Question::Server(order) => manage::server(&client, order).await?,
        Question::Set(changes) => manage::set(&client, changes, json).await?,
        Question::GoOn => format!("{} groups go on\n", client.ask(&GoOn).await?),
        Question::Verify { group } => {
            let report = verify::run(&client, *group).await?;
            print(&verify::show(&report, json))?;
            let faulty = !report.faults.is_empty();
            return Ok(if faulty {
                ExitCode::from(FAULTS)
            } else {
                ExitCode::SUCCESS
            });
        }
        Question::Scrub(options) if options.status => scrub_status::status(&client, json).await?,
        Question::Scrub(options) => {
            let report = scrub::run(&client, options).await?;
            print(&scrub::show(&report, json))?;
            return Ok(verdict(report.found(), report.left()));
        }
        Question::Fsck { repair } => {
            let report = fsck::run(&client, *repair).await?;
            print(&fsck::show(&report, json))?;
            return Ok(verdict(report.found(), report.left()));
        }
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn verdict(found: usize, left: usize) -> ExitCode {
    match (found, left) {
        (0, _) => ExitCode::SUCCESS,
        (_, 0) => ExitCode::from(REPAIRED),
        (_, _) => ExitCode::from(FAULTS),
    }
}

/// A reader that has enough (`dfsctl groups | head`) is no fault of ours.
pub(crate) fn print(text: &str) -> Result<(), String> {
    use std::io::Write;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.to_string()),
        _ => Ok(()),
    }
}
