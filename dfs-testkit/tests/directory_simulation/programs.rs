//! What runs on the mounts.

use super::check::names::Key;
use super::cluster::{creator, name};
use super::mount::Mount;
use super::mount::locks::Request;
use super::world::locked;
use dfs_mount::client::held_locks::OwnerKey;
use dfs_proto::attr::FileKind;
use dfs_proto::error::{ErrorCode, Result};
use dfs_proto::ids::{InodeId, LockOwner};
use dfs_proto::lock::{LockKind, LockRange, LockSpace};
use dfs_proto::msg::namespace::{Mutation, RenameFlags};
use std::sync::Arc;
use std::time::Duration;

/// Names that the programs fight for, in each dir.
const NAMES: usize = 4;

/// A lock is waited for so long, then its program is interrupted.
const LOCK_PATIENCE: Duration = Duration::from_secs(20);

/// What each program does once more after all faults.
const LAST_ROUNDS: usize = 3;

/// A program of a mount.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Program {
    Names(u8),
    Count,
    Read,
    Ranges,
}

const PROGRAMS: [Program; 5] = [
    Program::Names(0),
    Program::Names(1),
    Program::Count,
    Program::Read,
    Program::Ranges,
];

pub(crate) fn start(mount: &Arc<Mount>) {
    for program in PROGRAMS {
        mount.begins(program);
        tokio::spawn(run(mount.clone(), program));
    }
}

async fn run(mount: Arc<Mount>, program: Program) {
    let world = mount.cluster.world.clone();
    let mut last = 0;
    while mount.is_alive() && last < LAST_ROUNDS {
        last += usize::from(world.is_healed());
        world.sleep(5, 150).await;
        // A failure is the program's: what may fail, and how, the checks say.
        let _ = match program {
            Program::Names(_) => names(&mount).await,
            Program::Count => count(&mount).await,
            Program::Read => read(&mount).await.map(drop),
            Program::Ranges => ranges(&mount).await,
        };
    }
    mount.ends(program);
}

fn any_key(mount: &Mount) -> Key {
    let cluster = &mount.cluster;
    cluster.world.random(|random| {
        let dir = cluster.dirs[random.index(cluster.dirs.len())];
        (dir, name(&format!("name{}", random.index(NAMES))))
    })
}

/// Changes a name, or looks at some.
async fn names(mount: &Arc<Mount>) -> Result<()> {
    let (parent, name) = any_key(mount);
    let (new_parent, new_name) = any_key(mount);
    let mutation = match mount.cluster.world.random(|random| random.below(12)) {
        0 | 1 => Mutation::MakeNode {
            parent,
            name,
            kind: FileKind::Regular,
            mode: 0o644,
            device: 0,
            creator: creator(),
        },
        2 => Mutation::Create {
            parent,
            name,
            mode: 0o644,
            creator: creator(),
            exclusive: true,
        },
        3 | 4 => Mutation::Unlink {
            parent,
            name,
            caller: 0,
        },
        5 | 6 => Mutation::Rename {
            parent,
            name,
            new_parent,
            new_name,
            flags: RenameFlags::default(),
            caller: 0,
        },
        7 => {
            let found = mount.look(&(parent, name)).await?;
            Mutation::Link {
                inode: found.ok_or(ErrorCode::NotFound)?,
                parent: new_parent,
                name: new_name,
            }
        }
        _ => {
            for _ in 0..4 {
                mount.look(&any_key(mount)).await?;
                mount.cluster.world.sleep(0, 30).await;
            }
            return Ok(());
        }
    };
    mount.change(mutation).await.map(drop)
}

fn any_file(mount: &Mount) -> InodeId {
    let files = &mount.cluster.files;
    let at = mount
        .cluster
        .world
        .random(|random| random.index(files.len()));
    files[at]
}

async fn read(mount: &Arc<Mount>) -> Result<u64> {
    read_of(mount, any_file(mount)).await
}

async fn read_of(mount: &Arc<Mount>, inode: InodeId) -> Result<u64> {
    mount.awake().await?;
    let cluster = &mount.cluster;
    let floor = locked(&cluster.values).floor(inode);
    let found = mount.read(inode).await?;
    let stored = cluster.servers.stored(inode);
    let read = locked(&cluster.values).read(inode, floor, found, stored);
    cluster
        .world
        .check(read.map_err(|why| format!("mount {}: {why}", mount.number)));
    Ok(found)
}

/// Counts one up in a file, under a lock.
async fn count(mount: &Arc<Mount>) -> Result<()> {
    let inode = any_file(mount);
    let request = Request {
        key: OwnerKey {
            inode,
            space: LockSpace::Flock,
            owner: LockOwner(mount.new_owner()),
        },
        kind: LockKind::Exclusive,
        range: LockRange::WHOLE,
        wait: true,
    };
    let session = mount.lock(request, LOCK_PATIENCE).await?;
    let counted = async {
        let base = read_of(mount, inode).await?;
        mount.cluster.world.sleep(0, 40).await;
        mount.awake().await?;
        match mount.holds(session, &request.key) {
            true => mount.write(session, inode, base).await,
            false => Err(ErrorCode::SessionEnded.into()),
        }
    };
    let counted = counted.await;
    mount.unlock(session, &request).await?;
    counted
}

/// Holds a lock on some bytes for a while.
async fn ranges(mount: &Arc<Mount>) -> Result<()> {
    let inode = any_file(mount);
    let owner = LockOwner(mount.new_owner());
    let request = mount.cluster.world.random(|random| {
        let start = random.below(8);
        Request {
            key: OwnerKey {
                inode,
                space: [LockSpace::Posix, LockSpace::OpenFile][random.index(2)],
                owner,
            },
            kind: [LockKind::Shared, LockKind::Exclusive][random.index(2)],
            range: LockRange {
                start,
                last: start + random.below(8),
            },
            wait: random.chance(700),
        }
    });
    let session = mount.lock(request, LOCK_PATIENCE).await?;
    mount.cluster.world.sleep(0, 100).await;
    mount.unlock(session, &request).await
}
