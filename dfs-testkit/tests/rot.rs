//! A disk that forgets or changes what it holds: readers get the right bytes, and the place is
//! named.

#![allow(clippy::unwrap_used)]

use dfs_testkit::cluster::{Cluster, output};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

fn chunk_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(chunk_files(&path));
        } else if fs::metadata(&path).unwrap().size() > 1 << 20 {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn is_chunk_of(path: &Path, data: &[u8]) -> Option<u64> {
    // Where a piece of the content lies in the chunk's file.
    let text = fs::read(path).unwrap();
    let piece = &data[100_000..100_032];
    text.windows(piece.len())
        .position(|w| w == piece)
        .map(|at| at as u64)
}

#[test]
fn rot_is_survived_and_named() {
    let cluster = Cluster::with_mounts(1);
    let file = cluster.mount(1).join("precious");
    let data: Vec<u8> = (0..3u32 << 20)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    fs::write(&file, &data).unwrap();
    OpenOptions::new()
        .write(true)
        .open(&file)
        .unwrap()
        .sync_all()
        .unwrap();
    for (server, remove) in [("server-1", false), ("server-2", true)] {
        let found = chunk_files(&cluster.data(server))
            .into_iter()
            .find_map(|path| is_chunk_of(&path, &data).map(|at| (path, at)));
        let (chunk, at) = found.expect("the chunk on the server's disk");
        if remove {
            fs::remove_file(&chunk).unwrap();
        } else {
            let raw = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&chunk)
                .unwrap();
            let mut byte = [0];
            raw.read_exact_at(&mut byte, at + 7).unwrap();
            raw.write_all_at(&[byte[0] ^ 0x10], at + 7).unwrap();
            raw.sync_all().unwrap();
        }
        // Before any read has met it, `verify` finds it and names server and file.
        let verify = output(&mut cluster.ctl(&["verify"]));
        let text = String::from_utf8_lossy(&verify.stdout).into_owned();
        assert_eq!(verify.status.code(), Some(1), "{text}");
        let number = server.trim_start_matches("server-");
        assert!(text.contains(&format!("server:{number}")), "{text}");
        // Every read returns the right bytes: nothing of it is cached after a new mount.
        for _ in 0..6 {
            cluster.node("stop", "mount-1");
            cluster.node("start", "mount-1");
            assert!(
                fs::read(&file).unwrap() == data,
                "wrong bytes after damage on {server}"
            );
        }
    }
    dfs_testkit::eventually(
        "a log line that names the chunk",
        Duration::from_secs(5),
        || {
            ["server-1", "server-2"]
                .iter()
                .any(|node| cluster.log(node).contains("chunk:0"))
        },
    );
}
