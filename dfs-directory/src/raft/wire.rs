//! The bytes of what members say to each other about the log.
//!
//! ```text
//! append:    u32 length of the head, head (vote, entry before, commit point),
//!            then each entry: u64 term, u64 leader, u64 index, u32 length, bytes as in the log
//! snapshot:  u32 length of the head, head (vote, what it is, offset, whether it ends), its bytes
//! vote:      encoded as a whole; every answer too: `Result<answer, RaftError>`
//! ```
//!
//! Entries keep the form that they have in the log: a command is decoded by itself, under its own
//! limit, however many there are.

use super::types::{
    Entry, LogId, SnapshotMeta, TypeConfig, decode_payload, encode_payload, log_id, position,
};
use crate::storage::log::Position;
use dfs_proto::codec::{self, CodecError};
use dfs_proto::limits::PAYLOAD_BYTES_MAX;
use dfs_proto::payload::Payload;
use openraft::Vote;
use openraft::raft::{AppendEntriesRequest, InstallSnapshotRequest};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;

/// Bytes of an entry's head.
const ENTRY_HEAD: usize = 28;

/// A message is not what a member sends, or does not fit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Malformed(String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a message between directory members: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

impl From<CodecError> for Malformed {
    fn from(e: CodecError) -> Self {
        Self(e.to_string())
    }
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Payload, Malformed> {
    Ok(Payload::copy_from(&codec::encode(value)?))
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    Ok(codec::decode(bytes)?)
}

/// The answer of a call, or how the other member failed.
pub(super) fn decode_answer<T: DeserializeOwned, E: DeserializeOwned>(
    bytes: &[u8],
) -> Result<Result<T, E>, Malformed> {
    decode(bytes)
}

fn with_head<T: Serialize>(head: &T) -> Result<Vec<u8>, Malformed> {
    let head = codec::encode(head)?;
    let mut bytes = Vec::with_capacity(4 + head.len());
    bytes.extend_from_slice(&length(head.len())?);
    bytes.extend_from_slice(&head);
    Ok(bytes)
}

fn length(n: usize) -> Result<[u8; 4], Malformed> {
    u32::try_from(n)
        .map(u32::to_le_bytes)
        .map_err(|e| Malformed(e.to_string()))
}

/// Takes pieces off a message.
struct Pieces<'a>(&'a [u8]);

impl<'a> Pieces<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (taken, left) = self
            .0
            .split_at_checked(n)
            .ok_or_else(|| Malformed("it ends too early".to_owned()))?;
        self.0 = left;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<usize, Malformed> {
        let bytes = self.take(4)?;
        Ok(bytes.iter().rev().fold(0, |n, b| n << 8 | usize::from(*b)))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        let bytes = self.take(8)?;
        Ok(bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    fn head<T: DeserializeOwned>(&mut self) -> Result<T, Malformed> {
        let length = self.u32()?;
        decode(self.take(length)?)
    }
}

type AppendHead = (Vote<u64>, Option<LogId>, Option<LogId>);

/// The message, and the last entry in it if some had to stay out.
pub(super) fn encode_append(
    request: &AppendEntriesRequest<TypeConfig>,
) -> Result<(Payload, Option<LogId>), Malformed> {
    let head: AppendHead = (request.vote, request.prev_log_id, request.leader_commit);
    let mut bytes = with_head(&head)?;
    let mut last = None;
    for entry in &request.entries {
        let payload = encode_payload(&entry.payload).map_err(|e| Malformed(e.to_string()))?;
        if bytes.len() + ENTRY_HEAD + payload.len() > PAYLOAD_BYTES_MAX {
            if last.is_none() {
                return Err(Malformed(format!(
                    "{} is too large to be sent",
                    entry.log_id
                )));
            }
            return Ok((Payload::copy_from(&bytes), last));
        }
        let at = position(&entry.log_id);
        bytes.extend_from_slice(&at.term.to_le_bytes());
        bytes.extend_from_slice(&at.leader.to_le_bytes());
        bytes.extend_from_slice(&at.index.to_le_bytes());
        bytes.extend_from_slice(&length(payload.len())?);
        bytes.extend_from_slice(&payload);
        last = Some(entry.log_id);
    }
    Ok((Payload::copy_from(&bytes), None))
}

pub(super) fn decode_append(bytes: &[u8]) -> Result<AppendEntriesRequest<TypeConfig>, Malformed> {
    let mut pieces = Pieces(bytes);
    let (vote, prev_log_id, leader_commit): AppendHead = pieces.head()?;
    let mut entries = Vec::new();
    while !pieces.0.is_empty() {
        let (term, leader, index) = (pieces.u64()?, pieces.u64()?, pieces.u64()?);
        let length = pieces.u32()?;
        let payload = decode_payload(pieces.take(length)?).map_err(|e| Malformed(e.to_string()))?;
        entries.push(Entry {
            log_id: log_id(Position {
                index,
                term,
                leader,
            }),
            payload,
        });
    }
    Ok(AppendEntriesRequest {
        vote,
        prev_log_id,
        entries,
        leader_commit,
    })
}

type SnapshotHead = (Vote<u64>, SnapshotMeta, u64, bool);

pub(super) fn encode_snapshot(
    request: &InstallSnapshotRequest<TypeConfig>,
) -> Result<Payload, Malformed> {
    let head: SnapshotHead = (
        request.vote,
        request.meta.clone(),
        request.offset,
        request.done,
    );
    let mut bytes = with_head(&head)?;
    bytes.extend_from_slice(&request.data);
    if bytes.len() > PAYLOAD_BYTES_MAX {
        return Err(Malformed("a piece of a snapshot is too large".to_owned()));
    }
    Ok(Payload::copy_from(&bytes))
}

pub(super) fn decode_snapshot(
    bytes: &[u8],
) -> Result<InstallSnapshotRequest<TypeConfig>, Malformed> {
    let mut pieces = Pieces(bytes);
    let (vote, meta, offset, done): SnapshotHead = pieces.head()?;
    Ok(InstallSnapshotRequest {
        vote,
        meta,
        offset,
        data: pieces.0.to_vec(),
        done,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{Batch, Proposal};
    use crate::session::SessionCommand;
    use crate::state::{Change, Command};
    use dfs_proto::attr::Timestamp;
    use dfs_proto::ids::SessionId;
    use openraft::EntryPayload;
    use proptest::prelude::*;

    fn entry(index: u64, commands: u64) -> Entry {
        let proposals = (0..commands).map(|n| {
            let command = Command {
                now: Timestamp::default(),
                change: Change::Session(SessionCommand::BeginEnd {
                    session: SessionId(n),
                }),
            };
            Proposal::new(command).expect("it is small")
        });
        let at = Position {
            index,
            term: 3,
            leader: 2,
        };
        Entry {
            log_id: log_id(at),
            payload: EntryPayload::Normal(Batch(proposals.collect())),
        }
    }

    fn append(entries: Vec<Entry>) -> AppendEntriesRequest<TypeConfig> {
        AppendEntriesRequest {
            vote: Vote::new_committed(3, 2),
            prev_log_id: Some(entry(6, 0).log_id),
            entries,
            leader_commit: None,
        }
    }

    #[test]
    fn what_was_sent_arrives_and_less_is_refused() {
        let request = append(vec![entry(7, 3), entry(8, 1)]);
        let (bytes, left_out) = encode_append(&request).expect("encodes");
        assert_eq!(left_out, None);
        let arrived = decode_append(&bytes).expect("decodes");
        assert_eq!(format!("{arrived:?}"), format!("{request:?}"));
        let one = append(vec![entry(7, 3)]);
        let (first, _) = encode_append(&one).expect("encodes");
        // Ends at which a message is whole: before and after each entry.
        let (head, _) = encode_append(&append(Vec::new())).expect("encodes");
        let whole = [head.len(), first.len(), bytes.len()];
        for end in 0..bytes.len() {
            assert_eq!(decode_append(&bytes[..end]).is_ok(), whole.contains(&end));
        }
    }

    #[test]
    fn what_does_not_fit_is_left_for_the_next_message() {
        let entries: Vec<Entry> = (1..40).map(|index| entry(index, 20_000)).collect();
        let request = append(entries);
        let (bytes, last) = encode_append(&request).expect("encodes");
        assert!(bytes.len() <= PAYLOAD_BYTES_MAX);
        let arrived = decode_append(&bytes).expect("decodes");
        assert!(arrived.entries.len() < request.entries.len());
        assert_eq!(arrived.entries.last().map(|e| e.log_id), last);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode_append(&bytes);
            let _ = decode_snapshot(&bytes);
        }
    }
}
