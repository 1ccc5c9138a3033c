//! Which servers are there: connections, signs of life, and who counts as gone.
//!
//! Detection only. Nothing that is decided from it is unsafe when it is wrong: a server that is
//! taken for dead too early is voted out by an epoch, and comes back as joining.

use super::event::{Action, Link, LinkId, Links};
use crate::placement::transition::{ServerView, Servers};
use crate::placement::{Placed, ServerRecord};
use dfs_proto::ids::{ServerId, ServerRun};
use dfs_proto::msg::registry::{RepairWork, ServerHeartbeat, Space};
use dfs_proto::timing::SERVER_SILENT;
use std::collections::BTreeMap;
use std::time::Duration;

/// A new leader gives the servers so long to find it: they notice the silence of the last one
/// after `SERVER_SILENT` at most.
const COMING_BACK: Duration = Duration::from_millis(1500);
const _: () = assert!(COMING_BACK.as_millis() > SERVER_SILENT.as_millis());

/// A run whose connection ended may come back on a new one for this long: then nothing happened.
/// A dead one's groups wait for it, so it is short.
const LINGER: Duration = Duration::from_millis(25);

/// Of a failure, as much is kept.
const FAILURE_CHARS_MAX: usize = 500;

/// The last sign of life of a server.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sign {
    /// On the driver's clock.
    pub seen: Duration,
    pub space: Space,
    pub repair: RepairWork,
    /// Why its disk cannot be used any more; empty: it can.
    pub failure: String,
}

pub type Signs = BTreeMap<ServerId, Sign>;

#[derive(Clone, Debug)]
pub(super) struct Registry {
    pub(super) links: Links,
    pub(super) signs: Signs,
    withhold: Duration,
    withheld: BTreeMap<ServerId, Duration>,
    /// When a server's connection ended. Servers that were never connected to this leader have
    /// `COMING_BACK` from its beginning to come.
    lost: BTreeMap<ServerId, Duration>,
    began: Duration,
    checked: Duration,
    /// The last registration that this leader saw.
    pub(super) registered: Duration,
}

impl Registry {
    pub(super) fn new(withhold: Duration, now: Duration) -> Self {
        Self {
            links: Links::new(),
            signs: Signs::new(),
            withhold,
            withheld: BTreeMap::new(),
            lost: BTreeMap::new(),
            began: now,
            checked: now,
            registered: now,
        }
    }

    /// A run has registered.
    pub(super) fn add(&mut self, link: Link, space: Space, now: Duration) {
        let server = link.run.server;
        self.lost.remove(&server);
        let sign = Sign {
            seen: now,
            space,
            repair: RepairWork::default(),
            failure: String::new(),
        };
        self.signs.insert(server, sign);
        self.registered = now;
        self.links.insert(server, link);
    }

    /// A heartbeat; `false` if that connection has not registered that run.
    pub(super) fn heartbeat(
        &mut self,
        link: LinkId,
        request: ServerHeartbeat,
        now: Duration,
    ) -> bool {
        let ServerHeartbeat {
            run,
            space,
            repair,
            failure,
        } = request;
        let known = self.links.get(&run.server) == Some(&Link { run, link });
        if known {
            let sign = Sign {
                seen: now,
                space,
                repair,
                failure: failure.chars().take(FAILURE_CHARS_MAX).collect(),
            };
            let old = self.signs.insert(run.server, sign);
            let failure = &self.signs[&run.server].failure;
            if !failure.is_empty() && old.is_none_or(|old| old.failure != *failure) {
                log::error!(
                    "the disk of {run} has failed: {failure}. It takes part in nothing until it \
                     is started again on a disk that works"
                );
            }
        }
        known
    }

    /// A connection has ended: the run that it belonged to, unless it has a newer one.
    pub(super) fn remove(&mut self, link: LinkId, now: Duration) -> Option<ServerRun> {
        let found = self.links.iter().find(|(_, known)| known.link == link);
        let server = found.map(|(server, _)| *server)?;
        self.lost.insert(server, now);
        self.links.remove(&server).map(|link| link.run)
    }

    /// Somebody cannot reach a run. `true` if its connection to here has ended too: two have seen
    /// it go, so nobody waits for its return.
    pub(super) fn confirm_loss(&mut self, run: ServerRun) -> bool {
        // A leader that has never seen it waits for its registration.
        if self.links.contains_key(&run.server) || !self.signs.contains_key(&run.server) {
            return false;
        }
        self.lost.insert(run.server, Duration::ZERO);
        true
    }

    /// Not to be taken as joining for a while.
    pub(super) fn withhold(&mut self, server: ServerId, now: Duration) {
        self.withheld.insert(server, now + self.withhold);
    }

    /// Whether a server says that its disk cannot be used.
    fn has_failed(&self, server: ServerId) -> bool {
        self.signs
            .get(&server)
            .is_some_and(|sign| !sign.failure.is_empty())
    }

    /// When the next server counts as gone whose connection has ended.
    pub(super) fn next_loss(&self, now: Duration) -> Option<Duration> {
        let due = self.lost.values().map(|at| *at + LINGER);
        due.filter(|at| *at > now).min()
    }

    /// This process runs. While it did not (stopped, suspended) nobody could be heard.
    pub(super) fn running(&mut self, now: Duration) {
        let away = now
            .saturating_sub(self.checked)
            .saturating_sub(SERVER_SILENT / 4);
        if !away.is_zero() {
            for sign in self.signs.values_mut() {
                sign.seen = (sign.seen + away).min(now);
            }
            self.began = (self.began + away).min(now);
        }
        self.checked = now;
    }

    /// The runs that the log calls alive and that are not. Closes the connections of silent ones:
    /// should they live after all, they learn from it that they have to register again.
    pub(super) fn gone(
        &mut self,
        placed: &Placed,
        now: Duration,
        out: &mut Vec<Action>,
    ) -> Vec<ServerRun> {
        let mut gone = Vec::new();
        for (server, record) in placed.servers.iter().filter(|(_, record)| record.alive) {
            let run = ServerRun {
                server: *server,
                incarnation: record.incarnation,
            };
            let silent = match self.links.get(server).filter(|link| link.run == run) {
                Some(Link { link, .. }) => {
                    let seen = self.signs.get(server).map_or(self.began, |sign| sign.seen);
                    let silent = now.saturating_sub(seen) > SERVER_SILENT;
                    if silent {
                        out.push(Action::Close {
                            link: *link,
                            why: "no sign of life for too long",
                        });
                        self.links.remove(server);
                    }
                    silent
                }
                None => match self.lost.get(server) {
                    Some(at) => now.saturating_sub(*at) >= LINGER,
                    None => now.saturating_sub(self.began) > COMING_BACK,
                },
            };
            if silent {
                gone.push(run);
            }
        }
        gone
    }

    /// What the transition needs to know, with those taken as gone that are about to be logged so.
    pub(super) fn servers(
        &mut self,
        placed: &Placed,
        gone: &[ServerRun],
        now: Duration,
    ) -> Servers {
        self.withheld.retain(|_, until| *until > now);
        let view = |(server, record): (&ServerId, &ServerRecord)| {
            let view = ServerView {
                incarnation: record.incarnation,
                alive: record.alive && !gone.iter().any(|run| run.server == *server),
                intact_since: record.intact_since.clone(),
                may_join: !self.withheld.contains_key(server) && !self.has_failed(*server),
            };
            (*server, view)
        };
        placed.servers.iter().map(view).collect()
    }
}
