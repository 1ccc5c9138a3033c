//! What is stored of sessions.

use crate::state::record::Record;
use serde::{Deserialize, Serialize};

/// The order of the variants is stored: add at the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum StoredPhase {
    Alive,
    Ending,
    Ended,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct SessionRecord {
    pub(super) phase: StoredPhase,
    pub(super) incarnation: u64,
    pub(super) host: String,
    pub(super) pid: u32,
    pub(super) mount_point: String,
}

impl Record for SessionRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "session";
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
