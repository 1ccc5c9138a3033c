//! Fills the data dir of a directory member with so many files, starts the member, and says how long
//! that takes and how much memory it needs.
//!
//! The files are made by the product's own commands, applied to the tables without a log: a dir
//! as an import leaves it.

use clap::Parser;
use dfs_directory::namespace::{Format, NamespaceCommand};
use dfs_directory::session::SessionCommand;
use dfs_directory::state::{Change, Command, apply};
use dfs_directory::storage::identity::Stage;
use dfs_directory::storage::{DataDir, Identity, Store, tables};
use dfs_proto::attr::Timestamp;
use dfs_proto::ids::{
    ClusterId, Incarnation, InodeId, MemberId, NodeId, ROOT, Sequence, SessionId,
};
use dfs_proto::msg::namespace::{Creator, Mutation};
use dfs_proto::msg::session::Stamp;
use dfs_proto::name::FileName;
use dfs_testkit::cluster::binary;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::time::{Duration, Instant};

/// Files of a dir.
const DIR_FILES: u64 = 1000;
/// Commands of a transaction.
const BATCH: usize = 50_000;

/// Fills a member's data dir with N files and starts it.
#[derive(Debug, Parser)]
#[command(name = "fill-namespace")]
struct Options {
    /// So many files, 1000 in each dir.
    files: u64,
    /// An empty dir for them; it is left there.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}

struct Filler {
    store: Store,
    waiting: Vec<Command>,
    sequence: u64,
    seconds: i64,
}

impl Filler {
    fn push(&mut self, change: Change) -> Result<(), Box<dyn Error>> {
        let now = Timestamp {
            seconds: self.seconds,
            nanoseconds: 0,
        };
        self.seconds += 1;
        self.waiting.push(Command { now, change });
        if self.waiting.len() >= BATCH {
            self.apply()?;
        }
        Ok(())
    }

    fn apply(&mut self) -> Result<(), Box<dyn Error>> {
        let mut writer = self.store.write()?;
        let mut tables = writer.tables()?;
        for command in self.waiting.drain(..) {
            apply(&mut tables, &command)?;
        }
        drop(tables);
        writer.commit()?;
        // What is committed without a flush stays in memory until the next one.
        self.store.checkpoint()?;
        Ok(())
    }

    fn mutate(&mut self, mutation: Mutation) -> Result<(), Box<dyn Error>> {
        self.sequence += 1;
        let stamp = Stamp {
            session: SessionId(1),
            sequence: Sequence(self.sequence),
            lowest_unanswered: Sequence(self.sequence),
        };
        self.push(Change::Namespace(NamespaceCommand::Mutate {
            stamp,
            mutation,
        }))
    }
}

fn name(number: u64) -> Result<FileName, Box<dyn Error>> {
    FileName::new(format!("a-file-of-some-length-{number:08}").as_bytes())
        .map_err(|e| format!("{e:?}").into())
}

fn fill(data: &Path, files: u64) -> Result<(), Box<dyn Error>> {
    let identity = Identity {
        cluster: ClusterId(1),
        node: NodeId(1),
        member: MemberId(1),
        stage: Stage::Founding,
    };
    let held = DataDir::format(data, identity)?;
    let store = Store::open(&held.path().join(tables::FILE_NAME))?;
    let mut filler = Filler {
        store,
        waiting: Vec::new(),
        sequence: 0,
        seconds: 0,
    };
    let format = Format::defaults(ClusterId(1));
    filler.push(Change::Namespace(NamespaceCommand::Format(format)))?;
    filler.push(Change::Session(SessionCommand::Open {
        incarnation: Incarnation(1),
        host: "filler".to_owned(),
        pid: 1,
        mount_point: "/".to_owned(),
    }))?;
    let creator = Creator {
        uid: 0,
        gid: 0,
        umask: 0,
    };
    // Numbers are given in order, so the dirs' are known: each is followed by its files.
    let mut next = ROOT.0 + 1;
    for dir in 0..files.div_ceil(DIR_FILES) {
        let parent = InodeId(next);
        filler.mutate(Mutation::MakeDir {
            parent: ROOT,
            name: name(dir)?,
            mode: 0o755,
            creator,
        })?;
        let inside = DIR_FILES.min(files - dir * DIR_FILES);
        for file in 0..inside {
            filler.mutate(Mutation::Create {
                parent,
                name: name(file)?,
                mode: 0o644,
                creator,
                exclusive: true,
            })?;
        }
        next += 1 + inside;
    }
    filler.push(Change::Session(SessionCommand::BeginEnd {
        session: SessionId(1),
    }))?;
    filler.push(Change::Session(SessionCommand::FinishEnd {
        session: SessionId(1),
    }))?;
    filler.apply()
}

/// The most memory that a process has had, in MiB.
fn memory(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib >> 10)
}

fn start(data: &Path) -> Result<(), Box<dyn Error>> {
    let begun = Instant::now();
    let mut member = Process::new(binary("dfs-directory"))
        .arg("--data")
        .arg(data)
        .spawn()?;
    let address = data.join("address");
    let before = std::fs::metadata(&address).and_then(|m| m.modified()).ok();
    let serves = || std::fs::metadata(&address).and_then(|m| m.modified()).ok() != before;
    while !serves() {
        if let Some(ended) = member.try_wait()? {
            return Err(format!("the member has ended: {ended}").into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    println!(
        "it serves after {:.2?}, with {} MiB of memory at most",
        begun.elapsed(),
        memory(member.id()).unwrap_or(0)
    );
    let stopped = Process::new("kill").arg(member.id().to_string()).status()?;
    member.wait()?;
    stopped
        .success()
        .then_some(())
        .ok_or("it was not stopped".into())
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let begun = Instant::now();
    fill(&options.data, options.files)?;
    let bytes = std::fs::metadata(options.data.join(tables::FILE_NAME))?.len();
    println!(
        "{} files in {:.1?}, {} MiB of tables",
        options.files,
        begun.elapsed(),
        bytes >> 20
    );
    // The first start founds the group; the second finds everything.
    start(&options.data)?;
    start(&options.data)
}
