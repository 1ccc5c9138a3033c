//! A member whose disk is full.
//!
//! It can log nothing, so it must not take part: it could acknowledge what it does not keep. It stops
//! like one whose disk failed, says so, and begins anew in the same process as soon as there is
//! space again. The others go on meanwhile if they are a majority.

use rustix::io::Errno;
use std::fmt::Display;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Enough to begin anew: a segment of the log and a flush of the tables.
const ENOUGH_BYTES: u64 = 32 << 20;

const LOOK: Duration = Duration::from_secs(1);

/// With less than this free, a write that failed did so for want of space, whatever it says.
const LITTLE_BYTES: u64 = 1 << 20;

/// Whether a member with its data in `dir` ended so because its disk is full.
pub fn is_cause(error: &impl Display, dir: &Path) -> bool {
    let full = io::Error::from_raw_os_error(Errno::NOSPC.raw_os_error());
    let little = free_bytes(dir).is_some_and(|free| free < LITTLE_BYTES);
    little || error.to_string().contains(&full.to_string())
}

/// Waits until the disk of `dir` has space.
pub async fn wait_for_space(dir: &Path) {
    log::error!(
        "the disk of {} is full: this member takes no part until {} MiB are free there; the other \
         members go on if they are a majority",
        dir.display(),
        ENOUGH_BYTES >> 20
    );
    while free_bytes(dir).is_some_and(|free| free < ENOUGH_BYTES) {
        tokio::time::sleep(LOOK).await;
    }
    log::warn!("{} has space again: this member begins anew", dir.display());
}

fn free_bytes(dir: &Path) -> Option<u64> {
    let space = rustix::fs::statvfs(dir).ok()?;
    Some(space.f_bavail.saturating_mul(space.f_frsize))
}

/// Begins anew: nothing of the stopped member is left in memory. Returns only if that fails.
pub fn begin_anew() -> io::Error {
    match std::env::current_exe() {
        Ok(program) => Command::new(program)
            .args(std::env::args_os().skip(1))
            .exec(),
        Err(e) => e,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_full_disk_is_waited_for() {
        let dir = std::env::temp_dir();
        let full = io::Error::from_raw_os_error(28);
        let why = format!("the member has failed: write log: {full}");
        assert!(is_cause(&why, &dir));
        let broken = io::Error::from_raw_os_error(5);
        let why = format!("the member has failed: {broken}");
        assert!(!is_cause(&why, &dir));
    }

    #[test]
    fn there_is_space_where_there_is_space() {
        let dir = std::env::temp_dir();
        assert!(free_bytes(&dir).is_some_and(|free| free > 0));
        assert_eq!(free_bytes(Path::new("/does/not/exist")), None);
    }
}
