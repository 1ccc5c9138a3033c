//! Workers that fight for the same few names and for one lock, on all mounts; what they are answered
//! becomes a history that is checked at the end.
//!
//! The names are symbolic links: what one refers to is a number that is used once, and to make,
//! replace, move, remove or read it is a single change or look at the namespace.

use super::Result;
use super::calls::{Call, Calls};
use super::history::{self, Deed, Entry, Held};
use super::shown::{Mount, NAMES};
use crate::random::Random;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(4);

/// The lock is held for this long.
const HOLD: Duration = Duration::from_millis(2);

/// What all workers were answered.
#[derive(Debug)]
pub(super) struct Histories {
    began: Instant,
    last: AtomicU64,
    names: Mutex<Vec<Entry>>,
    locks: Mutex<Vec<Held>>,
}

impl Histories {
    pub(super) fn begin() -> Self {
        Self {
            began: Instant::now(),
            last: AtomicU64::new(0),
            names: Mutex::default(),
            locks: Mutex::default(),
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Whether all of it can have happened; tells how much it is.
    pub(super) fn check(&self) -> Result<String> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        history::explain(&names)?;
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        history::exclusive(&mut locks)?;
        Ok(format!(
            "{} calls on shared names have an order, {} holders of a lock came one after the other",
            names.len(),
            locks.len()
        ))
    }
}

/// A worker on one mount.
#[derive(Debug)]
pub(super) struct Fighter<'a> {
    pub(super) calls: &'a Calls,
    pub(super) histories: &'a Histories,
    pub(super) random: Random,
    pub(super) mount: Mount,
    /// The shared dir, which is there.
    pub(super) dir: PathBuf,
    /// No other one has this number.
    pub(super) number: usize,
}

fn path_of(dir: &Path, name: usize) -> PathBuf {
    dir.join(format!("n{name}"))
}

/// Whether it was done; `not` is the error that says that it was not.
fn unless(not: ErrorKind, done: io::Result<()>) -> io::Result<bool> {
    match done {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == not => Ok(false),
        Err(e) => Err(e),
    }
}

fn read(path: &Path) -> io::Result<Option<u64>> {
    let target = match fs::read_link(path) {
        Ok(target) => target,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let text = target.to_string_lossy();
    let number = text.parse();
    number.map(Some).map_err(|_| {
        let what = format!("{} refers to {text}", path.display());
        io::Error::new(ErrorKind::InvalidData, what)
    })
}

impl Fighter<'_> {
    /// Works until all stop.
    pub(super) fn run(mut self) {
        while !self.calls.stopping() {
            let step = match self.random.below(6) {
                0 => self.lock(),
                _ => self.name(),
            };
            if let Err(e) = step {
                return self.calls.fail(e);
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn name(&mut self) -> Result<()> {
        let (name, other) = (self.random.index(NAMES), self.random.index(NAMES));
        let path = path_of(&self.dir, name);
        let value = 1 + self.histories.last.fetch_add(1, Ordering::Relaxed);
        match self.random.below(10) {
            0..=4 => self.deed(Call::Stat, &path, || Ok(Deed::Saw(name, read(&path)?))),
            5 => self.deed(Call::Create, &path, || {
                let made = symlink(value.to_string(), &path);
                let made = unless(ErrorKind::AlreadyExists, made)?;
                Ok(Deed::Made(name, value, made))
            }),
            6 | 7 => self.put(name, value),
            8 if name != other => {
                let to = path_of(&self.dir, other);
                self.deed(Call::Rename, &to, || {
                    let moved = unless(ErrorKind::NotFound, fs::rename(&path, &to))?;
                    Ok(Deed::Moved(name, other, moved))
                })
            }
            _ => self.deed(Call::Unlink, &path, || {
                let removed = unless(ErrorKind::NotFound, fs::remove_file(&path))?;
                Ok(Deed::Removed(name, removed))
            }),
        }
    }

    fn put(&mut self, name: usize, value: u64) -> Result<()> {
        let own = self.dir.join(format!("own-{}-{value}", self.number));
        self.calls
            .make(Call::Create, &own.display().to_string(), || {
                symlink(value.to_string(), &own)
            })?;
        let path = path_of(&self.dir, name);
        self.deed(Call::Rename, &path, || {
            fs::rename(&own, &path)?;
            Ok(Deed::Put(name, value))
        })
    }

    /// Makes a call and puts it into the history.
    fn deed(&self, call: Call, path: &Path, make: impl FnOnce() -> io::Result<Deed>) -> Result<()> {
        let called = self.histories.now();
        let deed = self.calls.make(call, &path.display().to_string(), make)?;
        let entry = Entry {
            mount: self.mount,
            called,
            returned: self.histories.now(),
            deed,
        };
        let mut names = self.histories.names.lock();
        names
            .as_mut()
            .map_err(|_| "a worker has panicked".to_owned())?
            .push(entry);
        Ok(())
    }

    fn lock(&self) -> Result<()> {
        let path = self.dir.join("lock");
        let what = path.display().to_string();
        let file = self.calls.make(Call::Open, &what, || open(&path))?;
        self.calls.make(Call::Lock, &what, || file.lock())?;
        let from = self.histories.now();
        std::thread::sleep(HOLD);
        let to = self.histories.now();
        self.calls.make(Call::Lock, &what, || file.unlock())?;
        let by = self.number;
        let mut locks = self.histories.locks.lock();
        locks
            .as_mut()
            .map_err(|_| "a worker has panicked".to_owned())?
            .push(Held { by, from, to });
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path)
}

/// A lock that one mount holds all the time, and the other ones must never get.
#[derive(Debug)]
pub(super) struct Keeper {
    _held: File,
    others: Vec<File>,
}

impl Keeper {
    /// Takes the lock on `name` on the first mount; the others only open it.
    pub(super) fn take(name: &str, mount: &Path, others: &[PathBuf]) -> io::Result<Self> {
        let held = open(&mount.join(name))?;
        held.lock()?;
        let others = others.iter().map(|other| open(&other.join(name)));
        Ok(Self {
            _held: held,
            others: others.collect::<io::Result<_>>()?,
        })
    }

    /// Whether it is still held.
    pub(super) fn check(&self) -> Result<()> {
        for other in &self.others {
            match other.try_lock() {
                Err(fs::TryLockError::WouldBlock) => {}
                Ok(()) => return Err("a lock was given to another one than its holder".to_owned()),
                Err(fs::TryLockError::Error(e)) => return Err(format!("a try for a lock: {e}")),
            }
        }
        Ok(())
    }
}
