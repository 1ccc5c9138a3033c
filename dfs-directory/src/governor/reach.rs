//! Who cannot reach whom, although each of them reaches the directory: a cable that is half
//! broken, a switch between two racks, a firewall.
//!
//! Two kinds of witnesses. A primary suspects a member that does not answer it; a mount says which
//! servers it cannot reach. Between two servers that accuse each other nothing tells which of them
//! is cut off, and the primary's word counts. But one that has lost several others, while they
//! have lost only it, is the one that is cut off, whoever said so first: were its word to count,
//! it would vote out all others and keep its groups from everybody. So suspicions of servers are
//! gathered for a moment before they are judged.
//!
//! A server that is cut off leaves the in-sync sets (as far as `min_in_sync` allows) and is not
//! taken back as joining while it is said to be cut off, unless a group cannot be written
//! without it. What is decided here costs at most a resync: it is never about safety.

use super::Governor;
use crate::placement::GroupRecord;
use crate::placement::transition::{self, Servers};
use dfs_proto::ids::{ServerId, ServerRun, SessionId};
use dfs_proto::msg::registry::ReportSuspect;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Suspicions are judged so long after they came: those of one event come together.
const GATHER: Duration = Duration::from_millis(100);

/// So long they count against others that come.
const REMEMBER: Duration = Duration::from_secs(3);

/// What a mount says is repeated with its heartbeats; it holds for a few of them.
const MOUNT_SAYS: Duration = Duration::from_millis(1_700);

/// What follows from suspicions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// The suspect leaves the groups of the report.
    AsReported(ReportSuspect),
    /// This run is cut off from more than one other: it leaves all groups.
    CutOff(ServerRun),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Reach {
    /// Suspicions that are not judged yet, and when they came.
    gathered: Vec<(Duration, ReportSuspect)>,
    /// Pairs of which one has suspected the other, smaller number first, and when last.
    broken: BTreeMap<(ServerId, ServerId), Duration>,
    /// Servers that are cut off, until when.
    cut_off: BTreeMap<ServerId, Duration>,
}

impl Reach {
    /// A server suspects another one.
    pub(super) fn suspected(&mut self, report: ReportSuspect, now: Duration) {
        let (a, b) = (report.from.server, report.suspect.server);
        if a != b {
            self.broken.insert((a.min(b), a.max(b)), now);
        }
        self.gathered.push((now, report));
    }

    /// A mount cannot reach this server. True if that is news.
    pub(super) fn unreachable(&mut self, server: ServerId, now: Duration) -> bool {
        let news = !self.cut_off.contains_key(&server);
        self.keep_out(server, now + MOUNT_SAYS);
        news
    }

    fn keep_out(&mut self, server: ServerId, until: Duration) {
        let known = self.cut_off.entry(server).or_default();
        *known = until.max(*known);
    }

    /// When the next suspicion is due.
    pub(super) fn due_at(&self) -> Option<Duration> {
        self.gathered.iter().map(|(at, _)| *at + GATHER).min()
    }

    /// Judges what has been gathered for long enough. `kept_out`: how long one that is cut off
    /// from other servers is left alone.
    pub(super) fn judge(&mut self, now: Duration, kept_out: Duration) -> Vec<Verdict> {
        self.broken.retain(|_, at| *at + REMEMBER > now);
        self.cut_off.retain(|_, until| *until > now);
        let (due, rest) = std::mem::take(&mut self.gathered)
            .into_iter()
            .partition::<Vec<_>, _>(|(at, _)| *at + GATHER <= now);
        self.gathered = rest;
        let mut verdicts = Vec::new();
        for (_, report) in due {
            let (from, suspect) = (report.from, report.suspect);
            let lost_by_from = self.partners(from.server);
            let lost_by_suspect = self.partners(suspect.server);
            let verdict = if lost_by_from > lost_by_suspect {
                Verdict::CutOff(from)
            } else if lost_by_suspect > lost_by_from {
                Verdict::CutOff(suspect)
            } else {
                Verdict::AsReported(report)
            };
            if let Verdict::CutOff(run) = verdict {
                self.keep_out(run.server, now + kept_out);
            }
            if !verdicts.contains(&verdict) {
                verdicts.push(verdict);
            }
        }
        verdicts
    }

    /// How many others this server has lost, or have lost it.
    fn partners(&self, server: ServerId) -> usize {
        let others: BTreeSet<ServerId> = self
            .broken
            .keys()
            .filter_map(|(a, b)| match server {
                s if s == *a => Some(*b),
                s if s == *b => Some(*a),
                _ => None,
            })
            .collect();
        others.len()
    }

    pub(super) fn is_cut_off(&self, server: ServerId, now: Duration) -> bool {
        self.cut_off.get(&server).is_some_and(|until| *until > now)
    }
}

impl Governor {
    /// Suspicions that were gathered for long enough.
    pub(super) fn judge(&mut self, now: Duration) {
        for verdict in self.reach.judge(now, self.pace.withhold) {
            match verdict {
                Verdict::AsReported(report) => {
                    for (group, epoch) in report.groups {
                        self.suspect(group, epoch, report.suspect);
                    }
                }
                Verdict::CutOff(run) => {
                    log::warn!("{run} is cut off from the other servers: it leaves its groups");
                    self.leave(run);
                }
            }
        }
    }

    /// A mount cannot reach these runs, which do reach this process.
    pub(super) fn unreachable(&mut self, session: SessionId, runs: &[ServerRun], now: Duration) {
        for run in runs {
            let known = self.placed.servers.get(&run.server);
            if !known.is_some_and(|s| s.alive && s.incarnation == run.incarnation) {
                continue;
            }
            if self.reach.unreachable(run.server, now) {
                log::warn!("{session} cannot reach {run}: it leaves its groups for now");
            }
            self.leave(*run);
        }
    }

    /// Out of all groups that can do without it.
    fn leave(&mut self, run: ServerRun) {
        for (group, record) in &self.placed.groups {
            if record.config.in_sync().any(|member| member == run) {
                self.pending.push((*group, transition::Event::Suspect(run)));
            }
        }
    }

    /// Who is cut off does not join, unless a group cannot be written.
    pub(super) fn leave_aside(&self, servers: &mut Servers, now: Duration) {
        let writable = |record: &GroupRecord| record.config.is_writable();
        if self.placed.groups.values().all(writable) {
            for (server, view) in servers {
                view.may_join &= !self.reach.is_cut_off(*server, now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::ids::Incarnation;

    const KEPT_OUT: Duration = Duration::from_secs(5);

    fn run(server: u32) -> ServerRun {
        ServerRun {
            server: ServerId(server),
            incarnation: Incarnation(u64::from(server)),
        }
    }

    fn report(from: u32, suspect: u32) -> ReportSuspect {
        ReportSuspect {
            from: run(from),
            suspect: run(suspect),
            groups: Vec::new(),
            reason: "silent".into(),
        }
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn between_two_the_primary_is_believed() {
        let mut reach = Reach::default();
        reach.suspected(report(1, 2), at(0));
        assert_eq!(reach.judge(at(50), KEPT_OUT), []);
        let judged = reach.judge(at(100), KEPT_OUT);
        assert_eq!(judged, [Verdict::AsReported(report(1, 2))]);
        assert!(!reach.is_cut_off(ServerId(2), at(100)));
        assert_eq!(reach.judge(at(200), KEPT_OUT), []);
    }

    #[test]
    fn one_that_has_lost_all_others_is_cut_off_whoever_says_so() {
        let mut reach = Reach::default();
        reach.suspected(report(1, 2), at(0));
        reach.suspected(report(1, 3), at(10));
        reach.suspected(report(2, 1), at(20));
        let judged = reach.judge(at(120), KEPT_OUT);
        assert_eq!(judged, [Verdict::CutOff(run(1))]);
        assert!(reach.is_cut_off(ServerId(1), at(5_000)));
        assert!(!reach.is_cut_off(ServerId(1), at(5_200)));
        assert!(!reach.is_cut_off(ServerId(2), at(200)));
    }

    #[test]
    fn old_suspicions_say_nothing_of_new_ones() {
        let mut reach = Reach::default();
        reach.suspected(report(1, 2), at(0));
        reach.judge(at(100), KEPT_OUT);
        reach.suspected(report(1, 3), at(3_100));
        let judged = reach.judge(at(3_200), KEPT_OUT);
        assert_eq!(judged, [Verdict::AsReported(report(1, 3))]);
    }

    #[test]
    fn a_mount_s_word_holds_while_it_is_repeated() {
        let mut reach = Reach::default();
        assert!(reach.unreachable(ServerId(1), at(0)));
        assert!(!reach.unreachable(ServerId(1), at(500)));
        assert!(reach.is_cut_off(ServerId(1), at(2_100)));
        reach.judge(at(2_300), KEPT_OUT);
        assert!(reach.unreachable(ServerId(1), at(2_300)));
    }
}
