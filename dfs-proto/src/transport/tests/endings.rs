use super::*;

#[tokio::test]
async fn the_end_of_a_connection_ends_its_calls() {
    let server = serve().await;
    let connection = server.connect().await;
    let (one, two) = (Hold(1), Hold(2));
    let dated = connection.call(&one, Payload::default(), PATIENCE);
    let undated = connection.call_undated(&two, Payload::default());
    let close = async {
        server.tester.until(|t| t.held() == 2).await;
        server.tester.connection(0).await.close("because");
    };
    let (dated, undated, ()) = tokio::join!(dated, undated, close);
    for ended in [dated, undated] {
        assert_eq!(
            ended.expect_err("it has ended").code,
            ErrorCode::Disconnected
        );
    }
    connection.closed().await;
    assert!(connection.is_closed());
    let after = connection
        .call(&echo("after"), Payload::default(), PATIENCE)
        .await;
    assert_eq!(
        after.expect_err("it has ended").code,
        ErrorCode::Disconnected
    );
    // An answer that nobody can receive any more harms nobody; who serves a wait sees the end.
    for _ in 0..2 {
        let incoming = server.tester.take_held().await;
        incoming.abandoned().await;
        incoming.answer::<Hold>(Ok(1), Payload::default());
    }
    server.tester.until(|t| t.events().len() == 2).await;
}

#[tokio::test]
async fn callers_that_wait_for_a_place_are_ended_too() {
    let server = serve().await;
    let connection = server.connect().await;
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..crate::limits::IN_FLIGHT_MAX as u32 + 10 {
        let connection = connection.clone();
        calls.spawn(async move {
            connection
                .call(&Hold(number), Payload::default(), PATIENCE)
                .await
        });
    }
    server
        .tester
        .until(|t| t.held() == crate::limits::IN_FLIGHT_MAX)
        .await;
    connection.close("enough");
    while let Some(done) = calls.join_next().await {
        let ended = done.expect("no panic").expect_err("it has ended");
        assert_eq!(ended.code, ErrorCode::Disconnected);
    }
}

#[tokio::test]
async fn a_new_connection_of_a_run_ends_the_old_one() {
    let server = serve().await;
    let who = identity(Role::Mount);
    let run = who.incarnation.0;
    let old = server.connect_as(who.clone()).await.expect("connects");
    assert_works(&old).await;
    let new = server.connect_as(who.clone()).await.expect("connects");
    tokio::time::timeout(PATIENCE, old.closed())
        .await
        .expect("the old one ends");
    assert_works(&new).await;
    assert_eq!(
        server.tester.events(),
        [
            format!("connected {run}"),
            format!("disconnected {run}"),
            format!("connected {run}")
        ]
    );
    // Another run, another role of the same node: not the same.
    let mut next_run = who.clone();
    next_run.incarnation.0 += 1_000_000;
    let next_run = server.connect_as(next_run).await.expect("connects");
    let mut other_role = who;
    other_role.role = Role::Admin;
    let other_role = server.connect_as(other_role).await.expect("connects");
    for connection in [&new, &next_run, &other_role] {
        assert_works(connection).await;
    }
}

#[tokio::test]
async fn many_connections_of_a_run_at_once_leave_one() {
    let server = serve().await;
    let who = identity(Role::Mount);
    let mut dialing = tokio::task::JoinSet::new();
    let address = server.address.to_string();
    for _ in 0..20 {
        let (who, address) = (Arc::new(who.clone()), address.clone());
        dialing.spawn(async move { connect(&address, who, Arc::new(NoService)).await });
    }
    let mut connections = Vec::new();
    while let Some(connected) = dialing.join_next().await {
        connections.push(connected.expect("no panic").expect("connects"));
    }
    let alive = || connections.iter().filter(|c| !c.is_closed()).count();
    let one = async {
        while alive() > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, one)
        .await
        .expect("all but one end");
    for connection in connections.iter().filter(|c| !c.is_closed()) {
        assert_works(connection).await;
    }
    // In the service's eyes there was never more than one.
    let mut present = 0;
    for event in server.tester.events() {
        present += if event.starts_with("connected") {
            1
        } else {
            -1
        };
        assert!((0..=1).contains(&present));
    }
}

#[tokio::test]
async fn draining_waits_for_what_is_in_flight_and_for_nothing_new() {
    let server = serve().await;
    let connection = server.connect().await;
    let (one, waits) = (Hold(1), Hold(2));
    let in_flight = connection.call(&one, Payload::default(), PATIENCE);
    let undated = connection.call_undated(&waits, Payload::default());
    let drain = async {
        server.tester.until(|t| t.held() == 2).await;
        let here = server.tester.connection(0).await;
        let draining = here.drain(PATIENCE, "restart");
        let meanwhile = async {
            // The draining has begun: it was polled first.
            let refused = connection
                .call(&echo("new"), Payload::default(), PATIENCE)
                .await;
            assert_eq!(refused.expect_err("too late").code, ErrorCode::ShuttingDown);
            let refused = here.call(&echo("new"), Payload::default(), PATIENCE).await;
            assert_eq!(refused.expect_err("too late").code, ErrorCode::ShuttingDown);
            assert!(!connection.is_closed());
            let incoming = server.tester.take_held().await;
            incoming.answer::<Hold>(Ok(11), Payload::default());
        };
        tokio::join!(draining, meanwhile);
    };
    let (in_flight, undated, ()) = tokio::join!(in_flight, undated, drain);
    assert_eq!(in_flight.expect("it was waited for").0, 11);
    let ended = undated.expect_err("it was not waited for");
    assert_eq!(ended.code, ErrorCode::Disconnected);
    assert!(ended.message.contains("restart"), "{ended}");
}

#[tokio::test]
async fn a_listener_stops_cleanly() {
    let mut server = serve().await;
    let connection = server.connect().await;
    assert_works(&connection).await;
    drop(server.stop.take());
    tokio::time::timeout(PATIENCE, &mut server.running)
        .await
        .expect("it stops in time")
        .expect("no panic");
    tokio::time::timeout(PATIENCE, connection.closed())
        .await
        .expect("the connection has ended");
    assert_eq!(server.tester.events().len(), 2);
    let refused = server.connect_as(identity(Role::Mount)).await;
    assert_eq!(
        refused.expect_err("nobody listens").code,
        ErrorCode::Disconnected
    );
}

#[tokio::test]
async fn draining_ends_at_its_deadline() {
    let server = serve().await;
    let connection = server.connect().await;
    let hold = Hold(1);
    let call = connection.call(&hold, Payload::default(), PATIENCE);
    let drain = async {
        server.tester.until(|t| t.held() == 1).await;
        connection.drain(Duration::from_millis(30), "stop").await;
        assert!(connection.is_closed());
    };
    let (answer, ()) = tokio::join!(call, drain);
    assert_eq!(
        answer.expect_err("nobody answered").code,
        ErrorCode::Disconnected
    );
}
