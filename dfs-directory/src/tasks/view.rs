//! What the tasks know of the cluster at one moment.

use crate::governor::{self, LinkId};
use crate::placement::{Conditions, Placed};
use dfs_proto::attr::Timestamp;
use dfs_proto::ids::{ServerId, ServerRun};
use dfs_proto::transport::Connection;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A registered run and the connection on which it can be called.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) run: ServerRun,
    pub(crate) connection: Connection,
}

pub(crate) type Links = BTreeMap<ServerId, Link>;

/// The logged state and who is connected. Empty while this member does not lead.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) placed: Arc<Placed>,
    pub(crate) links: Links,
    pub(crate) conditions: Conditions,
}

impl View {
    /// The links as the pure cores know them.
    pub(super) fn known(&self) -> governor::Links {
        let link = |link: &Link| governor::Link {
            run: link.run,
            link: LinkId(link.connection.id()),
        };
        self.links.iter().map(|(s, l)| (*s, link(l))).collect()
    }

    /// The connection behind a link, if it is still the server's.
    pub(super) fn connection(&self, link: governor::Link) -> Option<Connection> {
        let known = self.links.get(&link.run.server)?;
        (LinkId(known.connection.id()) == link.link).then(|| known.connection.clone())
    }
}

/// Time on CLOCK_BOOTTIME, which goes on while the machine is suspended.
pub(crate) fn now() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// The time of day, as the log's commands carry it.
pub(crate) fn clock() -> Timestamp {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Timestamp {
        seconds: time.tv_sec,
        nanoseconds: u32::try_from(time.tv_nsec).unwrap_or(0),
    }
}
