use super::*;
use crate::frame::VERSION_HANDSHAKE;
use crate::handshake::{Hello as Greeting, Refusal, RefusalCode};

async fn assert_refused(server: &Server, identity: Identity, part: &str) {
    let refused = server
        .connect_as(identity)
        .await
        .expect_err("it is refused");
    assert_eq!(refused.code, ErrorCode::HandshakeRefused);
    assert!(refused.message.contains(part), "{refused}");
    assert!(server.tester.events().is_empty());
}

#[tokio::test]
async fn another_cluster_is_refused_and_an_unknown_one_is_learned() {
    let server = serve().await;
    let mut stranger = identity(Role::Mount);
    stranger.cluster = Some(ClusterId(8));
    assert_refused(&server, stranger.clone(), "cluster").await;
    stranger.cluster = None;
    let connection = server.connect_as(stranger).await.expect("connects");
    assert_eq!(connection.peer().cluster, Some(ClusterId(7)));
    // A node that belongs to no cluster yet takes nobody of one.
    let mut fresh = identity(Role::FileServer);
    fresh.cluster = None;
    let server = serve_as(fresh, Bounds::default()).await;
    assert_refused(&server, identity(Role::Mount), "not joined").await;
}

#[tokio::test]
async fn with_a_secret_both_sides_prove_it() {
    let mut keeper = identity(Role::Directory);
    keeper.secret = secret("right");
    let server = serve_as(keeper, Bounds::default()).await;
    let mut peer = identity(Role::Mount);
    assert_refused(&server, peer.clone(), "--secret-file").await;
    peer.secret = secret("wrong");
    assert_refused(&server, peer.clone(), "secrets differ").await;
    peer.secret = secret("right");
    let connection = server.connect_as(peer.clone()).await.expect("connects");
    assert_works(&connection).await;
    // Who has a secret talks to nobody without.
    let careless = serve().await;
    assert_refused(&careless, peer, "without").await;
}

#[tokio::test]
async fn an_acceptor_that_cannot_prove_the_secret_is_refused() {
    // It takes any proof and makes one up.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let impostor = async {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        let mut frame = [0; HEADER_BYTES + 80];
        stream.read_exact(&mut frame).await.expect("a hello");
        let mut own = identity(Role::Directory);
        own.secret = secret("guessed");
        let challenge = Greeting::of(&own, [1; 32]).encode();
        send(&mut stream, Kind::Challenge, &challenge).await;
        let mut frame = [0; HEADER_BYTES + 32];
        stream.read_exact(&mut frame).await.expect("a proof");
        send(&mut stream, Kind::Welcome, &frame[HEADER_BYTES..]).await;
        let answer = read_to_end(&mut stream).await;
        Refusal::decode(&answer[HEADER_BYTES..])
    };
    let mut peer = identity(Role::Mount);
    peer.secret = secret("right");
    let address = address.to_string();
    let dialing = connect(&address, Arc::new(peer), Arc::new(NoService));
    let (connected, refusal) = tokio::join!(dialing, impostor);
    assert_eq!(
        connected.expect_err("it is refused").code,
        ErrorCode::HandshakeRefused
    );
    assert_eq!(refusal.code, RefusalCode::Secret);
}

#[tokio::test]
async fn a_version_out_of_range_is_refused_with_the_reason() {
    let server = serve().await;
    let mut hello = Greeting::of(&identity(Role::Mount), [0; 32]);
    (hello.version_min, hello.version_max) = (2, 9);
    let mut stream = TcpStream::connect(server.address).await.expect("connects");
    send(&mut stream, Kind::Hello, &hello.encode()).await;
    let answer = read_to_end(&mut stream).await;
    let header = Header::decode(answer.first_chunk().expect("a header"), VERSION_HANDSHAKE);
    assert_eq!(header.expect("decodes").kind, Kind::Refusal);
    let refusal = Refusal::decode(&answer[HEADER_BYTES..]);
    assert_eq!(refusal.code, RefusalCode::Version);
    assert!(refusal.text.contains("2..=9"), "{refusal}");
}

#[tokio::test]
async fn a_later_hello_with_more_fields_is_understood() {
    let server = serve().await;
    let mut hello = Greeting::of(&identity(Role::Mount), [0; 32]);
    hello.version_max = 5;
    let body = [&hello.encode()[..], b"fields of the future"].concat();
    let mut stream = TcpStream::connect(server.address).await.expect("connects");
    send(&mut stream, Kind::Hello, &body).await;
    let mut answer = [0; HEADER_BYTES + 80];
    stream.read_exact(&mut answer).await.expect("a challenge");
    let challenge = Greeting::decode(&answer[HEADER_BYTES..]).expect("decodes");
    assert_eq!((challenge.version_min, challenge.version_max), (1, 1));
}

#[tokio::test]
async fn garbage_is_disconnected_at_once() {
    let server = serve().await;
    let bystander = server.connect().await;
    let mut long = Header::new(Kind::Hello, VERSION_HANDSHAKE, 0, 0, &[], 0);
    long.body_len = u32::MAX;
    let short = Header::new(Kind::Hello, VERSION_HANDSHAKE, 0, 0, &[1, 2], 0);
    let request = frame(Kind::Request, 1, Echo::METHOD, &[1, b'x'], &[]);
    for garbage in [
        b"GET / HTTP/1.1\r\nHost: a.host.of.some.name\r\n\r\n".to_vec(),
        long.encode().to_vec(),
        [&short.encode()[..], &[1, 2]].concat(),
        request,
    ] {
        let mut stream = TcpStream::connect(server.address).await.expect("connects");
        stream.write_all(&garbage).await.expect("writes");
        let answer = read_to_end(&mut stream).await;
        assert!(answer.len() < 200);
    }
    assert_works(&bystander).await;
}

#[tokio::test]
async fn an_unfinished_handshake_is_ended_and_their_number_is_bounded() {
    let bounds = Bounds {
        handshake: Duration::from_millis(1500),
        handshakes: 8,
        ..Bounds::default()
    };
    let server = serve_as(identity(Role::FileServer), bounds).await;
    let hello = Greeting::of(&identity(Role::Mount), [0; 32]).encode();
    let mut half_open = Vec::new();
    for length in 0..8 {
        let mut stream = TcpStream::connect(server.address).await.expect("connects");
        stream.write_all(&hello[..length]).await.expect("writes");
        half_open.push(stream);
    }
    // One more is closed at once, while the others still have time.
    let mut more = TcpStream::connect(server.address).await.expect("connects");
    assert!(read_to_end(&mut more).await.is_empty());
    for stream in &half_open {
        let read = stream.try_read(&mut [0]).expect_err("it is open");
        assert_eq!(read.kind(), std::io::ErrorKind::WouldBlock);
    }
    for mut stream in half_open {
        assert!(read_to_end(&mut stream).await.is_empty());
    }
    // Their places are free again.
    let connection = server.connect().await;
    assert_works(&connection).await;
}

#[tokio::test]
async fn without_a_secret_only_loopback_is_listened_on() {
    let mut own = identity(Role::FileServer);
    let refused = Listener::bind("0.0.0.0:0", &own)
        .await
        .expect_err("it is refused");
    assert!(refused.message.contains("--secret-file"), "{refused}");
    own.secret = secret("right");
    Listener::bind("0.0.0.0:0", &own).await.expect("it binds");
}

async fn send(stream: &mut TcpStream, kind: Kind, body: &[u8]) {
    let header = Header::new(kind, VERSION_HANDSHAKE, 0, 0, body, 0);
    let frame = [&header.encode()[..], body].concat();
    stream.write_all(&frame).await.expect("writes");
}
