//! What files take up.

use super::*;

const CHUNK: u64 = CHUNK_BYTES as u64;

async fn stored(client: &Client, file: &Handle) -> u64 {
    let attr = client.getattr(file.inode()).await.expect("attributes");
    attr.stored.expect("known")
}

#[tokio::test]
async fn only_sparse_files_are_measured_and_only_what_has_changed_of_them() {
    let fake = Fake::start().await;
    let (client, _) = mount(&fake).await;
    let (other, _) = mount(&fake).await;
    let measured = || std::mem::take(&mut lock(&fake.state).measured);
    let file = create(&client, "a", READ_WRITE).await;
    let data = vec![1; 2 * CHUNK as usize + 100];
    write(&client, &file, WriteAt::Offset(0), &data).await;
    assert_eq!(stored(&client, &file).await, 2 * CHUNK + 4096);
    let there = open(&other, "a", READ).await;
    assert_eq!(stored(&other, &there).await, 2 * CHUNK + 4096);
    assert_eq!(measured(), 0, "it has no hole");

    // Chunks 3 and 4 are a hole, in groups of their own and of chunk 0.
    write(&client, &file, WriteAt::Offset(5 * CHUNK), b"x").await;
    for _ in 0..3 {
        assert_eq!(stored(&client, &file).await, 2 * CHUNK + 2 * 4096);
    }
    assert_eq!(measured(), 4, "each group once");
    write(&client, &file, WriteAt::Offset(5 * CHUNK), &[2; 5000]).await;
    assert_eq!(stored(&client, &file).await, 2 * CHUNK + 3 * 4096);
    assert_eq!(measured(), 1, "the group of the chunk");
    assert_eq!(stored(&other, &there).await, 2 * CHUNK + 3 * 4096);
    let grown = client.setattr(file.inode(), None, SetAttr::default(), Some(90 * CHUNK));
    let grown = grown.await.expect("grown");
    assert_eq!(grown.stored, None);
    assert!(client.attr_ttl(&grown).is_zero(), "the kernel has to ask");
    assert_eq!(stored(&other, &there).await, 2 * CHUNK + 3 * 4096);
    let emptied = client.setattr(file.inode(), None, SetAttr::default(), Some(0));
    emptied.await.expect("emptied");
    assert_eq!(stored(&other, &there).await, 0);
}
