//! The connections between mounts and members: streams, as TCP gives them. Frames of one direction
//! keep their order; on a cut link they wait, and after a while the sender gives up; the other end
//! may hear of that much later, or never.

use super::world::{Node, World, locked};
use dfs_proto::timing::TCP_USER_TIMEOUT;
use dfs_proto::transport::simulated::{End, Frame};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// An end of a connection, and where it is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) node: Node,
    pub(crate) end: End,
}

/// All connections that have not ended.
#[derive(Debug, Default)]
pub(crate) struct Links(Mutex<Vec<(Place, Place)>>);

impl Links {
    /// Two ends become a connection.
    pub(crate) fn join(&self, world: &Arc<World>, a: Place, b: Place) {
        let mut links = locked(&self.0);
        links.retain(|(a, b)| !a.end.connection().is_closed() || !b.end.connection().is_closed());
        links.push((a.clone(), b.clone()));
        drop(links);
        a.end.begin();
        b.end.begin();
        tokio::spawn(send(world.clone(), a.clone(), b.clone()));
        tokio::spawn(send(world.clone(), b, a));
    }

    pub(crate) fn forget(&self) {
        locked(&self.0).clear();
    }

    /// The process on a node has died: its kernel ends its connections.
    pub(crate) fn drop_all_of(&self, node: Node) {
        for (a, b) in locked(&self.0).iter() {
            for place in [a, b] {
                if place.node == node {
                    place.end.connection().close("killed");
                }
            }
        }
    }

    /// The connections between two nodes break, for both ends.
    pub(crate) fn reset(&self, one: Node, other: Node) {
        for (a, b) in locked(&self.0).iter() {
            if [a.node, b.node] == [one, other] || [b.node, a.node] == [one, other] {
                a.end.connection().close("reset");
                b.end.connection().close("reset");
            }
        }
    }
}

/// Sends what is written at one end, until that has ended.
async fn send(world: Arc<World>, from: Place, to: Place) {
    let (queue, arrivals) = mpsc::unbounded_channel();
    let ways = (from.node, to.node);
    tokio::spawn(arrive(world.clone(), from.clone(), to, arrivals));
    let mut last = Instant::now();
    let mut next = || {
        last = last.max(Instant::now() + world.delay(ways.0, ways.1));
        last
    };
    while let Some(frames) = from.end.written().await {
        world.awake(from.node).await;
        for frame in frames {
            // An error: the other end is gone. That is heard of in its own time.
            let _ = queue.send((next(), Some(frame)));
        }
    }
    from.end.end("closed");
    let _ = queue.send((next(), None));
}

/// Takes what is sent to the other end, in its order.
async fn arrive(
    world: Arc<World>,
    from: Place,
    to: Place,
    mut arrivals: mpsc::UnboundedReceiver<(Instant, Option<Frame>)>,
) {
    while let Some((due, frame)) = arrivals.recv().await {
        tokio::time::sleep_until(due).await;
        let begun = Instant::now();
        while world.is_cut(from.node, to.node) {
            if begun.elapsed() >= TCP_USER_TIMEOUT {
                from.end.connection().close("not acknowledged");
                return;
            }
            world.sleep(20, 200).await;
        }
        world.awake(to.node).await;
        match frame {
            Some(frame) => to.end.read(frame),
            None => to.end.connection().close("closed by the other side"),
        }
    }
}
