//! Servers and groups as they are stored: own types, apart from the wire's.

use super::record::{GroupRecord, ServerRecord};
use crate::state::record::Record;
use dfs_proto::cluster::{
    ClusterSettings, Equalise, GroupConfig, GroupMember, MemberState, ServerLife,
};
use dfs_proto::ids::{Epoch, GroupId, Incarnation, NodeId, ServerId, ServerRun};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
pub(super) struct StoredServer {
    node: u128,
    incarnation: u64,
    address: String,
    intact_since: Vec<u64>,
    alive: bool,
    life: StoredLife,
    gone_at: Option<i64>,
}

/// The order of the variants is stored: add at the end.
#[derive(Serialize, Deserialize)]
enum StoredLife {
    Active,
    Draining,
    Removed,
}

impl Record for StoredServer {
    const VERSION: u8 = 1;
    const NAME: &'static str = "server";
}

impl From<&ServerRecord> for StoredServer {
    fn from(server: &ServerRecord) -> Self {
        Self {
            node: server.node.0,
            incarnation: server.incarnation.0,
            address: server.address.clone(),
            intact_since: server.intact_since.iter().map(|run| run.0).collect(),
            alive: server.alive,
            life: match server.life {
                ServerLife::Active => StoredLife::Active,
                ServerLife::Draining => StoredLife::Draining,
                ServerLife::Removed => StoredLife::Removed,
            },
            gone_at: server.gone_at,
        }
    }
}

impl From<StoredServer> for ServerRecord {
    fn from(stored: StoredServer) -> Self {
        Self {
            node: NodeId(stored.node),
            incarnation: Incarnation(stored.incarnation),
            address: stored.address,
            intact_since: stored.intact_since.into_iter().map(Incarnation).collect(),
            alive: stored.alive,
            life: match stored.life {
                StoredLife::Active => ServerLife::Active,
                StoredLife::Draining => ServerLife::Draining,
                StoredLife::Removed => ServerLife::Removed,
            },
            gone_at: stored.gone_at,
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredSettings {
    replace_after_seconds: u64,
    repair_rate: u64,
}

impl Record for StoredSettings {
    const VERSION: u8 = 1;
    const NAME: &'static str = "settings";
}

impl From<&ClusterSettings> for StoredSettings {
    fn from(settings: &ClusterSettings) -> Self {
        Self {
            replace_after_seconds: settings.replace_after_seconds,
            repair_rate: settings.repair_rate,
        }
    }
}

impl From<StoredSettings> for ClusterSettings {
    fn from(stored: StoredSettings) -> Self {
        Self {
            replace_after_seconds: stored.replace_after_seconds,
            repair_rate: stored.repair_rate,
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredGroup {
    home: Vec<u32>,
    config: StoredEpoch,
    effective: Option<StoredEpoch>,
    lost: Vec<u32>,
}

impl Record for StoredGroup {
    const VERSION: u8 = 1;
    const NAME: &'static str = "group";
}

#[derive(Serialize, Deserialize)]
struct StoredEpoch {
    epoch: u64,
    primary: Option<u32>,
    members: Vec<(u32, u64, StoredState)>,
    min_in_sync: u8,
    equalise_everything: bool,
}

/// The order of the variants is stored: add at the end.
#[derive(Serialize, Deserialize)]
enum StoredState {
    InSync,
    Joining,
    Offline,
    LastServing,
}

impl From<&GroupRecord> for StoredGroup {
    fn from(group: &GroupRecord) -> Self {
        Self {
            home: group.home.iter().map(|server| server.0).collect(),
            config: StoredEpoch::of(&group.config),
            effective: group.effective.as_ref().map(StoredEpoch::of),
            lost: group.lost.iter().map(|server| server.0).collect(),
        }
    }
}

impl StoredGroup {
    pub(super) fn into_record(self, group: GroupId) -> GroupRecord {
        GroupRecord {
            home: self.home.into_iter().map(ServerId).collect(),
            config: self.config.into_config(group),
            effective: self.effective.map(|epoch| epoch.into_config(group)),
            lost: self.lost.into_iter().map(ServerId).collect(),
        }
    }
}

impl StoredEpoch {
    fn of(config: &GroupConfig) -> Self {
        let state = |state| match state {
            MemberState::InSync => StoredState::InSync,
            MemberState::Joining => StoredState::Joining,
            MemberState::Offline => StoredState::Offline,
            MemberState::LastServing => StoredState::LastServing,
        };
        Self {
            epoch: config.epoch.0,
            primary: config.primary.map(|server| server.0),
            members: config
                .members
                .iter()
                .map(|m| (m.run.server.0, m.run.incarnation.0, state(m.state)))
                .collect(),
            min_in_sync: config.min_in_sync,
            equalise_everything: config.equalise == Equalise::Everything,
        }
    }

    fn into_config(self, group: GroupId) -> GroupConfig {
        let state = |state| match state {
            StoredState::InSync => MemberState::InSync,
            StoredState::Joining => MemberState::Joining,
            StoredState::Offline => MemberState::Offline,
            StoredState::LastServing => MemberState::LastServing,
        };
        GroupConfig {
            group,
            epoch: Epoch(self.epoch),
            primary: self.primary.map(ServerId),
            members: self
                .members
                .into_iter()
                .map(|(server, incarnation, stored)| GroupMember {
                    run: ServerRun {
                        server: ServerId(server),
                        incarnation: Incarnation(incarnation),
                    },
                    state: state(stored),
                })
                .collect(),
            min_in_sync: self.min_in_sync,
            equalise: if self.equalise_everything {
                Equalise::Everything
            } else {
                Equalise::Marked
            },
        }
    }
}
