//! Which servers are there: connections, signs of life, and who counts as gone.

use crate::sim::message::Process;
use dfs_directory::placement::Placed;
use dfs_directory::placement::transition::{ServerView, Servers};
use dfs_proto::ids::{ServerId, ServerRun};
use dfs_proto::timing::SERVER_SILENT;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A server that is alive but did not answer is not taken back as joining for this long.
const WITHHOLD: Duration = Duration::from_millis(1_000);

/// A registered run and its connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) run: ServerRun,
    pub(super) process: Process,
    pub(super) number: u64,
    seen: Duration,
}

#[derive(Debug)]
pub(super) struct Registry {
    links: BTreeMap<ServerId, Link>,
    /// Were connected once: without a connection they are gone.
    known: BTreeSet<ServerId>,
    withheld: BTreeMap<ServerId, Duration>,
    numbers: u64,
    came: Duration,
}

impl Registry {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            links: BTreeMap::new(),
            known: BTreeSet::new(),
            withheld: BTreeMap::new(),
            numbers: 0,
            came: now,
        }
    }

    pub(super) fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    pub(super) fn link(&self, server: ServerId) -> Option<&Link> {
        self.links.get(&server)
    }

    pub(super) fn runs(&self) -> impl Iterator<Item = ServerRun> {
        self.links.values().map(|link| link.run)
    }

    /// The last registration.
    pub(super) fn last_came(&self) -> Duration {
        self.came
    }

    pub(super) fn add(&mut self, run: ServerRun, process: Process, now: Duration) {
        self.numbers += 1;
        self.known.insert(run.server);
        self.came = now;
        let link = Link {
            run,
            process,
            number: self.numbers,
            seen: now,
        };
        self.links.insert(run.server, link);
    }

    pub(super) fn heard(&mut self, run: ServerRun, process: Process, now: Duration) -> bool {
        match self.links.get_mut(&run.server) {
            Some(link) if link.run == run && link.process == process => {
                link.seen = now;
                true
            }
            _ => false,
        }
    }

    pub(super) fn closed(&mut self, peer: Process) {
        self.links.retain(|_, link| link.process != peer);
    }

    pub(super) fn withhold(&mut self, server: ServerId, now: Duration) {
        self.withheld.insert(server, now + WITHHOLD);
    }

    /// The runs that the log calls alive and that are not.
    pub(super) fn gone(&mut self, placed: &Placed, now: Duration) -> Vec<ServerRun> {
        self.links
            .retain(|_, link| now.saturating_sub(link.seen) <= SERVER_SILENT);
        let is_gone = |(server, incarnation): (ServerId, _)| {
            let run = ServerRun {
                server,
                incarnation,
            };
            let linked = self.links.get(&server).is_some_and(|link| link.run == run);
            (!linked && self.known.contains(&server)).then_some(run)
        };
        placed
            .servers
            .iter()
            .filter(|(_, record)| record.alive)
            .map(|(server, record)| (*server, record.incarnation))
            .filter_map(is_gone)
            .collect()
    }

    pub(super) fn servers(
        &mut self,
        placed: &Placed,
        gone: &[ServerRun],
        now: Duration,
    ) -> Servers {
        self.withheld.retain(|_, until| *until > now);
        placed
            .servers
            .iter()
            .map(|(server, record)| {
                let view = ServerView {
                    incarnation: record.incarnation,
                    alive: record.alive && !gone.iter().any(|run| run.server == *server),
                    intact_since: record.intact_since.clone(),
                    may_join: !self.withheld.contains_key(server),
                };
                (*server, view)
            })
            .collect()
    }
}
