//! A third mount, which dies with the machine that it is on: what it had written, and what it had shown to
//! another mount, must be there, synced and closed or not, and what it had locked is free when its session has ended.

use super::Result;
use super::content;
use crate::cluster::Cluster;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const NODE: &str = "mount-3";

/// Files that are finished before the mount may die.
const FILES_MIN: usize = 5;

/// The first files are made within this.
const BEGUN: Duration = Duration::from_secs(30);

/// A session's time to live, and 3 s; more for a machine that is busy with other things.
const FREE: Duration = Duration::from_secs(13);
const FREE_MAX: Duration = Duration::from_secs(30);

const PIECE: usize = 3000;

#[derive(Debug, Default)]
struct Done {
    /// Files whose writes were all answered, by number.
    files: Mutex<BTreeSet<u32>>,
    /// Bytes of the file that grows whose writes were answered.
    grown: AtomicU64,
    stop: AtomicBool,
}

/// The mount and what works on it.
#[derive(Debug)]
pub(super) struct Third {
    /// The name of its dir.
    name: String,
    done: Arc<Done>,
    at_work: JoinHandle<()>,
    shown: Shown,
}

/// What another mount has seen of it.
#[derive(Debug)]
struct Shown {
    names: BTreeSet<String>,
    growing: Vec<u8>,
}

fn len_of(number: u32) -> usize {
    1 + (number as usize).wrapping_mul(7919) % 60_000
}

fn failed(what: &Path) -> impl Fn(io::Error) -> String {
    move |e| format!("{}: {e}", what.display())
}

impl Third {
    /// Works in a new dir until the mount dies; returns when there is something to lose.
    pub(super) fn begin(cluster: &Cluster, seed: u64) -> Result<Self> {
        let name = format!("third-{seed:016x}");
        let dir = cluster.mount(3).join(&name);
        fs::create_dir(&dir).map_err(failed(&dir))?;
        let done = Arc::new(Done::default());
        let shared = done.clone();
        let at_work = std::thread::spawn(move || {
            // Ends with the mount, in the middle of some call.
            if let Err(e) = work(&dir, &shared)
                && !shared.stop.load(Ordering::SeqCst)
            {
                eprintln!("torture: {}: {e}", dir.display());
            }
        });
        let began = Instant::now();
        while done.files().len() < FILES_MIN {
            if began.elapsed() > BEGUN || at_work.is_finished() {
                return Err(format!("{NODE} does not get on with its work"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let shown = Shown::see(&cluster.mount(1).join(&name))?;
        done.stop.store(true, Ordering::SeqCst);
        Ok(Self {
            name,
            done,
            at_work,
            shown,
        })
    }

    pub(super) fn node(&self) -> &'static str {
        NODE
    }

    /// The mount has been killed.
    pub(super) fn killed(self) -> Dead {
        // What it waited for has failed with the mount.
        let _ = self.at_work.join();
        Dead {
            name: self.name,
            files: self.done.files().clone(),
            grown: self.done.grown.load(Ordering::SeqCst),
            shown: self.shown,
            since: Instant::now(),
        }
    }
}

impl Done {
    fn files(&self) -> std::sync::MutexGuard<'_, BTreeSet<u32>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shown {
    fn see(dir: &Path) -> Result<Self> {
        let entries = fs::read_dir(dir).map_err(failed(dir))?;
        let names = entries.map(|e| Ok(e?.file_name().to_string_lossy().into_owned()));
        let names: io::Result<BTreeSet<String>> = names.collect();
        let growing = dir.join("growing");
        Ok(Self {
            names: names.map_err(failed(dir))?,
            growing: fs::read(&growing).map_err(failed(&growing))?,
        })
    }
}

/// One file after the other, every second one synced; beside them one that only grows, and a held lock.
fn work(dir: &Path, done: &Done) -> io::Result<()> {
    let mut growing = File::create_new(dir.join("growing"))?;
    let lock = File::create_new(dir.join("lock"))?;
    lock.lock()?;
    let mut grown = 0;
    for number in 1.. {
        let bytes = content::bytes(1, grown, PIECE);
        growing.write_all(&bytes)?;
        grown += PIECE as u64;
        done.grown.store(grown, Ordering::SeqCst);
        let mut file = File::create_new(dir.join(number.to_string()))?;
        file.write_all(&content::bytes(number, 0, len_of(number)))?;
        done.files().insert(number);
        if number % 2 == 0 {
            file.sync_all()?;
        }
        drop(file);
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// The mount that was killed, and what it must have left.
#[derive(Debug)]
pub(super) struct Dead {
    name: String,
    files: BTreeSet<u32>,
    grown: u64,
    shown: Shown,
    since: Instant,
}

impl Dead {
    pub(super) fn node(&self) -> &'static str {
        NODE
    }

    /// Looks at all of it through a mount that lives; says how long its lock was held.
    pub(super) fn check(&self, mount: &Path) -> Result<String> {
        let dir = mount.join(&self.name);
        let lock = dir.join("lock");
        let open = OpenOptions::new().write(true).open(&lock);
        let open = open.map_err(failed(&lock))?;
        open.lock().map_err(failed(&lock))?;
        let free = self.since.elapsed();
        if free > FREE_MAX {
            return Err(format!("the lock of a dead mount was free after {free:?}"));
        }
        let now = Shown::see(&dir)?;
        if let Some(lost) = self.shown.names.difference(&now.names).next() {
            return Err(format!(
                "{}: was seen, and is gone",
                dir.join(lost).display()
            ));
        }
        if !now.growing.starts_with(&self.shown.growing) {
            return Err(format!(
                "{}: {} bytes were seen, {} are there or differ",
                dir.join("growing").display(),
                self.shown.growing.len(),
                now.growing.len()
            ));
        }
        if (now.growing.len() as u64) < self.grown {
            return Err(format!(
                "{}: {} bytes were written, {} are there",
                dir.join("growing").display(),
                self.grown,
                now.growing.len()
            ));
        }
        for number in &self.files {
            let path: PathBuf = dir.join(number.to_string());
            let seen = fs::read(&path).map_err(failed(&path))?;
            if seen != content::bytes(*number, 0, len_of(*number)) {
                return Err(format!(
                    "{}: its writes were answered, and it is not whole",
                    path.display()
                ));
            }
        }
        let late = if free > FREE { " (late)" } else { "" };
        Ok(format!(
            "what {NODE} had written is there ({} files), and its lock was free after {:.1} s{late}",
            self.files.len(),
            free.as_secs_f64()
        ))
    }
}
