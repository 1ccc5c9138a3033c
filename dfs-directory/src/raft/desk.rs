//! Serves the calls of the other members, on the raft thread.

use super::hand_over;
use super::types::Raft;
use super::wire::{self, Malformed};
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::MemberId;
use dfs_proto::msg::member::{RaftCall, RaftCallKind};
use dfs_proto::payload::Payload;
use dfs_proto::transport::Incoming;
use tokio::sync::mpsc;

/// Calls that may wait. A leader has a few in flight to each member; more is not a member's doing.
const WAITING_CALLS_MAX: usize = 256;

/// Where calls are handed in.
pub(super) type Calls = mpsc::Sender<Incoming>;

pub(super) fn new() -> (Calls, mpsc::Receiver<Incoming>) {
    mpsc::channel(WAITING_CALLS_MAX)
}

/// Serves until the member stops.
pub(super) async fn run(raft: Raft, member: MemberId, mut calls: mpsc::Receiver<Incoming>) {
    while let Some(incoming) = calls.recv().await {
        // Each by itself: the pieces of a snapshot must not hold up the heartbeats.
        tokio::spawn(serve(raft.clone(), member, incoming));
    }
}

async fn serve(raft: Raft, member: MemberId, mut incoming: Incoming) {
    let call = match incoming.decode::<RaftCall>() {
        Ok(call) => call,
        Err(e) => return incoming.refuse(e),
    };
    if call.target != member {
        // Somebody else had this address before; it must not answer in that one's name.
        return incoming.refuse(Error::new(
            ErrorCode::NotRegistered,
            format!("this is directory {member}, not {}", call.target),
        ));
    }
    let payload = incoming.take_payload();
    let answer = match call.kind {
        RaftCallKind::Append => append(&raft, &payload).await,
        RaftCallKind::Vote => vote(&raft, &payload).await,
        RaftCallKind::Snapshot => snapshot(&raft, &payload).await,
        RaftCallKind::Yield => match wire::decode(&payload) {
            Ok(yielded) => match hand_over::take_over(&raft, yielded).await {
                Ok(()) => Ok(Payload::default()),
                Err(e) => return incoming.refuse(e),
            },
            Err(e) => Err(e),
        },
    };
    match answer {
        Ok(answer) => incoming.answer::<RaftCall>(Ok(()), answer),
        Err(e) => incoming.refuse(Error::new(ErrorCode::Malformed, e.to_string())),
    }
}

async fn append(raft: &Raft, bytes: &[u8]) -> Result<Payload, Malformed> {
    wire::encode(&raft.append_entries(wire::decode_append(bytes)?).await)
}

async fn vote(raft: &Raft, bytes: &[u8]) -> Result<Payload, Malformed> {
    wire::encode(&raft.vote(wire::decode(bytes)?).await)
}

async fn snapshot(raft: &Raft, bytes: &[u8]) -> Result<Payload, Malformed> {
    wire::encode(&raft.install_snapshot(wire::decode_snapshot(bytes)?).await)
}
