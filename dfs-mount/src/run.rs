//! A mount's life: connect, mount, serve until it is unmounted or told to end, and leave nothing
//! behind.

use crate::cli::{self, Mode, Options, Task};
use crate::client::{Client, ClientOptions};
use crate::fuse::{self, MountCaches};
use crate::mount_point::MountId;
use crate::{launch, mount_point};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How long a mount tries to reach the directory before it says that it can't.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// At the end: for flushing and ending the session while servers may be away.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(15);
/// The same while the directory does not answer: nothing can be told, and somebody waits for the end.
const UNLINKED_DEADLINE: Duration = Duration::from_secs(2);
/// A mount that was detached serves its open files on; not when the directory is away for so long.
const DETACHED_PATIENCE: Duration = Duration::from_secs(2);
const DETACHED_LOOK: Duration = Duration::from_millis(250);
/// What is logged unless the environment says otherwise.
const DEFAULT_LOG: &str = "info";
/// What the kernel reads ahead: one request of the largest size.
const READ_AHEAD_KIB: u32 = 1024;

/// The whole program.
pub(crate) fn run() -> ExitCode {
    let as_root = rustix::process::geteuid().is_root();
    let options = match cli::parse(as_root) {
        Ok(Task::Mount(options)) => options,
        Ok(Task::Nothing) => return ExitCode::SUCCESS,
        Ok(Task::Remount(remount)) => match remount.carry_out() {
            Ok(()) => return ExitCode::SUCCESS,
            Err(message) => return fail(&message),
        },
        Err(message) => return fail(&message),
    };
    match options.mode {
        Mode::Launcher => launch::launch(),
        Mode::Foreground => {
            log_to(options.log_file.as_deref());
            match serve(&options, as_root, || {}) {
                Ok(()) => ExitCode::SUCCESS,
                Err(message) => fail(&message),
            }
        }
        Mode::BackgroundChild => {
            launch::leave_terminal();
            log_to(Some(&background_log(&options, as_root)));
            match serve(&options, as_root, || launch::report(Ok(()))) {
                Ok(()) => ExitCode::SUCCESS,
                Err(message) => {
                    log::error!("{message}");
                    launch::report(Err(&message));
                    ExitCode::FAILURE
                }
            }
        }
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("dfs-mount: {message}");
    ExitCode::FAILURE
}

/// Where a mount in the background says what happens, unless `-o log=FILE` names a file.
fn background_log(options: &Options, as_root: bool) -> PathBuf {
    if let Some(file) = &options.log_file {
        return file.clone();
    }
    let dir = match std::env::var_os("XDG_STATE_HOME").or_else(|| std::env::var_os("HOME")) {
        _ if as_root => PathBuf::from("/var/log/dfs"),
        Some(home) => Path::new(&home).join("dfs"),
        None => std::env::temp_dir(),
    };
    let full = std::path::absolute(&options.mount_point);
    let name = mount_point::file_name_for(full.as_deref().unwrap_or(&options.mount_point));
    dir.join(format!("mount-{name}.log"))
}

fn log_to(file: Option<&Path>) {
    let mut builder = env_logger::Builder::from_env(
        env_logger::Env::default()
            .default_filter_or(format!("{DEFAULT_LOG},{}", fuse::LIBRARY_LOG)),
    );
    if let Some(path) = file {
        if let Some(dir) = path.parent() {
            // The open below tells what is wrong.
            let _ = std::fs::create_dir_all(dir);
        }
        match std::fs::File::options()
            .create(true)
            .append(true)
            .open(path)
        {
            Ok(file) => {
                builder.target(env_logger::Target::Pipe(Box::new(file)));
            }
            Err(e) => eprintln!(
                "dfs-mount: {}: {e}; logging to standard error",
                path.display()
            ),
        }
    }
    builder.init();
}

fn serve(options: &Options, as_root: bool, ready: impl FnOnce()) -> Result<(), String> {
    mount_point::check_kernel()?;
    let at = mount_point::prepare(&options.mount_point, as_root)?;
    let secret = match &options.secret_file {
        None => None,
        Some(file) => Some(dfs_proto::transport::read_secret(file).map_err(|e| e.to_string())?),
    };
    // Signals, recalls of the kernel's caches and the blocking calls; requests run on the client
    // core's own threads.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("can't start: {e}"))?;
    let client_options = ClientOptions {
        directories: options.directories.clone(),
        mount_point: at.display().to_string(),
        secret,
        io_timeout: options.io_timeout,
    };
    let result = runtime.block_on(live(options, client_options, at, as_root, ready));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn live(
    options: &Options,
    client_options: ClientOptions,
    at: PathBuf,
    as_root: bool,
    ready: impl FnOnce(),
) -> Result<(), String> {
    let caches = MountCaches::new(tokio::runtime::Handle::current());
    let client = Client::connect(client_options, caches.for_client(), CONNECT_PATIENCE)
        .await
        .map_err(|e| format!("{}: {e}", options.directories.join(",")))?;
    let root = match fuse::Root::find(&client, &options.subtree).await {
        Ok(root) => root,
        Err(message) => {
            end_session(&client).await;
            return Err(message);
        }
    };
    let session = match fuse::mount(client.clone(), &caches, options, (root, &at)) {
        Ok(session) => session,
        Err(message) => {
            end_session(&client).await;
            return Err(message);
        }
    };
    let mounted = mount_point::top_mount(&at);
    let (ended, served) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("fuse-session".to_owned())
        .spawn(move || {
            // Nobody listens any more when a signal came first.
            let _ = ended.send(session.join());
        })
        .map_err(|e| format!("can't start a thread: {e}"))?;
    // It looks at the mount, which this thread must serve meanwhile.
    let looked_at = at.clone();
    let _ = tokio::task::spawn_blocking(move || set_read_ahead(&looked_at)).await;
    log::info!("{} is mounted on {}", options.source(), at.display());
    ready();

    tokio::select! {
        biased;
        result = served => {
            if let Ok(Err(e)) = result {
                log::warn!("{}: the connection to the kernel broke: {e}", at.display());
            }
            // `umount -f` with files open, or an abort: the connection is gone, the mount is not.
            if mounted.is_some() && mount_point::top_mount(&at) == mounted {
                detach(&at, as_root).await;
            }
        }
        () = detached_and_alone(&client, &at, mounted) => {
            log::warn!(
                "{}: was detached, and the directory is away: whoever has a file open gets an error",
                at.display()
            );
        }
        () = told_to_end() => {
            log::info!("{}: told to end; unmounting", at.display());
            detach(&at, as_root).await;
        }
    }
    // Flushes, gives back leases and locks, and ends waiting requests with an error, so that the
    // kernel lets go of the mount even where a file is still open.
    end_session(&client).await;
    log::info!("{}: unmounted", at.display());
    Ok(())
}

async fn detach(at: &Path, as_root: bool) {
    let detached = at.to_owned();
    let done = tokio::task::spawn_blocking(move || mount_point::detach(&detached, as_root)).await;
    if let Ok(Err(e)) = done {
        log::error!("{}: can't unmount: {e}", at.display());
    }
}

/// Ends when the mount is not in the list of mounts any more (`umount -l`, `fusermount3 -uz`) and
/// the directory does not answer: then its open files are of no use, and their users would wait
/// for ever. The list is read only while the directory is away.
async fn detached_and_alone(client: &Client, at: &Path, mounted: Option<MountId>) {
    let Some(mounted) = mounted else {
        return std::future::pending().await;
    };
    let mut alone_since = None;
    let mut looks = tokio::time::interval(DETACHED_LOOK);
    loop {
        looks.tick().await;
        if client.is_linked() {
            alone_since = None;
            continue;
        }
        let since = alone_since.get_or_insert_with(tokio::time::Instant::now);
        if since.elapsed() >= DETACHED_PATIENCE && !mount_point::is_listed(mounted, at) {
            return;
        }
    }
}

async fn end_session(client: &Client) {
    let end = client.shutdown();
    tokio::pin!(end);
    let mut ended = tokio::time::timeout(UNLINKED_DEADLINE, &mut end).await;
    if ended.is_err() && client.is_linked() {
        ended = tokio::time::timeout(SHUTDOWN_DEADLINE - UNLINKED_DEADLINE, &mut end).await;
    }
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(e)) => log::error!("the session did not end cleanly: {e}"),
        Err(_) => log::error!(
            "the session did not end in time, some server does not answer; its locks are free after its TTL"
        ),
    }
}

async fn told_to_end() {
    let kinds = [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
    ];
    let [Ok(mut term), Ok(mut int), Ok(mut hup)] = kinds.map(signal) else {
        log::error!("can't listen for signals; unmount with umount or fusermount3 -u");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
        _ = hup.recv() => {}
    }
}

/// Raises the kernel's read-ahead to one full request. Needs root; without it reads are smaller.
fn set_read_ahead(at: &Path) {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::MetadataExt;
        let Ok(meta) = std::fs::metadata(at) else {
            return;
        };
        let (major, minor) = (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
        let file = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        if let Err(e) = std::fs::write(&file, READ_AHEAD_KIB.to_string()) {
            log::debug!("{file}: {e}; the kernel reads ahead less than it could");
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (at, READ_AHEAD_KIB);
}
