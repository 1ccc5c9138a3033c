//! One file server: store, core, network, wired and run until it is told to stop.

use crate::chunk::{ChunkStore, OpenOptions};
use crate::config::Config;
use crate::pace::SlowPolicy;
use crate::replica::ReplicaCore;
use crate::scrub::Scrubber;
use crate::service::{DirectoryLink, Driver, Facing, Peers, begin_run, refusal};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{ClusterId, Incarnation};
use dfs_proto::timing::{RETRY_DELAY_MAX, RETRY_DELAY_MIN};
use dfs_proto::transport::{Identity, Listener, NoService, Role, connect, read_secret};
use dfs_proto::whereabouts::Whereabouts;
use std::fmt;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

/// Threads for disk work that would hold the network up.
const DISK_THREADS: usize = 32;

/// Reports to the directory that may wait.
const NOTICES_MAX: usize = 1024;

/// What is in progress at a stop has so long to end; what a member that is gone holds up ends
/// with the epoch.
const STOP_PATIENCE: Duration = Duration::from_millis(500);

/// Data older than this are written to disk in the background, so many chunks at a time.
const SYNC_AGE: Duration = Duration::from_secs(5);
const SYNC_CHUNKS_MAX: usize = 256;

/// Why a server cannot be started, or had to stop.
#[derive(Debug)]
pub struct NodeError(String);

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NodeError {}

fn failed(doing: &str, error: impl fmt::Display) -> NodeError {
    NodeError(format!("{doing}: {error}"))
}

/// Runs a server in this thread until SIGTERM or SIGINT.
pub fn run_until_signal(config: Config) -> Result<(), NodeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(DISK_THREADS)
        .build()
        .map_err(|e| failed("starting the runtime", e))?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(|e| failed("signals", e))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| failed("signals", e))?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        run(config, stop).await
    })
}

/// Runs a server until `stop` completes, or the directory refuses it for good before it ever
/// registered; then stops it cleanly.
pub async fn run(config: Config, stop: impl Future<Output = ()>) -> Result<(), NodeError> {
    tokio::pin!(stop);
    let secret = match &config.secret_file {
        Some(path) => Some(read_secret(path).map_err(|e| failed("reading the secret", e))?),
        None => None,
    };
    let options = OpenOptions {
        reserve: config.reserve,
        accept_copy: config.accept_copy,
        witness_dir: Some(config.witness_dir.clone()),
        ..OpenOptions::default()
    };
    let data = config.data.clone();
    let opening = tokio::task::spawn_blocking(move || ChunkStore::open(&data, options));
    let (store, opened) = opening
        .await
        .map_err(|e| failed("opening the data dir", e))?
        .map_err(|e| failed(&format!("data dir {}", config.data.display()), e))?;
    let store = Arc::new(store);
    let incarnation = draw_incarnation()?;
    let clean = opened.clean;
    let mut past = begin_run(&store, incarnation, opened.intact)
        .map_err(|e| failed(&format!("data dir {}", config.data.display()), e))?;
    past.accept_rollback = config.accept_rollback;
    let registered = Arc::new(AtomicBool::new(false));
    let newcomer = Identity {
        cluster: opened.cluster,
        node: opened.node,
        incarnation,
        role: Role::FileServer,
        secret,
    };
    let listener = Listener::bind(&config.listen, &newcomer)
        .await
        .map_err(|e| NodeError(e.message))?;
    let cluster = tokio::select! {
        found = cluster_of(&config, &newcomer, &store) => found?,
        () = &mut stop => return close(&store).await,
    };
    let identity = Arc::new(Identity {
        cluster: Some(cluster),
        ..newcomer
    });

    let bound = listener.local_addr().to_string();
    let core = ReplicaCore::new(incarnation, store.epochs(), store.fences());
    let (notices, told) = mpsc::channel(NOTICES_MAX);
    let peers = Peers::new(identity.clone());
    let slow = SlowPolicy {
        factor: config.slow_factor,
        after: config.slow_after,
    };
    let driver = Driver::new(core, store.clone(), peers, notices, slow);
    let (end_listening, listening_ends) = oneshot::channel::<()>();
    let listening = tokio::spawn(listener.run(
        identity.clone(),
        Facing::others(driver.clone()),
        async move {
            let _ = listening_ends.await;
        },
    ));
    publish_address(&config.data, &bound)?;
    let scrub = (config.scrub_every, config.scrub_rate);
    let seed = (opened.node.0 ^ opened.node.0 >> 64) as u64;
    let scrubber = Scrubber::new(driver.clone(), &config.data, scrub, seed);
    log::info!(
        "serving {} on {bound}, clean start: {clean}",
        config.data.display()
    );

    let Some(directory) = Whereabouts::new(config.directory.clone()) else {
        return Err(NodeError("name the directory with --directory".into()));
    };
    let link = DirectoryLink {
        data: config.data.clone(),
        directory,
        identity,
        driver: driver.clone(),
        scrubber: scrubber.clone(),
        advertise: config.advertise.clone().unwrap_or(bound),
        past,
        registered: registered.clone(),
        notices: told,
    };
    let mut link = tokio::spawn(link.run());
    let tasks = [
        tokio::spawn(driver.clone().tick()),
        tokio::spawn(sync_in_background(store.clone())),
        tokio::spawn(scrubber.clone().run()),
    ];

    let refused = tokio::select! {
        () = &mut stop => None,
        ended = &mut link => Some(match ended {
            Ok(refused) => NodeError(refused),
            Err(e) => failed("the link to the directory", e),
        }),
    };
    log::info!("stopping");
    // Requests are refused from here on. Dropping the link tells the directory at once, so the
    // groups go on without this server while it writes its data out.
    driver.stop(STOP_PATIENCE).await;
    if refused.is_none() {
        link.abort();
        let _ = link.await;
    }
    for task in tasks {
        task.abort();
        let _ = task.await;
    }
    let _ = end_listening.send(());
    let _ = listening.await;
    scrubber.save();
    drop((driver, scrubber));
    close(&store).await?;
    // The tasks of closed connections let go of it one by one: the dir is free when this returns.
    let end = Instant::now() + STOP_PATIENCE;
    while Arc::strong_count(&store) > 1 && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    refused.map_or(Ok(()), Err)
}

/// The cluster that the data dir belongs to; a new one asks the directory, and is bound to it.
async fn cluster_of(
    config: &Config,
    newcomer: &Identity,
    store: &ChunkStore,
) -> Result<ClusterId, NodeError> {
    if let Some(cluster) = newcomer.cluster {
        return Ok(cluster);
    }
    let identity = Arc::new(newcomer.clone());
    let mut delay = RETRY_DELAY_MIN;
    for at in 0.. {
        let address = &config.directory[at % config.directory.len()];
        match connect(address, identity.clone(), Arc::new(NoService)).await {
            Ok(connection) => {
                let peer = *connection.peer();
                connection.close("the cluster's id is known now");
                if let (Role::Directory, Some(cluster)) = (peer.role, peer.cluster) {
                    store
                        .bind_cluster(cluster)
                        .map_err(|e| failed("binding the data dir to its cluster", e))?;
                    log::info!("this server now belongs to cluster {cluster}");
                    return Ok(cluster);
                }
                return Err(NodeError(format!("{address} is not a directory")));
            }
            Err(error) if error.code == ErrorCode::HandshakeRefused => {
                return Err(NodeError(refusal(&config.data, None, address, &error)));
            }
            Err(error) => log::warn!("asking {address} for the cluster: {error}; trying again"),
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(RETRY_DELAY_MAX);
    }
    Err(NodeError("no directory was found".into()))
}

fn draw_incarnation() -> Result<Incarnation, NodeError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|e| failed("drawing a random number", e))?;
    Ok(Incarnation(u64::from_le_bytes(bytes)))
}

/// Leaves the address in the data dir, whole or not at all, also after a power cut.
fn publish_address(data: &Path, address: &str) -> Result<(), NodeError> {
    let (path, draft) = (data.join("address"), data.join("address.new"));
    let publish = || {
        let mut file = std::fs::File::create(&draft)?;
        file.write_all(format!("{address}\n").as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&draft, &path)?;
        std::fs::File::open(data)?.sync_all()
    };
    publish().map_err(|e| failed(&format!("writing {}", path.display()), e))
}

/// Bounds what an unclean stop leaves unwritten.
async fn sync_in_background(store: Arc<ChunkStore>) {
    loop {
        tokio::time::sleep(SYNC_AGE / 2).await;
        let store = store.clone();
        let synced =
            tokio::task::spawn_blocking(move || store.sync_aged(SYNC_AGE, SYNC_CHUNKS_MAX)).await;
        if let Ok(Err(error)) = synced {
            log::error!("writing data out in the background: {error}");
        }
    }
}

/// Writes everything out and leaves the clean mark. It speaks for this run alone: the data dir
/// remembers since which of its runs all stops were orderly.
async fn close(store: &Arc<ChunkStore>) -> Result<(), NodeError> {
    let store = store.clone();
    tokio::task::spawn_blocking(move || store.close_clean())
        .await
        .map_err(|e| failed("closing the store", e))?
        .map_err(|e| failed("closing the store", e))?;
    log::info!("stopped cleanly");
    Ok(())
}
