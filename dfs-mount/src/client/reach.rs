//! Which file servers this mount cannot reach, although the directory may.
//!
//! A call without an answer for a while has the server looked for on a connection of its own. If
//! nobody answers there, the server is unreachable: its connection ends, so that what was asked
//! over it is asked elsewhere; nothing is sent to it any more; and the directory is told, with
//! every heartbeat, so that its groups are led by somebody else. It is looked for until it
//! answers, or its run is over.

use super::clock;
use super::core::Core;
use super::guard::lock;
use dfs_proto::ids::{Incarnation, ServerId, ServerRun};
use dfs_proto::timing::CONNECT_DEADLINE;
use dfs_proto::transport::{Connection, NoService, connect};
use std::sync::Arc;
use std::time::Duration;

/// A call that takes longer has its server looked for.
pub(super) const SLOW_CALL: Duration = Duration::from_millis(500);

/// Between two looks for a server that is unreachable.
const LOOK_AGAIN: Duration = Duration::from_millis(300);

impl Core {
    /// Awaits a call to a server, and has the server looked for when that takes long.
    pub(super) async fn watched<T>(
        self: &Arc<Self>,
        server: ServerId,
        connection: &Connection,
        call: impl Future<Output = T>,
    ) -> T {
        tokio::pin!(call);
        if let Ok(answer) = tokio::time::timeout(SLOW_CALL, &mut call).await {
            return answer;
        }
        if !connection.is_closed() {
            self.seek(server);
        }
        call.await
    }

    /// The runs that cannot be reached.
    pub(super) fn unreachable(&self) -> Vec<ServerRun> {
        let sought = lock(&self.servers.sought);
        sought.values().copied().flatten().collect()
    }

    pub(super) fn is_unreachable(&self, run: ServerRun) -> bool {
        lock(&self.servers.sought).get(&run.server) == Some(&Some(run))
    }

    /// Looks for a server in the background; one look at a time for each.
    pub(super) fn seek(self: &Arc<Self>, server: ServerId) {
        {
            let mut sought = lock(&self.servers.sought);
            if sought.contains_key(&server) {
                return;
            }
            sought.insert(server, None);
        }
        let core = self.clone();
        self.data.spawn(async move {
            let mut stopping = core.stopping.subscribe();
            tokio::select! {
                () = core.seek_until_found(server) => {}
                _ = stopping.wait_for(|stop| *stop) => {}
            }
            lock(&core.servers.sought).remove(&server);
        });
    }

    async fn seek_until_found(self: &Arc<Self>, server: ServerId) {
        let begun = clock::now();
        let mut lost: Option<ServerRun> = None;
        // Else it would take the place of the connection that is in use.
        let identity = Arc::new(self.identity(Incarnation(self.incarnation.0.wrapping_add(1))));
        loop {
            let map = self.map.get();
            let Some(entry) = map.server(server) else {
                return;
            };
            if lost.is_some_and(|run| run != entry.run) {
                // What was lost is no more.
                return;
            }
            let look = connect(&entry.address, identity.clone(), Arc::new(NoService));
            match tokio::time::timeout(CONNECT_DEADLINE, look).await {
                Ok(Ok(found)) => {
                    found.close("it was only looked for");
                    if lost.is_some() {
                        log::info!("{server} can be reached again");
                    }
                    return;
                }
                Ok(Err(error)) => log::debug!("looking for {server}: {error}"),
                Err(_) => log::debug!("looking for {server}: no answer"),
            }
            if lost.is_none() {
                lost = Some(entry.run);
                lock(&self.servers.sought).insert(server, lost);
                log::warn!(
                    "{server} at {} cannot be reached from here for {} ms: its groups are used \
                     without it",
                    entry.address,
                    clock::elapsed(begun).as_millis()
                );
                self.servers.lost.notify_one();
                self.servers
                    .hang_up(server, "the server cannot be reached")
                    .await;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}
