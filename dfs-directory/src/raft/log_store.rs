//! The log, as openraft asks for it.
//!
//! Every call runs on the raft thread and reaches the disk before it returns: a thread of its
//! own for the flush would cost more than it hides. The newest entries are also kept in memory,
//! since each is read once to be applied, moments after it was written.

// The error type is openraft's, and its traits demand it as it is.
#![allow(clippy::result_large_err)]

use super::types::{
    Entry, LogId, StorageError, TypeConfig, decode_payload, encode_payload, log_id, position,
};
use crate::storage::log::{Entry as Record, Log, LogError, Position, Vote as StoredVote};
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{EntryPayload, LogState, OptionalSend, RaftLogReader, StorageIOError, Vote};
use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of memory for the newest entries. An entry is wanted once to be applied and once for each
/// other member, moments after it was appended; a member that is further behind is served from
/// the files, which the kernel caches.
const CACHE_BYTES_MAX: usize = 2 << 20;
/// Bytes of entries handed out in one read that may be cut short.
const READ_BYTES_MAX: u64 = 1 << 20;

/// The log of this member, shared by its writer and its readers.
#[derive(Clone, Debug)]
pub(super) struct LogStore {
    shared: Arc<Mutex<Shared>>,
    alone: Arc<AtomicBool>,
    member: u64,
}

#[derive(Debug)]
struct Shared {
    log: Log,
    /// The newest entries with the sizes of their payloads in the log, without gaps up to its end.
    cache: VecDeque<(Entry, usize)>,
    /// Memory that they take.
    cache_bytes: usize,
    committed: Option<LogId>,
}

/// Memory that an entry takes in the cache: a small one takes several times what it takes in the
/// log.
fn memory(entry: &Entry) -> usize {
    let held = match &entry.payload {
        EntryPayload::Normal(batch) => batch.memory(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    };
    size_of::<(Entry, usize)>() + held
}

impl Shared {
    fn remember(&mut self, entry: Entry, bytes: usize) {
        self.cache_bytes += memory(&entry);
        self.cache.push_back((entry, bytes));
        while self.cache_bytes > CACHE_BYTES_MAX
            && let Some((gone, _)) = self.cache.pop_front()
        {
            self.cache_bytes -= memory(&gone);
        }
    }

    fn forget(&mut self, gone: impl Fn(u64) -> bool) {
        self.cache.retain(|(entry, _)| !gone(entry.log_id.index));
        self.cache_bytes = self.cache.iter().map(|(entry, _)| memory(entry)).sum();
    }

    fn read(&self, from: u64, to: u64, bytes_max: u64) -> Result<Vec<Entry>, StorageError> {
        let from = from.max(self.log.first());
        let to = to.min(self.log.end());
        let cached = self
            .cache
            .front()
            .map_or(to, |(entry, _)| entry.log_id.index);
        let mut entries = Vec::new();
        let mut bytes_left = bytes_max;
        let on_disk = to.min(cached);
        if from < on_disk {
            let found = self
                .log
                .read(from, on_disk, bytes_max)
                .map_err(|e| reading(&e))?;
            for (position, payload) in found {
                bytes_left = bytes_left.saturating_sub(payload.len() as u64);
                let payload = decode_payload(&payload).map_err(|e| {
                    let error = StorageIOError::read_log_entry(
                        log_id(position),
                        openraft::AnyError::new(&e),
                    );
                    log::error!("entry {} of the log can't be read: {e}", position.index);
                    StorageError::from(error)
                })?;
                entries.push(Entry {
                    log_id: log_id(position),
                    payload,
                });
            }
            if from + (entries.len() as u64) < on_disk {
                return Ok(entries);
            }
        }
        let skip = from.saturating_sub(cached) as usize;
        for (entry, bytes) in self.cache.iter().skip(skip) {
            if entry.log_id.index >= to {
                break;
            }
            if !entries.is_empty() && *bytes as u64 > bytes_left {
                break;
            }
            bytes_left = bytes_left.saturating_sub(*bytes as u64);
            entries.push(entry.clone());
        }
        Ok(entries)
    }
}

fn any(e: &LogError) -> openraft::AnyError {
    log::error!("{e}");
    openraft::AnyError::error(e.to_string())
}

fn reading(e: &LogError) -> StorageError {
    StorageIOError::read_logs(any(e)).into()
}

fn writing(e: &LogError) -> StorageError {
    StorageIOError::write_logs(any(e)).into()
}

impl LogStore {
    /// `alone` is taken back before an entry is logged that names another voter than `member`.
    pub(super) fn new(log: Log, member: u64, alone: Arc<AtomicBool>) -> Self {
        let committed = log.committed().and_then(|index| log.position(index));
        let shared = Shared {
            log,
            cache: VecDeque::new(),
            cache_bytes: 0,
            committed: committed.map(log_id),
        };
        Self {
            shared: Arc::new(Mutex::new(shared)),
            alone,
            member,
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        // A panic inside leaves the log's own state consistent or marked as failed.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Entries and bytes that the log holds.
    pub(super) fn extent(&self) -> (u64, u64) {
        let shared = self.shared();
        (
            shared.log.end() - shared.log.first(),
            shared.log.retained_bytes(),
        )
    }

    /// Marks the log's end and takes no more changes.
    pub(super) fn close(&self) -> Result<(), LogError> {
        self.shared().log.close()
    }

    fn append_all(&self, mut entries: Vec<Entry>) -> Result<(), StorageError> {
        let purged = self.shared().log.purged().map(log_id);
        // What the purge point includes is applied and durable here; a late copy adds nothing.
        entries.retain(|entry| Some(entry.log_id.index) > purged.map(|id| id.index));
        let mut payloads = Vec::with_capacity(entries.len());
        for entry in &entries {
            if let EntryPayload::Membership(membership) = &entry.payload
                && membership.voter_ids().any(|voter| voter != self.member)
            {
                self.alone.store(false, Ordering::SeqCst);
            }
            let payload = encode_payload(&entry.payload).map_err(|e| {
                StorageIOError::write_log_entry(entry.log_id, openraft::AnyError::new(&e))
            })?;
            payloads.push(payload);
        }
        let records: Vec<_> = entries
            .iter()
            .zip(&payloads)
            .map(|(entry, payload)| Record {
                position: position(&entry.log_id),
                payload,
            })
            .collect();
        let mut shared = self.shared();
        shared.log.append(&records).map_err(|e| writing(&e))?;
        for (entry, payload) in entries.into_iter().zip(payloads) {
            shared.remember(entry, payload.len());
        }
        Ok(())
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(to) => *to,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let (from, to) = bounds(&range);
        self.shared().read(from, to, u64::MAX)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        self.shared().read(start, end, READ_BYTES_MAX)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let shared = self.shared();
        Ok(LogState {
            last_purged_log_id: shared.log.purged().map(log_id),
            last_log_id: shared.log.last().map(log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError> {
        let vote = StoredVote {
            term: vote.leader_id.term,
            member: vote.leader_id.node_id,
            committed: vote.committed,
        };
        self.shared()
            .log
            .save_vote(vote)
            .map_err(|e| StorageIOError::write_vote(any(&e)).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError> {
        Ok(self.shared().log.vote().map(|vote| {
            if vote.committed {
                Vote::new_committed(vote.term, vote.member)
            } else {
                Vote::new(vote.term, vote.member)
            }
        }))
    }

    /// Kept in memory and on disk with the next append: what it tells is only where a restart
    /// may begin to apply again without asking the others.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let mut shared = self.shared();
        shared.committed = committed;
        shared.log.set_committed(committed.map(|id| id.index));
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.shared().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        match self.append_all(entries.into_iter().collect()) {
            Ok(()) => {
                callback.log_io_completed(Ok(()));
                Ok(())
            }
            Err(e) => {
                callback.log_io_completed(Err(io::Error::other(e.to_string())));
                Err(e)
            }
        }
    }

    async fn truncate(&mut self, from: LogId) -> Result<(), StorageError> {
        let mut shared = self.shared();
        shared.forget(|index| index >= from.index);
        shared.log.truncate(from.index).map_err(|e| writing(&e))
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        let mut shared = self.shared();
        shared.forget(|index| index <= upto.index);
        let upto: Position = position(&upto);
        shared.log.purge(upto).map_err(|e| writing(&e))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::types::{Batch, Proposal};
    use super::*;
    use crate::namespace::NamespaceCommand;
    use crate::state::{Change, Command};
    use dfs_proto::attr::Timestamp;
    use dfs_proto::ids::{Generation, InodeId};
    use openraft::CommittedLeaderId;

    #[test]
    fn small_entries_are_counted_as_what_they_take_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open_with(dir.path(), 1 << 20).unwrap();
        let store = LogStore::new(log, 1, Arc::default());
        let done = NamespaceCommand::CutDone {
            inode: InodeId(2),
            generation: Generation(3),
        };
        let small = Proposal::new(Command {
            now: Timestamp::default(),
            change: Change::Namespace(done),
        })
        .unwrap();
        let count = 2 * CACHE_BYTES_MAX / size_of::<Proposal>();
        let entries = (0..count as u64).map(|index| Entry {
            log_id: LogId::new(CommittedLeaderId::new(1, 1), index),
            payload: EntryPayload::Normal(Batch(Arc::new([small.clone()]))),
        });
        store.append_all(entries.collect()).unwrap();
        let shared = store.shared();
        let most = CACHE_BYTES_MAX / size_of::<Proposal>();
        assert!(shared.cache.len() < most, "{}", shared.cache.len());
        // What is not in memory any more comes from the files.
        let end = count as u64;
        let found = shared.read(0, end, u64::MAX).unwrap();
        let indexes: Vec<u64> = found.iter().map(|e| e.log_id.index).collect();
        assert!(indexes.iter().copied().eq(0..indexes.len() as u64));
        assert!(!indexes.is_empty());
        assert_eq!(shared.read(end - 3, end, u64::MAX).unwrap().len(), 3);
    }
}
