//! Whose data dir this is: the identity file and the lock.
//!
//! A data dir serves one process at a time, one node, one cluster. All refusals are in words
//! that say what to do.

use super::error::{Result, StoreError};
use dfs_proto::ids::{ClusterId, NodeId};
use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const IDENTITY: &str = "identity";
const LOCK: &str = "lock";
const FORMAT: u32 = 1;
const FIRST_LINE: &str = "dfs file server data";

/// What the identity file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Identity {
    pub(super) node: NodeId,
    /// `None` until the first registration.
    pub(super) cluster: Option<ClusterId>,
    /// Inode number of the lock file: another one tells a copy of the dir.
    place: u64,
}

/// A data dir in use by this process; the lock ends with it.
#[derive(Debug)]
pub(super) struct Claim {
    dir: PathBuf,
    _lock: File,
    identity: Identity,
}

impl Claim {
    /// Locks the dir and checks whose it is; an empty one is given the identity of a new node.
    pub(super) fn take(
        dir: &Path,
        cluster: Option<ClusterId>,
        accept_copy: bool,
        new_node: impl FnOnce() -> Result<NodeId>,
    ) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|e| StoreError::disk("create", dir, e))?;
        let identity_path = dir.join(IDENTITY);
        let text = match std::fs::read_to_string(&identity_path) {
            Ok(text) => Some(text),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(StoreError::disk("read", &identity_path, e)),
        };
        let parsed = match &text {
            Some(text) => Some(parse(text, dir)?),
            None => {
                refuse_foreign(dir)?;
                None
            }
        };
        let lock_path = dir.join(LOCK);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|e| StoreError::disk("open", &lock_path, e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Refused(format!(
                    "{} is in use by another process: stop it first, or give this one another dir",
                    dir.display()
                )));
            }
            Err(TryLockError::Error(e)) => return Err(StoreError::disk("lock", &lock_path, e)),
        }
        let place = lock
            .metadata()
            .map_err(|e| StoreError::disk("stat", &lock_path, e))?
            .ino();
        let mut identity = match parsed {
            Some(identity) => identity,
            None => Identity {
                node: new_node()?,
                cluster: None,
                place,
            },
        };
        if let (Some(own), Some(asked)) = (identity.cluster, cluster)
            && own != asked
        {
            return Err(StoreError::Refused(format!(
                "{} belongs to cluster {own}, not to {asked}: use the dir with its own cluster, or an empty one",
                dir.display()
            )));
        }
        if identity.place != place {
            if !accept_copy {
                return Err(StoreError::Refused(format!(
                    "{} is a copy of the data dir of node {}: two servers with one identity destroy data. Use the original or an empty dir; if the original is gone for good, accept the copy explicitly",
                    dir.display(),
                    identity.node
                )));
            }
            identity.place = place;
        }
        let claim = Self {
            dir: dir.to_owned(),
            _lock: lock,
            identity,
        };
        if parsed != Some(identity) {
            claim.save()?;
        }
        Ok(claim)
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// Binds the dir to a cluster, durably.
    pub(super) fn bind(&mut self, cluster: ClusterId) -> Result<()> {
        match self.identity.cluster {
            Some(own) if own == cluster => Ok(()),
            Some(own) => Err(StoreError::Refused(format!(
                "{} belongs to cluster {own} and cannot join {cluster}: use an empty dir",
                self.dir.display()
            ))),
            None => {
                let unbound = self.identity;
                self.identity.cluster = Some(cluster);
                self.save().inspect_err(|_| self.identity = unbound)
            }
        }
    }

    fn save(&self) -> Result<()> {
        let path = self.dir.join(IDENTITY);
        let fresh = self.dir.join("identity.new");
        let write = || {
            let mut file = File::create(&fresh)?;
            file.write_all(render(&self.identity).as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&fresh, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|e| StoreError::disk("write", &path, e))
    }
}

/// A dir without identity must be empty: it may be anything else's.
fn refuse_foreign(dir: &Path) -> Result<()> {
    let entries = std::fs::read_dir(dir).map_err(|e| StoreError::disk("list", dir, e))?;
    for entry in entries {
        let name = entry
            .map_err(|e| StoreError::disk("list", dir, e))?
            .file_name();
        // What an interrupted formatting leaves behind, and what file systems put there.
        if ![LOCK, "identity.new", "lost+found", "address"]
            .iter()
            .any(|known| name == *known)
        {
            return Err(StoreError::Refused(format!(
                "{} is not empty and is no data dir of a file server (it holds {}): give an empty dir",
                dir.display(),
                name.display()
            )));
        }
    }
    Ok(())
}

fn render(identity: &Identity) -> String {
    let cluster = match identity.cluster {
        Some(cluster) => cluster.to_string(),
        None => "none".into(),
    };
    format!(
        "{FIRST_LINE}\nformat {FORMAT}\nnode {}\ncluster {cluster}\nplace {}\n",
        identity.node, identity.place
    )
}

fn parse(text: &str, dir: &Path) -> Result<Identity> {
    let damaged = || {
        StoreError::Refused(format!(
            "{} is damaged: restore it, or start with an empty dir and let the cluster copy the data",
            dir.join(IDENTITY).display()
        ))
    };
    let mut lines = text.lines();
    if lines.next() != Some(FIRST_LINE) {
        return Err(StoreError::Refused(format!(
            "{} is no data dir of a file server: give its own dir or an empty one",
            dir.display()
        )));
    }
    let mut field = |name: &str| {
        lines
            .next()
            .and_then(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .ok_or_else(damaged)
    };
    let format: u32 = field("format")?.parse().map_err(|_| damaged())?;
    if format > FORMAT {
        return Err(StoreError::Refused(format!(
            "{} has format {format}, this program knows formats up to {FORMAT}: use the newer program",
            dir.display()
        )));
    }
    let node = field("node")?.parse().map_err(|_| damaged())?;
    let cluster = match field("cluster")? {
        "none" => None,
        id => Some(id.parse().map_err(|_| damaged())?),
    };
    let place = field("place")?.parse().map_err(|_| damaged())?;
    Ok(Identity {
        node,
        cluster,
        place,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(dir: &Path, cluster: Option<u128>) -> Result<Claim> {
        Claim::take(dir, cluster.map(ClusterId), false, || Ok(NodeId(0xAB)))
    }

    fn refused(result: Result<Claim>) -> String {
        match result {
            Err(StoreError::Refused(text)) => text,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn the_text_is_this() {
        let identity = Identity {
            node: NodeId(0xAB),
            cluster: Some(ClusterId(0xCD)),
            place: 42,
        };
        let text = "dfs file server data\nformat 1\nnode 000000000000000000000000000000ab\ncluster 000000000000000000000000000000cd\nplace 42\n";
        assert_eq!(render(&identity), text);
        assert_eq!(parse(text, Path::new("d")), Ok(identity));
    }

    #[test]
    fn a_second_process_another_cluster_a_newer_format_and_a_copy_are_refused() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut claim = take(dir.path(), None).expect("an empty dir is taken");
        assert!(refused(take(dir.path(), None)).contains("another process"));
        claim.bind(ClusterId(1)).expect("binds");
        claim.bind(ClusterId(1)).expect("binds again");
        assert!(claim.bind(ClusterId(2)).is_err());
        drop(claim);
        assert!(refused(take(dir.path(), Some(2))).contains("belongs to cluster"));
        let claim = take(dir.path(), Some(1)).expect("its own cluster");
        assert_eq!(claim.identity().cluster, Some(ClusterId(1)));
        drop(claim);

        let copy = tempfile::tempdir().expect("temp dir");
        for name in [IDENTITY, LOCK] {
            std::fs::copy(dir.path().join(name), copy.path().join(name)).expect("copies");
        }
        assert!(refused(take(copy.path(), Some(1))).contains("copy"));
        let accepted = Claim::take(copy.path(), None, true, || Ok(NodeId(1))).expect("accepted");
        assert_eq!(accepted.identity().node, NodeId(0xAB));

        let path = dir.path().join(IDENTITY);
        let text = std::fs::read_to_string(&path).expect("reads");
        std::fs::write(&path, text.replace("format 1", "format 2")).expect("writes");
        assert!(refused(take(dir.path(), None)).contains("newer program"));
        std::fs::write(&path, &text[..40]).expect("writes");
        assert!(refused(take(dir.path(), None)).contains("damaged"));
    }

    #[test]
    fn a_dir_of_something_else_is_refused() {
        let dir = tempfile::tempdir().expect("temp dir");
        std::fs::write(dir.path().join("thesis.txt"), "precious").expect("writes");
        assert!(refused(take(dir.path(), None)).contains("thesis.txt"));
        assert!(!dir.path().join(LOCK).exists());
    }
}
