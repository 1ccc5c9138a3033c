//! `dfsctl verify`: all groups, page by page.

use crate::client::Client;
use crate::show::document;
use dfs_proto::ids::{GroupId, ServerId};
use dfs_proto::msg::admin::{Fault, GetStatus, Verified, VerifyGroup};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// What was found in all groups.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) groups: u32,
    pub(crate) chunks: u64,
    pub(crate) faults: Vec<(GroupId, Fault)>,
    /// Over all that a server holds as an in-sync member.
    pub(crate) digests: BTreeMap<ServerId, u64>,
}

impl Report {
    /// A sum, so that servers of the same groups have the same digest when they hold the same.
    fn add(&mut self, page: &Verified) {
        self.chunks += page.chunks;
        self.faults
            .extend(page.faults.iter().map(|fault| (page.group, fault.clone())));
        for (server, digest) in &page.digests {
            let sum = self.digests.entry(*server).or_default();
            let mixed = (u64::from(*digest) ^ (u64::from(page.group.0) << 32))
                .wrapping_mul(0x9e37_79b9_7f4a_7c15);
            // An empty page says the same of every server, and nothing.
            if page.chunks > 0 {
                *sum = sum.rotate_left(1).wrapping_add(mixed);
            }
        }
    }
}

pub(crate) async fn run(client: &Client, only: Option<u32>) -> Result<Report, String> {
    let status = client.ask(&GetStatus).await?;
    let groups = match only {
        Some(group) if group >= status.groups => {
            return Err(format!(
                "there are groups 0 to {}",
                status.groups.saturating_sub(1)
            ));
        }
        Some(group) => group..group + 1,
        None => 0..status.groups,
    };
    let mut report = Report::default();
    for group in groups {
        report.groups += 1;
        let mut after = None;
        loop {
            let group = GroupId(group);
            let page = client.ask(&VerifyGroup { group, after }).await?;
            report.add(&page);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    Ok(report)
}

pub(crate) fn show(report: &Report, json: bool) -> String {
    if json {
        let faults: Vec<Value> = report
            .faults
            .iter()
            .map(|(group, fault)| {
                json!({
                    "group": group.0,
                    "server": fault.server.0,
                    "inode": fault.key.inode.0,
                    "chunk": fault.key.index.0,
                    "version": fault.version.map(|version| version.to_string()),
                    "what": fault.what,
                })
            })
            .collect();
        let digests: BTreeMap<String, String> = report
            .digests
            .iter()
            .map(|(server, digest)| (server.0.to_string(), format!("{digest:016x}")))
            .collect();
        return document(&json!({
            "groups": report.groups,
            "chunks": report.chunks,
            "faults": faults,
            "digests": digests,
        }));
    }
    let mut text = String::new();
    for (group, fault) in &report.faults {
        let version = fault
            .version
            .map_or("none".to_owned(), |version| version.to_string());
        let _ = writeln!(
            text,
            "FAULT {group} {} {} {version}: {}",
            fault.server, fault.key, fault.what
        );
    }
    for (server, digest) in &report.digests {
        let _ = writeln!(text, "{server} digest {digest:016x}");
    }
    let _ = writeln!(
        text,
        "{}: {} groups, {} chunks, {} faults",
        if report.faults.is_empty() {
            "all replicas agree"
        } else {
            "replicas differ"
        },
        report.groups,
        report.chunks,
        report.faults.len()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::ids::{ChunkIndex, ChunkKey, InodeId};

    fn page(group: u32, chunks: u64, digests: [u32; 2]) -> Verified {
        Verified {
            group: GroupId(group),
            chunks,
            faults: Vec::new(),
            digests: vec![(ServerId(1), digests[0]), (ServerId(2), digests[1])],
            next: None,
        }
    }

    #[test]
    fn equal_servers_have_equal_digests() {
        let mut report = Report::default();
        report.add(&page(0, 2, [5, 5]));
        report.add(&page(1, 0, [0, 0]));
        report.add(&page(2, 1, [9, 9]));
        assert_eq!(report.digests[&ServerId(1)], report.digests[&ServerId(2)]);
        assert_ne!(report.digests[&ServerId(1)], 0);
        report.add(&page(3, 1, [9, 8]));
        assert_ne!(report.digests[&ServerId(1)], report.digests[&ServerId(2)]);
    }

    #[test]
    fn a_fault_names_group_server_and_chunk() {
        let mut report = Report::default();
        report.add(&Verified {
            faults: vec![Fault {
                server: ServerId(2),
                key: ChunkKey {
                    inode: InodeId(12),
                    index: ChunkIndex(3),
                },
                version: None,
                what: "missing".into(),
            }],
            ..page(7, 1, [1, 2])
        });
        let text = show(&report, false);
        assert!(
            text.contains("FAULT group:7 server:2 ino:12/chunk:3 none: missing"),
            "{text}"
        );
        assert!(
            text.lines()
                .last()
                .is_some_and(|line| line.ends_with("1 faults")),
            "{text}"
        );
        let value: Value = serde_json::from_str(&show(&report, true)).expect("valid JSON");
        assert_eq!(value["faults"][0]["server"], 2);
        assert_eq!(value["faults"][0]["chunk"], 3);
        assert_eq!(
            value["digests"].as_object().map(serde_json::Map::len),
            Some(2)
        );
    }
}
