//! The FUSE adapter: the only place that knows the FUSE library.
//!
//! | module | what it does |
//! | --- | --- |
//! | `init`, `adapter` | what is agreed on with the kernel; the library's callbacks |
//! | `serve` | how a request is served |
//! | `root` | the dir that is mounted |
//! | `names`, `attributes`, `xattrs`, `listing` | names, attributes, extended ones and ACLs, dirs |
//! | `data`, `closing` | open files, and the end of them |
//! | `caches` | the kernel's cached pages: recalls and invalidations |
//! | `entries`, `notify` | its cached names and attributes; what it is told to drop |
//! | `locks` | which lock call it is, waiting for locks |
//! | `caller`, `interrupt`, `privileges` | signals of the calling thread; what it may do |
//! | `handles`, `open_dirs` | open files and dirs; what is told of dirs that are gone |
//! | `convert` | types of the wire <-> types of the library |

mod adapter;
mod attributes;
mod caches;
mod caller;
mod closing;
mod convert;
mod data;
mod entries;
mod handles;
mod init;
mod interrupt;
mod listing;
mod locks;
mod names;
mod notify;
mod open_dirs;
mod privileges;
mod range_owners;
mod root;
mod serve;
mod xattrs;

use crate::cli::Options;
use crate::client::Client;
use crate::client::kernel::KernelCache;
#[cfg(target_os = "linux")]
use crate::client::recall;
use crate::mount_point;
use caches::Caches;
#[cfg(target_os = "linux")]
use dfs_proto::limits::IO_BYTES_MAX;
use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use handles::Handles;
use notify::Notify;
pub(crate) use root::Root;
use serve::Adapter;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

/// The library warns of every request that it has no callback for; those are answered, so only its
/// errors are worth a line.
pub(crate) const LIBRARY_LOG: &str = "fuser=error";

/// Threads that read requests: they only decode and hand over. On few cores more of them cost
/// throughput; where there are more, two keep decoding from being the limit.
#[cfg(target_os = "linux")]
fn session_threads() -> usize {
    match std::thread::available_parallelism() {
        Ok(cores) if cores.get() > 2 => 2,
        _ => 1,
    }
}

/// macFUSE serves one thread only.
#[cfg(not(target_os = "linux"))]
fn session_threads() -> usize {
    1
}

/// The kernel's caches, before and after there is a mount.
#[derive(Clone, Debug)]
pub(crate) struct MountCaches(Arc<Caches>);

impl MountCaches {
    pub(crate) fn new(runtime: tokio::runtime::Handle) -> Self {
        Self(Caches::new(runtime))
    }

    /// What the client core asks for recalls.
    pub(crate) fn for_client(&self) -> Arc<dyn KernelCache> {
        self.0.clone()
    }
}

/// Mounts and begins to serve. The mount answers when this returns.
pub(crate) fn mount(
    client: Client,
    caches: &MountCaches,
    options: &Options,
    (root, mount_point): (Root, &Path),
) -> Result<BackgroundSession, String> {
    let adapter = Adapter {
        client,
        caches: caches.0.clone(),
        handles: Arc::new(Handles::default()),
        locks: locks::LockCalls::default(),
        root,
    };
    let say = |e: std::io::Error| {
        let hint = match e.raw_os_error() {
            Some(libc::ENOENT) => " (is /dev/fuse there, and the package 'fuse3' installed?)",
            Some(libc::EPERM | libc::EACCES) => " (may this user open /dev/fuse?)",
            _ => "",
        };
        format!("{}: can't mount: {e}{hint}", mount_point.display())
    };
    let session = match attach(options, mount_point).map_err(say)? {
        Some(device) => {
            let config = config(options);
            let session = Session::from_fd(adapter, device, config.acl, config);
            session.inspect_err(|_| {
                // What failed is told; the mount must not stay behind without a process.
                let _ = mount_point::detach(mount_point, true);
            })
        }
        None => Session::new(adapter, mount_point, &config(options)),
    };
    let session = session.map_err(say)?;
    let device = session.as_fd().try_clone_to_owned().map_err(say)?;
    caches.0.told.mounted(root.dir());
    caches.0.attach(Notify::new(device, root));
    session.spawn().map_err(say)
}

/// Pages of the largest request, for `allow_large_requests`.
#[cfg(target_os = "linux")]
const REQUEST_PAGES: usize = init::WRITE_BYTES_MAX as usize / recall::PAGE_BYTES as usize;

/// Lets the kernel send requests of more than 1 MiB (Linux 6.12 on; the default is 256 pages). It
/// is one setting for all FUSE mounts, each of which still has to ask for as much; it is only
/// raised. Needs root; without it an unaligned write of 1 MiB comes in two pieces.
#[cfg(target_os = "linux")]
fn allow_large_requests() {
    const LIMIT: &str = "/proc/sys/fs/fuse/max_pages_limit";
    let present = std::fs::read_to_string(LIMIT);
    let Some(present) = present.ok().and_then(|text| text.trim().parse().ok()) else {
        return;
    };
    if REQUEST_PAGES > present
        && let Err(e) = std::fs::write(LIMIT, REQUEST_PAGES.to_string())
    {
        log::debug!("{LIMIT}: {e}; large unaligned writes come in pieces");
    }
}

/// Mounts as root, with our file system type in the kernel's list: the library's own way shows
/// `fuse` only. `None`: this process may not mount, so the library asks `fusermount3`.
#[cfg(target_os = "linux")]
fn attach(options: &Options, at: &Path) -> std::io::Result<Option<OwnedFd>> {
    use rustix::mount::{MountFlags, mount};
    use std::os::unix::fs::MetadataExt;
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    allow_large_requests();
    let device = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")?;
    let mode = std::fs::metadata(at)?.mode() & libc::S_IFMT;
    let mut data = format!(
        "fd={},rootmode={mode:o},user_id=0,group_id=0,default_permissions,max_read={IO_BYTES_MAX}",
        device.as_raw_fd()
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, options.read_only);
    flags.set(MountFlags::NODEV, !options.dev);
    flags.set(MountFlags::NOSUID, !options.suid);
    flags.set(MountFlags::NOEXEC, !options.exec);
    flags.set(MountFlags::NOATIME, options.no_atime);
    let source = options.source();
    let data = std::ffi::CString::new(data)?;
    let kind = format!("fuse.{}", mount_point::SUBTYPE);
    match mount(source.as_str(), at, kind.as_str(), flags, data.as_c_str()) {
        Ok(()) => Ok(Some(device.into())),
        // Root of a container that may not mount.
        Err(rustix::io::Errno::PERM) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn attach(_: &Options, _: &Path) -> std::io::Result<Option<OwnedFd>> {
    Ok(None)
}

fn config(options: &Options) -> Config {
    let mut config = Config::default();
    let either = |on: bool, yes: MountOption, no: MountOption| if on { yes } else { no };
    config.mount_options = vec![
        MountOption::FSName(options.source()),
        MountOption::Subtype(mount_point::SUBTYPE.to_owned()),
        // The kernel checks permissions, by the attributes that it gets.
        MountOption::DefaultPermissions,
        either(options.read_only, MountOption::RO, MountOption::RW),
        either(options.dev, MountOption::Dev, MountOption::NoDev),
        either(options.suid, MountOption::Suid, MountOption::NoSuid),
        either(options.exec, MountOption::Exec, MountOption::NoExec),
        either(options.no_atime, MountOption::NoAtime, MountOption::Atime),
    ];
    config.acl = if options.allow_other {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    config.n_threads = Some(session_threads());
    // Each thread on a descriptor of its own, where there are several.
    config.clone_fd = cfg!(target_os = "linux") && session_threads() > 1;
    config
}
