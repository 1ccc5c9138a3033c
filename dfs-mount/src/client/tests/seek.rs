//! Data and holes of sparse files.

use super::*;

#[tokio::test]
async fn data_and_holes_are_told_apart_by_blocks() {
    let fake = Fake::start().await;
    let (client, _) = mount(&fake).await;
    let (other, _) = mount(&fake).await;
    let chunk = u64::from(CHUNK_BYTES);
    let file = create(&client, "a", READ_WRITE).await;
    let find = async |client: &Client, file: &Handle, offset, seek| {
        client.seek(file, offset, seek).await.map_err(|e| e.code)
    };
    assert_eq!(
        find(&client, &file, 0, Seek::Data).await,
        Err(ErrorCode::NoData)
    );
    assert_eq!(
        find(&client, &file, 0, Seek::Hole).await,
        Err(ErrorCode::NoData)
    );
    // Chunks 2, 3 and 9, and a hole up to the end.
    write(
        &client,
        &file,
        WriteAt::Offset(2 * chunk + 5),
        &vec![1; CHUNK_BYTES as usize],
    )
    .await;
    write(&client, &file, WriteAt::Offset(9 * chunk), b"x").await;
    let grown = client.setattr(file.inode(), None, SetAttr::default(), Some(12 * chunk));
    grown.await.expect("grown");
    let there = open(&other, "a", READ).await;
    for (client, file) in [(&client, &file), (&other, &there)] {
        for (offset, data, hole) in [
            (0, Ok(2 * chunk), 0),
            (2 * chunk + 1, Ok(2 * chunk + 1), 3 * chunk + 4096),
            (4 * chunk - 1, Ok(9 * chunk), 4 * chunk - 1),
            (4 * chunk, Ok(9 * chunk), 4 * chunk),
            (9 * chunk, Ok(9 * chunk), 9 * chunk + 4096),
            (10 * chunk, Err(ErrorCode::NoData), 10 * chunk),
        ] {
            assert_eq!(
                find(client, file, offset, Seek::Data).await,
                data,
                "{offset}"
            );
            assert_eq!(
                find(client, file, offset, Seek::Hole).await,
                Ok(hole),
                "{offset}"
            );
        }
        let behind = find(client, file, 12 * chunk, Seek::Hole).await;
        assert_eq!(behind, Err(ErrorCode::NoData));
    }
}
