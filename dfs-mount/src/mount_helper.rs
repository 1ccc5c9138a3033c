//! Called by mount(8): under the name `mount.dfs` (`mount -t dfs`, fstab) or `mount.fuse.dfs` (a
//! change of what is mounted already), with the command line that mount(8) gives its helpers:
//! `mount.TYPE SOURCE DIR [-sfnv] [-t TYPE.SUBTYPE] [-o OPTIONS]`.

use crate::mount_point;
use clap::Parser;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

/// Mounts a dfs file system for mount(8).
#[derive(Parser, Debug)]
#[command(name = "mount.dfs", version)]
pub(crate) struct HelperArguments {
    /// Directory service: HOST:PORT[,HOST:PORT...][/DIR]
    pub(crate) directory: String,

    /// Where to mount
    pub(crate) mount_point: PathBuf,

    /// Options, separated by commas
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub(crate) options: Vec<String>,

    /// Pass over options that are not known
    #[arg(short = 's')]
    pub(crate) sloppy: bool,

    /// Do everything but mount
    #[arg(short = 'f')]
    pub(crate) fake: bool,

    /// Leave /etc/mtab alone (nobody writes it any more)
    #[arg(short = 'n')]
    no_mtab: bool,

    /// Say more
    #[arg(short = 'v')]
    verbose: bool,

    /// The type that mount(8) was given
    #[arg(short = 't')]
    kind: Option<String>,

    /// Internal: this is the process that stays in the background
    #[arg(long, hide = true)]
    pub(crate) background_child: bool,
}

/// Whether the program was called under a name that mount(8) gives its helpers.
pub(crate) fn is_called_as(program: &OsStr) -> bool {
    let name = Path::new(program).file_name();
    name.is_some_and(|name| name == "mount.dfs" || name == "mount.fuse.dfs")
}

/// A change of the flags of a mount that is there: those that the kernel looks at by itself. All
/// other options stay as they are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Remount {
    mount_point: PathBuf,
    flags: Flags,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Flags {
    read_only: bool,
    no_dev: bool,
    no_suid: bool,
    no_exec: bool,
    no_atime: bool,
}

/// What is to be remounted, if `options` ask for that. mount(8) adds what the mount has already, also
/// words that only the kernel knows; those say nothing new.
pub(crate) fn remount<'a>(
    mount_point: &Path,
    options: impl Iterator<Item = &'a str>,
) -> Option<Remount> {
    let mut asked = false;
    let mut flags = Flags::default();
    for word in options {
        match word {
            "remount" => asked = true,
            "ro" | "rw" => flags.read_only = word == "ro",
            "nodev" | "dev" => flags.no_dev = word == "nodev",
            "nosuid" | "suid" => flags.no_suid = word == "nosuid",
            "noexec" | "exec" => flags.no_exec = word == "noexec",
            "noatime" | "atime" => flags.no_atime = word == "noatime",
            _ => {}
        }
    }
    let mount_point = mount_point.to_owned();
    asked.then_some(Remount { mount_point, flags })
}

impl Remount {
    /// Changes the mount. Programs that have files open for writing keep the kernel from making
    /// it read-only.
    pub(crate) fn carry_out(&self) -> Result<(), String> {
        let at = self.mount_point.display();
        let full = std::fs::canonicalize(&self.mount_point).map_err(|e| format!("{at}: {e}"))?;
        if !mount_point::is_mounted(&full) {
            return Err(format!("{at}: no dfs is mounted here"));
        }
        change(&full, self.flags).map_err(|e| match e.kind() {
            io::ErrorKind::ResourceBusy => format!("{at}: files are open for writing"),
            _ => format!("{at}: can't change the mount: {e}"),
        })
    }
}

#[cfg(target_os = "linux")]
fn change(at: &Path, wanted: Flags) -> io::Result<()> {
    use rustix::mount::{MountFlags, mount_remount};
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, wanted.read_only);
    flags.set(MountFlags::NODEV, wanted.no_dev);
    flags.set(MountFlags::NOSUID, wanted.no_suid);
    flags.set(MountFlags::NOEXEC, wanted.no_exec);
    flags.set(MountFlags::NOATIME, wanted.no_atime);
    Ok(mount_remount(at, flags, c"")?)
}

#[cfg(not(target_os = "linux"))]
fn change(_at: &Path, _wanted: Flags) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_says_who_calls() {
        for name in ["mount.dfs", "/sbin/mount.dfs", "/usr/sbin/mount.fuse.dfs"] {
            assert!(is_called_as(OsStr::new(name)), "{name}");
        }
        for name in ["dfs-mount", "/mount.dfs/dfs-mount", ""] {
            assert!(!is_called_as(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn the_last_word_of_a_remount_counts() {
        let flags = |words: &str| remount(Path::new("/m"), words.split(',')).map(|r| r.flags);
        assert_eq!(flags("ro,nosuid"), None);
        let read_only = Flags {
            read_only: true,
            no_suid: true,
            ..Flags::default()
        };
        assert_eq!(flags("rw,nosuid,user_id=0,remount,ro"), Some(read_only));
        assert_eq!(flags("ro,nodev,remount,rw,dev"), Some(Flags::default()));
    }
}
