//! Backups of the names: made while the directory serves, or of what a stopped member has; and new
//! directories made of them.

#![allow(clippy::unwrap_used)]

use dfs_testkit::cluster::{Cluster, binary, output};
use dfs_testkit::eventually;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

#[test]
fn a_backup_of_the_names_makes_a_new_directory() {
    let cluster = Cluster::up(&["--directories", "3", "--mounts", "1"]);
    let mount = cluster.mount(1);
    let content = |number: u32| format!("file {number}\n").repeat(2000);
    fs::create_dir(mount.join("dir")).unwrap();
    for number in 0..20 {
        // Synced: a backup has the sizes that the directory has been told.
        let mut file = File::create(mount.join(format!("dir/{number}"))).unwrap();
        file.write_all(content(number).as_bytes()).unwrap();
        file.sync_all().unwrap();
    }
    let backup = cluster.dir().join("names.backup");
    let exported = output(&mut cluster.ctl(&["directory", "export", backup.to_str().unwrap()]));
    assert!(exported.status.success(), "{exported:?}");
    // The cluster goes on: new files, longer and shorter ones, another epoch.
    fs::write(mount.join("dir/later"), "after the backup").unwrap();
    let mut grown = OpenOptions::new()
        .append(true)
        .open(mount.join("dir/0"))
        .unwrap();
    grown.write_all(b"more").unwrap();
    grown.sync_all().unwrap();
    let cut = OpenOptions::new()
        .write(true)
        .open(mount.join("dir/1"))
        .unwrap();
    cut.set_len(10).unwrap();
    cut.sync_all().unwrap();
    drop((grown, cut));
    cluster.node("kill", "server-3");
    fs::write(mount.join("dir/2"), content(200)).unwrap();
    cluster.node("start", "server-3");
    cluster.wait_healthy(SOON);
    // All members are lost, with their disks.
    cluster.node("stop", "mount-1");
    let address = cluster.address("directory-1");
    for number in 1..=3 {
        let node = format!("directory-{number}");
        cluster.node("kill", &node);
        fs::remove_dir_all(cluster.data(&node)).unwrap();
        if number > 1 {
            let _ = fs::remove_file(cluster.dir().join(format!("run/{node}.pid")));
        }
    }
    let data = cluster.data("directory-1");
    import(&data, &backup, &address);
    // The script starts it again as the member that it is now.
    cluster.node("start", "directory-1");
    cluster.wait_healthy(SOON);
    cluster.node("start", "mount-1");
    for number in 3..20 {
        let read = fs::read_to_string(mount.join(format!("dir/{number}"))).unwrap();
        assert!(read == content(number), "file {number}");
    }
    // What was changed since: as long as it was then, with what the servers have.
    assert!(fs::read_to_string(mount.join("dir/0")).unwrap() == content(0));
    let long = fs::read(mount.join("dir/1")).unwrap();
    assert_eq!(long.len(), content(1).len());
    assert!(long[10..].iter().all(|byte| *byte == 0));
    assert_eq!(
        fs::read(mount.join("dir/2")).unwrap().len(),
        content(2).len()
    );
    assert!(fs::metadata(mount.join("dir/later")).is_err());
    // New files work, and grow through what others had left behind.
    fs::write(mount.join("dir/new"), content(9)).unwrap();
    let grown = OpenOptions::new()
        .write(true)
        .open(mount.join("dir/0"))
        .unwrap();
    grown.set_len(content(0).len() as u64 + 100).unwrap();
    let read = fs::read(mount.join("dir/0")).unwrap();
    assert!(read[content(0).len()..].iter().all(|byte| *byte == 0));
    // What belongs to no name any more is found, and goes.
    output(&mut cluster.ctl(&["fsck", "--repair"]));
    eventually("a clean file system", SOON, || {
        output(&mut cluster.ctl(&["fsck"])).status.success()
    });
    let again = output(&mut import_command(&data, &backup, &address));
    assert!(String::from_utf8_lossy(&again.stderr).contains("takes an empty dir"));
}

#[test]
fn a_stopped_member_is_exported_and_imported() {
    let cluster = Cluster::up(&["--directories", "3", "--mounts", "1"]);
    let mount = cluster.mount(1);
    fs::create_dir(mount.join("dir")).unwrap();
    for number in 0..20u32 {
        let mut file = File::create(mount.join(format!("dir/{number}"))).unwrap();
        file.write_all(number.to_string().as_bytes()).unwrap();
        file.sync_all().unwrap();
    }
    cluster.node("stop", "mount-1");
    cluster.wait_for_members(3);
    // All are stopped; one of their disks is left, and no longer trusted.
    for number in 1..=3 {
        cluster.node("stop", &format!("directory-{number}"));
    }
    let backup = cluster.dir().join("names.backup");
    let export = |data: &Path| {
        let mut command = Command::new(binary("dfs-directory"));
        command.arg("--data").arg(data).arg("--export").arg(&backup);
        output(&mut command)
    };
    let exported = export(&cluster.data("directory-2"));
    assert!(exported.status.success(), "{exported:?}");
    let address = cluster.address("directory-1");
    for number in 1..=3 {
        let data = cluster.data(&format!("directory-{number}"));
        fs::remove_dir_all(&data).unwrap();
        fs::create_dir(&data).unwrap();
    }
    let damaged = cluster.dir().join("damaged.backup");
    let mut bytes = fs::read(&backup).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    let data = cluster.data("directory-1");
    let refused = output(&mut import_command(&data, &damaged, &address));
    assert!(!refused.status.success(), "{refused:?}");
    let _ = fs::remove_dir_all(&data);
    import(&data, &backup, &address);
    // The others come back as new members.
    for number in 1..=3 {
        cluster.node("start", &format!("directory-{number}"));
    }
    cluster.wait_for_members(3);
    cluster.wait_healthy(SOON);
    cluster.node("start", "mount-1");
    for number in 0..20u32 {
        let read = fs::read_to_string(mount.join(format!("dir/{number}"))).unwrap();
        assert_eq!(read, number.to_string());
    }
    fs::write(mount.join("dir/new"), "y").unwrap();
    let fsck = output(&mut cluster.ctl(&["fsck"]));
    assert!(fsck.status.success(), "{fsck:?}");
    // Who serves is not exported behind its back.
    let busy = export(&cluster.data("directory-1"));
    assert!(!busy.status.success(), "{busy:?}");
}

fn import_command(data: &Path, backup: &Path, address: &str) -> Command {
    let mut command = Command::new(binary("dfs-directory"));
    command.arg("--data").arg(data);
    command.args(["--listen", address, "--import"]).arg(backup);
    command
}

/// Imports, and stops the new member when it serves.
fn import(data: &Path, backup: &Path, address: &str) {
    let mut running = import_command(data, backup, address).spawn().unwrap();
    eventually("the new member serves", SOON, || {
        assert!(running.try_wait().unwrap().is_none(), "it has ended");
        data.join("address").exists()
    });
    let terminated = Command::new("kill").arg(running.id().to_string()).status();
    assert!(terminated.unwrap().success());
    assert!(running.wait().unwrap().success());
}
