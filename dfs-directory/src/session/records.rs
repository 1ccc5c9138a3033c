//! What is stored of sessions.

use crate::state::record::{Record, decode_record, store_record};
use crate::state::tables::{Read, Table, TableError, Write};
use serde::{Deserialize, Serialize};

/// The order of the variants is stored: add at the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum StoredPhase {
    Alive,
    Ending,
    Ended,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SessionRecord {
    pub(super) phase: StoredPhase,
    pub(super) incarnation: u64,
    pub(super) host: String,
    pub(super) pid: u32,
    pub(super) mount_point: String,
    /// Seconds since 1970; only from the feature level `SESSION_TIMES` on.
    pub(super) began: Option<i64>,
}

/// A session without its beginning: what is stored below `SESSION_TIMES`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct SessionRecordV1 {
    phase: StoredPhase,
    incarnation: u64,
    host: String,
    pid: u32,
    mount_point: String,
}

impl Record for SessionRecordV1 {
    const VERSION: u8 = 1;
    const NAME: &'static str = "session";
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct SessionRecordV2 {
    known: SessionRecordV1,
    began: i64,
}

impl Record for SessionRecordV2 {
    const VERSION: u8 = 2;
    const NAME: &'static str = "session";
}

impl SessionRecord {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, TableError> {
        let (known, began) = match bytes.first() {
            Some(&SessionRecordV1::VERSION) => (decode_record::<SessionRecordV1>(bytes)?, None),
            _ => {
                let SessionRecordV2 { known, began } = decode_record(bytes)?;
                (known, Some(began))
            }
        };
        Ok(Self {
            phase: known.phase,
            incarnation: known.incarnation,
            host: known.host,
            pid: known.pid,
            mount_point: known.mount_point,
            began,
        })
    }

    pub(super) fn load(
        tables: &(impl Read + ?Sized),
        key: &[u8],
    ) -> Result<Option<Self>, TableError> {
        let bytes = tables.get(Table::Sessions, key)?;
        bytes.map(|bytes| Self::decode(&bytes)).transpose()
    }

    /// A record with a beginning is of the second version: which members know it is decided
    /// where the beginning is noted.
    pub(super) fn store(self, tables: &mut dyn Write, key: &[u8]) -> Result<(), TableError> {
        let known = SessionRecordV1 {
            phase: self.phase,
            incarnation: self.incarnation,
            host: self.host,
            pid: self.pid,
            mount_point: self.mount_point,
        };
        match self.began {
            None => store_record(tables, Table::Sessions, key, &known),
            Some(began) => {
                let record = SessionRecordV2 { known, began };
                store_record(tables, Table::Sessions, key, &record)
            }
        }
    }
}

/// A counter or a mark that is one number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct NumberRecord {
    pub(super) number: u64,
}

impl Record for NumberRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "number";
}

/// A remembered answer: what was done, or the number of the refusal's code.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct AnswerRecord {
    /// An encoded record of the command's own type, with its version.
    pub(super) answer: Result<Vec<u8>, u16>,
}

impl Record for AnswerRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "answer";
}
