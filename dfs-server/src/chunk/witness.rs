//! The witness: what of the chunks is not known to be on disk, kept in memory that outlives the process
//! and not the machine (a file on tmpfs).
//!
//! A process that is killed takes nothing with it that it had written: the kernel has it. But
//! whoever starts next cannot see that from the data dir, where a power cut, a disk that refused
//! the write-back, or a file system that was taken away look the same. The witness says what must
//! be there; finding all of it proves that nothing is missing. What it claims and what not is
//! described in `docs/replication.md`, "Killed, but not lost".
//!
//! ```text
//! 0   8 bytes  "dfswitn1"; anything else: void
//! 8   36       the kernel's boot id, as text
//! 48  u64      the number under which the index knows this witness
//! 56  u64      how often the index was committed, at least
//! then records of 64 bytes:
//!     u64 inode, chunk, generation, version (epoch, counter)
//!     u32 0: free, 1: must be there, 2: must be looked at, and may be gone
//!     u32 crc32c of bytes 0..44
//!     16 bytes 0
//! ```

use super::catalog::Catalog;
use super::index::Row;
use dfs_proto::ids::{ChunkIndex, ChunkKey, Epoch, Generation, InodeId, NodeId, Version};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

const MAGIC: &[u8; 8] = b"dfswitn1";
const RECORD: usize = 64;

/// Most chunks that are not on disk at a time: 4 MiB of memory. With more the witness is void.
const RECORDS_MAX: u32 = (1 << 16) - 1;

/// Generation and version of a chunk.
type State = (Generation, Version);

/// What a record says of its chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Claim {
    /// It is there, and at least this.
    Holds(State),
    /// It was being removed: it may be gone, and what the index says of it may be dated.
    MayBeGone,
}

/// What a witness of an earlier run says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Testimony {
    /// All chunks whose files may differ from what the index says.
    chunks: BTreeMap<ChunkKey, Claim>,
    /// How often the index was committed, at least.
    pub(super) commits: u64,
}

/// The witness of this run.
#[derive(Debug, Default)]
pub(super) struct Witness {
    open: Mutex<Option<OpenFile>>,
}

#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    file: File,
    places: BTreeMap<ChunkKey, Place>,
    free: Vec<u32>,
    /// Records from here on were never used.
    next: u32,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    number: u32,
    /// Its file is being changed: until the new state is noted the record stays, whatever a
    /// sync of the state before finds.
    changing: bool,
}

/// The name of a node's witness in a dir.
pub(super) fn path(dir: &Path, node: NodeId) -> PathBuf {
    dir.join(format!("dfs-server-{node}"))
}

/// Which start of the machine this is.
fn boot_id() -> io::Result<[u8; 36]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    text.trim()
        .as_bytes()
        .try_into()
        .map_err(|_| io::Error::other("the kernel's boot id has an unknown form"))
}

/// Opens a file of ours, and no other one that somebody may have put there: dirs in memory are
/// often everybody's.
fn open(path: &Path, create: bool) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    let found = file.metadata()?;
    let own = found.is_file() && found.uid() == rustix::process::geteuid().as_raw();
    if !own || found.mode() & 0o077 != 0 || found.nlink() != 1 {
        return Err(io::Error::other("it is somebody else's"));
    }
    let kind = rustix::fs::fstatfs(&file)?.f_type;
    if kind as u64 != libc::TMPFS_MAGIC as u64 {
        return Err(io::Error::other("it is not in memory (tmpfs)"));
    }
    Ok(file)
}

fn header(number: u64, commits: u64) -> io::Result<[u8; RECORD]> {
    let mut bytes = [0; RECORD];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..44].copy_from_slice(&boot_id()?);
    bytes[48..56].copy_from_slice(&number.to_le_bytes());
    bytes[56..].copy_from_slice(&commits.to_le_bytes());
    Ok(bytes)
}

fn record(key: ChunkKey, claim: Claim) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    let (kind, (generation, version)) = match claim {
        Claim::Holds(state) => (1, state),
        Claim::MayBeGone => (2, (Generation(0), Version::default())),
    };
    let numbers = [
        key.inode.0,
        key.index.0,
        generation.0,
        version.epoch.0,
        version.counter,
    ];
    for (at, number) in numbers.iter().enumerate() {
        bytes[at * 8..at * 8 + 8].copy_from_slice(&number.to_le_bytes());
    }
    bytes[40] = kind;
    let crc = crc32c::crc32c(&bytes[..44]);
    bytes[44..48].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// What a record says; `Err` if it is not one that was written here.
fn parse(bytes: &[u8]) -> Result<Option<(ChunkKey, Claim)>, ()> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let mut numbers = [0; 5];
    for (number, bytes) in numbers.iter_mut().zip(bytes.chunks_exact(8)) {
        *number = u64::from_le_bytes(bytes.try_into().map_err(|_| ())?);
    }
    let [inode, index, generation, epoch, counter] = numbers;
    let key = ChunkKey {
        inode: InodeId(inode),
        index: ChunkIndex(index),
    };
    let version = Version {
        epoch: Epoch(epoch),
        counter,
    };
    let claim = match bytes.get(40) {
        Some(1) => Claim::Holds((Generation(generation), version)),
        _ => Claim::MayBeGone,
    };
    (record(key, claim) == bytes)
        .then_some(Some((key, claim)))
        .ok_or(())
}

/// What the witness with this number says, if it is there and is of this start of the machine.
pub(super) fn read(path: &Path, number: u64) -> Option<Testimony> {
    let file = open(path, false).ok()?;
    let mut bytes = vec![0; usize::try_from(file.metadata().ok()?.len()).ok()?];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let commits = u64::from_le_bytes(bytes.get(56..RECORD)?.try_into().ok()?);
    let records = bytes.strip_prefix(&header(number, commits).ok()?)?;
    let mut testimony = Testimony {
        commits,
        ..Testimony::default()
    };
    for record in records.chunks(RECORD) {
        if let Some((key, claim)) = parse(record).ok()? {
            testimony.chunks.insert(key, claim);
        }
    }
    Some(testimony)
}

impl Testimony {
    /// Whether the chunk's file may differ from what the index says of it.
    pub(super) fn doubts(&self, key: ChunkKey) -> bool {
        self.chunks.contains_key(&key)
    }
}

/// The first chunk that is not, whole, at least what the witness says, if there is one.
pub(super) fn missing(testimony: &Testimony, catalog: &Catalog) -> Option<ChunkKey> {
    let holds = |key: &ChunkKey, claim: &Claim| {
        let Claim::Holds(least) = claim else {
            return true;
        };
        let row = catalog.get(*key).map(|entry| &entry.row);
        row.is_some_and(|row| row.damage.is_none() && (row.generation, row.version) >= *least)
    };
    let mut all = testimony.chunks.iter();
    all.find(|(key, claim)| !holds(key, claim))
        .map(|(key, _)| *key)
}

impl Witness {
    /// Begins to write down; `unproven` is what is not known to be on disk already.
    pub(super) fn begin<'a>(
        &self,
        path: &Path,
        number: u64,
        commits: u64,
        unproven: impl Iterator<Item = (ChunkKey, &'a Row)>,
    ) -> io::Result<()> {
        let file = open(path, true)?;
        // Void until all is in it.
        file.set_len(0)?;
        let mut open = OpenFile {
            path: path.to_owned(),
            file,
            places: BTreeMap::new(),
            free: Vec::new(),
            next: 0,
        };
        for (key, row) in unproven {
            open.note(key, Claim::Holds((row.generation, row.version)), false)?;
        }
        open.file.write_all_at(&header(number, commits)?, 0)?;
        *self.open() = Some(open);
        Ok(())
    }

    /// The index was committed so often. To be called before anybody is told.
    pub(super) fn committed(&self, commits: u64) {
        let mut open = self.open();
        if let Some(file) = open.as_mut()
            && file.file.write_all_at(&commits.to_le_bytes(), 56).is_err()
        {
            give_up(&mut open);
        }
    }

    /// The chunk is in this state, which is not on disk. To be called before anybody is told.
    pub(super) fn note(&self, key: ChunkKey, row: &Row) {
        self.put(key, Claim::Holds((row.generation, row.version)), false);
    }

    /// The file of a chunk in this state is about to be changed: from here on a kill may leave
    /// something between this state and the next one. Ends with the next `note`.
    pub(super) fn changing(&self, key: ChunkKey, generation: Generation, version: Version) {
        self.put(key, Claim::Holds((generation, version)), true);
    }

    /// The chunk goes: soon neither its file nor its row will be there. What is known to be on
    /// disk needs no record, since its row is right as long as it is there.
    pub(super) fn going(&self, key: ChunkKey) {
        let is_noted = |open: &OpenFile| open.places.contains_key(&key);
        if self.open().as_ref().is_some_and(is_noted) {
            self.put(key, Claim::MayBeGone, false);
        }
    }

    fn put(&self, key: ChunkKey, claim: Claim, changing: bool) {
        let mut open = self.open();
        let noted = match open.as_mut() {
            Some(file) => file.note(key, claim, changing),
            None => return,
        };
        if let Err(e) = noted {
            log::warn!("the witness cannot be written: {e}; a kill counts as a loss of power");
            give_up(&mut open);
        }
    }

    /// The chunk is on disk and in the index, or is gone from both.
    pub(super) fn forget(&self, key: ChunkKey) {
        let mut open = self.open();
        if let Some(file) = open.as_mut()
            && file.forget(key).is_err()
        {
            give_up(&mut open);
        }
    }

    /// Says nothing any more.
    pub(super) fn end(&self) {
        give_up(&mut self.open());
    }

    fn open(&self) -> MutexGuard<'_, Option<OpenFile>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn give_up(open: &mut Option<OpenFile>) {
    if let Some(file) = open.take() {
        // Either is enough.
        let (voided, removed) = (file.file.set_len(0), std::fs::remove_file(&file.path));
        if let (Err(e), Err(_)) = (voided, removed) {
            log::error!("{} cannot be removed: {e}", file.path.display());
        }
    }
}

impl OpenFile {
    fn note(&mut self, key: ChunkKey, claim: Claim, changing: bool) -> io::Result<()> {
        let number = match self.places.get(&key) {
            Some(place) => place.number,
            None => match self.free.pop() {
                Some(number) => number,
                None if self.next < RECORDS_MAX => {
                    self.next += 1;
                    self.next - 1
                }
                None => return Err(io::Error::other("too much is not on disk")),
            },
        };
        self.places.insert(key, Place { number, changing });
        // Within a page: a kill leaves the record before or the one after.
        self.file.write_all_at(&record(key, claim), at(number))
    }

    fn forget(&mut self, key: ChunkKey) -> io::Result<()> {
        if self.places.get(&key).is_some_and(|place| !place.changing)
            && let Some(place) = self.places.remove(&key)
        {
            self.file.write_all_at(&[0; RECORD], at(place.number))?;
            self.free.push(place.number);
        }
        Ok(())
    }
}

fn at(place: u32) -> u64 {
    (u64::from(place) + 1) * RECORD as u64
}

#[cfg(test)]
mod tests {
    use super::super::error::Damage;
    use super::*;
    use dfs_proto::ids::GroupId;

    fn key(n: u64) -> ChunkKey {
        ChunkKey {
            inode: InodeId(n),
            index: ChunkIndex(n + 1),
        }
    }

    fn row(counter: u64) -> Row {
        Row {
            group: GroupId(1),
            generation: Generation(2),
            version: Version {
                epoch: Epoch(3),
                counter,
            },
            len: 5,
            stored: 1,
            damage: None,
        }
    }

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm").expect("a dir in memory")
    }

    #[test]
    fn it_says_what_was_noted_last_and_not_forgotten() {
        let dir = dir();
        let path = dir.path().join("w");
        let witness = Witness::default();
        witness.note(key(9), &row(1));
        let before = row(1);
        witness
            .begin(&path, 7, 3, [(key(1), &before)].into_iter())
            .expect("begins");
        for n in 1..5 {
            witness.note(key(n), &row(n));
        }
        witness.note(key(2), &row(20));
        witness.forget(key(3));
        witness.note(key(6), &row(6));
        witness.forget(key(8));
        witness.going(key(4));
        witness.going(key(7));
        let said = read(&path, 7).expect("is there");
        let counters: Vec<(u64, u64)> = said
            .chunks
            .iter()
            .map(|(key, claim)| match claim {
                Claim::Holds((_, version)) => (key.inode.0, version.counter),
                Claim::MayBeGone => (key.inode.0, 0),
            })
            .collect();
        assert_eq!(counters, [(1, 1), (2, 20), (4, 0), (6, 6)]);
        assert_eq!(std::fs::metadata(&path).expect("is there").len(), 5 * 64);

        assert_eq!(said.commits, 3);
        witness.committed(4);
        assert_eq!(read(&path, 7).map(|said| said.commits), Some(4));
        assert_eq!(read(&path, 8), None, "of another run");
        witness.end();
        assert_eq!(read(&path, 7), None);
    }

    #[test]
    fn a_chunk_that_is_being_changed_is_not_forgotten_for_a_sync_of_its_state_before() {
        let dir = dir();
        let path = dir.path().join("w");
        let witness = Witness::default();
        witness
            .begin(&path, 7, 0, std::iter::empty())
            .expect("begins");
        let before = row(1);
        witness.changing(key(1), before.generation, before.version);
        witness.forget(key(1));
        let doubts = || read(&path, 7).expect("is there").doubts(key(1));
        assert!(doubts());
        witness.note(key(1), &row(2));
        assert!(doubts());
        witness.forget(key(1));
        assert!(!doubts());
    }

    #[test]
    fn one_of_another_boot_or_with_a_bad_record_says_nothing() {
        let dir = dir();
        let path = dir.path().join("w");
        let witness = Witness::default();
        witness
            .begin(&path, 7, 0, std::iter::empty())
            .expect("begins");
        witness.note(key(1), &row(1));
        for at in (0..56).chain(64..128) {
            let whole = std::fs::read(&path).expect("reads");
            let mut other = whole.clone();
            other[at] ^= 1;
            std::fs::write(&path, &other).expect("writes");
            assert_eq!(read(&path, 7), None, "byte {at}");
            std::fs::write(&path, &whole).expect("writes");
        }
        assert!(read(&path, 7).is_some());
    }

    #[test]
    fn it_has_to_be_in_memory_and_ones_own() {
        let dir = dir();
        let witness = Witness::default();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &link).expect("links");
        assert!(witness.begin(&link, 7, 0, std::iter::empty()).is_err());
        let open = dir.path().join("open");
        std::fs::write(&open, "").expect("writes");
        std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .expect("is ours");
        assert!(witness.begin(&open, 7, 0, std::iter::empty()).is_err());
    }

    #[test]
    fn what_is_older_damaged_or_gone_is_missing() {
        let testimony = Testimony {
            chunks: [(key(1), Claim::Holds((Generation(2), row(5).version)))].into(),
            commits: 0,
        };
        let is_missing = |found: Option<Row>| {
            let mut catalog = Catalog::default();
            if let Some(row) = found {
                catalog.put(key(1), row);
            }
            missing(&testimony, &catalog) == Some(key(1))
        };
        assert!(is_missing(None));
        assert!(is_missing(Some(row(4))));
        assert!(!is_missing(Some(row(5))));
        assert!(!is_missing(Some(row(6))));
        let damage = Some(Damage::Torn);
        assert!(is_missing(Some(Row { damage, ..row(6) })));
    }
}
