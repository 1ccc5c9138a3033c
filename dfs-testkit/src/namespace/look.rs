//! Everything that can be seen of a tree: by its names, and through what is held open.

use super::perform::{Performer, digest, whole};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Stat, fgetxattr, flistxattr, fstat, lgetxattr,
    llistxattr, open, readlinkat, statat,
};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::Path;

/// Seconds since 1970, and nanoseconds.
pub type Time = (i64, i64);

/// An inode, as it is seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    pub kind: FileType,
    pub mode: u32,
    pub links: u64,
    pub uid: u32,
    pub gid: u32,
    pub device: u64,
    /// Of regular files and symbolic links; those of others mean nothing.
    pub size: Option<u64>,
    /// What a regular file takes up, in sectors.
    pub blocks: Option<u64>,
    pub target: Option<String>,
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// What a regular file holds, in short, if it was asked for.
    pub content: Option<u64>,
    /// The first place in the look where the same inode is.
    pub same_as: String,
    /// The inode number; it says nothing beside another file system's.
    pub number: u64,
    /// Of access, modification and change.
    pub times: [Time; 3],
}

/// A whole tree. `.` is its root; `#0.1` what mount 0 holds in slot 1.
pub type Look = BTreeMap<String, Seen>;

/// Which places an inode was first seen at.
type Firsts = BTreeMap<u64, String>;

/// Looks at the tree by the names of the performer `by`, and at what all of them hold. With `content`
/// files are read, which leaves their times alone.
pub fn look(by: &Performer, all: &[&Performer], content: bool) -> rustix::io::Result<Look> {
    let (mut look, mut firsts) = (Look::new(), Firsts::new());
    dir(by.root(), ".", content, &mut look, &mut firsts)?;
    for (mount, performer) in all.iter().enumerate() {
        for (slot, held) in performer.slots.iter().enumerate() {
            let Some(held) = held else { continue };
            let place = format!("#{mount}.{slot}");
            let seen = held_open(held, &place, content, &mut firsts)?;
            look.insert(place, seen);
        }
    }
    Ok(look)
}

fn dir(
    at: &Path,
    place: &str,
    content: bool,
    look: &mut Look,
    firsts: &mut Firsts,
) -> rustix::io::Result<()> {
    let seen = named(at, place, content, firsts)?;
    let is_dir = seen.kind == FileType::Directory;
    look.insert(place.to_owned(), seen);
    if !is_dir {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOATIME | OFlags::CLOEXEC;
    let opened = open(at, flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&opened)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    names.sort();
    for name in names {
        let inside = match place {
            "." => name.clone(),
            _ => format!("{place}/{name}"),
        };
        dir(&at.join(&name), &inside, content, look, firsts)?;
    }
    Ok(())
}

fn named(at: &Path, place: &str, content: bool, firsts: &mut Firsts) -> rustix::io::Result<Seen> {
    let mut seen = seen(&statat(CWD, at, AtFlags::SYMLINK_NOFOLLOW)?, place, firsts);
    if seen.kind == FileType::Symlink {
        let target = readlinkat(CWD, at, Vec::new())?;
        seen.target = Some(target.to_string_lossy().into_owned());
    }
    seen.xattrs = xattrs(
        |list| llistxattr(at, list),
        |name, value| lgetxattr(at, name, value),
    )?;
    if content && seen.kind == FileType::RegularFile {
        let flags = OFlags::RDONLY | OFlags::NOATIME | OFlags::CLOEXEC;
        let bytes = whole(&open(at, flags, Mode::empty())?)?;
        seen.content = Some(digest(&bytes));
    }
    Ok(seen)
}

fn held_open(
    file: &OwnedFd,
    place: &str,
    content: bool,
    firsts: &mut Firsts,
) -> rustix::io::Result<Seen> {
    let mut seen = seen(&fstat(file)?, place, firsts);
    seen.xattrs = xattrs(
        |list| flistxattr(file, list),
        |name, value| fgetxattr(file, name, value),
    )?;
    if content && seen.kind == FileType::RegularFile {
        // By the number, with a way to read it that leaves its times alone.
        let flags = OFlags::RDONLY | OFlags::NOATIME | OFlags::CLOEXEC;
        let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
        let bytes = whole(&open(again.as_str(), flags, Mode::empty())?)?;
        seen.content = Some(digest(&bytes));
    }
    Ok(seen)
}

fn seen(stat: &Stat, place: &str, firsts: &mut Firsts) -> Seen {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let first = firsts.entry(stat.st_ino);
    Seen {
        kind,
        mode: stat.st_mode & 0o7777,
        links: stat.st_nlink,
        uid: stat.st_uid,
        gid: stat.st_gid,
        device: stat.st_rdev,
        size: matches!(kind, FileType::RegularFile | FileType::Symlink)
            .then_some(stat.st_size as u64),
        blocks: (kind == FileType::RegularFile).then_some(stat.st_blocks as u64),
        target: None,
        xattrs: BTreeMap::new(),
        content: None,
        same_as: first.or_insert_with(|| place.to_owned()).clone(),
        number: stat.st_ino,
        times: [
            (stat.st_atime, stat.st_atime_nsec as i64),
            (stat.st_mtime, stat.st_mtime_nsec as i64),
            (stat.st_ctime, stat.st_ctime_nsec as i64),
        ],
    }
}

/// All that programs set; what the system labels files with is not theirs.
fn xattrs(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&str, &mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<BTreeMap<String, Vec<u8>>> {
    let mut names = vec![0; 4096];
    let len = match list(&mut names) {
        Ok(len) => len,
        // A name that was removed while it was looked at: nothing is listed any more.
        Err(Errno::OPNOTSUPP) => 0,
        Err(e) => return Err(e),
    };
    let mut found = BTreeMap::new();
    for name in names[..len].split(|byte| *byte == 0) {
        let name = String::from_utf8_lossy(name).into_owned();
        if name.starts_with("user.") || name.starts_with("trusted.") {
            let mut value = vec![0; 4096];
            let len = get(&name, &mut value)?;
            value.truncate(len);
            found.insert(name, value);
        }
    }
    Ok(found)
}

impl Seen {
    /// A dir without a name, which somebody has open.
    pub fn is_removed_dir(&self) -> bool {
        self.kind == FileType::Directory && self.links == 0
    }
}

/// What differs between two looks of one file system, in words. Inodes that were read may show other
/// times of access, and removed dirs another time of change: when a mount noticed.
pub fn differences(left: &Look, right: &Look) -> Vec<String> {
    let places: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    let differ = places.into_iter().filter_map(|place| {
        let (left, right) = (left.get(place), right.get(place));
        let without = |seen: Option<&Seen>| {
            let mut seen = seen.cloned()?;
            seen.times[0] = (0, 0);
            if seen.is_removed_dir() {
                seen.times[2] = (0, 0);
            }
            Some(seen)
        };
        (without(left) != without(right)).then(|| format!("{place}:\n  {left:?}\n  {right:?}"))
    });
    differ.collect()
}
