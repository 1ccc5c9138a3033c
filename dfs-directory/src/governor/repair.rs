//! Who counts as lost, and when groups move.

use super::{Governor, Logging};
use crate::placement::{self, Condition, NewHome, PlacementCommand, ServerRecord};
use dfs_proto::cluster::ServerLife;
use dfs_proto::ids::ServerId;
use std::time::Duration;

impl Governor {
    /// Begins the moves that are due.
    pub(super) fn repair(&mut self, now: Duration) {
        if now < self.repair_at {
            return;
        }
        self.repair_at = now + self.pace.repair;
        self.look_at_servers(now);
        let (placed, conditions) = (&self.placed, &self.conditions);
        let mut groups = placement::moves(placed, conditions, self.pace.moving_max);
        if !placement::is_settled(placed, conditions) {
            self.rebalance_at = now + self.pace.rebalance;
        } else if now >= self.rebalance_at {
            self.rebalance_at = now + self.pace.rebalance;
            groups.extend(placement::rebalance(placed, conditions));
        }
        if groups.is_empty() {
            return;
        }
        for group in &groups {
            report(group);
        }
        self.commit(Logging::Moving, PlacementCommand::Rehome { groups });
    }

    fn look_at_servers(&mut self, now: Duration) {
        let gone = |server: &ServerId| {
            let record = self.placed.servers.get(server);
            record.is_some_and(|record| !record.alive)
        };
        self.missing.retain(|server, _| gone(server));
        for (server, record) in &self.placed.servers {
            if !record.alive {
                self.missing.entry(*server).or_insert(now);
            }
        }
        let servers = self.placed.servers.iter();
        let conditions = servers
            .map(|(server, record)| (*server, self.condition(*server, record, now)))
            .collect();
        if conditions != self.conditions {
            self.conditions = conditions;
            self.publish = true;
        }
    }

    fn condition(&self, server: ServerId, record: &ServerRecord, now: Duration) -> Condition {
        let space = self.registry.signs.get(&server).map(|sign| sign.space);
        let given_up = record.life == ServerLife::Removed;
        let patience = Duration::from_secs(self.placed.settings.replace_after_seconds);
        let gone_for = match record.alive {
            true => Duration::ZERO,
            false => Duration::from_secs(self.gone_for(server, record, now).as_secs()),
        };
        Condition {
            life: record.life,
            alive: record.alive,
            gone_for,
            lost: !record.alive && (given_up || gone_for >= patience),
            // A tenth of the disk: what is copied must leave room for what is written.
            roomy: space.is_none_or(|s| s.free_bytes > s.total_bytes / 10),
        }
    }

    /// How long a server has been gone. What the log says counts when this leader has given it
    /// the time to come back.
    fn gone_for(&self, server: ServerId, record: &ServerRecord, now: Duration) -> Duration {
        let seen = now.saturating_sub(self.missing.get(&server).copied().unwrap_or(now));
        let led = now.saturating_sub(self.began);
        let logged = self.wall.zip(record.gone_at).map(|((clock, at), gone)| {
            let clock = clock.saturating_add_unsigned(now.saturating_sub(at).as_secs());
            Duration::from_secs(u64::try_from(clock.saturating_sub(gone)).unwrap_or(0))
        });
        match logged {
            Some(logged) if led >= self.pace.returns => logged.max(seen),
            _ => seen,
        }
    }
}

fn report(new: &NewHome) {
    let (come, go) = (
        new.home.iter().filter(|s| !new.expect.contains(s)),
        new.expect.iter().filter(|s| !new.home.contains(s)),
    );
    for (to, from) in come.zip(go) {
        log::info!("{} moves from {from} to {to}", new.group);
    }
}
