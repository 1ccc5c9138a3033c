//! Snapshots: written by one member, installed by another; and what a crash in between leaves.

use super::member::{count_sessions, open_session};
use crate::raft::state_machine::StateMachine;
use crate::raft::types::{Batch, Entry, Proposal, TypeConfig};
use crate::state::Command;
use crate::state::level::FEATURE_LEVEL;
use crate::storage::Store;
use dfs_proto::attr::Timestamp;
use openraft::storage::RaftStateMachine;
use openraft::{CommittedLeaderId, EntryPayload, LogId, Membership, RaftSnapshotBuilder, Snapshot};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

fn machine(dir: &Path, member: u64) -> (Arc<Store>, StateMachine) {
    let store = Arc::new(Store::open(&dir.join(crate::storage::tables::FILE_NAME)).unwrap());
    let machine = StateMachine::open(Arc::clone(&store), dir, member, None, FEATURE_LEVEL).unwrap();
    machine.set_running();
    (store, machine)
}

fn entry(index: u64, payload: EntryPayload<TypeConfig>) -> Entry {
    Entry {
        log_id: LogId::new(CommittedLeaderId::new(1, 1), index),
        payload,
    }
}

fn members(ids: &[u64]) -> EntryPayload<TypeConfig> {
    let ids: BTreeSet<u64> = ids.iter().copied().collect();
    EntryPayload::Membership(Membership::new(vec![ids], None))
}

fn batch(numbers: std::ops::Range<u64>) -> EntryPayload<TypeConfig> {
    let proposals = numbers.map(|n| {
        let now = Timestamp {
            seconds: n as i64,
            nanoseconds: 0,
        };
        let change = open_session(1 + n);
        Proposal::new(Command { now, change }).unwrap()
    });
    EntryPayload::Normal(Batch(proposals.collect()))
}

/// All records: two states are equal if these are.
fn records(store: &Store) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    let view = store.read().unwrap();
    view.visit_all(|key, value| {
        all.push((key.to_vec(), value.to_vec()));
        Ok(())
    })
    .unwrap();
    all
}

/// Sends a snapshot as the network would: its bytes.
async fn transfer(snapshot: Snapshot<TypeConfig>, to: &mut StateMachine) {
    let mut bytes = Vec::new();
    let mut from = snapshot.snapshot;
    from.read_to_end(&mut bytes).await.unwrap();
    let mut incoming = to.begin_receiving_snapshot().await.unwrap();
    for (nth, piece) in bytes.chunks(1000).enumerate() {
        incoming
            .seek(std::io::SeekFrom::Start(nth as u64 * 1000))
            .await
            .unwrap();
        incoming.write_all(piece).await.unwrap();
    }
    to.install_snapshot(&snapshot.meta, incoming).await.unwrap();
}

#[tokio::test]
async fn an_installed_snapshot_equals_the_state_it_was_made_of() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store_a, mut machine_a) = machine(a.path(), 1);
    let (store_b, mut machine_b) = machine(b.path(), 2);
    machine_a
        .apply([entry(0, members(&[1, 2])), entry(1, batch(0..500))])
        .await
        .unwrap();
    // What the receiver had before goes.
    machine_b
        .apply([entry(0, members(&[1, 2])), entry(1, batch(900..950))])
        .await
        .unwrap();

    let built = machine_a
        .get_snapshot_builder()
        .await
        .build_snapshot()
        .await
        .unwrap();
    let at_snapshot = records(&store_a);
    machine_a.apply([entry(2, batch(500..600))]).await.unwrap();
    assert_ne!(records(&store_a), at_snapshot);
    transfer(built, &mut machine_b).await;
    assert_eq!(records(&store_b), at_snapshot);
    assert_eq!(machine_b.applied_state().await.unwrap().0.unwrap().index, 1);

    // The rest comes from the log, and the two are equal again.
    machine_b.apply([entry(2, batch(500..600))]).await.unwrap();
    assert_eq!(records(&store_b), records(&store_a));
    assert_eq!(count_sessions(&store_b.read().unwrap()).unwrap(), 600);
}

#[tokio::test]
async fn the_only_member_writes_no_file_until_another_one_asks() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut alone) = machine(dir.path(), 1);
    alone
        .apply([entry(0, members(&[1])), entry(1, batch(0..50))])
        .await
        .unwrap();
    let built = alone
        .get_snapshot_builder()
        .await
        .build_snapshot()
        .await
        .unwrap();
    assert_eq!(built.meta.last_log_id.unwrap().index, 1);
    assert!(!dir.path().join("snapshot").exists());

    let other = tempfile::tempdir().unwrap();
    let (store_b, mut b) = machine(other.path(), 2);
    let asked = alone.get_current_snapshot().await.unwrap().unwrap();
    transfer(asked, &mut b).await;
    assert_eq!(records(&store_b), records(&store));
}

#[tokio::test]
async fn a_snapshot_that_came_in_before_a_crash_is_installed_at_the_next_start() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store_a, mut machine_a) = machine(a.path(), 1);
    machine_a
        .apply([entry(0, members(&[1, 2])), entry(1, batch(0..100))])
        .await
        .unwrap();
    machine_a
        .get_snapshot_builder()
        .await
        .build_snapshot()
        .await
        .unwrap();

    // The receiver has renamed the file into place; its tables are older.
    let (store_b, machine_b) = machine(b.path(), 2);
    drop((store_b, machine_b));
    std::fs::copy(a.path().join("snapshot"), b.path().join("snapshot")).unwrap();
    std::fs::write(b.path().join("snapshot.incoming"), b"half a file").unwrap();
    let (store_b, mut machine_b) = machine(b.path(), 2);
    assert_eq!(records(&store_b), records(&store_a));
    assert_eq!(machine_b.applied_state().await.unwrap().0.unwrap().index, 1);
    assert!(!b.path().join("snapshot.incoming").exists());
}

#[tokio::test]
async fn a_damaged_snapshot_is_refused_and_changes_nothing() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_store_a, mut machine_a) = machine(a.path(), 1);
    let (store_b, mut machine_b) = machine(b.path(), 2);
    machine_a
        .apply([entry(0, members(&[1, 2])), entry(1, batch(0..100))])
        .await
        .unwrap();
    machine_b.apply([entry(0, members(&[1, 2]))]).await.unwrap();
    let mut built = machine_a
        .get_snapshot_builder()
        .await
        .build_snapshot()
        .await
        .unwrap();
    let before = records(&store_b);
    let mut bytes = Vec::new();
    built.snapshot.read_to_end(&mut bytes).await.unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let mut incoming = machine_b.begin_receiving_snapshot().await.unwrap();
    incoming.write_all(&bytes).await.unwrap();
    assert!(
        machine_b
            .install_snapshot(&built.meta, incoming)
            .await
            .is_err()
    );
    assert_eq!(records(&store_b), before);
    assert!(!b.path().join("snapshot").exists());
}

#[tokio::test]
async fn the_same_entries_make_the_same_state_whatever_their_grouping() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store_a, mut machine_a) = machine(a.path(), 1);
    let (store_b, mut machine_b) = machine(b.path(), 2);
    let entries = || (1..20).map(|n| entry(n, batch(n * 10..n * 10 + 10)));
    machine_a.apply(entries()).await.unwrap();
    for one in entries() {
        machine_b.apply([one]).await.unwrap();
        machine_b.checkpoint().await.unwrap();
    }
    assert_eq!(records(&store_a), records(&store_b));
}
