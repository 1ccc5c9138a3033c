//! The part of the reference model that is about extended attributes and ACLs. Its ACL is a
//! handful of numbers, not a list of entries.

use super::acl::tests::acl;
use super::model::{Answer, Id, Model, Node};
use dfs_proto::attr::FileKind;
use dfs_proto::error::ErrorCode;
use dfs_proto::xattr::SetXattrIf;

/// An ACL with at most one named user.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ModelAcl {
    pub(super) owner: u16,
    pub(super) named: Option<u16>,
    pub(super) group: u16,
    pub(super) mask: Option<u16>,
    pub(super) others: u16,
}

impl ModelAcl {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let letters = |bits: u16| {
            let of = |bit, letter| if bits & bit != 0 { letter } else { '-' };
            [of(4, 'r'), of(2, 'w'), of(1, 'x')]
                .iter()
                .collect::<String>()
        };
        let mut text = format!("u::{}", letters(self.owner));
        if let Some(named) = self.named {
            text += &format!(",u:7:{}", letters(named));
        }
        text += &format!(",g::{}", letters(self.group));
        if let Some(mask) = self.mask {
            text += &format!(",m::{}", letters(mask));
        }
        acl(&format!("{text},o::{}", letters(self.others)))
    }

    fn group_class(&mut self) -> &mut u16 {
        match &mut self.mask {
            Some(mask) => mask,
            None => &mut self.group,
        }
    }

    fn says_more_than_a_mode(&self) -> bool {
        self.named.is_some() || self.mask.is_some()
    }

    fn change(&mut self, mode: u16, both: impl Fn(u16, u16) -> u16) {
        self.owner = both(self.owner, mode / 64 % 8);
        let group = self.group_class();
        *group = both(*group, mode / 8 % 8);
        self.others = both(self.others, mode % 8);
    }

    fn mode(mut self) -> u16 {
        self.owner * 64 + *self.group_class() * 8 + self.others
    }
}

impl Node {
    pub(super) fn chmod(&mut self, mode: u16) {
        self.mode = mode;
        if let Some(acl) = &mut self.acl {
            acl.change(mode, |_, wanted| wanted);
        }
    }

    /// Made in `above`, with what the creator wants.
    pub(super) fn inherit(&mut self, above: &Self, umask: u16) {
        let Some(mut acl) = above.default_acl else {
            self.mode &= !umask;
            return;
        };
        if self.kind == FileKind::Dir {
            self.default_acl = Some(acl);
        }
        acl.change(self.mode, |has, wanted| has & wanted);
        self.mode = self.mode / 512 * 512 + acl.mode();
        self.acl = Some(acl).filter(ModelAcl::says_more_than_a_mode);
    }

    /// All attributes, by name.
    pub(super) fn all_xattrs(&self) -> Vec<(String, Vec<u8>)> {
        let acls = [("access", self.acl), ("default", self.default_acl)];
        let acls = acls
            .into_iter()
            .filter_map(|(which, acl)| Some((format!("system.posix_acl_{which}"), acl?.bytes())));
        let plain = self.xattrs.iter();
        let mut all: Vec<_> = plain.map(|(n, v)| (n.clone(), v.clone())).collect();
        all.extend(acls);
        all.sort();
        all
    }
}

impl Model {
    pub(super) fn set_xattr(
        &mut self,
        id: Id,
        name: &str,
        value: &[u8],
        only: SetXattrIf,
    ) -> Answer {
        let now = self.now;
        let node = self.nodes.get_mut(&id).ok_or(ErrorCode::Stale)?;
        may_have(node.kind, name)?;
        let there = node.xattrs.contains_key(name);
        match (only, there) {
            (SetXattrIf::Absent, true) => return Err(ErrorCode::Exists),
            (SetXattrIf::Present, false) => return Err(ErrorCode::NoSuchAttribute),
            _ => {}
        }
        node.xattrs.insert(name.to_owned(), value.to_vec());
        node.changed = now;
        Ok(Some(id))
    }

    pub(super) fn remove_xattr(&mut self, id: Id, name: &str) -> Answer {
        let now = self.now;
        let node = self.nodes.get_mut(&id).ok_or(ErrorCode::Stale)?;
        may_have(node.kind, name)?;
        let was_there = match name {
            "system.posix_acl_access" => node.acl.take().is_some(),
            "system.posix_acl_default" => node.default_acl.take().is_some(),
            name => node.xattrs.remove(name).is_some(),
        };
        if !was_there {
            return Err(ErrorCode::NoSuchAttribute);
        }
        node.changed = now;
        Ok(Some(id))
    }

    pub(super) fn set_acl(&mut self, id: Id, default: bool, acl: ModelAcl) -> Answer {
        let now = self.now;
        let node = self.nodes.get_mut(&id).ok_or(ErrorCode::Stale)?;
        match (node.kind, default) {
            (FileKind::Symlink, _) => return Err(ErrorCode::Unsupported),
            (FileKind::Dir, _) | (_, false) => {}
            (_, true) => return Err(ErrorCode::AccessDenied),
        }
        if acl.named.is_some() && acl.mask.is_none() {
            return Err(ErrorCode::InvalidArgument);
        }
        if default {
            node.default_acl = Some(acl);
        } else {
            node.mode = node.mode / 512 * 512 + acl.mode();
            node.acl = Some(acl).filter(ModelAcl::says_more_than_a_mode);
        }
        node.changed = now;
        Ok(Some(id))
    }
}

fn may_have(kind: FileKind, name: &str) -> Result<(), ErrorCode> {
    let plain = matches!(kind, FileKind::Regular | FileKind::Dir);
    match name {
        _ if name.starts_with("user.") && !plain => Err(ErrorCode::NotPermitted),
        _ if name.starts_with("system.") && kind == FileKind::Symlink => {
            Err(ErrorCode::Unsupported)
        }
        "system.posix_acl_default" if kind != FileKind::Dir => Err(ErrorCode::AccessDenied),
        _ => Ok(()),
    }
}
