//! Changes of servers and groups, as the log carries them.

use super::record::{self, GroupRecord, ServerRecord};
use crate::state::tables::{TableError, Write};
use dfs_proto::attr::Timestamp;
use dfs_proto::cluster::GroupConfig;
use dfs_proto::ids::{Epoch, GroupId, Incarnation, NodeId, ServerId, ServerRun};
use serde::{Deserialize, Serialize};

/// Clean restarts in a row that are remembered of a server: a group in which none of its members
/// served for that many counts them as unclean, which costs a comparison.
const INTACT_RUNS_MAX: usize = 16;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PlacementCommand {
    /// A run of a file server is there. Idempotent; a known node keeps its server id.
    RegisterServer {
        node: NodeId,
        incarnation: Incarnation,
        address: String,
        clean: bool,
    },
    /// Runs that are gone, and new epochs: all that one event changes, in one command.
    Change {
        gone: Vec<ServerRun>,
        /// Each is taken only if the group's last epoch is the expected one (`0`: the group has
        /// no members yet, and those of the config become the wanted ones).
        groups: Vec<(Epoch, GroupConfig)>,
    },
    /// All in-sync members have adopted these epochs and are equal: they serve. An epoch that
    /// is not the group's last any more is left alone.
    Effective { groups: Vec<(GroupId, Epoch)> },
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PlacementOutcome {
    Registered {
        server: ServerId,
    },
    /// Groups whose change was taken.
    Changed {
        groups: Vec<GroupId>,
    },
}

pub fn apply(
    tables: &mut dyn Write,
    _now: Timestamp,
    command: &PlacementCommand,
) -> Result<PlacementOutcome, TableError> {
    match command {
        PlacementCommand::RegisterServer {
            node,
            incarnation,
            address,
            clean,
        } => {
            let record = ServerRecord {
                node: *node,
                incarnation: *incarnation,
                address: address.clone(),
                intact_since: Vec::new(),
                alive: true,
            };
            register(tables, record, *clean)
        }
        PlacementCommand::Change { gone, groups } => change(tables, gone, groups),
        PlacementCommand::Effective { groups } => effective(tables, groups),
    }
}

fn register(
    tables: &mut dyn Write,
    new: ServerRecord,
    clean: bool,
) -> Result<PlacementOutcome, TableError> {
    let servers = record::servers(tables)?;
    let known = servers.iter().find(|(_, s)| s.node == new.node);
    let server = match known {
        Some((id, _)) => *id,
        None => ServerId(servers.keys().next_back().map_or(1, |last| last.0 + 1)),
    };
    let intact_since = match known {
        // A second registration of a run says nothing new about how that run began.
        Some((_, old)) if old.incarnation == new.incarnation => old.intact_since.clone(),
        Some((_, old)) if clean => {
            let mut runs = old.intact_since.clone();
            runs.push(old.incarnation);
            let excess = runs.len().saturating_sub(INTACT_RUNS_MAX);
            runs.split_off(excess)
        }
        _ => Vec::new(),
    };
    let new = ServerRecord {
        intact_since,
        ..new
    };
    if known.is_none_or(|(_, old)| *old != new) {
        record::store_server(tables, server, &new)?;
        record::raise_map_version(tables)?;
    }
    Ok(PlacementOutcome::Registered { server })
}

fn change(
    tables: &mut dyn Write,
    gone: &[ServerRun],
    groups: &[(Epoch, GroupConfig)],
) -> Result<PlacementOutcome, TableError> {
    let servers = record::servers(tables)?;
    for run in gone {
        if let Some(server) = servers.get(&run.server)
            && server.incarnation == run.incarnation
            && server.alive
        {
            let server = ServerRecord {
                alive: false,
                ..server.clone()
            };
            record::store_server(tables, run.server, &server)?;
        }
    }
    let mut taken = Vec::new();
    for (expect, config) in groups {
        let present = record::group(tables, config.group)?;
        let last = present.as_ref().map_or(Epoch(0), |p| p.config.epoch);
        if last != *expect || config.epoch != expect.next() {
            continue;
        }
        let new = match present {
            Some(present) => GroupRecord {
                config: config.clone(),
                ..present
            },
            None => GroupRecord {
                home: config.members.iter().map(|m| m.run.server).collect(),
                config: config.clone(),
                effective: None,
            },
        };
        record::store_group(tables, config.group, &new)?;
        taken.push(config.group);
    }
    record::raise_map_version(tables)?;
    Ok(PlacementOutcome::Changed { groups: taken })
}

fn effective(
    tables: &mut dyn Write,
    groups: &[(GroupId, Epoch)],
) -> Result<PlacementOutcome, TableError> {
    let mut taken = Vec::new();
    for (group, epoch) in groups {
        let Some(present) = record::group(tables, *group)? else {
            continue;
        };
        if present.config.epoch != *epoch || present.is_effective() {
            continue;
        }
        let effective = Some(present.config.clone());
        record::store_group(
            tables,
            *group,
            &GroupRecord {
                effective,
                ..present
            },
        )?;
        taken.push(*group);
    }
    if !taken.is_empty() {
        record::raise_map_version(tables)?;
    }
    Ok(PlacementOutcome::Changed { groups: taken })
}
