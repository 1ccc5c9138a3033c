//! What is fetched ahead of a sequential reader is never old, whoever writes.

use super::*;

const STEP: usize = 64 << 10;
const STEPS: usize = 40;

fn content(seed: u8) -> Vec<u8> {
    (0..STEPS * STEP).map(|i| (i % 241) as u8 ^ seed).collect()
}

/// Reads step by step; before each one `beside` may change the file.
async fn follow(
    client: &Client,
    handle: &Handle,
    mut expected: Vec<u8>,
    mut beside: impl AsyncFnMut(usize, &mut Vec<u8>),
) {
    for step in 0..STEPS {
        beside(step, &mut expected).await;
        let at = step * STEP;
        let seen = read(client, handle, at as u64, STEP).await;
        assert!(seen == expected[at..at + STEP], "step {step}");
    }
    assert_eq!(read(client, handle, expected.len() as u64, 10).await, b"");
}

#[tokio::test]
async fn another_mounts_writes_are_seen_ahead_of_a_reader() {
    let fake = Fake::start().await;
    let (a, _) = mount(&fake).await;
    let (b, _) = mount(&fake).await;
    let written = create(&a, "stream", READ_WRITE).await;
    write(&a, &written, WriteAt::Offset(0), &content(0)).await;
    let reader = open(&b, "stream", READ).await;
    follow(&b, &reader, content(0), async |step, expected| {
        // Just ahead of the reader, where its pieces are, and sometimes far ahead.
        if step % 5 == 4 {
            for at in [step * STEP + 100, (step * STEP + expected.len()) / 2] {
                write(&a, &written, WriteAt::Offset(at as u64), &[step as u8; 50]).await;
                expected[at..at + 50].fill(step as u8);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn the_own_mounts_writes_and_cuts_are_seen_ahead_of_a_reader() {
    let fake = Fake::start().await;
    let (client, _) = mount(&fake).await;
    let written = create(&client, "own", READ_WRITE).await;
    write(&client, &written, WriteAt::Offset(0), &content(1)).await;
    let reader = open(&client, "own", READ).await;
    follow(&client, &reader, content(1), async |step, expected| {
        if step % 6 == 5 {
            let at = step * STEP + STEP / 2;
            write(&client, &written, WriteAt::Offset(at as u64), &[9; 5000]).await;
            expected[at..(at + 5000).min((STEPS * STEP).max(at))].fill(9);
        }
        if step == 20 {
            // Cut behind the reader's place, and grown again: zeros where its pieces had data.
            let (kept, size) = (21 * STEP as u64, expected.len() as u64);
            for size in [kept, size] {
                let resized = client.setattr(
                    written.inode(),
                    Some(&written),
                    SetAttr::default(),
                    Some(size),
                );
                resized.await.expect("resizes");
            }
            expected[kept as usize..].fill(0);
        }
    })
    .await;
}

#[tokio::test]
async fn a_reader_in_sequence_waits_for_no_server() {
    let fake = Fake::start().await;
    let (client, _) = mount(&fake).await;
    let written = create(&client, "quiet", READ_WRITE).await;
    write(&client, &written, WriteAt::Offset(0), &content(3)).await;
    let reader = open(&client, "quiet", READ).await;
    for step in 0..4 {
        read(&client, &reader, (step * STEP) as u64, STEP).await;
    }
    let whole = content(3);
    eventually("the pieces are there", || reader.0.ahead.is_complete()).await;
    // No server is asked: none of them has a good copy any more.
    lock(&fake.state).rotten = (1..=10).map(ServerId).collect();
    let at = 4 * STEP;
    assert!(read(&client, &reader, at as u64, STEP).await == whole[at..at + STEP]);
}
