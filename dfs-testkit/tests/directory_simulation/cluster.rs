//! The processes of a run: members of the directory, mounts, and the file servers.

use super::check::holds::Holds;
use super::check::values::Values;
use super::link::{Links, Place};
use super::log::{Group, MEMBERS};
use super::mount::Mount;
use super::programs::Program;
use super::servers::{Reached, Servers};
use super::world::{Node, Planted, World, locked};
use dfs_directory::mount_api::MountApi;
use dfs_directory::namespace::{Format, NamespaceCommand, NamespaceOutcome};
use dfs_directory::raft::RaftHandle;
use dfs_directory::session::{SessionChanged, SessionCommand, SessionOutcome};
use dfs_directory::state::memory::MemoryTables;
use dfs_directory::state::{self, Change, Command, Outcome};
use dfs_directory::tasks::Placement;
use dfs_proto::attr::{FileKind, Timestamp};
use dfs_proto::error::{ErrorCode, Result};
use dfs_proto::ids::{ClusterId, Incarnation, InodeId, NodeId, ROOT, Sequence, SessionId};
use dfs_proto::msg::namespace::{Creator, Mutation};
use dfs_proto::msg::session::Stamp;
use dfs_proto::name::FileName;
use dfs_proto::transport::simulated::End;
use dfs_proto::transport::{Connection, Identity, Role, Service};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

const CLUSTER: ClusterId = ClusterId(7);

pub(crate) const MOUNTS: usize = 3;

/// Files with numbers in them.
const FILES: usize = 2;

/// One run of a member.
pub(crate) struct Process {
    api: MountApi,
    /// The present connection of each run of a mount.
    present: Mutex<BTreeMap<Incarnation, End>>,
}

/// Everything that runs.
pub(crate) struct Cluster {
    pub(crate) world: Arc<World>,
    pub(crate) group: Arc<Group>,
    pub(crate) servers: Arc<Servers>,
    pub(crate) links: Links,
    pub(crate) holds: Mutex<Holds>,
    pub(crate) values: Mutex<Values>,
    members: Mutex<Vec<Option<Arc<Process>>>>,
    mounts: Mutex<Vec<Option<Arc<Mount>>>>,
    runs: Mutex<u64>,
    /// Files with numbers in them.
    pub(crate) files: Vec<InodeId>,
    /// Dirs in which names are made.
    pub(crate) dirs: Vec<InodeId>,
}

pub(crate) fn name(text: &str) -> FileName {
    FileName::new(text.as_bytes()).expect("a name")
}

pub(crate) fn creator() -> Creator {
    Creator {
        uid: 0,
        gid: 0,
        umask: 0,
    }
}

/// What there is from the beginning, as commands of the log; the files, and the dirs.
fn founded() -> (Vec<Change>, Vec<InodeId>, Vec<InodeId>) {
    let mut tables = MemoryTables::default();
    let mut changes = Vec::new();
    let mut apply = |change: Change| {
        let now = Timestamp::default();
        changes.push(change.clone());
        state::apply(&mut tables, &Command { now, change }).expect("tables in memory")
    };
    apply(Change::Namespace(NamespaceCommand::Format(
        Format::defaults(CLUSTER),
    )));
    let opened = apply(Change::Session(SessionCommand::Open {
        incarnation: Incarnation(1),
        host: "founder".into(),
        pid: 1,
        mount_point: "/".into(),
    }));
    let Outcome::Session(SessionOutcome(Ok(SessionChanged::Opened { session, .. }))) = opened
    else {
        panic!("no session: {opened:?}");
    };
    let mut sequence = 0;
    let mut make = |mutation: Mutation| {
        sequence += 1;
        let stamp = Stamp {
            session,
            sequence: Sequence(sequence),
            lowest_unanswered: Sequence(sequence),
        };
        let made = apply(Change::Namespace(NamespaceCommand::Mutate {
            stamp,
            mutation,
        }));
        match made {
            Outcome::Namespace(NamespaceOutcome(Ok(changed))) => {
                changed.attr.expect("an inode").inode
            }
            other => panic!("not made: {other:?}"),
        }
    };
    let files = (0..FILES).map(|number| Mutation::MakeNode {
        parent: ROOT,
        name: name(&format!("file{number}")),
        kind: FileKind::Regular,
        mode: 0o644,
        device: 0,
        creator: creator(),
    });
    let files: Vec<InodeId> = files.map(&mut make).collect();
    let dir = make(Mutation::MakeDir {
        parent: ROOT,
        name: name("dir"),
        mode: 0o755,
        creator: creator(),
    });
    for end in [
        SessionCommand::BeginEnd { session },
        SessionCommand::FinishEnd { session },
        SessionCommand::ForgetFence { session },
    ] {
        apply(Change::Session(end));
    }
    (changes, files, vec![ROOT, dir])
}

impl Cluster {
    pub(crate) fn start(world: &Arc<World>) -> Arc<Self> {
        for member in 0..MEMBERS {
            world.add_clock(Node::Member(member));
        }
        for mount in 0..MOUNTS {
            world.add_clock(Node::Mount(mount));
        }
        let (changes, files, dirs) = founded();
        let cluster = Arc::new(Self {
            world: world.clone(),
            group: Group::new(world, changes),
            servers: Servers::new(world),
            links: Links::default(),
            holds: Mutex::default(),
            values: Mutex::default(),
            members: Mutex::new((0..MEMBERS).map(|_| None).collect()),
            mounts: Mutex::new((0..MOUNTS).map(|_| None).collect()),
            runs: Mutex::new(100),
            files,
            dirs,
        });
        for member in 0..MEMBERS {
            cluster.start_member(member);
        }
        for mount in 0..MOUNTS {
            cluster.start_mount(mount);
        }
        cluster
    }

    fn next_run(&self) -> u64 {
        let mut runs = locked(&self.runs);
        *runs += 1;
        *runs
    }

    // Members.

    pub(crate) fn start_member(self: &Arc<Self>, member: usize) {
        self.world.trace(|| format!("member {member} starts"));
        let run = self.group.start(member);
        let raft = RaftHandle::simulated(run);
        let reached = Reached {
            world: self.world.clone(),
            servers: self.servers.clone(),
            group: self.group.clone(),
            raft: raft.clone(),
            member,
        };
        let placement = Placement::simulated(Arc::new(reached));
        let world = self.world.clone();
        let clock = move || world.clock(Node::Member(member));
        let api = MountApi::start_at(Arc::new(clock), raft, placement);
        let process = Process {
            api,
            present: Mutex::default(),
        };
        locked(&self.members)[member] = Some(Arc::new(process));
    }

    pub(crate) fn kill_member(&self, member: usize) {
        self.world.trace(|| format!("member {member} is killed"));
        locked(&self.members)[member] = None;
        self.group.kill(member);
        self.links.drop_all_of(Node::Member(member));
    }

    pub(crate) fn is_member_up(&self, member: usize) -> bool {
        locked(&self.members)[member].is_some()
    }

    // Mounts.

    pub(crate) fn start_mount(self: &Arc<Self>, number: usize) {
        let run = self.next_run();
        self.world
            .trace(|| format!("mount {number} starts as run {run}"));
        let mount = Mount::start(self, number, run);
        locked(&self.mounts)[number] = Some(mount);
    }

    pub(crate) fn kill_mount(&self, number: usize) {
        let mount = locked(&self.mounts)[number].take();
        if let Some(mount) = mount {
            self.world.trace(|| format!("mount {number} is killed"));
            mount.kill();
            self.links.drop_all_of(Node::Mount(number));
        }
    }

    /// What has not ended on the mounts.
    pub(crate) fn unfinished(&self) -> Vec<(usize, Vec<Program>)> {
        let running = self.mounts().into_iter().map(|m| (m.number, m.running()));
        running
            .filter(|(_, programs)| !programs.is_empty())
            .collect()
    }

    /// The run is over: nothing keeps anything.
    pub(crate) fn forget(&self) {
        locked(&self.members).clear();
        locked(&self.mounts).clear();
        self.links.forget();
    }

    pub(crate) fn mounts(&self) -> Vec<Arc<Mount>> {
        locked(&self.mounts).iter().flatten().cloned().collect()
    }

    pub(crate) fn is_mount_up(&self, number: usize) -> bool {
        locked(&self.mounts)[number].is_some()
    }

    /// A mount connects to a member.
    pub(crate) async fn dial(
        &self,
        number: usize,
        run: u64,
        member: usize,
        callbacks: Arc<dyn Service>,
    ) -> Result<Connection> {
        let (here, there) = (Node::Mount(number), Node::Member(member));
        // A handshake goes three ways.
        for way in [(here, there), (there, here), (here, there)] {
            if !self.world.travel(way.0, way.1).await {
                // The kernel tries again, for longer than anybody waits.
                std::future::pending::<()>().await;
            }
        }
        let process = locked(&self.members)[member].clone();
        let process = process.ok_or(ErrorCode::Disconnected)?;
        let identity = |role, node: u128, incarnation| Identity {
            cluster: Some(CLUSTER),
            node: NodeId(node),
            incarnation: Incarnation(incarnation),
            role,
            secret: None,
        };
        let directory = identity(Role::Directory, member as u128 + 1, member as u64 + 1);
        let mount = identity(Role::Mount, u128::from(run), run);
        let near = Place {
            node: here,
            end: End::new(&directory, 7000 + member as u16, callbacks),
        };
        let far = Place {
            node: there,
            end: End::new(
                &mount,
                40_000 + number as u16,
                Arc::new(process.api.clone()),
            ),
        };
        let old = locked(&process.present).insert(Incarnation(run), far.end.clone());
        if let Some(old) = old {
            old.connection().close("a newer connection of the same run");
        }
        let connection = near.end.connection().clone();
        self.links.join(&self.world, near, far);
        Ok(connection)
    }

    /// Whether what a session believes does no harm any more.
    pub(crate) fn is_fenced(&self, session: SessionId) -> bool {
        self.servers.is_fenced(session) && !self.world.planted(Planted::ForgetToFence)
    }
}
