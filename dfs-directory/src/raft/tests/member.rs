//! Starting, committing, stopping, crashing.

use crate::raft::{RaftHandle, RaftOptions, StartError, start};
use crate::session::{SessionChanged, SessionCommand, SessionOutcome};
use crate::state::tables::{Read, Table, TableError};
use crate::state::{Change, Outcome};
use crate::storage::identity::{DataDir, Identity, IdentityError, Stage};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{ClusterId, Incarnation, MemberId, NodeId};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(super) fn format(dir: &Path) -> DataDir {
    let identity = Identity {
        cluster: ClusterId(1),
        node: NodeId(2),
        member: MemberId(1),
        stage: Stage::Founding,
    };
    DataDir::format(dir, identity).unwrap()
}

pub(super) fn options(data: DataDir) -> RaftOptions {
    RaftOptions::new(data, "127.0.0.1:1")
}

async fn reopen(dir: &Path) -> RaftHandle {
    let raft = start(options(DataDir::open(dir, None).unwrap()))
        .await
        .unwrap();
    raft.leading().await.unwrap();
    raft
}

async fn fresh(dir: &Path) -> RaftHandle {
    let raft = start(options(format(dir))).await.unwrap();
    raft.leading().await.unwrap();
    raft
}

/// A change that leaves a record of its own.
pub(super) fn open_session(n: u64) -> Change {
    Change::Session(SessionCommand::Open {
        incarnation: Incarnation(n),
        host: format!("host-{n}"),
        pid: 1,
        mount_point: "/mnt".to_owned(),
    })
}

fn session_of(outcome: Outcome) -> u64 {
    match outcome {
        Outcome::Session(SessionOutcome(Ok(SessionChanged::Opened { session, .. }))) => session.0,
        other => panic!("{other:?}"),
    }
}

pub(super) fn count_sessions(tables: &dyn Read) -> Result<usize, TableError> {
    let mut count = 0;
    tables.scan(Table::Sessions, &[], &mut |_, _| {
        count += 1;
        ControlFlow::Continue(())
    })?;
    Ok(count)
}

async fn sessions(raft: &RaftHandle) -> usize {
    raft.read(count_sessions).await.unwrap()
}

/// What a disk holds when the machine loses power: nothing that is not in the files.
fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn what_was_committed_is_read_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let raft = fresh(dir.path()).await;
    for n in 1..=20 {
        raft.commit(open_session(n)).await.unwrap();
        assert_eq!(sessions(&raft).await, n as usize);
    }
    assert!(raft.status().applied >= 20);
    raft.shutdown().await;
}

#[tokio::test]
async fn a_member_leads_within_a_second_under_a_new_life_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let raft = fresh(dir.path()).await;
    let mut lives = vec![raft.status().life];
    raft.shutdown().await;
    let mut quickest = Duration::MAX;
    for _ in 0..3 {
        let begun = Instant::now();
        let raft = reopen(dir.path()).await;
        // A busy machine may slow one of them down.
        quickest = quickest.min(begun.elapsed());
        let status = raft.status();
        assert!(status.leading && status.leader == Some(MemberId(1)));
        assert!(!lives.contains(&status.life) && status.life != 0);
        lives.push(status.life);
        raft.shutdown().await;
    }
    assert!(quickest < Duration::from_secs(1), "{quickest:?}");
}

#[tokio::test]
async fn a_clean_stop_keeps_everything_and_ends_all_calls() {
    let dir = tempfile::tempdir().unwrap();
    let raft = fresh(dir.path()).await;
    for n in 1..=50 {
        raft.commit(open_session(n)).await.unwrap();
    }
    raft.shutdown().await;
    raft.shutdown().await;
    assert!(raft.commit(open_session(51)).await.is_err());
    assert!(raft.read(count_sessions).await.is_err());
    let again = reopen(dir.path()).await;
    assert_eq!(sessions(&again).await, 50);
    again.shutdown().await;
}

#[tokio::test]
async fn power_loss_at_any_moment_keeps_what_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let raft = fresh(dir.path()).await;
    for n in 1..=60u64 {
        raft.commit(open_session(n)).await.unwrap();
        if n % 20 == 0 {
            let copy = tempfile::tempdir().unwrap();
            copy_dir(dir.path(), copy.path());
            let after = reopen(copy.path()).await;
            assert_eq!(sessions(&after).await as u64, n);
            // And it goes on from there.
            after.commit(open_session(1000 + n)).await.unwrap();
            assert_eq!(sessions(&after).await as u64, n + 1);
            after.shutdown().await;
        }
    }
    raft.shutdown().await;
}

#[tokio::test]
async fn the_last_handle_gone_stops_the_member_and_frees_the_dir() {
    let dir = tempfile::tempdir().unwrap();
    let raft = fresh(dir.path()).await;
    raft.commit(open_session(1)).await.unwrap();
    drop(raft);
    let deadline = Instant::now() + Duration::from_secs(20);
    let data = loop {
        match DataDir::open(dir.path(), None) {
            Ok(data) => break data,
            Err(IdentityError::InUse(_)) => {
                assert!(Instant::now() < deadline, "still in use");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(e) => panic!("{e}"),
        }
    };
    let again = start(options(data)).await.unwrap();
    again.leading().await.unwrap();
    assert_eq!(sessions(&again).await, 1);
    again.shutdown().await;
}

#[tokio::test]
async fn many_callers_share_log_entries_and_each_gets_its_own_outcome() {
    let dir = tempfile::tempdir().unwrap();
    let raft = fresh(dir.path()).await;
    let before = raft.status().applied;
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..40u64 {
        let raft = raft.clone();
        callers.spawn(async move {
            let mut last = 0;
            for n in 0..10 {
                let incarnation = 1 + caller * 10 + n;
                let first = session_of(raft.commit(open_session(incarnation)).await.unwrap());
                // The same again finds the same session: the outcome is this caller's own.
                let second = session_of(raft.commit(open_session(incarnation)).await.unwrap());
                assert_eq!(first, second);
                assert!(first > last, "a caller's changes are applied in its order");
                last = first;
            }
        });
    }
    while let Some(done) = callers.join_next().await {
        done.unwrap();
    }
    assert_eq!(sessions(&raft).await, 400);
    let entries = raft.status().applied - before;
    assert!(entries < 400, "800 changes took {entries} entries");
    raft.shutdown().await;
}

#[tokio::test]
async fn callers_beyond_the_queues_bound_are_told_so_and_nobody_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let raft = fresh(dir.path()).await;
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..20_000u64 {
        let raft = raft.clone();
        callers.spawn(async move { raft.commit(open_session(1 + n % 100)).await.map(|_| ()) });
    }
    let (mut done, mut refused) = (0, 0);
    while let Some(result) = callers.join_next().await {
        match result.unwrap() {
            Ok(()) => done += 1,
            Err(e) => {
                assert_eq!(e.code, ErrorCode::Overloaded, "{e}");
                refused += 1;
            }
        }
    }
    assert_eq!(done + refused, 20_000);
    assert!(
        done >= 8192 && refused > 0,
        "{done} done, {refused} refused"
    );
    raft.shutdown().await;
}

#[tokio::test]
async fn a_reader_never_misses_what_another_caller_was_told() {
    for prove in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let raft = fresh(dir.path()).await;
        if prove {
            assert!(raft.always_prove(), "the only voter reads without a proof");
        }
        read_while_others_commit(raft).await;
    }
}

async fn read_while_others_commit(raft: RaftHandle) {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let reader = {
        let (raft, stop, told) = (raft.clone(), Arc::clone(&stop), Arc::clone(&told));
        tokio::spawn(async move {
            let mut reads = 0;
            while !stop.load(Ordering::SeqCst) {
                let known = told.load(Ordering::SeqCst);
                assert!(sessions(&raft).await >= known);
                reads += 1;
                tokio::task::yield_now().await;
            }
            reads
        })
    };
    for n in 1..=200 {
        raft.commit(open_session(n)).await.unwrap();
        told.store(n as usize, Ordering::SeqCst);
    }
    stop.store(true, Ordering::SeqCst);
    assert!(reader.await.unwrap() > 0);
    raft.shutdown().await;
}

#[tokio::test]
async fn the_log_is_purged_and_a_restart_still_has_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(format(dir.path()));
    options.segment_bytes = 64 << 10;
    options.log_bytes_max = 256 << 10;
    let raft = start(options).await.unwrap();
    raft.leading().await.unwrap();
    let log = dir.path().join("raft");
    let segments = || {
        std::fs::read_dir(&log)
            .unwrap()
            .filter(|e| {
                e.as_ref()
                    .unwrap()
                    .file_name()
                    .to_str()
                    .unwrap()
                    .starts_with("log-")
            })
            .count()
    };
    // Entries of a few hundred bytes; more than the thousand that are kept for late members.
    let deadline = Instant::now() + Duration::from_secs(60);
    let (mut n, mut most) = (0u64, 0);
    let long = "x".repeat(250);
    loop {
        for _ in 0..100 {
            n += 1;
            let change = Change::Session(SessionCommand::Open {
                incarnation: Incarnation(1 + n % 500),
                host: long.clone(),
                pid: 1,
                mount_point: long.clone(),
            });
            raft.commit(change).await.unwrap();
        }
        let now = segments();
        if now < most {
            break;
        }
        most = now;
        assert!(
            Instant::now() < deadline,
            "{most} segments and none was purged"
        );
    }
    let copy = tempfile::tempdir().unwrap();
    raft.shutdown().await;
    copy_dir(dir.path(), copy.path());
    let again = reopen(copy.path()).await;
    assert_eq!(sessions(&again).await as u64, n.min(500));
    again.shutdown().await;
}

async fn refused(dir: &Path) -> StartError {
    match start(options(DataDir::open(dir, None).unwrap())).await {
        Err(e) => e,
        Ok(_) => panic!("it started"),
    }
}

#[tokio::test]
async fn a_dir_that_lost_a_part_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let raft = fresh(dir.path()).await;
    raft.commit(open_session(1)).await.unwrap();
    raft.shutdown().await;

    let no_log = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), no_log.path());
    std::fs::remove_dir_all(no_log.path().join("raft")).unwrap();
    let error = refused(no_log.path()).await;
    assert!(error.to_string().contains("the log is gone"), "{error}");

    let no_vote = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), no_vote.path());
    std::fs::write(no_vote.path().join("raft/pointers"), b"").unwrap();
    let error = refused(no_vote.path()).await;
    assert!(error.to_string().contains("vote"), "{error}");

    // The tables alone can be made again from a log that is whole.
    std::fs::remove_file(dir.path().join(crate::storage::tables::FILE_NAME)).unwrap();
    let again = reopen(dir.path()).await;
    assert_eq!(sessions(&again).await, 1);
    again.shutdown().await;
}

#[tokio::test]
async fn the_in_memory_member_behaves_the_same() {
    let raft = RaftHandle::in_memory();
    let first = raft.leading().await.unwrap().life;
    raft.commit(open_session(1)).await.unwrap();
    assert_eq!(sessions(&raft).await, 1);
    raft.set_leading(false);
    let error = raft.commit(open_session(2)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::NotLeader);
    assert_eq!(
        raft.read(count_sessions).await.unwrap_err().code,
        ErrorCode::NotLeader
    );
    assert_eq!(raft.read_local(|tables| count_sessions(tables)).unwrap(), 1);
    raft.set_leading(true);
    assert_ne!(raft.leading().await.unwrap().life, first);
    raft.shutdown().await;
    assert!(raft.commit(open_session(3)).await.is_err());
}

#[tokio::test]
async fn a_failed_disk_stops_the_member_and_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut small = options(format(dir.path()));
    small.segment_bytes = 4096;
    let raft = start(small).await.unwrap();
    raft.leading().await.unwrap();
    raft.commit(open_session(1)).await.unwrap();
    // The next segment file can't be made.
    let (log, away) = (dir.path().join("raft"), dir.path().join("away"));
    std::fs::rename(&log, &away).unwrap();
    let mut acknowledged = 1;
    let error = loop {
        match raft.commit(open_session(acknowledged + 1)).await {
            Ok(_) => acknowledged += 1,
            Err(e) => break e,
        }
        assert!(acknowledged < 1000, "it never fails");
    };
    assert_eq!(error.code, ErrorCode::StorageFailed, "{error}");
    assert!(raft.failed().await.contains("log"));
    assert!(!raft.status().leading);
    let error = raft.commit(open_session(5000)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::StorageFailed, "{error}");
    raft.shutdown().await;

    std::fs::rename(&away, &log).unwrap();
    let again = reopen(dir.path()).await;
    let kept = sessions(&again).await as u64;
    // The one that was refused may or may not be there.
    assert!(
        kept == acknowledged || kept == acknowledged + 1,
        "{kept} of {acknowledged}"
    );
    again.shutdown().await;
}
