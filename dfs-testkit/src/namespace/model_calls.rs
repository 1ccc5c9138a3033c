//! What each call does to the model's tree, and answers.

use super::call::{Act, Call, How, Open, SetTime, Special};
use super::model::{ACCESSED, CHANGED, Held, Inode, Kind, MODIFIED, Model, Number, Place, Touch};
use super::perform::{Answer, content, digest, value};
use rustix::io::Errno;

/// What the tests' processes run with.
pub(super) const UMASK: u32 = 0o022;

const NOTHING: Answer = Ok(String::new());

impl Model {
    /// Makes a call by root.
    pub fn perform(&mut self, call: &Call) -> Answer {
        let mount = call.mount;
        match &call.act {
            Act::Open(slot, path, how, mode) => self.open((mount, *slot), path, *how, *mode),
            Act::Close(slot) => self
                .close((mount, *slot))
                .then_some(String::new())
                .ok_or(Errno::BADF),
            Act::Write(slot, offset, len) => self.write((mount, *slot), *offset, *len),
            Act::SetLen(slot, len) => self.set_len((mount, *slot), *len),
            Act::MakeDir(path, mode) => {
                let kind = Kind::Dir {
                    entries: Default::default(),
                    parent: 0,
                };
                // The bits beyond 0o1777 are none that mkdir(2) takes.
                self.make(path, kind, mode & 0o1777 & !UMASK)
            }
            Act::MakeNode(path, kind, mode) => self.make(path, Kind::Special(*kind), mode & !UMASK),
            Act::Symlink(target, path) => self.make(path, Kind::Link(target.clone()), 0o777),
            Act::Link(from, to) => self.link(from, to),
            Act::Rename(from, to, how) => self.rename(from, to, *how),
            Act::Unlink(path) => self.unlink(path),
            Act::RemoveDir(path) => self.remove_dir(path),
            Act::Chmod(path, mode) => {
                let inode = self.find(path, true)?;
                let inode = self.at_mut(inode);
                inode.mode = *mode;
                inode.touch(&[CHANGED]);
                NOTHING
            }
            Act::Chown(path, uid, gid, follow) => self.chown(path, *uid, *gid, *follow),
            Act::Times(path, accessed, modified) => self.set_times(path, *accessed, *modified),
            Act::Truncate(path, len) => {
                let inode = self.find(path, true)?;
                match self.at(inode).kind {
                    Kind::File(_) => self.resize(inode, *len),
                    Kind::Dir { .. } => return Err(Errno::ISDIR),
                    _ => return Err(Errno::INVAL),
                }
                NOTHING
            }
            Act::SetXattr(path, name, len, there) => self.set_xattr(path, name, *len, *there),
            Act::RemoveXattr(path, name) => self.remove_xattr(path, name),
            Act::Read(path) => self.read(path),
            Act::List(path) => {
                let dir = self.find(path, true)?;
                let names: Vec<String> = self.entries(dir)?.keys().cloned().collect();
                self.at_mut(dir).read();
                Ok(names.join(" "))
            }
            Act::ReadLink(path) => {
                let inode = self.find(path, false)?;
                let Kind::Link(target) = self.at(inode).kind.clone() else {
                    return Err(Errno::INVAL);
                };
                self.at_mut(inode).read();
                Ok(target)
            }
        }
    }

    fn close(&mut self, (mount, slot): (usize, usize)) -> bool {
        let Some(held) = self.held[mount][slot].take() else {
            return false;
        };
        self.forget_unless_used(held.inode);
        true
    }

    fn open(&mut self, at: (usize, usize), path: &str, how: Open, mode: u32) -> Answer {
        self.close(at);
        let place = match how.no_follow || (how.create && how.exclusive) {
            true => self.place(path)?,
            false => self.place_followed(path)?,
        };
        let inode = match place.inode {
            Some(_) if how.create && how.exclusive => return Err(Errno::EXIST),
            Some(inode) => {
                self.may_open(inode, how)?;
                if how.truncate && matches!(self.at(inode).kind, Kind::File(_)) {
                    self.resize(inode, 0);
                }
                inode
            }
            None if how.create => {
                let made = Inode::new(Kind::File(Vec::new()), mode & 0o7777 & !UMASK, 0);
                self.add(&place, made)
            }
            None => return Err(Errno::NOENT),
        };
        if matches!(self.at(inode).kind, Kind::Special(_)) {
            return Ok("special".to_owned());
        }
        self.held[at.0][at.1] = Some(Held {
            inode,
            write: how.write,
            append: how.append,
        });
        NOTHING
    }

    fn may_open(&self, inode: Number, how: Open) -> Result<(), Errno> {
        match &self.at(inode).kind {
            Kind::Link(_) => Err(if how.dir { Errno::NOTDIR } else { Errno::LOOP }),
            Kind::Dir { .. } if how.create || how.write => Err(Errno::ISDIR),
            Kind::Dir { .. } => Ok(()),
            _ if how.dir => Err(Errno::NOTDIR),
            Kind::Special(Special::Socket) => Err(Errno::NXIO),
            // Nobody reads at the other end.
            Kind::Special(Special::Fifo) if how.write && !how.read => Err(Errno::NXIO),
            _ => Ok(()),
        }
    }

    fn write(&mut self, (mount, slot): (usize, usize), offset: u64, len: u64) -> Answer {
        let held = self.held[mount][slot].ok_or(Errno::BADF)?;
        if !held.write {
            return Err(Errno::BADF);
        }
        let inode = self.at_mut(held.inode);
        if let Kind::File(bytes) = &mut inode.kind {
            let at = match held.append {
                true => bytes.len(),
                false => offset as usize,
            };
            let end = at + len as usize;
            bytes.resize(bytes.len().max(end), 0);
            bytes[at..end].copy_from_slice(&content(offset, len));
        }
        inode.touch(&[MODIFIED, CHANGED]);
        Ok(len.to_string())
    }

    fn set_len(&mut self, (mount, slot): (usize, usize), len: u64) -> Answer {
        let held = self.held[mount][slot].ok_or(Errno::BADF)?;
        if !held.write {
            return Err(Errno::INVAL);
        }
        self.resize(held.inode, len);
        NOTHING
    }

    fn resize(&mut self, inode: Number, len: u64) {
        let inode = self.at_mut(inode);
        if let Kind::File(bytes) = &mut inode.kind {
            bytes.resize(len as usize, 0);
        }
        inode.touch(&[MODIFIED, CHANGED]);
    }

    fn make(&mut self, path: &str, kind: Kind, mode: u32) -> Answer {
        let place = self.place(path)?;
        if place.inode.is_some() {
            return Err(Errno::EXIST);
        }
        self.add(&place, Inode::new(kind, mode, 0));
        NOTHING
    }

    fn link(&mut self, from: &str, to: &str) -> Answer {
        let inode = self.find(from, false)?;
        let place = self.place(to)?;
        if place.inode.is_some() {
            return Err(Errno::EXIST);
        }
        if self.is_dir(inode) {
            return Err(Errno::PERM);
        }
        self.enter(place.dir, &place.name, inode);
        let inode = self.at_mut(inode);
        inode.names += 1;
        inode.touch(&[CHANGED]);
        NOTHING
    }

    fn unlink(&mut self, path: &str) -> Answer {
        let place = self.place(path)?;
        let inode = place.inode.ok_or(Errno::NOENT)?;
        if self.is_dir(inode) {
            return Err(Errno::ISDIR);
        }
        self.leave(place.dir, &place.name);
        self.lose_name(inode);
        NOTHING
    }

    fn remove_dir(&mut self, path: &str) -> Answer {
        let place = self.place(path)?;
        let inode = place.inode.ok_or(Errno::NOENT)?;
        if !self.entries(inode)?.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        self.leave(place.dir, &place.name);
        self.lose_name(inode);
        NOTHING
    }

    fn rename(&mut self, from: &str, to: &str, how: How) -> Answer {
        let (old, new) = (self.place(from), self.place(to));
        let (old, new) = (old?, new?);
        let inode = old.inode.ok_or(Errno::NOENT)?;
        let met = new.inode;
        match how {
            How::NoReplace if met.is_some() => return Err(Errno::EXIST),
            How::Exchange if met.is_none() => return Err(Errno::NOENT),
            _ => {}
        }
        if self.is_below(new.dir, inode) {
            return Err(Errno::INVAL);
        }
        if let Some(met) = met {
            if met != inode && self.is_dir(met) && self.is_below(old.dir, met) {
                let exchange = how == How::Exchange;
                return Err(if exchange {
                    Errno::INVAL
                } else {
                    Errno::NOTEMPTY
                });
            }
            if met == inode {
                return NOTHING;
            }
            if how != How::Exchange {
                match (self.is_dir(inode), self.is_dir(met)) {
                    (true, false) => return Err(Errno::NOTDIR),
                    (false, true) => return Err(Errno::ISDIR),
                    _ => {}
                }
            }
        }
        if how == How::Whiteout {
            return Err(Errno::INVAL);
        }
        if let Some(met) = met.filter(|met| how != How::Exchange && self.is_dir(*met))
            && !self.entries(met)?.is_empty()
        {
            return Err(Errno::NOTEMPTY);
        }
        self.carry_out(how, &old, &new, inode);
        NOTHING
    }

    fn carry_out(&mut self, how: How, old: &Place, new: &Place, inode: Number) {
        self.leave(old.dir, &old.name);
        self.enter(new.dir, &new.name, inode);
        self.at_mut(inode).touch(&[CHANGED]);
        match (how, new.inode) {
            (How::Exchange, Some(met)) => {
                self.enter(old.dir, &old.name, met);
                self.at_mut(met).touch(&[CHANGED]);
            }
            (_, Some(met)) => self.lose_name(met),
            (_, None) => {}
        }
    }

    fn chown(&mut self, path: &str, uid: Option<u32>, gid: Option<u32>, follow: bool) -> Answer {
        let inode = self.find(path, follow)?;
        let is_dir = self.is_dir(inode);
        let inode = self.at_mut(inode);
        inode.uid = uid.unwrap_or(inode.uid);
        inode.gid = gid.unwrap_or(inode.gid);
        if !is_dir {
            inode.mode &= !0o4000;
            // Without execution by the group it means something else, and stays.
            if inode.mode & 0o10 != 0 {
                inode.mode &= !0o2000;
            }
        }
        inode.touch(&[CHANGED]);
        NOTHING
    }

    fn set_times(&mut self, path: &str, accessed: SetTime, modified: SetTime) -> Answer {
        let set = [(ACCESSED, accessed), (MODIFIED, modified)];
        // With both left there is nothing to do, and the kernel does not even look at the name.
        if set.iter().all(|(_, time)| *time == SetTime::Leave) {
            return NOTHING;
        }
        let inode = self.find(path, true)?;
        let inode = self.at_mut(inode);
        for (which, time) in set {
            match time {
                SetTime::Leave => {}
                SetTime::Now => inode.touch(&[which]),
                SetTime::At(seconds, nanoseconds) => {
                    inode.times[which] = (seconds, nanoseconds.into());
                    inode.touched[which] = Touch::Not;
                }
            }
        }
        inode.touch(&[CHANGED]);
        NOTHING
    }

    fn set_xattr(&mut self, path: &str, name: &str, len: usize, there: Option<bool>) -> Answer {
        let inode = self.find(path, true)?;
        let inode = self.at_mut(inode);
        may_have(inode, name)?;
        match (there, inode.xattrs.contains_key(name)) {
            (Some(true), false) => return Err(Errno::NODATA),
            (Some(false), true) => return Err(Errno::EXIST),
            _ => {}
        }
        inode.xattrs.insert(name.to_owned(), value(len));
        inode.touch(&[CHANGED]);
        NOTHING
    }

    fn remove_xattr(&mut self, path: &str, name: &str) -> Answer {
        let inode = self.find(path, true)?;
        let inode = self.at_mut(inode);
        may_have(inode, name)?;
        inode.xattrs.remove(name).ok_or(Errno::NODATA)?;
        inode.touch(&[CHANGED]);
        NOTHING
    }

    fn read(&mut self, path: &str) -> Answer {
        let inode = self.find(path, true)?;
        let how = Open {
            read: true,
            ..Open::default()
        };
        self.may_open(inode, how)?;
        let said = match &self.at(inode).kind {
            Kind::File(bytes) => format!("{} {:x}", bytes.len(), digest(bytes)),
            Kind::Dir { .. } => return Err(Errno::ISDIR),
            _ => return Ok("special".to_owned()),
        };
        self.at_mut(inode).read();
        Ok(said)
    }
}

/// `user.` attributes are for files and dirs.
fn may_have(inode: &Inode, name: &str) -> Result<(), Errno> {
    match inode.kind {
        Kind::Special(_) if name.starts_with("user.") => Err(Errno::PERM),
        _ => Ok(()),
    }
}

impl Inode {
    fn read(&mut self) {
        if self.touched[ACCESSED] == Touch::Not {
            self.touched[ACCESSED] = Touch::Perhaps;
        }
    }
}
