//! How this member reaches the others.
//!
//! The group has one voter, so nobody is ever called. A member that the log names but that has
//! no connection is unreachable: openraft retries it with a pause and goes on without it.

use super::types::TypeConfig;
use openraft::error::{InstallSnapshotError, RPCError, RaftError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{AnyError, BasicNode};

type RpcError<E> = RPCError<u64, BasicNode, E>;

/// Makes the clients of other members.
#[derive(Debug)]
pub(super) struct Peers;

/// The client of one other member.
#[derive(Debug)]
pub(super) struct Peer {
    target: u64,
    address: String,
}

impl Peer {
    fn unreachable<E: std::error::Error>(&self) -> RpcError<E> {
        let why = AnyError::error(format!(
            "no connection to directory member {} at {}",
            self.target, self.address
        ));
        RPCError::Unreachable(Unreachable::new(&why))
    }
}

impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Peer {
        Peer {
            target,
            address: node.addr.clone(),
        }
    }
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        _: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RpcError<RaftError<u64>>> {
        Err(self.unreachable())
    }

    async fn install_snapshot(
        &mut self,
        _: InstallSnapshotRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, RpcError<RaftError<u64, InstallSnapshotError>>> {
        Err(self.unreachable())
    }

    async fn vote(
        &mut self,
        _: VoteRequest<u64>,
        _: RPCOption,
    ) -> Result<VoteResponse<u64>, RpcError<RaftError<u64>>> {
        Err(self.unreachable())
    }
}
