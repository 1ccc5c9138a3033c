//! Serves the calls of the other members, on the raft thread.

use super::election::Election;
use super::hand_over;
use super::wire::{self, Malformed};
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::MemberId;
use dfs_proto::msg::member::{RaftCall, RaftCallKind};
use dfs_proto::payload::Payload;
use dfs_proto::transport::Incoming;
use openraft::error::RaftError;
use openraft::raft::{AppendEntriesResponse, VoteResponse};
use tokio::sync::mpsc;

/// Calls that may wait. A leader has a few in flight to each member; more is not a member's doing.
const WAITING_CALLS_MAX: usize = 256;

/// Where calls are handed in.
pub(super) type Calls = mpsc::Sender<Incoming>;

pub(super) fn new() -> (Calls, mpsc::Receiver<Incoming>) {
    mpsc::channel(WAITING_CALLS_MAX)
}

/// Serves until the member stops.
pub(super) async fn run(election: Election, member: MemberId, mut calls: mpsc::Receiver<Incoming>) {
    while let Some(incoming) = calls.recv().await {
        // Each by itself: the pieces of a snapshot must not hold up the heartbeats.
        tokio::spawn(serve(election.clone(), member, incoming));
    }
}

async fn serve(election: Election, member: MemberId, mut incoming: Incoming) {
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
        RaftCallKind::Append => append(&election, &payload).await,
        RaftCallKind::Vote => vote(&election, &payload).await,
        RaftCallKind::Snapshot => snapshot(&election, &payload).await,
        RaftCallKind::Sound => sound(&election, &payload).await,
        RaftCallKind::Yield => match wire::decode(&payload) {
            Ok(yielded) => match hand_over::take_over(&election.raft, yielded).await {
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

/// An answer to a candidate, and how many milliseconds ago the voter has heard a leader at the latest.
pub(super) type Voted = (Result<VoteResponse<u64>, RaftError<u64>>, u64);

async fn append(election: &Election, bytes: &[u8]) -> Result<Payload, Malformed> {
    let request = wire::decode_append(bytes)?;
    // Before it is looked at: a vote that is given meanwhile must know of it.
    let at = election.contacts.hear();
    let answer = election.raft.append_entries(request).await;
    if answer
        .as_ref()
        .is_ok_and(|a| !matches!(a, AppendEntriesResponse::HigherVote(_)))
    {
        election.contacts.follow(at);
    }
    wire::encode(&answer)
}

async fn vote(election: &Election, bytes: &[u8]) -> Result<Payload, Malformed> {
    let answer: Voted = (
        election.raft.vote(wire::decode(bytes)?).await,
        u64::try_from(election.contacts.age().as_millis()).unwrap_or(u64::MAX),
    );
    wire::encode(&answer)
}

async fn sound(election: &Election, bytes: &[u8]) -> Result<Payload, Malformed> {
    let would = election.would_vote(wire::decode(bytes)?).await;
    wire::encode(&would)
}

async fn snapshot(election: &Election, bytes: &[u8]) -> Result<Payload, Malformed> {
    let request = wire::decode_snapshot(bytes)?;
    let at = election.contacts.hear();
    let vote = request.vote;
    let answer = election.raft.install_snapshot(request).await;
    if answer.as_ref().is_ok_and(|a| a.vote == vote) {
        election.contacts.follow(at);
    }
    wire::encode(&answer)
}
