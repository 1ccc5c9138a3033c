//! Extended attributes: what is not there is known from the attributes that are kept; values are
//! asked for.
//!
//! The attributes say which kinds there are, and are kept under a right like all others: so the
//! kernel's questions for ACLs and capabilities, which mostly are not there, cost no round trip,
//! and a change by another mount is seen at once. Values are never kept here.
//!
//! The kernel keeps ACLs, without a time to live, and drops them with the attributes. So those of
//! files are answered under the shared lease, which is waited for if need be: it goes only when the
//! kernel has dropped them. A dir has a right that may not be had (a hot dir). Then the kernel's
//! attributes have no time to live, and it refreshes them, and drops its ACL, before it judges.

use super::call::Wait;
use super::changes::expect_attr;
use super::core::Core;
use super::types::XattrValue;
use dfs_proto::attr::FileKind;
use dfs_proto::error::{ErrorCode, Result};
use dfs_proto::ids::InodeId;
use dfs_proto::msg::namespace::{GetXattr, ListXattrs, Mutation};
use dfs_proto::msg::session::LeaseKind;
use dfs_proto::xattr::{XattrKinds, XattrName};
use std::sync::Arc;

impl Core {
    /// Whether what is kept of the attributes says that it is not there.
    pub(super) fn lacks_xattr(&self, inode: InodeId, name: &XattrName) -> bool {
        self.attr_kept(inode)
            .is_some_and(|kept| !kept.attr.xattrs.have(name.kind()))
    }

    pub(super) async fn get_xattr(
        self: &Arc<Self>,
        inode: InodeId,
        name: XattrName,
    ) -> Result<XattrValue> {
        // Brings the right along by which the next question for what is not there costs nothing.
        let attr = self.attr_of(inode).await?;
        if attr.kind == FileKind::Dir || !is_acl(&name) {
            let value = match attr.xattrs.have(name.kind()) {
                true => self.value(inode, &name).await?,
                false => None,
            };
            return Ok(XattrValue { value, right: None });
        }
        let known = self.inodes.entry(inode);
        loop {
            let right = self.lease(&known, LeaseKind::Shared, false).await?;
            let value = match self.lacks_xattr(inode, &name) {
                true => None,
                false => self.value(inode, &name).await?,
            };
            // What was asked for under a right that is over may be old by now.
            if right.is_valid() && !self.right_left().is_zero() {
                let right = Some(right);
                return Ok(XattrValue { value, right });
            }
        }
    }

    /// The value that the directory has.
    async fn value(&self, inode: InodeId, name: &XattrName) -> Result<Option<Vec<u8>>> {
        let asked = self.ask(Wait::Short, |_| GetXattr {
            inode,
            name: name.clone(),
        });
        match asked.await {
            Ok((value, _)) => Ok(Some(value)),
            Err(e) if e.code == ErrorCode::NoSuchAttribute => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub(super) async fn list_xattrs(self: &Arc<Self>, inode: InodeId) -> Result<Vec<XattrName>> {
        let attr = self.attr_of(inode).await?;
        if attr.xattrs == XattrKinds::NONE {
            return Ok(Vec::new());
        }
        Ok(self.ask(Wait::Short, |_| ListXattrs { inode }).await?.0)
    }

    /// Sets or removes one.
    pub(super) async fn change_xattr(
        self: &Arc<Self>,
        inode: InodeId,
        mutation: Mutation,
    ) -> Result<()> {
        let changed = self.change(mutation).await?;
        expect_attr(changed.found, inode).map(|_| ())
    }
}

fn is_acl(name: &XattrName) -> bool {
    matches!(name, XattrName::AccessAcl | XattrName::DefaultAcl)
}
