//! Strangers that connect and then say nothing, or only half of something. In a process of its
//! own, because it measures memory.

use dfs_proto::frame::{Header, Kind, VERSION_HANDSHAKE};
use dfs_proto::handshake::Hello;
use dfs_proto::ids::{ClusterId, Incarnation, NodeId};
use dfs_proto::transport::{Identity, Listener, NoService, Role, connect};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const STRANGERS: u64 = 1000;

/// Resident memory of this process, in KiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux shows it");
    let now = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let now = now.and_then(|text| text.trim().strip_suffix(" kB"));
    now.expect("Linux shows it").parse().expect("a number")
}

fn identity(run: u64, role: Role) -> Identity {
    Identity {
        cluster: Some(ClusterId(1)),
        node: NodeId(u128::from(run)),
        incarnation: Incarnation(run),
        role,
        secret: None,
    }
}

#[tokio::test]
async fn a_thousand_half_open_connections_cost_little_and_end() {
    // Both ends of each are in this process.
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limit.maximum.or(Some(1 << 16)),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, wanted).expect("the soft limit may be raised");

    let own = identity(1, Role::FileServer);
    let listener = Listener::bind("127.0.0.1:0", &own)
        .await
        .expect("a free port");
    let address = listener.local_addr();
    tokio::spawn(listener.run(Arc::new(own), Arc::new(NoService), std::future::pending()));

    let body = Hello::of(&identity(2, Role::Mount), [0; 32]).encode();
    let header = Header::new(Kind::Hello, VERSION_HANDSHAKE, 0, 0, &body, 0);
    let hello = [&header.encode()[..], &body].concat();
    let before = memory();
    let began = Instant::now();
    let mut strangers = Vec::new();
    for number in 0..STRANGERS {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        // Nothing, half a header, half a hello, a whole one without the proof that must follow.
        let said = [0, 10, 60, hello.len()][number as usize % 4];
        stream.write_all(&hello[..said]).await.expect("writes");
        strangers.push(stream);
    }
    // Who behaves is served all the same.
    let well_behaved = connect(
        &address.to_string(),
        Arc::new(identity(3, Role::Mount)),
        Arc::new(NoService),
    )
    .await
    .expect("connects");
    let cost = memory().saturating_sub(before);
    assert!(cost < 50_000, "{cost} KiB");

    for mut stranger in strangers {
        let mut rest = Vec::new();
        let left = Duration::from_secs(10).saturating_sub(began.elapsed());
        tokio::time::timeout(left, stranger.read_to_end(&mut rest))
            .await
            .expect("it is closed within 10 s")
            .expect("it is closed in order");
    }
    assert!(!well_behaved.is_closed());
}
