//! Telling those who wait without a token that something has changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// Counts changes. All who wait are told in the order in which they began to, so that a simulation
/// of the directory does the same each time.
#[derive(Clone, Default, Debug)]
pub(super) struct Changes(Arc<Counted>);

#[derive(Default, Debug)]
struct Counted {
    count: AtomicU64,
    changed: Notify,
}

impl Changes {
    /// Something has changed.
    pub(super) fn tell(&self) {
        self.0.count.fetch_add(1, Ordering::AcqRel);
        self.0.changed.notify_waiters();
    }

    /// Follows the changes from now on.
    pub(super) fn follow(&self) -> Follower {
        Follower {
            seen: self.0.count.load(Ordering::Acquire),
            changes: self.clone(),
        }
    }
}

/// One who follows.
#[derive(Debug)]
pub(super) struct Follower {
    changes: Changes,
    seen: u64,
}

impl Follower {
    /// Waits for a change since the last one that was seen here.
    pub(super) async fn changed(&mut self) {
        let counted = &*self.changes.0;
        loop {
            let changed = counted.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let count = counted.count.load(Ordering::Acquire);
            if count != self.seen {
                self.seen = count;
                return;
            }
            changed.await;
        }
    }
}

/// Waits for the next change, at most for `most`.
pub(super) async fn next_change(changes: &mut Follower, most: Duration) {
    let _ = tokio::time::timeout(most, changes.changed()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_before_the_wait_ends_it_at_once_and_only_one() {
        let changes = Changes::default();
        changes.tell();
        let mut follower = changes.follow();
        let soon = Duration::from_millis(10);
        assert!(
            tokio::time::timeout(soon, follower.changed())
                .await
                .is_err()
        );
        changes.tell();
        changes.tell();
        follower.changed().await;
        assert!(
            tokio::time::timeout(soon, follower.changed())
                .await
                .is_err()
        );
    }
}
