//! The layers stay what they are: who may know whom is checked, not remembered.

use std::path::{Path, PathBuf};

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("in the project")
        .to_path_buf()
}

/// All Rust sources below a dir, as (path from the project, text).
fn sources(below: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut dirs = vec![project().join(below)];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source");
                let short = path
                    .strip_prefix(project())
                    .expect("below")
                    .display()
                    .to_string();
                found.push((short, text));
            }
        }
    }
    assert!(!found.is_empty(), "no sources below {below}");
    found
}

/// The code of a source: without comments, and without the test module at its end.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(at, line)| (at + 1, line))
}

/// Whether `word` stands in `line` as a whole word.
fn names(line: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(part_of_word) && !line[at + word.len()..].starts_with(part_of_word)
    })
}

fn offenders(below: &str, words: &[&str], allowed: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in sources(below) {
        // Test modules may read documents, wait and draw numbers.
        if allowed.iter().any(|a| path.starts_with(a)) || path.contains("/tests/") {
            continue;
        }
        for (number, line) in code(&text) {
            for word in words {
                if names(line, word) {
                    found.push(format!("{path}:{number} names {word}: {}", line.trim()));
                }
            }
        }
    }
    found
}

const CRATES: [&str; 4] = [
    "dfs-proto/src",
    "dfs-directory/src",
    "dfs-server/src",
    "dfs-mount/src",
];

/// Modules that decide, without clock, disk, network or chance: what the simulation runs.
const PURE: [&str; 8] = [
    "dfs-directory/src/state",
    "dfs-directory/src/namespace",
    "dfs-directory/src/session",
    "dfs-directory/src/placement",
    "dfs-directory/src/governor",
    "dfs-directory/src/lease",
    "dfs-server/src/replica",
    "dfs-mount/src/client/logic",
];

#[test]
fn services_never_depend_on_each_other() {
    let services = ["dfs-directory", "dfs-server", "dfs-mount"];
    for service in services {
        let manifest = project().join(service).join("Cargo.toml");
        let text = std::fs::read_to_string(&manifest).expect("a manifest");
        for line in text.lines() {
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
            assert!(
                name == service || !services.contains(&name),
                "{service} must not depend on {name}"
            );
            assert_ne!(
                name, "dfs-testkit",
                "{service} must not depend on the test kit"
            );
        }
    }
    let proto = std::fs::read_to_string(project().join("dfs-proto/Cargo.toml")).expect("manifest");
    assert!(
        !services.iter().any(|s| proto.contains(s)),
        "dfs-proto depends on no service"
    );
}

#[test]
fn one_folder_knows_each_library() {
    for below in CRATES {
        let mut found = offenders(below, &["fuser"], &["dfs-mount/src/fuse/"]);
        found.extend(offenders(
            below,
            &["openraft"],
            &["dfs-directory/src/raft/"],
        ));
        found.extend(offenders(below, &["bincode"], &["dfs-proto/src/codec.rs"]));
        found.extend(offenders(
            below,
            &["redb"],
            &["dfs-directory/src/storage/", "dfs-server/src/chunk/"],
        ));
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}

#[test]
fn the_chunk_store_is_synchronous() {
    let found = offenders("dfs-server/src/chunk", &["tokio", "async"], &[]);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn pure_cores_have_no_clock_disk_network_or_chance() {
    let banned = [
        "tokio",
        "Instant",
        "SystemTime",
        "rand",
        "getrandom",
        "File",
        "TcpStream",
        "TcpListener",
        "thread",
        "HashMap",
        "HashSet",
    ];
    for below in PURE {
        let mut found = offenders(below, &banned, &[]);
        found.extend(
            offenders(below, &["fs", "net", "process"], &[])
                .into_iter()
                .filter(|l| {
                    ["std::fs", "std::net", "std::process", "rustix::"]
                        .iter()
                        .any(|m| l.contains(m))
                }),
        );
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}

#[test]
fn errno_is_decided_in_one_table() {
    // The exhaustive table, and the adapter that turns it into what the library wants.
    let found: Vec<String> = CRATES
        .into_iter()
        .flat_map(sources)
        .filter(|(path, _)| path != "dfs-proto/src/error.rs" && !path.contains("/fuse/"))
        .filter(|(path, _)| !path.starts_with("dfs-mount/src/mount_point"))
        .filter(|(path, _)| !path.starts_with("dfs-server/src/chunk/"))
        .filter(|(_, text)| code(text).any(|(_, line)| line.contains("libc::E")))
        .map(|(path, _)| path)
        .collect();
    assert!(found.is_empty(), "errno outside the table: {found:?}");
}

#[test]
fn no_file_is_a_heap() {
    const LINES_MAX: usize = 700;
    for below in CRATES.into_iter().chain(["dfs-testkit"]) {
        for (path, text) in sources(below) {
            let lines = text
                .lines()
                .take_while(|l| !l.starts_with("#[cfg(test)]"))
                .count();
            assert!(
                lines <= LINES_MAX,
                "{path} has {lines} lines; one concept a file"
            );
            let stem = Path::new(&path)
                .file_stem()
                .and_then(|s| s.to_str())
                .unwrap_or_default();
            let heap = ["util", "utils", "common", "helpers", "misc"].contains(&stem);
            assert!(!heap, "{path}: a name that says nothing");
        }
    }
}

#[test]
fn nothing_is_left_unfinished() {
    let unfinished = ["todo!", "unimplemented!", "FIXME", "XXX"];
    for below in CRATES.into_iter().chain(["dfs-testkit/src"]) {
        for (path, text) in sources(below) {
            for word in unfinished {
                assert!(!text.contains(word), "{path} holds {word}");
            }
        }
    }
}
