//! A mount says what it waits for: once for each wait, with whom and why.
//!
//! The calls are made by processes of their own: this one starts others, and must have no file open
//! whose close would wait.

#![allow(clippy::unwrap_used)]

use dfs_testkit::cluster::Cluster;
use dfs_testkit::eventually;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

/// The lines in which a mount says that it has been waiting.
fn waits(cluster: &Cluster) -> Vec<String> {
    let log = cluster.log("mount-1");
    let waits = log.lines().filter(|line| line.contains("has been waiting"));
    waits.map(str::to_owned).collect()
}

/// What a shell does with a file.
fn shell(script: &str, file: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(file);
    command
}

/// Has a call wait from `begin` on until a line about it is there; returns the new lines when the call has
/// ended. What the mount does by itself waits from the fault on, not from the call: it may be told
/// before the command that makes the fault has returned.
fn while_waiting(
    cluster: &Cluster,
    begin: impl FnOnce(),
    mut call: Command,
    names: &[&str],
    end: impl FnOnce(),
) -> Vec<String> {
    let before = waits(cluster).len();
    begin();
    let mut waiting = call.spawn().unwrap();
    eventually("the wait is told", SOON, || {
        let told = waits(cluster).split_off(before);
        told.iter()
            .any(|line| names.iter().all(|name| line.contains(name)))
    });
    // It goes on for a while, and is told no second time.
    std::thread::sleep(Duration::from_secs(2));
    assert!(waiting.try_wait().unwrap().is_none());
    end();
    assert!(waiting.wait().unwrap().success());
    waits(cluster).split_off(before)
}

#[test]
fn a_directory_that_is_silent_or_gone_is_named() {
    let cluster = Cluster::up(&["--mounts", "1"]);
    let mount = cluster.mount(1);
    let address = cluster.address("directory-1");
    fs::write(mount.join("before"), "x").unwrap();
    for (fault, end) in [("pause", "resume"), ("kill", "start")] {
        let told = while_waiting(
            &cluster,
            || cluster.node(fault, "directory-1"),
            shell(": >\"$1\"", &mount.join(fault)),
            &["the connection to the directory", &address],
            || cluster.node(end, "directory-1"),
        );
        let link: Vec<&String> = told
            .iter()
            .filter(|line| line.contains("the connection to the directory"))
            .collect();
        assert_eq!(link.len(), 1, "{fault}: {link:?}");
        assert!(link[0].contains("tries)"), "{link:?}");
    }
}

#[test]
fn a_server_that_is_silent_or_gone_is_named() {
    let cluster = Cluster::up(&["--mounts", "1", "--servers", "1", "--replicas", "1"]);
    let file = cluster.mount(1).join("f");
    fs::write(&file, "before").unwrap();
    for (fault, end) in [("pause", "resume"), ("kill", "start")] {
        let told = while_waiting(
            &cluster,
            || cluster.node(fault, "server-1"),
            shell("printf after >>\"$1\"", &file),
            &["a write ("],
            || cluster.node(end, "server-1"),
        );
        let writes: Vec<&String> = told
            .iter()
            .filter(|line| line.contains("a write ("))
            .collect();
        assert_eq!(writes.len(), 1, "{fault}: {writes:?}");
        // With whom, and why.
        let names = writes[0].contains("server:1") || writes[0].contains("group:");
        assert!(names && writes[0].contains(": "), "{writes:?}");
    }
}

#[test]
fn a_wait_for_another_mount_is_told() {
    let cluster = Cluster::with_mounts(2);
    let (a, b) = (cluster.mount(1), cluster.mount(2));
    let held = shell(
        "exec 3>\"$1\"; echo unsynced >&3; echo ready; read -r _ || true",
        &b.join("held"),
    )
    .stdin(Stdio::piped())
    .stdout(Stdio::piped())
    .spawn();
    let mut holder = held.unwrap();
    let mut ready = [0; 6];
    holder
        .stdout
        .take()
        .unwrap()
        .read_exact(&mut ready)
        .unwrap();
    // It holds the exclusive lease, and does not answer.
    let told = while_waiting(
        &cluster,
        || cluster.node("pause", "mount-2"),
        shell("cat \"$1\" >/dev/null", &a.join("held")),
        &["directory 127.0.0.1:", "no answer yet to"],
        || cluster.node("resume", "mount-2"),
    );
    let whom = told.iter().any(|line| line.contains("another mount"));
    assert!(whom, "{told:?}");
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
}
