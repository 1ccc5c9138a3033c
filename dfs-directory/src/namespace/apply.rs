//! From a command to the operation that executes it.

use super::inodes::{Done, settle};
use super::records::{ChangedRecord, Effect};
use super::{
    Changed, NamespaceCommand, NamespaceOutcome, attributes, create, dirs, format, intents, link,
    rename, size, xattrs,
};
use crate::session::{ledger, read::check_alive};
use crate::state::tables::{TableError, Write};
use dfs_proto::attr::Timestamp;
use dfs_proto::msg::namespace::Mutation;
use dfs_proto::msg::session::Stamp;

/// Applies one command. An `Err` means that the tables failed.
pub fn apply(
    tables: &mut dyn Write,
    now: Timestamp,
    command: &NamespaceCommand,
) -> Result<NamespaceOutcome, TableError> {
    use NamespaceCommand as C;
    let result = match command {
        C::Mutate { stamp, mutation } => {
            return stamped(tables, stamp, |tables| mutate(tables, now, stamp, mutation));
        }
        C::Push { stamp, inode, push } => {
            return stamped(tables, stamp, |tables| {
                size::push(tables, now, *inode, push)
            });
        }
        C::PushAnswered {
            session,
            inode,
            push,
        } => match check_alive(tables, *session)? {
            Ok(()) => size::push(tables, now, *inode, push),
            Err(code) => Err(code.into()),
        },
        C::Format(format) => format::format(tables, now, *format),
        C::CutDone { inode, generation } => intents::end(tables, *inode, *generation),
        C::FreeDone { inode } => intents::end_free(tables, *inode),
        C::Settle { inode, end } => size::settle(tables, now, *inode, *end),
        C::FreeOrphan { inode } => intents::free_orphan(tables, *inode),
    };
    let effect = settle(result)?;
    let tell = |effect| Changed::from(ChangedRecord::from(effect));
    Ok(NamespaceOutcome(effect.map(tell)))
}

fn stamped(
    tables: &mut dyn Write,
    stamp: &Stamp,
    run: impl FnOnce(&mut dyn Write) -> Done<Effect>,
) -> Result<NamespaceOutcome, TableError> {
    let result = ledger::once(tables, stamp, |tables| {
        Ok(settle(run(tables))?.map(ChangedRecord::from))
    })?;
    Ok(NamespaceOutcome(result.map(Changed::from)))
}

fn mutate(
    tables: &mut dyn Write,
    now: Timestamp,
    stamp: &Stamp,
    mutation: &Mutation,
) -> Done<Effect> {
    use Mutation as M;
    match mutation {
        M::Create {
            parent,
            name,
            mode,
            creator,
            exclusive,
        } => {
            let file = create::NewInode {
                parent: *parent,
                name,
                mode: *mode,
                creator: *creator,
            };
            create::create(tables, now, stamp.session, &file, *exclusive)
        }
        M::MakeNode {
            parent,
            name,
            kind,
            mode,
            device,
            creator,
        } => {
            let file = create::NewInode {
                parent: *parent,
                name,
                mode: *mode,
                creator: *creator,
            };
            create::make_node(tables, now, &file, *kind, *device)
        }
        M::MakeDir {
            parent,
            name,
            mode,
            creator,
        } => {
            let file = create::NewInode {
                parent: *parent,
                name,
                mode: *mode,
                creator: *creator,
            };
            dirs::make(tables, now, &file)
        }
        M::Symlink {
            parent,
            name,
            target,
            creator,
        } => create::symlink(tables, now, (*parent, name), target, *creator),
        M::Link {
            inode,
            parent,
            name,
        } => link::link(tables, now, *inode, (*parent, name)),
        M::Unlink { parent, name, .. } => link::unlink(tables, now, (*parent, name)),
        M::RemoveDir { parent, name, .. } => dirs::remove(tables, now, (*parent, name)),
        M::Rename {
            parent,
            name,
            new_parent,
            new_name,
            flags,
            ..
        } => {
            let (from, to) = ((*parent, name), (*new_parent, new_name));
            rename::rename(tables, now, from, to, *flags)
        }
        M::SetAttr { inode, set } => attributes::set(tables, now, *inode, set),
        M::SetSize {
            inode,
            size,
            modified,
        } => size::set(tables, now, *inode, *size, *modified),
        M::Punch { inode, from, to } => size::punch(tables, now, *inode, *from..*to),
        M::SetXattr {
            inode,
            name,
            value,
            only,
            drop_setgid,
        } => {
            let new = xattrs::NewValue {
                name,
                value,
                only: *only,
                drop_setgid: *drop_setgid,
            };
            xattrs::set(tables, now, *inode, &new)
        }
        M::RemoveXattr { inode, name } => xattrs::remove(tables, now, *inode, name),
    }
}
