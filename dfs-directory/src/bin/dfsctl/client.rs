//! The connection to the directory's leader.

use dfs_proto::error::{Error, ErrorCode, Result as Answer, Retry};
use dfs_proto::ids::{Incarnation, NodeId};
use dfs_proto::msg::Request;
use dfs_proto::msg::admin::GetStatus;
use dfs_proto::msg::member::{DirectoryView, ListMembers};
use dfs_proto::payload::Payload;
use dfs_proto::transport::{Connection, Identity, NoService, Role, connect, read_secret};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// For a question; a page of a verification may read much from busy disks.
const DEADLINE: Duration = Duration::from_secs(120);

/// What is on its way (a leader's election, a group's new epoch) is waited for this long.
const PATIENCE: Duration = Duration::from_secs(15);
/// A member that says nothing of itself within this is shown as silent.
const VIEW_DEADLINE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(crate) struct Client {
    connection: Connection,
    identity: Arc<Identity>,
}

impl Client {
    /// Finds the member that leads among those named.
    pub(crate) async fn connect(
        members: Option<String>,
        secret_file: Option<&Path>,
    ) -> Result<Self, String> {
        let members = members
            .or_else(|| std::env::var("DFS_DIRECTORY").ok())
            .ok_or("name the directory with --directory HOST:PORT or in DFS_DIRECTORY")?;
        let members: Vec<&str> = members
            .split(',')
            .map(str::trim)
            .filter(|member| !member.is_empty())
            .collect();
        if members.is_empty() {
            return Err("--directory names no member".to_owned());
        }
        let secret = secret_file
            .map(read_secret)
            .transpose()
            .map_err(|e| e.to_string())?;
        let random = || getrandom::u64().map_err(|e| e.to_string());
        let identity = Arc::new(Identity {
            cluster: None,
            node: NodeId(u128::from(random()?)),
            incarnation: Incarnation(random()?),
            role: Role::Admin,
            secret,
        });
        let begun = Instant::now();
        loop {
            let mut asking: JoinSet<_> = members
                .iter()
                .map(|member| leader_at((*member).to_owned(), identity.clone()))
                .collect();
            let (mut last, mut electing) = (Error::bare(ErrorCode::Disconnected), false);
            while let Some(asked) = asking.join_next().await {
                match asked.map_err(|e| e.to_string())? {
                    Ok(connection) => {
                        return Ok(Self {
                            connection,
                            identity,
                        });
                    }
                    Err(e) => {
                        electing |= e.code == ErrorCode::NotLeader;
                        last = e;
                    }
                }
            }
            // Nobody there is an answer; somebody who does not lead yet is worth a wait.
            if !electing || begun.elapsed() > PATIENCE {
                return Err(last.to_string());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// What each member at these addresses says of itself; in words why it says nothing.
    pub(crate) async fn views(
        &self,
        addresses: impl Iterator<Item = String>,
    ) -> BTreeMap<String, Result<DirectoryView, String>> {
        // Under another name: a second connection of the same run would end the first one.
        let second = Arc::new(Identity {
            node: NodeId(self.identity.node.0 ^ 1),
            incarnation: Incarnation(self.identity.incarnation.0 ^ 1),
            ..(*self.identity).clone()
        });
        let mut asking: JoinSet<_> = addresses
            .map(|address| {
                let identity = second.clone();
                async move {
                    let view = tokio::time::timeout(VIEW_DEADLINE, view_of(&address, identity))
                        .await
                        .unwrap_or_else(|_| Err(Error::bare(ErrorCode::DeadlineExceeded)));
                    (address, view.map_err(|e| e.to_string()))
                }
            })
            .collect();
        let mut views = BTreeMap::new();
        while let Some(Ok((address, view))) = asking.join_next().await {
            views.insert(address, view);
        }
        views
    }

    /// Asks once for something that has a payload.
    pub(crate) async fn ask_piece<R: Request>(
        &self,
        request: &R,
    ) -> Result<(R::Response, Payload), String> {
        let answer = self.connection.call(request, Payload::default(), DEADLINE);
        answer.await.map_err(|e| e.to_string())
    }

    /// Asks; waits for what is on its way.
    pub(crate) async fn ask<R: Request>(&self, request: &R) -> Result<R::Response, String> {
        let begun = Instant::now();
        loop {
            let answer = self
                .connection
                .call(request, Payload::default(), DEADLINE)
                .await;
            match answer {
                Ok((answer, _)) => return Ok(answer),
                Err(e) if may_wait(&e) && begun.elapsed() < PATIENCE => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(e) => return Err(e.to_string()),
            }
        }
    }
}

fn may_wait(e: &Error) -> bool {
    let broken = matches!(
        e.code,
        ErrorCode::Disconnected | ErrorCode::DeadlineExceeded
    );
    e.retry() != Retry::Never && !broken
}

async fn view_of(address: &str, identity: Arc<Identity>) -> Answer<DirectoryView> {
    let connection = connect(address, identity, Arc::new(NoService)).await?;
    let asked = connection.call(&ListMembers, Payload::default(), VIEW_DEADLINE);
    Ok(asked.await?.0)
}

async fn leader_at(member: String, identity: Arc<Identity>) -> Answer<Connection> {
    let connection = connect(&member, identity, Arc::new(NoService)).await?;
    connection
        .call(&GetStatus, Payload::default(), Duration::from_secs(10))
        .await?;
    Ok(connection)
}
