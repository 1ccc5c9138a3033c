//! Memory and descriptors of the cluster's processes.

use super::Result;
use crate::cluster::Cluster;
use std::collections::BTreeMap;
use std::fs;
use std::io;

/// Growth that is not looked at: what fills after the first minute and is bounded. Everywhere the
/// steps in which an allocator takes memory, for each of its threads; in the directory where each
/// entry of its log is (12 bytes, 200,000 entries), and the pages of its tables, as large as these are.
const SLACK_KIB: u64 = 6 << 10;

/// What a process uses.
#[derive(Clone, Debug)]
pub(super) struct Usage {
    /// Anonymous memory; pages of files are the kernel's to take back.
    pub(super) memory_kib: u64,
    pub(super) descriptors: usize,
    /// What they are.
    pub(super) open: Vec<String>,
}

/// What all nodes use now.
pub(super) fn usage(cluster: &Cluster) -> Result<BTreeMap<String, Usage>> {
    let mut all = BTreeMap::new();
    let nodes = ["directory-1", "server-1", "server-2", "server-3"];
    for node in nodes.into_iter().chain(["mount-1", "mount-2"]) {
        let pid = cluster.pid(node);
        let status = fs::read_to_string(format!("/proc/{pid}/status"))
            .map_err(|e| format!("{node} (process {pid}): {e}"))?;
        let memory_kib = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
            .ok_or_else(|| format!("{node}: no RssAnon in its status"))?;
        let open = open_of(pid).map_err(|e| format!("{node}: {e}"))?;
        let used = Usage {
            memory_kib,
            descriptors: open.len(),
            open,
        };
        all.insert(node.to_owned(), used);
    }
    Ok(all)
}

/// What the descriptors of a process are, as the kernel names it.
fn open_of(pid: u32) -> io::Result<Vec<String>> {
    let mut open = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // One that was closed meanwhile has no name.
        let target = fs::read_link(entry?.path()).unwrap_or_default();
        open.push(target.display().to_string());
    }
    open.sort();
    Ok(open)
}

fn kind(node: &str) -> &str {
    node.split('-').next().unwrap_or(node)
}

/// The most that a node of the same kind used: one that was restarted began small.
fn most(of: &BTreeMap<String, Usage>, node: &str) -> u64 {
    of.iter()
        .filter(|(other, _)| kind(other) == kind(node))
        .map(|(_, used)| used.memory_kib)
        .max()
        .unwrap_or(0)
}

/// Whether memory is at most 1.2 times what it was.
pub(super) fn check_memory(
    before: &BTreeMap<String, Usage>,
    now: &BTreeMap<String, Usage>,
) -> Result<()> {
    for (node, used) in now {
        let allowed = most(before, node) * 6 / 5 + SLACK_KIB;
        if used.memory_kib > allowed {
            return Err(format!(
                "{node} uses {} KiB of memory, after the first minute it was {} KiB",
                used.memory_kib,
                most(before, node)
            ));
        }
    }
    Ok(())
}

/// Whether no node has more descriptors than it had at rest, but for a few connections.
pub(super) fn check_descriptors(
    before: &BTreeMap<String, Usage>,
    now: &BTreeMap<String, Usage>,
) -> Result<()> {
    // A connection to each other node, made when it is needed first.
    let more = now.len();
    for (node, used) in now {
        let at_rest = before.get(node).map_or(0, |used| used.descriptors);
        if used.descriptors > at_rest + more {
            return Err(format!(
                "{node} has {} descriptors, {at_rest} at rest: {}",
                used.descriptors,
                used.open.join(", ")
            ));
        }
    }
    Ok(())
}
