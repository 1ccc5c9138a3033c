//! `dfsctl scrub`: compares and repairs now, page by page, with progress.

use crate::client::Client;
use crate::show::{bytes, document};
use dfs_proto::ids::{GroupId, InodeId, ServerId};
use dfs_proto::msg::admin::{GetStatus, ListGroups, ListServers};
use dfs_proto::msg::scrub::{
    FindFile, FoundFile, NameInodes, ScrubFinding, ScrubGroup, ScrubbedPage,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Progress is written this often where it is not drawn.
const LINE_EVERY: Duration = Duration::from_secs(5);
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// What is to be gone through.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Only this file: a path on a mount, or from the root of the file system.
    #[arg(long, value_name = "PATH", conflicts_with = "server")]
    file: Option<PathBuf>,
    /// Only what this server holds (its copies and those they are compared with).
    #[arg(long, value_name = "N")]
    server: Option<u32>,
    /// Show the progress.
    #[arg(long)]
    watch: bool,
    /// Read at most so many bytes a second, from all replicas together.
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 20)]
    rate: u64,
    /// Compare nothing; show what the servers' own scrub is at, and what they keep in
    /// quarantine.
    #[arg(long, conflicts_with_all = ["file", "server", "watch"])]
    pub(crate) status: bool,
}

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Report {
    groups: u64,
    chunks: u64,
    bytes: u64,
    skipped: u64,
    findings: Vec<ScrubFinding>,
    names: BTreeMap<InodeId, String>,
    seconds: f64,
}

impl Report {
    /// Copies that are still wrong.
    pub(crate) fn left(&self) -> usize {
        let left = self.findings.iter().filter(|f| f.repaired.is_err());
        left.count()
    }

    pub(crate) fn found(&self) -> usize {
        self.findings.len()
    }

    fn add(&mut self, page: ScrubbedPage) {
        self.chunks += page.chunks;
        self.bytes += page.bytes;
        self.skipped += page.skipped;
        self.findings.extend(page.findings);
    }
}

/// The pages that are asked for, and how many chunks there will be.
struct Work {
    groups: Vec<GroupId>,
    inode: Option<InodeId>,
    chunks: u64,
}

pub(crate) async fn run(client: &Client, options: &Options) -> Result<Report, String> {
    let work = work(client, options).await?;
    let began = Instant::now();
    let mut report = Report::default();
    let mut progress = Progress::new(options.watch, work.chunks);
    for group in work.groups {
        let mut after = None;
        loop {
            let request = ScrubGroup {
                group,
                after,
                inode: work.inode,
            };
            let page = client.ask(&request).await?;
            after = page.next;
            report.add(page);
            progress.show(&report, began);
            let due = Duration::from_secs_f64(report.bytes as f64 / options.rate.max(1) as f64);
            tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
            if after.is_none() {
                break;
            }
        }
        report.groups += 1;
    }
    report.seconds = began.elapsed().as_secs_f64();
    progress.end(&report, began);
    report.names = names(client, report.findings.iter().map(|f| f.key.inode)).await;
    Ok(report)
}

async fn work(client: &Client, options: &Options) -> Result<Work, String> {
    if let Some(path) = &options.file {
        let found = find(client, path).await?;
        return Ok(Work {
            groups: found.groups,
            inode: Some(found.inode),
            chunks: found.size.div_ceil(u64::from(found.chunk_bytes.max(1))),
        });
    }
    let servers = client.ask(&ListServers).await?;
    let held = |server: ServerId| {
        let entry = servers.iter().find(|s| s.entry.run.server == server);
        entry.map(|s| s.space.chunks)
    };
    let groups = client.ask(&ListGroups).await?;
    if let Some(number) = options.server {
        let server = ServerId(number);
        let chunks = held(server).ok_or_else(|| format!("there is no server {number}"))?;
        let of_it = |group: &&dfs_proto::msg::admin::GroupStatus| {
            group.config.in_sync().any(|run| run.server == server)
        };
        let of_it: Vec<GroupId> = groups
            .iter()
            .filter(of_it)
            .map(|g| g.config.group)
            .collect();
        if of_it.is_empty() {
            return Err(format!("server {number} is in-sync in no group"));
        }
        return Ok(Work {
            groups: of_it,
            inode: None,
            chunks,
        });
    }
    let replicas: u64 = groups.iter().map(|g| u64::from(g.wanted)).sum();
    let all: u64 = servers.iter().map(|s| s.space.chunks).sum();
    let status = client.ask(&GetStatus).await?;
    Ok(Work {
        groups: (0..status.groups).map(GroupId).collect(),
        inode: None,
        chunks: all * groups.len() as u64 / replicas.max(1),
    })
}

/// The file of this path.
pub(crate) async fn find(client: &Client, path: &Path) -> Result<FoundFile, String> {
    let path = from_root(path);
    client.ask(&FindFile { path }).await
}

/// A path on a mount becomes one from its root; any other is one already.
fn from_root(path: &Path) -> String {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let dfs = mounts.lines().filter_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        let is_dfs = kind.starts_with("fuse.dfs ");
        let point = fields.split(' ').nth(4).filter(|_| is_dfs)?;
        Some(PathBuf::from(point.replace("\\040", " ")))
    });
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let within = dfs
        .filter_map(|point| real.strip_prefix(&point).ok().map(Path::to_owned))
        .min_by_key(|rest| rest.as_os_str().len());
    within
        .unwrap_or_else(|| path.to_owned())
        .to_string_lossy()
        .into_owned()
}

/// Paths of inodes, as far as they can be told.
pub(crate) async fn names(
    client: &Client,
    inodes: impl Iterator<Item = InodeId>,
) -> BTreeMap<InodeId, String> {
    let inodes: BTreeSet<InodeId> = inodes.collect();
    let inodes: Vec<InodeId> = inodes.into_iter().take(1024).collect();
    if inodes.is_empty() {
        return BTreeMap::new();
    }
    let named = client.ask(&NameInodes { inodes }).await.unwrap_or_default();
    let known = named.into_iter().filter_map(|(i, path)| Some((i, path?)));
    known.collect()
}

/// A line that is drawn anew on a terminal, or written from time to time.
struct Progress {
    on: bool,
    drawn: bool,
    total: u64,
    shown: Option<Instant>,
}

impl Progress {
    fn new(on: bool, total: u64) -> Self {
        Self {
            on,
            drawn: std::io::stderr().is_terminal(),
            total,
            shown: None,
        }
    }

    fn show(&mut self, report: &Report, began: Instant) {
        let pause = if self.drawn { DRAW_EVERY } else { LINE_EVERY };
        if self.on && self.shown.is_none_or(|at| at.elapsed() >= pause) {
            self.shown = Some(Instant::now());
            self.write(report, began, false);
        }
    }

    fn end(&mut self, report: &Report, began: Instant) {
        if self.on {
            self.write(report, began, true);
        }
    }

    fn write(&self, report: &Report, began: Instant, last: bool) {
        let line = line(report, self.total, began.elapsed().as_secs_f64());
        let (start, end) = match (self.drawn, last) {
            (true, false) => ("\r\x1b[K", ""),
            (true, true) => ("\r\x1b[K", "\n"),
            (false, _) => ("", "\n"),
        };
        // Progress that nobody reads is no reason to stop.
        let _ = write!(std::io::stderr(), "{start}{line}{end}");
        let _ = std::io::stderr().flush();
    }
}

/// Count, bytes, rate, time to go, found, repaired.
fn line(report: &Report, total: u64, seconds: f64) -> String {
    let done = report.chunks + report.skipped;
    let total = total.max(done);
    let percent = done * 100 / total.max(1);
    let rate = report.bytes as f64 / seconds.max(0.001);
    let eta = match done {
        0 => "?".to_owned(),
        _ => duration((total - done) as f64 * seconds / done as f64),
    };
    format!(
        "{percent:3} %  {done} of {total} chunks  {} read  {}/s  {eta} to go  {} found  {} repaired",
        bytes(report.bytes),
        bytes(rate as u64),
        report.found(),
        report.found() - report.left()
    )
}

/// In whole units, rounded up.
pub(crate) fn duration(seconds: f64) -> String {
    let seconds = seconds.ceil() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds.div_ceil(60)),
        3600..172_800 => format!("{} h", seconds.div_ceil(3600)),
        _ => format!("{} days", seconds / 86_400),
    }
}

pub(crate) fn show(report: &Report, json: bool) -> String {
    let name = |inode: InodeId| report.names.get(&inode);
    if json {
        let findings: Vec<Value> = report
            .findings
            .iter()
            .map(|found| {
                json!({
                    "server": found.server.0,
                    "group": found.group.0,
                    "inode": found.key.inode.0,
                    "chunk": found.key.index.0,
                    "path": name(found.key.inode),
                    "version": found.version.map(|version| version.to_string()),
                    "what": found.what,
                    "repaired": found.repaired.is_ok(),
                    "why_not": found.repaired.as_ref().err(),
                })
            })
            .collect();
        return document(&json!({
            "groups": report.groups,
            "chunks": report.chunks,
            "bytes": report.bytes,
            "seconds": report.seconds,
            "skipped": report.skipped,
            "found": report.found(),
            "repaired": report.found() - report.left(),
            "findings": findings,
        }));
    }
    let mut text = String::new();
    for found in &report.findings {
        let _ = writeln!(
            text,
            "{} {} {} {}: {}; {}",
            if found.repaired.is_ok() {
                "REPAIRED"
            } else {
                "DAMAGED"
            },
            found.server,
            found.key,
            name(found.key.inode).map_or("(no name)", String::as_str),
            found.what,
            match &found.repaired {
                Ok(()) => "replaced by a good copy",
                Err(why) => why,
            }
        );
    }
    let _ = writeln!(
        text,
        "{} chunks compared, {} read in {:.1} s: {} found, {} repaired{}",
        report.chunks,
        bytes(report.bytes),
        report.seconds,
        report.found(),
        report.found() - report.left(),
        match report.skipped {
            0 => String::new(),
            n => format!("; {n} could not be compared now"),
        }
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::ids::{ChunkIndex, ChunkKey};

    const KEY: ChunkKey = ChunkKey {
        inode: InodeId(12),
        index: ChunkIndex(3),
    };

    fn finding(server: u32, repaired: Result<(), String>) -> ScrubFinding {
        ScrubFinding {
            server: ServerId(server),
            group: GroupId(7),
            key: KEY,
            version: None,
            what: "block 3 differs".into(),
            repaired,
        }
    }

    #[test]
    fn a_report_names_server_chunk_and_file_and_counts_what_is_left() {
        let mut report = Report::default();
        report.add(ScrubbedPage {
            chunks: 5,
            bytes: 3 << 20,
            findings: vec![finding(1, Ok(())), finding(2, Err("no good copy".into()))],
            ..ScrubbedPage::default()
        });
        report.names.insert(InodeId(12), "/a/b".into());
        assert_eq!((report.found(), report.left()), (2, 1));
        let text = show(&report, false);
        assert!(
            text.contains("REPAIRED server:1 ino:12/chunk:3 /a/b: block 3 differs"),
            "{text}"
        );
        assert!(text.contains("DAMAGED server:2"), "{text}");
        let value: Value = serde_json::from_str(&show(&report, true)).expect("valid JSON");
        assert_eq!(value["findings"][1]["why_not"], "no good copy");
        assert_eq!(
            (&value["found"], &value["repaired"]),
            (&json!(2), &json!(1))
        );
        let line = line(&report, 20, 10.0);
        assert!(
            line.contains("25 %") && line.contains("30 s to go"),
            "{line}"
        );
    }

    #[test]
    fn a_path_that_is_on_no_mount_counts_from_the_root() {
        assert_eq!(from_root(Path::new("/no/such/file")), "/no/such/file");
        assert_eq!(from_root(Path::new("a/b")), "a/b");
    }
}
