//! Extended attributes: what is asked for, and what is known without a question.

use super::*;
use dfs_proto::xattr::{SetXattrIf, XattrName};

fn xattr(text: &str) -> XattrName {
    XattrName::new(text.as_bytes()).expect("a name")
}

async fn value(client: &Client, inode: InodeId, text: &str) -> Option<Vec<u8>> {
    let found = client.get_xattr(inode, xattr(text)).await;
    found.expect("answered").value
}

fn questions(fake: &Fake) -> usize {
    lock(&fake.state).xattr_questions
}

const ACL: &str = "system.posix_acl_access";
const CAPABILITY: &str = "security.capability";

#[tokio::test]
async fn what_is_not_there_is_known_without_a_question() {
    let fake = Fake::start().await;
    let (client, _) = mount(&fake).await;
    let file = create(&client, "a", READ_WRITE).await;
    let inode = file.inode();
    for text in ["user.a", ACL, CAPABILITY] {
        assert!(client.lacks_xattr(inode, &xattr(text)), "{text}");
        assert_eq!(value(&client, inode, text).await, None);
    }
    assert_eq!(client.list_xattrs(inode).await, Ok(Vec::new()));
    // A write changes nothing about that: the kernel asks at each.
    write(&client, &file, WriteAt::End, b"x").await;
    assert!(client.lacks_xattr(inode, &xattr(CAPABILITY)));
    assert_eq!(questions(&fake), 0);
    let set = client.set_xattr(
        inode,
        xattr("user.a"),
        b"v".to_vec(),
        SetXattrIf::Always,
        false,
    );
    set.await.expect("set");
    assert!(!client.lacks_xattr(inode, &xattr("user.a")));
    assert!(client.lacks_xattr(inode, &xattr(ACL)), "another kind");
    assert_eq!(value(&client, inode, "user.a").await, Some(b"v".to_vec()));
    assert_eq!(client.list_xattrs(inode).await, Ok(vec![xattr("user.a")]));
    // One kind: the directory has to be asked.
    assert_eq!(value(&client, inode, "user.b").await, None);
    assert_eq!(questions(&fake), 3);
    client
        .remove_xattr(inode, xattr("user.a"))
        .await
        .expect("removed");
    assert!(client.lacks_xattr(inode, &xattr("user.a")));
    assert_eq!(value(&client, inode, "user.a").await, None);
    assert_eq!(questions(&fake), 3);
}

#[tokio::test]
async fn an_acl_is_answered_under_the_lease() {
    let fake = Fake::start().await;
    let (first, _) = mount(&fake).await;
    let (second, kernel) = mount(&fake).await;
    let inode = create(&first, "a", READ_WRITE).await.inode();
    let found = second.get_xattr(inode, xattr(ACL)).await.expect("answered");
    assert_eq!(found.value, None);
    // Whoever changes it waits until what the kernel has of it is dropped; and that waits until
    // the answer is out.
    let held = tokio::time::timeout(
        Duration::from_millis(200),
        first.set_xattr(
            inode,
            xattr(ACL),
            b"acl".to_vec(),
            SetXattrIf::Always,
            false,
        ),
    );
    assert!(held.await.is_err(), "changed while it was being answered");
    assert_eq!(lock(&kernel.dropped).len(), 0);
    drop(found);
    eventually("the drop", || lock(&kernel.dropped).len() == 1).await;
    eventually("the change", || lock(&fake.state).mutations == 2).await;
    assert_eq!(value(&second, inode, ACL).await, Some(b"acl".to_vec()));
}

#[tokio::test]
async fn a_write_takes_away_what_its_writer_may_not_keep() {
    let fake = Fake::start().await;
    let (client, _) = mount(&fake).await;
    let file = create(&client, "a", READ_WRITE).await;
    let inode = file.inode();
    let chmod = SetAttr {
        mode: Some(0o6755),
        ..SetAttr::default()
    };
    let write = async |keeps: bool| {
        let looks = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let counted = looks.clone();
        let writer = Writer::caller(move |_| {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Keeps {
                set_ids: keeps,
                group: true,
            }
        });
        let data = Payload::copy_from(b"x");
        let written = client.write(&file, WriteAt::End, data, WriteMode::Normal, writer);
        assert_eq!(written.await, Ok(1));
        looks.load(std::sync::atomic::Ordering::Relaxed)
    };
    let mode = async || client.getattr(inode).await.expect("attributes").attr.mode;
    assert_eq!(
        write(false).await,
        0,
        "nobody is looked at without a reason"
    );
    client.setattr(inode, None, chmod, None).await.expect("set");
    assert_ne!(write(true).await, 0);
    assert_eq!(mode().await, 0o6755);
    write(false).await;
    assert_eq!(mode().await, 0o755);
    // Capabilities go with anybody's write.
    let set = client.set_xattr(inode, xattr(CAPABILITY), vec![1], SetXattrIf::Always, false);
    set.await.expect("set");
    write(true).await;
    assert!(client.lacks_xattr(inode, &xattr(CAPABILITY)));
    assert_eq!(mode().await, 0o755);
}
