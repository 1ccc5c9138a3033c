//! A directory in memory and file servers that answer as told.

use crate::namespace::{Format, NamespaceCommand};
use crate::raft::RaftHandle;
use crate::server_api::ServerApi;
use crate::state::{Change, Outcome};
use crate::tasks::{Placement, Tasks};
use dfs_proto::cluster::{ClusterMap, GroupConfig};
use dfs_proto::error::Result;
use dfs_proto::ids::{
    ClusterId, Epoch, GroupId, Incarnation, InodeId, NodeId, ServerId, ServerRun, SessionId,
};
use dfs_proto::msg::Request;
use dfs_proto::msg::control::{
    AdoptEpochs, CutInode, CutMade, EpochsAdopted, EpochsEffective, EqualiseGroups, FenceSessions,
    GroupsEqualised, SessionsFenced,
};
use dfs_proto::msg::registry::{
    DataDirPast, ProposeInSync, RegisterServer, RepairWork, ReportSuspect, ServerHeartbeat,
    ServerRegistered, Space,
};
use dfs_proto::payload::Payload;
use dfs_proto::timing::SERVER_HEARTBEAT;
use dfs_proto::transport::{Connection, Identity, Incoming, Listener, Role, Service, connect};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Nothing here takes this long; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(20);
const CLUSTER: ClusterId = ClusterId(7);

pub(super) fn identity(role: Role, node: u128, incarnation: u64) -> Arc<Identity> {
    Arc::new(Identity {
        cluster: Some(CLUSTER),
        node: NodeId(node),
        incarnation: Incarnation(incarnation),
        role,
        secret: None,
    })
}

pub(super) struct Directory {
    pub(super) raft: RaftHandle,
    pub(super) placement: Placement,
    address: String,
    tasks: Vec<JoinHandle<()>>,
}

impl Directory {
    pub(super) async fn start(raft: RaftHandle) -> Self {
        let (tasks, placement, events) = Tasks::new(raft.clone());
        let own = identity(Role::Directory, 1, rand());
        let listener = Listener::bind("127.0.0.1:0", &own).await.unwrap();
        let address = listener.local_addr().to_string();
        let service = Arc::new(ServerApi::new(events));
        let tasks = vec![
            tokio::spawn(async move {
                tasks.run().await;
            }),
            tokio::spawn(listener.run(own, service, std::future::pending())),
        ];
        Self {
            raft,
            placement,
            address,
            tasks,
        }
    }

    pub(super) async fn format(replicas: u8, groups: u32) -> Self {
        let raft = RaftHandle::in_memory();
        let format = Format {
            replicas,
            groups,
            min_in_sync: if replicas >= 3 { 2 } else { 1 },
            ..Format::defaults(CLUSTER)
        };
        let directory = Self::start(raft).await;
        directory.commit(NamespaceCommand::Format(format)).await;
        directory
    }

    pub(super) async fn commit(&self, command: NamespaceCommand) -> Outcome {
        self.raft.commit(Change::Namespace(command)).await.unwrap()
    }

    /// Ends as a killed process does: nothing is said to anybody. The log stays.
    pub(super) async fn kill(self) -> RaftHandle {
        for task in &self.tasks {
            task.abort();
        }
        for task in self.tasks {
            let _ = task.await;
        }
        self.raft
    }

    pub(super) async fn map(
        &self,
        what: &str,
        is: impl Fn(&ClusterMap) -> bool,
    ) -> Arc<ClusterMap> {
        let mut maps = self.placement.subscribe();
        let found = tokio::time::timeout(PATIENCE, maps.wait_for(|map| is(map))).await;
        match found {
            Ok(map) => map.unwrap().clone(),
            Err(_) => panic!("never seen: {what}; last map: {:?}", self.placement.map()),
        }
    }

    /// All groups serve with exactly these in-sync.
    pub(super) async fn serving_with(&self, servers: &[u32]) -> Arc<ClusterMap> {
        let wanted: BTreeSet<ServerId> = servers.iter().map(|s| ServerId(*s)).collect();
        self.map(&format!("all groups in-sync on {servers:?}"), move |map| {
            !map.groups.is_empty()
                && map.groups.iter().all(|group| {
                    group.primary.is_some()
                        && group.in_sync.iter().copied().collect::<BTreeSet<_>>() == wanted
                })
        })
        .await
    }
}

fn rand() -> u64 {
    getrandom::u64().unwrap()
}

/// What a file server in the test remembers and how it behaves.
#[derive(Default)]
pub(super) struct Behaviour {
    pub(super) configs: BTreeMap<GroupId, GroupConfig>,
    pub(super) effective: BTreeMap<GroupId, Epoch>,
    pub(super) cuts: Vec<CutInode>,
    pub(super) fenced: BTreeSet<SessionId>,
    pub(super) equalised: u32,
    /// Requests of these methods are left unanswered.
    pub(super) deaf: BTreeSet<u16>,
    held: Vec<Incoming>,
}

struct Played {
    behaviour: Mutex<Behaviour>,
}

impl Service for Played {
    fn serve(&self, incoming: Incoming) {
        let mut own = self.behaviour.lock().unwrap();
        if own.deaf.contains(&incoming.method) {
            own.held.push(incoming);
            return;
        }
        let at = |own: &Behaviour| -> Vec<(GroupId, Epoch)> {
            own.configs
                .values()
                .map(|config| (config.group, config.epoch))
                .collect()
        };
        match incoming.method {
            AdoptEpochs::METHOD => {
                let request: AdoptEpochs = incoming.decode::<AdoptEpochs>().unwrap();
                own.fenced.extend(request.fenced);
                for config in request.configs {
                    own.configs.insert(config.group, config);
                }
                let epochs = at(&own);
                incoming.answer::<AdoptEpochs>(Ok(EpochsAdopted { epochs }), Payload::default());
            }
            EqualiseGroups::METHOD => {
                let request = incoming.decode::<EqualiseGroups>().unwrap();
                own.equalised += 1;
                let answer = GroupsEqualised {
                    groups: request.groups,
                    suspects: Vec::new(),
                };
                incoming.answer::<EqualiseGroups>(Ok(answer), Payload::default());
            }
            EpochsEffective::METHOD => {
                let request = incoming.decode::<EpochsEffective>().unwrap();
                own.effective.extend(request.groups);
                incoming.answer::<EpochsEffective>(Ok(()), Payload::default());
            }
            CutInode::METHOD => {
                let request = incoming.decode::<CutInode>().unwrap();
                let asked = request.groups.clone();
                own.cuts.push(request);
                let mut epochs = at(&own);
                epochs.retain(|made| asked.contains(made));
                incoming.answer::<CutInode>(Ok(CutMade { epochs }), Payload::default());
            }
            FenceSessions::METHOD => {
                let request = incoming.decode::<FenceSessions>().unwrap();
                own.fenced.extend(request.sessions);
                let epochs = at(&own);
                incoming.answer::<FenceSessions>(Ok(SessionsFenced { epochs }), Payload::default());
            }
            _ => incoming.refuse_unknown(),
        }
    }
}

/// One run of a file server.
pub(super) struct Server {
    pub(super) run: ServerRun,
    pub(super) registered: ServerRegistered,
    connection: Connection,
    played: Arc<Played>,
    heartbeats: JoinHandle<()>,
}

impl Server {
    pub(super) async fn start(directory: &Directory, node: u128, incarnation: u64) -> Self {
        Self::start_as(directory, node, incarnation, false).await
    }

    pub(super) async fn start_as(
        directory: &Directory,
        node: u128,
        incarnation: u64,
        clean: bool,
    ) -> Self {
        let played = Arc::new(Played {
            behaviour: Mutex::default(),
        });
        Self::connect(directory, node, incarnation, clean, played).await
    }

    async fn connect(
        directory: &Directory,
        node: u128,
        incarnation: u64,
        clean: bool,
        played: Arc<Played>,
    ) -> Self {
        let own = identity(Role::FileServer, node, incarnation);
        let connection = connect(&directory.address, own, played.clone())
            .await
            .unwrap();
        let request = RegisterServer {
            node: NodeId(node),
            incarnation: Incarnation(incarnation),
            address: format!("127.0.0.1:{node}"),
            past: DataDirPast {
                runs: (1..incarnation).map(Incarnation).collect(),
                intact: if clean { incarnation as u32 - 1 } else { 0 },
                accept_rollback: false,
            },
            // The played server's disk keeps what it adopted.
            epochs: (0..64)
                .map(|group| (GroupId(group), Epoch(u64::MAX)))
                .collect(),
            space: Space {
                total_bytes: 3_000,
                free_bytes: 1_500,
                chunks: 0,
            },
        };
        let (registered, _) = connection
            .call(&request, Payload::default(), PATIENCE)
            .await
            .unwrap();
        let run = ServerRun {
            server: registered.server,
            incarnation: Incarnation(incarnation),
        };
        let beating = connection.clone();
        let heartbeats = tokio::spawn(async move {
            let request = ServerHeartbeat {
                run,
                space: request.space,
                repair: RepairWork::default(),
                failure: String::new(),
            };
            loop {
                tokio::time::sleep(SERVER_HEARTBEAT).await;
                if beating
                    .call(&request, Payload::default(), PATIENCE)
                    .await
                    .is_err()
                {
                    return;
                }
            }
        });
        Self {
            run,
            registered,
            connection,
            played,
            heartbeats,
        }
    }

    /// The same run on a new connection, as after a restart of the directory.
    pub(super) async fn reconnect(self, directory: &Directory) -> Self {
        self.connection.close("reconnects");
        let node = u128::from(self.run.server.0);
        Self::connect(
            directory,
            node,
            self.run.incarnation.0,
            false,
            self.played.clone(),
        )
        .await
    }

    pub(super) fn behaviour(&self) -> std::sync::MutexGuard<'_, Behaviour> {
        self.played.behaviour.lock().unwrap()
    }

    pub(super) fn kill(&self) {
        self.heartbeats.abort();
        self.connection.close("killed");
    }

    /// Gives no sign of life any more, but keeps its connection.
    pub(super) fn fall_silent(&self) {
        self.heartbeats.abort();
    }

    pub(super) async fn suspect(&self, suspect: ServerRun) {
        let groups = self
            .behaviour()
            .configs
            .values()
            .map(|c| (c.group, c.epoch))
            .collect();
        let report = ReportSuspect {
            from: self.run,
            suspect,
            groups,
            reason: "does not answer".into(),
        };
        self.connection
            .call(&report, Payload::default(), PATIENCE)
            .await
            .unwrap();
    }

    /// Waits until this server has heard that the group's last epoch serves; returns it.
    pub(super) async fn told(&self, group: GroupId, after: Epoch) -> GroupConfig {
        until(
            &format!("{} hears of a later epoch of {group}", self.run),
            || {
                let own = self.behaviour();
                let config = own.configs.get(&group)?;
                let told = own.effective.get(&group) == Some(&config.epoch);
                (told && config.epoch > after).then(|| config.clone())
            },
        )
        .await
    }

    /// Says of every group that it leads that a joining member is up to date.
    pub(super) async fn propose_all(&self, joined: ServerRun) -> Result<()> {
        let own: Vec<GroupConfig> = self.behaviour().configs.values().cloned().collect();
        let led = own.into_iter().filter(|config| {
            config.primary == Some(self.run.server) && config.joining().any(|r| r == joined)
        });
        for config in led {
            let request = ProposeInSync {
                from: self.run,
                group: config.group,
                epoch: config.epoch,
                joined,
            };
            self.connection
                .call(&request, Payload::default(), PATIENCE)
                .await?;
        }
        Ok(())
    }
}

/// Waits for something to be there.
pub(super) async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = std::time::Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "never seen: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A regular file for cuts, made by a session of its own.
pub(super) async fn create_file(directory: &Directory) -> (SessionId, InodeId) {
    use crate::session::{SessionChanged, SessionCommand, SessionOutcome};
    use dfs_proto::msg::namespace::Mutation;
    let open = SessionCommand::Open {
        incarnation: Incarnation(rand()),
        host: "h".into(),
        pid: 1,
        mount_point: "/m".into(),
    };
    let outcome = directory.raft.commit(Change::Session(open)).await.unwrap();
    let Outcome::Session(SessionOutcome(Ok(SessionChanged::Opened { session, .. }))) = outcome
    else {
        panic!("no session: {outcome:?}");
    };
    let mutation = Mutation::Create {
        parent: dfs_proto::ids::ROOT,
        name: dfs_proto::name::FileName::new(b"f").unwrap(),
        mode: 0o644,
        creator: dfs_proto::msg::namespace::Creator {
            uid: 0,
            gid: 0,
            umask: 0,
        },
        exclusive: true,
    };
    let stamp = dfs_proto::msg::session::Stamp {
        session,
        sequence: dfs_proto::ids::Sequence(1),
        lowest_unanswered: dfs_proto::ids::Sequence(1),
    };
    let Outcome::Namespace(made) = directory
        .commit(NamespaceCommand::Mutate { stamp, mutation })
        .await
    else {
        panic!("a strange outcome");
    };
    (session, made.0.unwrap().attr.unwrap().inode)
}
