//! Extended attributes and ACLs.
//!
//! The kernel checks who may do what (and enforces ACLs) but for two things that it leaves to the
//! file system: `trusted.` names in a list, and the setgid bit under a new ACL.
//!
//! It keeps ACLs without a time to live, but drops them whenever it drops or refreshes the inode's
//! attributes, and before it judges by them it refreshes attributes whose time is over. An answer
//! that it takes in after such a drop is not kept, if it was asked for before. So what is judged by
//! an ACL is as true as what is judged by a mode.

use super::convert;
use super::privileges::Privileges;
use super::serve::{Adapter, Refuse};
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::InodeId;
use dfs_proto::xattr::{SetXattrIf, XattrName, XattrNameError};
use fuser::{Errno, ReplyEmpty, ReplyXattr, Request};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

const SETGID: u16 = 0o2000;

/// macOS has no name spaces: its names are `user.` ones here, as for other hosts.
const NO_NAME_SPACES: bool = cfg!(target_os = "macos");

fn name_of(name: &OsStr, no_spaces: bool) -> Result<XattrName> {
    let bytes = name.as_bytes();
    let name = match XattrName::new(bytes) {
        Err(XattrNameError::Unknown) if no_spaces => XattrName::new(&[b"user.", bytes].concat()),
        other => other,
    };
    name.map_err(|e| {
        Error::from(match e {
            XattrNameError::TooLong => ErrorCode::RangeTooSmall,
            XattrNameError::Forbidden => ErrorCode::InvalidArgument,
            XattrNameError::Unknown => ErrorCode::Unsupported,
        })
    })
}

/// The names as the kernel takes them, a NUL after each; `trusted.` ones only if `admin` says so.
fn list_of(names: &[XattrName], admin: impl FnOnce() -> bool, no_spaces: bool) -> Vec<u8> {
    let is_trusted = |name: &XattrName| matches!(name, XattrName::Trusted(_));
    let hides = names.iter().any(is_trusted) && !admin();
    let mut list = Vec::new();
    for name in names.iter().filter(|name| !(hides && is_trusted(name))) {
        let bytes = name.to_bytes();
        let shown = match no_spaces {
            true => bytes.strip_prefix(b"user.").unwrap_or(&bytes),
            false => &bytes,
        };
        list.extend_from_slice(shown);
        list.push(0);
    }
    list
}

/// Answers with bytes, or with how many they are.
fn give(reply: ReplyXattr, size: u32, bytes: &[u8]) {
    match size {
        0 => reply.size(bytes.len() as u32),
        size if bytes.len() > size as usize => reply.error(Errno::ERANGE),
        _ => reply.data(bytes),
    }
}

impl Adapter {
    pub(super) fn start_getxattr(
        &self,
        request: &Request,
        ino: InodeId,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let name = match name_of(name, NO_NAME_SPACES) {
            Ok(name) => name,
            Err(e) => return reply.refuse(convert::errno(&e)),
        };
        if self.client.lacks_xattr(ino, &name) {
            return reply.error(Errno::NO_XATTR);
        }
        let (client, caches) = (self.client.clone(), self.caches.clone());
        let work = async move {
            match client.get_xattr(ino, name).await {
                Ok(found) => Ok(Some(found)),
                // A dir that was removed and is open has none any more.
                Err(e) if e.code == ErrorCode::Stale => {
                    caches.open_dirs.removed(ino, client.time()).ok_or(e)?;
                    Ok(None)
                }
                Err(e) => Err(e),
            }
        };
        self.query(request, reply, work, move |reply, found| {
            match found.as_ref().and_then(|found| found.value.as_ref()) {
                Some(value) => give(reply, size, value),
                None => reply.error(Errno::NO_XATTR),
            }
            // The answer is out: now the right to it may go.
            drop(found);
        });
    }

    pub(super) fn start_listxattr(
        &self,
        request: &Request,
        ino: InodeId,
        size: u32,
        reply: ReplyXattr,
    ) {
        let (client, caches) = (self.client.clone(), self.caches.clone());
        let thread = request.pid();
        let work = async move {
            match client.list_xattrs(ino).await {
                Err(e) if e.code == ErrorCode::Stale => {
                    caches.open_dirs.removed(ino, client.time()).ok_or(e)?;
                    Ok(Vec::new())
                }
                names => names,
            }
        };
        self.query(request, reply, work, move |reply, names| {
            let admin = || Privileges::of(thread).is_admin();
            give(reply, size, &list_of(&names, admin, NO_NAME_SPACES));
        });
    }

    pub(super) fn start_setxattr(
        &self,
        request: &Request,
        ino: InodeId,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        reply: ReplyEmpty,
    ) {
        let (client, value) = (self.client.clone(), value.to_vec());
        let name = name_of(name, NO_NAME_SPACES);
        let (thread, gid) = (request.pid(), request.gid());
        let work = async move {
            let name = name?;
            let only = match flags {
                0 => SetXattrIf::Always,
                libc::XATTR_CREATE => SetXattrIf::Absent,
                libc::XATTR_REPLACE => SetXattrIf::Present,
                // Both: one of the two always stands against it.
                _ => {
                    let found = client.get_xattr(ino, name).await?.value;
                    let why = found.map_or(ErrorCode::NoSuchAttribute, |_| ErrorCode::Exists);
                    return Err(Error::from(why));
                }
            };
            let mut drop_setgid = false;
            if name == XattrName::AccessAcl {
                let attr = client.getattr(ino).await?.attr;
                drop_setgid = attr.mode & SETGID != 0 && attr.gid != gid && {
                    let caller = Privileges::of(thread);
                    !caller.is_in(attr.gid) && !caller.keeps_set_ids()
                };
            }
            client.set_xattr(ino, name, value, only, drop_setgid).await
        };
        self.change_cached(request, reply, vec![ino], work, |reply, ()| reply.ok());
    }

    pub(super) fn start_removexattr(
        &self,
        request: &Request,
        ino: InodeId,
        name: &OsStr,
        reply: ReplyEmpty,
    ) {
        let name = name_of(name, NO_NAME_SPACES);
        let client = self.client.clone();
        let work = async move {
            let name = name?;
            let acl = matches!(name, XattrName::AccessAcl | XattrName::DefaultAcl);
            let removed = match client.lacks_xattr(ino, &name) {
                true => Err(Error::from(ErrorCode::NoSuchAttribute)),
                false => client.remove_xattr(ino, name).await,
            };
            match removed {
                // An ACL that says no more than the mode is as good as none: there is nothing
                // to be removed.
                Err(e) if acl && e.code == ErrorCode::NoSuchAttribute => Ok(()),
                removed => removed,
            }
        };
        self.change_cached(request, reply, vec![ino], work, |reply, ()| reply.ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> XattrName {
        XattrName::new(text.as_bytes()).expect("a name")
    }

    #[test]
    fn names_that_there_are_not_say_why() {
        let errno = |text: &str| name_of(OsStr::new(text), false).map_err(|e| e.errno());
        assert_eq!(errno("user.a"), Ok(named("user.a")));
        assert_eq!(errno("user."), Err(libc::EINVAL));
        assert_eq!(errno("other.a"), Err(libc::EOPNOTSUPP));
        assert_eq!(errno(&"x".repeat(256)), Err(libc::ERANGE));
    }

    #[test]
    fn names_without_a_space_are_user_ones() {
        let quarantine = OsStr::new("com.apple.quarantine");
        let name = name_of(quarantine, true).expect("a name");
        assert_eq!(name, named("user.com.apple.quarantine"));
        assert_eq!(list_of(&[name], || true, true), b"com.apple.quarantine\0");
    }

    #[test]
    fn trusted_names_are_for_those_who_may_see_them() {
        let names = [named("trusted.a"), named("user.b")];
        assert_eq!(list_of(&names, || true, false), b"trusted.a\0user.b\0");
        assert_eq!(list_of(&names, || false, false), b"user.b\0");
        // Nobody is looked at for other names.
        let never = || unreachable!("a look at a caller that does not matter");
        assert_eq!(list_of(&names[1..], never, false), b"user.b\0");
    }
}
