//! Starting and ending a client: its two threads, its link, its session.

use super::clock;
use super::core::Core;
use super::dir_cache::DirCache;
use super::kernel::KernelCache;
use super::link::{self, LinkState};
use super::types::ClientOptions;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{Incarnation, NodeId};
use dfs_proto::msg::session::EndSession;
use dfs_proto::payload::Payload;
use dfs_proto::timing::REQUEST_DEADLINE;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Inodes that are pushed at once at the end.
const PUSHES_AT_ONCE: usize = 32;

/// How long the connection is given to end cleanly.
const DRAIN: Duration = Duration::from_millis(500);

/// The threads that run the client's two runtimes.
#[derive(Debug)]
pub(super) struct Threads {
    stop: watch::Sender<bool>,
}

impl Drop for Threads {
    /// Lets the threads end. They are not waited for: the caller may be one of them.
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::new(ErrorCode::Internal, format!("no runtime: {e}")))
}

/// Runs a runtime on a thread of its own until it is told to stop.
fn spawn(name: &str, mut stop: watch::Receiver<bool>) -> Result<tokio::runtime::Handle> {
    let runtime = runtime()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // An error means that the sender is gone: the end as well.
            let _ = runtime.block_on(stop.wait_for(|stop| *stop));
        })
        .map_err(|e| Error::new(ErrorCode::Internal, format!("no thread for {name}: {e}")))?;
    Ok(handle)
}

fn random() -> Result<[u8; 24]> {
    let mut bytes = [0; 24];
    getrandom::fill(&mut bytes)
        .map_err(|e| Error::new(ErrorCode::Internal, format!("no random bytes: {e}")))?;
    Ok(bytes)
}

/// How often the data thread wakes up by itself: before any deadline of a request is due.
const PULSE: Duration = Duration::from_millis(250);

/// Requests begin on the thread that brings them, and so do their deadlines. A deadline that is due
/// before the data thread's next wake-up would wake it, only to be noted; none is.
async fn pulse() {
    let mut ticks = tokio::time::interval(PULSE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
    }
}

/// Names that are kept: some hundred bytes each at the most.
const NAMES_KEPT_MAX: usize = 200_000;

/// Starts the threads and the link. Does not wait for anything.
pub(super) fn start(
    options: ClientOptions,
    kernel: Arc<dyn KernelCache>,
) -> Result<(Arc<Core>, Arc<Threads>)> {
    if options.directories.is_empty() {
        return Err(Error::new(
            ErrorCode::InvalidArgument,
            "no address of a directory was given",
        ));
    }
    let stop = watch::Sender::new(false);
    let names = spawn("dfs-names", stop.subscribe())?;
    let data = spawn("dfs-data", stop.subscribe())?;
    let threads = Arc::new(Threads { stop });
    let random = random()?;
    let (node, run) = random.split_at(16);
    let number = |bytes: &[u8]| bytes.iter().fold(0u128, |n, b| n << 8 | u128::from(*b));
    let core = Arc::new(Core {
        options,
        kernel,
        node: NodeId(number(node)),
        incarnation: Incarnation(number(run) as u64),
        names,
        data,
        link: watch::Sender::new(LinkState::Connecting),
        session: watch::Sender::new(None),
        right: watch::Sender::new(0),
        lapses: AtomicU64::new(0),
        leader_life: AtomicU64::new(0),
        session_life: AtomicU64::new(0),
        breaks: AtomicU64::new(0),
        clock: Default::default(),
        map: Default::default(),
        servers: Default::default(),
        inodes: Default::default(),
        dirs: Mutex::new(DirCache::new(NAMES_KEPT_MAX)),
        attr_changes: AtomicU64::new(0),
        locks: Default::default(),
        last_failure: Mutex::new(None),
        unpushed: Mutex::default(),
        ahead: Default::default(),
        stopping: watch::Sender::new(false),
    });
    core.names.spawn(link::run(core.clone()));
    core.names.spawn(core.clone().sweep());
    core.data.spawn(pulse());
    Ok((core, threads))
}

impl Core {
    /// Pushes everything and ends the session.
    pub(super) async fn end(self: &Arc<Self>) -> Result<()> {
        let core = self.clone();
        let ended = self.names.spawn(async move { core.end_now().await });
        let result = ended.await;
        result.unwrap_or_else(|e| Err(Error::new(ErrorCode::Internal, e.to_string())))
    }

    async fn end_now(self: &Arc<Self>) -> Result<()> {
        let since = clock::now();
        let mut unpushed = self.inodes.all().into_iter();
        let mut pushes = tokio::task::JoinSet::new();
        let mut failure = None;
        loop {
            while pushes.len() < PUSHES_AT_ONCE
                && let Some(inode) = unpushed.next()
            {
                let core = self.clone();
                pushes.spawn(async move {
                    // Requests under way end before their lease does.
                    let drained = inode.until(|s| s.lease.is_drained().then_some(()));
                    let _ = tokio::time::timeout(REQUEST_DEADLINE, drained).await;
                    core.push(&inode).await
                });
            }
            match pushes.join_next().await {
                None => break,
                Some(Ok(Ok(_))) => {}
                Some(Ok(Err(error))) => {
                    log::error!("not pushed at the end of the mount: {error}");
                    failure = Some(error);
                }
                Some(Err(error)) => log::error!("a push at the end of the mount: {error}"),
            }
        }
        let up = self.up().await?;
        let end = EndSession {
            session: up.session.id,
        };
        let ended = up
            .connection
            .call(&end, Payload::default(), REQUEST_DEADLINE)
            .await;
        up.session.end();
        self.stopping.send_replace(true);
        self.servers.close("the mount ends").await;
        up.connection.drain(DRAIN, "the mount ends").await;
        log::info!(
            "the session has ended ({} ms)",
            clock::elapsed(since).as_millis()
        );
        ended?;
        failure.map_or(Ok(()), Err)
    }
}
