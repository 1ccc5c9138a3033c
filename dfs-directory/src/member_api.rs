//! What other members of the directory call, and who may become one.

use crate::members::{MembersCommand, MembersOutcome};
use crate::raft::RaftHandle;
use crate::state::{Change, Outcome, level};
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::MemberId;
use dfs_proto::msg::Request;
use dfs_proto::msg::member::{
    DirectoryJoined, DirectoryView, JoinDirectory, ListMembers, RaftCall, RemoveMember,
};
use dfs_proto::payload::Payload;
use dfs_proto::transport::{Incoming, Role, Service};

/// The service for members.
#[derive(Clone, Debug)]
pub struct MemberApi {
    raft: RaftHandle,
}

impl MemberApi {
    pub fn new(raft: RaftHandle) -> Self {
        Self { raft }
    }

    /// Whether a method is served here.
    pub fn serves(method: u16) -> bool {
        method >> 8 == 0x09
    }

    fn spawn<R, F>(&self, incoming: Incoming, handle: impl FnOnce(RaftHandle, R) -> F)
    where
        R: Request,
        F: Future<Output = Result<R::Response>> + Send + 'static,
    {
        match incoming.decode::<R>() {
            Ok(request) => {
                let answer = handle(self.raft.clone(), request);
                tokio::spawn(async move {
                    incoming.answer::<R>(answer.await, Payload::default());
                });
            }
            Err(e) => incoming.refuse(e),
        }
    }
}

impl Service for MemberApi {
    fn serve(&self, incoming: Incoming) {
        let role = incoming.connection.peer().role;
        let may = match incoming.method {
            ListMembers::METHOD => true,
            RemoveMember::METHOD => role == Role::Admin,
            _ => role == Role::Directory,
        };
        if !may {
            let why = "only members of the directory say this to each other";
            return incoming.refuse(Error::new(ErrorCode::NotPermitted, why));
        }
        match incoming.method {
            RaftCall::METHOD => self.raft.serve(incoming),
            JoinDirectory::METHOD => self.spawn(incoming, join),
            RemoveMember::METHOD => self.spawn(incoming, remove),
            ListMembers::METHOD => {
                self.spawn(incoming, |raft, _: ListMembers| async move {
                    let status = raft.status();
                    Ok(DirectoryView {
                        members: raft.members(),
                        leader: status.leader,
                        asked: status.member,
                        term: status.term,
                        applied: status.applied,
                        level: raft.level(),
                        supports: raft.supports(),
                    })
                });
            }
            _ => incoming.refuse_unknown(),
        }
    }
}

async fn join(raft: RaftHandle, request: JoinDirectory) -> Result<DirectoryJoined> {
    let JoinDirectory {
        node,
        address,
        supports,
    } = request;
    let member = admit(&raft, node, address.clone(), supports).await?;
    log::info!("directory {member} at {address} is to be a member");
    Ok(DirectoryJoined {
        member,
        members: raft.members(),
    })
}

/// Logs that a node is to be a member at this address, with a program that knows the feature
/// levels up to `supports`; returns its number.
pub async fn admit(
    raft: &RaftHandle,
    node: dfs_proto::ids::NodeId,
    address: String,
    supports: u16,
) -> Result<MemberId> {
    if let Some(why) = level::refusal(raft.level(), supports) {
        return Err(Error::new(ErrorCode::Unsupported, why));
    }
    let command = MembersCommand::Admit {
        node,
        address,
        supports,
    };
    let member = commit(raft, command).await?;
    member.ok_or_else(|| Error::new(ErrorCode::Internal, "admitted without a number"))
}

async fn remove(raft: RaftHandle, request: RemoveMember) -> Result<()> {
    let RemoveMember { member } = request;
    commit(&raft, MembersCommand::Remove { member }).await?;
    log::warn!("directory {member} is not to be a member any more");
    Ok(())
}

async fn commit(raft: &RaftHandle, command: MembersCommand) -> Result<Option<MemberId>> {
    let refused = match &command {
        MembersCommand::Admit { address, .. } => format!("{address} can't become a member"),
        MembersCommand::Remove { member } => format!("{member} can't be taken out"),
        MembersCommand::Raise { level } => format!("feature level {level} is not known to all"),
    };
    match raft.commit(Change::Members(command)).await? {
        Outcome::Members(MembersOutcome(Ok(member))) => Ok(member),
        Outcome::Members(MembersOutcome(Err(code))) => Err(Error::new(code, refused)),
        other => Err(Error::new(
            ErrorCode::Internal,
            format!("answered with {other:?}"),
        )),
    }
}
