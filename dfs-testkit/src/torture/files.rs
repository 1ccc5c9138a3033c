//! A worker with files of its own: makes them, changes them, and compares every answer, on its
//! own mount and on the other one, with a model in memory.

use super::Result;
use super::calls::{Call, Calls};
use super::content::{self, Model};
use crate::random::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

/// Most files of a worker, and most bytes of one (several chunks).
const FILES_MAX: usize = 8;
const BYTES_MAX: u64 = 9 << 20;

/// Between two calls: the machine is to be shared, not to be full.
const PAUSE: Duration = Duration::from_millis(3);

#[derive(Debug)]
struct Private {
    model: Model,
    /// Open for reading and writing, most of the time.
    handle: Option<File>,
}

/// A worker's dir on both mounts, and what must be in it.
#[derive(Debug)]
pub(super) struct Worker<'a> {
    calls: &'a Calls,
    random: Random,
    /// On the mount that it works on, and on the other one.
    own: PathBuf,
    other: PathBuf,
    files: BTreeMap<String, Private>,
    names: u64,
    /// The number of the last write.
    tag: u32,
}

/// Reads up to `len` bytes, as a program does that wants all of them.
fn read_at(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut done = 0;
    while done < len {
        match file.read_at(&mut bytes[done..], offset + done as u64)? {
            0 => break,
            n => done += n,
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

impl<'a> Worker<'a> {
    /// A worker in a new dir of this name below both mounts.
    pub(super) fn new(
        calls: &'a Calls,
        seed: u64,
        mounts: (&PathBuf, &PathBuf),
        name: &str,
    ) -> Result<Self> {
        let own = mounts.0.join(name);
        fs::create_dir(&own).map_err(|e| format!("{}: {e}", own.display()))?;
        Ok(Self {
            calls,
            random: Random::new(seed),
            own,
            other: mounts.1.join(name),
            files: BTreeMap::new(),
            names: 0,
            tag: 0,
        })
    }

    /// Works until all stop, then looks at everything from both mounts.
    pub(super) fn run(mut self) {
        while !self.calls.stopping() {
            if let Err(e) = self.step() {
                return self.calls.fail(e);
            }
            std::thread::sleep(PAUSE);
        }
        if self.calls.check().is_err() {
            return;
        }
        if let Err(e) = self.check_all().and_then(|()| self.remove_half()) {
            self.calls.fail(e);
        }
    }

    fn some_name(&mut self) -> Option<String> {
        let count = self.files.len();
        if count == 0 {
            return None;
        }
        let at = self.random.index(count);
        self.files.keys().nth(at).cloned()
    }

    fn step(&mut self) -> Result<()> {
        let Some(name) = self.some_name() else {
            return self.create();
        };
        match self.random.below(100) {
            0..=7 if self.files.len() < FILES_MAX => self.create(),
            0..=27 => self.write(&name),
            28..=37 => self.append(&name),
            38..=57 => self.read(&name),
            58..=65 => self.sync(&name),
            66..=73 => self.truncate(&name),
            74..=79 => self.rename(name),
            80..=84 => self.unlink(&name),
            85..=92 => self.stat(&name),
            93..=95 => self.list(),
            _ => self.reopen(&name),
        }
    }

    fn new_name(&mut self) -> String {
        self.names += 1;
        format!("f{}", self.names)
    }

    fn make<T>(
        &self,
        call: Call,
        path: &std::path::Path,
        make: impl FnOnce() -> io::Result<T>,
    ) -> Result<T> {
        self.calls.make(call, &path.display().to_string(), make)
    }

    /// New content for a place in a file.
    fn content(&mut self, offset: u64, len: u64) -> Vec<u8> {
        self.tag += 1;
        content::bytes(self.tag, offset, len as usize)
    }

    /// Mostly small, sometimes large, sometimes whole pages.
    fn some_len(&mut self) -> u64 {
        match self.random.below(10) {
            0..=3 => 1 + self.random.below(4096),
            4..=6 => 4096 * (1 + self.random.below(16)),
            7 | 8 => 1 + self.random.below(256 << 10),
            _ => 1 + self.random.below(2 << 20),
        }
    }

    fn create(&mut self) -> Result<()> {
        let name = self.new_name();
        let path = self.own.join(&name);
        let file = self.make(Call::Open, &path, || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).open(&path)
        })?;
        let private = Private {
            model: Model::default(),
            handle: Some(file),
        };
        self.files.insert(name.clone(), private);
        self.write(&name)
    }

    /// The open file of a name, opened again if a step closed it.
    fn handle(&mut self, name: &str) -> Result<File> {
        let file = &self.files[name];
        if file.handle.is_none() {
            let path = self.own.join(name);
            let opened = self.make(Call::Open, &path, || {
                OpenOptions::new().read(true).write(true).open(&path)
            })?;
            self.file(name).handle = Some(opened);
        }
        let handle = self.files[name].handle.as_ref();
        let handle = handle.ok_or_else(|| format!("{name} is not open"))?;
        handle.try_clone().map_err(|e| format!("{name}: {e}"))
    }

    fn file(&mut self, name: &str) -> &mut Private {
        self.files.entry(name.to_owned()).or_insert(Private {
            model: Model::default(),
            handle: None,
        })
    }

    fn write(&mut self, name: &str) -> Result<()> {
        let handle = self.handle(name)?;
        // Sometimes beyond the end.
        let reach = (self.files[name].model.len() + (64 << 10)).min(BYTES_MAX);
        let offset = self.random.below(reach);
        let len = self.some_len().min(BYTES_MAX - offset);
        let bytes = self.content(offset, len);
        let path = self.own.join(name);
        self.make(Call::Write, &path, || handle.write_all_at(&bytes, offset))?;
        self.file(name).model.write(offset, &bytes);
        Ok(())
    }

    fn append(&mut self, name: &str) -> Result<()> {
        let at = self.files[name].model.len();
        let len = self.some_len().min(64 << 10);
        if at + len > BYTES_MAX {
            return self.truncate(name);
        }
        let path = self.own.join(name);
        let mut file = self.make(Call::Open, &path, || {
            OpenOptions::new().append(true).open(&path)
        })?;
        let bytes = self.content(at, len);
        self.make(Call::Append, &path, || file.write_all(&bytes))?;
        self.file(name).model.write(at, &bytes);
        Ok(())
    }

    /// A part: through the handle, through a new open (the page cache), or on the other mount.
    fn read(&mut self, name: &str) -> Result<()> {
        let size = self.files[name].model.len();
        let offset = self.random.below(size + 1);
        let len = self.some_len() as usize;
        let (file, path) = match self.random.below(4) {
            0 => (self.handle(name)?, self.own.join(name)),
            1 => self.open_to_read(self.own.join(name))?,
            _ => self.open_to_read(self.other.join(name))?,
        };
        let seen = self.make(Call::Read, &path, || read_at(&file, offset, len))?;
        let checked = self.files[name].model.check(offset, len, &seen);
        checked.map_err(|e| format!("{} at {offset}: {e}", path.display()))
    }

    fn open_to_read(&self, path: PathBuf) -> Result<(File, PathBuf)> {
        let file = self.make(Call::Open, &path, || File::open(&path))?;
        Ok((file, path))
    }

    fn sync(&mut self, name: &str) -> Result<()> {
        let handle = self.handle(name)?;
        let all = self.random.chance(500);
        let path = self.own.join(name);
        self.make(Call::Sync, &path, || match all {
            true => handle.sync_all(),
            false => handle.sync_data(),
        })
    }

    fn truncate(&mut self, name: &str) -> Result<()> {
        let handle = self.handle(name)?;
        let size = self.files[name].model.len();
        let len = match self.random.below(8) {
            0 => 0,
            1..=5 => self.random.below(size + 1),
            _ => (size + self.random.below(1 << 20)).min(BYTES_MAX),
        };
        let path = self.own.join(name);
        self.make(Call::Truncate, &path, || handle.set_len(len))?;
        self.file(name).model.resize(len);
        Ok(())
    }

    /// To a new name, or over another file.
    fn rename(&mut self, name: String) -> Result<()> {
        let over = self.random.chance(300);
        let target = match self.some_name() {
            Some(other) if over && other != name => other,
            _ => self.new_name(),
        };
        let (from, to) = (self.own.join(&name), self.own.join(&target));
        self.make(Call::Rename, &to, || fs::rename(&from, &to))?;
        if let Some(file) = self.files.remove(&name) {
            self.files.insert(target, file);
        }
        Ok(())
    }

    /// Sometimes while it is open: then its bytes stay until it is closed.
    fn unlink(&mut self, name: &str) -> Result<()> {
        let keep = match self.random.chance(300) {
            true => Some(self.handle(name)?),
            false => None,
        };
        let path = self.own.join(name);
        self.make(Call::Unlink, &path, || fs::remove_file(&path))?;
        let Some(gone) = self.files.remove(name) else {
            return Ok(());
        };
        if let Some(open) = keep {
            let len = gone.model.len() as usize;
            let seen = self.make(Call::Read, &path, || read_at(&open, 0, len))?;
            let checked = gone.model.check(0, len, &seen);
            checked.map_err(|e| format!("{}, unlinked but open: {e}", path.display()))?;
        }
        Ok(())
    }

    fn stat(&mut self, name: &str) -> Result<()> {
        let path = self.either().join(name);
        let seen = self.make(Call::Stat, &path, || fs::metadata(&path))?.len();
        let expected = self.files[name].model.len();
        match seen == expected {
            true => Ok(()),
            false => Err(format!("{}: size {seen}, not {expected}", path.display())),
        }
    }

    fn either(&mut self) -> PathBuf {
        match self.random.chance(500) {
            true => self.own.clone(),
            false => self.other.clone(),
        }
    }

    fn list(&mut self) -> Result<()> {
        let dir = self.either();
        let seen = self.make(Call::List, &dir, || {
            let entries = fs::read_dir(&dir)?;
            let names = entries.map(|e| Ok(e?.file_name().to_string_lossy().into_owned()));
            names.collect::<io::Result<BTreeSet<String>>>()
        })?;
        let expected: BTreeSet<String> = self.files.keys().cloned().collect();
        match seen == expected {
            true => Ok(()),
            false => Err(format!("{}: {seen:?}, not {expected:?}", dir.display())),
        }
    }

    fn reopen(&mut self, name: &str) -> Result<()> {
        self.file(name).handle = None;
        self.handle(name).map(|_| ())
    }

    /// Everything, whole, from the other mount and then from the own one.
    fn check_all(&mut self) -> Result<()> {
        for dir in [self.other.clone(), self.own.clone()] {
            for (name, file) in &self.files {
                let (open, path) = self.open_to_read(dir.join(name))?;
                let len = file.model.len() as usize + 4096;
                let seen = self.make(Call::Read, &path, || read_at(&open, 0, len))?;
                let checked = file.model.check(0, len, &seen);
                checked.map_err(|e| format!("{} at the end: {e}", path.display()))?;
            }
        }
        self.list()
    }

    /// Leaves half of the files, so that the comparison of replicas has something to compare.
    fn remove_half(&mut self) -> Result<()> {
        let names: Vec<String> = self.files.keys().cloned().collect();
        for name in names.iter().step_by(2) {
            self.unlink(name)?;
        }
        Ok(())
    }
}
