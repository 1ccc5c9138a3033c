//! How long the governor waits for what.

use dfs_proto::timing::LAST_SERVING_WAIT;
use std::time::Duration;

/// How patient the governor is. The simulation lives faster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    /// Silence, waits and retries are looked at this often.
    pub tick: Duration,
    /// Groups get their first members when enough servers are there and no other one has come
    /// for this long: servers are usually started together, and all of them are to have a share.
    pub place_after: Duration,
    /// After this long without a change, groups whose primary is not the preferred one get it
    /// back, so that a server that was away has its share of the work again.
    pub quiet: Duration,
    /// A server that is alive but did not answer is not taken back as joining for this long.
    pub withhold: Duration,
    /// A new leader counts nobody as lost before it has led for this long, however long the log
    /// says that a server was gone: all may have been down, and be coming back.
    pub returns: Duration,
    /// Moves of groups are looked for this often.
    pub repair: Duration,
    /// Groups that may be on the move at a time.
    pub moving_max: usize,
    /// When all has been well for this long, one group moves to where there are few.
    pub rebalance: Duration,
    /// All members of a group were gone, and only such are back that may have lost what was not
    /// synced: the missing ones are waited for this long.
    pub return_wait: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(50),
            place_after: Duration::from_millis(300),
            quiet: Duration::from_secs(10),
            withhold: Duration::from_secs(5),
            returns: Duration::from_secs(60),
            repair: Duration::from_millis(250),
            moving_max: 8,
            rebalance: Duration::from_secs(5),
            return_wait: LAST_SERVING_WAIT,
        }
    }
}
