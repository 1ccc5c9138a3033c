//! Names that are kept: as long as their right, and never beyond the news of a change.

use super::fake::Fake;
use super::*;

async fn granting() -> Arc<Fake> {
    let fake = Fake::start().await;
    lock(&fake.state).grants_names = true;
    fake
}

fn lookups(fake: &Fake) -> u64 {
    lock(&fake.state).lookups
}

async fn look(client: &Client, text: &str) -> EntryAnswer {
    let looked = client.lookup(ROOT, Some(name(text))).await;
    looked.expect("answered")
}

#[tokio::test]
async fn a_name_is_asked_for_once_until_it_changes() {
    let fake = granting().await;
    let (client, kernel) = mount(&fake).await;
    let first = look(&client, "x").await;
    assert!(first.found.is_none());
    assert!(client.entry_ttl(&first) > Duration::ZERO, "it may be kept");
    assert!(look(&client, "x").await.found.is_none());
    assert_eq!(lookups(&fake), 1);
    assert!(client.lookup_kept(ROOT, &name("x")).is_some());
    fake.tell_names("x", true).await;
    assert!(
        client.entry_ttl(&first).is_zero(),
        "an answer of before the change is not kept, however late it is handed over"
    );
    assert!(client.lookup_kept(ROOT, &name("x")).is_none());
    let dropped = lock(&kernel.names_dropped).clone();
    assert_eq!(dropped, [(ROOT, vec![name("x")])]);
    look(&client, "x").await;
    assert_eq!(lookups(&fake), 2);
}

#[tokio::test]
async fn own_changes_need_no_question() {
    let fake = granting().await;
    let (client, _) = mount(&fake).await;
    look(&client, "x").await;
    let file = create(&client, "x", READ_WRITE).await;
    let kept = client.lookup_kept(ROOT, &name("x")).expect("kept");
    let found = kept.found.clone().expect("there");
    assert_eq!(found.attr.inode, file.inode());
    assert!(client.attr_ttl(&found) > Duration::ZERO);
    write(&client, &file, WriteAt::Offset(0), b"12345").await;
    let seen = client.attr_kept(file.inode()).expect("kept");
    assert_eq!(seen.attr.size, 5);
    let set = SetAttr {
        mode: Some(0o600),
        ..SetAttr::default()
    };
    let changed = client.setattr(file.inode(), None, set, None).await;
    assert_eq!(changed.expect("changed").attr.mode, 0o600);
    let seen = client.attr_kept(file.inode()).expect("kept");
    assert_eq!((seen.attr.mode, seen.attr.size), (0o600, 5));
    assert!(
        client.attr_ttl(&found).is_zero(),
        "what was answered before the own change is not kept"
    );
    assert_eq!(lookups(&fake), 1);
}

#[tokio::test]
async fn a_right_that_is_ended_keeps_nothing() {
    let fake = granting().await;
    let (client, _) = mount(&fake).await;
    look(&client, "x").await;
    look(&client, "y").await;
    lock(&fake.state).grants_names = false;
    fake.tell_names("z", false).await;
    let later = look(&client, "y").await;
    assert!(client.entry_ttl(&later).is_zero());
    look(&client, "y").await;
    assert_eq!(lookups(&fake), 4);
}

#[tokio::test]
async fn names_go_before_a_new_leader_is_told_that_nothing_is_kept() {
    let fake = granting().await;
    let (client, kernel) = mount(&fake).await;
    let kept = look(&client, "x").await;
    fake.new_leader();
    eventually("the reclaim", || !lock(&fake.state).reclaimed.is_empty()).await;
    assert_eq!(*lock(&kernel.all_dropped), [vec![ROOT]]);
    assert!(client.entry_ttl(&kept).is_zero());
    look(&client, "x").await;
    assert_eq!(lookups(&fake), 2);
}

#[tokio::test]
async fn names_are_not_served_when_the_right_has_lapsed() {
    let fake = granting().await;
    let (client, _) = mount(&fake).await;
    let kept = look(&client, "x").await;
    lock(&fake.state).mute = true;
    eventually("the lapse", || client.entry_ttl(&kept).is_zero()).await;
    assert!(client.lookup_kept(ROOT, &name("x")).is_none());
    lock(&fake.state).mute = false;
    // Others may have changed it: the answer of before the lapse never counts again.
    eventually("the next right", || {
        let fresh = client.core.right_left();
        !fresh.is_zero()
    })
    .await;
    assert!(client.lookup_kept(ROOT, &name("x")).is_none());
    assert!(client.entry_ttl(&kept).is_zero());
}
