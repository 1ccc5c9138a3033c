//! The few values beside the log: the vote, the purge point, the safe end.
//!
//! `DIR/raft/pointers`, replaced as a whole (scratch file, flush, rename, flush of the dir), so
//! that it is never torn: a file that can't be read was damaged, and a member that forgot its
//! vote could give two. Such a member does not start.
//!
//! ```text
//!  0  8 bytes  "DFSRPTR1"
//!  8  u32      1 if there is a vote          12  u32  1 if that vote was won (committed)
//! 16  u64      its term                      24  u64  its member
//! 32  u32      1 if something was purged     36  u32  0
//! 40  u64      index                         48  u64  term        56  u64  leader
//!              of the last purged entry
//! 64  u64      1 + index that the log reaches at least, 0: none
//! 72  u32      0                             76  u32  crc32c of bytes 0..76
//! ```

use super::{LogError, Position, Vote};
use crate::storage::durable;
use std::io::ErrorKind;
use std::path::Path;

const MAGIC: &[u8; 8] = b"DFSRPTR1";
const BYTES: usize = 80;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Pointers {
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<Position>,
    /// The log reached at least this index when the pointers were written, durably: a log that
    /// ends before it has lost entries.
    pub(super) reached: Option<u64>,
}

impl Pointers {
    fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, MAGIC);
        if let Some(vote) = self.vote {
            put(8, &1u32.to_le_bytes());
            put(12, &u32::from(vote.committed).to_le_bytes());
            put(16, &vote.term.to_le_bytes());
            put(24, &vote.member.to_le_bytes());
        }
        if let Some(purged) = self.purged {
            put(32, &1u32.to_le_bytes());
            put(40, &purged.index.to_le_bytes());
            put(48, &purged.term.to_le_bytes());
            put(56, &purged.leader.to_le_bytes());
        }
        put(64, &self.reached.map_or(0, |index| index + 1).to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..76]);
        bytes[76..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != BYTES || &bytes[..8] != MAGIC {
            return None;
        }
        let u32_at = |at: usize| Some(u32::from_le_bytes(bytes[at..at + 4].try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(bytes[at..at + 8].try_into().ok()?));
        if u32_at(76)? != crc32c::crc32c(&bytes[..76]) {
            return None;
        }
        let vote = Vote {
            term: u64_at(16)?,
            member: u64_at(24)?,
            committed: u32_at(12)? == 1,
        };
        let purged = Position {
            index: u64_at(40)?,
            term: u64_at(48)?,
            leader: u64_at(56)?,
        };
        Some(Self {
            vote: (u32_at(8)? == 1).then_some(vote),
            purged: (u32_at(32)? == 1).then_some(purged),
            reached: u64_at(64)?.checked_sub(1),
        })
    }

    /// `None` if there is no such file.
    pub(super) fn load(path: &Path) -> Result<Option<Self>, LogError> {
        match std::fs::read(path) {
            Ok(bytes) => match Self::decode(&bytes) {
                Some(pointers) => Ok(Some(pointers)),
                None => Err(LogError::Damaged(
                    path.to_owned(),
                    "its checksum does not hold: the member's vote is not known".to_owned(),
                )),
            },
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(LogError::Io(path.to_owned(), e)),
        }
    }

    pub(super) fn save(&self, path: &Path) -> Result<(), LogError> {
        durable::replace(path, &self.encode()).map_err(|e| LogError::Io(path.to_owned(), e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Pointers {
        Pointers {
            vote: Some(Vote {
                term: 4,
                member: 2,
                committed: true,
            }),
            purged: Some(Position {
                index: 9,
                term: 3,
                leader: 1,
            }),
            reached: Some(0),
        }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().expect("a scratch dir");
        let path = dir.path().join("pointers");
        assert_eq!(Pointers::load(&path).expect("nothing there"), None);
        for pointers in [Pointers::default(), sample()] {
            pointers.save(&path).expect("saves");
            assert_eq!(Pointers::load(&path).expect("loads"), Some(pointers));
        }
    }

    #[test]
    fn every_damaged_byte_and_every_cut_is_refused() {
        let whole = sample().encode();
        for at in 0..BYTES {
            let mut bytes = whole;
            bytes[at] ^= 0x10;
            assert_eq!(Pointers::decode(&bytes), None, "byte {at}");
            assert_eq!(Pointers::decode(&whole[..at]), None, "cut at {at}");
        }
    }
}
