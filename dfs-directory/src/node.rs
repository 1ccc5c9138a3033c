//! One member of the directory service: its parts, wired behind one port.

use crate::admin_api::AdminApi;
use crate::backup::restore;
use crate::config::Config;
use crate::joining;
use crate::member_api::{self, MemberApi};
use crate::mount_api::MountApi;
use crate::namespace::{self, NamespaceCommand};
use crate::raft::{self, RaftHandle, RaftOptions};
use crate::server_api::ServerApi;
use crate::state::level::FEATURE_LEVEL;
use crate::state::{Change, Outcome};
use crate::storage::identity::Stage;
use crate::storage::{DataDir, Identity as DataIdentity, durable};
use crate::tasks::Tasks;
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::{ClusterId, Incarnation, MemberId, NodeId};
use dfs_proto::transport::{Connection, Identity, Incoming, Listener, Role, Service, read_secret};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A leader that has handed over still answers for this long: a heartbeat of everybody.
const LAST_WORDS: Duration = dfs_proto::timing::SERVER_HEARTBEAT;

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
    if let Some(to) = &config.export {
        return restore::export(&config.data, to).map_err(failed);
    }
    let secret = config
        .secret_file
        .as_deref()
        .map(read_secret)
        .transpose()
        .map_err(failed)?;
    let place = open_data(&config)?;
    let mut identity = Identity {
        cluster: place.cluster(),
        node: place.node(),
        incarnation: Incarnation(random()?),
        role: Role::Directory,
        secret,
    };
    let listener = Listener::bind(&kept_address(&config), &identity)
        .await
        .map_err(failed)?;
    let bound = listener.local_addr().to_string();
    let address = config.advertise.clone().unwrap_or_else(|| bound.clone());
    if listener.local_addr().ip().is_unspecified() && config.advertise.is_none() {
        return Err(NodeError(format!(
            "listening on {bound}, all addresses: say with --advertise which one others reach"
        )));
    }
    let mut stop = std::pin::pin!(stop);
    let supports = config.feature_level.unwrap_or(FEATURE_LEVEL);
    let data = match place {
        Place::Held(data) => data,
        Place::Joins(node) => {
            let asking = Arc::new(identity.clone());
            let joined = tokio::select! {
                joined = joining::join(&config.join, &asking, &address, supports) => joined.map_err(failed)?,
                () = &mut stop => return Ok(()),
            };
            identity.cluster = Some(joined.cluster);
            let own = DataIdentity {
                cluster: joined.cluster,
                node,
                member: joined.member,
                stage: Stage::Joining,
            };
            DataDir::format(&config.data, own).map_err(failed)?
        }
    };
    let path = data.path().to_owned();
    let own = data.identity();
    let identity = Arc::new(identity);
    let mut options = RaftOptions::new(data, address.clone());
    options.identity = Some(identity.clone());
    options.supports = supports;
    let raft = raft::start(options).await.map_err(failed)?;
    let founded = match own.stage {
        Stage::Founding => found(&raft, &config, own, &address).await,
        Stage::Founded | Stage::Joining => check_cluster(&raft, &config, own.cluster),
    };
    if let Err(e) = founded {
        raft.shutdown().await;
        return Err(e);
    }

    let (tasks, placement, events) = Tasks::new(raft.clone());
    let tasks = tasks.waits_for_returns(Duration::from_secs(config.return_wait));
    let tasks = tokio::spawn(tasks.run());
    let mounts = MountApi::start(raft.clone(), placement.clone());
    let router = Arc::new(Router {
        admin: AdminApi::new(raft.clone(), placement, events.clone(), mounts.clone()),
        servers: ServerApi::new(events),
        members: MemberApi::new(raft.clone()),
        mounts,
    });
    let (stopping, stopped) = watch::channel(false);
    let announced = joining::announce(raft.clone(), own.member, identity.clone(), address.clone());
    let mut beside = JoinSet::new();
    beside.spawn(announced);
    if own.stage == Stage::Founded && config.format {
        beside.spawn(found_late(raft.clone(), config, own, address));
    }
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
    if ended.is_ok() && raft.status().leading {
        raft.hand_over().await;
        // Who asks now is told who leads: that is quicker than to find out.
        tokio::time::sleep(LAST_WORDS).await;
    }
    beside.shutdown().await;
    stopping.send_replace(true);
    if let Err(e) = accepting.await {
        log::error!("the listener has died: {e}");
    }
    raft.shutdown().await;
    ended
}

/// Where to listen: a free port is chosen once, and kept.
fn kept_address(config: &Config) -> String {
    let host = config.listen.strip_suffix(":0");
    let kept = std::fs::read_to_string(config.data.join("address")).ok();
    match (host, kept) {
        (Some(host), Some(kept)) if kept.rsplit_once(':').is_some_and(|(h, _)| h == host) => kept,
        _ => config.listen.clone(),
    }
}

/// Where the member's data are, or will be.
enum Place {
    Held(DataDir),
    /// An empty dir: the directory gives the new node its place.
    Joins(NodeId),
}

impl Place {
    fn cluster(&self) -> Option<ClusterId> {
        match self {
            Self::Held(data) => Some(data.identity().cluster),
            Self::Joins(_) => None,
        }
    }

    fn node(&self) -> NodeId {
        match self {
            Self::Held(data) => data.identity().node,
            Self::Joins(node) => *node,
        }
    }
}

/// Holds the data dir; an empty one is formatted if that is wanted.
fn open_data(config: &Config) -> Result<Place, NodeError> {
    restore::check_whole(&config.data).map_err(failed)?;
    if DataDir::is_formatted(&config.data).map_err(failed)? {
        if config.import.is_some() {
            return Err(NodeError(format!(
                "{} holds a member already: --import takes an empty dir",
                config.data.display()
            )));
        }
        return DataDir::open(&config.data, None)
            .map(Place::Held)
            .map_err(failed);
    }
    let node = NodeId((u128::from(random()?) << 64) | u128::from(random()?));
    if let Some(from) = &config.import {
        let supports = config.feature_level.unwrap_or(FEATURE_LEVEL);
        return restore::import(&config.data, from, node, supports)
            .map(Place::Held)
            .map_err(failed);
    }
    if !config.join.is_empty() {
        return Ok(Place::Joins(node));
    }
    if !config.format {
        return Err(NodeError(format!(
            "{} is not the data dir of a directory member; --format founds a new cluster in it, \
             --join makes it a member of one that runs",
            config.data.display()
        )));
    }
    let identity = DataIdentity {
        cluster: ClusterId((u128::from(random()?) << 64) | u128::from(random()?)),
        node,
        member: MemberId(1),
        stage: Stage::Founding,
    };
    // Numbers that can't be are refused before anything is written.
    config.shape.format(identity.cluster).map_err(NodeError)?;
    DataDir::format(&config.data, identity)
        .map(Place::Held)
        .map_err(failed)
}

/// Waits for the lead, and logs what the cluster is and who its first member, if those are not
/// its first entries already.
async fn found(
    raft: &RaftHandle,
    config: &Config,
    own: DataIdentity,
    address: &str,
) -> Result<(), NodeError> {
    raft.leading().await.map_err(failed)?;
    check_cluster(raft, config, own.cluster)?;
    let present = raft.read(namespace::read::format).await.map_err(failed)?;
    if present.is_none() {
        if !config.format {
            return Err(NodeError(format!(
                "the format of {} was interrupted; start it with --format again",
                config.data.display()
            )));
        }
        let format = config.shape.format(own.cluster).map_err(NodeError)?;
        let change = Change::Namespace(NamespaceCommand::Format(format));
        match raft.commit(change).await.map_err(failed)? {
            Outcome::Namespace(outcome) => {
                outcome
                    .0
                    .map_err(|code| failed(Error::new(code, "the cluster was not formatted")))?;
            }
            other => {
                return Err(NodeError(format!(
                    "a strange outcome of the format: {other:?}"
                )));
            }
        }
    }
    let member = member_api::admit(raft, own.node, address.to_owned(), raft.supports())
        .await
        .map_err(failed)?;
    if member != own.member {
        return Err(NodeError(format!(
            "the first member of the cluster is {}, not {member}",
            own.member
        )));
    }
    Ok(())
}

/// A founder may have died before its first entries were logged.
async fn found_late(raft: RaftHandle, config: Config, own: DataIdentity, address: String) {
    if let Err(e) = found(&raft, &config, own, &address).await {
        log::error!("{e}");
    }
}

/// Refuses tables of another cluster than the identity's.
fn check_cluster(raft: &RaftHandle, config: &Config, own: ClusterId) -> Result<(), NodeError> {
    let present = raft
        .read_local(namespace::read::format)
        .map_err(failed)?
        .map(|format| format.cluster);
    match present {
        Some(cluster) if cluster != own => Err(NodeError(format!(
            "{}: its identity says cluster {own}, its tables {cluster}: restore it as a whole",
            config.data.display(),
        ))),
        Some(_) if config.format => {
            log::info!(
                "{} holds a cluster already: --format is ignored",
                config.data.display()
            );
            Ok(())
        }
        _ => Ok(()),
    }
}

fn random() -> Result<u64, NodeError> {
    getrandom::u64().map_err(|e| NodeError(format!("the system has no random numbers: {e}")))
}

/// From the method number to the part that serves it.
struct Router {
    mounts: MountApi,
    servers: ServerApi,
    members: MemberApi,
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
        } else if MemberApi::serves(method) {
            self.members.serve(incoming);
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
