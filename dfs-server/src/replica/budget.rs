//! How fast members may be brought up to date, and how fast they are.

use std::time::Duration;

/// What may be copied in one go after a pause, as a part of a second's worth.
const BURST: u64 = 5;

/// A limit in bytes a second. A chunk is copied as a whole, so it is charged when it begins; the
/// next one begins when that is paid for.
#[derive(Clone, Debug, Default)]
pub(super) struct Budget {
    /// Bytes a second; 0 does not limit.
    rate: u64,
    /// Bytes that may begin now; below 0 what was begun is not paid for yet.
    open: i64,
    at: Duration,
    copied: u64,
    since: Duration,
    measured: u64,
}

impl Budget {
    pub(super) fn set_rate(&mut self, rate: u64) {
        self.rate = rate;
    }

    /// Whether another copy may begin.
    pub(super) fn is_open(&mut self, now: Duration) -> bool {
        if self.rate == 0 {
            return true;
        }
        let passed = now.saturating_sub(self.at).min(Duration::from_secs(3600));
        let gained = u128::from(self.rate) * passed.as_micros() / 1_000_000;
        // So that small gains are not rounded away, time counts only when it gave something.
        if gained > 0 {
            self.at = now;
            let most = i64::try_from(self.rate / BURST).unwrap_or(i64::MAX).max(1);
            let gained = i64::try_from(gained).unwrap_or(i64::MAX);
            self.open = self.open.saturating_add(gained).min(most);
        }
        self.open > 0
    }

    /// A copy of so many bytes begins.
    pub(super) fn charge(&mut self, bytes: u64) {
        if self.rate > 0 {
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            self.open = self.open.saturating_sub(bytes);
        }
    }

    /// So many bytes were copied.
    pub(super) fn copied(&mut self, bytes: u64) {
        self.copied += bytes;
    }

    /// Time passes.
    pub(super) fn measure(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.since);
        if passed >= Duration::from_secs(1) {
            let rate = u128::from(self.copied) * 1_000 / passed.as_millis().max(1);
            self.measured = u64::try_from(rate).unwrap_or(u64::MAX);
            self.copied = 0;
            self.since = now;
        }
    }

    /// Bytes copied in the last second.
    pub(super) fn bytes_per_second(&self) -> u64 {
        self.measured
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_begun_keeps_to_the_rate() {
        let mut budget = Budget::default();
        budget.set_rate(1 << 20);
        let mut begun = 0;
        // A tick every 100 ms for 20 s; each chunk has 4 MiB.
        for tick in 0..200 {
            let now = Duration::from_secs(5) + Duration::from_millis(100) * tick;
            while budget.is_open(now) {
                budget.charge(4 << 20);
                begun += 4 << 20;
            }
        }
        let fair = 20 << 20;
        assert!(
            begun >= fair - (4 << 20) && begun <= fair + (4 << 20),
            "{begun}"
        );
    }

    #[test]
    fn no_rate_limits_nothing_and_a_new_one_counts_at_once() {
        let mut budget = Budget::default();
        budget.charge(u64::MAX);
        assert!(budget.is_open(Duration::ZERO));
        budget.set_rate(10);
        budget.is_open(Duration::from_secs(1));
        budget.charge(1_000);
        assert!(!budget.is_open(Duration::from_secs(2)));
        budget.set_rate(0);
        assert!(budget.is_open(Duration::from_secs(2)));
    }

    #[test]
    fn the_speed_is_that_of_the_last_second() {
        let mut budget = Budget::default();
        budget.copied(3_000);
        budget.measure(Duration::from_millis(1_500));
        assert_eq!(budget.bytes_per_second(), 2_000);
        budget.measure(Duration::from_millis(2_600));
        assert_eq!(budget.bytes_per_second(), 0);
    }
}
