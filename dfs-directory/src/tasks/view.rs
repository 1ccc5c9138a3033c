//! What the tasks know of the cluster at one moment.

use crate::placement::Placed;
use dfs_proto::ids::{ServerId, ServerRun};
use dfs_proto::msg::registry::Space;
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
}

/// The last sign of life of a server.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sign {
    /// On CLOCK_BOOTTIME.
    pub(crate) seen: Duration,
    pub(crate) space: Space,
}

pub(crate) type Signs = BTreeMap<ServerId, Sign>;

/// Time on CLOCK_BOOTTIME, which goes on while the machine is suspended.
pub(crate) fn now() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}
