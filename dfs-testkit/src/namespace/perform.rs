//! Makes calls on a real tree, as the user that a call names.

use super::call::{Act, Call, How, Open, SetTime, Special};
use super::generate::SLOTS;
use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT, Uid, XattrFlags, chmod, chownat, fstat, ftruncate, linkat, makedev, mkdirat,
    mknodat, open, readlinkat, removexattr, renameat_with, setxattr, symlinkat, unlinkat,
    utimensat,
};
use rustix::io::{Errno, pread, pwrite};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// What a call answered: what it told, or the error.
pub type Answer = Result<String, Errno>;

/// User, group, and another group that it is in.
pub const USERS: [(u32, u32, &[u32]); 3] = [(0, 0, &[]), (1000, 1000, &[2000]), (1001, 1001, &[])];

/// The device of `Special::Device`.
pub fn device() -> Dev {
    makedev(1, 3)
}

/// One mount's view of a tree, and what it holds open there.
#[derive(Debug)]
pub struct Performer {
    root: PathBuf,
    pub(super) slots: [Option<OwnedFd>; SLOTS],
}

/// The bytes of a write.
pub fn content(offset: u64, len: u64) -> Vec<u8> {
    (offset..offset + len)
        .map(|at| (at.wrapping_mul(7) + len) as u8)
        .collect()
}

/// The value of an extended attribute of this length.
pub fn value(len: usize) -> Vec<u8> {
    content(len as u64, len as u64)
}

/// A short name for bytes.
pub fn digest(bytes: &[u8]) -> u64 {
    // FNV-1a.
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// All bytes of a file, without moving its position.
pub(super) fn whole(file: &OwnedFd) -> rustix::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut part = vec![0; 128 << 10];
    loop {
        match pread(file, &mut part, bytes.len() as u64)? {
            0 => return Ok(bytes),
            count => bytes.extend_from_slice(&part[..count]),
        }
    }
}

/// Makes a call as another user, in a thread that then ends.
fn as_user<T: Send>(user: usize, call: impl FnOnce() -> T + Send) -> T {
    let (uid, gid, others) = USERS[user];
    if user == 0 {
        return call();
    }
    let become_user = move || -> rustix::io::Result<()> {
        let others: Vec<Gid> = others.iter().map(|gid| Gid::from_raw(*gid)).collect();
        set_thread_groups(&others)?;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)
    };
    std::thread::scope(|scope| {
        let made = scope.spawn(move || {
            become_user().expect("root becomes anybody");
            call()
        });
        made.join().expect("a call does not panic")
    })
}

fn flags(how: Open) -> OFlags {
    let mut flags = match (how.read, how.write) {
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
        _ => OFlags::RDONLY,
    };
    flags |= OFlags::CLOEXEC | OFlags::NONBLOCK;
    flags.set(OFlags::CREATE, how.create);
    flags.set(OFlags::EXCL, how.exclusive);
    flags.set(OFlags::TRUNC, how.truncate);
    flags.set(OFlags::APPEND, how.append);
    flags.set(OFlags::NOFOLLOW, how.no_follow);
    flags.set(OFlags::DIRECTORY, how.dir);
    flags
}

fn time(set: SetTime) -> Timespec {
    let (tv_sec, tv_nsec) = match set {
        SetTime::Leave => (0, UTIME_OMIT as _),
        SetTime::Now => (0, UTIME_NOW as _),
        SetTime::At(seconds, nanoseconds) => (seconds, nanoseconds.into()),
    };
    Timespec { tv_sec, tv_nsec }
}

fn xattr_flags(there: Option<bool>) -> XattrFlags {
    match there {
        None => XattrFlags::empty(),
        Some(true) => XattrFlags::REPLACE,
        Some(false) => XattrFlags::CREATE,
    }
}

const NOTHING: String = String::new();

impl Performer {
    /// On the tree below `root`.
    pub fn new(root: PathBuf) -> Self {
        let slots = Default::default();
        Self { root, slots }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes a call. What a slot holds is closed before it gets something else.
    pub fn perform(&mut self, call: &Call) -> Answer {
        match &call.act {
            Act::Open(slot, path, how, mode) => {
                self.slots[*slot] = None;
                let at = self.root.join(path);
                let opened = as_user(call.user, || open_at(&at, *how, *mode))?;
                let said = match opened {
                    Some(_) => NOTHING,
                    None => "special".to_owned(),
                };
                self.slots[*slot] = opened;
                Ok(said)
            }
            Act::Close(slot) => self.slots[*slot].take().map(|_| NOTHING).ok_or(Errno::BADF),
            Act::Write(slot, offset, len) => {
                let file = self.slots[*slot].as_ref().ok_or(Errno::BADF)?;
                let data = content(*offset, *len);
                as_user(call.user, || pwrite(file, &data, *offset)).map(|n| n.to_string())
            }
            Act::SetLen(slot, len) => {
                let file = self.slots[*slot].as_ref().ok_or(Errno::BADF)?;
                as_user(call.user, || ftruncate(file, *len)).map(|()| NOTHING)
            }
            named => as_user(call.user, || self.perform_named(named)),
        }
    }

    /// Calls on names.
    fn perform_named(&self, act: &Act) -> Answer {
        let at = |path: &String| self.root.join(path);
        match act {
            Act::MakeDir(path, mode) => mkdirat(CWD, at(path), Mode::from_raw_mode(*mode))?,
            Act::MakeNode(path, kind, mode) => {
                let (kind, device) = match kind {
                    Special::Fifo => (FileType::Fifo, 0),
                    Special::Socket => (FileType::Socket, 0),
                    Special::Device => (FileType::CharacterDevice, device()),
                };
                mknodat(CWD, at(path), kind, Mode::from_raw_mode(*mode), device)?;
            }
            Act::Symlink(target, path) => symlinkat(target.as_str(), CWD, at(path))?,
            Act::Link(from, to) => linkat(CWD, at(from), CWD, at(to), AtFlags::empty())?,
            Act::Rename(from, to, how) => {
                let flags = match how {
                    How::Over => RenameFlags::empty(),
                    How::NoReplace => RenameFlags::NOREPLACE,
                    How::Exchange => RenameFlags::EXCHANGE,
                    How::Whiteout => RenameFlags::WHITEOUT,
                };
                renameat_with(CWD, at(from), CWD, at(to), flags)?;
            }
            Act::Unlink(path) => unlinkat(CWD, at(path), AtFlags::empty())?,
            Act::RemoveDir(path) => unlinkat(CWD, at(path), AtFlags::REMOVEDIR)?,
            Act::Chmod(path, mode) => chmod(at(path), Mode::from_raw_mode(*mode))?,
            Act::Chown(path, uid, gid, follow) => {
                let flags = match follow {
                    true => AtFlags::empty(),
                    false => AtFlags::SYMLINK_NOFOLLOW,
                };
                let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
                chownat(CWD, at(path), uid, gid, flags)?;
            }
            Act::Times(path, accessed, modified) => {
                let times = Timestamps {
                    last_access: time(*accessed),
                    last_modification: time(*modified),
                };
                utimensat(CWD, at(path), &times, AtFlags::empty())?;
            }
            Act::Truncate(path, len) => truncate(&at(path), *len)?,
            Act::SetXattr(path, name, len, there) => {
                setxattr(at(path), name.as_str(), &value(*len), xattr_flags(*there))?;
            }
            Act::RemoveXattr(path, name) => removexattr(at(path), name.as_str())?,
            Act::Read(path) => return read(&at(path)),
            Act::List(path) => return list(&at(path)),
            Act::ReadLink(path) => {
                let target = readlinkat(CWD, at(path), Vec::new())?;
                return Ok(target.to_string_lossy().into_owned());
            }
            Act::Open(..) | Act::Close(_) | Act::Write(..) | Act::SetLen(..) => {
                unreachable!("calls on slots are made elsewhere")
            }
        }
        Ok(NOTHING)
    }
}

/// Regular files and dirs stay open; anything else is closed at once: `None`.
fn open_at(at: &Path, how: Open, mode: u32) -> rustix::io::Result<Option<OwnedFd>> {
    let file = open(at, flags(how), Mode::from_raw_mode(mode))?;
    let kind = FileType::from_raw_mode(fstat(&file)?.st_mode);
    Ok(matches!(kind, FileType::RegularFile | FileType::Directory).then_some(file))
}

#[allow(unsafe_code)]
fn truncate(at: &Path, len: u64) -> rustix::io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(at.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the path is a string with its end, and lives as long as the call.
    match unsafe { libc::truncate(path.as_ptr(), len as libc::off_t) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

fn read(at: &Path) -> Answer {
    let how = Open {
        read: true,
        ..Open::default()
    };
    match open_at(at, how, 0)? {
        None => Ok("special".to_owned()),
        Some(file) => {
            let bytes = whole(&file)?;
            Ok(format!("{} {:x}", bytes.len(), digest(&bytes)))
        }
    }
}

fn list(at: &Path) -> Answer {
    let fail = |e: std::io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(at).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        names.push(name.to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names.join(" "))
}
