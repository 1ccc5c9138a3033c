//! `dfsctl fsck`: the namespace with itself, and what all servers hold with the namespace.

use crate::client::Client;
use crate::scrub::names;
use crate::show::document;
use dfs_proto::ids::{GroupId, InodeId, ServerId};
use dfs_proto::msg::admin::GetStatus;
use dfs_proto::msg::scrub::{
    CheckGroup, CheckNames, GroupChecked, HeldFault, HeldFinding, NamesChecked,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Report {
    names: NamesChecked,
    groups: u32,
    chunks: u64,
    findings: Vec<(GroupId, HeldFinding)>,
    /// Servers that could not be asked what they hold.
    missing: BTreeSet<ServerId>,
    paths: BTreeMap<InodeId, String>,
}

impl Report {
    pub(crate) fn found(&self) -> usize {
        self.names.problems.len() + self.findings.len()
    }

    /// Faults that are still there.
    pub(crate) fn left(&self) -> usize {
        let held = self.findings.iter().filter(|(_, f)| !f.removed).count();
        self.names.problems.len() + held
    }

    fn add(&mut self, group: GroupId, page: GroupChecked) {
        self.chunks += page.chunks;
        self.missing.extend(page.missing);
        self.findings
            .extend(page.findings.into_iter().map(|found| (group, found)));
    }
}

pub(crate) async fn run(client: &Client, repair: bool) -> Result<Report, String> {
    let mut report = Report {
        names: client.ask(&CheckNames).await?,
        groups: client.ask(&GetStatus).await?.groups,
        ..Report::default()
    };
    for group in (0..report.groups).map(GroupId) {
        let mut after = None;
        loop {
            let request = CheckGroup {
                group,
                after,
                repair,
            };
            let page = client.ask(&request).await?;
            after = page.next;
            report.add(group, page);
            if after.is_none() {
                break;
            }
        }
    }
    let inodes = report.findings.iter().map(|(_, f)| f.key.inode);
    let of_names = report.names.problems.iter().filter_map(|(inode, _)| *inode);
    report.paths = names(client, inodes.chain(of_names)).await;
    Ok(report)
}

fn word(fault: HeldFault) -> &'static str {
    match fault {
        HeldFault::Stray => "stray",
        HeldFault::Freed => "freed",
        HeldFault::Beyond => "beyond",
        HeldFault::Missing => "missing",
        HeldFault::Differs => "differs",
        HeldFault::Damaged => "damaged",
    }
}

pub(crate) fn show(report: &Report, json: bool) -> String {
    let path = |inode: InodeId| report.paths.get(&inode);
    if json {
        let names: Vec<Value> = report
            .names
            .problems
            .iter()
            .map(|(inode, what)| {
                json!({
                    "inode": inode.map(|inode| inode.0),
                    "path": inode.and_then(path),
                    "what": what,
                })
            })
            .collect();
        let held: Vec<Value> = report
            .findings
            .iter()
            .map(|(group, found)| {
                json!({
                    "server": found.server.0,
                    "group": group.0,
                    "inode": found.key.inode.0,
                    "chunk": found.key.index.0,
                    "path": path(found.key.inode),
                    "fault": word(found.fault),
                    "what": found.what,
                    "removed": found.removed,
                })
            })
            .collect();
        let missing: Vec<u32> = report.missing.iter().map(|server| server.0).collect();
        return document(&json!({
            "inodes": report.names.inodes,
            "entries": report.names.entries,
            "orphans": report.names.orphans,
            "groups": report.groups,
            "chunks": report.chunks,
            "found": report.found(),
            "left": report.left(),
            "names": names,
            "held": held,
            "servers_not_asked": missing,
        }));
    }
    let mut text = String::new();
    for (inode, what) in &report.names.problems {
        let inode = inode.map_or("-".to_owned(), |inode| inode.to_string());
        let _ = writeln!(text, "NAMES {inode}: {what}");
    }
    for (group, found) in &report.findings {
        let _ = writeln!(
            text,
            "{} {} {group} {} {}: {}{}",
            word(found.fault).to_uppercase(),
            found.server,
            found.key,
            path(found.key.inode).map_or("(no name)", String::as_str),
            found.what,
            if found.removed { "; removed" } else { "" }
        );
    }
    for server in &report.missing {
        let _ = writeln!(text, "{server} could not be asked what it holds");
    }
    let _ = writeln!(
        text,
        "{}: {} inodes, {} names, {} chunks in {} groups; {} faults, {} left",
        if report.left() == 0 {
            "sound"
        } else {
            "FAULTY"
        },
        report.names.inodes,
        report.names.entries,
        report.chunks,
        report.groups,
        report.found(),
        report.left()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::ids::{ChunkIndex, ChunkKey};

    fn finding(fault: HeldFault, removed: bool) -> HeldFinding {
        HeldFinding {
            server: ServerId(2),
            key: ChunkKey {
                inode: InodeId(12),
                index: ChunkIndex(3),
            },
            fault,
            what: "its file is gone".into(),
            removed,
        }
    }

    #[test]
    fn each_finding_is_printed_and_what_is_left_is_counted() {
        let mut report = Report::default();
        report.add(
            GroupId(7),
            GroupChecked {
                chunks: 9,
                findings: vec![
                    finding(HeldFault::Freed, true),
                    finding(HeldFault::Missing, false),
                ],
                missing: vec![ServerId(5)],
                next: None,
            },
        );
        assert_eq!((report.found(), report.left()), (2, 1));
        let text = show(&report, false);
        assert!(
            text.contains(
                "FREED server:2 group:7 ino:12/chunk:3 (no name): its file is gone; removed"
            ),
            "{text}"
        );
        assert!(text.contains("server:5 could not be asked"), "{text}");
        assert!(text.lines().last().is_some_and(|l| l.starts_with("FAULTY")));
        let value: Value = serde_json::from_str(&show(&report, true)).expect("valid JSON");
        assert_eq!(value["held"][1]["fault"], "missing");
        assert_eq!(value["left"], 1);
        report.names.problems.push((Some(InodeId(4)), "odd".into()));
        assert_eq!(report.left(), 2);
        assert!(show(&report, false).contains("NAMES ino:4: odd"));
    }
}
