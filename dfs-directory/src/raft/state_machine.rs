//! The applied state, as openraft asks for it.
//!
//! Entries are applied in one transaction together with the note which entry was the last; no
//! flush. The log holds them until a checkpoint has flushed the tables: a snapshot, in openraft's
//! sense the permission to purge the log, begins with one.
//!
//! A snapshot *file* is only written where another member could need it. The only member's
//! snapshot is its checkpointed tables.

use super::snapshot_data::SnapshotData;
use super::types::{
    Batch, Entry, LogId, Outcomes, SnapshotMeta, StorageError, StoredMembership, TypeConfig,
};
use crate::state::level;
use crate::state::tables::TableError;
use crate::state::{self, Command, Outcome};
use crate::storage::snapshot::{self, SnapshotError};
use crate::storage::tables::{WriteView, Writer};
use crate::storage::{Store, durable};
use dfs_proto::codec;
use openraft::storage::RaftStateMachine;
use openraft::{
    AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot, StorageIOError,
};
use std::fs::{File, OpenOptions};
use std::io::{self, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Name of the note about the last applied entry: encoded `(Option<LogId>, StoredMembership)`.
const APPLIED: &str = "applied";

type Applied = (Option<LogId>, StoredMembership);

/// How far applying and checkpointing have come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Index of the last applied entry.
    pub(super) applied: AtomicU64,
    /// The applied index that is durable in the tables.
    pub(super) durable: AtomicU64,
    /// Bytes of commands applied since the last checkpoint.
    pub(super) bytes: AtomicU64,
    /// Bytes of the last snapshot file.
    pub(super) snapshot_bytes: AtomicU64,
}

/// The tables and who may change them.
#[derive(Clone, Debug)]
pub(super) struct StateMachine {
    /// The highest feature level that this member takes part in.
    supports: u16,
    store: Arc<Store>,
    dir: Arc<PathBuf>,
    member: u64,
    pub(super) progress: Arc<Progress>,
    /// Held by whoever is in a write transaction: an apply waits here, without blocking the
    /// thread that also sends heartbeats.
    writer: Arc<tokio::sync::Mutex<()>>,
    /// The last entry that some snapshot handed to openraft includes.
    promised: Arc<Mutex<Option<LogId>>>,
    /// Held while the snapshot file is replaced.
    files: Arc<Mutex<()>>,
    /// openraft has started: from now on a snapshot that it asks for is for another member.
    running: Arc<AtomicBool>,
}

fn any(what: &str, e: &dyn std::error::Error) -> AnyError {
    log::error!("{what}: {e}; this member stops");
    AnyError::error(format!("{what}: {e}"))
}

fn read_failed(e: &dyn std::error::Error) -> StorageError {
    StorageIOError::read_state_machine(any("read the state", e)).into()
}

fn snapshot_failed(e: &dyn std::error::Error) -> StorageError {
    StorageIOError::write_snapshot(None, any("snapshot", e)).into()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, StorageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|e| snapshot_failed(&e)),
        Err(e) => Err(snapshot_failed(&e)),
    }
}

fn load_applied(store: &Store) -> Result<Applied, TableError> {
    match store.read()?.about(APPLIED)? {
        Some(bytes) => codec::decode(&bytes).map_err(|e| TableError(e.to_string())),
        None => Ok(Applied::default()),
    }
}

fn note_applied(writer: &mut Writer, applied: &Applied) -> Result<(), TableError> {
    let bytes = codec::encode(applied).map_err(|e| TableError(e.to_string()))?;
    writer.set_about(APPLIED, &bytes)
}

/// Applies one command. A panic in it is a defect that the next attempt would meet again: it
/// ends the member as a failure of the tables does, and not only the task that applies.
fn apply_one(tables: &mut WriteView<'_>, command: &Command) -> Result<Outcome, TableError> {
    catch_unwind(AssertUnwindSafe(|| state::apply(tables, command))).unwrap_or_else(|_| {
        Err(TableError(
            "a command can't be applied: a defect".to_owned(),
        ))
    })
}

impl StateMachine {
    /// `purged` is the log's purge point: an older snapshot file is of no use to anybody.
    pub(super) fn open(
        store: Arc<Store>,
        dir: &Path,
        member: u64,
        purged: Option<LogId>,
        supports: u16,
    ) -> Result<Self, SnapshotError> {
        let this = Self {
            supports,
            store,
            dir: Arc::new(dir.to_owned()),
            member,
            progress: Arc::default(),
            writer: Arc::default(),
            promised: Arc::new(Mutex::new(purged)),
            files: Arc::default(),
            running: Arc::default(),
        };
        for scratch in ["snapshot.new", "snapshot.incoming"] {
            match std::fs::remove_file(dir.join(scratch)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
                _ => {}
            }
        }
        // A snapshot came in and was kept, but the tables were not replaced yet.
        if let Some((meta, _)) = this.snapshot_file()?
            && meta.last_log_id > load_applied(&this.store)?.0
        {
            this.fill_tables(&meta)?;
        }
        if let (Some(last), _) = load_applied(&this.store)? {
            this.progress.applied.store(last.index, Ordering::Release);
            this.progress.durable.store(last.index, Ordering::Release);
        }
        Ok(this)
    }

    /// The last applied entry.
    pub(super) fn last_applied(&self) -> Result<Option<LogId>, TableError> {
        Ok(load_applied(&self.store)?.0)
    }

    /// openraft has loaded what it needs.
    pub(super) fn set_running(&self) {
        self.running.store(true, Ordering::Release);
    }

    /// Flushes the tables: what is applied now survives a crash without the log.
    pub(super) async fn checkpoint(&self) -> Result<(), StorageError> {
        let held = Arc::clone(&self.writer).lock_owned().await;
        let applied = self.progress.applied.load(Ordering::Acquire);
        let bytes = self.progress.bytes.load(Ordering::Acquire);
        let store = Arc::clone(&self.store);
        // The closure keeps it if this call is given up meanwhile.
        let _held = blocking(move || {
            store.checkpoint()?;
            Ok(held)
        })
        .await?;
        self.progress.durable.store(applied, Ordering::Release);
        self.progress.bytes.fetch_sub(bytes, Ordering::AcqRel);
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn promise(&self, last: Option<LogId>) {
        let mut promised = self.promised.lock().unwrap_or_else(PoisonError::into_inner);
        *promised = (*promised).max(last);
    }

    fn promised(&self) -> Option<LogId> {
        *self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The snapshot file, if there is one.
    fn snapshot_file(&self) -> Result<Option<(SnapshotMeta, File)>, SnapshotError> {
        let mut file = match File::open(self.path("snapshot")) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let meta = {
            let reader = snapshot::Reader::new(&file)?;
            describe(reader.description())?
        };
        file.rewind()?;
        Ok(Some((meta, file)))
    }

    /// Replaces all tables by the snapshot file's, in one durable transaction.
    fn fill_tables(&self, meta: &SnapshotMeta) -> Result<(), SnapshotError> {
        let Some((_, file)) = self.snapshot_file()? else {
            return Err(SnapshotError::Damaged("it is gone".to_owned()));
        };
        let mut reader = snapshot::Reader::new(file)?;
        let mut writer = self.store.write()?;
        writer.clear()?;
        let mut tables = writer.tables()?;
        while reader.next_block::<SnapshotError>(|key, value| Ok(tables.put_raw(key, value)?))? {}
        if let Some(why) = level::refusal(level::of_cluster(&tables)?, self.supports) {
            return Err(TableError(why).into());
        }
        drop(tables);
        note_applied(
            &mut writer,
            &(meta.last_log_id, meta.last_membership.clone()),
        )?;
        writer.commit_durably()?;
        let index = meta.last_log_id.map_or(0, |id| id.index);
        self.progress.applied.store(index, Ordering::Release);
        self.progress.durable.store(index, Ordering::Release);
        self.progress.bytes.store(0, Ordering::Release);
        Ok(())
    }

    /// Checks a file that came from another member and makes it this one's snapshot.
    fn keep(&self, mut incoming: SnapshotData, meta: &SnapshotMeta) -> Result<(), SnapshotError> {
        let _held = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let incoming = incoming.file()?;
        incoming.rewind()?;
        let kept = self.path("snapshot.new");
        let mut out = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&kept)?;
        io::copy(incoming, &mut out)?;
        out.sync_all()?;
        out.rewind()?;
        let reader = snapshot::Reader::new(&out)?;
        let described = describe(reader.description())?;
        if described != *meta {
            return Err(SnapshotError::Damaged(format!(
                "it is {described}, announced was {meta}"
            )));
        }
        reader.verify()?;
        durable::rename(&kept, &self.path("snapshot"))?;
        match std::fs::remove_file(self.path("snapshot.incoming")) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// Writes the snapshot file of the present state.
    fn write_file(&self) -> Result<(SnapshotMeta, File), SnapshotError> {
        let _held = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        // One view for the tables and for what they are.
        let view = self.store.read()?;
        let applied: Applied = match view.about(APPLIED)? {
            Some(bytes) => codec::decode(&bytes).map_err(|e| TableError(e.to_string()))?,
            None => Applied::default(),
        };
        let meta = meta_of(&applied);
        let scratch = self.path("snapshot.new");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&scratch)?;
        let description =
            codec::encode(&meta).map_err(|e| SnapshotError::Damaged(e.to_string()))?;
        snapshot::write(&file, &description, &view)?;
        durable::rename(&scratch, &self.path("snapshot"))?;
        file.rewind()?;
        self.progress
            .snapshot_bytes
            .store(file.metadata()?.len(), Ordering::Release);
        Ok((meta, file))
    }

    fn apply_all(&self, entries: Vec<Entry>) -> Result<Vec<Outcomes>, (LogId, TableError)> {
        let Some(first) = entries.first().map(|e| e.log_id) else {
            return Ok(Vec::new());
        };
        let (_, mut membership) = load_applied(&self.store).map_err(|e| (first, e))?;
        let mut writer = self.store.write().map_err(|e| (first, e))?;
        let mut last = first;
        let mut bytes = 0;
        let mut answers = Vec::with_capacity(entries.len());
        {
            let mut tables = writer.tables().map_err(|e| (first, e))?;
            for entry in entries {
                last = entry.log_id;
                let mut outcomes = Vec::new();
                match entry.payload {
                    EntryPayload::Blank => {}
                    EntryPayload::Normal(Batch(proposals)) => {
                        outcomes.reserve(proposals.len());
                        for proposal in proposals.iter() {
                            bytes += proposal.bytes() as u64;
                            let outcome =
                                apply_one(&mut tables, &proposal.command).map_err(|e| (last, e))?;
                            outcomes.push(outcome);
                        }
                        // Nothing of it is kept: the transaction ends here.
                        let level = level::of_cluster(&tables).map_err(|e| (last, e))?;
                        if let Some(why) = level::refusal(level, self.supports) {
                            return Err((last, TableError(why)));
                        }
                    }
                    EntryPayload::Membership(named) => {
                        membership = StoredMembership::new(Some(last), named);
                    }
                }
                answers.push(Outcomes(outcomes));
            }
        }
        note_applied(&mut writer, &(Some(last), membership)).map_err(|e| (last, e))?;
        writer.commit().map_err(|e| (last, e))?;
        self.progress.bytes.fetch_add(bytes, Ordering::AcqRel);
        self.progress.applied.store(last.index, Ordering::Release);
        Ok(answers)
    }

    /// Whether the applied membership names nobody but this member.
    fn only_member(&self, membership: &StoredMembership) -> bool {
        let mut nodes = membership.membership().nodes().map(|(id, _)| *id);
        nodes.next() == Some(self.member) && nodes.next().is_none()
    }
}

fn describe(bytes: &[u8]) -> Result<SnapshotMeta, SnapshotError> {
    codec::decode(bytes).map_err(|e| SnapshotError::Damaged(format!("its description: {e}")))
}

fn meta_of((last, membership): &Applied) -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: *last,
        last_membership: membership.clone(),
        // The same state has the same bytes: records come in key order.
        snapshot_id: last.map_or_else(|| "empty".to_owned(), |id| format!("{id}")),
    }
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        // The log may be purged up to the snapshot: what it includes must be durable first.
        let applied = load_applied(&self.store).map_err(|e| read_failed(&e))?;
        self.checkpoint().await?;
        let (meta, data) = if self.only_member(&applied.1) {
            (meta_of(&applied), SnapshotData::unwritten())
        } else {
            self.snapshot_of_present().await?
        };
        self.promise(meta.last_log_id);
        Ok(Snapshot {
            meta,
            snapshot: Box::new(data),
        })
    }
}

impl StateMachine {
    async fn snapshot_of_present(&self) -> Result<(SnapshotMeta, SnapshotData), StorageError> {
        let this = self.clone();
        let (meta, file) = blocking(move || this.write_file()).await?;
        // What was applied since the checkpoint went into the file as well.
        self.checkpoint().await?;
        Ok((meta, SnapshotData::new(file)))
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<Applied, StorageError> {
        load_applied(&self.store).map_err(|e| read_failed(&e))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcomes>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().collect();
        let _held = self.writer.lock().await;
        self.apply_all(entries).map_err(|(log_id, e)| {
            let what = format!("apply entry {}", log_id.index);
            StorageIOError::apply(log_id, any(&what, &e)).into()
        })
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotData>, StorageError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.path("snapshot.incoming"))
            .map_err(|e| snapshot_failed(&e))?;
        Ok(Box::new(SnapshotData::new(file)))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<SnapshotData>,
    ) -> Result<(), StorageError> {
        let held = Arc::clone(&self.writer).lock_owned().await;
        let (this, kept) = (self.clone(), meta.clone());
        blocking(move || {
            let _held = held;
            this.keep(*snapshot, &kept)?;
            this.fill_tables(&kept)
        })
        .await?;
        self.promise(meta.last_log_id);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        let this = self.clone();
        let found = blocking(move || this.snapshot_file()).await?;
        let running = self.running.load(Ordering::Acquire);
        let promised = self.promised();
        let (meta, data) = match found {
            Some((meta, file)) if meta.last_log_id >= promised => (meta, SnapshotData::new(file)),
            // While it starts, openraft only asks which entries the log needn't hold.
            _ if promised.is_none() || !running => return Ok(None),
            _ => self.snapshot_of_present().await?,
        };
        Ok(Some(Snapshot {
            meta,
            snapshot: Box::new(data),
        }))
    }
}
