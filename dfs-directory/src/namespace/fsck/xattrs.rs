//! Extended attributes: whether what is stored, the record of its room, the inode's record and
//! its mode say the same.

use super::{Contents, Problem};
use crate::namespace::acl::Acl;
use crate::namespace::keys;
use crate::namespace::records::{StoredKind, XattrsRecord};
use crate::state::record::decode_record;
use dfs_proto::ids::InodeId;
use dfs_proto::xattr::{XattrKinds, XattrName};
use std::collections::BTreeMap;

/// What is stored of one inode's attributes, without the values of all but its ACL.
#[derive(Debug, Default)]
pub(super) struct Stored {
    recorded: Option<XattrsRecord>,
    counted: XattrsRecord,
    kinds: XattrKinds,
    access_acl: Option<Result<Acl, ()>>,
    bad_default_acl: bool,
}

/// Takes in one record; `None` if it can't be read.
pub(super) fn take(all: &mut BTreeMap<InodeId, Stored>, key: &[u8], value: &[u8]) -> Option<()> {
    let (inode, name) = keys::read_xattr(key)?;
    let stored = all.entry(inode).or_default();
    let Some(name) = name else {
        stored.recorded = Some(decode_record(value).ok()?);
        return Some(());
    };
    stored.counted.add(&name, value.len());
    stored.kinds = stored.kinds.with(name.kind());
    match name {
        XattrName::AccessAcl => stored.access_acl = Some(Acl::parse(value).map_err(drop)),
        XattrName::DefaultAcl => stored.bad_default_acl = Acl::parse(value).is_err(),
        _ => {}
    }
    Some(())
}

pub(super) fn check(all: &Contents, found: &mut Vec<Problem>) {
    let mut wrong = |inode: InodeId, why| found.push(Problem::WrongXattrs { inode, why });
    for (inode, record) in &all.inodes {
        let kinds = XattrKinds::from_bits(record.xattrs);
        let Some(stored) = all.xattrs.get(inode) else {
            if record.xattrs != 0 {
                wrong(*inode, "attributes that are not stored");
            }
            continue;
        };
        if kinds.bits() != record.xattrs || kinds != stored.kinds {
            wrong(*inode, "other kinds of attributes than are stored");
        }
        if stored.recorded != Some(stored.counted) {
            wrong(*inode, "other room for attributes than they take");
        }
        match &stored.access_acl {
            Some(Ok(acl)) if acl.mode_bits() == record.mode & 0o777 && !acl.is_mode() => {}
            Some(Ok(_)) => wrong(*inode, "an ACL and a mode that do not say the same"),
            Some(Err(())) => wrong(*inode, "an access ACL that is none"),
            None => {}
        }
        let on_dir = record.kind == StoredKind::Dir;
        if stored.bad_default_acl || (kinds.have(XattrKinds::DEFAULT_ACL) && !on_dir) {
            wrong(*inode, "a default ACL that is none, or is of no dir");
        }
    }
    for inode in all.xattrs.keys() {
        if !all.inodes.contains_key(inode) {
            wrong(*inode, "attributes without an inode");
        }
    }
}
