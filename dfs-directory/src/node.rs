//! One member of the directory service: its parts, wired behind one port.

use crate::admin_api::AdminApi;
use crate::config::Config;
use crate::mount_api::MountApi;
use crate::namespace::{self, NamespaceCommand};
use crate::raft::{self, RaftHandle, RaftOptions};
use crate::server_api::ServerApi;
use crate::state::{Change, Outcome};
use crate::storage::identity::Stage;
use crate::storage::{DataDir, Identity as DataIdentity, durable};
use crate::tasks::Tasks;
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::{ClusterId, Incarnation, MemberId, NodeId};
use dfs_proto::transport::{
    Connection, Identity, Incoming, Listener, Role, Secret, Service, read_secret,
};
use std::fmt;
use std::sync::Arc;
use tokio::sync::watch;

/// Why a member does not run; the text says what to do.
#[derive(Debug)]
pub struct NodeError(String);

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NodeError {}

fn failed(e: impl fmt::Display) -> NodeError {
    NodeError(e.to_string())
}

/// Runs a member until `stop` completes or its disk fails.
pub async fn run(config: Config, stop: impl Future<Output = ()>) -> Result<(), NodeError> {
    let secret = config
        .secret_file
        .as_deref()
        .map(read_secret)
        .transpose()
        .map_err(failed)?;
    let data = open_data(&config)?;
    let path = data.path().to_owned();
    let own = data.identity();
    let identity = Arc::new(identity(own, secret)?);
    let listener = Listener::bind(&config.listen, &identity)
        .await
        .map_err(failed)?;
    let bound = listener.local_addr().to_string();
    let address = config.advertise.clone().unwrap_or_else(|| bound.clone());
    if listener.local_addr().ip().is_unspecified() && config.advertise.is_none() {
        return Err(NodeError(format!(
            "listening on {bound}, all addresses: say with --advertise which one others reach"
        )));
    }
    let raft = raft::start(RaftOptions::new(data, address.clone()))
        .await
        .map_err(failed)?;
    let founded = found(&raft, &config, own.cluster).await;
    if let Err(e) = founded {
        raft.shutdown().await;
        return Err(e);
    }

    let (tasks, placement, events) = Tasks::new(raft.clone());
    let tasks = tokio::spawn(tasks.run());
    let mounts = MountApi::start(raft.clone(), placement.clone(), vec![address.clone()]);
    let router = Arc::new(Router {
        admin: AdminApi::new(raft.clone(), placement, mounts.clone(), address.clone()),
        servers: ServerApi::new(events),
        mounts,
    });
    let (stopping, stopped) = watch::channel(false);
    let accepting = tokio::spawn(listener.run(identity, router, async move {
        let mut stopped = stopped;
        // An error means that the member is gone, which is a stop too.
        let _ = stopped.wait_for(|stop| *stop).await;
    }));
    durable::replace(&path.join("address"), bound.as_bytes())
        .map_err(|e| NodeError(format!("{}: {e}", path.join("address").display())))?;
    log::info!(
        "{} of cluster {} serves on {bound}",
        own.member,
        own.cluster
    );

    let ended = tokio::select! {
        () = stop => Ok(()),
        why = raft.failed() => Err(NodeError(format!("the member has failed: {why}"))),
        ended = tasks => Err(match ended {
            Ok(why) => failed(why),
            Err(e) => NodeError(format!("a task of the member has died: {e}")),
        }),
    };
    log::info!("stopping");
    stopping.send_replace(true);
    if let Err(e) = accepting.await {
        log::error!("the listener has died: {e}");
    }
    raft.shutdown().await;
    ended
}

/// Holds the data dir; an empty one is formatted if that is wanted.
fn open_data(config: &Config) -> Result<DataDir, NodeError> {
    if DataDir::is_formatted(&config.data).map_err(failed)? {
        return DataDir::open(&config.data, None).map_err(failed);
    }
    if !config.format {
        return Err(NodeError(format!(
            "{} is not the data dir of a directory member; --format founds a new cluster in it",
            config.data.display()
        )));
    }
    let identity = DataIdentity {
        cluster: ClusterId((u128::from(random()?) << 64) | u128::from(random()?)),
        node: NodeId((u128::from(random()?) << 64) | u128::from(random()?)),
        member: MemberId(1),
        stage: Stage::Founding,
    };
    // Numbers that can't be are refused before anything is written.
    config.shape.format(identity.cluster).map_err(NodeError)?;
    DataDir::format(&config.data, identity).map_err(failed)
}

/// Waits for the lead, and logs what the cluster is if that is its first entry.
async fn found(raft: &RaftHandle, config: &Config, cluster: ClusterId) -> Result<(), NodeError> {
    raft.leading().await.map_err(failed)?;
    let present = raft.read(namespace::read::format).await.map_err(failed)?;
    if let Some(present) = present {
        if config.format {
            log::info!(
                "{} holds a cluster already: --format is ignored",
                config.data.display()
            );
        }
        if present.cluster != cluster {
            return Err(NodeError(format!(
                "{}: its identity says cluster {cluster}, its tables {}: restore it as a whole",
                config.data.display(),
                present.cluster
            )));
        }
        return Ok(());
    }
    if !config.format {
        return Err(NodeError(format!(
            "the format of {} was interrupted; start it with --format again",
            config.data.display()
        )));
    }
    let format = config.shape.format(cluster).map_err(NodeError)?;
    let change = Change::Namespace(NamespaceCommand::Format(format));
    match raft.commit(change).await.map_err(failed)? {
        Outcome::Namespace(outcome) => match outcome.0 {
            Ok(_) => Ok(()),
            Err(code) => Err(failed(Error::new(code, "the cluster was not formatted"))),
        },
        other => Err(NodeError(format!(
            "a strange outcome of the format: {other:?}"
        ))),
    }
}

fn identity(own: DataIdentity, secret: Option<Secret>) -> Result<Identity, NodeError> {
    Ok(Identity {
        cluster: Some(own.cluster),
        node: own.node,
        incarnation: Incarnation(random()?),
        role: Role::Directory,
        secret,
    })
}

fn random() -> Result<u64, NodeError> {
    getrandom::u64().map_err(|e| NodeError(format!("the system has no random numbers: {e}")))
}

/// From the method number to the part that serves it.
struct Router {
    mounts: MountApi,
    servers: ServerApi,
    admin: AdminApi,
}

impl Service for Router {
    fn serve(&self, incoming: Incoming) {
        let method = incoming.method;
        if MountApi::serves(method) {
            if incoming.connection.peer().role == Role::FileServer {
                return incoming.refuse(Error::new(
                    ErrorCode::NotPermitted,
                    "a file server has no session",
                ));
            }
            self.mounts.serve(incoming);
        } else if ServerApi::serves(method) {
            self.servers.serve(incoming);
        } else if AdminApi::serves(method) {
            self.admin.serve(incoming);
        } else {
            incoming.refuse_unknown();
        }
    }

    fn connected(&self, connection: &Connection) {
        self.mounts.connected(connection);
    }

    fn disconnected(&self, connection: &Connection) {
        self.mounts.disconnected(connection);
    }
}
