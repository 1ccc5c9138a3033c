//! Changes of servers and groups, as the log carries them.

use super::import::UNKNOWN_RUN;
use super::record::{self, GroupRecord, ServerRecord};
use crate::state::tables::{TableError, Write};
use dfs_proto::attr::Timestamp;
use dfs_proto::cluster::{ClusterSettings, GroupConfig, MemberState, ServerLife};
use dfs_proto::ids::{Epoch, GroupId, Incarnation, NodeId, ServerId, ServerRun};
use dfs_proto::msg::registry::DataDirPast;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Orderly restarts in a row that are remembered of a server: a group in which none of its members
/// served for that many counts them as unclean, which costs a comparison.
const INTACT_RUNS_MAX: usize = 16;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PlacementCommand {
    /// A run of a file server is there. Idempotent; a known node keeps its server id.
    RegisterServer {
        node: NodeId,
        incarnation: Incarnation,
        address: String,
        past: DataDirPast,
        /// Epochs that its data dir has adopted.
        epochs: Vec<(GroupId, Epoch)>,
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
    Effective {
        groups: Vec<(GroupId, Epoch)>,
    },
    /// Groups move: other servers are to hold them from now on.
    Rehome {
        groups: Vec<NewHome>,
    },
    /// A server is to be emptied, given up, or used (again).
    SetLife {
        server: ServerId,
        life: ServerLife,
    },
    Configure {
        settings: ClusterSettings,
    },
}

/// The servers that should hold a group from now on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewHome {
    pub group: GroupId,
    /// Taken only if these are the present ones.
    pub expect: Vec<ServerId>,
    /// As many distinct servers, the preferred primary first.
    pub home: Vec<ServerId>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PlacementOutcome {
    Registered {
        server: ServerId,
        /// Groups that it served last, with a data dir that was another or a later one.
        set_back: Vec<GroupId>,
    },
    /// Groups whose change was taken.
    Changed {
        groups: Vec<GroupId>,
    },
    Configured,
    /// No such server.
    Unknown,
}

pub fn apply(
    tables: &mut dyn Write,
    now: Timestamp,
    command: &PlacementCommand,
) -> Result<PlacementOutcome, TableError> {
    match command {
        PlacementCommand::RegisterServer {
            node,
            incarnation,
            address,
            past,
            epochs,
        } => {
            let intact = past.intact_since();
            let excess = intact.len().saturating_sub(INTACT_RUNS_MAX);
            let record = ServerRecord {
                node: *node,
                incarnation: *incarnation,
                address: address.clone(),
                intact_since: intact[excess..].to_vec(),
                alive: true,
                life: ServerLife::Active,
                gone_at: None,
            };
            register(tables, record, past, epochs)
        }
        PlacementCommand::Change { gone, groups } => change(tables, now, gone, groups),
        PlacementCommand::Effective { groups } => effective(tables, groups),
        PlacementCommand::Rehome { groups } => rehome(tables, groups),
        PlacementCommand::SetLife { server, life } => set_life(tables, *server, *life),
        PlacementCommand::Configure { settings } => {
            record::store_settings(tables, settings)?;
            record::raise_map_version(tables)?;
            Ok(PlacementOutcome::Configured)
        }
    }
}

fn register(
    tables: &mut dyn Write,
    new: ServerRecord,
    past: &DataDirPast,
    epochs: &[(GroupId, Epoch)],
) -> Result<PlacementOutcome, TableError> {
    let servers = record::servers(tables)?;
    let own = servers.iter().find(|(_, s)| s.node == new.node);
    let groups = record::groups(tables)?;
    let known = own.or_else(|| {
        let unused = past.runs.is_empty();
        let mut vacant = servers.iter().filter(|_| unused);
        vacant
            .find(|(id, s)| s.address == new.address && is_dispensable(**id, s, &groups, &servers))
    });
    let server = match known {
        Some((id, _)) => *id,
        None => ServerId(servers.keys().next_back().map_or(1, |last| last.0 + 1)),
    };
    let mut set_back = Vec::new();
    // A second registration of a run says nothing new about how that run began.
    if known.is_none_or(|(_, old)| old.incarnation != new.incarnation) {
        set_back = judge_data_dir(tables, server, past, epochs)?;
    }
    let new = ServerRecord {
        // Who was given up stays so when it comes back.
        life: own.map_or(new.life, |(_, old)| old.life),
        ..new
    };
    if known.is_none_or(|(_, old)| *old != new) {
        record::store_server(tables, server, &new)?;
        record::raise_map_version(tables)?;
    }
    Ok(PlacementOutcome::Registered { server, set_back })
}

/// Whether an empty data dir at the address of a server may take its place, to be filled again:
/// the server is gone, and nobody waits for what its own dir holds.
fn is_dispensable(
    server: ServerId,
    record: &ServerRecord,
    groups: &BTreeMap<GroupId, GroupRecord>,
    servers: &BTreeMap<ServerId, ServerRecord>,
) -> bool {
    let serves = |id: ServerId| id != server && servers.get(&id).is_some_and(|s| s.alive);
    let needed = |group: &GroupRecord| {
        let members: Vec<ServerId> = group.config.in_sync().map(|run| run.server).collect();
        let others_serve =
            group.is_effective() && !members.contains(&server) && members.into_iter().any(serves);
        let named = group.home.contains(&server) || group.config.member(server).is_some();
        named && group.effective.is_some() && !others_serve
    };
    !record.alive && !groups.values().any(needed)
}

/// Notes in each group that this server served last whether the dir with which it comes back is
/// the one that it served with. A dir that was emptied or set back does not know the run that
/// the log names, or has not adopted the epoch in which that run was in-sync.
fn judge_data_dir(
    tables: &mut dyn Write,
    server: ServerId,
    past: &DataDirPast,
    epochs: &[(GroupId, Epoch)],
) -> Result<Vec<GroupId>, TableError> {
    let mut set_back = Vec::new();
    for (group, mut present) in record::groups(tables)? {
        let before = present.clone();
        if past.accept_rollback {
            accept(&mut present, server);
        }
        let Some(effective) = &present.effective else {
            continue;
        };
        let Some(served) = effective.in_sync().find(|run| run.server == server) else {
            continue;
        };
        let adopted = epochs.iter().find(|(id, _)| *id == group).map(|(_, e)| *e);
        // An imported log does not know which run it was.
        let known = served.incarnation == UNKNOWN_RUN || past.runs.contains(&served.incarnation);
        let holds = known && adopted.is_some_and(|e| e >= effective.epoch);
        let lost = !holds && !past.accept_rollback;
        present.lost.retain(|other| *other != server);
        if lost {
            set_back.push(group);
            present.lost.push(server);
        }
        if present != before {
            record::store_group(tables, group, &present)?;
        }
    }
    Ok(set_back)
}

/// A person says that a group which is down is to go on with what this server has: it counts as
/// one of those that served last.
fn accept(group: &mut GroupRecord, server: ServerId) {
    let down = group.config.primary.is_none();
    if let Some(effective) = group.effective.as_mut().filter(|_| down) {
        let mut members = effective.members.iter_mut();
        if let Some(member) = members.find(|m| m.run.server == server) {
            member.state = MemberState::InSync;
        }
    }
}

fn change(
    tables: &mut dyn Write,
    now: Timestamp,
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
                gone_at: Some(now.seconds),
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
                lost: Vec::new(),
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
                // It names runs that are there now, with what they hold.
                lost: Vec::new(),
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

fn rehome(tables: &mut dyn Write, groups: &[NewHome]) -> Result<PlacementOutcome, TableError> {
    let servers = record::servers(tables)?;
    let mut taken = Vec::new();
    for new in groups {
        let Some(present) = record::group(tables, new.group)? else {
            continue;
        };
        let distinct: BTreeSet<ServerId> = new.home.iter().copied().collect();
        let fits = distinct.len() == present.home.len()
            && new.home.len() == present.home.len()
            && distinct.iter().all(|server| servers.contains_key(server));
        if present.home != new.expect || !fits {
            continue;
        }
        let home = new.home.clone();
        record::store_group(tables, new.group, &GroupRecord { home, ..present })?;
        taken.push(new.group);
    }
    if !taken.is_empty() {
        record::raise_map_version(tables)?;
    }
    Ok(PlacementOutcome::Changed { groups: taken })
}

fn set_life(
    tables: &mut dyn Write,
    server: ServerId,
    life: ServerLife,
) -> Result<PlacementOutcome, TableError> {
    let Some(present) = record::servers(tables)?.remove(&server) else {
        return Ok(PlacementOutcome::Unknown);
    };
    if present.life != life {
        record::store_server(tables, server, &ServerRecord { life, ..present })?;
        record::raise_map_version(tables)?;
    }
    Ok(PlacementOutcome::Configured)
}
