//! The place of a mount: checked before, recovered when a dead mount is left on it, detached
//! after.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The file system type that our mounts show.
pub(crate) const SUBTYPE: &str = "dfs";
const TYPE: &str = "fuse.dfs";

/// Oldest kernel whose FUSE does what the coherence of a mount rests on.
#[cfg(target_os = "linux")]
const KERNEL_MIN: (u32, u32) = (6, 6);

/// Refuses a kernel that is too old.
#[cfg(target_os = "linux")]
pub(crate) fn check_kernel() -> Result<(), String> {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    match kernel_version(&release) {
        Some(version) if version >= KERNEL_MIN => Ok(()),
        _ => Err(format!(
            "this kernel is {release}; dfs needs Linux {}.{} or newer (direct I/O with shared maps)",
            KERNEL_MIN.0, KERNEL_MIN.1
        )),
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn check_kernel() -> Result<(), String> {
    Ok(())
}

#[cfg(target_os = "linux")]
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Checks that `path` is a dir that can be mounted on and returns it in full. A dead mount of
/// ours (its process was killed) is taken away first.
pub(crate) fn prepare(path: &Path, as_root: bool) -> Result<PathBuf, String> {
    let say = |what: &str| format!("{}: {what}", path.display());
    // Opening asks the process of a mount that is here, and is answered at once; attributes may come
    // from the kernel's cache though the process has died.
    let dir = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let found = match rustix::fs::open(path, dir, rustix::fs::Mode::empty()) {
        Err(rustix::io::Errno::NOTCONN) => Err(rustix::io::Errno::NOTCONN.into()),
        _ => std::fs::metadata(path),
    };
    match found {
        Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => {
            log::warn!(
                "{}: a dead mount is left here; taking it away",
                path.display()
            );
            detach(path, as_root).map_err(|e| say(&format!("can't unmount what is left: {e}")))?;
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(say("no such dir; make it first"));
        }
        Err(e) => return Err(say(&e.to_string())),
        Ok(_) => {}
    }
    let full = std::fs::canonicalize(path).map_err(|e| say(&e.to_string()))?;
    let meta = std::fs::metadata(&full).map_err(|e| say(&e.to_string()))?;
    if !meta.is_dir() {
        return Err(say("is not a dir"));
    }
    if is_mounted(&full) {
        return Err(say("a dfs mount is already here"));
    }
    Ok(full)
}

/// Whether a mount of ours is at `path`, by the kernel's list: asking the mount itself could
/// wait for it.
pub(crate) fn is_mounted(path: &Path) -> bool {
    top_mount(path).is_some()
}

/// The kernel's number of the mount of ours that is at `path`, with nothing mounted over it.
pub(crate) fn top_mount(path: &Path) -> Option<MountId> {
    let here = mounts_at(path).pop()?;
    (here.kind == TYPE).then_some(here.id)
}

/// Whether this mount is at `path`, also below another one.
pub(crate) fn is_listed(mount: MountId, path: &Path) -> bool {
    mounts_at(path).iter().any(|here| here.id == mount)
}

/// What is mounted at `path`, the topmost last.
fn mounts_at(path: &Path) -> Vec<Mount> {
    let list = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mounts = list.split(|b| *b == b'\n').filter_map(parse_mount);
    mounts.filter(|mount| mount.at == path).collect()
}

/// A mount in the kernel's list; not used again as long as it is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MountId(u64);

#[derive(Clone, PartialEq, Eq, Debug)]
struct Mount {
    id: MountId,
    at: PathBuf,
    kind: String,
}

/// A line of mountinfo:
/// `ID PARENT MAJ:MIN ROOT MOUNT_POINT OPTIONS [TAGS...] - TYPE SOURCE SUPER_OPTIONS`.
fn parse_mount(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|b| *b == b' ');
    let id = MountId(std::str::from_utf8(words.next()?).ok()?.parse().ok()?);
    let at = unescape(words.nth(3)?);
    words.find(|w| *w == b"-")?;
    let kind = String::from_utf8_lossy(words.next()?).into_owned();
    Some(Mount { id, at, kind })
}

/// The kernel writes blanks and backslashes as `\ooo`.
fn unescape(word: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail
            .get(..3)
            .filter(|d| *first == b'\\' && d.iter().all(u8::is_ascii_digit));
        match digits {
            Some(d) => {
                let value = d.iter().fold(0u32, |n, c| n * 8 + u32::from(c - b'0'));
                bytes.push(value as u8);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// Detaches the mount: from then on nobody new gets to it; it ends with its last open file.
pub(crate) fn detach(path: &Path, as_root: bool) -> Result<(), String> {
    #[cfg(target_os = "linux")]
    if as_root {
        use rustix::mount::{UnmountFlags, unmount};
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        return match unmount(path, flags) {
            // Not mounted any more: somebody else was faster.
            Ok(()) | Err(rustix::io::Errno::INVAL) => Ok(()),
            Err(e) => Err(e.to_string()),
        };
    }
    let _ = as_root;
    let status = Command::new("fusermount3")
        .arg("-uzq")
        .arg("--")
        .arg(path)
        .stdin(Stdio::null())
        .status()
        .map_err(|e| format!("fusermount3: {e} (is the package 'fuse3' installed?)"))?;
    if status.success() || !is_mounted(path) {
        Ok(())
    } else {
        Err(format!("fusermount3 -uz: {status}"))
    }
}

/// A name for files that belong to the mount at `path`: `/mnt/a b` becomes `mnt-a_b`.
pub(crate) fn file_name_for(path: &Path) -> String {
    let plain = |b: &u8| match b {
        b'/' => '-',
        b if b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_') => char::from(*b),
        _ => '_',
    };
    path.as_os_str()
        .as_bytes()
        .iter()
        .map(plain)
        .collect::<String>()
        .trim_matches('-')
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo_are_read() {
        let line = b"36 35 98:0 / /mnt/a\\040b rw,noatime shared:1 - fuse.dfs host:1 rw";
        let mount = parse_mount(line).expect("a line");
        assert_eq!(mount.id, MountId(36));
        assert_eq!(mount.at, Path::new("/mnt/a b"));
        assert_eq!(mount.kind, "fuse.dfs");
        assert_eq!(parse_mount(b""), None);
        assert_eq!(parse_mount(b"36 35 98:0 / /mnt"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn releases_are_compared_as_numbers() {
        assert_eq!(kernel_version("6.18.44-fc"), Some((6, 18)));
        assert!(kernel_version("6.10.0") > Some(KERNEL_MIN));
        assert!(kernel_version("5.15.0-91-generic") < Some(KERNEL_MIN));
        assert_eq!(kernel_version("unknown"), None);
    }

    #[test]
    fn a_file_is_no_mount_point() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let error = prepare(file.path(), false).expect_err("refused");
        assert!(error.contains("is not a dir"), "{error}");
        let missing = prepare(Path::new("/nonexistent/dir"), false).expect_err("refused");
        assert!(missing.contains("make it first"), "{missing}");
    }

    #[test]
    fn names_for_files_are_plain() {
        assert_eq!(file_name_for(Path::new("/mnt/a b/c.d")), "mnt-a_b-c.d");
    }
}
