//! The handshake over a socket, for both sides. Until it is done a connection holds nothing but
//! a buffer of a few hundred bytes.

use crate::frame::{
    FrameError, HEADER_BYTES, Header, Kind, SHORT_BODY_BYTES_MAX, VERSION_HANDSHAKE,
};
use crate::handshake::{
    Hello, Identity, Prover, Refusal, accept_challenge, challenge, check_proof, prove,
};
use std::fmt;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum GreetError {
    Io(io::Error),
    /// The other side speaks another language.
    Frame(FrameError),
    /// This side refuses, and has said so.
    Refused(Refusal),
    /// The other side refuses.
    RefusedByPeer(Refusal),
}

impl fmt::Display for GreetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str("closed before the handshake was done")
            }
            Self::Io(e) => e.fmt(f),
            Self::Frame(e) => e.fmt(f),
            Self::Refused(refusal) => write!(f, "refused: {refusal}"),
            Self::RefusedByPeer(refusal) => write!(f, "refused by the other side: {refusal}"),
        }
    }
}

impl From<io::Error> for GreetError {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl From<FrameError> for GreetError {
    fn from(e: FrameError) -> Self {
        Self::Frame(e)
    }
}

/// Greets as the side that connected; returns who the other side is.
pub(super) async fn greet(stream: &mut TcpStream, own: &Identity) -> Result<Hello, GreetError> {
    let hello = Hello::of(own, nonce()?).encode();
    send(stream, Kind::Hello, &hello).await?;
    let challenge = expect(stream, Kind::Challenge).await?;
    let judged =
        Hello::decode(&challenge).and_then(|peer| accept_challenge(own, &peer).map(|()| peer));
    let peer = refuse_if_err(stream, judged).await?;
    let secret = own.secret.as_ref();
    let proof = prove(secret, Prover::Connecting, &hello, &challenge);
    send(stream, Kind::Proof, &proof).await?;
    let welcome = expect(stream, Kind::Welcome).await?;
    let checked = check_proof(secret, Prover::Accepting, &hello, &challenge, &welcome);
    refuse_if_err(stream, checked).await?;
    Ok(peer)
}

/// Greets as the side that accepted; returns who the other side is, with the version agreed on
/// in both of its version fields.
pub(super) async fn receive(stream: &mut TcpStream, own: &Identity) -> Result<Hello, GreetError> {
    let hello = expect(stream, Kind::Hello).await?;
    let nonce = nonce()?;
    let judged = Hello::decode(&hello)
        .and_then(|peer| challenge(own, &peer, nonce).map(|answer| (peer, answer)));
    let (peer, answer) = refuse_if_err(stream, judged).await?;
    let challenge = answer.encode();
    send(stream, Kind::Challenge, &challenge).await?;
    let proof = expect(stream, Kind::Proof).await?;
    let secret = own.secret.as_ref();
    let checked = check_proof(secret, Prover::Connecting, &hello, &challenge, &proof);
    refuse_if_err(stream, checked).await?;
    let welcome = prove(secret, Prover::Accepting, &hello, &challenge);
    send(stream, Kind::Welcome, &welcome).await?;
    Ok(Hello {
        version_min: answer.version_min,
        version_max: answer.version_max,
        ..peer
    })
}

fn nonce() -> io::Result<[u8; 32]> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(|e| io::Error::other(format!("no randomness: {e}")))?;
    Ok(nonce)
}

async fn send(stream: &mut TcpStream, kind: Kind, body: &[u8]) -> io::Result<()> {
    let header = Header::new(kind, VERSION_HANDSHAKE, 0, 0, body, 0);
    let mut frame = Vec::with_capacity(HEADER_BYTES + body.len());
    frame.extend_from_slice(&header.encode());
    frame.extend_from_slice(body);
    stream.write_all(&frame).await
}

/// Reads the next frame of the handshake, exactly: nothing of what follows it.
async fn expect(stream: &mut TcpStream, kind: Kind) -> Result<Vec<u8>, GreetError> {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let header = Header::decode(&header, VERSION_HANDSHAKE)?;
    let mut body = vec![0; (header.body_len as usize).min(SHORT_BODY_BYTES_MAX)];
    stream.read_exact(&mut body).await?;
    header.check_body(&body)?;
    if header.kind == Kind::Refusal {
        return Err(GreetError::RefusedByPeer(Refusal::decode(&body)));
    }
    if header.kind != kind {
        return Err(FrameError::Kind(header.kind as u8).into());
    }
    Ok(body)
}

/// Tells the other side of a refusal before it becomes this side's error.
async fn refuse_if_err<T>(
    stream: &mut TcpStream,
    judged: Result<T, Refusal>,
) -> Result<T, GreetError> {
    match judged {
        Ok(value) => Ok(value),
        Err(refusal) => {
            send(stream, Kind::Refusal, &refusal.encode()).await?;
            stream.shutdown().await?;
            Err(GreetError::Refused(refusal))
        }
    }
}
