//! Keeps the tables durable and the log short, beside the work.

use super::log_store::LogStore;
use super::state_machine::StateMachine;
use super::types::Raft;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// How often it looks.
const LOOK: Duration = Duration::from_millis(200);
/// Applied but not durable: flushed at the latest by then...
const CHECKPOINT_AFTER: Duration = Duration::from_secs(10);
/// ...or when nothing was applied for this long...
const CHECKPOINT_IDLE: Duration = Duration::from_secs(1);
/// ...or when this many bytes of commands were applied. It bounds how long a flush takes, and
/// how much is applied again after a crash.
const CHECKPOINT_BYTES: u64 = 8 << 20;
/// The log is purged when it holds this many entries, whatever their size: each costs memory.
const LOG_ENTRIES_MAX: u64 = 200_000;

/// Runs until the member stops.
pub(super) async fn run(raft: Raft, log: LogStore, machine: StateMachine, log_bytes_max: u64) {
    let progress = machine.progress.clone();
    let mut seen = progress.applied.load(Ordering::Acquire);
    let mut moved = Instant::now();
    let mut flushed = Instant::now();
    // What the log had grown to when a snapshot was last asked for: that one may be under way,
    // or purge nothing while a member still needs the entries.
    let mut asked: Option<(Instant, u64)> = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let applied = progress.applied.load(Ordering::Acquire);
        if applied != seen {
            seen = applied;
            moved = Instant::now();
        }
        if progress.durable.load(Ordering::Acquire) == applied {
            flushed = Instant::now();
        } else if flushed.elapsed() >= CHECKPOINT_AFTER
            || moved.elapsed() >= CHECKPOINT_IDLE
            || progress.bytes.load(Ordering::Acquire) >= CHECKPOINT_BYTES
        {
            if let Err(e) = machine.checkpoint().await {
                // The next apply meets the same disk and stops the member; nothing is lost: the
                // log holds it all.
                log::error!("the state tables can't be flushed: {e}");
            }
            flushed = Instant::now();
        }
        let (entries, bytes) = log.extent();
        // Writing a snapshot file costs as much as it is large: it pays once the log is larger.
        let enough = log_bytes_max.max(progress.snapshot_bytes.load(Ordering::Acquire));
        let long = entries >= LOG_ENTRIES_MAX || bytes >= enough;
        let again = asked.is_none_or(|(when, size)| {
            when.elapsed() >= CHECKPOINT_AFTER || bytes >= size.saturating_add(enough)
        });
        if long && again {
            asked = Some((Instant::now(), bytes));
            if raft.trigger().snapshot().await.is_err() {
                return;
            }
        } else if !long {
            asked = None;
        }
    }
}
