//! The store as its callers see it: opening, closing, and what is answered from memory.
//!
//! Locks, in the order in which they may be held together: gate, chunk (several only by a cut),
//! catalog, promises, the index's queue. None of the last three is held while the disk works.

use super::catalog::Catalog;
use super::disk::Disk;
use super::error::{Damage, Result, StoreError};
use super::file::{self, ChunkFile, FAN_OUT};
use super::handles::{Handle, Handles};
use super::identity::Claim;
use super::index::{Change, Content, Index, Ticket};
use super::install::Installations;
use super::live::Live;
use super::promises::Promises;
use super::quarantine::{Kept, Quarantine};
use super::recover;
use super::removals::Removals;
use super::request::{ChunkState, Image, OpenOptions, Opened, Space};
use super::slot::{Meta, NoSlot};
use super::space::{Probe, SpaceGauge, statvfs};
use super::sync::Fan;
use super::witness::{self, Testimony, Witness};
use dfs_proto::ids::{ChunkKey, ClusterId, GroupId, InodeId, NodeId, SessionId};
use dfs_proto::limits::BLOCK_BYTES;
use dfs_proto::msg::peer::WriteRecord;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

/// Cuts of one inode follow each other; those of others run side by side.
pub(super) const CUT_STRIPES: usize = 64;

/// With less room than this on the disk nothing is kept in quarantine.
const QUARANTINE_ROOM: u64 = 256 << 20;

/// Open files of the process that are not chunk files (sockets, the index).
const OTHER_FILES: u64 = 256;

/// The note that names the witness of the last run that had one.
const WITNESS: &str = "witness";

/// Chunks of files on a local disk. All methods may be called from several threads at once;
/// changes of one chunk exclude each other, reads of it run side by side.
#[derive(Debug)]
pub struct ChunkStore {
    pub(super) data: PathBuf,
    pub(super) claim: Mutex<Claim>,
    pub(super) disk: Disk,
    witness: Option<PathBuf>,
    pub(super) index: Index,
    pub(super) catalog: Mutex<Catalog>,
    pub(super) promises: Mutex<Promises>,
    pub(super) handles: Handles,
    pub(super) fans: Vec<Fan>,
    pub(super) space: SpaceGauge,
    pub(super) installations: Installations,
    pub(super) removals: Removals,
    quarantine: Quarantine,
    pub(super) cuts: [Mutex<()>; CUT_STRIPES],
    /// Whether the store was closed; held shared by whatever changes something.
    pub(super) gate: RwLock<bool>,
}

impl ChunkStore {
    /// Opens the data dir, formatting an empty one. The store says `clean: false` after a stop
    /// without `close_clean`: what it holds has then to be compared with other replicas.
    pub fn open(dir: &Path, options: OpenOptions) -> Result<(Self, Opened)> {
        Self::open_with(dir, options, statvfs)
    }

    pub(super) fn open_with(
        dir: &Path,
        options: OpenOptions,
        probe: Probe,
    ) -> Result<(Self, Opened)> {
        let claim = Claim::take(dir, options.cluster, options.accept_copy, new_node)?;
        let identity = claim.identity();
        let data = dir.join("data");
        let create = !data.exists();
        let told = Arc::<Witness>::default();
        let (index, mut content) = Index::open(dir, create, told.clone())?;
        let installations = Installations::open(dir)?;
        if create {
            format_data(dir, &data)?;
        }
        // An index whose chunk files were all taken away has rows without files: they are rot.
        let clean = content.clean && (!create || content.chunks.is_empty());
        // From here on a stop that is not orderly must be noticed.
        index.commit(vec![Change::Clean(false)])?;
        let promises = Promises::of(&mut content);
        let disk = Disk::new(told);
        let witness = options.witness_dir.as_deref();
        let witness = witness.map(|dir| witness::path(dir, identity.node));
        let testimony = witness
            .as_deref()
            .filter(|_| !clean)
            .and_then(|path| witness::read(path, promises.number(WITNESS)?))
            // Else the dir is an older copy of the one that the witness is of.
            .filter(|said| content.commits >= said.commits);
        let rows = content.chunks.iter();
        let damaged: BTreeSet<ChunkKey> = rows
            .filter(|(_, row)| row.damage.is_some())
            .map(|(key, _)| *key)
            .collect();
        let removals = Removals::left(content.removed.iter().map(|(key, ..)| *key));
        let begun = Instant::now();
        let is_intact = |catalog: &Catalog| match &testimony {
            Some(said) => is_intact(said, catalog, &damaged),
            None => false,
        };
        let (mut catalog, unsynced) = match clean {
            true => (catalog_of(content), BTreeSet::new()),
            false => {
                let told = recover::catalog(&data, &content, testimony.as_ref(), &disk)?;
                match testimony.is_none() || is_intact(&told.0) {
                    true => told,
                    // Who was wrong once proves nothing about the rest.
                    false => recover::catalog(&data, &content, None, &disk)?,
                }
            }
        };
        let fans = (0..FAN_OUT)
            .map(|fan| Fan::new(file::fan_path(&data, fan), unsynced.contains(&fan)))
            .collect();
        let intact = clean || is_intact(&catalog);
        log::info!(
            "{}: {} chunks, looked at in {} ms, last stop {}",
            dir.display(),
            catalog.len(),
            begun.elapsed().as_millis(),
            match (clean, intact) {
                (true, _) => "orderly",
                (false, true) => "a kill: nothing is missing",
                (false, false) => "not orderly",
            }
        );
        catalog.witness = disk.witness.clone();
        let store = Self {
            space: SpaceGauge::new(dir, options.reserve, probe)?,
            handles: Handles::new(handles_for(options.open_files_max)),
            data,
            claim: Mutex::new(claim),
            disk,
            witness,
            index,
            catalog: Mutex::new(catalog),
            promises: Mutex::new(promises),
            fans,
            installations,
            removals,
            quarantine: Quarantine::new(dir),
            cuts: [const { Mutex::new(()) }; CUT_STRIPES],
            gate: RwLock::new(false),
        };
        let opened = Opened {
            clean,
            intact,
            node: identity.node,
            cluster: identity.cluster,
        };
        Ok((store, opened))
    }

    /// Binds a dir that was never part of a cluster to one, durably.
    pub fn bind_cluster(&self, cluster: ClusterId) -> Result<()> {
        let _open = self.usable()?;
        lock(&self.claim).bind(cluster)
    }

    /// From now on a kill of the process is told from a loss of power, if the options name a dir
    /// for that: what is not on disk is also written down in memory that outlives the process. To
    /// be called when the verdict about the last stop, `Opened::intact`, was durably noted: what
    /// it found missing stays missing, also if this run loses nothing.
    pub fn watch(&self) -> Result<()> {
        let Some(path) = &self.witness else {
            return Ok(());
        };
        let mut number = [0; 8];
        getrandom::fill(&mut number)
            .map_err(|e| StoreError::Failed(format!("no random bytes: {e}")))?;
        let begun = {
            let catalog = self.catalog();
            let number = u64::from_le_bytes(number);
            let witness = &self.disk.witness;
            witness.begin(path, number, self.index.commits(), catalog.unproven())
        };
        match begun {
            Ok(()) => self.put_note(WITNESS, &number),
            Err(e) => {
                let path = path.display();
                log::warn!("{path}: {e}; a kill of this process will count as a loss of power");
                Ok(())
            }
        }
    }

    /// State of a chunk, `None` for a hole. From memory: never waits for the disk.
    pub fn state(&self, key: ChunkKey) -> Option<ChunkState> {
        self.catalog().get(key).map(|entry| entry.state())
    }

    /// The last write of a session that was applied to the chunk.
    pub fn record(&self, key: ChunkKey, session: SessionId) -> Result<Option<WriteRecord>> {
        let image = self.image(key)?;
        Ok(image.and_then(|image| {
            let mut records = image.records.into_iter();
            records.find(|record| record.session == session)
        }))
    }

    /// All write records of a chunk with its state, `None` for a hole: what an image starts with.
    pub fn image(&self, key: ChunkKey) -> Result<Option<Image>> {
        self.with_live(key, |live| {
            let meta = live.meta();
            Ok(Image {
                generation: meta.generation,
                version: meta.version,
                len: meta.len,
                records: meta.records.clone(),
            })
        })
    }

    /// Which blocks of these are not stored though they lie below the chunk's length: ranges, in
    /// order.
    pub fn holes(&self, key: ChunkKey, blocks: Range<u32>) -> Result<Vec<(u32, u32)>> {
        let holes = self.with_live(key, |live| {
            let (present, end) = (&live.meta().present, live.meta().blocks().min(blocks.end));
            let mut holes = Vec::new();
            let mut at = blocks.start;
            while let Some(from) = present.next(at, false).filter(|from| *from < end) {
                let to = present.next(from, true).unwrap_or(end).min(end);
                holes.push((from, to));
                at = to;
            }
            Ok(holes)
        })?;
        Ok(holes.unwrap_or_default())
    }

    /// Chunks of a group in the order of (inode, chunk), and whether that was the end.
    pub fn list(
        &self,
        group: GroupId,
        after: Option<ChunkKey>,
        max: usize,
    ) -> (Vec<(ChunkKey, ChunkState)>, bool) {
        self.catalog().list(group, after, max)
    }

    /// Bytes stored of an inode in one group, in whole blocks.
    pub fn stored(&self, inode: InodeId, group: GroupId) -> u64 {
        self.catalog().stored(inode, group)
    }

    /// The first block of a chunk from `from` on that is stored, or that is not: from memory where
    /// all of the chunk up to its length is stored, else from its header. A hole stores none.
    pub fn find_block(&self, key: ChunkKey, from: u32, stored: bool) -> Result<Option<u32>> {
        let row = self.catalog().get(key).map(|entry| entry.row.clone());
        let blocks = match row {
            None => 0,
            Some(row) if row.stored == 0 => 0,
            Some(row) if row.stored == row.len.div_ceil(BLOCK_BYTES as u32) => row.stored,
            Some(_) => {
                let look = |live: &Live| Ok(live.meta().present.next(from, stored));
                let none = (!stored).then_some(from);
                return Ok(self.with_live(key, look)?.unwrap_or(none));
            }
        };
        Ok(match stored {
            true => (from < blocks).then_some(from),
            false => Some(from.max(blocks)),
        })
    }

    /// Space of the disk.
    pub fn space(&self) -> Space {
        let (used, chunks) = {
            let catalog = self.catalog();
            (catalog.used(), catalog.len() as u64)
        };
        Space {
            chunks,
            ..self.space.space(used)
        }
    }

    /// Why the store accepts nothing any more, if a disk error stopped it.
    pub fn failure(&self) -> Option<String> {
        self.disk.failure().cloned()
    }

    /// Since the start: how often a chunk was to be put onto disk, and how many passes of the
    /// disk that took, syncs of overwrite marks and of installed images included.
    pub fn sync_counts(&self) -> (u64, u64) {
        let counts = &self.disk.counts;
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (of(&counts.asked), of(&counts.passes))
    }

    /// Syncs everything and leaves the clean mark. Afterwards the store accepts nothing.
    pub fn close_clean(&self) -> Result<()> {
        let mut closed = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        if *closed {
            return Ok(());
        }
        self.disk.check()?;
        self.clear_marks_and_sync_all()?;
        self.settle_removals()?;
        self.index.commit(vec![Change::Clean(true)])?;
        self.disk.witness.end();
        *closed = true;
        let (asked, passes) = self.sync_counts();
        log::info!("chunks were to be synced {asked} times, in {passes} passes of the disk");
        Ok(())
    }

    /// To be held by whatever changes something.
    pub(super) fn usable(&self) -> Result<RwLockReadGuard<'_, bool>> {
        let closed = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        if *closed {
            return Err(StoreError::Invalid("the store is closed".into()));
        }
        self.disk.check()?;
        Ok(closed)
    }

    pub(super) fn catalog(&self) -> MutexGuard<'_, Catalog> {
        lock(&self.catalog)
    }

    pub(super) fn promises(&self) -> MutexGuard<'_, Promises> {
        lock(&self.promises)
    }

    /// Waits for the index; a failure stops the store.
    pub(super) fn wait(&self, ticket: Ticket) -> Result<()> {
        self.index.wait(ticket).map_err(|e| self.disk.fail(e))
    }

    /// Looks at a chunk under its shared lock; `None` for a hole.
    pub(super) fn with_live<T>(
        &self,
        key: ChunkKey,
        look: impl FnOnce(&Live) -> Result<T>,
    ) -> Result<Option<T>> {
        if self.catalog().get(key).is_none() {
            return Ok(None);
        }
        let handle = self.handles.get(key);
        loop {
            {
                let live = handle.read();
                if let Some(damage) = self.damage(key) {
                    return Err(StoreError::rotten(key, damage));
                }
                if let Some(live) = &*live {
                    return look(live).map(Some).map_err(|e| self.note_damage(e));
                }
            }
            // Not loaded: it takes the exclusive lock, and then the shared one again.
            let mut live = handle.write();
            if !self.load(key, &mut live)? {
                return Ok(None);
            }
        }
    }

    /// Loads a chunk that the catalog has; `false` for a hole.
    pub(super) fn load(&self, key: ChunkKey, live: &mut Option<Live>) -> Result<bool> {
        if live.is_some() {
            return Ok(true);
        }
        let Some(entry) = self.catalog().get(key).cloned() else {
            return Ok(false);
        };
        let path = file::chunk_path(&self.data, key);
        let file = match ChunkFile::open(path.clone()) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Err(self.note_damage(StoreError::rotten(key, Damage::Missing)));
            }
            Err(e) => return Err(self.disk.failed_doing("open", &path, e)),
        };
        let loaded = match Live::load(file) {
            Ok(Ok(loaded)) => loaded,
            Ok(Err(NoSlot::Newer(format))) => return Err(newer(&path, format)),
            Ok(Err(_)) => return Err(self.note_damage(StoreError::rotten(key, Damage::Header))),
            Err(e) => {
                self.disk.could_not_read(&path, &e);
                return Err(self.note_damage(StoreError::rotten(key, Damage::Header)));
            }
        };
        // An older slot is not taken for the newest when that one is damaged.
        let (meta, row) = (loaded.meta(), &entry.row);
        let expected = (key, row.group, row.generation, row.version, row.len);
        if (
            meta.key,
            meta.group,
            meta.generation,
            meta.version,
            meta.len,
        ) != expected
        {
            return Err(self.note_damage(StoreError::rotten(key, Damage::Header)));
        }
        *live = Some(loaded);
        Ok(true)
    }

    /// What is known to be wrong with a chunk.
    pub fn damage(&self, key: ChunkKey) -> Option<Damage> {
        self.catalog()
            .get(key)
            .and_then(|entry| entry.row.damage.clone())
    }

    /// Remembers, and says once, that a chunk is damaged.
    pub(super) fn note_damage(&self, error: StoreError) -> StoreError {
        if let StoreError::Rotten { key, damage } = &error {
            let mut catalog = self.catalog();
            if catalog.get(*key).is_some_and(|e| e.row.damage.is_none()) {
                catalog.set_damage(*key, Some(damage.clone()));
                drop(catalog);
                log::error!(
                    "{}: {error}; it is to be repaired from another replica",
                    file::chunk_path(&self.data, *key).display()
                );
            }
        }
        error
    }

    /// Before a copy is replaced or removed, under its exclusive lock: a damaged one is kept
    /// aside. Its place is empty then, which is what the index calls damaged as well.
    pub(super) fn set_aside(&self, key: ChunkKey) {
        if let Some(damage) = self.damage(key) {
            let path = file::chunk_path(&self.data, key);
            self.quarantine.take(key, &path, &damage.to_string());
            if self.space().available < QUARANTINE_ROOM {
                self.quarantine.clear();
            }
        }
    }

    /// Damaged copies that were replaced and are kept.
    pub fn quarantined(&self) -> Vec<Kept> {
        self.quarantine.list()
    }

    /// The chunk's handle, locked for a change.
    pub(super) fn handle(&self, key: ChunkKey) -> Arc<Handle> {
        self.handles.get(key)
    }

    /// Puts the present state of a chunk into the catalog.
    pub(super) fn publish(&self, meta: &Meta, damage: Option<Damage>) {
        self.catalog().put(meta.key, recover::row_of(meta, damage));
    }
}

/// A chunk's lock held for a change.
pub(super) type Locked<'a> = RwLockWriteGuard<'a, Option<Live>>;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn newer(path: &Path, format: u32) -> StoreError {
    StoreError::Refused(format!(
        "{} has the newer format {format}: use the newer program",
        path.display()
    ))
}

/// Whether all that was not known to be on disk is there, and nothing else was found damaged.
fn is_intact(said: &Testimony, catalog: &Catalog, damaged_before: &BTreeSet<ChunkKey>) -> bool {
    if let Some(key) = witness::missing(said, catalog) {
        log::warn!("{key} is not what it was when the process ended: it counts as a loss of power");
        return false;
    }
    catalog.damaged().all(|key| damaged_before.contains(&key))
}

fn catalog_of(content: Content) -> Catalog {
    let mut catalog = Catalog::default();
    for (key, row) in content.chunks {
        catalog.put_indexed(key, row);
    }
    catalog
}

fn new_node() -> Result<NodeId> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|e| StoreError::Failed(format!("no random bytes for a node id: {e}")))?;
    Ok(NodeId(u128::from_le_bytes(bytes)))
}

fn format_data(dir: &Path, data: &Path) -> Result<()> {
    let make = || {
        // Complete under another name first: a dir with `data` is a formatted one.
        let fresh = dir.join("data.new");
        std::fs::create_dir_all(&fresh)?;
        for fan in 0..FAN_OUT {
            std::fs::create_dir_all(file::fan_path(&fresh, fan))?;
        }
        File::open(&fresh)?.sync_all()?;
        std::fs::rename(&fresh, data)?;
        File::open(dir)?.sync_all()
    };
    make().map_err(|e| StoreError::disk("format", data, e))
}

/// How many chunks may be open: each takes up to two files, within what the process may open.
fn handles_for(open_files_max: usize) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let wanted = open_files_max as u64 + OTHER_FILES;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit {
            current: Some(limit.maximum.map_or(wanted, |maximum| maximum.min(wanted))),
            maximum: limit.maximum,
        };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            limit = raised;
        }
    }
    let files = limit.current.map_or(open_files_max as u64, |current| {
        current
            .saturating_sub(OTHER_FILES)
            .min(open_files_max as u64)
    });
    (files / 2).max(1) as usize
}
