//! Disks that lost, changed or mixed up what they hold: each case is noticed and named, and is
//! repaired or refused in words. Nothing that was acknowledged is lost, and nothing old comes back.

#![allow(clippy::unwrap_used)]

use dfs_testkit::cluster::{Cluster, binary, output, run};
use dfs_testkit::eventually;
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const HEALING: Duration = Duration::from_secs(60);

fn content(seed: u32, len: usize) -> Vec<u8> {
    (0..len as u32)
        .map(|i| ((i ^ seed).wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

fn write_synced(path: &Path, data: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.write_all(data).unwrap();
    file.sync_all().unwrap();
}

/// The chunk file with this content on a server's disk.
fn chunk_file(cluster: &Cluster, server: u32, data: &[u8]) -> PathBuf {
    let piece = &data[100_000..100_064];
    let root = cluster.data(&format!("server-{server}")).join("data");
    let fans = fs::read_dir(root).unwrap();
    let files = fans.flat_map(|fan| fs::read_dir(fan.unwrap().path()).unwrap());
    let mut paths = files.map(|file| file.unwrap().path());
    paths
        .find(|path| {
            let bytes = fs::read(path).unwrap();
            bytes.windows(piece.len()).any(|window| window == piece)
        })
        .unwrap_or_else(|| panic!("the chunk on server {server}"))
}

fn json_of(cluster: &Cluster, arguments: &[&str]) -> (Option<i32>, Value) {
    let mut all = vec!["--json"];
    all.extend(arguments);
    let found = output(&mut cluster.ctl(&all));
    let text = String::from_utf8_lossy(&found.stdout).into_owned();
    let errors = String::from_utf8_lossy(&found.stderr).into_owned();
    let value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}{errors}"));
    (found.status.code(), value)
}

/// Nothing is cached after a new mount.
fn remount(cluster: &Cluster) {
    cluster.node("stop", "mount-1");
    cluster.node("start", "mount-1");
}

fn assert_sound(cluster: &Cluster) {
    for question in ["scrub", "fsck", "verify"] {
        let (code, said) = json_of(cluster, &[question]);
        assert_eq!(code, Some(0), "{question}: {said}");
    }
}

#[test]
fn chunk_files_that_were_damaged_are_found_named_kept_aside_and_replaced() {
    let cluster = Cluster::with_mounts(1);
    fs::create_dir(cluster.mount(1).join("dir")).unwrap();
    let file = cluster.mount(1).join("dir/precious");
    let data = content(1, 3 << 20);
    write_synced(&file, &data);
    type Damage = fn(&Path);
    let damages: [(u32, Damage); 4] = [
        (1, |chunk| {
            // dd if=/dev/urandom
            let len = fs::metadata(chunk).unwrap().size();
            let mut random = vec![0; len as usize];
            let source = File::open("/dev/urandom").unwrap();
            std::io::Read::read_exact(&mut &source, &mut random).unwrap();
            let raw = OpenOptions::new().write(true).open(chunk).unwrap();
            raw.write_all_at(&random, 0).unwrap();
            raw.sync_all().unwrap();
        }),
        (2, |chunk| fs::remove_file(chunk).unwrap()),
        (3, |chunk| {
            let raw = OpenOptions::new().write(true).open(chunk).unwrap();
            raw.set_len(1 << 20).unwrap();
            raw.sync_all().unwrap();
        }),
        (1, |chunk| {
            OpenOptions::new()
                .write(true)
                .open(chunk)
                .unwrap()
                .set_len(0)
                .unwrap();
        }),
    ];
    for (at, (server, damage)) in damages.into_iter().enumerate() {
        damage(&chunk_file(&cluster, server, &data));
        let by: &[&str] = match at {
            0 => &["scrub"],
            1 => &["scrub", "--file", file.to_str().unwrap()],
            2 => &["scrub", "--server", "3", "--watch"],
            _ => &["scrub", "--file", "/dir/precious"],
        };
        let (code, said) = json_of(&cluster, by);
        assert_eq!(code, Some(3), "{by:?}: {said}");
        assert_eq!(said["found"], 1, "{said}");
        let found = &said["findings"][0];
        assert_eq!(found["server"], server, "{said}");
        assert_eq!(found["path"], "/dir/precious", "{said}");
        assert_eq!(found["repaired"], true, "{said}");
        let (code, said) = json_of(&cluster, &["scrub"]);
        assert_eq!(code, Some(0), "again: {said}");
        assert!(chunk_file(&cluster, server, &data).exists());
        remount(&cluster);
        assert!(fs::read(&file).unwrap() == data);
    }
    let (_, servers) = json_of(&cluster, &["scrub", "--status"]);
    let kept: Vec<&Value> = servers
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|server| server["quarantined"].as_array().unwrap())
        .collect();
    assert_eq!(kept.len(), 4, "{servers}");
    assert!(kept.iter().all(|copy| copy["path"] == "/dir/precious"));
    let bytes = |copy: &&&Value| copy["bytes"].as_u64().unwrap() > 1 << 20;
    assert!(kept.iter().filter(bytes).count() >= 1, "{servers}");
    assert_sound(&cluster);
}

#[test]
fn a_chunk_that_came_back_from_the_dead_is_garbage() {
    let cluster = Cluster::with_mounts(1);
    let (gone, stays) = (
        cluster.mount(1).join("gone"),
        cluster.mount(1).join("stays"),
    );
    let data = content(2, 1 << 20);
    write_synced(&gone, &data);
    write_synced(&stays, &content(3, 1 << 20));
    // The server was down while the file was removed, and for longer than the others remember.
    let old = cluster.dir().join("old");
    cluster.node("stop", "server-3");
    copy_dir(&cluster.data("server-3"), &old);
    fs::remove_file(&gone).unwrap();
    cluster.node("start", "server-3");
    cluster.wait_healthy(HEALING);
    let (code, said) = json_of(&cluster, &["fsck"]);
    assert_eq!(code, Some(0), "what it held is removed: {said}");

    // Behind the replication's back the chunk is put into the place of a removed one.
    cluster.node("stop", "server-3");
    put_back(&old, &cluster.data("server-3"));
    cluster.node("start", "server-3");
    cluster.wait_healthy(HEALING);
    assert_sound(&cluster);
    assert!(fs::read(&stays).unwrap() == content(3, 1 << 20));
}

fn copy_dir(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to));
}

/// What a restored snapshot of the disk looks like: the old content in the same place.
fn put_back(old: &Path, place: &Path) {
    fs::remove_dir_all(place).unwrap();
    copy_dir(old, place);
    let identity = fs::read_to_string(place.join("identity")).unwrap();
    let here = fs::metadata(place.join("lock")).unwrap().ino();
    let lines: Vec<String> = identity
        .lines()
        .map(|line| match line.strip_prefix("place ") {
            Some(_) => format!("place {here}"),
            None => line.to_owned(),
        })
        .collect();
    fs::write(place.join("identity"), lines.join("\n") + "\n").unwrap();
}

/// A power cut of all servers, as far as their processes are concerned: all served last.
fn kill_all(cluster: &Cluster) {
    let pids = [1, 2, 3].map(|server| cluster.pid(&format!("server-{server}")).to_string());
    run(Command::new("kill").arg("-9").args(&pids));
    eventually("all groups down", Duration::from_secs(20), || {
        let (_, status) = json_of(cluster, &["status"]);
        status["groups_unavailable"] == status["groups"]
    });
}

fn registered(cluster: &Cluster, lines: usize, text: &str) {
    eventually(text, Duration::from_secs(20), || {
        cluster.log("directory-1").matches(text).count() >= lines
    });
}

#[test]
fn an_old_copy_and_an_emptied_dir_never_count_as_what_served() {
    let cluster = Cluster::with_mounts(1);
    let file = cluster.mount(1).join("file");
    write_synced(&file, &content(4, 2 << 20));
    cluster.node("stop", "server-3");
    let old = cluster.dir().join("old");
    copy_dir(&cluster.data("server-3"), &old);
    cluster.node("start", "server-3");
    cluster.wait_healthy(HEALING);
    let data = content(5, 2 << 20);
    write_synced(&file, &data);
    cluster.node("stop", "mount-1");

    // A copy in another place is refused in words.
    cluster.node("stop", "server-3");
    let moved = cluster.dir().join("moved");
    copy_dir(&cluster.data("server-3"), &moved);
    let directory = cluster.address("directory-1");
    let refused = output(
        Command::new(binary("dfs-server"))
            .arg("--data")
            .arg(&moved)
            .args(["--directory", &directory]),
    );
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{words}");
    assert!(
        words.contains("is a copy of the data dir of node"),
        "{words}"
    );
    cluster.node("start", "server-3");
    cluster.wait_healthy(HEALING);

    // All are gone at once. The old copy, which alone was stopped orderly, comes back first, in
    // the same place: it must not serve.
    kill_all(&cluster);
    put_back(&old, &cluster.data("server-3"));
    cluster.node("start", "server-3");
    registered(&cluster, 1, "the data dir of server:3");
    std::thread::sleep(Duration::from_secs(3));
    let (_, groups) = json_of(&cluster, &["status"]);
    assert_eq!(groups["groups_unavailable"], groups["groups"], "{groups}");
    cluster.node("start", "server-1");
    cluster.node("start", "server-2");
    cluster.wait_healthy(HEALING);
    cluster.node("start", "mount-1");
    assert!(fs::read(&file).unwrap() == data, "an old copy came back");
    assert_sound(&cluster);

    // Emptied but for its identity: alone first, too.
    cluster.node("stop", "mount-1");
    kill_all(&cluster);
    let emptied = cluster.data("server-1");
    fs::remove_dir_all(emptied.join("data")).unwrap();
    fs::remove_file(emptied.join("index.redb")).unwrap();
    cluster.node("start", "server-1");
    registered(&cluster, 1, "the data dir of server:1");
    std::thread::sleep(Duration::from_secs(3));
    let (_, groups) = json_of(&cluster, &["status"]);
    assert_eq!(groups["groups_unavailable"], groups["groups"], "{groups}");
    cluster.node("start", "server-2");
    cluster.node("start", "server-3");
    cluster.wait_healthy(HEALING);
    cluster.node("start", "mount-1");
    assert!(fs::read(&file).unwrap() == data, "an empty dir served");
    assert_sound(&cluster);

    // Only the chunk files are gone: with the index there are its promises, and all rows are rot.
    cluster.node("stop", "server-2");
    fs::remove_dir_all(cluster.data("server-2").join("data")).unwrap();
    cluster.node("start", "server-2");
    cluster.wait_healthy(HEALING);
    assert_sound(&cluster);
    // Only the index is gone: refused.
    cluster.node("stop", "server-2");
    fs::remove_file(cluster.data("server-2").join("index.redb")).unwrap();
    cluster.node("start", "server-2");
    eventually("a refusal in words", Duration::from_secs(10), || {
        cluster.log("server-2").contains("index.redb is missing")
    });

    // Emptied wholly, identity and all: on the address of a server that nobody waits for it is
    // filled again as that server.
    let emptied = cluster.data("server-2");
    let address = fs::read(emptied.join("address")).unwrap();
    fs::remove_dir_all(&emptied).unwrap();
    fs::create_dir(&emptied).unwrap();
    fs::write(emptied.join("address"), address).unwrap();
    cluster.node("start", "server-2");
    cluster.wait_healthy(HEALING);
    let (_, servers) = json_of(&cluster, &["servers"]);
    assert_eq!(servers.as_array().unwrap().len(), 3, "{servers}");
    assert_sound(&cluster);
    remount(&cluster);
    assert!(fs::read(&file).unwrap() == data);

    // Stopped one after the other, the last one served last, alone; then its dir is lost. The
    // others have everything, which only a person can know.
    cluster.node("stop", "mount-1");
    for server in ["server-1", "server-2", "server-3"] {
        cluster.node("stop", server);
    }
    put_back(&old, &cluster.data("server-3"));
    cluster.node("start", "server-1");
    cluster.node("start", "server-3");
    registered(&cluster, 2, "the data dir of server:3");
    std::thread::sleep(Duration::from_secs(2));
    let (_, groups) = json_of(&cluster, &["status"]);
    assert_eq!(groups["groups_unavailable"], groups["groups"], "{groups}");
    let mut accepted = Command::new(binary("dfs-server"))
        .arg("--data")
        .arg(cluster.data("server-2"))
        .args(["--directory", &directory, "--accept-rollback"])
        .args(["--listen", cluster.address("server-2").trim()])
        .spawn()
        .unwrap();
    cluster.wait_healthy(HEALING);
    cluster.node("start", "mount-1");
    assert!(fs::read(&file).unwrap() == data);
    assert_sound(&cluster);
    accepted.kill().unwrap();
    accepted.wait().unwrap();
}

#[test]
fn swapped_dirs_work_and_those_of_another_cluster_are_refused() {
    let cluster = Cluster::with_mounts(1);
    let file = cluster.mount(1).join("file");
    let data = content(6, 2 << 20);
    write_synced(&file, &data);
    let (one, two) = (cluster.data("server-1"), cluster.data("server-2"));
    let addresses = ["server-1", "server-2"].map(|server| cluster.address(server));
    cluster.node("stop", "server-1");
    cluster.node("stop", "server-2");
    let aside = cluster.dir().join("aside");
    fs::rename(&one, &aside).unwrap();
    fs::rename(&two, &one).unwrap();
    fs::rename(&aside, &two).unwrap();
    // Each machine keeps its address.
    fs::write(one.join("address"), &addresses[0]).unwrap();
    fs::write(two.join("address"), &addresses[1]).unwrap();
    cluster.node("start", "server-1");
    cluster.node("start", "server-2");
    cluster.wait_healthy(HEALING);
    let (_, servers) = json_of(&cluster, &["servers"]);
    let address_of = |number: u32| {
        let all = servers.as_array().unwrap();
        let server = all.iter().find(|s| s["server"] == number).unwrap();
        server["address"].as_str().unwrap().to_owned()
    };
    assert_eq!(address_of(1), addresses[1].trim());
    assert_eq!(address_of(2), addresses[0].trim());
    assert_sound(&cluster);
    remount(&cluster);
    assert!(fs::read(&file).unwrap() == data);

    let other = Cluster::up(&["--servers", "1", "--mounts", "0"]);
    cluster.node("stop", "server-3");
    let refused = output(
        Command::new(binary("dfs-server"))
            .arg("--data")
            .arg(cluster.data("server-3"))
            .args(["--directory", &other.address("directory-1")]),
    );
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{words}");
    assert!(
        words.contains("belongs to cluster") && words.contains("start with an empty dir"),
        "{words}"
    );
    cluster.node("start", "server-3");
    cluster.wait_healthy(HEALING);
}

#[test]
fn a_disk_that_fails_takes_its_server_out_and_not_down() {
    let cluster = Cluster::with_mounts(1);
    let file = cluster.mount(1).join("file");
    let data = content(7, 1 << 20);
    write_synced(&file, &data);
    // What cannot even be opened, for whatever reason, is no bad sector.
    let chunk = chunk_file(&cluster, 2, &data);
    cluster.node("stop", "server-2");
    fs::remove_file(&chunk).unwrap();
    fs::create_dir(&chunk).unwrap();
    cluster.node("start", "server-2");
    cluster.wait_healthy(HEALING);
    let pid = cluster.pid("server-2");
    output(&mut cluster.ctl(&["scrub"]));
    let server = |cluster: &Cluster| {
        let (_, servers) = json_of(cluster, &["servers"]);
        let all = servers.as_array().unwrap();
        all.iter().find(|s| s["server"] == 2).unwrap().clone()
    };
    eventually("it is out of all groups", Duration::from_secs(20), || {
        server(&cluster)["groups_in_sync"] == 0
    });
    let seen = server(&cluster);
    assert_eq!(seen["alive"], true, "{seen}");
    let why = seen["failure"].as_str().unwrap_or_else(|| panic!("{seen}"));
    assert!(why.contains("Is a directory"), "{why}");
    let table = run(&mut cluster.ctl(&["servers"]));
    assert!(table.contains("FAILED") && table.contains("the disk of server:2"));
    assert!(
        cluster
            .log("server-2")
            .contains("check the disk, then restart")
    );
    // Work goes on, with the others.
    let newer = content(8, 1 << 20);
    write_synced(&file, &newer);
    remount(&cluster);
    assert!(fs::read(&file).unwrap() == newer);
    assert_eq!(cluster.pid("server-2"), pid);
    assert!(Path::new("/proc").join(pid.to_string()).exists());
    // On a disk that works it is filled again.
    cluster.node("stop", "server-2");
    fs::remove_dir(&chunk).unwrap();
    cluster.node("start", "server-2");
    cluster.wait_healthy(HEALING);
    assert!(server(&cluster)["failure"].is_null());
    assert_sound(&cluster);
}
