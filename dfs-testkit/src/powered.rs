//! A cluster of which some nodes have disks of their own, which can fail.

use crate::cluster::Cluster;
use crate::eventually;
use crate::loop_disk::{Format, LoopDisk};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

/// A running cluster and the disks under it.
#[derive(Debug)]
pub struct Powered {
    /// Goes first: its processes use the disks.
    pub cluster: Cluster,
    pub disks: BTreeMap<String, LoopDisk>,
    _images: tempfile::TempDir,
}

impl Powered {
    /// A cluster with these options of `scripts/cluster up`; the named nodes get disks of so many
    /// megabytes.
    pub fn up(options: &[&str], format: Format, sizes: &[(&str, u64)]) -> Self {
        let images = tempfile::Builder::new()
            .prefix("dfs-disks-")
            .tempdir()
            .expect("a dir for images");
        let disks: BTreeMap<String, LoopDisk> = sizes
            .iter()
            .map(|(node, megabytes)| {
                let disk = LoopDisk::make(images.path(), node, format, *megabytes);
                ((*node).to_owned(), disk)
            })
            .collect();
        let cluster = Cluster::up_on(options, |dir| {
            let data = dir.join("data");
            fs::create_dir_all(&data).expect("a dir for data");
            for (node, disk) in &disks {
                symlink(disk.dir(), data.join(node)).expect("a link to the disk");
            }
        });
        Self {
            cluster,
            disks,
            _images: images,
        }
    }

    pub fn disk(&self, node: &str) -> &LoopDisk {
        &self.disks[node]
    }

    /// All nodes with disks of their own lose their power at one moment, and come back.
    pub fn cut_power(&self) {
        std::thread::scope(|scope| {
            for disk in self.disks.values() {
                scope.spawn(|| disk.cut_power());
            }
        });
        for node in self.disks.keys() {
            kill_if_running(&self.cluster, node);
        }
        for disk in self.disks.values() {
            disk.restore();
        }
        for node in self.disks.keys() {
            self.cluster.node("start", node);
        }
    }
}

/// `kill -9`, also of a node that has ended by itself.
pub fn kill_if_running(cluster: &Cluster, node: &str) {
    let pid = cluster.pid(node);
    let process = rustix::process::Pid::from_raw(pid as i32).expect("a process id");
    // No such process is as good.
    let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
    eventually("the end of a node", Duration::from_secs(10), || {
        !Path::new(&format!("/proc/{pid}")).exists()
    });
}
