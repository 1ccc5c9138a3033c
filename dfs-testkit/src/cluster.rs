//! A cluster of real processes with real mounts, run by `scripts/cluster` and gone with its value.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// Somebody leads the directory, and all members vote, within this.
const LEADER: Duration = Duration::from_secs(60);

/// Entries of the log that a member may lack and still count as whole: work goes on.
const BEHIND: u64 = 100;

/// A running cluster in a dir of its own.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    /// Removed after everything in it has stopped.
    _home: tempfile::TempDir,
}

/// The project's root.
pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the project")
}

/// Where the release binaries are.
pub fn binary(name: &str) -> PathBuf {
    let dir = std::env::var_os("DFS_BIN")
        .map(PathBuf::from)
        .unwrap_or_else(|| {
            std::env::var_os("CARGO_TARGET_DIR")
                .map(PathBuf::from)
                .unwrap_or_else(|| project().join("target"))
                .join("release")
        });
    dir.join(name)
}

/// Runs a command and returns its output as text; panics when it fails.
pub fn run(command: &mut Command) -> String {
    let output = output(command);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command to its end, whatever that is.
pub fn output(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

impl Cluster {
    /// A cluster of three servers with this many mounts.
    pub fn with_mounts(mounts: usize) -> Self {
        Self::up(&["--mounts", &mounts.to_string()])
    }

    /// A cluster with these options of `scripts/cluster up`.
    pub fn up(options: &[&str]) -> Self {
        Self::up_on(options, |_| {})
    }

    /// The same; `prepare` is given the cluster's dir before anything starts in it.
    pub fn up_on(options: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        let home = tempfile::Builder::new()
            .prefix("dfs-test-")
            .tempdir()
            .expect("a dir");
        let cluster = Self {
            dir: home.path().join("cluster"),
            _home: home,
        };
        prepare(&cluster.dir);
        run(cluster.script("up").args(options));
        cluster
    }

    fn script(&self, verb: &str) -> Command {
        let mut command = Command::new(project().join("scripts/cluster"));
        command.arg(verb).arg("--dir").arg(&self.dir);
        command
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A mount point, `1` and up.
    pub fn mount(&self, number: usize) -> PathBuf {
        self.dir.join("mnt").join(number.to_string())
    }

    pub fn data(&self, node: &str) -> PathBuf {
        self.dir.join("data").join(node)
    }

    pub fn log(&self, node: &str) -> String {
        let bytes = std::fs::read(self.dir.join("log").join(format!("{node}.log")));
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    }

    pub fn address(&self, node: &str) -> String {
        let file = self.data(node).join("address");
        std::fs::read_to_string(file)
            .expect("an address")
            .trim()
            .to_owned()
    }

    pub fn pid(&self, node: &str) -> u32 {
        let file = self.dir.join("run").join(format!("{node}.pid"));
        let text = std::fs::read_to_string(file).expect("a pid file");
        text.split_whitespace()
            .next()
            .and_then(|w| w.parse().ok())
            .expect("a pid")
    }

    /// `kill`, `pause`, `resume`, `stop` or `start` of a node.
    pub fn node(&self, verb: &str, node: &str) {
        run(self.script(verb).arg(node));
    }

    /// Drops what `from` sends to `to`, in an isolated cluster. Both may be kinds: `servers`,
    /// `mounts`, `directories`, `all`.
    pub fn cut(&self, from: &str, to: &str) {
        run(self.script("cut").args([from, to]));
    }

    /// Ends all cuts.
    pub fn heal(&self) {
        run(&mut self.script("heal"));
    }

    pub fn ctl(&self, arguments: &[&str]) -> Command {
        if self.dir.join("secret").exists() {
            // Isolated: the script knows from where the directory can be reached.
            let mut command = self.script("ctl");
            command.args(arguments);
            return command;
        }
        let mut command = Command::new(binary("dfsctl"));
        command
            .arg("--directory")
            .arg(self.directories())
            .args(arguments);
        command
    }

    /// The addresses of all members of the directory, with commas.
    fn directories(&self) -> String {
        let dirs = fs::read_dir(self.dir.join("data")).expect("the data of the nodes");
        let mut addresses: Vec<String> = dirs
            .filter_map(|entry| Some(entry.ok()?.path().join("address")))
            .filter(|file| file.to_string_lossy().contains("/directory-"))
            .filter_map(|file| fs::read_to_string(file).ok())
            .collect();
        addresses.sort();
        addresses.join(",")
    }

    /// What `dfsctl --json` says.
    pub fn ask(&self, what: &str) -> Value {
        let text = run(&mut self.ctl(&["--json", what]));
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{what}: {e}: {text}"))
    }

    /// The members of the directory as their leader tells; none while nobody leads.
    pub fn members(&self) -> Vec<Value> {
        let asked = output(&mut self.ctl(&["--json", "directory"]));
        let told: Value = serde_json::from_slice(&asked.stdout).unwrap_or_default();
        told["members"].as_array().cloned().unwrap_or_default()
    }

    /// The node that leads, if somebody does.
    pub fn present_leader(&self) -> Option<String> {
        let members = self.members();
        let leads = members.iter().find(|m| m["leader"] == true)?;
        let address = leads["address"].as_str()?;
        let nodes = (1..=members.len()).map(|n| format!("directory-{n}"));
        nodes
            .filter(|node| self.data(node).join("address").exists())
            .find(|node| self.address(node) == address)
    }

    /// The node that leads, waiting for it.
    pub fn leader(&self) -> String {
        let mut found = None;
        crate::eventually("a leader", LEADER, || {
            found = self.present_leader();
            found.is_some()
        });
        found.expect("it was waited for")
    }

    /// Whether so many members of the directory vote, and have all of the log but for a little.
    pub fn has_members(&self, count: usize) -> bool {
        let members = self.members();
        let whole =
            |m: &Value| m["votes"] == true && m["behind"].as_u64().is_some_and(|n| n < BEHIND);
        members.len() == count && members.iter().all(whole)
    }

    pub fn wait_for_members(&self, count: usize) {
        crate::eventually("all members of the directory vote", LEADER, || {
            self.has_members(count)
        });
    }

    /// Whether every replica group has all its wanted members in-sync.
    pub fn is_healthy(&self) -> bool {
        let output = output(&mut self.ctl(&["--json", "status"]));
        let Ok(status) = serde_json::from_slice::<Value>(&output.stdout) else {
            return false;
        };
        status["groups"].as_u64().is_some_and(|n| n > 0)
            && status["groups_healthy"] == status["groups"]
    }

    pub fn wait_healthy(&self, deadline: Duration) -> Duration {
        crate::eventually("all replicas in-sync", deadline, || self.is_healthy())
    }

    /// Ends all processes, so that no call waits for them any more, and shows their last words.
    /// With DFS_TEST_LOGS their logs are copied to that dir.
    pub fn give_up(&self) {
        self.show_logs();
        self.keep_logs();
        let output = output(&mut self.script("down"));
        if !output.status.success() {
            eprintln!("cluster down: {}", String::from_utf8_lossy(&output.stderr));
        }
    }

    /// Copies the logs to the dir that DFS_TEST_LOGS names, if it does.
    pub fn keep_logs(&self) {
        if let Some(to) = std::env::var_os("DFS_TEST_LOGS") {
            let _ = std::fs::create_dir_all(&to);
            let from = self.dir.join("log");
            let _ = Command::new("cp")
                .arg("-r")
                .args([from, to.into()])
                .status();
        }
    }

    /// Ends all processes and removes everything. Called when the value goes.
    fn down(&self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        let output = output(self.script("down").arg("--purge"));
        if !output.status.success() {
            eprintln!("cluster down: {}", String::from_utf8_lossy(&output.stderr));
        }
    }

    fn show_logs(&self) {
        let Ok(logs) = std::fs::read_dir(self.dir.join("log")) else {
            return;
        };
        for entry in logs.flatten() {
            let text = std::fs::read(entry.path()).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("=== {}", entry.path().display());
            for line in &lines[lines.len().saturating_sub(30)..] {
                eprintln!("{line}");
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.down();
    }
}
