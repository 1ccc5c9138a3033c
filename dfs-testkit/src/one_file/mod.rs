//! Random calls on one file from two mounts, compared with a file in memory after each of them.
//!
//! Any call may come from either mount: writes, appends, O_DIRECT, truncations, holes, zeros, room,
//! reads with and without the page cache, and stores into maps that live long, with and without
//! msync. After each call both mounts are asked for the size, one of them for what the file takes up;
//! contents are compared all the time. The calls are made of a seed, so a run can be repeated; one
//! that fails is made shorter by leaving calls out for as long as it still fails.

mod call;
mod host;
mod model;
mod shrink;

pub use call::{Call, generate};
pub use model::Model;

use host::Host;
use std::fmt;
use std::path::{Path, PathBuf};

/// Where the calls happen: around the border of two chunks, so that the file has a hole before.
pub const BASE: u64 = CHUNK - SPAN / 2;
/// Bytes of the window.
pub const SPAN: u64 = 512 << 10;
/// Bytes of a chunk of a new cluster.
pub const CHUNK: u64 = 4 << 20;
/// What is stored or hole as a whole.
pub const BLOCK: u64 = 4096;

/// Two views of one dir.
#[derive(Clone, Debug)]
pub struct Ground {
    /// Of each mount.
    pub dirs: [PathBuf; 2],
    /// Whether `st_blocks` is what the model counts, block by block.
    pub counts_blocks: bool,
}

impl Ground {
    /// Both mounts of a cluster.
    pub fn mounts(a: &Path, b: &Path) -> Self {
        Self {
            dirs: [a.to_owned(), b.to_owned()],
            counts_blocks: true,
        }
    }

    /// A dir of a local file system, twice: what it does is what the model has to say.
    pub fn local(dir: &Path) -> Self {
        Self {
            dirs: [dir.to_owned(), dir.to_owned()],
            counts_blocks: false,
        }
    }
}

/// Where a run went wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The number of the call, from 0.
    pub at: usize,
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "call {}: {}", self.at, self.what)
    }
}

/// Carries the calls out on a new file with this name, and removes it.
pub fn run(ground: &Ground, name: &str, calls: &[Call]) -> Result<(), Failure> {
    let result = run_calls(ground, name, calls);
    let _ = std::fs::remove_file(ground.dirs[0].join(name));
    result
}

fn run_calls(ground: &Ground, name: &str, calls: &[Call]) -> Result<(), Failure> {
    let failed = |at| move |what| Failure { at, what };
    let path = ground.dirs[0].join(name);
    std::fs::File::create_new(&path).map_err(|e| Failure {
        at: 0,
        what: format!("create {}: {e}", path.display()),
    })?;
    let mut model = Model::default();
    let mut hosts = Vec::new();
    for dir in &ground.dirs {
        hosts.push(Host::new(dir.join(name)).map_err(failed(0))?);
    }
    for (at, call) in calls.iter().enumerate() {
        let host = call.host();
        hosts[host]
            .perform(call, at, &mut model)
            .map_err(failed(at))?;
        for (which, host) in hosts.iter().enumerate() {
            let blocks = ground.counts_blocks && (at + which).is_multiple_of(2);
            host.compare_size(&model, blocks)
                .map_err(|what| format!("mount {}: {what}", which + 1))
                .map_err(failed(at))?;
        }
        // The other one, by a way that changes from call to call.
        hosts[1 - host]
            .compare(&model, at)
            .map_err(|what| format!("mount {}: {what}", 2 - host))
            .map_err(failed(at))?;
    }
    let end = calls.len();
    for (which, host) in hosts.iter_mut().enumerate() {
        for way in 0..3 {
            host.compare_all(&model, way)
                .map_err(|what| format!("mount {}, at the end: {what}", which + 1))
                .map_err(failed(end))?;
        }
    }
    Ok(())
}

/// Runs calls made of a seed; panics with the seed and the fewest calls that were found to fail.
pub fn check(ground: &Ground, seed: u64, count: usize) {
    let calls = generate(seed, count);
    if let Err(failure) = run(ground, &format!("file-{seed}"), &calls) {
        let before = &calls[failure.at.saturating_sub(30)..calls.len().min(failure.at + 1)];
        eprintln!(
            "seed {seed}, {failure}\nthe last calls:\n{}",
            listed(before)
        );
        let failing = &calls[..calls.len().min(failure.at + 1)];
        match shrink::shrink(ground, failing) {
            Some((fewest, failure)) => panic!(
                "seed {seed}: {} of its calls fail, {failure}\n{}",
                fewest.len(),
                listed(&fewest)
            ),
            None => panic!("seed {seed}, {failure}; the same calls did not fail once more"),
        }
    }
}

fn listed(calls: &[Call]) -> String {
    let lines = calls.iter().map(|call| format!("    {call:?},\n"));
    lines.collect()
}
