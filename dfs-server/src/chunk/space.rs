//! How much the disk has left, and the reserve that no write may take.

use super::error::{Result, StoreError};
use super::request::Space;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The file system is asked again after this time, or when the estimate comes near the reserve.
const REFRESH: Duration = Duration::from_millis(200);

/// "Near": what other users of the disk are unlikely to take within `REFRESH`.
const NEAR: u64 = 256 << 20;

/// The largest reserve that is chosen by default.
const DEFAULT_RESERVE_MAX: u64 = 1 << 30;

/// Total and free bytes of the file system that holds a path.
pub(super) type Probe = fn(&Path) -> std::io::Result<(u64, u64)>;

/// Asks the kernel.
pub(super) fn statvfs(path: &Path) -> std::io::Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(path)?;
    Ok((stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize))
}

#[derive(Debug)]
struct Gauge {
    total: u64,
    free: u64,
    at: Instant,
}

/// The disk's space as writes see it.
#[derive(Debug)]
pub(super) struct SpaceGauge {
    dir: PathBuf,
    reserve: Option<u64>,
    probe: Probe,
    gauge: Mutex<Gauge>,
}

impl SpaceGauge {
    pub(super) fn new(dir: &Path, reserve: Option<u64>, probe: Probe) -> Result<Self> {
        let (total, free) = probe(dir).map_err(|e| StoreError::disk("statvfs", dir, e))?;
        Ok(Self {
            dir: dir.to_owned(),
            reserve,
            probe,
            gauge: Mutex::new(Gauge {
                total,
                free,
                at: Instant::now(),
            }),
        })
    }

    /// Takes space for a write, or refuses.
    pub(super) fn take(&self, bytes: u64) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let mut gauge = self.lock();
        let reserve = self.reserve(&gauge);
        if gauge.at.elapsed() > REFRESH || gauge.free < reserve.saturating_add(bytes + NEAR) {
            self.refresh(&mut gauge)?;
        }
        if gauge.free < reserve.saturating_add(bytes) {
            return Err(StoreError::NoSpace {
                available: gauge.free,
                reserve,
            });
        }
        gauge.free -= bytes;
        Ok(())
    }

    /// What the disk has; `used` is what the store has taken. The chunks are for the store to count.
    pub(super) fn space(&self, used: u64) -> Space {
        let mut gauge = self.lock();
        if gauge.at.elapsed() > REFRESH
            && let Err(e) = self.refresh(&mut gauge)
        {
            log::warn!("{e}; the last known space is reported");
        }
        let reserve = self.reserve(&gauge);
        Space {
            total: gauge.total,
            available: gauge.free.saturating_sub(reserve),
            used,
            reserve,
            chunks: 0,
        }
    }

    fn refresh(&self, gauge: &mut Gauge) -> Result<()> {
        let (total, free) =
            (self.probe)(&self.dir).map_err(|e| StoreError::disk("statvfs", &self.dir, e))?;
        *gauge = Gauge {
            total,
            free,
            at: Instant::now(),
        };
        Ok(())
    }

    fn reserve(&self, gauge: &Gauge) -> u64 {
        self.reserve
            .unwrap_or_else(|| (gauge.total / 20).min(DEFAULT_RESERVE_MAX))
    }

    fn lock(&self) -> MutexGuard<'_, Gauge> {
        self.gauge.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_write_that_crosses_the_reserve_is_refused() {
        let gauge = SpaceGauge::new(Path::new("."), None, |_| Ok((1000, 60))).expect("probes");
        assert_eq!(gauge.space(7).reserve, 50);
        assert_eq!(gauge.space(7).available, 10);
        gauge.take(10).expect("up to the reserve");
        assert!(matches!(
            gauge.take(11),
            Err(StoreError::NoSpace {
                available: 60,
                reserve: 50
            })
        ));
        gauge.take(0).expect("takes nothing");
    }

    #[test]
    fn the_default_reserve_of_a_large_disk_is_one_gibibyte() {
        let gauge = SpaceGauge::new(Path::new("."), None, |_| Ok((1 << 50, 1 << 40))).expect("ok");
        assert_eq!(gauge.space(0).reserve, 1 << 30);
        let set = SpaceGauge::new(Path::new("."), Some(5), |_| Ok((1 << 50, 9))).expect("ok");
        assert_eq!(set.space(0).available, 4);
    }
}
