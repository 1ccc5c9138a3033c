//! The right to cache: shared leases, names and attributes may be used until some time after the
//! sending of the last heartbeat that was acknowledged.

use super::clock;
use super::core::Core;
use super::guard::lock;
use super::patience::Patience;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::timing::CACHE_RIGHT;
use std::sync::Arc;
use std::time::Duration;

impl Core {
    /// The right to cache now lasts until `CACHE_RIGHT` after `sent`. If it had lapsed before,
    /// the shared leases are gone: others may have written since.
    pub(super) fn renew_right(self: &Arc<Self>, sent: u64) {
        let until = sent + CACHE_RIGHT.as_nanos() as u64;
        let before = *self.right.borrow();
        if before != 0 && before < clock::now() {
            log::info!("the right to cache had lapsed; shared leases are asked for anew");
            self.lose_shared_leases();
        }
        self.right.send_if_modified(|present| {
            let later = until > *present;
            if later {
                *present = until;
            }
            later
        });
    }

    /// What remains of the right to cache.
    pub(super) fn right_left(&self) -> Duration {
        let until = *self.right.borrow();
        Duration::from_nanos(until.saturating_sub(clock::now()))
    }

    /// Waits until there is a right to read at all (self-fence).
    pub(super) async fn right(&self) -> Result<()> {
        if !self.right_left().is_zero() {
            return Ok(());
        }
        let mut right = self.right.subscribe();
        let mut stopping = self.stopping.subscribe();
        let mut patience = Patience::new("the right to read");
        loop {
            right.borrow_and_update();
            if !self.right_left().is_zero() {
                return Ok(());
            }
            let failure = lock(&self.last_failure).clone();
            let last = failure.map_or_else(String::new, |last| format!(" (last: {last})"));
            let cause = format!("no heartbeat was answered, so others may be writing{last}");
            patience.note(&"directory", &cause);
            let delay = patience.delay().max(Duration::from_millis(20));
            tokio::select! {
                _ = right.changed() => {}
                () = tokio::time::sleep(delay) => {}
                _ = stopping.wait_for(|stop| *stop) => {
                    return Err(Error::new(ErrorCode::ShuttingDown, "the mount has ended"));
                }
            }
        }
    }
}
