//! Truncations while a lease is given back.

use super::*;

#[tokio::test]
async fn a_truncation_does_not_wait_for_pages_that_wait_for_it() {
    let fake = Fake::start().await;
    let (a, kernel) = mount(&fake).await;
    let (b, _) = mount(&fake).await;
    let file = create(&a, "f", READ_WRITE).await;
    write(&a, &file, WriteAt::Offset(0), &[1; 1000]).await;
    let file_b = open(&b, "f", READ_WRITE).await;
    // The kernel can't write out what was stored into it before the truncation is answered.
    let held = kernel.hold_data.clone().lock_owned().await;
    let writing = tokio::spawn(async move {
        write(&b, &file_b, WriteAt::Offset(500), &[2; 10]).await;
        b
    });
    eventually("the recall", || !lock(&kernel.dropped).is_empty()).await;
    let cut = a.setattr(file.inode(), Some(&file), SetAttr::default(), Some(10));
    let cut = tokio::time::timeout(PATIENCE, cut).await.expect("answered");
    assert_eq!(cut.expect("truncated").attr.size, 10);
    assert!(!writing.is_finished(), "the lease has not been given back");
    drop(held);
    let b = writing.await.expect("no panic");
    let seen = b.getattr(file.inode()).await.expect("attributes");
    assert_eq!(seen.attr.size, 510);
    assert_eq!(
        read(&a, &file, 0, 12).await,
        [&[1; 10][..], &[0; 2]].concat()
    );
}
