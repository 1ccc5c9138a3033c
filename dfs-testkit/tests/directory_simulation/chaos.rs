//! What goes wrong: another mixture in each run.

use super::cluster::{Cluster, MOUNTS};
use super::log::MEMBERS;
use super::world::{Node, Planted};
use dfs_testkit::random::Random;
use std::sync::Arc;
use std::time::Duration;

/// How often what goes wrong in this run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mood {
    /// Milliseconds between two faults, at most.
    pause: u64,
    /// Thousandths of the faults that come with another one at once.
    together: u64,
    /// Thousandths of the faults that are of the directory, not of mounts.
    directory: u64,
    /// Nothing else goes wrong, if there are any.
    only: &'static [Fault],
    pub(crate) length: Duration,
}

impl Mood {
    pub(crate) fn of(random: &mut Random) -> Self {
        Self {
            pause: [2_500, 5_000, 9_000][random.index(3)],
            together: [0, 150, 400][random.index(3)],
            directory: [300, 600, 900][random.index(3)],
            only: &[],
            length: random.micros(15_000_000, 40_000_000),
        }
    }
}

impl Mood {
    /// Goes wrong as suits a planted bug: it is to be found soon.
    pub(crate) fn suit(mut self, planted: Planted) -> Self {
        self.only = match planted {
            Planted::RightFromReply => &[Fault::SlowMount],
            Planted::ForgetToFence => &[Fault::PauseMount, Fault::CutMount],
            Planted::DeposedGrants => &[Fault::CutMember, Fault::CutMember, Fault::CutMount],
            _ => return self,
        };
        self.pause = 5_000;
        self.together = 0;
        self
    }
}

/// Something that goes wrong.
#[derive(Clone, Copy, Debug)]
enum Fault {
    KillMember,
    PauseMember,
    CutMember,
    KillMount,
    PauseMount,
    CutMount,
    SlowMount,
    Jump,
    Reset,
}

/// Lets things go wrong until it is enough.
pub(crate) async fn run(cluster: Arc<Cluster>, mood: Mood) {
    let world = cluster.world.clone();
    while !world.is_healed() {
        world.sleep(300, mood.pause).await;
        loop {
            if world.is_healed() {
                return;
            }
            one(&cluster, mood);
            if !world.random(|random| random.chance(mood.together)) {
                break;
            }
        }
    }
}

fn one(cluster: &Arc<Cluster>, mood: Mood) {
    let world = &cluster.world;
    let fault = world.random(|random| match random.chance(mood.directory) {
        true => [
            Fault::KillMember,
            Fault::PauseMember,
            Fault::CutMember,
            Fault::CutMember,
        ][random.index(4)],
        false => [
            Fault::KillMount,
            Fault::PauseMount,
            Fault::CutMount,
            Fault::SlowMount,
            Fault::SlowMount,
            Fault::Jump,
            Fault::Reset,
        ][random.index(7)],
    });
    let fault = match mood.only {
        [] => fault,
        only => only[world.random(|random| random.index(only.len()))],
    };
    let mount = world.random(|random| random.index(MOUNTS));
    // Mostly the leader.
    let leader = cluster.group.leader();
    let member = world.random(|random| match leader {
        Some(leader) if random.chance(750) => leader,
        _ => random.index(MEMBERS),
    });
    // Most are short, some longer than a session may be silent.
    let time = world.random(|random| match random.chance(250) {
        true => random.micros(5_000_000, 16_000_000),
        false => random.micros(100_000, 3_000_000),
    });
    world.trace(|| format!("{fault:?}: member {member}, mount {mount}, {time:?}"));
    match fault {
        Fault::KillMember => kill_member(cluster, member, time.min(Duration::from_secs(4))),
        Fault::PauseMember => world.pause(Node::Member(member), time.min(Duration::from_secs(6))),
        Fault::CutMember => cut_member(cluster, member, time),
        Fault::KillMount => kill_mount(cluster, mount, time),
        Fault::PauseMount => world.pause(Node::Mount(mount), time),
        Fault::CutMount => cut_mount(cluster, mount, time),
        Fault::SlowMount => slow_mount(cluster, mount, time),
        Fault::Jump => world.jump(Node::Mount(mount), time),
        Fault::Reset => cluster
            .links
            .reset(Node::Mount(mount), Node::Member(member)),
    }
}

fn kill_member(cluster: &Arc<Cluster>, member: usize, time: Duration) {
    if !cluster.is_member_up(member) {
        return;
    }
    cluster.kill_member(member);
    let cluster = cluster.clone();
    tokio::spawn(async move {
        wait(&cluster, time).await;
        cluster.start_member(member);
    });
}

fn kill_mount(cluster: &Arc<Cluster>, mount: usize, time: Duration) {
    if !cluster.is_mount_up(mount) {
        return;
    }
    cluster.kill_mount(mount);
    let cluster = cluster.clone();
    tokio::spawn(async move {
        wait(&cluster, time).await;
        cluster.start_mount(mount);
    });
}

/// Until the time is over, or all faults are.
async fn wait(cluster: &Cluster, time: Duration) {
    let until = cluster.world.now() + time;
    while cluster.world.now() < until && !cluster.world.is_healed() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A member is cut off: from the other members, from mounts, or from both, in one direction or in both.
fn cut_member(cluster: &Cluster, member: usize, time: Duration) {
    let world = &cluster.world;
    let (from_members, from_mounts, out, into) = world.random(|random| {
        let whom = random.index(4);
        let way = random.index(4);
        (whom != 0, whom == 0 || whom == 1, way != 0, way != 1)
    });
    let here = Node::Member(member);
    let members = (0..MEMBERS)
        .filter(|other| *other != member)
        .map(Node::Member);
    let mounts = (0..MOUNTS).map(Node::Mount);
    let others = members
        .filter(|_| from_members)
        .chain(mounts.filter(|_| from_mounts));
    for other in others {
        if out {
            world.cut(here, other, time);
        }
        if into {
            world.cut(other, here, time);
        }
    }
}

/// Everything that a mount sends or hears takes long, and then, mostly, nothing comes through.
fn slow_mount(cluster: &Arc<Cluster>, mount: usize, time: Duration) {
    let world = cluster.world.clone();
    let slow = world.millis(1_000, 4_000);
    world.slow(Node::Mount(mount), slow);
    let cluster = cluster.clone();
    tokio::spawn(async move {
        tokio::time::sleep(slow).await;
        if !world.is_healed() && world.random(|random| random.chance(700)) {
            for member in (0..MEMBERS).map(Node::Member) {
                cluster.world.cut(Node::Mount(mount), member, time);
                cluster.world.cut(member, Node::Mount(mount), time);
            }
        }
    });
}

/// A mount is cut off from the directory, and perhaps from the file servers too.
fn cut_mount(cluster: &Cluster, mount: usize, time: Duration) {
    let world = &cluster.world;
    let (servers, out, into) = world.random(|random| {
        let way = random.index(4);
        (random.chance(400), way != 0, way != 1)
    });
    let here = Node::Mount(mount);
    let members = (0..MEMBERS).map(Node::Member);
    let others = members.chain(
        (0..super::servers::SERVERS)
            .filter(|_| servers)
            .map(Node::Server),
    );
    for other in others {
        if out {
            world.cut(here, other, time);
        }
        if into {
            world.cut(other, here, time);
        }
    }
}
