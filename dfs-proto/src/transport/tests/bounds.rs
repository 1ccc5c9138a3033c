use super::*;
use crate::limits::{IN_FLIGHT_MAX, IN_FLIGHT_PAYLOAD_BYTES_MAX, IN_FLIGHT_UNDATED_MAX};

#[tokio::test]
async fn calls_beyond_the_bound_wait_and_nothing_else_does() {
    let server = serve().await;
    let own = Arc::new(Tester::default());
    let connection = connect(
        &server.address.to_string(),
        Arc::new(identity(Role::Mount)),
        own,
    )
    .await
    .expect("connects");
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..IN_FLIGHT_MAX as u32 + 3 {
        let connection = connection.clone();
        calls.spawn(async move {
            connection
                .call(&Hold(number), Payload::default(), PATIENCE)
                .await
        });
    }
    server.tester.until(|t| t.held() == IN_FLIGHT_MAX).await;
    // Undated calls have their own places, and so has the other direction.
    let apart = echo("undated");
    let undated = connection.call_undated(&apart, Payload::default());
    assert_eq!(undated.await.expect("answers").0, "undated");
    assert_works(&server.tester.connection(0).await).await;
    assert_eq!(server.tester.held(), IN_FLIGHT_MAX);
    // A caller that waits for a place can give up.
    let impatient = connection
        .call(
            &echo("no place"),
            Payload::default(),
            Duration::from_millis(20),
        )
        .await;
    assert_eq!(
        impatient.expect_err("there is no place").code,
        ErrorCode::DeadlineExceeded
    );
    // Each answer lets one more in.
    for answered in 0..IN_FLIGHT_MAX as u32 + 3 {
        let incoming = server.tester.take_held().await;
        incoming.answer::<Hold>(Ok(answered), Payload::default());
    }
    while let Some(done) = calls.join_next().await {
        done.expect("no panic").expect("every call is answered");
    }
    assert_works(&connection).await;
}

#[tokio::test]
async fn payload_beyond_the_bound_waits() {
    let server = serve().await;
    let connection = server.connect().await;
    let fitting = IN_FLIGHT_PAYLOAD_BYTES_MAX >> 20;
    let mut calls = tokio::task::JoinSet::new();
    let payload = pattern(1 << 20);
    for _ in 0..fitting + 4 {
        let (connection, payload) = (connection.clone(), payload.clone());
        calls.spawn(async move { connection.call(&Hold(0), payload, PATIENCE).await });
    }
    server.tester.until(|t| t.held() == fitting).await;
    // Without a payload there is no waiting.
    assert_works(&connection).await;
    assert_eq!(server.tester.held(), fitting);
    for _ in 0..fitting + 4 {
        let incoming = server.tester.take_held().await;
        incoming.answer::<Hold>(Ok(0), Payload::default());
    }
    while let Some(done) = calls.join_next().await {
        done.expect("no panic").expect("every call is answered");
    }
}

#[tokio::test]
async fn who_exceeds_the_bounds_is_disconnected() {
    let server = serve().await;
    let bystander = server.connect().await;
    let body = crate::codec::encode(&Hold(1)).expect("encodes");
    for (kind, allowed) in [
        (Kind::Request, IN_FLIGHT_MAX),
        (Kind::UndatedRequest, IN_FLIGHT_UNDATED_MAX),
    ] {
        let mut raw = server.raw().await;
        let before = server.tester.held();
        let mut bytes = Vec::new();
        for id in 1..=allowed as u64 {
            bytes.extend(frame(kind, id, Hold::METHOD, &body, &[]));
        }
        raw.write_all(&bytes).await.expect("writes");
        server.tester.until(|t| t.held() == before + allowed).await;
        raw.write_all(&frame(kind, 1_000_000, Hold::METHOD, &body, &[]))
            .await
            .expect("writes");
        assert!(read_to_end(&mut raw).await.is_empty());
        assert_eq!(server.tester.held(), before + allowed);
    }
    assert_works(&bystander).await;
}

#[tokio::test]
async fn a_frame_that_does_not_end_closes_only_its_connection() {
    let bounds = Bounds {
        frame: Duration::from_millis(100),
        ..Bounds::default()
    };
    let server = serve_as(identity(Role::FileServer), bounds).await;
    let bystander = server.connect().await;
    let whole = frame(Kind::Request, 1, Echo::METHOD, &[1, b'x'], &[0; 100_000]);
    for length in [1, HEADER_BYTES, HEADER_BYTES + 1, 50_000] {
        let mut raw = server.raw().await;
        raw.write_all(&whole[..length]).await.expect("writes");
        assert!(read_to_end(&mut raw).await.is_empty(), "{length}");
    }
    // Silence between frames is no fault: the bystander was silent for longer.
    assert_works(&bystander).await;
}

#[tokio::test]
async fn bad_frames_close_only_their_connection() {
    let server = serve().await;
    let bystander = server.connect().await;
    let good = frame(Kind::Request, 1, Echo::METHOD, &[1, b'x'], &[]);
    let mut huge = Header::decode(good.first_chunk().expect("a header"), 1).expect("decodes");
    huge.body_len = u32::MAX;
    let mut bad_body = good.clone();
    *bad_body.last_mut().expect("a body") ^= 1;
    for bad in [
        vec![0x41; 4096],
        huge.encode().to_vec(),
        bad_body,
        // A reply that nobody waits for, a frame of the handshake, the same id twice.
        frame(Kind::Reply, 9, Echo::METHOD, &[], &[]),
        Header::new(Kind::Hello, 0, 0, 0, &[], 0).encode().to_vec(),
        [1, 2]
            .map(|_| frame(Kind::Request, 1, Hold::METHOD, &[1], &[]))
            .concat(),
    ] {
        let mut raw = server.raw().await;
        raw.write_all(&bad).await.expect("writes");
        assert!(read_to_end(&mut raw).await.is_empty());
    }
    assert_works(&bystander).await;
}

#[tokio::test]
async fn unread_replies_are_bounded() {
    let server = serve().await;
    let mut raw = server.raw().await;
    let connection = server.tester.connection(0).await;
    let request = |id, len: u32| {
        let body = crate::codec::encode(&Make(len)).expect("encodes");
        frame(Kind::Request, id, Make::METHOD, &body, &[])
    };
    // Replies of 1 MiB that nobody reads pile up in the server, until it makes no more.
    let mut id = 0;
    let reply_bytes = || connection.shared.state().reply_bytes();
    while reply_bytes() <= IN_FLIGHT_PAYLOAD_BYTES_MAX {
        assert!(id < 400, "the socket's buffers are smaller than that");
        id += 1;
        raw.write_all(&request(id, 1 << 20)).await.expect("writes");
        server.tester.until(|t| t.made() == id).await;
    }
    let at_most = reply_bytes();
    let unanswered = || connection.shared.state().unanswered_len();
    let before = unanswered();
    for _ in 0..20 {
        id += 1;
        raw.write_all(&request(id, 1 << 20)).await.expect("writes");
    }
    while unanswered() < before + 20 {
        tokio::task::yield_now().await;
    }
    let mut refused = 0;
    for _ in 0..id {
        let mut header = [0; HEADER_BYTES];
        let read = tokio::time::timeout(PATIENCE, raw.read_exact(&mut header));
        read.await.expect("in time").expect("a reply");
        let header = Header::decode(&header, 1).expect("a header");
        let mut rest = vec![0; (header.body_len + header.payload_len) as usize];
        raw.read_exact(&mut rest).await.expect("a reply");
        assert!(reply_bytes() <= at_most);
        let answer: Result<()> =
            crate::codec::decode(&rest[..header.body_len as usize]).expect("an answer");
        match answer {
            Ok(()) => assert_eq!(header.payload_len, 1 << 20),
            Err(e) => {
                assert_eq!(e.code, ErrorCode::Overloaded);
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 20);
}
