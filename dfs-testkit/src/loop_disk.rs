//! A disk of its own for a node: a file system in an image, mounted through a loop device. Its
//! power can be cut, it can be full, and it can turn read-only, while the rest of the machine
//! goes on.

use crate::cluster::{output, run};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What the image is formatted with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Ext4,
    Xfs,
}

/// A mounted image. Unmounted when the value goes; the image goes with the dir that it is in.
#[derive(Debug)]
pub struct LoopDisk {
    image: PathBuf,
    at: PathBuf,
    format: Format,
}

impl LoopDisk {
    /// Why there are no such disks here, if so: they need root, loop devices and two packages.
    pub fn missing(format: Format) -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("loop devices need root".into());
        }
        if !Path::new("/dev/loop-control").exists() {
            return Some("there is no /dev/loop-control".into());
        }
        let (make, package) = match format {
            Format::Ext4 => ("mkfs.ext4", "e2fsprogs"),
            Format::Xfs => ("mkfs.xfs", "xfsprogs"),
        };
        [(make, package), ("xfs_io", "xfsprogs")]
            .into_iter()
            .find(|(tool, _)| {
                let mut which = Command::new("sh");
                let found = which.args(["-c", &format!("command -v {tool}")]);
                !output(found).status.success()
            })
            .map(|(tool, package)| format!("the package {package} is missing (for {tool})"))
    }

    /// Makes and mounts one of this size under `dir`.
    pub fn make(dir: &Path, name: &str, format: Format, megabytes: u64) -> Self {
        let (image, at) = (dir.join(format!("{name}.img")), dir.join(name));
        fs::create_dir_all(&at).expect("a mount point");
        let file = File::create(&image).expect("an image");
        file.set_len(megabytes << 20).expect("a sparse image");
        let mut make = match format {
            Format::Ext4 => {
                let mut make = Command::new("mkfs.ext4");
                make.args(["-q", "-m", "0", "-E", "lazy_itable_init=1"]);
                make
            }
            Format::Xfs => {
                let mut make = Command::new("mkfs.xfs");
                make.arg("-q");
                make
            }
        };
        run(make.arg(&image));
        let disk = Self { image, at, format };
        disk.attach();
        disk
    }

    /// A dir on it.
    pub fn dir(&self) -> PathBuf {
        let dir = self.at.join("store");
        fs::create_dir_all(&dir).expect("a dir on the loop disk");
        dir
    }

    fn attach(&self) {
        let options = match self.format {
            Format::Ext4 => "loop,errors=remount-ro",
            Format::Xfs => "loop",
        };
        run(Command::new("mount")
            .args(["-o", options])
            .arg(&self.image)
            .arg(&self.at));
    }

    /// From now on nothing reaches the disk any more, and every call that would answers EIO. What
    /// was not synced is gone once the file system is mounted again.
    pub fn cut_power(&self) {
        run(Command::new("xfs_io")
            .args(["-x", "-c", "shutdown"])
            .arg(&self.at));
    }

    /// Mounts it again, after a cut or read-only. Nobody may have a file open on it.
    pub fn restore(&self) {
        crate::eventually("the unmount", Duration::from_secs(20), || {
            output(Command::new("umount").arg(&self.at))
                .status
                .success()
        });
        self.attach();
    }

    /// An error of the disk, after which the file system takes no writes (ext4 only).
    pub fn turn_read_only(&self) {
        let source = run(Command::new("findmnt")
            .args(["-n", "-o", "SOURCE"])
            .arg(&self.at));
        let name = source.trim().trim_start_matches("/dev/");
        fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "1").expect("an error of ext4");
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        let detached = output(Command::new("umount").arg("-l").arg(&self.at));
        if !detached.status.success() {
            eprintln!(
                "{}: {}",
                self.at.display(),
                String::from_utf8_lossy(&detached.stderr)
            );
        }
    }
}
