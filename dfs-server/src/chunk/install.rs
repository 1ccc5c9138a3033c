//! Installing a whole chunk, in parts, under a temporary name; the last part makes it visible.

use super::disk::{Disk, Step};
use super::error::{Result, StoreError};
use super::file::{self, ChunkFile};
use super::live::Live;
use super::request::{ChunkState, Image, InstallPart};
use super::slot::{CAPACITY, Meta};
use super::store::{ChunkStore, lock};
use super::write::check_range;
use dfs_proto::ids::{ChunkKey, GroupId, Version};
use dfs_proto::limits::{BLOCK_BYTES, WRITE_RECORDS_MAX};
use dfs_proto::payload::verify_checksums;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Installations begun and not ended; beyond it the oldest is given up.
const INSTALLATIONS_MAX: usize = 64;

/// An image that is being put together.
#[derive(Debug)]
struct Installation {
    number: u64,
    /// `None` once it has taken its place.
    file: Option<ChunkFile>,
    group: GroupId,
    image: Image,
    meta: Meta,
    next: u32,
}

impl Drop for Installation {
    fn drop(&mut self) {
        if let Some(file) = &self.file
            && let Err(e) = std::fs::remove_file(file.path())
        {
            log::warn!(
                "remove {}: {e}; it goes at the next start",
                file.path().display()
            );
        }
    }
}

/// Installations in progress.
#[derive(Debug)]
pub(super) struct Installations {
    dir: PathBuf,
    numbers: AtomicU64,
    table: Mutex<BTreeMap<ChunkKey, Installation>>,
}

impl Installations {
    /// Those of an earlier run are given up.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let dir = dir.join("install");
        let clear = || {
            std::fs::create_dir_all(&dir)?;
            for entry in std::fs::read_dir(&dir)? {
                std::fs::remove_file(entry?.path())?;
            }
            Ok(())
        };
        clear().map_err(|e| StoreError::disk("clear", &dir, e))?;
        Ok(Self {
            dir,
            numbers: AtomicU64::new(0),
            table: Mutex::default(),
        })
    }

    fn take(&self, part: &InstallPart<'_>, disk: &Disk) -> Result<Installation> {
        let known = lock(&self.table).remove(&part.key);
        if part.offset == 0 {
            drop(known);
            return self.begin(part, disk);
        }
        known
            .filter(|known| {
                known.next == part.offset && known.image == *part.image && known.group == part.group
            })
            .ok_or_else(|| {
                StoreError::Invalid(format!(
                    "the part at {} of {} does not follow the one before: start over at 0",
                    part.offset, part.key
                ))
            })
    }

    fn begin(&self, part: &InstallPart<'_>, disk: &Disk) -> Result<Installation> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(number.to_string());
        let file =
            ChunkFile::create(path.clone()).map_err(|e| disk.failed_doing("create", &path, e))?;
        let mut meta = Meta::new(part.key, part.group);
        meta.generation = part.image.generation;
        meta.version = part.image.version;
        meta.len = part.image.len;
        meta.records = part.image.records.clone();
        Ok(Installation {
            number,
            file: Some(file),
            group: part.group,
            image: part.image.clone(),
            meta,
            next: 0,
        })
    }

    /// Gives up what nobody will go on with: the file and its descriptors go at once. Whoever does all
    /// the same is told to start over.
    pub(super) fn give_up(&self, goes: impl Fn(ChunkKey, GroupId) -> bool) {
        let mut table = lock(&self.table);
        let (given_up, left): (BTreeMap<_, _>, _) = std::mem::take(&mut *table)
            .into_iter()
            .partition(|(key, installation)| goes(*key, installation.group));
        *table = left;
        drop(table);
        // Files are removed outside the lock.
        drop(given_up);
    }

    fn put_back(&self, installation: Installation) {
        let mut table = lock(&self.table);
        let given_up = if table.len() >= INSTALLATIONS_MAX {
            let oldest = table.iter().min_by_key(|(_, i)| i.number);
            let oldest = oldest.map(|(key, _)| *key);
            oldest.and_then(|key| table.remove(&key))
        } else {
            None
        };
        let replaced = table.insert(installation.meta.key, installation);
        drop(table);
        drop((given_up, replaced));
    }
}

impl ChunkStore {
    /// Takes one part of a chunk's image: in order, in multiples of a block except the end. The
    /// last one makes the image visible, atomically, in the place of whatever was there.
    pub fn install(&self, part: &InstallPart<'_>) -> Result<()> {
        let _open = self.usable()?;
        check_part(part)?;
        if !verify_checksums(part.offset, part.data, part.checksums) {
            return Err(StoreError::PayloadDamaged { key: part.key });
        }
        // A chunk before the place of a cut keeps its older generation below the floor, so the
        // floor says nothing about an image: its sender's cuts do, and the replica layer has
        // compared those. It also never installs and cuts one inode at the same time.
        self.space.take(part.data.len() as u64)?;
        let mut installation = self.installations.take(part, &self.disk)?;
        self.add(&mut installation, part)?;
        if part.last {
            self.finish(installation)
        } else {
            self.installations.put_back(installation);
            Ok(())
        }
    }

    /// Accepts a torn copy as it is on disk: its blocks get new checksums, version and write
    /// records are those of the interrupted write. For when no replica holds a whole copy.
    /// Durable when it returns.
    pub fn adopt_torn(&self, key: ChunkKey, version: Version) -> Result<ChunkState> {
        let _open = self.usable()?;
        match self.damage(key) {
            Some(super::error::Damage::Torn) => {}
            other => {
                return Err(StoreError::Invalid(format!(
                    "{key} is not torn (it is {other:?}) and cannot be adopted"
                )));
            }
        }
        let handle = self.handle(key);
        let mut live = handle.write();
        self.load(key, &mut live)?;
        let Some(live) = live.as_mut() else {
            return Err(StoreError::Invalid(format!("{key} is a hole")));
        };
        let mut meta = live.meta().clone();
        meta.version = version;
        // What the torn state calls applied may be there in part, or not at all: a repeat of such a write
        // is to be made, and its loss not to be hidden from a sync.
        meta.records = live.records_on_disk();
        let mut block = vec![0; BLOCK_BYTES];
        for number in live.meta().present.iter() {
            live.read_raw(number, &mut block, false, &self.disk)?;
            meta.set_block(number, crc32c::crc32c(&block));
        }
        live.change_header(meta, &self.disk)?;
        live.sync(&self.disk)?;
        self.publish(live.meta(), None);
        self.catalog().set_dirty(key, Instant::now());
        log::warn!("{key}: a torn overwrite was adopted as it is on disk");
        self.state(key)
            .ok_or_else(|| StoreError::Invalid(format!("{key} is a hole")))
    }

    fn add(&self, installation: &mut Installation, part: &InstallPart<'_>) -> Result<()> {
        let first = part.offset / BLOCK_BYTES as u32;
        let whole = part.data.len() / BLOCK_BYTES * BLOCK_BYTES;
        let (middle, rest) = part.data.split_at(whole);
        let mut tail = Vec::new();
        if !rest.is_empty() {
            tail.resize(BLOCK_BYTES, 0);
            tail[..rest.len()].copy_from_slice(rest);
        }
        for (block, checksum) in (first..).zip(part.checksums) {
            installation.meta.set_block(block, *checksum);
        }
        if !tail.is_empty() {
            let block = first + (whole / BLOCK_BYTES) as u32;
            installation.meta.set_block(block, crc32c::crc32c(&tail));
        }
        if let Some(file) = &installation.file {
            file.write_blocks(
                first,
                [&[], middle, &tail],
                &self.disk.behind,
                &self.disk.direct,
            )
            .map_err(|e| self.disk.failed_doing("write to", file.path(), e))?;
        }
        let end = first + part.data.len().div_ceil(BLOCK_BYTES) as u32;
        for (from, to) in part.holes {
            let hole = (*from).max(first)..(*to).min(end);
            hole.clone()
                .for_each(|block| installation.meta.present.remove(block));
            if let Some(file) = installation.file.as_ref().filter(|_| !hole.is_empty()) {
                file.punch_blocks(hole)
                    .map_err(|e| self.disk.failed_doing("free space of", file.path(), e))?;
            }
        }
        installation.next = part.offset + part.data.len() as u32;
        Ok(())
    }

    fn finish(&self, mut installation: Installation) -> Result<()> {
        let mut meta = installation.meta.clone();
        let key = meta.key;
        meta.dirty.remove_all();
        let handle = self.handle(key);
        let mut place = handle.write();
        let Some(file) = installation.file.take() else {
            return Err(StoreError::Invalid(format!("{key} is installed already")));
        };
        let mut live = Live::fresh(file, meta.clone());
        live.seal(meta, &self.disk)?;
        self.disk.reach(Step::ImageSynced)?;
        self.set_aside(key);
        {
            let mut catalog = self.catalog();
            catalog.put(key, super::recover::row_of(live.meta(), None));
            catalog.set_dirty(key, Instant::now());
            catalog.set_marked(key, None);
        }
        let path = file::chunk_path(&self.data, key);
        live.file_mut()
            .rename(path.clone())
            .map_err(|e| self.disk.failed_doing("rename to", &path, e))?;
        self.fans[file::fan_of(key)].changed();
        *place = Some(live);
        Ok(())
    }
}

fn check_part(part: &InstallPart<'_>) -> Result<()> {
    let (key, image) = (part.key, part.image);
    check_range(key, part.offset, part.data.len())?;
    let end = part.offset + part.data.len() as u32;
    let whole = |bytes: u32| (bytes as usize).is_multiple_of(BLOCK_BYTES);
    let sound = image.len <= CAPACITY
        && image.records.len() <= WRITE_RECORDS_MAX
        && whole(part.offset)
        && end <= image.len
        && (whole(end) || end == image.len)
        && part.last == (end == image.len);
    if sound {
        return Ok(());
    }
    Err(StoreError::Invalid(format!(
        "the part {}..{end} (last: {}) is none of an image of {} bytes for {key}",
        part.offset, part.last, image.len
    )))
}
