//! How a member comes into the directory, and how the others learn where it is.

use crate::member_api;
use crate::members;
use crate::raft::RaftHandle;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{ClusterId, MemberId, NodeId};
use dfs_proto::msg::member::{DirectoryJoined, JoinDirectory};
use dfs_proto::payload::Payload;
use dfs_proto::timing::REQUEST_DEADLINE;
use dfs_proto::transport::{Identity, NoService, connect};
use std::sync::Arc;
use std::time::Duration;

/// Between two rounds over the members that are known.
const PAUSE: Duration = Duration::from_millis(300);

/// What a new member is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Joined {
    pub cluster: ClusterId,
    pub member: MemberId,
}

/// Asks the directory to take this node in; waits for a leader as long as it takes.
///
/// A refusal in words (another secret, too many members) ends it.
pub async fn join(
    members: &[String],
    identity: &Arc<Identity>,
    address: &str,
    supports: u16,
) -> Result<Joined> {
    let mut told = false;
    loop {
        let mut last = Error::bare(ErrorCode::Disconnected);
        for member in members {
            match ask(member, identity, address, supports).await {
                Ok((cluster, joined)) => {
                    let member = joined.member;
                    return Ok(Joined { cluster, member });
                }
                Err(e) if is_final(&e) => return Err(e),
                Err(e) => last = e,
            }
        }
        if !told {
            log::warn!(
                "no leader of the directory was found at {}: {last}; trying on",
                members.join(", ")
            );
            told = true;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn is_final(e: &Error) -> bool {
    matches!(
        e.code,
        ErrorCode::HandshakeRefused
            | ErrorCode::InvalidArgument
            | ErrorCode::NoSpace
            | ErrorCode::NotPermitted
            | ErrorCode::Unsupported
    )
}

async fn ask(
    member: &str,
    identity: &Arc<Identity>,
    address: &str,
    supports: u16,
) -> Result<(ClusterId, DirectoryJoined)> {
    let connection = connect(member, identity.clone(), Arc::new(NoService)).await?;
    let cluster = connection.peer().cluster.ok_or_else(|| {
        Error::new(
            ErrorCode::HandshakeRefused,
            format!("{member} is of no cluster yet"),
        )
    })?;
    let request = JoinDirectory {
        node: identity.node,
        address: address.to_owned(),
        supports,
    };
    let (joined, _) = connection
        .call(&request, Payload::default(), REQUEST_DEADLINE)
        .await?;
    connection.close("joined");
    Ok((cluster, joined))
}

/// Tells the directory when this member is reached at another address than the one that it knows,
/// or runs another version: a member may be started anew elsewhere, or updated. Ends when that is
/// known, or with the runtime.
pub async fn announce(
    raft: RaftHandle,
    member: MemberId,
    identity: Arc<Identity>,
    address: String,
) {
    loop {
        let members = raft.members();
        let known = raft.read_local(|tables| members::supported(tables));
        let known = known
            .unwrap_or_default()
            .contains(&(member, raft.supports()));
        match members.iter().find(|m| m.member == member) {
            Some(own) if own.address == address && known => return,
            // A new one does not have the log yet; one that was taken out does not come back.
            None => {}
            Some(_) => {
                let others = members.iter().filter(|m| m.member != member);
                if let Err(e) = tell(&raft, &identity, &address, others).await {
                    log::warn!("the others don't know yet where {member} is, or its version: {e}");
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn tell<'a>(
    raft: &RaftHandle,
    identity: &Arc<Identity>,
    address: &str,
    others: impl Iterator<Item = &'a dfs_proto::msg::member::DirectoryMember>,
) -> Result<()> {
    let node: NodeId = identity.node;
    let mut last = match member_api::admit(raft, node, address.to_owned(), raft.supports()).await {
        Ok(_) => return Ok(()),
        Err(e) => e,
    };
    for other in others {
        match ask(&other.address, identity, address, raft.supports()).await {
            Ok(_) => return Ok(()),
            Err(e) => last = e,
        }
    }
    Err(last)
}
