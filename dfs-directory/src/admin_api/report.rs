//! Answers about what is there.

use super::AdminApi;
use crate::members;
use crate::namespace;
use crate::placement::{GroupRecord, Placed};
use crate::raft::RaftHandle;
use crate::session::{self, SessionPhase};
use crate::tasks::now;
use dfs_proto::cluster::ServerLife;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::MemberId;
use dfs_proto::msg::admin::{
    EvictSession, GroupStatus, ListLocks, LockStatus, MemberStatus, ServerStatus, SessionStatus,
    Status,
};
use dfs_proto::msg::member::DirectoryMember;
use dfs_proto::msg::registry::Space;
use std::collections::BTreeMap;

/// How a group is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Health {
    /// All wanted members are in-sync.
    Healthy,
    /// Serves with fewer.
    Degraded,
    /// Nobody serves: no member is left, or an epoch is on its way.
    Unavailable,
}

pub(super) fn health(record: &GroupRecord) -> Health {
    if record.config.primary.is_none() || !record.is_effective() {
        Health::Unavailable
    } else if record.config.in_sync().count() < record.home.len() {
        Health::Degraded
    } else {
        Health::Healthy
    }
}

impl AdminApi {
    pub(super) async fn status(self) -> Result<Status> {
        let (placed, inodes, intents, sessions) = self
            .raft
            .read(|tables| {
                let alive = session::read::sessions(tables)?
                    .iter()
                    .filter(|s| s.phase == SessionPhase::Alive)
                    .count();
                Ok((
                    Placed::load(tables)?,
                    namespace::read::counts(tables)?.inodes,
                    namespace::read::intent_count(tables)?,
                    alive,
                ))
            })
            .await?;
        let format = placed
            .format
            .ok_or_else(|| Error::new(ErrorCode::GroupUnavailable, "not formatted yet"))?;
        let count = |wanted: Health| {
            placed
                .groups
                .values()
                .filter(|record| health(record) == wanted)
                .count() as u32
        };
        let lives = |life: ServerLife| {
            let servers = placed.servers.values();
            servers.filter(|server| server.life == life).count() as u32
        };
        let (healthy, degraded) = (count(Health::Healthy), count(Health::Degraded));
        Ok(Status {
            cluster: format.cluster,
            members: member_list(&self.raft),
            servers: placed.servers.len() as u32,
            servers_alive: placed.servers.values().filter(|s| s.alive).count() as u32,
            servers_draining: lives(ServerLife::Draining),
            servers_removed: lives(ServerLife::Removed),
            groups: format.groups,
            groups_healthy: healthy,
            groups_degraded: degraded,
            groups_unavailable: format.groups.saturating_sub(healthy + degraded),
            sessions: sessions as u32,
            inodes,
            intents,
            level: self.raft.level(),
        })
    }

    pub(super) async fn servers(self) -> Result<Vec<ServerStatus>> {
        let placed = self.raft.read(Placed::load).await?;
        let signs = self.placement.signs();
        let now = now();
        Ok(placed
            .server_entries()
            .into_iter()
            .map(|entry| {
                let server = entry.run.server;
                let (groups, groups_in_sync) = placed.groups_of(server);
                let sign = signs.get(&server);
                let life = placed
                    .servers
                    .get(&server)
                    .map_or(ServerLife::Active, |s| s.life);
                ServerStatus {
                    entry,
                    life,
                    space: sign.map_or_else(Space::default, |sign| sign.space),
                    silent_ms: sign.map_or(u64::MAX, |sign| {
                        now.saturating_sub(sign.seen).as_millis() as u64
                    }),
                    groups,
                    groups_in_sync,
                    failure: sign.map_or_else(String::new, |sign| sign.failure.clone()),
                }
            })
            .collect())
    }

    pub(super) async fn groups(self) -> Result<Vec<GroupStatus>> {
        let placed = self.raft.read(Placed::load).await?;
        Ok(placed
            .groups
            .into_values()
            .map(|record| GroupStatus {
                effective: record.effective_epoch(),
                wanted: record.home.len() as u8,
                config: record.config,
            })
            .collect())
    }

    pub(super) async fn sessions(self) -> Result<Vec<SessionStatus>> {
        self.mounts.list_sessions()
    }

    pub(super) async fn evict(self, request: EvictSession) -> Result<()> {
        self.mounts.evict(request.session).await
    }

    pub(super) async fn locks(self, request: ListLocks) -> Result<Vec<LockStatus>> {
        self.mounts.list_locks(&request)
    }
}

/// All members of the directory, as its leader knows them.
fn member_list(raft: &RaftHandle) -> Vec<MemberStatus> {
    let status = raft.status();
    let peers = raft.peers();
    let of = |member: MemberId| peers.iter().find(|peer| peer.member == member);
    let end = of(status.member).and_then(|own| own.held).unwrap_or(0);
    let supported = raft.read_local(|tables| members::supported(tables));
    let supported: BTreeMap<MemberId, u16> = supported.unwrap_or_default().into_iter().collect();
    let members = raft.members().into_iter();
    members
        .map(|DirectoryMember { member, address }| MemberStatus {
            member,
            address,
            leader: status.leading && member == status.member,
            votes: of(member).is_some_and(|peer| peer.votes),
            term: status.term,
            held: of(member).and_then(|peer| peer.held),
            end,
            supports: supported.get(&member).copied().unwrap_or(0),
        })
        .collect()
}
