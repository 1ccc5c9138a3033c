//! What is stored about the cluster, its servers and its groups.

use crate::state::tables::{self, Read, Table, TableError, Write};
use dfs_proto::cluster::{ClusterMap, GroupConfig, GroupEntry, MemberState, ServerEntry};
use dfs_proto::ids::{
    ClusterId, Epoch, GroupId, Incarnation, MapVersion, NodeId, ServerId, ServerRun, SessionId,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

const FORMAT_KEY: &[u8] = b"placement.format";
const MAP_VERSION_KEY: &[u8] = b"placement.map";
const FENCED_KEY: &[u8] = b"placement.fenced";

/// What is chosen once, when a cluster is formatted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterFormat {
    pub cluster: ClusterId,
    /// Wanted members of each group.
    pub replicas: u8,
    /// Number of replica groups.
    pub groups: u32,
    /// Fewer in-sync members than this, and writes wait.
    pub min_in_sync: u8,
    /// Chunk size of new files, bytes.
    pub chunk_bytes: u32,
}

impl ClusterFormat {
    /// The default least number of in-sync members: a majority of three; with one or two
    /// replicas writes go on with the last one.
    pub fn default_min_in_sync(replicas: u8) -> u8 {
        if replicas >= 3 { 2 } else { 1 }
    }
}

/// A file server that has ever registered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServerRecord {
    pub node: NodeId,
    pub incarnation: Incarnation,
    /// `HOST:PORT` for mounts and other servers.
    pub address: String,
    /// This run began with everything that the run before it had stored.
    pub clean: bool,
    /// As far as the log knows: registered and not declared gone since.
    pub alive: bool,
}

/// A replica group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GroupRecord {
    /// The servers that should hold it, the preferred primary first.
    pub home: Vec<ServerId>,
    /// The last epoch, effective or not.
    pub config: GroupConfig,
    /// The last epoch that served; `None` before the first one has.
    pub effective: Option<GroupConfig>,
}

impl GroupRecord {
    /// Whether the last epoch serves.
    pub fn is_effective(&self) -> bool {
        self.effective
            .as_ref()
            .is_some_and(|e| e.epoch == self.config.epoch)
    }

    /// The last epoch that served, `0` before the first.
    pub fn effective_epoch(&self) -> Epoch {
        self.effective.as_ref().map_or(Epoch(0), |e| e.epoch)
    }
}

/// All of it, as one value: small (some kilobytes), read anew after each change.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Placed {
    pub format: Option<ClusterFormat>,
    pub map_version: MapVersion,
    pub servers: BTreeMap<ServerId, ServerRecord>,
    pub groups: BTreeMap<GroupId, GroupRecord>,
    /// Ended sessions of which no server may accept anything any more.
    pub fenced: Vec<SessionId>,
}

impl Placed {
    /// Reads everything.
    pub fn load(tables: &(impl Read + ?Sized)) -> Result<Self, TableError> {
        Ok(Self {
            format: format(tables)?,
            map_version: map_version(tables)?,
            servers: servers(tables)?,
            groups: groups(tables)?,
            fenced: fenced(tables)?,
        })
    }

    /// What mounts see: only effective epochs; a group of which nobody is left has no primary.
    pub fn cluster_map(&self) -> ClusterMap {
        let count = self.format.map_or(0, |f| f.groups);
        ClusterMap {
            version: self.map_version,
            servers: self.server_entries(),
            groups: (0..count).map(|g| self.group_entry(GroupId(g))).collect(),
        }
    }

    /// Names and addresses of all servers.
    pub fn server_entries(&self) -> Vec<ServerEntry> {
        self.servers
            .iter()
            .map(|(id, record)| ServerEntry {
                run: ServerRun {
                    server: *id,
                    incarnation: record.incarnation,
                },
                address: record.address.clone(),
                alive: record.alive,
            })
            .collect()
    }

    fn group_entry(&self, group: GroupId) -> GroupEntry {
        let nobody = |epoch| GroupEntry {
            group,
            epoch,
            primary: None,
            in_sync: Vec::new(),
            writable: false,
        };
        let Some(record) = self.groups.get(&group) else {
            return nobody(Epoch(0));
        };
        match &record.effective {
            Some(effective) if record.config.primary.is_some() => GroupEntry {
                group,
                epoch: effective.epoch,
                primary: effective.primary,
                in_sync: effective.in_sync().map(|run| run.server).collect(),
                writable: effective.is_writable(),
            },
            _ => nobody(record.effective_epoch()),
        }
    }

    /// How many members of all groups' last epochs are in-sync on a server, and of how many
    /// groups it is a wanted member.
    pub fn groups_of(&self, server: ServerId) -> (u32, u32) {
        let mut wanted = 0;
        let mut in_sync = 0;
        for record in self.groups.values() {
            wanted += u32::from(record.home.contains(&server));
            let state = record.config.member(server).map(|m| m.state);
            in_sync += u32::from(state == Some(MemberState::InSync));
        }
        (wanted, in_sync)
    }
}

/// What the cluster was formatted with; `None` on a member that has not been formatted.
pub fn format(tables: &(impl Read + ?Sized)) -> Result<Option<ClusterFormat>, TableError> {
    tables::load(tables, Table::Meta, FORMAT_KEY)
}

pub(super) fn store_format(
    tables: &mut (impl Write + ?Sized),
    format: &ClusterFormat,
) -> Result<(), TableError> {
    tables::store(tables, Table::Meta, FORMAT_KEY, format)
}

/// The version of the cluster map: rises with each change of servers and groups.
pub fn map_version(tables: &(impl Read + ?Sized)) -> Result<MapVersion, TableError> {
    Ok(tables::load(tables, Table::Meta, MAP_VERSION_KEY)?.unwrap_or_default())
}

pub(super) fn raise_map_version(tables: &mut (impl Write + ?Sized)) -> Result<(), TableError> {
    let next = MapVersion(map_version(tables)?.0 + 1);
    tables::store(tables, Table::Meta, MAP_VERSION_KEY, &next)
}

/// The ended sessions that servers have to know of.
pub fn fenced(tables: &(impl Read + ?Sized)) -> Result<Vec<SessionId>, TableError> {
    Ok(tables::load(tables, Table::Meta, FENCED_KEY)?.unwrap_or_default())
}

pub(super) fn store_fenced(
    tables: &mut (impl Write + ?Sized),
    fenced: &[SessionId],
) -> Result<(), TableError> {
    tables::store(tables, Table::Meta, FENCED_KEY, &fenced)
}

pub(super) fn servers(
    tables: &(impl Read + ?Sized),
) -> Result<BTreeMap<ServerId, ServerRecord>, TableError> {
    scan_numbered(tables, Table::Servers, ServerId)
}

pub(super) fn store_server(
    tables: &mut (impl Write + ?Sized),
    server: ServerId,
    record: &ServerRecord,
) -> Result<(), TableError> {
    tables::store(tables, Table::Servers, &server.0.to_be_bytes(), record)
}

fn groups(tables: &(impl Read + ?Sized)) -> Result<BTreeMap<GroupId, GroupRecord>, TableError> {
    scan_numbered(tables, Table::Groups, GroupId)
}

pub(super) fn group(
    tables: &(impl Read + ?Sized),
    group: GroupId,
) -> Result<Option<GroupRecord>, TableError> {
    tables::load(tables, Table::Groups, &group.0.to_be_bytes())
}

pub(super) fn store_group(
    tables: &mut (impl Write + ?Sized),
    group: GroupId,
    record: &GroupRecord,
) -> Result<(), TableError> {
    tables::store(tables, Table::Groups, &group.0.to_be_bytes(), record)
}

/// A table whose keys are big-endian 32-bit numbers.
fn scan_numbered<K: Ord, V: serde::de::DeserializeOwned>(
    tables: &(impl Read + ?Sized),
    table: Table,
    id: fn(u32) -> K,
) -> Result<BTreeMap<K, V>, TableError> {
    let mut found = BTreeMap::new();
    let mut failed = None;
    tables.scan(table, &[], &mut |key, value| {
        let parsed = <[u8; 4]>::try_from(key)
            .map_err(|_| TableError(format!("key of {} bytes in {table:?}", key.len())))
            .and_then(|key| Ok((u32::from_be_bytes(key), tables::decode(value)?)));
        match parsed {
            Ok((number, record)) => {
                found.insert(id(number), record);
                ControlFlow::Continue(())
            }
            Err(e) => {
                failed = Some(e);
                ControlFlow::Break(())
            }
        }
    })?;
    failed.map_or(Ok(found), Err)
}
