//! What a person wants of servers, and how far the cluster is from having every copy.

use super::AdminApi;
use super::report::{Health, health};
use crate::governor::{Order, Signs};
use crate::placement::{self, Placed};
use crate::tasks::View;
use dfs_proto::cluster::{ClusterSettings, ServerLife};
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::msg::admin::{ChangeSettings, RepairStatus, SetServerLife};
use std::time::Duration;

/// Shorter than this, and a server that is only restarted would be replaced.
const REPLACE_AFTER_MIN_SECONDS: u64 = 5;

impl AdminApi {
    pub(super) async fn set_life(self, request: SetServerLife) -> Result<()> {
        let SetServerLife { server, life } = request;
        self.orders.order(Order::SetLife { server, life }).await
    }

    pub(super) async fn settings(self) -> Result<ClusterSettings> {
        Ok(self.raft.read(Placed::load).await?.settings)
    }

    pub(super) async fn change_settings(self, request: ChangeSettings) -> Result<()> {
        if request.settings.replace_after_seconds < REPLACE_AFTER_MIN_SECONDS {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                format!(
                    "servers can be replaced after {REPLACE_AFTER_MIN_SECONDS} s at the earliest"
                ),
            ));
        }
        self.orders.order(Order::Configure(request.settings)).await
    }

    pub(super) async fn repair(self) -> Result<RepairStatus> {
        // Who leads is confirmed; what its governor knows is in memory.
        self.raft.read(|_| Ok(())).await?;
        Ok(status(&self.placement.view(), &self.placement.signs()))
    }
}

fn status(view: &View, signs: &Signs) -> RepairStatus {
    let (placed, conditions) = (&view.placed, &view.conditions);
    let mut status = RepairStatus {
        groups: placed.format.map_or(0, |format| format.groups),
        compared: true,
        ..RepairStatus::default()
    };
    for (group, record) in &placed.groups {
        let config = &record.config;
        let wanted = |server| record.home.contains(&server);
        let in_place = config.in_sync().filter(|run| wanted(run.server)).count();
        let is_left = |server| placement::is_left(conditions, server);
        let moves = config.members.len() > record.home.len()
            || record.home.iter().any(|server| is_left(*server));
        let joins = config.joining().next().is_some();
        match health(record) {
            Health::Unavailable => status.groups_unavailable += 1,
            _ if config.in_sync().count() < record.home.len() => status.groups_degraded += 1,
            _ if in_place == record.home.len() && !moves => status.groups_whole += 1,
            _ => {}
        }
        status.groups_joining += u32::from(joins);
        status.groups_moving += u32::from(moves);
        if let Some(why) = placement::stuck(*group, record, conditions) {
            status.stuck.push((*group, why));
        }
    }
    for work in signs.values().map(|sign| &sign.repair) {
        status.bytes_per_second += work.bytes_per_second;
        for join in &work.joins {
            status.chunks_left += join.chunks_left;
            status.bytes_left += join.bytes_left;
            status.chunks_copied += join.chunks_copied;
            status.bytes_copied += join.bytes_copied;
            status.compared &= join.compared;
        }
    }
    let patience = Duration::from_secs(placed.settings.replace_after_seconds);
    for (server, condition) in conditions {
        let holds = placed.groups.values().any(|r| r.home.contains(server));
        if !condition.alive && !condition.lost && holds && condition.life != ServerLife::Removed {
            let left = patience.saturating_sub(condition.gone_for);
            status.awaited.push((*server, left.as_secs()));
        }
    }
    status
}
