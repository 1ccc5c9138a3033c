//! Damaged copies that were replaced, kept aside for whoever wants to know what happened to them.
//!
//! Each is a pair of files in `quarantine/`: `INODE.CHUNK.SECONDS.copy`, the chunk file as it
//! was, and the same with `.why`, one line of text. Both are evidence, not data: nothing is
//! synced, the oldest go first, and a disk that has no room for them keeps none.

use dfs_proto::ids::{ChunkIndex, ChunkKey, InodeId};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Copies that are kept, and the bytes that they may take on disk.
const COPIES_MAX: usize = 64;
const BYTES_MAX: u64 = 256 << 20;

/// A copy that is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    pub key: ChunkKey,
    /// Seconds since 1970.
    pub at: u64,
    /// On disk; 0: its file was missing.
    pub bytes: u64,
    pub why: String,
}

/// The dir of what is kept.
#[derive(Debug)]
pub(super) struct Quarantine {
    dir: PathBuf,
    /// One at a time counts and removes.
    turn: Mutex<()>,
}

impl Quarantine {
    pub(super) fn new(data_dir: &Path) -> Self {
        Self {
            dir: data_dir.join("quarantine"),
            turn: Mutex::new(()),
        }
    }

    /// Takes a damaged chunk file away from its place. Whatever fails is logged: a repair does
    /// not wait for it.
    pub(super) fn take(&self, key: ChunkKey, path: &Path, why: &str) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(e) = self.try_take(key, path, why) {
            log::warn!("{key}: the damaged copy cannot be kept in quarantine: {e}");
        }
        if let Err(e) = self.bound(COPIES_MAX, BYTES_MAX) {
            log::warn!("{}: {e}", self.dir.display());
        }
    }

    fn try_take(&self, key: ChunkKey, path: &Path, why: &str) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut at = now.map_or(0, |now| now.as_secs());
        while self.path(key, at, "why").exists() {
            at += 1;
        }
        fs::write(self.path(key, at, "why"), format!("{why}\n"))?;
        match fs::rename(path, self.path(key, at, "copy")) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn path(&self, key: ChunkKey, at: u64, kind: &str) -> PathBuf {
        let name = format!("{:x}.{:x}.{at}.{kind}", key.inode.0, key.index.0);
        self.dir.join(name)
    }

    /// What is kept, the oldest first.
    pub(super) fn list(&self) -> Vec<Kept> {
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return Vec::new();
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut kept: Vec<Kept> = names
            .filter_map(|name| {
                let (key, at) = parse(name.strip_suffix(".why")?)?;
                let copy = fs::metadata(self.path(key, at, "copy"));
                let why = fs::read_to_string(self.path(key, at, "why")).ok()?;
                Some(Kept {
                    key,
                    at,
                    bytes: copy.map_or(0, |copy| copy.blocks() * 512),
                    why: why.trim_end().to_owned(),
                })
            })
            .collect();
        kept.sort_by_key(|copy| (copy.at, copy.key));
        kept
    }

    /// Gives up all of it: its room is needed.
    pub(super) fn clear(&self) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(e) = self.bound(0, 0) {
            log::warn!("{}: {e}", self.dir.display());
        }
    }

    fn bound(&self, copies_max: usize, bytes_max: u64) -> io::Result<()> {
        let kept = self.list();
        let mut bytes: u64 = kept.iter().map(|copy| copy.bytes).sum();
        let mut copies = kept.len();
        for copy in kept {
            if copies <= copies_max && bytes <= bytes_max {
                return Ok(());
            }
            for kind in ["copy", "why"] {
                match fs::remove_file(self.path(copy.key, copy.at, kind)) {
                    Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
            }
            copies -= 1;
            bytes -= copy.bytes;
        }
        Ok(())
    }
}

/// `INODE.CHUNK.SECONDS`.
fn parse(name: &str) -> Option<(ChunkKey, u64)> {
    let mut parts = name.split('.');
    let inode = u64::from_str_radix(parts.next()?, 16).ok()?;
    let index = u64::from_str_radix(parts.next()?, 16).ok()?;
    let at = parts.next()?.parse().ok()?;
    let key = ChunkKey {
        inode: InodeId(inode),
        index: ChunkIndex(index),
    };
    parts.next().is_none().then_some((key, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(inode: u64) -> ChunkKey {
        ChunkKey {
            inode: InodeId(inode),
            index: ChunkIndex(0x2a),
        }
    }

    #[test]
    fn copies_are_kept_with_their_reason_within_bounds() {
        let dir = tempfile::tempdir().expect("temp dir");
        let quarantine = Quarantine::new(dir.path());
        assert_eq!(quarantine.list(), []);
        let file = dir.path().join("chunk");
        fs::write(&file, [7; 10_000]).expect("writes");
        quarantine.take(key(0x1f), &file, "block 3 differs");
        assert!(!file.exists());
        // The same chunk again in the same second, this time without a file.
        quarantine.take(key(0x1f), &file, "its file is missing");
        let kept = quarantine.list();
        assert_eq!(kept.len(), 2);
        assert_eq!(
            (kept[0].key, kept[0].why.as_str()),
            (key(0x1f), "block 3 differs")
        );
        assert!(kept[0].bytes >= 10_000 && kept[1].bytes == 0);
        assert!(kept[0].at < kept[1].at);
        for inode in 100..200 {
            quarantine.take(key(inode), &file, "gone");
        }
        let kept = quarantine.list();
        assert_eq!(kept.len(), COPIES_MAX);
        assert!(kept.iter().any(|copy| copy.key == key(199)));
        fs::write(dir.path().join("quarantine/what.is.this"), "").expect("writes");
        quarantine.clear();
        assert_eq!(quarantine.list(), []);
    }

    #[test]
    fn the_oldest_go_when_the_bytes_are_too_many() {
        let dir = tempfile::tempdir().expect("temp dir");
        let quarantine = Quarantine::new(dir.path());
        for inode in 0..4 {
            let file = dir.path().join("chunk");
            fs::write(&file, vec![1; 100 << 10]).expect("writes");
            quarantine.take(key(7), &file, &inode.to_string());
        }
        quarantine.bound(10, 250 << 10).expect("bounds");
        let left: Vec<String> = quarantine.list().into_iter().map(|copy| copy.why).collect();
        assert_eq!(left, ["2", "3"]);
    }
}
