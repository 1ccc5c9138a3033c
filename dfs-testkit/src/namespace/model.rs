//! A tree in memory: its inodes, and how paths lead to them. Calls are in `model_calls`.
//!
//! The model is for calls by root, to whom nothing is refused for want of rights. What it can't
//! know are times that are taken from a clock: those are marked, and taken over from what is seen
//! when that has been checked.

use super::call::Special;
use super::generate::SLOTS;
use super::look::Time;
use rustix::io::Errno;
use std::collections::BTreeMap;

/// Symbolic links on one path.
const LINKS_MAX: u32 = 40;

/// The number of an inode in the model.
pub(super) type Number = u64;

pub(super) const ROOT: Number = 1;

/// What may have become of a time in a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Touch {
    #[default]
    Not,
    /// It is a time of this step now.
    Now,
    /// It is that, or what it was: a time of access, which is told to others late and not for
    /// every read; or the time of change of a removed dir, which is when a mount noticed.
    Perhaps,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Dir {
        entries: BTreeMap<String, Number>,
        parent: Number,
    },
    File(Vec<u8>),
    Link(String),
    Special(Special),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Inode {
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Names; of a dir 1, or 0 when it has been removed.
    pub(super) names: u64,
    pub(super) xattrs: BTreeMap<String, Vec<u8>>,
    pub(super) times: [Time; 3],
    pub(super) touched: [Touch; 3],
}

/// What a slot holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Held {
    pub(super) inode: Number,
    pub(super) write: bool,
    pub(super) append: bool,
}

/// The tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Model {
    pub(super) inodes: BTreeMap<Number, Inode>,
    pub(super) held: Vec<[Option<Held>; SLOTS]>,
    last: Number,
}

/// Where a path leads: a name in a dir, and what has that name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) dir: Number,
    pub(super) name: String,
    pub(super) inode: Option<Number>,
}

pub(super) const ACCESSED: usize = 0;
pub(super) const MODIFIED: usize = 1;
pub(super) const CHANGED: usize = 2;

impl Model {
    /// An empty tree, whose root was made just now with this mode.
    pub fn new(mounts: usize, mode: u32) -> Self {
        let kind = Kind::Dir {
            entries: BTreeMap::new(),
            parent: ROOT,
        };
        let root = Inode::new(kind, mode, 0);
        Self {
            inodes: BTreeMap::from([(ROOT, root)]),
            held: vec![Default::default(); mounts],
            last: ROOT,
        }
    }

    pub(super) fn at(&self, number: Number) -> &Inode {
        self.inodes.get(&number).expect("an inode of the model")
    }

    pub(super) fn at_mut(&mut self, number: Number) -> &mut Inode {
        self.inodes.get_mut(&number).expect("an inode of the model")
    }

    pub(super) fn entries(&self, dir: Number) -> Result<&BTreeMap<String, Number>, Errno> {
        match &self.at(dir).kind {
            Kind::Dir { entries, .. } => Ok(entries),
            _ => Err(Errno::NOTDIR),
        }
    }

    pub(super) fn is_dir(&self, number: Number) -> bool {
        matches!(self.at(number).kind, Kind::Dir { .. })
    }

    fn parent(&self, dir: Number) -> Result<Number, Errno> {
        match &self.at(dir).kind {
            Kind::Dir { parent, .. } => Ok(*parent),
            _ => Err(Errno::NOTDIR),
        }
    }

    /// Whether `dir` is `above` or lies below it.
    pub(super) fn is_below(&self, dir: Number, above: Number) -> bool {
        let mut at = dir;
        loop {
            if at == above {
                return true;
            }
            match self.parent(at) {
                Ok(parent) if parent != at => at = parent,
                _ => return false,
            }
        }
    }

    /// The place that a path names; a link there is not followed.
    pub(super) fn place(&self, path: &str) -> Result<Place, Errno> {
        self.walk(ROOT, path, false, &mut 0)
    }

    /// The place that a path leads to when links are followed: also a place where nothing is.
    pub(super) fn place_followed(&self, path: &str) -> Result<Place, Errno> {
        self.walk(ROOT, path, true, &mut 0)
    }

    /// What a path leads to.
    pub(super) fn find(&self, path: &str, follow: bool) -> Result<Number, Errno> {
        let place = match follow {
            true => self.place_followed(path)?,
            false => self.place(path)?,
        };
        place.inode.ok_or(Errno::NOENT)
    }

    fn walk(
        &self,
        from: Number,
        path: &str,
        follow: bool,
        links: &mut u32,
    ) -> Result<Place, Errno> {
        let (before, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut dir = from;
        for step in before.split('/').filter(|step| !step.is_empty()) {
            if step == ".." {
                dir = self.parent(dir)?;
                continue;
            }
            let place = self.step(dir, step, true, links)?;
            dir = place.inode.ok_or(Errno::NOENT)?;
            if !self.is_dir(dir) {
                return Err(Errno::NOTDIR);
            }
        }
        self.step(dir, name, follow, links)
    }

    fn step(&self, dir: Number, name: &str, follow: bool, links: &mut u32) -> Result<Place, Errno> {
        let inode = self.entries(dir)?.get(name).copied();
        if let Some(Kind::Link(target)) = inode.map(|inode| &self.at(inode).kind)
            && follow
        {
            *links += 1;
            if *links > LINKS_MAX {
                return Err(Errno::LOOP);
            }
            return self.walk(dir, target, true, links);
        }
        Ok(Place {
            dir,
            name: name.to_owned(),
            inode,
        })
    }

    /// Takes in a new inode and gives it its first name.
    pub(super) fn add(&mut self, place: &Place, mut inode: Inode) -> Number {
        self.last += 1;
        let above = self.at(place.dir);
        // In a dir with this bit all belongs to its group, and dirs hand it on.
        if above.mode & 0o2000 != 0 {
            inode.gid = above.gid;
            if matches!(inode.kind, Kind::Dir { .. }) {
                inode.mode |= 0o2000;
            }
        }
        let number = self.last;
        self.inodes.insert(number, inode);
        self.enter(place.dir, &place.name, number);
        number
    }

    /// Puts a name in, and says so in the dir's times.
    pub(super) fn enter(&mut self, dir: Number, name: &str, inode: Number) {
        let at = self.at_mut(dir);
        if let Kind::Dir { entries, .. } = &mut at.kind {
            entries.insert(name.to_owned(), inode);
        }
        at.touch(&[MODIFIED, CHANGED]);
        if let Kind::Dir { parent, .. } = &mut self.at_mut(inode).kind {
            *parent = dir;
        }
    }

    /// Takes a name out.
    pub(super) fn leave(&mut self, dir: Number, name: &str) {
        let at = self.at_mut(dir);
        if let Kind::Dir { entries, .. } = &mut at.kind {
            entries.remove(name);
        }
        at.touch(&[MODIFIED, CHANGED]);
    }

    /// An inode has one name less; without one, and held by nobody, it is gone.
    pub(super) fn lose_name(&mut self, number: Number) {
        let inode = self.at_mut(number);
        inode.names -= 1;
        inode.touch(&[CHANGED]);
        if matches!(inode.kind, Kind::Dir { .. }) {
            // Exceptions (docs/semantics.md): what a removed dir shows to those who have it open.
            inode.touched[CHANGED] = Touch::Perhaps;
            inode.xattrs.clear();
        }
        self.forget_unless_used(number);
    }

    pub(super) fn forget_unless_used(&mut self, number: Number) {
        let mut held = self.held.iter().flatten().flatten();
        if self.at(number).names == 0 && !held.any(|held| held.inode == number) {
            self.inodes.remove(&number);
        }
    }

    /// As `st_nlink` shows it.
    pub(super) fn links(&self, number: Number) -> u64 {
        let inode = self.at(number);
        match &inode.kind {
            Kind::Dir { .. } if inode.names == 0 => 0,
            Kind::Dir { entries, .. } => {
                2 + entries.values().filter(|n| self.is_dir(**n)).count() as u64
            }
            _ => inode.names,
        }
    }
}

impl Inode {
    /// Made just now, by root.
    pub(super) fn new(kind: Kind, mode: u32, gid: u32) -> Self {
        Self {
            kind,
            mode,
            uid: 0,
            gid,
            names: 1,
            xattrs: BTreeMap::new(),
            times: [(i64::MIN, 0); 3],
            touched: [Touch::Now; 3],
        }
    }

    /// These times are of this step.
    pub(super) fn touch(&mut self, which: &[usize]) {
        for which in which {
            self.touched[*which] = Touch::Now;
        }
    }
}
