//! The durable index: which chunks are held, generation floors, adopted epochs, fenced
//! sessions, notes. One redb file, read once when the dir is opened and written in batches.
//!
//! Concurrent commits share one fsync: whoever comes first commits for all that wait.

use super::error::{Damage, Result, StoreError};
use super::witness::Witness;
use dfs_proto::cluster::GroupConfig;
use dfs_proto::codec;
use dfs_proto::ids::{
    ChunkIndex, ChunkKey, Epoch, Generation, GroupId, InodeId, SessionId, Version,
};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

type Bytes = &'static [u8];
const CHUNKS: TableDefinition<'static, Bytes, Bytes> = TableDefinition::new("chunks");
/// Chunks whose file is to go, or went and may come back after a power cut.
const REMOVED: TableDefinition<'static, Bytes, Bytes> = TableDefinition::new("removed");
const FLOORS: TableDefinition<'static, Bytes, Bytes> = TableDefinition::new("floors");
const EPOCHS: TableDefinition<'static, Bytes, Bytes> = TableDefinition::new("epochs");
const FENCES: TableDefinition<'static, Bytes, Bytes> = TableDefinition::new("fences");
const NOTES: TableDefinition<'static, &str, Bytes> = TableDefinition::new("notes");
const STATE: TableDefinition<'static, &str, Bytes> = TableDefinition::new("state");

/// Present while no process uses the dir and nothing is missing.
const CLEAN: &str = "clean";

/// How often this index was committed: an older copy of it has a lower number.
const COMMITS: &str = "commits";

/// redb's own default is 1 GiB; the rows are read once and kept in memory by the store.
const CACHE_BYTES: usize = 16 << 20;

/// First byte of a stored group config: the version of its encoding.
const CONFIG_VERSION: u8 = 1;

/// What the index says of a chunk.
///
/// Generation, version and length are exact after an orderly stop; after any other they are
/// those of some earlier sync, and the header of the file counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Row {
    pub(super) group: GroupId,
    pub(super) generation: Generation,
    pub(super) version: Version,
    pub(super) len: u32,
    /// Blocks that are stored; the others are zeros.
    pub(super) stored: u32,
    pub(super) damage: Option<Damage>,
}

/// The generation below which requests are refused, and the epoch in which it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Floor {
    pub(super) generation: Generation,
    pub(super) epoch: Epoch,
}

/// One change.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Change {
    Put(ChunkKey, Row),
    Remove(ChunkKey),
    /// The file of the chunk, in this state or an older one, is no chunk any more.
    PutRemoved(ChunkKey, Generation, Version),
    /// The file is gone for good.
    DropRemoved(ChunkKey),
    PutFloor(GroupId, InodeId, Floor),
    DropFloor(GroupId, InodeId),
    PutEpoch(GroupConfig),
    PutFence(SessionId),
    DropFence(SessionId),
    PutNote(String, Vec<u8>),
    /// The clean mark is set or removed.
    Clean(bool),
}

/// All that the index holds.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) clean: bool,
    pub(super) commits: u64,
    pub(super) chunks: Vec<(ChunkKey, Row)>,
    pub(super) removed: Vec<(ChunkKey, Generation, Version)>,
    pub(super) floors: Vec<(GroupId, InodeId, Floor)>,
    pub(super) epochs: Vec<GroupConfig>,
    pub(super) fences: Vec<SessionId>,
    pub(super) notes: Vec<(String, Vec<u8>)>,
}

/// Changes that were handed in; to be waited for.
#[derive(Clone, Copy, Debug)]
#[must_use = "not durable before it was waited for"]
pub(super) struct Ticket(u64);

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Change>,
    /// Number of the batch that `waiting` will be.
    batch: u64,
    /// Batches below this one are done.
    done: u64,
    busy: bool,
    failed: Option<StoreError>,
}

/// The open index.
#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    database: Database,
    queue: Mutex<Queue>,
    committed: Condvar,
    commits: AtomicU64,
    /// Is told of each commit.
    witness: Arc<Witness>,
}

impl Index {
    /// Opens the index in a data dir and reads all of it; `create` for a dir without data, which
    /// may have none.
    pub(super) fn open(dir: &Path, create: bool, witness: Arc<Witness>) -> Result<(Self, Content)> {
        let path = dir.join("index.redb");
        let exists = path.exists();
        if !create && !exists {
            return Err(StoreError::Refused(format!(
                "{} is missing, and with it what this server had promised (its epochs): start with an empty dir and let the cluster copy the data",
                path.display()
            )));
        }
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(&path)
            .map_err(|e| failed("open", &path, e))?;
        let index = Self {
            path,
            database,
            queue: Mutex::default(),
            committed: Condvar::new(),
            commits: AtomicU64::new(0),
            witness,
        };
        if !exists {
            // Makes the tables. Nothing can be missing in a dir that has never had data.
            index.commit(vec![Change::Clean(true)])?;
        }
        let content = index
            .read_all()
            .map_err(|e| failed("read", &index.path, e))?
            .ok_or_else(|| {
                StoreError::Refused(format!(
                    "{} has rows that this program does not understand: use the newer program, or start with an empty dir and let the cluster copy the data",
                    index.path.display()
                ))
            })?;
        index.commits.store(content.commits, Ordering::Release);
        Ok((index, content))
    }

    /// How often it was committed, durably.
    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Acquire)
    }

    /// Hands changes in, in this order; cheap, may be called under a lock.
    pub(super) fn enqueue(&self, changes: Vec<Change>) -> Ticket {
        let mut queue = self.queue();
        queue.waiting.extend(changes);
        Ticket(queue.batch)
    }

    /// Waits until they are durable.
    pub(super) fn wait(&self, ticket: Ticket) -> Result<()> {
        let mut queue = self.queue();
        loop {
            if let Some(failed) = &queue.failed {
                return Err(failed.clone());
            }
            if queue.done > ticket.0 {
                return Ok(());
            }
            if queue.busy {
                queue = self
                    .committed
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            queue.busy = true;
            let changes = std::mem::take(&mut queue.waiting);
            queue.batch += 1;
            drop(queue);
            let result = self.apply(&changes);
            queue = self.queue();
            queue.busy = false;
            match result {
                Ok(()) => queue.done += 1,
                Err(e) => queue.failed = Some(failed("commit to", &self.path, e)),
            }
            self.committed.notify_all();
        }
    }

    /// Both at once.
    pub(super) fn commit(&self, changes: Vec<Change>) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let ticket = self.enqueue(changes);
        self.wait(ticket)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, changes: &[Change]) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        apply_to(&write, changes)?;
        // One commit at a time.
        let commits = self.commits() + 1;
        let number = commits.to_le_bytes();
        write
            .open_table(STATE)?
            .insert(COMMITS, number.as_slice())?;
        write.commit()?;
        self.commits.store(commits, Ordering::Release);
        self.witness.committed(commits);
        Ok(())
    }

    /// `None`: a row that cannot be understood.
    fn read_all(&self) -> Result<Option<Content>, redb::Error> {
        let read = self.database.begin_read()?;
        let mut content = Content::default();
        let state = read.open_table(STATE)?;
        content.clean = state.get(CLEAN)?.is_some();
        content.commits = match state.get(COMMITS)? {
            Some(number) => match number.value().try_into() {
                Ok(number) => u64::from_le_bytes(number),
                Err(_) => return Ok(None),
            },
            None => 0,
        };
        for row in read.open_table(CHUNKS)?.iter()? {
            let (key, value) = row?;
            match (chunk_key_from(key.value()), row_from(value.value())) {
                (Some(key), Some(row)) => content.chunks.push((key, row)),
                _ => return Ok(None),
            }
        }
        for row in read.open_table(REMOVED)?.iter()? {
            let (key, value) = row?;
            match (chunk_key_from(key.value()), removed_from(value.value())) {
                (Some(key), Some((generation, version))) => {
                    content.removed.push((key, generation, version));
                }
                _ => return Ok(None),
            }
        }
        for row in read.open_table(FLOORS)?.iter()? {
            let (key, value) = row?;
            match (floor_key_from(key.value()), floor_from(value.value())) {
                (Some((group, inode)), Some(floor)) => content.floors.push((group, inode, floor)),
                _ => return Ok(None),
            }
        }
        for row in read.open_table(EPOCHS)?.iter()? {
            match config_from(row?.1.value()) {
                Some(config) => content.epochs.push(config),
                None => return Ok(None),
            }
        }
        for row in read.open_table(FENCES)?.iter()? {
            match row?.0.value().try_into() {
                Ok(session) => content.fences.push(SessionId(u64::from_be_bytes(session))),
                Err(_) => return Ok(None),
            }
        }
        for row in read.open_table(NOTES)?.iter()? {
            let (name, value) = row?;
            content
                .notes
                .push((name.value().to_owned(), value.value().to_owned()));
        }
        Ok(Some(content))
    }
}

fn apply_to(write: &WriteTransaction, changes: &[Change]) -> Result<(), redb::Error> {
    let mut chunks = write.open_table(CHUNKS)?;
    let mut removed = write.open_table(REMOVED)?;
    let mut floors = write.open_table(FLOORS)?;
    let mut epochs = write.open_table(EPOCHS)?;
    let mut fences = write.open_table(FENCES)?;
    let mut notes = write.open_table(NOTES)?;
    let mut state = write.open_table(STATE)?;
    for change in changes {
        match change {
            Change::Put(key, row) => {
                chunks.insert(chunk_key(*key).as_slice(), row_bytes(row).as_slice())?;
            }
            Change::Remove(key) => {
                chunks.remove(chunk_key(*key).as_slice())?;
            }
            Change::PutRemoved(key, generation, version) => {
                removed.insert(
                    chunk_key(*key).as_slice(),
                    removed_bytes(*generation, *version).as_slice(),
                )?;
            }
            Change::DropRemoved(key) => {
                removed.remove(chunk_key(*key).as_slice())?;
            }
            Change::PutFloor(group, inode, floor) => {
                floors.insert(
                    floor_key(*group, *inode).as_slice(),
                    floor_bytes(floor).as_slice(),
                )?;
            }
            Change::DropFloor(group, inode) => {
                floors.remove(floor_key(*group, *inode).as_slice())?;
            }
            Change::PutEpoch(config) => {
                let mut bytes = vec![CONFIG_VERSION];
                bytes.extend(
                    codec::encode(config).map_err(|e| redb::Error::Corrupted(e.to_string()))?,
                );
                epochs.insert(config.group.0.to_be_bytes().as_slice(), bytes.as_slice())?;
            }
            Change::PutFence(session) => {
                fences.insert(session.0.to_be_bytes().as_slice(), [].as_slice())?;
            }
            Change::DropFence(session) => {
                fences.remove(session.0.to_be_bytes().as_slice())?;
            }
            Change::PutNote(name, value) => {
                notes.insert(name.as_str(), value.as_slice())?;
            }
            Change::Clean(true) => {
                state.insert(CLEAN, [].as_slice())?;
            }
            Change::Clean(false) => {
                state.remove(CLEAN)?;
            }
        }
    }
    Ok(())
}

fn failed(doing: &str, path: &Path, error: impl Into<redb::Error>) -> StoreError {
    StoreError::Failed(format!("{doing} {}: {}", path.display(), error.into()))
}

fn chunk_key(key: ChunkKey) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&key.inode.0.to_be_bytes());
    bytes[8..].copy_from_slice(&key.index.0.to_be_bytes());
    bytes
}

fn chunk_key_from(bytes: &[u8]) -> Option<ChunkKey> {
    let bytes: &[u8; 16] = bytes.try_into().ok()?;
    Some(ChunkKey {
        inode: InodeId(u64::from_be_bytes(bytes[..8].try_into().ok()?)),
        index: ChunkIndex(u64::from_be_bytes(bytes[8..].try_into().ok()?)),
    })
}

fn row_bytes(row: &Row) -> [u8; 41] {
    let (kind, block) = match row.damage {
        None => (0, 0),
        Some(Damage::Missing) => (1, 0),
        Some(Damage::Header) => (2, 0),
        Some(Damage::Block(block)) => (3, block),
        Some(Damage::Torn) => (4, 0),
    };
    let mut bytes = [0; 41];
    bytes[..4].copy_from_slice(&row.group.0.to_le_bytes());
    bytes[4..12].copy_from_slice(&row.generation.0.to_le_bytes());
    bytes[12..20].copy_from_slice(&row.version.epoch.0.to_le_bytes());
    bytes[20..28].copy_from_slice(&row.version.counter.to_le_bytes());
    bytes[28..32].copy_from_slice(&row.len.to_le_bytes());
    bytes[32] = kind;
    bytes[33..37].copy_from_slice(&u32::to_le_bytes(block));
    bytes[37..].copy_from_slice(&row.stored.to_le_bytes());
    bytes
}

fn row_from(bytes: &[u8]) -> Option<Row> {
    let bytes: &[u8; 41] = bytes.try_into().ok()?;
    let number = |at: usize| Some(u64::from_le_bytes(bytes[at..at + 8].try_into().ok()?));
    let block = u32::from_le_bytes(bytes[33..37].try_into().ok()?);
    Some(Row {
        group: GroupId(u32::from_le_bytes(bytes[..4].try_into().ok()?)),
        generation: Generation(number(4)?),
        version: Version {
            epoch: Epoch(number(12)?),
            counter: number(20)?,
        },
        len: u32::from_le_bytes(bytes[28..32].try_into().ok()?),
        stored: u32::from_le_bytes(bytes[37..].try_into().ok()?),
        damage: match bytes[32] {
            0 => None,
            1 => Some(Damage::Missing),
            2 => Some(Damage::Header),
            3 => Some(Damage::Block(block)),
            4 => Some(Damage::Torn),
            _ => return None,
        },
    })
}

fn removed_bytes(generation: Generation, version: Version) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&generation.0.to_le_bytes());
    bytes[8..16].copy_from_slice(&version.epoch.0.to_le_bytes());
    bytes[16..].copy_from_slice(&version.counter.to_le_bytes());
    bytes
}

fn removed_from(bytes: &[u8]) -> Option<(Generation, Version)> {
    let bytes: &[u8; 24] = bytes.try_into().ok()?;
    let number = |at: usize| Some(u64::from_le_bytes(bytes[at..at + 8].try_into().ok()?));
    let version = Version {
        epoch: Epoch(number(8)?),
        counter: number(16)?,
    };
    Some((Generation(number(0)?), version))
}

fn floor_key(group: GroupId, inode: InodeId) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&group.0.to_be_bytes());
    bytes[4..].copy_from_slice(&inode.0.to_be_bytes());
    bytes
}

fn floor_key_from(bytes: &[u8]) -> Option<(GroupId, InodeId)> {
    let bytes: &[u8; 12] = bytes.try_into().ok()?;
    Some((
        GroupId(u32::from_be_bytes(bytes[..4].try_into().ok()?)),
        InodeId(u64::from_be_bytes(bytes[4..].try_into().ok()?)),
    ))
}

fn floor_bytes(floor: &Floor) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&floor.generation.0.to_le_bytes());
    bytes[8..].copy_from_slice(&floor.epoch.0.to_le_bytes());
    bytes
}

fn floor_from(bytes: &[u8]) -> Option<Floor> {
    let bytes: &[u8; 16] = bytes.try_into().ok()?;
    Some(Floor {
        generation: Generation(u64::from_le_bytes(bytes[..8].try_into().ok()?)),
        epoch: Epoch(u64::from_le_bytes(bytes[8..].try_into().ok()?)),
    })
}

fn config_from(bytes: &[u8]) -> Option<GroupConfig> {
    match bytes.split_first()? {
        (&CONFIG_VERSION, rest) => codec::decode(rest).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(generation: u64) -> Row {
        Row {
            group: GroupId(0x0102),
            generation: Generation(generation),
            version: Version {
                epoch: Epoch(4),
                counter: 5,
            },
            len: 6,
            stored: 9,
            damage: Some(Damage::Block(8)),
        }
    }

    #[test]
    fn keys_and_rows_are_these_bytes() {
        let key = ChunkKey {
            inode: InodeId(0x0102),
            index: ChunkIndex(3),
        };
        assert_eq!(
            chunk_key(key),
            [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 3]
        );
        assert_eq!(chunk_key_from(&chunk_key(key)), Some(key));
        assert_eq!(
            row_bytes(&row(3)),
            [
                2, 1, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0,
                6, 0, 0, 0, 3, 8, 0, 0, 0, 9, 0, 0, 0
            ]
        );
        assert_eq!(row_from(&row_bytes(&row(3))), Some(row(3)));
        assert_eq!(row_from(&[0; 40]), None);
        assert_eq!(
            floor_key(GroupId(1), InodeId(2)),
            [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]
        );
    }

    #[test]
    fn concurrent_commits_are_all_there_after_reopening() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (index, content) = Index::open(dir.path(), true, Arc::default()).expect("opens");
        assert!(content.clean && content.chunks.is_empty());
        std::thread::scope(|scope| {
            for thread in 0..8u64 {
                let index = &index;
                scope.spawn(move || {
                    for at in 0..10 {
                        let key = ChunkKey {
                            inode: InodeId(thread),
                            index: ChunkIndex(at),
                        };
                        let changes = vec![Change::Put(key, row(at)), Change::Clean(false)];
                        index.commit(changes).expect("commits");
                    }
                });
            }
        });
        drop(index);
        let (_, content) = Index::open(dir.path(), false, Arc::default()).expect("opens again");
        assert!(!content.clean);
        assert_eq!(content.chunks.len(), 80);
        assert!(content.chunks.is_sorted_by_key(|(key, _)| *key));
        std::fs::remove_file(dir.path().join("index.redb")).expect("removes");
        assert!(matches!(
            Index::open(dir.path(), false, Arc::default()),
            Err(StoreError::Refused(_))
        ));
    }
}
