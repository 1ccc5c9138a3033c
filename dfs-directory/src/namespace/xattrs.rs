//! Extended attributes: values under the inode's number and their name, apart from its record,
//! so that a look at an inode costs the same with and without them.
//!
//! The inode's record says which kinds there are. An inode that has any also has a record of how
//! much room they take, under its number alone; both are always in step with what is stored.
//!
//! | name space | on | who may is decided by |
//! | --- | --- | --- |
//! | `user.` | files and dirs | the kernel of the caller, as for data |
//! | `trusted.`, `security.` | everything | the kernel of the caller, by its capabilities |
//! | `system.posix_acl_access` | everything but symlinks | the kernel: the owner |
//! | `system.posix_acl_default` | dirs | the same |

use super::acl::Acl;
use super::inodes::{self, Done, MODE_BITS, SETGID};
use super::keys;
use super::records::{Effect, InodeRecord, StoredKind, XattrsRecord};
use crate::state::record::{load_record, store_record};
use crate::state::tables::{Read, Table, TableError, Write, scan_prefix};
use dfs_proto::attr::{FileKind, Timestamp};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::InodeId;
use dfs_proto::limits::{
    XATTR_INODE_BYTES_MAX, XATTR_LIST_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX,
};
use dfs_proto::xattr::{SetXattrIf, XattrKinds, XattrName};
use std::ops::ControlFlow;

/// Permission bits of a mode.
const PERMISSIONS: u16 = 0o777;

/// What is to be set.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewValue<'a> {
    pub(super) name: &'a XattrName,
    pub(super) value: &'a [u8],
    pub(super) only: SetXattrIf,
    pub(super) drop_setgid: bool,
}

/// `setxattr`.
pub(super) fn set(
    tables: &mut dyn Write,
    now: Timestamp,
    inode: InodeId,
    new: &NewValue<'_>,
) -> Done<Effect> {
    let mut record = inodes::get(tables, inode)?;
    check(record.kind, new.name)?;
    if new.name.byte_len() > XATTR_NAME_BYTES_MAX {
        return Err(ErrorCode::RangeTooSmall.into());
    }
    if new.value.len() > XATTR_VALUE_BYTES_MAX {
        return Err(ErrorCode::TooBig.into());
    }
    let there = find(tables, inode, new.name)?.is_some();
    match new.only {
        SetXattrIf::Absent if there => return Err(ErrorCode::Exists.into()),
        SetXattrIf::Present if !there => return Err(ErrorCode::NoSuchAttribute.into()),
        _ => {}
    }
    match new.name {
        XattrName::AccessAcl => {
            let acl = Acl::parse(new.value)?;
            let kept = (!acl.is_mode()).then(|| acl.encode());
            put(tables, inode, &mut record, new.name, kept.as_deref())?;
            record.mode = record.mode & !PERMISSIONS | acl.mode_bits();
            if new.drop_setgid {
                record.mode &= !SETGID;
            }
        }
        XattrName::DefaultAcl => {
            let acl = Acl::parse(new.value)?.encode();
            put(tables, inode, &mut record, new.name, Some(&acl))?;
        }
        _ => put(tables, inode, &mut record, new.name, Some(new.value))?,
    }
    record.changed = now.into();
    inodes::put(tables, inode, &record)?;
    Ok(Effect::on(inode, record))
}

/// `removexattr`. The mode stays as it is, also when an access ACL goes.
pub(super) fn remove(
    tables: &mut dyn Write,
    now: Timestamp,
    inode: InodeId,
    name: &XattrName,
) -> Done<Effect> {
    let mut record = inodes::get(tables, inode)?;
    check(record.kind, name)?;
    if find(tables, inode, name)?.is_none() {
        return Err(ErrorCode::NoSuchAttribute.into());
    }
    put(tables, inode, &mut record, name, None)?;
    record.changed = now.into();
    inodes::put(tables, inode, &record)?;
    Ok(Effect::on(inode, record))
}

/// What can have which attributes.
fn check(kind: StoredKind, name: &XattrName) -> Result<(), ErrorCode> {
    match (name, kind) {
        (XattrName::User(_), StoredKind::Regular | StoredKind::Dir) => Ok(()),
        (XattrName::User(_), _) => Err(ErrorCode::NotPermitted),
        (XattrName::Trusted(_) | XattrName::Security(_), _) => Ok(()),
        (XattrName::AccessAcl | XattrName::DefaultAcl, StoredKind::Symlink) => {
            Err(ErrorCode::Unsupported)
        }
        (XattrName::AccessAcl, _) | (XattrName::DefaultAcl, StoredKind::Dir) => Ok(()),
        (XattrName::DefaultAcl, _) => Err(ErrorCode::AccessDenied),
    }
}

/// The value of an attribute.
pub(super) fn find(
    tables: &dyn Read,
    inode: InodeId,
    name: &XattrName,
) -> Result<Option<Vec<u8>>, TableError> {
    tables.get(Table::Xattrs, &keys::xattr(inode, name))
}

/// The names of all attributes of an inode, in the order of their bytes.
pub(super) fn names(tables: &dyn Read, inode: InodeId) -> Result<Vec<XattrName>, TableError> {
    let mut names = Vec::new();
    let mut failed = None;
    let prefix = keys::inode(inode);
    scan_prefix(tables, Table::Xattrs, &prefix, &mut |key, _| {
        match keys::read_xattr(key) {
            Some((_, None)) => {}
            Some((_, Some(name))) => names.push(name),
            None => {
                failed = Some(TableError(format!("{inode}: a bad name of an attribute")));
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    failed.map_or(Ok(names), Err)
}

/// Stores or removes a value, and says so in the inode's record, which the caller stores.
fn put(
    tables: &mut dyn Write,
    inode: InodeId,
    record: &mut InodeRecord,
    name: &XattrName,
    value: Option<&[u8]>,
) -> Done<()> {
    let about = keys::inode(inode);
    let loaded: Option<XattrsRecord> = load_record(tables, Table::Xattrs, &about)?;
    let mut room = loaded.unwrap_or_default();
    if let Some(before) = find(tables, inode, name)? {
        room.take(name, before.len());
    }
    let key = keys::xattr(inode, name);
    match value {
        Some(value) => {
            room.add(name, value.len());
            if room.name_bytes as usize > XATTR_LIST_BYTES_MAX
                || room.value_bytes as usize > XATTR_INODE_BYTES_MAX
            {
                return Err(ErrorCode::NoRoomForAttribute.into());
            }
            tables.put(Table::Xattrs, &key, value)?;
        }
        None => tables.delete(Table::Xattrs, &key)?,
    }
    let kinds = XattrKinds::from_bits(record.xattrs);
    let kinds = match (name.kind(), value) {
        (XattrKinds::OTHER, _) if room.others == 0 => kinds.without(XattrKinds::OTHER),
        (XattrKinds::OTHER, _) => kinds.with(XattrKinds::OTHER),
        (kind, Some(_)) => kinds.with(kind),
        (kind, None) => kinds.without(kind),
    };
    record.xattrs = kinds.bits();
    if kinds == XattrKinds::NONE {
        tables.delete(Table::Xattrs, &about)?;
    } else {
        store_record(tables, Table::Xattrs, &about, &room)?;
    }
    Ok(())
}

/// The mode of an inode has changed: its access ACL says the same.
pub(super) fn follow_mode(
    tables: &mut dyn Write,
    inode: InodeId,
    record: &InodeRecord,
) -> Result<(), TableError> {
    if !XattrKinds::from_bits(record.xattrs).have(XattrKinds::ACCESS_ACL) {
        return Ok(());
    }
    let mut acl = load_acl(tables, inode, &XattrName::AccessAcl)?;
    acl.set_mode_bits(record.mode);
    let key = keys::xattr(inode, &XattrName::AccessAcl);
    tables.put(Table::Xattrs, &key, &acl.encode())
}

fn load_acl(tables: &dyn Read, inode: InodeId, name: &XattrName) -> Result<Acl, TableError> {
    let bytes = find(tables, inode, name)?
        .ok_or_else(|| TableError(format!("{inode} has no {name}, against its record")))?;
    Acl::parse(&bytes).map_err(|_| TableError(format!("{inode}: a stored {name} is no ACL")))
}

/// What a new inode takes over from its dir.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Inherited {
    pub(super) mode: u16,
    access: Option<Vec<u8>>,
    default: Option<Vec<u8>>,
}

/// The mode of what is to be made in the dir `parent`, and its ACLs: the default ACL of the dir
/// takes the place of the umask.
pub(super) fn inherit(
    tables: &dyn Read,
    (parent, dir): (InodeId, &InodeRecord),
    kind: FileKind,
    mode: u16,
    umask: u16,
) -> Result<Inherited, TableError> {
    let mut inherited = Inherited {
        mode: mode & !(umask & PERMISSIONS),
        access: None,
        default: None,
    };
    if !XattrKinds::from_bits(dir.xattrs).have(XattrKinds::DEFAULT_ACL) {
        return Ok(inherited);
    }
    let mut acl = load_acl(tables, parent, &XattrName::DefaultAcl)?;
    inherited.default = (kind == FileKind::Dir).then(|| acl.encode());
    let permissions = acl.limit_to(mode);
    inherited.mode = mode & (MODE_BITS & !PERMISSIONS) | permissions;
    inherited.access = (!acl.is_mode()).then(|| acl.encode());
    Ok(inherited)
}

/// Stores what a new inode has inherited; the caller stores its record.
pub(super) fn give(
    tables: &mut dyn Write,
    inode: InodeId,
    record: &mut InodeRecord,
    inherited: &Inherited,
) -> Done<()> {
    for (name, value) in [
        (XattrName::AccessAcl, &inherited.access),
        (XattrName::DefaultAcl, &inherited.default),
    ] {
        if let Some(value) = value {
            put(tables, inode, record, &name, Some(value))?;
        }
    }
    Ok(())
}

/// Removes all attributes of an inode that goes.
pub(super) fn remove_all(
    tables: &mut dyn Write,
    inode: InodeId,
    record: &InodeRecord,
) -> Result<(), TableError> {
    if XattrKinds::from_bits(record.xattrs) == XattrKinds::NONE {
        return Ok(());
    }
    for name in names(tables, inode)? {
        tables.delete(Table::Xattrs, &keys::xattr(inode, &name))?;
    }
    tables.delete(Table::Xattrs, &keys::inode(inode))
}
