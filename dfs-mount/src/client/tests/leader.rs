//! What a mount tells while the directory's leader changes: sizes under leases that it reclaims.

use super::*;
use dfs_proto::ids::Version;

async fn size(client: &Client, file: &Handle) -> u64 {
    let found = client.getattr(file.inode()).await.expect("attributes");
    found.attr.size
}

#[tokio::test]
async fn a_truncation_whose_answer_was_lost_is_not_undone_by_a_look() {
    let fake = Fake::start().await;
    let (a, _) = mount(&fake).await;
    let (b, _) = mount(&fake).await;
    let file = create(&a, "f", READ_WRITE).await;
    let file_b = open(&b, "f", READ).await;
    write(&a, &file, WriteAt::Offset(0), &[1; 1000]).await;
    lock(&fake.state).hold_changes = true;
    let cutting = {
        let (a, file) = (a.clone(), file.clone());
        tokio::spawn(async move {
            let set = SetAttr::default();
            a.setattr(file.inode(), Some(&file), set, Some(10)).await
        })
    };
    eventually("it is made", || fake.size("f") == 10).await;
    fake.new_leader();
    eventually("the reclaims", || lock(&fake.state).reclaimed.len() >= 2).await;
    // A has not heard that it is done, and the new leader has told it the new generation.
    assert_eq!(size(&b, &file_b).await, 10);
    assert!(!cutting.is_finished());
    lock(&fake.state).hold_changes = false;
    let cut = cutting.await.expect("no panic").expect("truncated");
    assert_eq!(cut.attr.size, 10);
    assert_eq!(size(&b, &file_b).await, 10);
    assert_eq!(size(&a, &file).await, 10);
    // What was written before stays, and a sync names it.
    a.fsync(&file).await.expect("nothing is lost");
    let synced = std::mem::take(&mut lock(&fake.state).synced);
    let mut named = synced.iter().flat_map(|(_, chunks)| chunks);
    assert!(named.any(|(_, version)| *version > Version::HOLE));
}

#[tokio::test]
async fn what_is_unpushed_counts_before_the_new_grant_has_come() {
    let fake = Fake::start().await;
    let (a, _) = mount(&fake).await;
    let (b, _) = mount(&fake).await;
    let file = create(&a, "f", READ_WRITE).await;
    let file_b = open(&b, "f", READ).await;
    write(&a, &file, WriteAt::Offset(0), &[1; 1000]).await;
    assert_eq!(fake.size("f"), 0, "nobody has asked");
    lock(&fake.state).hold_reclaims = true;
    fake.new_leader();
    eventually("the reclaims", || lock(&fake.state).reclaimed.len() >= 2).await;
    // B's own answer is held back, too: the question to A is the fake's.
    let asked = {
        let (fake, inode) = (fake.clone(), file.inode());
        tokio::spawn(async move { fake.look(inode).await })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    lock(&fake.state).hold_reclaims = false;
    assert_eq!(asked.await.expect("no panic"), 1000);
    assert_eq!(size(&b, &file_b).await, 1000);
}

#[tokio::test]
async fn no_wait_for_a_lock_is_left_behind_at_a_new_leader() {
    let fake = Fake::start().await;
    let (a, _) = mount(&fake).await;
    let (b, _) = mount(&fake).await;
    let file = create(&a, "f", READ_WRITE).await;
    let file_b = open(&b, "f", READ_WRITE).await;
    let inode = file.inode();
    let exclusive = Some(LockKind::Exclusive);
    let never = Cancel::default();
    let taken = a.set_lock(&file, flock(1, exclusive, false), &never);
    taken.await.expect("free");
    // The request is repeated at the new leader, and comes there after B has moved all its waits.
    lock(&fake.state).hold_locks = true;
    let cancel = Cancel::default();
    let waiting = {
        let (b, file_b, cancel) = (b.clone(), file_b.clone(), cancel.clone());
        tokio::spawn(async move {
            let wait = flock(2, exclusive, true);
            b.set_lock(&file_b, wait, &cancel).await
        })
    };
    eventually("it is asked for", || lock(&fake.state).lock_requests == 2).await;
    fake.new_leader();
    eventually("it is repeated", || lock(&fake.state).lock_requests == 3).await;
    lock(&fake.state).hold_locks = false;
    fake.queued(inode, 1).await;
    cancel.cancel();
    let interrupted = waiting.await.expect("ends").expect_err("cancelled");
    assert_eq!(interrupted.code, ErrorCode::Interrupted);
    let none = tokio::time::timeout(PATIENCE, fake.queued(inode, 0)).await;
    none.expect("nobody waits any more");
}
