//! A server is lost for good, given up, comes back, is emptied: groups move, data stay.

#![allow(clippy::unwrap_used)]

use dfs_testkit::cluster::{Cluster, output, run};
use dfs_testkit::eventually;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::Duration;

const FILES: u64 = 8;
const FILE_BYTES: usize = 6 << 20;

/// Nothing here takes this long, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn content(number: u64) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let word = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..FILE_BYTES / 8).flat_map(word).collect()
}

fn write_files(dir: &Path) {
    for number in 0..FILES {
        fs::write(dir.join(format!("f{number}")), content(number)).unwrap();
    }
}

fn check_files(dir: &Path) {
    for number in 0..FILES {
        let seen = fs::read(dir.join(format!("f{number}"))).unwrap();
        assert!(seen == content(number), "file {number} differs");
    }
}

/// The exit code of `dfsctl repair`, and what it says.
fn repair(cluster: &Cluster) -> (i32, Value) {
    let output = output(&mut cluster.ctl(&["--json", "repair"]));
    let said = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code().unwrap_or(-1), said)
}

fn wait_whole(cluster: &Cluster, what: &str) {
    eventually(what, PATIENCE, || repair(cluster).0 == 0);
}

/// Chunks that the directory knows a server to hold.
fn chunks_of(cluster: &Cluster, node: &str) -> u64 {
    let address = cluster.address(node);
    let servers = cluster.ask("servers");
    let server = servers
        .as_array()
        .unwrap()
        .iter()
        .find(|server| server["address"] == *address)
        .unwrap();
    server["chunks"].as_u64().unwrap()
}

/// Files below `data` in a server's data dir: its chunks.
fn chunk_files(cluster: &Cluster, node: &str) -> usize {
    let mut dirs = vec![cluster.data(node).join("data")];
    let mut files = 0;
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => dirs.push(path),
                false => files += 1,
            }
        }
    }
    files
}

fn verify(cluster: &Cluster) {
    let verified = output(&mut cluster.ctl(&["verify"]));
    let said = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(verified.status.success(), "{said}");
}

fn set(cluster: &Cluster, rate: &str) {
    run(&mut cluster.ctl(&["set", "--repair-rate", rate]));
}

fn order(cluster: &Cluster, verb: &str, node: &str) {
    run(&mut cluster.ctl(&["server", verb, &cluster.address(node)]));
}

#[test]
fn servers_are_lost_given_up_and_emptied_and_every_copy_is_made_again() {
    let cluster = Cluster::up(&["--servers", "4", "--replicas", "3", "--mounts", "2"]);
    write_files(&cluster.mount(1));
    wait_whole(&cluster, "whole at the beginning");
    assert!(chunks_of(&cluster, "server-1") > 0);

    // Lost and given up; slowly, so that something can come between.
    set(&cluster, "2M");
    cluster.node("kill", "server-1");
    order(&cluster, "remove", "server-1");
    eventually("it is being replaced", PATIENCE, || {
        let (code, said) = repair(&cluster);
        code == 1 && said["groups_joining"].as_u64() > Some(0)
    });
    cluster.node("kill", "directory-1");
    cluster.node("start", "directory-1");
    cluster.node("kill", "server-2");
    cluster.node("start", "server-2");
    fs::write(cluster.mount(2).join("meanwhile"), content(77)).unwrap();
    fs::remove_file(cluster.mount(1).join("f0")).unwrap();
    fs::write(cluster.mount(1).join("f0"), content(0)).unwrap();
    set(&cluster, "0");
    wait_whole(&cluster, "replaced");
    check_files(&cluster.mount(2));
    verify(&cluster);

    // It comes back with what it held, and is told that it is garbage.
    assert!(chunk_files(&cluster, "server-1") > 0);
    cluster.node("start", "server-1");
    eventually("it holds nothing", PATIENCE, || {
        chunk_files(&cluster, "server-1") == 0 && chunks_of(&cluster, "server-1") == 0
    });
    wait_whole(&cluster, "still whole");

    // It is taken back, and another one is emptied: never with a copy less.
    order(&cluster, "undrain", "server-1");
    order(&cluster, "drain", "server-2");
    eventually("server 2 is empty", PATIENCE, || {
        let (code, said) = repair(&cluster);
        assert_eq!(said["groups_degraded"].as_u64(), Some(0), "{said}");
        code == 0 && chunk_files(&cluster, "server-2") == 0
    });
    check_files(&cluster.mount(1));
    assert!(fs::read(cluster.mount(1).join("meanwhile")).unwrap() == content(77));
    verify(&cluster);

    // Three servers left for three replicas: a further loss cannot be repaired, and is said so.
    cluster.node("kill", "server-3");
    order(&cluster, "remove", "server-3");
    eventually("stuck", PATIENCE, || {
        let (code, said) = repair(&cluster);
        code == 2
            && said["stuck"][0]["why"]
                .as_str()
                .is_some_and(|w| w.contains("no other"))
    });
    order(&cluster, "undrain", "server-2");
    wait_whole(&cluster, "server 2 takes its place");
    check_files(&cluster.mount(2));
    verify(&cluster);
}
