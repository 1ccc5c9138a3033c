//! The frame: a fixed header, encoded by hand, that says how long the rest is.
//!
//! Pure functions on slices; reading and writing sockets is `transport`'s part. A header that
//! does not decode ends its connection: there is no way to find the next one.

use crate::limits::{BODY_BYTES_MAX, PAYLOAD_BYTES_MAX};
use std::fmt;

/// Bytes of every header.
pub const HEADER_BYTES: usize = 36;

/// What every frame begins with.
pub const MAGIC: [u8; 4] = *b"DFS\x01";

/// Versions of the protocol that this release speaks.
pub const VERSION_MIN: u16 = 1;
pub const VERSION_MAX: u16 = 1;

/// The header's version before one is agreed on: in the frames of the handshake.
pub const VERSION_HANDSHAKE: u16 = 0;

/// Largest body of a handshake frame or a goodbye, in bytes: what a stranger may make us hold.
pub const SHORT_BODY_BYTES_MAX: usize = 512;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A request; its caller gives up after some time.
    Request = 1,
    /// A request that may wait for as long as the connection lives: it has its own limit.
    UndatedRequest = 2,
    /// The answer to the request with the same id in the other direction.
    Reply = 3,
    /// The caller of this request of the sender's does not wait any more. It is answered all
    /// the same, because the answer is what frees its place.
    Cancel = 4,
    /// The sender has nothing more to say; the body is the reason as text.
    Goodbye = 5,
    /// First frame of the side that connects.
    Hello = 16,
    /// The accepting side's hello.
    Challenge = 17,
    /// The connecting side's proof that it knows the secret.
    Proof = 18,
    /// The accepting side's proof, and with it the end of the handshake.
    Welcome = 19,
    /// The handshake is refused: a number and a text say why.
    Refusal = 20,
}

impl Kind {
    fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Request,
            2 => Self::UndatedRequest,
            3 => Self::Reply,
            4 => Self::Cancel,
            5 => Self::Goodbye,
            16 => Self::Hello,
            17 => Self::Challenge,
            18 => Self::Proof,
            19 => Self::Welcome,
            20 => Self::Refusal,
            _ => return None,
        })
    }

    /// Whether frames of this kind come before a version is agreed on.
    pub fn is_handshake(self) -> bool {
        self as u8 >= Self::Hello as u8
    }

    fn body_bytes_max(self) -> usize {
        match self {
            Self::Request | Self::UndatedRequest | Self::Reply => BODY_BYTES_MAX,
            Self::Cancel => 0,
            _ => SHORT_BODY_BYTES_MAX,
        }
    }

    fn payload_bytes_max(self) -> usize {
        match self {
            // What waits for an unknown time must not hold memory meanwhile.
            Self::Request | Self::Reply => PAYLOAD_BYTES_MAX,
            _ => 0,
        }
    }

    fn has_id(self) -> bool {
        matches!(
            self,
            Self::Request | Self::UndatedRequest | Self::Reply | Self::Cancel
        )
    }
}

/// A header, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub version: u16,
    pub kind: Kind,
    /// Method number of a request; a reply repeats it.
    pub method: u16,
    /// Number of the request within its direction; 0 where there is none.
    pub id: u64,
    /// Bytes of the body.
    pub body_len: u32,
    /// Bytes of the payload.
    pub payload_len: u32,
    /// crc32c of the body.
    pub body_crc: u32,
}

/// Why bytes are no frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameError {
    Magic,
    HeaderChecksum,
    Version(u16),
    Kind(u8),
    /// A field that must be zero is not, or the id of a request is.
    Field,
    BodyTooLong(u32),
    PayloadTooLong(u32),
    BodyChecksum,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => f.write_str("these are no dfs frames"),
            Self::HeaderChecksum => f.write_str("a frame header fails its checksum"),
            Self::Version(version) => write!(f, "a frame of version {version}"),
            Self::Kind(kind) => write!(f, "a frame of unknown kind {kind}"),
            Self::Field => f.write_str("a frame header with a forbidden value"),
            Self::BodyTooLong(len) => write!(f, "a frame body of {len} bytes is over the limit"),
            Self::PayloadTooLong(len) => write!(f, "a payload of {len} bytes is over the limit"),
            Self::BodyChecksum => f.write_str("a frame body fails its checksum"),
        }
    }
}

impl std::error::Error for FrameError {}

impl Header {
    /// The header for a body and a payload of that many bytes. The lengths are within the
    /// limits of the kind: who builds a frame has checked that.
    pub fn new(
        kind: Kind,
        version: u16,
        method: u16,
        id: u64,
        body: &[u8],
        payload: usize,
    ) -> Self {
        debug_assert!(body.len() <= kind.body_bytes_max() && payload <= kind.payload_bytes_max());
        Self {
            version,
            kind,
            method,
            id,
            body_len: body.len() as u32,
            payload_len: payload as u32,
            body_crc: crc32c::crc32c(body),
        }
    }

    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&self.version.to_le_bytes());
        bytes[6] = self.kind as u8;
        bytes[8..10].copy_from_slice(&self.method.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.id.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.body_len.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.payload_len.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..32]);
        bytes[32..36].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Decodes a header of a connection that speaks `version`. What passes has lengths within
    /// the limits of its kind.
    pub fn decode(bytes: &[u8; HEADER_BYTES], version: u16) -> Result<Self, FrameError> {
        let (fields, _) = bytes.as_chunks::<4>();
        let word = |at: usize| u32::from_le_bytes(fields[at]);
        if bytes[0..4] != MAGIC {
            return Err(FrameError::Magic);
        }
        if word(8) != crc32c::crc32c(&bytes[..32]) {
            return Err(FrameError::HeaderChecksum);
        }
        let found = u16::from_le_bytes([bytes[4], bytes[5]]);
        if found != version {
            return Err(FrameError::Version(found));
        }
        let kind = Kind::from_number(bytes[6])
            .filter(|kind| kind.is_handshake() == (version == VERSION_HANDSHAKE))
            .ok_or(FrameError::Kind(bytes[6]))?;
        let header = Self {
            version,
            kind,
            method: u16::from_le_bytes([bytes[8], bytes[9]]),
            id: u64::from(word(3)) | u64::from(word(4)) << 32,
            body_len: word(5),
            payload_len: word(6),
            body_crc: word(7),
        };
        if bytes[7] != 0 || bytes[10..12] != [0, 0] || kind.has_id() != (header.id != 0) {
            return Err(FrameError::Field);
        }
        if header.body_len as usize > kind.body_bytes_max() {
            return Err(FrameError::BodyTooLong(header.body_len));
        }
        if header.payload_len as usize > kind.payload_bytes_max() {
            return Err(FrameError::PayloadTooLong(header.payload_len));
        }
        Ok(header)
    }

    /// Checks the body that came with this header.
    pub fn check_body(&self, body: &[u8]) -> Result<(), FrameError> {
        if body.len() != self.body_len as usize || crc32c::crc32c(body) != self.body_crc {
            return Err(FrameError::BodyChecksum);
        }
        Ok(())
    }
}
