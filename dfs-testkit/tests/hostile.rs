//! Bytes from strangers: the connection is closed, nobody else notices.

#![allow(clippy::unwrap_used)]

use dfs_testkit::cluster::{Cluster, binary, output};
use dfs_testkit::eventually;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn closed_within(mut stream: TcpStream, deadline: Duration) -> bool {
    stream.set_read_timeout(Some(deadline)).unwrap();
    let start = Instant::now();
    let mut sink = [0; 4096];
    loop {
        match stream.read(&mut sink) {
            Ok(0) => return true,
            Ok(_) if start.elapsed() < deadline => {}
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return true,
            _ => return false,
        }
    }
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn garbage_harms_nobody() {
    let cluster = Cluster::with_mounts(1);
    let file = cluster.mount(1).join("undisturbed");
    let mut noise = vec![0u8; 4096];
    for (i, byte) in noise.iter_mut().enumerate() {
        *byte = (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[1];
    }
    for node in ["directory-1", "server-1"] {
        let address = cluster.address(node);
        let pid = cluster.pid(node);
        // Noise, a header full of ones (lengths of 4 GiB), an end in the middle.
        for bytes in [&noise[..], &[0xff; 64], b"GET / HTTP/1.0\r\n\r\n"] {
            let mut stream = TcpStream::connect(&address).unwrap();
            // It may be closed while we still write.
            let _ = stream.write_all(bytes);
            assert!(
                closed_within(stream, Duration::from_secs(10)),
                "{node}: not closed"
            );
        }
        // Held half-open ones cost little, end by themselves, and disturb nobody.
        let before = resident_kib(pid);
        let held: Vec<TcpStream> = (0..1000)
            .map(|_| {
                let mut stream = TcpStream::connect(&address).unwrap();
                let _ = stream.write_all(&noise[..0]);
                stream
            })
            .collect();
        fs::write(&file, node).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), node);
        let cost = resident_kib(pid).saturating_sub(before);
        println!("{node}: 1000 held connections cost {cost} KiB");
        assert!(cost < 50 << 10, "{cost} KiB");
        let start = Instant::now();
        for stream in held {
            let left = Duration::from_secs(10).saturating_sub(start.elapsed());
            assert!(
                closed_within(stream, left.max(Duration::from_millis(1))),
                "still open"
            );
        }
        assert_eq!(cluster.pid(node), pid, "{node} was restarted");
    }
    fs::write(&file, "fine").unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "fine");
    strangers_are_refused(&cluster);
}

/// Second processes, other clusters, newer formats: refused in words.
fn strangers_are_refused(cluster: &Cluster) {
    let directory = cluster.address("directory-1");
    let server = |data: &std::path::Path, directory: &str| {
        let mut command = Command::new(binary("dfs-server"));
        command
            .arg("--data")
            .arg(data)
            .args(["--listen", "127.0.0.1:0", "--directory", directory]);
        command
    };
    let refused = |mut command: Command, word: &str| {
        let mut child = command
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("starts");
        eventually("its refusal", Duration::from_secs(15), || {
            child.try_wait().expect("a child").is_some()
        });
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).to_lowercase();
        assert!(!output.status.success());
        assert!(text.contains(word), "does not say '{word}': {text}");
    };
    refused(server(&cluster.data("server-1"), &directory), "in use");
    let mut second = Command::new(binary("dfs-directory"));
    second
        .arg("--data")
        .arg(cluster.data("directory-1"))
        .args(["--listen", "127.0.0.1:0"]);
    refused(second, "in use");
    // A server of this cluster is not let into another one.
    let other = Cluster::up(&["--mounts", "0", "--servers", "1"]);
    cluster.node("stop", "server-3");
    refused(
        server(&cluster.data("server-3"), &other.address("directory-1")),
        "cluster",
    );
    cluster.node("start", "server-3");
    // Beyond loopback only with a secret.
    let empty = tempfile::tempdir().unwrap();
    let mut open = Command::new(binary("dfs-server"));
    open.arg("--data")
        .arg(empty.path())
        .args(["--listen", "0.0.0.0:0", "--directory", &directory]);
    refused(open, "secret");
    // dfs-mount says why it can't.
    let mount = output(
        Command::new(binary("dfs-mount"))
            .arg("127.0.0.1:1")
            .arg(empty.path())
            .arg("-f"),
    );
    assert!(!mount.status.success());
    let text = String::from_utf8_lossy(&mount.stderr);
    assert!(text.contains("127.0.0.1:1"), "{text}");
}
