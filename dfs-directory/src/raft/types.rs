//! What openraft is told about our entries, outcomes, members and snapshots; and the bytes of an
//! entry in the log.
//!
//! ```text
//! 0  u8   0: blank, 1: batch of commands, 2: membership; others are of a newer program
//! batch:      u32 number of commands, each: u32 length, u8 version of the encoding, its encoding
//! membership: its encoding
//! ```

use super::snapshot_data::SnapshotData;
use crate::state::{Command, Outcome};
use crate::storage::log::Position;
use dfs_proto::codec::{self, CodecError};
use openraft::{BasicNode, CommittedLeaderId, EntryPayload, Membership};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::sync::Arc;

openraft::declare_raft_types!(
    /// The types of this group of members.
    pub(super) TypeConfig:
        D = Batch,
        R = Outcomes,
        NodeId = u64,
        Node = BasicNode,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = SnapshotData,
);

pub(super) type Raft = openraft::Raft<TypeConfig>;
pub(super) type LogId = openraft::LogId<u64>;
pub(super) type Entry = openraft::Entry<TypeConfig>;
pub(super) type StorageError = openraft::StorageError<u64>;
pub(super) type StoredMembership = openraft::StoredMembership<u64, BasicNode>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<u64, BasicNode>;

/// A command, with the bytes that go to the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Proposal {
    pub(super) command: Command,
    encoded: Vec<u8>,
}

impl Proposal {
    pub(super) fn new(command: Command) -> Result<Self, CodecError> {
        let body = codec::encode(&command)?;
        let mut encoded = Vec::with_capacity(1 + body.len());
        encoded.push(COMMAND_VERSION);
        encoded.extend_from_slice(&body);
        Ok(Self { command, encoded })
    }

    fn decode(encoded: &[u8]) -> Result<Self, BadPayload> {
        match encoded.split_first() {
            Some((&COMMAND_VERSION, body)) => Ok(Self {
                command: codec::decode(body)?,
                encoded: encoded.to_vec(),
            }),
            Some((version, _)) => Err(BadPayload(format!(
                "a command of version {version}, this program knows version {COMMAND_VERSION}"
            ))),
            None => Err(BadPayload("a command without a version".to_owned())),
        }
    }

    /// Bytes in the log.
    pub(super) fn bytes(&self) -> usize {
        self.encoded.len()
    }
}

/// What one log entry changes: commands, applied in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Batch(pub(super) Arc<[Proposal]>);

impl Batch {
    /// Bytes of memory behind it: estimated, since what the commands point to is not counted but
    /// taken to be as much as its encoding.
    pub(super) fn memory(&self) -> usize {
        let each = |p: &Proposal| size_of::<Proposal>() + 2 * p.encoded.capacity();
        self.0.iter().map(each).sum()
    }
}

impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|proposal| &proposal.command))
    }
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::<Command>::deserialize(deserializer)?
            .into_iter()
            .map(|command| Proposal::new(command).map_err(de::Error::custom))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// The outcomes of a batch, in its order; none for an entry without commands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Outcomes(pub(super) Vec<Outcome>);

/// How commands are encoded. A new one is written from a new feature level on (`state::level`).
const COMMAND_VERSION: u8 = 1;

const BLANK: u8 = 0;
const BATCH: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// An entry's bytes are not what this program writes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct BadPayload(String);

impl fmt::Display for BadPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadPayload {}

impl From<CodecError> for BadPayload {
    fn from(e: CodecError) -> Self {
        Self(e.to_string())
    }
}

pub(super) fn encode_payload(payload: &EntryPayload<TypeConfig>) -> Result<Vec<u8>, BadPayload> {
    let length = |n: usize| u32::try_from(n).map_err(|e| BadPayload(e.to_string()));
    Ok(match payload {
        EntryPayload::Blank => vec![BLANK],
        EntryPayload::Normal(Batch(proposals)) => {
            let size: usize = proposals.iter().map(|p| 4 + p.encoded.len()).sum();
            let mut bytes = Vec::with_capacity(5 + size);
            bytes.push(BATCH);
            bytes.extend_from_slice(&length(proposals.len())?.to_le_bytes());
            for proposal in proposals.iter() {
                bytes.extend_from_slice(&length(proposal.encoded.len())?.to_le_bytes());
                bytes.extend_from_slice(&proposal.encoded);
            }
            bytes
        }
        EntryPayload::Membership(membership) => {
            let mut bytes = vec![MEMBERSHIP];
            bytes.extend_from_slice(&codec::encode(membership)?);
            bytes
        }
    })
}

pub(super) fn decode_payload(bytes: &[u8]) -> Result<EntryPayload<TypeConfig>, BadPayload> {
    let short = || BadPayload("the entry's bytes end too early".to_owned());
    let (&kind, mut rest) = bytes.split_first().ok_or_else(short)?;
    let mut take = |n: usize| {
        let (taken, left) = rest.split_at_checked(n).ok_or_else(short)?;
        rest = left;
        Ok::<&[u8], BadPayload>(taken)
    };
    let number = |bytes: &[u8]| {
        bytes
            .try_into()
            .map(u32::from_le_bytes)
            .map(|n| n as usize)
            .map_err(|_| short())
    };
    match kind {
        BLANK if bytes.len() == 1 => Ok(EntryPayload::Blank),
        BATCH => {
            let count = number(take(4)?)?;
            let mut proposals = Vec::new();
            for _ in 0..count {
                let length = number(take(4)?)?;
                proposals.push(Proposal::decode(take(length)?)?);
            }
            if !rest.is_empty() {
                return Err(BadPayload("bytes left over behind the commands".to_owned()));
            }
            Ok(EntryPayload::Normal(Batch(proposals.into())))
        }
        MEMBERSHIP => {
            let membership: Membership<u64, BasicNode> = codec::decode(rest)?;
            Ok(EntryPayload::Membership(membership))
        }
        other => Err(BadPayload(format!(
            "an entry of kind {other}, which this program does not know"
        ))),
    }
}

pub(super) fn log_id(position: Position) -> LogId {
    LogId::new(
        CommittedLeaderId::new(position.term, position.leader),
        position.index,
    )
}

pub(super) fn position(log_id: &LogId) -> Position {
    Position {
        index: log_id.index,
        term: log_id.leader_id.term,
        leader: log_id.leader_id.node_id,
    }
}
