//! The handshake's messages and rules, without the socket: who a process says it is, and how it
//! proves that it knows the cluster's secret.
//!
//! ```text
//! connecting                          accepting
//!     | -- Hello (who I am, nonce) ------> |  checks version and cluster
//!     | <- Challenge (who I am, nonce) --- |
//!     | -- Proof ------------------------> |  checks the proof
//!     | <- Welcome (proof) --------------- |
//! ```
//!
//! A proof is the HMAC-SHA256, keyed with the secret, of a label for the direction and of both
//! hellos as they were on the wire; the nonces in them make it worthless for any other
//! connection. The secret itself is never sent. It proves who is there; it does not encrypt.

use crate::frame::{VERSION_MAX, VERSION_MIN};
use crate::ids::{ClusterId, Incarnation, NodeId};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;

/// Bytes of a hello as this release writes it. A later one may append fields, which are covered
/// by the proofs and otherwise ignored here.
pub const HELLO_BYTES: usize = 80;

/// Bytes of a proof.
pub const PROOF_BYTES: usize = 32;

/// Shortest secret, in bytes: a shorter one could be guessed from a recorded handshake.
pub const SECRET_BYTES_MIN: usize = 16;

const KNOWS_CLUSTER: u8 = 1;
const HAS_SECRET: u8 = 2;

/// What a process is in the cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Role {
    Mount = 1,
    FileServer = 2,
    Directory = 3,
    Admin = 4,
}

impl Role {
    fn from_number(number: u8) -> Option<Self> {
        [Self::Mount, Self::FileServer, Self::Directory, Self::Admin]
            .into_iter()
            .find(|role| *role as u8 == number)
    }
}

/// The secret that every process of a cluster knows. Never shown, never sent.
#[derive(Clone)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// Takes the bytes, without white space around them; `None` if they are fewer than
    /// `SECRET_BYTES_MIN`.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.trim_ascii();
        (bytes.len() >= SECRET_BYTES_MIN).then(|| Self(bytes.into()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Who this process is, to be told to others.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `None` while it is not known yet: a connecting process learns it from `Hello`.
    pub cluster: Option<ClusterId>,
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub role: Role,
    pub secret: Option<Secret>,
}

/// Who the other side says it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Versions spoken; in a challenge both are the one chosen.
    pub version_min: u16,
    pub version_max: u16,
    pub role: Role,
    /// Has a secret, proves it, and demands the proof.
    pub has_secret: bool,
    pub cluster: Option<ClusterId>,
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub nonce: [u8; 32],
}

/// Why a handshake was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum RefusalCode {
    /// Not a valid handshake.
    Malformed = 1,
    Version = 2,
    Cluster = 3,
    Secret = 4,
}

/// A refusal: the text is for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub code: RefusalCode,
    pub text: String,
}

impl Refusal {
    fn new(code: RefusalCode, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }

    /// Bytes that are no message of the handshake.
    pub fn malformed(what: &str) -> Self {
        Self::new(RefusalCode::Malformed, format!("malformed {what}"))
    }

    /// The body of a refusal frame; a long text is cut.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = (self.code as u16).to_le_bytes().to_vec();
        let mut end = self.text.len().min(400);
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        bytes.extend_from_slice(&self.text.as_bytes()[..end]);
        bytes
    }

    /// Reads any body: an unknown code counts as `Malformed`, the text loses control characters
    /// because it ends in logs.
    pub fn decode(body: &[u8]) -> Self {
        let (number, text) = body.split_at(body.len().min(2));
        let number = number
            .iter()
            .rev()
            .fold(0u16, |n, b| n << 8 | u16::from(*b));
        let code = match number {
            2 => RefusalCode::Version,
            3 => RefusalCode::Cluster,
            4 => RefusalCode::Secret,
            _ => RefusalCode::Malformed,
        };
        Self::new(code, printable(text))
    }
}

/// Text from a peer, fit for a log line.
pub fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.text, self.code)
    }
}

impl Hello {
    /// The first message of the connecting side.
    pub fn of(identity: &Identity, nonce: [u8; 32]) -> Self {
        Self {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            role: identity.role,
            has_secret: identity.secret.is_some(),
            cluster: identity.cluster,
            node: identity.node,
            incarnation: identity.incarnation,
            nonce,
        }
    }

    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        let mut flags = 0;
        if self.cluster.is_some() {
            flags |= KNOWS_CLUSTER;
        }
        if self.has_secret {
            flags |= HAS_SECRET;
        }
        bytes[0..2].copy_from_slice(&self.version_min.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.version_max.to_le_bytes());
        bytes[4] = self.role as u8;
        bytes[5] = flags;
        bytes[8..24].copy_from_slice(&self.cluster.unwrap_or_default().0.to_le_bytes());
        bytes[24..40].copy_from_slice(&self.node.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.incarnation.0.to_le_bytes());
        bytes[48..80].copy_from_slice(&self.nonce);
        bytes
    }

    /// Decodes a hello or a challenge. Unknown flags and appended fields are left alone.
    pub fn decode(body: &[u8]) -> Result<Self, Refusal> {
        let malformed = || Refusal::malformed("hello");
        let (bytes, _) = body
            .split_first_chunk::<HELLO_BYTES>()
            .ok_or_else(malformed)?;
        let flags = bytes[5];
        let mut nonce = [0; 32];
        nonce.copy_from_slice(&bytes[48..80]);
        let hello = Self {
            version_min: u16::from_le_bytes([bytes[0], bytes[1]]),
            version_max: u16::from_le_bytes([bytes[2], bytes[3]]),
            role: Role::from_number(bytes[4]).ok_or_else(malformed)?,
            has_secret: flags & HAS_SECRET != 0,
            cluster: (flags & KNOWS_CLUSTER != 0).then_some(ClusterId(wide(&bytes[8..24]))),
            node: NodeId(wide(&bytes[24..40])),
            incarnation: Incarnation(wide(&bytes[40..48]) as u64),
            nonce,
        };
        if hello.version_min > hello.version_max || hello.version_min == 0 {
            return Err(malformed());
        }
        Ok(hello)
    }
}

/// A little-endian number of up to 16 bytes.
fn wide(bytes: &[u8]) -> u128 {
    bytes.iter().rev().fold(0, |n, b| n << 8 | u128::from(*b))
}

/// The accepting side's decision over a hello: its own hello, or why not.
pub fn challenge(identity: &Identity, hello: &Hello, nonce: [u8; 32]) -> Result<Hello, Refusal> {
    let version = hello.version_max.min(VERSION_MAX);
    if version < hello.version_min.max(VERSION_MIN) {
        return Err(Refusal::new(
            RefusalCode::Version,
            format!(
                "protocol versions {}..={} are spoken here, yours are {}..={}",
                VERSION_MIN, VERSION_MAX, hello.version_min, hello.version_max
            ),
        ));
    }
    match (identity.cluster, hello.cluster) {
        (Some(own), Some(other)) if own != other => {
            return Err(Refusal::new(
                RefusalCode::Cluster,
                format!("this is cluster {own}, you belong to {other}"),
            ));
        }
        (None, Some(other)) => {
            return Err(Refusal::new(
                RefusalCode::Cluster,
                format!("this node has not joined a cluster yet, you belong to {other}"),
            ));
        }
        _ => {}
    }
    agree_on_secret(identity, hello)?;
    Ok(Hello {
        version_min: version,
        version_max: version,
        ..Hello::of(identity, nonce)
    })
}

/// The connecting side's decision over the challenge that answers its hello.
pub fn accept_challenge(identity: &Identity, challenge: &Hello) -> Result<(), Refusal> {
    let version = challenge.version_max;
    if challenge.version_min != version || !(VERSION_MIN..=VERSION_MAX).contains(&version) {
        return Err(Refusal::new(
            RefusalCode::Version,
            format!("version {version} was not offered"),
        ));
    }
    if let Some(own) = identity.cluster
        && challenge.cluster != Some(own)
    {
        return Err(Refusal::new(
            RefusalCode::Cluster,
            format!("this is a process of cluster {own}, you are not of it"),
        ));
    }
    agree_on_secret(identity, challenge)
}

/// Either both sides have a secret or none has.
fn agree_on_secret(identity: &Identity, other: &Hello) -> Result<(), Refusal> {
    match (identity.secret.is_some(), other.has_secret) {
        (true, false) => Err(Refusal::new(
            RefusalCode::Secret,
            "this cluster has a secret: give its file to --secret-file",
        )),
        (false, true) => Err(Refusal::new(
            RefusalCode::Secret,
            "this process was started without the cluster's secret, you have one",
        )),
        _ => Ok(()),
    }
}

/// Whose proof it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Prover {
    Connecting,
    Accepting,
}

fn mac(secret: &Secret, prover: Prover, hello: &[u8], challenge: &[u8]) -> Option<Hmac<Sha256>> {
    let label: &[u8] = match prover {
        Prover::Connecting => b"dfs handshake 1: connecting",
        Prover::Accepting => b"dfs handshake 1: accepting",
    };
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&secret.0).ok()?;
    for part in [label, hello, challenge] {
        mac.update(&(part.len() as u32).to_le_bytes());
        mac.update(part);
    }
    Some(mac)
}

/// The body of a proof or a welcome; empty without a secret. `hello` and `challenge` are the
/// bodies as they were on the wire.
pub fn prove(secret: Option<&Secret>, prover: Prover, hello: &[u8], challenge: &[u8]) -> Vec<u8> {
    secret
        .and_then(|secret| mac(secret, prover, hello, challenge))
        .map(|mac| mac.finalize().into_bytes().to_vec())
        .unwrap_or_default()
}

/// Checks the other side's proof, in constant time.
pub fn check_proof(
    secret: Option<&Secret>,
    prover: Prover,
    hello: &[u8],
    challenge: &[u8],
    proof: &[u8],
) -> Result<(), Refusal> {
    let Some(secret) = secret else {
        return Ok(());
    };
    mac(secret, prover, hello, challenge)
        .filter(|mac| mac.clone().verify_slice(proof).is_ok())
        .map(|_| ())
        .ok_or_else(|| Refusal::new(RefusalCode::Secret, "the secrets differ"))
}
