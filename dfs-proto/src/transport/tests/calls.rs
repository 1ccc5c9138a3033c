use super::*;
use crate::limits::PAYLOAD_BYTES_MAX;

#[tokio::test]
async fn a_call_is_answered() {
    let server = serve().await;
    let connection = server.connect().await;
    assert_works(&connection).await;
    assert_eq!(connection.peer().role, Role::FileServer);
    assert_eq!(connection.peer_address(), server.address);
}

#[test]
fn futures_may_move_between_threads() {
    fn assert_send<T: Send>(_: T) {}
    fn check(connection: &Connection, listener: Listener, identity: Arc<Identity>) {
        assert_send(connection.call(&Hold(1), Payload::default(), PATIENCE));
        assert_send(connection.call_undated(&Hold(1), Payload::default()));
        assert_send(connection.drain(PATIENCE, ""));
        assert_send(connect("", identity.clone(), Arc::new(NoService)));
        assert_send(listener.run(identity, Arc::new(NoService), std::future::ready(())));
    }
    let _ = check;
    fn assert_shared<T: Send + Sync + 'static>() {}
    assert_shared::<Connection>();
    assert_shared::<Incoming>();
}

#[tokio::test]
async fn large_payloads_pass_unchanged_both_ways_and_aligned() {
    let server = serve().await;
    let connection = server.connect().await;
    let mut calls = tokio::task::JoinSet::new();
    for len in [
        1,
        4096,
        8191,
        8193,
        1 << 20,
        PAYLOAD_BYTES_MAX,
        1 << 20,
        12_345,
    ] {
        let connection = connection.clone();
        calls.spawn(async move {
            let sent = pattern(len);
            let answer = connection.call(&echo("big"), sent.clone(), PATIENCE).await;
            let (text, received) = answer.expect("answers");
            assert_eq!(text, "big");
            assert_eq!(received.len(), len);
            assert!(received == sent);
            assert_eq!(received.as_ptr().addr() % 4096, 0);
        });
    }
    while let Some(done) = calls.join_next().await {
        done.expect("no call fails");
    }
}

#[tokio::test]
async fn calls_are_made_from_the_runtimes_of_other_threads() {
    let server = serve().await;
    let connection = server.connect().await;
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let connection = connection.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                for _ in 0..50 {
                    let call =
                        async { connection.call(&echo("x"), pattern(20_000), PATIENCE).await };
                    let answer = runtime.block_on(call);
                    assert_eq!(answer.expect("answers").1, pattern(20_000));
                }
            })
        })
        .collect();
    for thread in threads {
        tokio::task::spawn_blocking(|| thread.join())
            .await
            .expect("no panic")
            .expect("no panic");
    }
}

#[tokio::test]
async fn a_body_larger_than_any_buffer_passes() {
    let server = serve().await;
    let connection = server.connect().await;
    let text = "x".repeat(500_000);
    let answer = connection
        .call(&Echo(text.clone()), Payload::default(), PATIENCE)
        .await;
    assert!(answer.expect("answers").0 == text);
    let too_long = Echo("x".repeat(2 << 20));
    let refused = connection
        .call(&too_long, Payload::default(), PATIENCE)
        .await;
    assert_eq!(
        refused.expect_err("it is refused").code,
        ErrorCode::InvalidArgument
    );
    assert_works(&connection).await;
}

#[tokio::test]
async fn replies_come_in_any_order() {
    let server = serve().await;
    let connection = server.connect().await;
    let (one, two) = (Hold(1), Hold(2));
    let first = connection.call(&one, Payload::default(), PATIENCE);
    let second = connection.call(&two, Payload::default(), PATIENCE);
    let answer = async {
        server.tester.until(|t| t.held() == 2).await;
        for number in [1, 0] {
            let mut held = server.tester.held.lock().expect("no test panics here");
            let incoming = held.remove(number).expect("it is held");
            drop(held);
            let Hold(number) = incoming.decode().expect("decodes");
            incoming.answer::<Hold>(Ok(number * 10), Payload::default());
        }
    };
    let (first, second, ()) = tokio::join!(first, second, answer);
    assert_eq!(first.expect("answers").0, 10);
    assert_eq!(second.expect("answers").0, 20);
}

#[tokio::test]
async fn a_late_reply_is_ignored_and_frees_the_place() {
    let server = serve().await;
    let connection = server.connect().await;
    let late = connection
        .call(&Hold(1), Payload::default(), Duration::from_millis(30))
        .await;
    assert_eq!(
        late.expect_err("nobody answers").code,
        ErrorCode::DeadlineExceeded
    );
    let incoming = server.tester.take_held().await;
    // The other side learns of it, and its place is kept until it answers.
    tokio::time::timeout(PATIENCE, incoming.abandoned())
        .await
        .expect("the cancellation arrives");
    assert!(incoming.is_abandoned());
    assert_eq!(connection.shared.state().pending_len(), 1);
    incoming.answer::<Hold>(Ok(1), Payload::default());
    assert_works(&connection).await;
    assert_eq!(connection.shared.state().pending_len(), 0);
}

#[tokio::test]
async fn a_dropped_call_is_given_up() {
    let server = serve().await;
    let connection = server.connect().await;
    let task = tokio::spawn({
        let connection = connection.clone();
        async move { connection.call_undated(&Hold(1), Payload::default()).await }
    });
    let incoming = server.tester.take_held().await;
    assert!(!incoming.is_abandoned());
    task.abort();
    tokio::time::timeout(PATIENCE, incoming.abandoned())
        .await
        .expect("the cancellation arrives");
    drop(incoming);
    assert_works(&connection).await;
    assert_eq!(connection.shared.state().pending_len(), 0);
}

#[tokio::test]
async fn a_call_given_up_before_it_was_sent_is_never_sent() {
    let server = serve().await;
    let connection = server.connect().await;
    assert_works(&connection).await;
    // As if somebody else wrote at this moment.
    let writing = connection.shared.outlet();
    let mut call = Box::pin(connection.call(&Hold(1), Payload::default(), PATIENCE));
    assert!(is_pending(&mut call));
    assert_eq!(connection.shared.state().pending_len(), 1);
    drop(call);
    assert_eq!(connection.shared.state().pending_len(), 0);
    drop(writing);
    assert_works(&connection).await;
    assert_eq!(server.tester.held(), 0);
}

/// Polls once, without letting any task run.
fn is_pending(work: &mut (impl Future + Unpin)) -> bool {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    std::pin::Pin::new(work).poll(&mut context).is_pending()
}

#[tokio::test]
async fn a_call_is_written_by_whoever_makes_it() {
    let server = serve().await;
    let connection = server.connect().await;
    assert_works(&connection).await;
    let mut call = Box::pin(connection.call(&Hold(1), pattern(10_000), PATIENCE));
    // On a single thread no task has a chance in between.
    assert!(is_pending(&mut call));
    assert_eq!(connection.shared.state().queue_len(), 0);
    let serve = async {
        let mut incoming = server.tester.take_held().await;
        assert_eq!(incoming.take_payload().len(), 10_000);
        let there = incoming.connection.clone();
        incoming.answer::<Hold>(Ok(4), Payload::default());
        // So is a reply.
        assert_eq!(there.shared.state().queue_len(), 0);
    };
    let (answer, ()) = tokio::join!(call, serve);
    assert_eq!(answer.expect("answers").0, 4);
}

#[tokio::test]
async fn what_the_socket_does_not_take_follows_in_order() {
    let server = serve().await;
    let connection = server.connect().await;
    assert_works(&connection).await;
    // More than the socket's buffers hold: the other side has no chance to read in between.
    let (calls, payload) = (24, pattern(1 << 20));
    let mut pending: Vec<_> = (0..calls)
        .map(|number| {
            let text = echo(&number.to_string());
            let (connection, payload) = (connection.clone(), payload.clone());
            let call = async move { connection.call(&text, payload, PATIENCE).await };
            let mut call = Box::pin(call);
            assert!(is_pending(&mut call));
            call
        })
        .collect();
    assert!(connection.shared.state().queue_len() > 0);
    let end = echo("the last one");
    let mut last = Box::pin(connection.call(&end, Payload::default(), PATIENCE));
    assert!(is_pending(&mut last));
    for (number, call) in pending.drain(..).enumerate() {
        let (text, payload) = call.await.expect("answers");
        assert_eq!((text, payload.len()), (number.to_string(), 1 << 20));
    }
    assert_eq!(last.await.expect("answers").0, "the last one");
}

#[tokio::test]
async fn an_unanswered_request_is_answered_with_internal() {
    let server = serve().await;
    let connection = server.connect().await;
    let hold = Hold(1);
    let call = connection.call(&hold, Payload::default(), PATIENCE);
    let (answer, ()) = tokio::join!(call, async {
        drop(server.tester.take_held().await);
    });
    assert_eq!(
        answer.expect_err("it was dropped").code,
        ErrorCode::Internal
    );
}

#[tokio::test]
async fn an_unknown_method_and_a_bad_body_are_answered() {
    let server = serve().await;
    let connection = server.connect().await;
    let unknown = connection
        .call(&crate::msg::session::GetMap, Payload::default(), PATIENCE)
        .await;
    assert_eq!(
        unknown.expect_err("nobody serves it").code,
        ErrorCode::UnknownMethod
    );
    let mut raw = server.raw().await;
    raw.write_all(&frame(Kind::Request, 1, Echo::METHOD, &[200, 1], &[]))
        .await
        .expect("writes");
    let mut header = [0; HEADER_BYTES];
    raw.read_exact(&mut header).await.expect("is answered");
    let header = Header::decode(&header, 1).expect("a header");
    let mut body = vec![0; header.body_len as usize];
    raw.read_exact(&mut body).await.expect("is answered");
    let answer: Result<String> = crate::codec::decode(&body).expect("an answer");
    assert_eq!(
        answer.expect_err("it is malformed").code,
        ErrorCode::Malformed
    );
}

#[tokio::test]
async fn the_accepting_side_calls_back_while_a_call_is_pending() {
    let server = serve().await;
    let own = Arc::new(Tester::default());
    let connection = connect(
        &server.address.to_string(),
        Arc::new(identity(Role::Mount)),
        own,
    )
    .await
    .expect("connects");
    let hold = Hold(1);
    let call = connection.call(&hold, Payload::default(), PATIENCE);
    let serve = async {
        let incoming = server.tester.take_held().await;
        let back = incoming
            .connection
            .call(&echo("back"), pattern(100_000), PATIENCE)
            .await;
        let (text, payload) = back.expect("the mount answers");
        assert_eq!((text.as_str(), payload.len()), ("back", 100_000));
        incoming.answer::<Hold>(Ok(5), Payload::default());
    };
    let (answer, ()) = tokio::join!(call, serve);
    assert_eq!(answer.expect("answers").0, 5);
}

#[tokio::test]
async fn ipv6_and_host_names_work() {
    let identity_here = identity(Role::Directory);
    let listener = match Listener::bind("[::1]:0", &identity_here).await {
        Ok(listener) => listener,
        // A machine without IPv6.
        Err(_) => Listener::bind("localhost:0", &identity_here)
            .await
            .expect("a free port"),
    };
    let address = listener.local_addr();
    tokio::spawn(listener.run(
        Arc::new(identity_here),
        Arc::new(Tester::default()),
        std::future::pending(),
    ));
    for name in [address.to_string(), format!("localhost:{}", address.port())] {
        let connected = connect(&name, Arc::new(identity(Role::Mount)), Arc::new(NoService)).await;
        match connected {
            Ok(connection) => assert_works(&connection).await,
            // `localhost` may be IPv4 only.
            Err(e) => assert!(name.starts_with("localhost"), "{e}"),
        }
    }
}
