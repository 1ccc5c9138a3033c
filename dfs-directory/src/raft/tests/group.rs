//! Three members in one process, over real connections.

use super::member::{count_sessions, open_session};
use crate::joining;
use crate::member_api::{self, MemberApi};
use crate::raft::{RaftHandle, RaftOptions, start};
use crate::storage::identity::{DataDir, Identity as DataIdentity, Stage};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{ClusterId, Incarnation, MemberId, NodeId};
use dfs_proto::transport::{Identity, Listener, Role};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// For what takes a second on a quiet machine.
const LONG: Duration = Duration::from_secs(60);

pub(super) struct Member {
    pub(super) raft: RaftHandle,
    serving: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// One member: the founder, or one that joins at `join`.
async fn member(number: u64, join: Option<&str>) -> (Member, String) {
    let dir = tempfile::tempdir().unwrap();
    let mut identity = Identity {
        cluster: join.is_none().then_some(ClusterId(1)),
        node: NodeId(number.into()),
        incarnation: Incarnation(number),
        role: Role::Directory,
        secret: None,
    };
    let listener = Listener::bind("127.0.0.1:0", &identity).await.unwrap();
    let address = listener.local_addr().to_string();
    let (id, stage) = match join {
        None => (MemberId(number), Stage::Founding),
        Some(at) => {
            let asking = Arc::new(identity.clone());
            let joined = joining::join(&[at.to_owned()], &asking, &address, 1).await;
            identity.cluster = Some(ClusterId(1));
            (joined.unwrap().member, Stage::Joining)
        }
    };
    let own = DataIdentity {
        cluster: ClusterId(1),
        node: identity.node,
        member: id,
        stage,
    };
    let data = DataDir::format(dir.path(), own).unwrap();
    let identity = Arc::new(identity);
    let mut options = RaftOptions::new(data, address.clone());
    options.identity = Some(identity.clone());
    let raft = start(options).await.unwrap();
    if join.is_none() {
        raft.leading().await.unwrap();
        member_api::admit(&raft, own.node, address.clone(), 1)
            .await
            .unwrap();
    }
    let service = Arc::new(MemberApi::new(raft.clone()));
    let serving = tokio::spawn(listener.run(identity, service, std::future::pending()));
    let member = Member {
        raft,
        serving,
        _dir: dir,
    };
    (member, address)
}

/// A group in which all vote; the first one leads.
pub(super) async fn group(size: u64) -> Vec<Member> {
    let (first, address) = member(1, None).await;
    let mut members = vec![first];
    for number in 2..=size {
        members.push(member(number, Some(&address)).await.0);
        until("the new one votes", || {
            let peers = members[0].raft.peers();
            peers.len() as u64 == number && peers.iter().all(|peer| peer.votes)
        })
        .await;
    }
    members
}

pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LONG, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn leader(members: &[Member]) -> Option<&Member> {
    members.iter().find(|member| member.raft.status().leading)
}

#[tokio::test]
async fn a_leader_that_goes_leaves_nobody_in_doubt() {
    let members = group(3).await;
    let mut acknowledged = 0;
    for round in 0..4u64 {
        until("a leader", || leader(&members).is_some()).await;
        let leaving = leader(&members).unwrap().raft.clone();
        let writers: Vec<_> = (0..8u64)
            .map(|writer| {
                let raft = leaving.clone();
                tokio::spawn(async move {
                    let mut done = 0;
                    loop {
                        let number = round * 1_000_000 + writer * 100_000 + done;
                        match raft.commit(open_session(number)).await {
                            Ok(_) => done += 1,
                            Err(e) => return (done, e),
                        }
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(100)).await;
        leaving.hand_over().await;
        let own = leaving.status().member;
        let follows = leaving.status().leader;
        assert!(follows.is_some_and(|leader| leader != own), "{follows:?}");
        for writer in writers {
            let (done, refused) = writer.await.unwrap();
            acknowledged += done as usize;
            // Not `Disconnected`, which would say that it may be in the log.
            assert_eq!(refused.code, ErrorCode::NotLeader, "{refused}");
            assert_eq!(Some(MemberId(refused.detail)), follows);
        }
        let next = members
            .iter()
            .find(|m| Some(m.raft.status().member) == follows);
        let next = next.unwrap().raft.clone();
        next.leading().await.unwrap();
        let there = next.read(count_sessions).await.unwrap();
        assert_eq!(there, acknowledged);
    }
}
