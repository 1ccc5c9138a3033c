//! Whether another member of the directory leads by now.
//!
//! A leader that is paused or cut off says nothing, and its clients must not take that for their
//! own silence at once. The other members know a new leader as soon as there is one.

use crate::error::{Error, ErrorCode};
use crate::msg::member::{DirectoryView, ListMembers};
use crate::payload::Payload;
use crate::transport::{Identity, NoService, connect};
use crate::whereabouts::Whereabouts;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// A member that takes longer is of no help.
const DEADLINE: Duration = Duration::from_millis(500);

/// Asks all members but the present one; `NotLeader`, naming the leader, if one of them follows
/// somebody else. It takes `DEADLINE` at most.
pub async fn leader_elsewhere(directory: Whereabouts, identity: Arc<Identity>) -> Option<Error> {
    let present = directory.present().to_owned();
    let others = directory.others().map(str::to_owned);
    let mut asked: JoinSet<Option<DirectoryView>> = others
        .map(|address| view_of(address, identity.clone()))
        .collect();
    while let Some(answer) = asked.join_next().await {
        let Ok(Some(view)) = answer else { continue };
        let leader = view.leader.and_then(|leader| {
            let named = view.members.iter().find(|m| m.member == leader);
            named.filter(|m| m.address != present)
        });
        if let Some(leader) = leader {
            let why = format!("{} at {} leads by now", leader.member, leader.address);
            return Some(Error::new(ErrorCode::NotLeader, why).with_detail(leader.member.0));
        }
    }
    None
}

async fn view_of(address: String, identity: Arc<Identity>) -> Option<DirectoryView> {
    let asked = async {
        let connection = connect(&address, identity, Arc::new(NoService)).await?;
        let answer = connection
            .call(&ListMembers, Payload::default(), DEADLINE)
            .await;
        connection.close("asked who leads");
        answer
    };
    let answer = tokio::time::timeout(DEADLINE, asked).await.ok()?;
    answer.ok().map(|(view, _)| view)
}
