//! Time: the clock that rights are measured with, and the directory's time for file times.

use super::guard::lock;
use dfs_proto::attr::Timestamp;
use std::sync::Mutex;
use std::time::Duration;

/// Nanoseconds of CLOCK_BOOTTIME: goes on while the machine sleeps, as rights do.
pub(super) fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    (time.tv_sec as u64) * 1_000_000_000 + time.tv_nsec as u64
}

/// How far `now()` is past `since`.
pub(super) fn elapsed(since: u64) -> Duration {
    Duration::from_nanos(now().saturating_sub(since))
}

/// A skew between this host's wall clock and the directory's beyond this is warned about.
const SKEW_MAX_NS: i128 = 1_000_000_000;

/// The directory's clock, as measured with the heartbeats. Never goes back.
#[derive(Debug, Default)]
pub(super) struct DirectoryClock {
    inner: Mutex<Measured>,
}

#[derive(Debug, Default)]
struct Measured {
    /// Directory time less boot time.
    offset_ns: Option<i128>,
    /// Half the round trip that it was measured with.
    error_ns: i128,
    last_ns: i128,
    warned: bool,
}

impl DirectoryClock {
    /// A request sent at `sent` (boot time) was answered just now with the directory's time.
    pub(super) fn measure(&self, sent: u64, clock_ns: i128) {
        let received = now();
        let error_ns = i128::from(received - sent.min(received)) / 2;
        let offset_ns = clock_ns - (i128::from(sent) + error_ns);
        let mut inner = lock(&self.inner);
        // A measurement ages by at most this much; a sharper one replaces a blunter one.
        inner.error_ns += 1_000_000;
        if inner.offset_ns.is_none() || error_ns <= inner.error_ns {
            inner.offset_ns = Some(offset_ns);
            inner.error_ns = error_ns;
        }
        let skew = clock_ns - wall_ns();
        if skew.abs() > SKEW_MAX_NS && !inner.warned {
            inner.warned = true;
            log::warn!(
                "this host's clock differs from the directory's by {} ms; file times are the directory's",
                skew / 1_000_000
            );
        }
    }

    /// The directory's present time.
    pub(super) fn time(&self) -> Timestamp {
        let mut inner = lock(&self.inner);
        let present = match inner.offset_ns {
            Some(offset) => i128::from(now()) + offset,
            None => wall_ns(),
        };
        inner.last_ns = inner.last_ns.max(present);
        Timestamp {
            seconds: inner.last_ns.div_euclid(1_000_000_000) as i64,
            nanoseconds: inner.last_ns.rem_euclid(1_000_000_000) as u32,
        }
    }
}

fn wall_ns() -> i128 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_times_follow_the_directory_and_never_go_back() {
        let clock = DirectoryClock::default();
        clock.measure(now(), 5_000_000_000_000_000_000);
        let first = clock.time();
        assert!(first.seconds >= 5_000_000_000);
        clock.measure(now(), 4_000_000_000_000_000_000);
        assert!(clock.time() >= first);
    }
}
