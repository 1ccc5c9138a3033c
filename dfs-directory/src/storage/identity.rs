//! The identity of a member's data dir, and its lock.
//!
//! `DIR/identity` is text, one `key = value` a line, replaced as a whole:
//!
//! ```text
//! dfs-directory 1                          what this is, and the format's version
//! cluster = 0123...                        32 hex digits
//! node = 4567...                           32 hex digits
//! member = 1
//! state = founding | founded | joining     see `Stage`
//! ```
//!
//! `DIR/lock` is empty; its flock is held as long as a `DataDir` lives, so the kernel frees it
//! when the process dies, however it dies.

use super::durable;
use dfs_proto::ids::{ClusterId, MemberId, NodeId};
use rustix::fs::FlockOperation;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// Version of everything below the dir. A dir of a higher one is refused.
pub const FORMAT: u32 = 1;
const MAGIC: &str = "dfs-directory";

/// A file that is there while the dir is made of a backup.
pub const IMPORTING: &str = "importing";

/// How far the dir has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// The first member of a new cluster, whose log may still be empty.
    Founding,
    /// The log has its first entry: a dir without log is one that lost it.
    Founded,
    /// A member that gets its log from the others.
    Joining,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Founding => "founding",
            Self::Founded => "founded",
            Self::Joining => "joining",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Founding, Self::Founded, Self::Joining]
            .into_iter()
            .find(|s| s.name() == text)
    }
}

/// Who a data dir belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub member: MemberId,
    pub stage: Stage,
}

/// Why a data dir can't be used.
#[derive(Debug)]
pub enum IdentityError {
    Io(PathBuf, io::Error),
    /// Another process uses it.
    InUse(PathBuf),
    /// There is no identity file.
    NotFormatted(PathBuf),
    /// It is to be formatted, but holds something.
    NotEmpty(PathBuf),
    NewerFormat(PathBuf, u32),
    /// It belongs to another cluster: found, expected.
    OtherCluster(PathBuf, ClusterId, ClusterId),
    /// The identity file is not one.
    Unreadable(PathBuf, String),
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, e) => write!(f, "{}: {e}", path.display()),
            Self::InUse(dir) => write!(
                f,
                "the data dir {} is in use by another process; each member needs its own",
                dir.display()
            ),
            Self::NotFormatted(dir) => write!(
                f,
                "{} is not a directory member's data dir; format it to create a new cluster",
                dir.display()
            ),
            Self::NotEmpty(dir) => write!(
                f,
                "{} is not empty and has no identity: it will not be formatted; name an empty dir",
                dir.display()
            ),
            Self::NewerFormat(dir, version) => write!(
                f,
                "the data dir {} has format {version}, this program knows formats up to {FORMAT}: \
                 use the newer program",
                dir.display()
            ),
            Self::OtherCluster(dir, found, expected) => write!(
                f,
                "the data dir {} belongs to cluster {found}, not to {expected}",
                dir.display()
            ),
            Self::Unreadable(path, why) => {
                write!(
                    f,
                    "{}: {why}; restore the file from a backup",
                    path.display()
                )
            }
        }
    }
}

impl std::error::Error for IdentityError {}

/// A data dir that this process holds.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    identity: Identity,
    /// Unlocked when it is dropped.
    _lock: File,
}

impl DataDir {
    /// Whether the dir has an identity.
    pub fn is_formatted(path: &Path) -> Result<bool, IdentityError> {
        let file = path.join("identity");
        file.try_exists().map_err(|e| IdentityError::Io(file, e))
    }

    /// Makes an empty (or missing) dir the data dir of a member and holds it.
    pub fn format(path: &Path, identity: Identity) -> Result<Self, IdentityError> {
        let io = |e| IdentityError::Io(path.to_owned(), e);
        std::fs::create_dir_all(path).map_err(io)?;
        let lock = lock(path)?;
        for entry in std::fs::read_dir(path).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            // What an interrupted format leaves behind.
            if name != "lock" && name != "identity.new" && name != IMPORTING {
                return Err(IdentityError::NotEmpty(path.to_owned()));
            }
        }
        let mut dir = Self {
            path: path.to_owned(),
            identity,
            _lock: lock,
        };
        dir.save(identity)?;
        if let Some(parent) = path.canonicalize().map_err(io)?.parent() {
            durable::sync_dir(parent).map_err(io)?;
        }
        Ok(dir)
    }

    /// Holds a formatted dir; with `cluster`, only if it belongs to that one.
    pub fn open(path: &Path, cluster: Option<ClusterId>) -> Result<Self, IdentityError> {
        if !Self::is_formatted(path)? {
            return Err(IdentityError::NotFormatted(path.to_owned()));
        }
        let lock = lock(path)?;
        let identity = load(path)?;
        if let Some(expected) = cluster
            && expected != identity.cluster
        {
            return Err(IdentityError::OtherCluster(
                path.to_owned(),
                identity.cluster,
                expected,
            ));
        }
        Ok(Self {
            path: path.to_owned(),
            identity,
            _lock: lock,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Notes durably that the log has its first entry.
    pub fn founded(&mut self) -> Result<(), IdentityError> {
        if self.identity.stage == Stage::Founded {
            return Ok(());
        }
        self.save(Identity {
            stage: Stage::Founded,
            ..self.identity
        })
    }

    fn save(&mut self, identity: Identity) -> Result<(), IdentityError> {
        let text = format!(
            "{MAGIC} {FORMAT}\ncluster = {}\nnode = {}\nmember = {}\nstate = {}\n",
            identity.cluster,
            identity.node,
            identity.member.0,
            identity.stage.name()
        );
        let file = self.path.join("identity");
        durable::replace(&file, text.as_bytes()).map_err(|e| IdentityError::Io(file, e))?;
        self.identity = identity;
        Ok(())
    }
}

fn lock(dir: &Path) -> Result<File, IdentityError> {
    let path = dir.join("lock");
    let io = |e| IdentityError::Io(path.clone(), e);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(io)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(IdentityError::InUse(dir.to_owned())),
        Err(e) => Err(io(e.into())),
    }
}

fn load(dir: &Path) -> Result<Identity, IdentityError> {
    let path = dir.join("identity");
    let text = std::fs::read_to_string(&path).map_err(|e| IdentityError::Io(path.clone(), e))?;
    let unreadable = |why: String| IdentityError::Unreadable(path.clone(), why);
    let mut lines = text.lines();
    let version = lines
        .next()
        .and_then(|line| line.strip_prefix(MAGIC))
        .and_then(|rest| rest.trim().parse::<u32>().ok())
        .ok_or_else(|| unreadable(format!("the first line is not `{MAGIC} VERSION`")))?;
    if version > FORMAT {
        return Err(IdentityError::NewerFormat(dir.to_owned(), version));
    }
    let value = |key: &str| {
        text.lines()
            .filter_map(|line| line.split_once('='))
            .find(|(k, _)| k.trim() == key)
            .map(|(_, v)| v.trim())
            .ok_or_else(|| unreadable(format!("no line `{key} = ...`")))
    };
    let bad = |key: &str| unreadable(format!("`{key}` has no valid value"));
    Ok(Identity {
        cluster: value("cluster")?.parse().map_err(|_| bad("cluster"))?,
        node: value("node")?.parse().map_err(|_| bad("node"))?,
        member: MemberId(value("member")?.parse().map_err(|_| bad("member"))?),
        stage: Stage::parse(value("state")?).ok_or_else(|| bad("state"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            cluster: ClusterId(7),
            node: NodeId(8),
            member: MemberId(1),
            stage: Stage::Founding,
        }
    }

    fn scratch() -> tempfile::TempDir {
        tempfile::tempdir().expect("a scratch dir")
    }

    #[test]
    fn what_was_formatted_is_found_again() {
        let dir = scratch();
        let mut held = DataDir::format(dir.path(), identity()).expect("formats");
        held.founded().expect("notes");
        drop(held);
        let held = DataDir::open(dir.path(), Some(ClusterId(7))).expect("opens");
        let expected = Identity {
            stage: Stage::Founded,
            ..identity()
        };
        assert_eq!(held.identity(), expected);
    }

    #[test]
    fn a_second_holder_is_refused_in_words() {
        let dir = scratch();
        let _held = DataDir::format(dir.path(), identity()).expect("formats");
        let error = DataDir::open(dir.path(), None).expect_err("in use");
        assert!(
            error.to_string().contains("in use by another process"),
            "{error}"
        );
    }

    #[test]
    fn another_cluster_and_a_newer_format_are_refused_in_words() {
        let dir = scratch();
        drop(DataDir::format(dir.path(), identity()).expect("formats"));
        let error = DataDir::open(dir.path(), Some(ClusterId(9))).expect_err("other cluster");
        assert!(error.to_string().contains("belongs to cluster"), "{error}");

        let file = dir.path().join("identity");
        let text = std::fs::read_to_string(&file).expect("reads");
        std::fs::write(&file, text.replace("dfs-directory 1", "dfs-directory 2")).expect("writes");
        let error = DataDir::open(dir.path(), None).expect_err("newer");
        assert!(error.to_string().contains("format 2"), "{error}");
    }

    #[test]
    fn a_dir_with_strange_content_is_neither_opened_nor_formatted() {
        let dir = scratch();
        std::fs::write(dir.path().join("letter.txt"), "dear").expect("writes");
        assert!(matches!(
            DataDir::open(dir.path(), None),
            Err(IdentityError::NotFormatted(_))
        ));
        assert!(matches!(
            DataDir::format(dir.path(), identity()),
            Err(IdentityError::NotEmpty(_))
        ));
    }

    #[test]
    fn a_damaged_identity_is_refused() {
        let dir = scratch();
        drop(DataDir::format(dir.path(), identity()).expect("formats"));
        let file = dir.path().join("identity");
        let text = std::fs::read_to_string(&file).expect("reads");
        std::fs::write(&file, text.replace("member = 1", "member = one")).expect("writes");
        assert!(matches!(
            DataDir::open(dir.path(), None),
            Err(IdentityError::Unreadable(..))
        ));
    }
}
