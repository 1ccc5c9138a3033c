//! Every duration of the protocol. They are policy of a release, not configuration: both sides
//! of a promise are compiled from this file, and the assertions below relate them.

use std::time::Duration;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A connection that has not finished its handshake by then is closed.
pub const HANDSHAKE_DEADLINE: Duration = ms(5_000);

/// A connection attempt that takes longer has failed.
pub const CONNECT_DEADLINE: Duration = ms(1_000);

/// A member of the directory that does not greet within this is paused or cut off: another one is
/// tried. Less than the deadline of the connection attempt in it, so that silence is told from a
/// refusal.
pub const DIAL_DEADLINE: Duration = ms(900);

/// A request that names no other deadline has failed after this.
pub const REQUEST_DEADLINE: Duration = ms(10_000);

/// Once the first byte of a frame has come, the rest must come within this.
pub const FRAME_DEADLINE: Duration = ms(10_000);

/// The kernel gives a connection up when sent bytes stay unacknowledged for this long.
pub const TCP_USER_TIMEOUT: Duration = ms(3_000);

/// A file server's sign of life to the directory, and when its absence counts as silence.
pub const SERVER_HEARTBEAT: Duration = ms(250);
pub const SERVER_SILENT: Duration = ms(1_000);

/// A forwarded write that a backup has not answered by then makes it suspect.
pub const FORWARD_DEADLINE: Duration = ms(1_000);

/// All members of a group were gone: the first that is back waits this long for the others
/// before the set shrinks (R11).
pub const RETURN_WAIT: Duration = ms(1_000);

/// The same, when only such members are back that may have lost what was not synced: a longer
/// time, since going on without the others can lose acknowledged writes. A directory's option
/// may change it.
pub const LAST_SERVING_WAIT: Duration = ms(600_000);

/// A mount's sign of life to the directory.
pub const SESSION_HEARTBEAT: Duration = ms(500);

/// Shared leases (the right to cache) last this long from the sending of the last acknowledged
/// heartbeat, for their holder; the granter adds `DRIFT_MARGIN`.
pub const CACHE_RIGHT: Duration = ms(2_000);
pub const DRIFT_MARGIN: Duration = ms(200);

/// A session without heartbeats for this long is expirable: it ends at the first conflict.
pub const SESSION_TTL: Duration = ms(10_000);

/// An expirable session that nobody conflicts with ends after this.
pub const SESSION_EXPIRABLE_MAX: Duration = ms(3_600_000);

/// A holder that neither answers a recall nor reports progress for this long has its session
/// ended.
pub const RECALL_DEADLINE: Duration = SESSION_TTL;

/// A holder of a recall in work says so at this interval.
pub const RECALL_PROGRESS: Duration = ms(1_000);

/// Least time between a grant on a contended inode and its recall, so that two writers make
/// progress in batches.
pub const GRANT_TERM_MIN: Duration = ms(3);

/// A dir whose changes had to be told to other sessions more than `HOT_CHANGES` times within
/// `HOT_WINDOW` is hot: nobody may keep its names for `HOT_TERM_MIN`, then, if it gets hot again
/// soon, for twice as long each time, up to `HOT_TERM_MAX`.
pub const HOT_CHANGES: u32 = 8;
pub const HOT_WINDOW: Duration = ms(1_000);
pub const HOT_TERM_MIN: Duration = ms(4_000);
pub const HOT_TERM_MAX: Duration = ms(60_000);

/// The holder of an exclusive lease pushes size and times at this interval while they change.
pub const PUSH_INTERVAL: Duration = ms(3_000);

/// Retries back off from the first to the second, with jitter.
pub const RETRY_DELAY_MIN: Duration = ms(5);
pub const RETRY_DELAY_MAX: Duration = ms(500);

/// A caller that waits longer than this has its wait logged, once, with cause and target.
pub const SLOW_WAIT: Duration = ms(2_000);

const _: () = {
    const fn lt(a: Duration, b: Duration) -> bool {
        a.as_millis() < b.as_millis()
    }
    // Four heartbeats are lost before silence counts.
    assert!(SERVER_SILENT.as_millis() >= 4 * SERVER_HEARTBEAT.as_millis());
    // A reader is never cut off by one lost heartbeat.
    assert!(CACHE_RIGHT.as_millis() >= 4 * SESSION_HEARTBEAT.as_millis());
    // The holder stops caching before the granter assumes that it stopped.
    assert!(!DRIFT_MARGIN.is_zero());
    // A session outlives its cache rights, else a slow reader would lose its locks.
    assert!(lt(CACHE_RIGHT, SESSION_TTL));
    assert!(lt(SESSION_TTL, SESSION_EXPIRABLE_MAX));
    // Recalls are given up only where the session itself would be.
    assert!(RECALL_DEADLINE.as_millis() >= SESSION_TTL.as_millis());
    assert!(RECALL_PROGRESS.as_millis() * 4 <= RECALL_DEADLINE.as_millis());
    // A dead connection is noticed before its session or its request is.
    assert!(lt(TCP_USER_TIMEOUT, REQUEST_DEADLINE));
    assert!(lt(CONNECT_DEADLINE, TCP_USER_TIMEOUT));
    assert!(lt(DIAL_DEADLINE, CONNECT_DEADLINE));
    // A silent backup is suspected no later than the directory would see it.
    assert!(FORWARD_DEADLINE.as_millis() <= SERVER_SILENT.as_millis());
    assert!(lt(GRANT_TERM_MIN, RETRY_DELAY_MAX));
    // What kernels keep of a dir has run out before it can be kept again.
    assert!(HOT_TERM_MIN.as_millis() > CACHE_RIGHT.as_millis() + DRIFT_MARGIN.as_millis());
    assert!(lt(HOT_TERM_MIN, HOT_TERM_MAX));
    assert!(lt(HANDSHAKE_DEADLINE, ms(10_000)));
    assert!(lt(RETRY_DELAY_MIN, RETRY_DELAY_MAX));
    assert!(lt(PUSH_INTERVAL, SESSION_TTL));
};
