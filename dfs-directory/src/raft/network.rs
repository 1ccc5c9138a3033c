//! How this member reaches the others: one connection to each, shared by everything that openraft
//! sends there, made when it is needed.
//!
//! It is this side's own: the other member dials its own one. A connection that breaks is made
//! again by the next call; a member that refuses or is silent is `Unreachable`, which makes
//! openraft pause before it tries again.

// The error type is openraft's, and its traits demand it as it is.
#![allow(clippy::result_large_err)]

use super::desk::Voted;
use super::election::{Contacts, Sounding};
use super::hand_over::Yielded;
use super::types::TypeConfig;
use super::wire::{self, Malformed};
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::MemberId;
use dfs_proto::msg::member::{RaftCall, RaftCallKind};
use dfs_proto::payload::Payload;
use dfs_proto::transport::{Connection, Identity, NoService, connect};
use openraft::error::{
    InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Timeout, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{BasicNode, RPCTypes};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

type RpcError<E> = RPCError<u64, BasicNode, E>;

/// A member that does not take a connection within this is not there.
const DIAL_DEADLINE: Duration = Duration::from_millis(500);

/// Between two tries to reach a member that does not answer.
const RETRY: Duration = Duration::from_millis(100);

/// Makes the clients of other members. Clones share the connections.
#[derive(Clone)]
pub(super) struct Peers {
    /// `None`: a group of one, without a network.
    identity: Option<Arc<Identity>>,
    member: u64,
    contacts: Contacts,
    lines: Arc<Mutex<BTreeMap<u64, Arc<Line>>>>,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers")
            .field("lines", &self.lines)
            .finish_non_exhaustive()
    }
}

impl Peers {
    pub(super) fn new(member: u64, identity: Option<Arc<Identity>>, contacts: Contacts) -> Self {
        Self {
            identity,
            member,
            contacts,
            lines: Arc::default(),
        }
    }

    /// The client of one member, on the connection that there is to it.
    pub(super) fn peer(&self, target: u64, node: &BasicNode) -> Peer {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lines.get(&target);
        let line = match known.filter(|line| line.address == node.addr) {
            Some(line) => line.clone(),
            None => {
                let line = Arc::new(Line::new(self.member, target, node, self.identity.clone()));
                lines.insert(target, line.clone());
                line
            }
        };
        Peer {
            line,
            contacts: self.contacts.clone(),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Peer {
        self.peer(target, node)
    }
}

/// The connection to one other member.
struct Line {
    member: u64,
    target: u64,
    address: String,
    identity: Option<Arc<Identity>>,
    present: Mutex<Option<Connection>>,
    /// One dials; the others wait for what comes of it.
    dialing: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "directory member {} at {}", self.target, self.address)
    }
}

impl Line {
    fn new(member: u64, target: u64, node: &BasicNode, identity: Option<Arc<Identity>>) -> Self {
        Self {
            member,
            target,
            address: node.addr.clone(),
            identity,
            present: Mutex::default(),
            dialing: tokio::sync::Mutex::default(),
        }
    }

    fn present(&self) -> Option<Connection> {
        let present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        present.clone().filter(|c| !c.is_closed())
    }

    async fn connection(&self) -> Result<Connection, Error> {
        if let Some(connection) = self.present() {
            return Ok(connection);
        }
        let identity = self
            .identity
            .clone()
            .ok_or_else(|| Error::new(ErrorCode::Disconnected, "this member was started alone"))?;
        let _dialing = self.dialing.lock().await;
        if let Some(connection) = self.present() {
            return Ok(connection);
        }
        let dialed = connect(&self.address, identity, Arc::new(NoService));
        let connection = tokio::time::timeout(DIAL_DEADLINE, dialed)
            .await
            .unwrap_or_else(|_| Err(Error::bare(ErrorCode::DeadlineExceeded)))?;
        *self.present.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection.clone());
        log::info!(
            "directory member {} has reached member {} at {}",
            self.member,
            self.target,
            self.address
        );
        Ok(connection)
    }
}

/// The client of one other member.
pub(super) struct Peer {
    line: Arc<Line>,
    contacts: Contacts,
}

impl Peer {
    /// One call and its answer.
    async fn ask(
        &self,
        kind: RaftCallKind,
        payload: Payload,
        deadline: Duration,
    ) -> Result<Payload, Error> {
        let request = RaftCall {
            kind,
            target: MemberId(self.line.target),
        };
        let called = async {
            let connection = self.line.connection().await?;
            connection.call(&request, payload, deadline).await
        };
        let answer = tokio::time::timeout(deadline, called)
            .await
            .unwrap_or_else(|_| Err(Error::bare(ErrorCode::DeadlineExceeded)));
        answer
            .map(|((), payload)| payload)
            .map_err(|e| Error::new(e.code, format!("{:?}: {e}", self.line)))
    }

    /// Asks the member to follow this one no longer, and perhaps to lead.
    pub(super) async fn yield_to(
        &self,
        yielded: &Yielded,
        deadline: Duration,
    ) -> Result<(), Error> {
        let payload =
            wire::encode(yielded).map_err(|e| Error::new(ErrorCode::Internal, e.to_string()))?;
        self.ask(RaftCallKind::Yield, payload, deadline)
            .await
            .map(drop)
    }

    /// Asks the member whether it would vote for this one.
    pub(super) async fn would_vote(
        &self,
        sounding: Sounding,
        deadline: Duration,
    ) -> Result<bool, Error> {
        let internal = |e: Malformed| Error::new(ErrorCode::Internal, e.to_string());
        let payload = wire::encode(&sounding).map_err(internal)?;
        let answer = self.ask(RaftCallKind::Sound, payload, deadline).await?;
        wire::decode(&answer).map_err(internal)
    }

    /// One call and its answer, as openraft wants its failures told.
    async fn call<E: std::error::Error>(
        &self,
        kind: RaftCallKind,
        rpc: RPCTypes,
        payload: Payload,
        option: &RPCOption,
    ) -> Result<Payload, RpcError<E>> {
        let deadline = option.hard_ttl();
        self.ask(kind, payload, deadline)
            .await
            .map_err(|e| match e.code {
                ErrorCode::DeadlineExceeded => RPCError::Timeout(Timeout {
                    action: rpc,
                    id: self.line.member,
                    target: self.line.target,
                    timeout: deadline,
                }),
                _ => RPCError::Unreachable(Unreachable::new(&e)),
            })
    }

    fn remote<T, E: std::error::Error>(&self, answer: Result<T, E>) -> Result<T, RpcError<E>> {
        answer.map_err(|e| RPCError::RemoteError(RemoteError::new(self.line.target, e)))
    }
}

fn malformed<E: std::error::Error>(e: &Malformed) -> RpcError<E> {
    RPCError::Network(NetworkError::new(e))
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RpcError<RaftError<u64>>> {
        let (payload, sent) = wire::encode_append(&request).map_err(|e| malformed(&e))?;
        let answer = self
            .call(
                RaftCallKind::Append,
                RPCTypes::AppendEntries,
                payload,
                &option,
            )
            .await?;
        let answer = wire::decode_answer(&answer).map_err(|e| malformed(&e))?;
        let answer: AppendEntriesResponse<u64> = self.remote(answer)?;
        Ok(match (answer, sent) {
            // Not all entries fitted into the message: what did is what they have.
            (AppendEntriesResponse::Success, Some(last)) => {
                AppendEntriesResponse::PartialSuccess(Some(last))
            }
            (answer, _) => answer,
        })
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, RpcError<RaftError<u64, InstallSnapshotError>>> {
        let payload = wire::encode_snapshot(&request).map_err(|e| malformed(&e))?;
        let answer = self
            .call(
                RaftCallKind::Snapshot,
                RPCTypes::InstallSnapshot,
                payload,
                &option,
            )
            .await?;
        let answer = wire::decode_answer(&answer).map_err(|e| malformed(&e))?;
        self.remote(answer)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RpcError<RaftError<u64>>> {
        let payload = wire::encode(&request).map_err(|e| malformed(&e))?;
        let answer = self
            .call(RaftCallKind::Vote, RPCTypes::Vote, payload, &option)
            .await?;
        let (answer, age): Voted = wire::decode(&answer).map_err(|e| malformed(&e))?;
        if answer.as_ref().is_ok_and(|a| a.vote_granted) {
            // Before it counts: who is elected by it must know of it.
            let term = request.vote.leader_id.term;
            self.contacts.voted(term, Duration::from_millis(age));
        }
        self.remote(answer)
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(RETRY))
    }
}
