//! fsync after cuts: what is gone on purpose is not lost.

use super::fake::{CHUNK_BYTES, Fake};
use super::*;

const CHUNK: u64 = CHUNK_BYTES as u64;

async fn five_chunks(client: &Client) -> Handle {
    let file = create(client, "f", READ_WRITE).await;
    fill(client, &file).await;
    file
}

async fn fill(client: &Client, file: &Handle) {
    write(
        client,
        file,
        WriteAt::Offset(0),
        &vec![7; 5 * CHUNK as usize],
    )
    .await;
}

async fn cut(client: &Client, file: &Handle, size: u64) {
    let set = SetAttr::default();
    let cut = client.setattr(file.inode(), None, set, Some(size)).await;
    assert_eq!(cut.expect("cuts").attr.size, size);
}

#[tokio::test]
async fn chunks_behind_the_own_cut_are_not_missed() {
    let fake = Fake::start().await;
    let (client, _) = mount(&fake).await;
    let file = five_chunks(&client).await;
    cut(&client, &file, CHUNK + 1).await;
    client.fsync(&file).await.expect("syncs");
    // Written again behind it, cut again, written again.
    write(&client, &file, WriteAt::Offset(3 * CHUNK), b"again").await;
    client.fsync(&file).await.expect("syncs");
    cut(&client, &file, 0).await;
    write(&client, &file, WriteAt::Offset(CHUNK), b"and again").await;
    client.fsync(&file).await.expect("syncs");
}

#[tokio::test]
async fn a_cut_by_another_mount_between_write_and_fsync_is_no_loss() {
    let fake = Fake::start().await;
    let (a, _) = mount(&fake).await;
    let (b, _) = mount(&fake).await;
    let file = five_chunks(&a).await;
    let other = open(&b, "f", READ_WRITE).await;
    cut(&b, &other, CHUNK + 1).await;
    a.fsync(&file).await.expect("syncs without the lease");
    fill(&a, &file).await;
    cut(&b, &other, 0).await;
    write(&b, &other, WriteAt::Offset(4 * CHUNK), b"long again").await;
    assert_eq!(read(&a, &file, 4 * CHUNK, 10).await, b"long again");
    a.fsync(&file).await.expect("syncs under a new lease");
}

#[tokio::test]
async fn what_another_mount_cut_is_no_loss_after_an_own_change_of_the_size() {
    let fake = Fake::start().await;
    let (a, _) = mount(&fake).await;
    let (b, _) = mount(&fake).await;
    let file = five_chunks(&a).await;
    let other = open(&b, "f", READ_WRITE).await;
    cut(&b, &other, CHUNK).await;
    cut(&a, &file, 2 * CHUNK).await;
    a.fsync(&file).await.expect("the second chunk was cut");
}

#[tokio::test]
async fn fdatasync_waits_for_the_log_when_the_size_has_changed_only() {
    let fake = Fake::start().await;
    let (client, _) = mount(&fake).await;
    let file = create(&client, "f", READ_WRITE).await;
    write(&client, &file, WriteAt::Offset(0), b"0123456789").await;
    client.fdatasync(&file).await.expect("syncs");
    assert_eq!(fake.size("f"), 10, "the size belongs to the data");
    assert_eq!(fake.pushes(), 1);
    loop {
        let begun = tokio::time::Instant::now();
        let before = fake.pushes();
        write(&client, &file, WriteAt::Offset(0), b"again").await;
        client.fdatasync(&file).await.expect("syncs");
        let pushed = fake.pushes() > before;
        // Later the times would have gone by themselves.
        if begun.elapsed() < dfs_proto::timing::PUSH_INTERVAL {
            assert!(!pushed, "the times do not");
            break;
        }
    }
    let before = fake.pushes();
    write(&client, &file, WriteAt::Offset(0), b"and again").await;
    client.fsync(&file).await.expect("syncs");
    assert!(fake.pushes() > before);
    write(&client, &file, WriteAt::Offset(0), b"lost").await;
    fake.lose_chunks();
    let lost = client.fdatasync(&file).await;
    assert_eq!(lost.expect_err("lost").code, ErrorCode::WriteLost);
}

#[tokio::test]
async fn times_that_were_not_logged_break_no_handle_with_the_session() {
    let fake = Fake::start().await;
    let (client, _) = mount(&fake).await;
    let file = create(&client, "f", READ_WRITE).await;
    write(&client, &file, WriteAt::Offset(0), b"0123456789").await;
    client.fsync(&file).await.expect("syncs");
    write(&client, &file, WriteAt::Offset(0), b"synced").await;
    client.fdatasync(&file).await.expect("syncs");
    let session = || client.core.session.borrow().as_ref().map(|s| s.id);
    let before = session();
    fake.end_sessions();
    eventually("another session", || {
        session().is_some() && session() != before
    })
    .await;
    assert_eq!(read(&client, &file, 0, 10).await, b"synced6789");
}

#[tokio::test]
async fn a_write_that_is_really_lost_is_reported_once() {
    let fake = Fake::start().await;
    let (client, _) = mount(&fake).await;
    let file = five_chunks(&client).await;
    fake.lose_chunks();
    let lost = client.fsync(&file).await;
    assert_eq!(lost.expect_err("lost").code, ErrorCode::WriteLost);
    client.fsync(&file).await.expect("was reported");
}
