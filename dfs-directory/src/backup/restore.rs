//! Backups of, and for, the data dir of a member that does not run.

use super::{BackupError, Head};
use crate::state::level;
use crate::storage::durable;
use crate::storage::identity::{DataDir, IMPORTING, Identity, Stage};
use crate::storage::snapshot::SnapshotError;
use crate::storage::{Store, tables};
use dfs_proto::attr::Timestamp;
use dfs_proto::ids::NodeId;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

fn refused(what: impl std::fmt::Display) -> BackupError {
    BackupError::Refused(what.to_string())
}

fn io(path: &Path) -> impl Fn(io::Error) -> BackupError {
    let path = path.display().to_string();
    move |e| refused(format!("{path}: {e}"))
}

/// Writes a backup of a stopped member's tables: what it had applied and flushed, so up to 10 s
/// less than it had acknowledged if it was killed.
pub fn export(data: &Path, to: &Path) -> Result<(), BackupError> {
    check_whole(data)?;
    let held = DataDir::open(data, None).map_err(refused)?;
    let store = Store::open(&held.path().join(tables::FILE_NAME))?;
    let head = into_file(to, |out| super::write(out, &store.read()?))?;
    log::info!(
        "{} holds {} inodes of cluster {}",
        to.display(),
        head.inodes,
        head.cluster
    );
    Ok(())
}

/// Writes a file beside `to`, flushes it, and renames it into place.
fn into_file(
    to: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> Result<Head, BackupError>,
) -> Result<Head, BackupError> {
    let mut beside = to.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    let file = File::create(beside).map_err(io(beside))?;
    let mut out = BufWriter::new(&file);
    let head = write(&mut out)?;
    out.flush().map_err(io(beside))?;
    drop(out);
    file.sync_all().map_err(io(beside))?;
    durable::rename(beside, to).map_err(io(to))?;
    Ok(head)
}

/// Makes an empty dir the data dir of the first member of a new directory.
pub fn import(
    data: &Path,
    from: &Path,
    node: NodeId,
    supports: u16,
) -> Result<DataDir, BackupError> {
    let open = || File::open(from).map_err(|e| BackupError::File(SnapshotError::Io(e)));
    // A damaged one is refused before anything is made of it.
    let head = super::check(open()?)?;
    if let Some(why) = level::refusal(head.level, supports) {
        return Err(refused(why));
    }
    fs::create_dir_all(data).map_err(io(data))?;
    if fs::read_dir(data).map_err(io(data))?.next().is_some() {
        return Err(refused(format!(
            "{} is not empty: a backup is imported into an empty dir",
            data.display()
        )));
    }
    let mark = data.join(IMPORTING);
    durable::replace(&mark, b"").map_err(io(&mark))?;
    let identity = Identity {
        cluster: head.cluster,
        node,
        member: head.member,
        stage: Stage::Founding,
    };
    let held = DataDir::format(data, identity).map_err(refused)?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = Timestamp::from_duration_since_1970(now);
    let store = Store::open(&data.join(tables::FILE_NAME))?;
    super::import(open()?, &store, supports, now)?;
    drop(store);
    fs::remove_file(&mark).map_err(io(&mark))?;
    durable::sync_dir(data).map_err(io(data))?;
    log::warn!(
        "{} inodes of cluster {} are imported; file servers that were in-sync then are waited for",
        head.inodes,
        head.cluster
    );
    Ok(held)
}

/// Refuses a dir in which an import was interrupted.
pub fn check_whole(data: &Path) -> Result<(), BackupError> {
    if data.join(IMPORTING).exists() {
        return Err(refused(format!(
            "the import into {} was interrupted: empty it and import again",
            data.display()
        )));
    }
    Ok(())
}
