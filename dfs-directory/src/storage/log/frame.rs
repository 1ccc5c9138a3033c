//! Frames: one append, one frame, one checksum. Byte level, no I/O.
//!
//! Integers are little endian; a frame starts at a multiple of 8.
//!
//! ```text
//!  0  u32  bytes of the body, never 0
//!  4  u32  crc32c of: the segment's salt (8 bytes), bytes 0..4, bytes 8.. to the body's end
//!  8  u64  index of the first entry
//! 16  u32  number of entries, never 0
//! 20  u32  0
//! 24  u64  1 + index of the last entry known to be committed when this was written; 0: none
//! 32  body: the entries, each
//!       u32  bytes of the payload
//!       u32  0
//!       u64  term
//!       u64  member that led that term
//!       payload
//! ```
//!
//! An append is one frame, because a crash may leave any part of the last write on the disk:
//! a checksum for each entry could not tell an entry that was acknowledged and rotted from one
//! whose append never ended. So a bad frame that a good one follows is rot; a bad frame at the
//! end is an append that did not end.
//!
//! The salt is random for each segment file: what an earlier use of the same file left behind,
//! or what somebody wrote into a name, never passes for a frame of this one.

use super::{Entry, Position};

/// Bytes in front of the body.
pub(super) const HEADER: usize = 32;
/// Bytes in front of an entry's payload.
const ENTRY_HEADER: usize = 24;
const ALIGN: usize = 8;

/// One entry inside a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) position: Position,
    /// Offset and length of the payload within the frame.
    pub(super) offset: u32,
    pub(super) length: u32,
}

/// A frame whose checksum holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Frame {
    pub(super) entries: Vec<Place>,
    pub(super) committed: Option<u64>,
    /// Bytes on disk, padding included.
    pub(super) span: usize,
}

fn checksum(salt: u64, frame: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&salt.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &frame[..4]);
    crc32c::crc32c_append(crc, &frame[8..])
}

/// Bytes that a frame of these payload lengths takes on disk.
pub(super) fn span(payloads: impl Iterator<Item = usize>) -> usize {
    let body: usize = payloads.map(|length| ENTRY_HEADER + length).sum();
    (HEADER + body).next_multiple_of(ALIGN)
}

/// Encodes an append of at least one entry. `None` if it is too large for its fields.
pub(super) fn encode(salt: u64, entries: &[Entry<'_>], committed: Option<u64>) -> Option<Vec<u8>> {
    let first = entries.first()?.position.index;
    let mut bytes = Vec::with_capacity(span(entries.iter().map(|e| e.payload.len())));
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&first.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(entries.len()).ok()?.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&committed.map_or(0, |index| index + 1).to_le_bytes());
    for entry in entries {
        bytes.extend_from_slice(&u32::try_from(entry.payload.len()).ok()?.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&entry.position.term.to_le_bytes());
        bytes.extend_from_slice(&entry.position.leader.to_le_bytes());
        bytes.extend_from_slice(entry.payload);
    }
    let body = u32::try_from(bytes.len() - HEADER).ok()?;
    bytes[..4].copy_from_slice(&body.to_le_bytes());
    let crc = checksum(salt, &bytes);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
    Some(bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(field.try_into().ok()?))
}

/// The index that the bytes name as their first entry, if they could be a frame at all: a cheap
/// check before the checksum.
pub(super) fn claimed_index(bytes: &[u8]) -> Option<u64> {
    let body = u32_at(bytes, 0)? as usize;
    let plausible = body >= ENTRY_HEADER
        && u32_at(bytes, 16)? > 0
        && u32_at(bytes, 20)? == 0
        && bytes.len() - HEADER >= body;
    plausible.then(|| u64_at(bytes, 8)).flatten()
}

/// Decodes the frame at the start of `bytes`, if it is one.
pub(super) fn decode(salt: u64, bytes: &[u8]) -> Option<Frame> {
    if bytes.len() < HEADER {
        return None;
    }
    let first = claimed_index(bytes)?;
    let end = HEADER + u32_at(bytes, 0)? as usize;
    let frame = bytes.get(..end)?;
    if u32_at(frame, 4)? != checksum(salt, frame) {
        return None;
    }
    let count = u32_at(frame, 16)?;
    let mut entries = Vec::new();
    let mut at = HEADER;
    for nth in 0..u64::from(count) {
        let length = u32_at(frame, at)?;
        let position = Position {
            index: first.checked_add(nth)?,
            term: u64_at(frame, at + 8)?,
            leader: u64_at(frame, at + 16)?,
        };
        let offset = at + ENTRY_HEADER;
        at = offset.checked_add(length as usize)?;
        if at > end {
            return None;
        }
        entries.push(Place {
            position,
            offset: offset as u32,
            length,
        });
    }
    (at == end).then_some(Frame {
        entries,
        committed: u64_at(frame, 24)?.checked_sub(1),
        span: end.next_multiple_of(ALIGN),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(payloads: &[Vec<u8>]) -> Vec<u8> {
        let entries: Vec<_> = payloads
            .iter()
            .zip(7..)
            .map(|(payload, index)| Entry {
                position: Position {
                    index,
                    term: 3,
                    leader: 1,
                },
                payload,
            })
            .collect();
        encode(99, &entries, Some(5)).expect("encodes")
    }

    #[test]
    fn golden_bytes() {
        let bytes = frame(&[b"ab".to_vec()]);
        let mut expected = vec![26, 0, 0, 0];
        let crc = checksum(99, &bytes[..58]);
        expected.extend_from_slice(&crc.to_le_bytes());
        expected.extend_from_slice(&[7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[6, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, b'a', b'b', 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes, expected);
        assert_eq!(crc, 193_437_771);
    }

    #[test]
    fn another_segments_frame_is_none_of_ours() {
        let bytes = frame(&[vec![1, 2, 3]]);
        assert!(decode(99, &bytes).is_some());
        assert_eq!(decode(98, &bytes), None);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            payloads in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 0..50), 1..5),
        ) {
            let bytes = frame(&payloads);
            let found = decode(99, &bytes).expect("a frame");
            prop_assert_eq!(found.span, bytes.len());
            prop_assert_eq!(found.span, span(payloads.iter().map(Vec::len)));
            prop_assert_eq!(found.committed, Some(5));
            for (place, payload) in found.entries.iter().zip(&payloads) {
                let end = (place.offset + place.length) as usize;
                prop_assert_eq!(&bytes[place.offset as usize..end], &payload[..]);
            }
            prop_assert_eq!(found.entries.len(), payloads.len());
        }

        #[test]
        fn a_changed_byte_is_noticed(
            payload in proptest::collection::vec(any::<u8>(), 0..50),
            at in any::<proptest::sample::Index>(),
            flip in 1..=255u8,
        ) {
            let mut bytes = frame(std::slice::from_ref(&payload));
            let at = at.index(HEADER + ENTRY_HEADER + payload.len());
            bytes[at] ^= flip;
            prop_assert_eq!(decode(99, &bytes), None);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode(99, &bytes);
            let _ = claimed_index(&bytes);
        }
    }
}
