//! Errors as data: what went wrong, whether to try again, whether the request may have been
//! applied, and which errno a program sees.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What the caller may do with the same request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retry {
    /// It would fail again.
    Never,
    /// The same target, after a pause.
    Later,
    /// After learning anew who is responsible (leader, epoch, generation, lease).
    Refreshed,
}

/// Whether a request that failed may have had its effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Applied {
    No,
    /// Repeat it under the same session and sequence to learn the outcome.
    Unknown,
}

macro_rules! codes {
    ($( $(#[$doc:meta])* $name:ident = $number:literal, $retry:ident, $applied:ident, $errno:ident; )*) => {
        /// Every error that crosses the wire. The numbers are part of the protocol:
        /// 1xxx transport, 2xxx sessions and leadership, 3xxx namespace, 4xxx chunks and
        /// replication, 5xxx leases and locks.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u16)]
        pub enum ErrorCode {
            $( $(#[$doc])* $name = $number, )*
        }

        impl ErrorCode {
            /// All codes, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The code of a number, if there is one.
            pub fn from_number(number: u16) -> Option<Self> {
                match number {
                    $( $number => Some(Self::$name), )*
                    _ => None,
                }
            }

            /// What the caller may do with the same request.
            pub fn retry(self) -> Retry {
                match self { $( Self::$name => Retry::$retry, )* }
            }

            /// Whether the request may have had its effect.
            pub fn applied(self) -> Applied {
                match self { $( Self::$name => Applied::$applied, )* }
            }

            /// What a program sees when the error is not resolved by a retry.
            pub fn errno(self) -> i32 {
                match self { $( Self::$name => libc::$errno, )* }
            }
        }
    };
}

codes! {
    /// The connection broke, or could not be made, before an answer came.
    Disconnected = 1001, Refreshed, Unknown, EIO;
    /// No answer within the deadline.
    DeadlineExceeded = 1002, Refreshed, Unknown, ETIMEDOUT;
    /// The other side has too much in flight.
    Overloaded = 1003, Later, No, EAGAIN;
    /// The bytes are no valid message; the connection is closed.
    Malformed = 1004, Never, No, EPROTO;
    /// A method that the other side does not know.
    UnknownMethod = 1005, Never, No, EPROTO;
    /// The handshake was refused: another cluster, version, or a wrong secret.
    HandshakeRefused = 1006, Never, No, EACCES;
    /// The process is shutting down.
    ShuttingDown = 1007, Refreshed, No, EIO;
    /// A defect, noticed and logged where it happened.
    Internal = 1008, Never, Unknown, EIO;
    /// Checksum of a payload differs: damaged on the way.
    PayloadDamaged = 1009, Later, No, EIO;

    /// Not the directory's leader (`detail` is the leader's member id, 0 if unknown).
    NotLeader = 2001, Refreshed, No, EIO;
    /// The session has ended or never was.
    SessionEnded = 2002, Never, No, EIO;
    /// The sequence lies below the session's lowest unanswered one: never executed again.
    SequenceForgotten = 2003, Never, No, EIO;
    /// The directory is waiting for mounts to reclaim after a change of its leader.
    Reclaiming = 2004, Later, No, EAGAIN;
    /// The server's registration is not known (any more): register again.
    NotRegistered = 2005, Refreshed, No, EIO;
    /// The log or the state store failed; the member stops.
    StorageFailed = 2006, Refreshed, Unknown, EIO;
    /// Too few servers have registered to place data.
    NoServers = 2007, Later, No, ENOSPC;
    /// The change is in the log, and this member can't answer for it: it has lost the lead, or
    /// the session has ended.
    AnswerLost = 2008, Refreshed, Unknown, EIO;

    NotFound = 3001, Never, No, ENOENT;
    Exists = 3002, Never, No, EEXIST;
    NotADir = 3003, Never, No, ENOTDIR;
    IsADir = 3004, Never, No, EISDIR;
    NotEmpty = 3005, Never, No, ENOTEMPTY;
    NotPermitted = 3006, Never, No, EPERM;
    AccessDenied = 3007, Never, No, EACCES;
    InvalidArgument = 3008, Never, No, EINVAL;
    NameTooLong = 3009, Never, No, ENAMETOOLONG;
    TooManyLinks = 3010, Never, No, EMLINK;
    FileTooLarge = 3011, Never, No, EFBIG;
    /// The inode is gone: the name that led to it was stale.
    Stale = 3012, Never, No, ESTALE;
    Unsupported = 3013, Never, No, EOPNOTSUPP;
    NoSuchAttribute = 3014, Never, No, ENODATA;
    RangeTooSmall = 3015, Never, No, ERANGE;
    CrossDevice = 3016, Never, No, EXDEV;
    ReadOnly = 3017, Never, No, EROFS;
    TooManySymlinks = 3018, Never, No, ELOOP;
    NotSupportedByType = 3019, Never, No, ENODEV;
    Busy = 3020, Never, No, EBUSY;
    BadHandle = 3021, Never, No, EBADF;
    TooBig = 3022, Never, No, E2BIG;
    /// The inode's extended attributes have reached their limit.
    NoRoomForAttribute = 3023, Never, No, ENOSPC;
    /// There are no data at or behind the offset.
    NoData = 3024, Never, No, ENXIO;

    /// The request's epoch is not this server's (`detail` is the server's own).
    WrongEpoch = 4001, Refreshed, Unknown, EIO;
    /// This server is not the primary, or not in-sync, in the request's epoch.
    WrongRole = 4002, Refreshed, Unknown, EIO;
    /// The group waits: its epoch is not effective yet, or it is below `min_in_sync`.
    GroupUnavailable = 4003, Refreshed, Unknown, EIO;
    /// The request's generation was cut (`detail` is the present one).
    StaleGeneration = 4004, Refreshed, No, EIO;
    /// The session is fenced.
    Fenced = 4005, Never, No, EIO;
    /// A block fails its checksum, or an indexed chunk is missing: another replica has it.
    Rotten = 4006, Refreshed, No, EIO;
    /// The disk answered with an error.
    DiskFailed = 4007, Refreshed, Unknown, EIO;
    /// The servers' reserve is reached.
    NoSpace = 4008, Never, No, ENOSPC;
    /// A forwarded write does not follow the version that this replica holds.
    WrongPredecessor = 4009, Refreshed, No, EIO;
    /// Data named in a sync are on no replica any more.
    WriteLost = 4010, Never, No, EIO;
    /// A write of this session on this chunk came after a later one: never executed again.
    WriteForgotten = 4011, Never, No, EIO;

    /// A lock is held by another owner.
    WouldBlock = 5001, Never, No, EAGAIN;
    /// Waiting would close a circle of waiters.
    Deadlock = 5002, Never, No, EDEADLK;
    /// The caller was interrupted while it waited.
    Interrupted = 5003, Never, No, EINTR;
    /// No room for more waiters or locks.
    NoLocks = 5004, Never, No, ENOLCK;
    /// The grant named in the request is not the present one.
    StaleGrant = 5005, Refreshed, No, EIO;
}

impl Serialize for ErrorCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (*self as u16).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ErrorCode {
    /// A code of a newer peer that this side does not know reads as `Internal`: outcome unknown.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from_number(u16::deserialize(deserializer)?).unwrap_or(Self::Internal))
    }
}

/// An error with its context. The message says which node, which file, what to do.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Error {
    pub code: ErrorCode,
    /// A number that belongs to the code (see its description), else 0.
    pub detail: u64,
    pub message: String,
}

impl Error {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            detail: 0,
            message: message.into(),
        }
    }

    /// An error whose code says it all.
    pub fn bare(code: ErrorCode) -> Self {
        Self::new(code, String::new())
    }

    pub fn with_detail(mut self, detail: u64) -> Self {
        self.detail = detail;
        self
    }

    pub fn retry(&self) -> Retry {
        self.code.retry()
    }

    pub fn applied(&self) -> Applied {
        self.code.applied()
    }

    pub fn errno(&self) -> i32 {
        self.code.errno()
    }
}

impl From<ErrorCode> for Error {
    fn from(code: ErrorCode) -> Self {
        Self::bare(code)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({})", self.code, self.code as u16)?;
        if self.detail != 0 {
            write!(f, " [{}]", self.detail)?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_distinct_and_lead_back() {
        for (at, code) in ErrorCode::ALL.iter().enumerate() {
            assert_eq!(ErrorCode::from_number(*code as u16), Some(*code));
            assert!(
                ErrorCode::ALL[..at]
                    .iter()
                    .all(|c| (*c as u16) < *code as u16)
            );
        }
    }

    #[test]
    fn what_may_be_applied_is_never_final_without_saying_so() {
        // An unknown outcome with no way to learn it must be a defect, nothing else.
        for code in ErrorCode::ALL {
            if code.applied() == Applied::Unknown && code.retry() == Retry::Never {
                assert_eq!(*code, ErrorCode::Internal);
            }
        }
    }

    #[test]
    fn an_unknown_number_reads_as_internal() {
        let bytes = crate::codec::encode(&9999u16).expect("encodes");
        assert_eq!(
            crate::codec::decode::<ErrorCode>(&bytes),
            Ok(ErrorCode::Internal)
        );
    }
}
