//! A server that is there for the directory and not for this mount.

use super::*;
use dfs_proto::ids::{MapVersion, ServerRun};
use std::time::Instant;

#[tokio::test]
async fn a_silent_server_is_passed_over_and_named_until_it_answers() {
    let fake = Fake::start().await;
    let (a, _) = mount(&fake).await;
    let written = create(&a, "f", READ_WRITE).await;
    // Three chunks: each server is the first choice for one of them.
    let content: Vec<u8> = (0..3 * CHUNK_BYTES).map(|i| (i % 251) as u8).collect();
    write(&a, &written, WriteAt::Offset(0), &content).await;

    // Its kernel takes connections, and nobody answers on them.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let nowhere = silent.local_addr().expect("bound").to_string();
    let redirect = |address: String| {
        let mut state = lock(&fake.state);
        state.map.version = MapVersion(state.map.version.0 + 1);
        let entry = &mut state.map.servers[0];
        let before = std::mem::replace(&mut entry.address, address);
        (entry.run, before)
    };
    let named = || {
        let state = lock(&fake.state);
        let all = state.unreachable.values().flatten();
        all.copied().collect::<Vec<ServerRun>>()
    };
    let (run, address) = redirect(nowhere);
    let (b, _) = mount(&fake).await;
    let reader = open(&b, "f", READ_WRITE).await;
    assert!(read(&b, &reader, 0, content.len()).await == content);
    eventually("it is named", || named().contains(&run)).await;
    let begun = Instant::now();
    for _ in 0..5 {
        assert!(read(&b, &reader, 0, content.len()).await == content);
    }
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "it was waited for again: {:?}",
        begun.elapsed()
    );
    redirect(address);
    eventually("it is found again", || named().is_empty()).await;
}
