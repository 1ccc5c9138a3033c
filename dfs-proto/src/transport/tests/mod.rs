//! Tests over loopback. They wait for conditions; the only durations in them are deadlines that
//! are meant to pass.

mod bounds;
mod calls;
mod endings;
mod handshakes;

use super::*;
use crate::error::{ErrorCode, Result};
use crate::frame::{HEADER_BYTES, Header, Kind};
use crate::ids::{ClusterId, Incarnation, NodeId};
use crate::msg::Request;
use crate::payload::{Payload, PayloadMut};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};

/// No test may hang.
const PATIENCE: Duration = Duration::from_secs(20);

/// Answers with its text and its payload.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Echo(String);

impl Request for Echo {
    const METHOD: u16 = 0x7f01;
    const NAME: &'static str = "Echo";
    type Response = String;
}

/// Is kept by the service until the test takes it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Hold(u32);

impl Request for Hold {
    const METHOD: u16 = 0x7f02;
    const NAME: &'static str = "Hold";
    type Response = u32;
}

/// Is answered with a payload of so many bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Make(u32);

impl Request for Make {
    const METHOD: u16 = 0x7f03;
    const NAME: &'static str = "Make";
    type Response = ();
}

#[derive(Default)]
struct Tester {
    held: Mutex<VecDeque<Incoming>>,
    events: Mutex<Vec<String>>,
    connections: Mutex<Vec<Connection>>,
    made: AtomicU64,
    changed: Notify,
}

impl Tester {
    /// Waits until `condition` is true of this service.
    async fn until(&self, condition: impl Fn(&Self) -> bool) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if condition(self) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .expect("the condition comes true in time");
    }

    fn held(&self) -> usize {
        self.held.lock().expect("no test panics here").len()
    }

    async fn take_held(&self) -> Incoming {
        self.until(|t| t.held() > 0).await;
        let mut held = self.held.lock().expect("no test panics here");
        held.pop_front().expect("one is held")
    }

    fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    fn events(&self) -> Vec<String> {
        self.events.lock().expect("no test panics here").clone()
    }

    async fn connection(&self, index: usize) -> Connection {
        let count = |t: &Self| t.connections.lock().expect("no test panics here").len();
        self.until(|t| count(t) > index).await;
        self.connections.lock().expect("no test panics here")[index].clone()
    }

    fn event(&self, what: &str, connection: &Connection) {
        let event = format!("{what} {}", connection.peer().incarnation.0);
        self.events.lock().expect("no test panics here").push(event);
        self.changed.notify_waiters();
    }
}

impl Service for Tester {
    fn serve(&self, mut incoming: Incoming) {
        match incoming.method {
            Echo::METHOD => {
                let payload = incoming.take_payload();
                let answer = incoming.decode::<Echo>().map(|Echo(text)| text);
                incoming.answer::<Echo>(answer, payload);
            }
            Hold::METHOD => {
                let mut held = self.held.lock().expect("no test panics here");
                held.push_back(incoming);
                drop(held);
                self.changed.notify_waiters();
            }
            Make::METHOD => {
                let Make(len) = incoming.decode().expect("tests send it well-formed");
                let payload = PayloadMut::zeroed(len as usize).freeze();
                incoming.answer::<Make>(Ok(()), payload);
                self.made.fetch_add(1, Ordering::Relaxed);
                self.changed.notify_waiters();
            }
            _ => incoming.refuse_unknown(),
        }
    }

    fn connected(&self, connection: &Connection) {
        let mut connections = self.connections.lock().expect("no test panics here");
        connections.push(connection.clone());
        drop(connections);
        self.event("connected", connection);
    }

    fn disconnected(&self, connection: &Connection) {
        self.event("disconnected", connection);
    }
}

fn identity(role: Role) -> Identity {
    static NEXT: AtomicU64 = AtomicU64::new(100);
    let unique = NEXT.fetch_add(1, Ordering::Relaxed);
    Identity {
        cluster: Some(ClusterId(7)),
        node: NodeId(u128::from(unique)),
        incarnation: Incarnation(unique),
        role,
        secret: None,
    }
}

fn secret(text: &str) -> Option<Secret> {
    Some(Secret::new(format!("{text} padded to be long").as_bytes()).expect("it is long enough"))
}

/// A listener that runs until `stop` is sent or dropped.
struct Server {
    tester: Arc<Tester>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    running: tokio::task::JoinHandle<()>,
}

async fn serve() -> Server {
    serve_as(identity(Role::FileServer), Bounds::default()).await
}

async fn serve_as(identity: Identity, bounds: Bounds) -> Server {
    let mut listener = Listener::bind("127.0.0.1:0", &identity)
        .await
        .expect("a free port");
    listener.bounds = bounds;
    let address = listener.local_addr();
    let tester = Arc::new(Tester::default());
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(listener.run(Arc::new(identity), tester.clone(), async {
        let _ = stopped.await;
    }));
    Server {
        tester,
        address,
        stop: Some(stop),
        running,
    }
}

impl Server {
    async fn connect_as(&self, identity: Identity) -> Result<Connection> {
        connect(
            &self.address.to_string(),
            Arc::new(identity),
            Arc::new(NoService),
        )
        .await
    }

    async fn connect(&self) -> Connection {
        self.connect_as(identity(Role::Mount))
            .await
            .expect("connects")
    }

    /// A peer made by hand, past its handshake.
    async fn raw(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.expect("connects");
        greet::greet(&mut stream, &identity(Role::Mount))
            .await
            .expect("is greeted");
        stream
    }
}

fn echo(text: &str) -> Echo {
    Echo(text.into())
}

/// A payload whose every byte depends on its place.
fn pattern(len: usize) -> Payload {
    let mut payload = PayloadMut::with_len(len);
    for (at, byte) in payload.iter_mut().enumerate() {
        *byte = ((at * 31) >> 3) as u8;
    }
    payload.freeze()
}

async fn assert_works(connection: &Connection) {
    let answer = connection
        .call(&echo("still there"), Payload::default(), PATIENCE)
        .await;
    assert_eq!(answer.expect("answers").0, "still there");
}

/// Waits for the end of a stream: what came before it.
async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes));
    // A reset is an end too.
    let _ = read.await.expect("the stream ends in time");
    bytes
}

fn frame(kind: Kind, id: u64, method: u16, body: &[u8], payload: &[u8]) -> Vec<u8> {
    let header = Header::new(kind, 1, method, id, body, payload.len());
    [&header.encode()[..], body, payload].concat()
}
