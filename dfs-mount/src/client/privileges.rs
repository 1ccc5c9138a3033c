//! setuid, setgid and file capabilities go with a write by somebody who may not keep them.
//!
//! The kernel does this by itself only for files that it writes through its page cache, so a
//! direct write has to look. It looks under the exclusive lease, so that no `chmod` of another
//! host comes between the look and the write.

use super::core::Core;
use super::inode::Inode;
use dfs_proto::attr::{FileAttr, FileKind, SetAttr};
use dfs_proto::error::{ErrorCode, Result};
use dfs_proto::ids::InodeId;
use dfs_proto::msg::namespace::Mutation;
use dfs_proto::xattr::{XattrKinds, XattrName};
use std::fmt;
use std::sync::Arc;

const SETUID: u16 = 0o4000;
const SETGID: u16 = 0o2000;
const GROUP_EXECUTE: u16 = 0o010;

const CAPABILITY: &[u8] = b"security.capability";

/// What a caller may keep of a file that it writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Keeps {
    /// Everything but capabilities (CAP_FSETID).
    pub set_ids: bool,
    /// It is of the file's group.
    pub group: bool,
}

/// On whose behalf something is written. What it may keep of a file of some group is asked only
/// where that makes a difference.
#[derive(Clone)]
pub struct Writer(Option<Arc<dyn Fn(u32) -> Keeps + Send + Sync>>);

impl Writer {
    /// Nobody to be judged: what the kernel writes out for a map.
    pub const KERNEL: Self = Self(None);

    /// A caller; `keeps` is given the file's group.
    pub fn caller(keeps: impl Fn(u32) -> Keeps + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(keeps)))
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Writer({})", self.0.is_some())
    }
}

/// What a write takes away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Lost {
    set_ids: u16,
    capability: bool,
}

/// setgid without execution by the group stays with a writer of the group: it makes nobody run
/// anything.
fn lost(attr: &FileAttr, keeps: impl FnOnce(u32) -> Keeps) -> Option<Lost> {
    if attr.kind != FileKind::Regular {
        return None;
    }
    let set_ids = match attr.mode & (SETUID | SETGID) {
        0 => 0,
        bits => match keeps(attr.gid) {
            Keeps { set_ids: true, .. } => 0,
            Keeps { group: true, .. } if attr.mode & GROUP_EXECUTE == 0 => bits & SETUID,
            _ => bits,
        },
    };
    let capability = attr.xattrs.have(XattrKinds::CAPABILITY);
    let lost = Lost {
        set_ids,
        capability,
    };
    (set_ids != 0 || capability).then_some(lost)
}

impl Core {
    /// What is written under the lease of this inode now: whether the file has nothing that the
    /// writer must take away. Attributes that are not known are no answer: `false`.
    pub(super) fn may_write(&self, inode: &Inode, writer: &Writer) -> bool {
        let Some(keeps) = &writer.0 else {
            return true;
        };
        let known = inode.state().attr_under_lease();
        known.is_some_and(|attr| lost(&attr, |group| keeps(group)).is_none())
    }

    /// Takes away what the writer may not keep.
    pub(super) async fn drop_privileges(
        self: &Arc<Self>,
        inode: InodeId,
        writer: &Writer,
    ) -> Result<()> {
        let Some(keeps) = &writer.0 else {
            return Ok(());
        };
        let attr = self.attr_of(inode).await?;
        let Some(lost) = lost(&attr, |group| keeps(group)) else {
            return Ok(());
        };
        if lost.set_ids != 0 {
            let set = SetAttr {
                mode: Some(attr.mode & !lost.set_ids),
                ..SetAttr::default()
            };
            self.set_attr(inode, set).await?;
        }
        if lost.capability {
            let name = XattrName::new(CAPABILITY).map_err(|_| ErrorCode::Internal)?;
            match self.change(Mutation::RemoveXattr { inode, name }).await {
                // Somebody else was faster.
                Err(e) if e.code == ErrorCode::NoSuchAttribute => {}
                removed => drop(removed?),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::authority::test_attr;
    use super::*;

    fn with(mode: u16, xattrs: XattrKinds) -> FileAttr {
        FileAttr {
            mode,
            xattrs,
            ..test_attr(1)
        }
    }

    #[test]
    fn bits_go_unless_the_writer_may_keep_them_and_capabilities_always() {
        let none = XattrKinds::NONE;
        let never = |_| unreachable!("nobody is looked at without a reason");
        let keeps = |set_ids, group| move |_| Keeps { set_ids, group };
        let lost = |mode, xattrs, keeps: &dyn Fn(u32) -> Keeps| lost(&with(mode, xattrs), keeps);
        let bits = |set_ids| {
            let capability = false;
            Some(Lost {
                set_ids,
                capability,
            })
        };
        assert_eq!(lost(0o777, none, &never), None);
        assert_eq!(lost(0o6777, none, &keeps(false, false)), bits(0o6000));
        assert_eq!(lost(0o6777, none, &keeps(false, true)), bits(0o6000));
        assert_eq!(lost(0o6766, none, &keeps(false, true)), bits(0o4000));
        assert_eq!(lost(0o2766, none, &keeps(false, true)), None);
        assert_eq!(lost(0o2766, none, &keeps(false, false)), bits(0o2000));
        assert_eq!(lost(0o6777, none, &keeps(true, false)), None);
        let capability = Some(Lost {
            set_ids: 0,
            capability: true,
        });
        let has = XattrKinds::CAPABILITY;
        assert_eq!(lost(0o6777, has, &keeps(true, true)), capability);
        assert_eq!(lost(0o755, has, &never), capability);
    }
}
