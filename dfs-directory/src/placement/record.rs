//! What is stored about the cluster, its servers and its groups.

use super::stored::{StoredGroup, StoredServer, StoredSettings};
use crate::namespace::{self, Format};
use crate::session;
use crate::state::record::{Record, decode_record, load_record, store_record};
use crate::state::tables::{self, Read, Table, TableError, Write};
use dfs_proto::cluster::{
    ClusterMap, ClusterSettings, GroupConfig, GroupEntry, MemberState, ServerEntry, ServerLife,
};
use dfs_proto::ids::{
    Epoch, GroupId, Incarnation, MapVersion, NodeId, ServerId, ServerRun, SessionId,
};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

const MAP_VERSION_KEY: &[u8] = b"placement.map";
const SETTINGS_KEY: &[u8] = b"placement.settings";

/// A file server that has ever registered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerRecord {
    pub node: NodeId,
    pub incarnation: Incarnation,
    /// `HOST:PORT` for mounts and other servers.
    pub address: String,
    /// Earlier runs of which the present one has everything: each run since stopped orderly.
    pub intact_since: Vec<Incarnation>,
    /// As far as the log knows: registered and not declared gone since.
    pub alive: bool,
    /// What the cluster wants of it.
    pub life: ServerLife,
    /// When it was declared gone, in seconds of the directory's clock; `None` while it is alive.
    pub gone_at: Option<i64>,
}

/// A replica group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupRecord {
    /// The servers that should hold it, the preferred primary first. A server that is in-sync
    /// and not among them is on its leave: it goes when all of these are in-sync.
    pub home: Vec<ServerId>,
    /// The last epoch, effective or not.
    pub config: GroupConfig,
    /// The last epoch that served; `None` before the first one has.
    pub effective: Option<GroupConfig>,
    /// Servers in-sync in the last epoch that served whose data dir has been emptied or set back
    /// since: what they hold is not what that epoch promised.
    pub lost: Vec<ServerId>,
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
    /// What the cluster was formatted with.
    pub format: Option<Format>,
    pub settings: ClusterSettings,
    pub map_version: MapVersion,
    pub servers: BTreeMap<ServerId, ServerRecord>,
    pub groups: BTreeMap<GroupId, GroupRecord>,
    /// Ending and ended sessions, of which no server may accept anything any more.
    pub fenced: Vec<SessionId>,
}

impl Placed {
    /// Reads everything.
    pub fn load(tables: &dyn Read) -> Result<Self, TableError> {
        Ok(Self {
            format: namespace::read::format(tables)?,
            settings: settings(tables)?,
            map_version: map_version(tables)?,
            servers: servers(tables)?,
            groups: groups(tables)?,
            fenced: session::read::fence_list(tables)?,
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

/// The version of the cluster map: rises with each change of servers and groups.
pub fn map_version(tables: &(impl Read + ?Sized)) -> Result<MapVersion, TableError> {
    Ok(tables::load(tables, Table::Meta, MAP_VERSION_KEY)?.unwrap_or_default())
}

fn settings(tables: &(impl Read + ?Sized)) -> Result<ClusterSettings, TableError> {
    let stored: Option<StoredSettings> = load_record(tables, Table::Meta, SETTINGS_KEY)?;
    Ok(stored.map(ClusterSettings::from).unwrap_or_default())
}

pub(super) fn store_settings(
    tables: &mut (impl Write + ?Sized),
    settings: &ClusterSettings,
) -> Result<(), TableError> {
    let stored = StoredSettings::from(settings);
    store_record(tables, Table::Meta, SETTINGS_KEY, &stored)
}

pub(super) fn raise_map_version(tables: &mut (impl Write + ?Sized)) -> Result<(), TableError> {
    raise_map_version_by(tables, 1)
}

pub(super) fn raise_map_version_by(
    tables: &mut (impl Write + ?Sized),
    steps: u64,
) -> Result<(), TableError> {
    let next = MapVersion(map_version(tables)?.0 + steps);
    tables::store(tables, Table::Meta, MAP_VERSION_KEY, &next)
}

pub(super) fn servers(
    tables: &(impl Read + ?Sized),
) -> Result<BTreeMap<ServerId, ServerRecord>, TableError> {
    scan_numbered(tables, Table::Servers, |number, stored: StoredServer| {
        (ServerId(number), stored.into())
    })
}

pub(super) fn store_server(
    tables: &mut (impl Write + ?Sized),
    server: ServerId,
    record: &ServerRecord,
) -> Result<(), TableError> {
    let key = server.0.to_be_bytes();
    store_record(tables, Table::Servers, &key, &StoredServer::from(record))
}

pub(super) fn groups(
    tables: &(impl Read + ?Sized),
) -> Result<BTreeMap<GroupId, GroupRecord>, TableError> {
    scan_numbered(tables, Table::Groups, |number, stored: StoredGroup| {
        let group = GroupId(number);
        (group, stored.into_record(group))
    })
}

pub(super) fn group(
    tables: &(impl Read + ?Sized),
    group: GroupId,
) -> Result<Option<GroupRecord>, TableError> {
    let key = group.0.to_be_bytes();
    let stored: Option<StoredGroup> = load_record(tables, Table::Groups, &key)?;
    Ok(stored.map(|stored| stored.into_record(group)))
}

pub(super) fn store_group(
    tables: &mut (impl Write + ?Sized),
    group: GroupId,
    record: &GroupRecord,
) -> Result<(), TableError> {
    let key = group.0.to_be_bytes();
    store_record(tables, Table::Groups, &key, &StoredGroup::from(record))
}

/// A table whose keys are big-endian 32-bit numbers.
fn scan_numbered<K: Ord, S: Record, V>(
    tables: &(impl Read + ?Sized),
    table: Table,
    entry: impl Fn(u32, S) -> (K, V),
) -> Result<BTreeMap<K, V>, TableError> {
    let mut found = BTreeMap::new();
    let mut failed = None;
    tables.scan(table, &[], &mut |key, value| {
        let parsed = <[u8; 4]>::try_from(key)
            .map_err(|_| TableError(format!("a key of {} bytes in {table:?}", key.len())))
            .and_then(|key| Ok((u32::from_be_bytes(key), decode_record(value)?)));
        match parsed {
            Ok((number, stored)) => {
                let (key, record) = entry(number, stored);
                found.insert(key, record);
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
