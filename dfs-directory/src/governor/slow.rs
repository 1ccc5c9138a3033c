//! Members that hold everybody up: out of their groups while enough others are in-sync, and back
//! only after a pause that grows, so that a disk which is slow on and off does not come and go.
//!
//! Kept in the leader's memory: another leader takes such a server back, and hears of it again.

use crate::placement::transition::{Event, Servers};
use crate::placement::{GroupRecord, Placed};
use dfs_proto::ids::{GroupId, ServerId, ServerRun};
use dfs_proto::msg::registry::ReportSlow;
use std::collections::BTreeMap;
use std::time::Duration;

/// The first pause, and the longest one; each is twice the one before.
const PAUSE_MIN: Duration = Duration::from_secs(30);
const PAUSE_MAX: Duration = Duration::from_secs(3_600);

/// Who was not slow for this many times its last pause begins with the first one again.
const FORGIVEN_AFTER: u32 = 10;

#[derive(Clone, Copy, Debug)]
struct Pause {
    length: Duration,
    until: Duration,
}

#[derive(Clone, Debug, Default)]
pub(super) struct SlowServers {
    reports: Vec<ReportSlow>,
    pauses: BTreeMap<ServerId, Pause>,
}

impl SlowServers {
    pub(super) fn report(&mut self, report: ReportSlow) {
        let known = |r: &ReportSlow| r.from == report.from && r.slow == report.slow;
        if !self.reports.iter().any(known) {
            self.reports.push(report);
        }
    }

    /// The suspicions that follow from the reports: in the groups of which the reporter is the
    /// primary. Marks servers in their pause as not to be taken back, unless their groups lack
    /// them.
    pub(super) fn decide(
        &mut self,
        placed: &Placed,
        servers: &mut Servers,
        now: Duration,
    ) -> Vec<(GroupId, Event)> {
        let mut events = Vec::new();
        for report in std::mem::take(&mut self.reports) {
            let run = report.slow;
            // All or nothing: a server that one of its groups cannot spare is not sent away.
            if !is_spared(run.server, placed, servers) {
                log::warn!(
                    "{run} is slow ({} ms a write, others {} ms) and stays: too few other members \
                     are in-sync; look at its disk",
                    report.mean_millis,
                    report.others_millis
                );
                continue;
            }
            let led = placed.groups.iter().filter(|(_, record)| {
                record.config.primary == Some(report.from.server)
                    && record.config.in_sync().any(|member| member == run)
                    && record.config.in_sync().any(|member| member == report.from)
            });
            let before = events.len();
            events.extend(led.map(|(group, _)| (*group, Event::Suspect(run))));
            let joining = placed
                .groups
                .values()
                .any(|record| record.config.joining().any(|member| member == run));
            if events.len() > before || joining {
                self.pause(run, &report, now);
            }
        }
        for server in self.left_aside(placed, servers, now) {
            if let Some(view) = servers.get_mut(&server) {
                view.may_join = false;
            }
        }
        events
    }

    fn pause(&mut self, run: ServerRun, report: &ReportSlow, now: Duration) {
        let length = match self.pauses.get(&run.server) {
            // Its groups' primaries say so one after the other.
            Some(last) if now < last.until => return,
            Some(last) if now < last.until + last.length * FORGIVEN_AFTER => {
                (last.length * 2).min(PAUSE_MAX)
            }
            _ => PAUSE_MIN,
        };
        log::warn!(
            "{run} holds everybody up, {} ms a write where others take {} ms: it leaves its groups \
             for {} s; look at its disk",
            report.mean_millis,
            report.others_millis,
            length.as_secs()
        );
        let until = now + length;
        self.pauses.insert(run.server, Pause { length, until });
    }

    /// Servers in their pause. A group that has too few members takes a slow one rather than none.
    fn left_aside(&self, placed: &Placed, servers: &Servers, now: Duration) -> Vec<ServerId> {
        let paused = self.pauses.iter().filter(|(_, pause)| now < pause.until);
        let paused = paused.map(|(server, _)| *server);
        paused
            .filter(|server| is_spared(*server, placed, servers))
            .collect()
    }
}

/// Whether all groups of a server take writes without it.
fn is_spared(server: ServerId, placed: &Placed, servers: &Servers) -> bool {
    let records = placed.groups.values();
    let mut its_groups = records.filter(|record| record.home.contains(&server));
    its_groups.all(|record| is_enough(record, server, servers))
}

/// Whether the group takes writes without this server.
fn is_enough(record: &GroupRecord, without: ServerId, servers: &Servers) -> bool {
    let there = |run: &ServerRun| {
        let view = servers.get(&run.server);
        run.server != without
            && view.is_some_and(|view| view.alive && view.incarnation == run.incarnation)
    };
    record.config.in_sync().filter(there).count() >= usize::from(record.config.min_in_sync)
}
