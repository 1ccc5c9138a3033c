//! Waiting between tries: back-off with jitter, and one log line for a wait that gets long.

use super::clock;
use dfs_proto::timing::{RETRY_DELAY_MAX, RETRY_DELAY_MIN, SLOW_WAIT};
use std::fmt::Display;
use std::time::Duration;

/// The patience of one request with its target.
#[derive(Debug)]
pub(super) struct Patience {
    what: &'static str,
    since: u64,
    tries: u32,
    told: bool,
}

impl Patience {
    pub(super) fn new(what: &'static str) -> Self {
        Self {
            what,
            since: clock::now(),
            tries: 0,
            told: false,
        }
    }

    /// The pause before the next try.
    pub(super) fn delay(&mut self) -> Duration {
        self.tries = self.tries.saturating_add(1);
        backoff(self.tries)
    }

    /// Pauses because of `cause`.
    pub(super) async fn pause(
        &mut self,
        target: &(dyn Display + Sync),
        cause: &(dyn Display + Sync),
    ) {
        let delay = self.delay();
        self.note(target, cause);
        tokio::time::sleep(delay).await;
    }

    /// Awaits an answer of `target`, and logs when that makes the wait a long one.
    pub(super) async fn awaited<T>(
        &mut self,
        target: &(dyn Display + Sync),
        cause: &(dyn Display + Sync),
        answer: impl Future<Output = T>,
    ) -> T {
        tokio::pin!(answer);
        if !self.told {
            // A little more: `note` looks at the time once again.
            let left = SLOW_WAIT.saturating_sub(clock::elapsed(self.since)) + RETRY_DELAY_MIN;
            if let Ok(answer) = tokio::time::timeout(left, &mut answer).await {
                return answer;
            }
            self.note(target, cause);
        }
        answer.await
    }

    /// Logs, once, that this has been taking long.
    pub(super) fn note(&mut self, target: &(dyn Display + Sync), cause: &(dyn Display + Sync)) {
        if !self.told && clock::elapsed(self.since) > SLOW_WAIT {
            self.told = true;
            log::warn!(
                "{} ({target}) has been waiting for {} ms: {cause} ({} tries); it goes on trying",
                self.what,
                clock::elapsed(self.since).as_millis(),
                self.tries
            );
        }
    }
}

/// The delay after so many failures: doubled from the least to the most, the upper half of it
/// at random.
pub(super) fn backoff(tries: u32) -> Duration {
    let doubled = RETRY_DELAY_MIN.saturating_mul(1 << tries.saturating_sub(1).min(10));
    let full = doubled.min(RETRY_DELAY_MAX);
    let half = full / 2;
    // The low digits of the clock are chance enough to keep callers apart.
    let chance = clock::now().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    half + Duration::from_nanos(chance % (half.as_nanos() as u64 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_bound() {
        for tries in 0..40 {
            let delay = backoff(tries);
            assert!(delay >= RETRY_DELAY_MIN / 2 && delay <= RETRY_DELAY_MAX);
        }
        assert!(backoff(30) >= RETRY_DELAY_MAX / 2);
    }
}
