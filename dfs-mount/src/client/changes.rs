//! Changes of names and attributes by this mount, and what it knows of them afterwards.

use super::core::Core;
use super::dir_cache::{Asked, Name};
use super::guard::lock;
use super::lease::Held;
use super::lease_use::Since;
use super::link::Up;
use super::types::{AttrAnswer, AttrRight, Created, EntryAnswer, OpenMode};
use dfs_proto::attr::{FileAttr, FileKind, Keep, SetAttr};
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::InodeId;
use dfs_proto::msg::namespace::{Creator, Mutated, Mutation, Seen};
use dfs_proto::msg::session::LeaseGrant;
use dfs_proto::name::FileName;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The names that a mutation is about, with their dirs, the first parent first.
fn names_of(mutation: &Mutation) -> Vec<(InodeId, FileName)> {
    match mutation {
        Mutation::Create { parent, name, .. }
        | Mutation::MakeNode { parent, name, .. }
        | Mutation::MakeDir { parent, name, .. }
        | Mutation::Symlink { parent, name, .. }
        | Mutation::Link { parent, name, .. }
        | Mutation::Unlink { parent, name, .. }
        | Mutation::RemoveDir { parent, name, .. } => vec![(*parent, name.clone())],
        Mutation::Rename {
            parent,
            name,
            new_parent,
            new_name,
            ..
        } => vec![(*parent, name.clone()), (*new_parent, new_name.clone())],
        Mutation::SetAttr { .. }
        | Mutation::SetSize { .. }
        | Mutation::Punch { .. }
        | Mutation::SetXattr { .. }
        | Mutation::RemoveXattr { .. } => Vec::new(),
    }
}

/// The inode whose attributes, or extended ones, a mutation is about.
fn attributes_of(mutation: &Mutation) -> Option<InodeId> {
    match mutation {
        Mutation::SetAttr { inode, .. }
        | Mutation::SetXattr { inode, .. }
        | Mutation::RemoveXattr { inode, .. } => Some(*inode),
        _ => None,
    }
}

/// What the names are after it was carried out, in the order of `names_of`.
fn names_after(mutation: &Mutation, mutated: &Mutated) -> Vec<Name> {
    let inode = mutated.attr.map(|attr| attr.inode);
    let is = inode.map_or(Name::Unknown, Name::Is);
    match mutation {
        Mutation::Create { .. } if !mutated.created => vec![Name::Unknown],
        Mutation::Create { .. }
        | Mutation::MakeNode { .. }
        | Mutation::MakeDir { .. }
        | Mutation::Symlink { .. }
        | Mutation::Link { .. } => vec![is],
        Mutation::Unlink { .. } | Mutation::RemoveDir { .. } => vec![Name::Absent],
        Mutation::Rename { flags, .. } => {
            // Between two names of one inode nothing happens: then both are still there.
            let linked = mutated
                .attr
                .is_none_or(|attr| attr.kind != FileKind::Dir && attr.links > 1);
            match flags.exchange || linked {
                true => vec![Name::Unknown, Name::Unknown],
                false => vec![Name::Absent, is],
            }
        }
        Mutation::SetAttr { .. }
        | Mutation::SetSize { .. }
        | Mutation::Punch { .. }
        | Mutation::SetXattr { .. }
        | Mutation::RemoveXattr { .. } => Vec::new(),
    }
}

impl Core {
    /// A change of names, in the background: a caller that goes away leaves it running, so that
    /// its outcome is defined. Answers with the inode's attributes, if it has some.
    pub(super) async fn change(self: &Arc<Self>, mutation: Mutation) -> Result<EntryAnswer> {
        let core = self.clone();
        let changed = self.names.spawn(async move {
            let (mutated, since, up, names) = core.mutate_here(mutation).await?;
            let found = match mutated.attr {
                Some(attr) => Some(core.present_changed(attr, &mutated, since, &up).await?),
                None => None,
            };
            Ok(EntryAnswer { found, names })
        });
        let result = changed.await;
        result.unwrap_or_else(|e| Err(Error::new(ErrorCode::Internal, e.to_string())))
    }

    /// Carries out a change and takes note of it. Also returns under what the (first) name may be
    /// kept.
    async fn mutate_here(
        self: &Arc<Self>,
        mutation: Mutation,
    ) -> Result<(Mutated, Since, Arc<Up>, Option<(InodeId, Asked)>)> {
        let since = self.since();
        lock(&self.dirs).begin_change(&names_of(&mutation));
        match self.mutate(mutation.clone()).await {
            Ok((mutated, up)) => {
                let names = self.note_change(&mutation, &mutated, since, &up);
                Ok((mutated, since, up, names))
            }
            Err(error) => {
                // Refused, or in doubt: what was known of the names was wrong, or may be now.
                let mut dirs = lock(&self.dirs);
                for (dir, name) in names_of(&mutation) {
                    dirs.changed_here(dir, &[(name, Name::Unknown)], None, since.names);
                }
                if let Some(inode) = attributes_of(&mutation) {
                    dirs.unlearn_attr(inode);
                    drop(dirs);
                    self.note_attr(inode, None, since);
                }
                Err(error)
            }
        }
    }

    fn note_change(
        &self,
        mutation: &Mutation,
        mutated: &Mutated,
        since: Since,
        up: &Up,
    ) -> Option<(InodeId, Asked)> {
        let made = mutated
            .attr
            .filter(|_| mutated.dir && self.grants(up, since));
        // The directory answers with a parent only if its right is held, and with what it is now.
        let grants = self.grants(up, since);
        let names = names_of(mutation);
        let after = names_after(mutation, mutated);
        let mut kept = None;
        {
            let mut dirs = lock(&self.dirs);
            if let Some(dir) = made
                && dirs.granted(dir.inode, since.names)
            {
                dirs.learn_attr(&dir, since.names);
                dirs.learn_empty(dir.inode, since.names);
            }
            let same_dir = names.len() == 2 && names[0].0 == names[1].0;
            let named: Vec<(InodeId, (FileName, Name))> = names
                .into_iter()
                .zip(after)
                .map(|((dir, name), is)| (dir, (name, is)))
                .collect();
            let mut parents = mutated.parents.iter().map(|attr| attr.filter(|_| grants));
            if same_dir {
                let dir = named[0].0;
                let both: Vec<_> = named.into_iter().map(|(_, name)| name).collect();
                let attr = parents.next().flatten().filter(|attr| attr.inode == dir);
                dirs.changed_here(dir, &both, attr, since.names);
            } else {
                for (dir, name) in named {
                    let attr = parents.next().flatten().filter(|attr| attr.inode == dir);
                    let now = dirs.changed_here(dir, &[name], attr, since.names);
                    kept = kept.or(now.map(|now| (dir, now)));
                }
            }
            match (mutation, mutated.attr) {
                (change, Some(attr))
                    if attributes_of(change).is_some() && attr.kind == FileKind::Dir =>
                {
                    dirs.changed_here(attr.inode, &[], Some(attr), since.names);
                }
                (Mutation::RemoveDir { .. }, Some(attr)) => dirs.removed(attr.inode),
                (Mutation::Rename { flags, .. }, attr) => {
                    if let Some(attr) = attr {
                        dirs.unlearn_attr(attr.inode);
                    }
                    match mutated.replaced {
                        Some(met) if flags.exchange => dirs.unlearn_attr(met),
                        Some(met) => dirs.removed(met),
                        None => {}
                    }
                }
                _ => {}
            }
        }
        if let Some(replaced) = mutated.replaced {
            let exchanged = matches!(mutation, Mutation::Rename { flags, .. } if flags.exchange);
            if let Some(inode) = self.inodes.get(replaced).filter(|_| !exchanged) {
                inode.state().lost_a_name();
            }
            self.note_attr(replaced, None, since);
        }
        if let Some(attr) = mutated.attr
            && attr.kind != FileKind::Dir
            && mutated.lease.is_none()
        {
            self.note_attr(attr.inode, Some(&attr), since);
            if attr.links == 0
                && let Some(inode) = self.inodes.get(attr.inode)
            {
                inode.state().nameless = true;
            }
        }
        kept
    }

    /// This mount has changed the attributes of a file.
    fn note_attr(&self, inode: InodeId, attr: Option<&FileAttr>, since: Since) {
        let now = self.attr_changes.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some(inode) = self.inodes.get(inode) {
            inode.state().changed_here(attr, since.attrs, now);
        }
    }

    /// The attributes of what was made or changed.
    async fn present_changed(
        self: &Arc<Self>,
        attr: FileAttr,
        mutated: &Mutated,
        since: Since,
        up: &Up,
    ) -> Result<AttrAnswer> {
        if attr.kind == FileKind::Dir {
            let dirs = lock(&self.dirs);
            // As it is kept now, if it is: the answer's own moment has passed.
            let right = match dirs.attr(attr.inode) {
                Some((known, asked)) if known == attr => AttrRight::Dir(asked),
                _ => AttrRight::None,
            };
            return Ok(AttrAnswer::new(attr, right));
        }
        match mutated.lease {
            Some(LeaseGrant {
                grant, map_version, ..
            }) => {
                let keep = Keep::Lease { grant, map_version };
                self.present(Seen { attr, keep }, since, up).await
            }
            None => {
                if let Some(kept) = self.attr_kept(attr.inode) {
                    return Ok(kept);
                }
                let over = self
                    .inodes
                    .get(attr.inode)
                    .map(|inode| inode.state().over(&attr));
                Ok(AttrAnswer::unprotected(over.unwrap_or(attr)))
            }
        }
    }

    /// Attributes other than the size; the ctime changes also if there are none, as it does for a
    /// chown that names neither user nor group. What is unpushed goes first, so that times that are set
    /// now are not overwritten by an earlier write's.
    pub(super) async fn set_attr(
        self: &Arc<Self>,
        id: InodeId,
        set: SetAttr,
    ) -> Result<AttrAnswer> {
        if let Some(inode) = self.inodes.get(id) {
            self.push(&inode).await?;
        }
        let changed = self.change(Mutation::SetAttr { inode: id, set }).await?;
        expect_attr(changed.found, id)
    }

    pub(super) async fn create(
        self: &Arc<Self>,
        parent: InodeId,
        name: FileName,
        mode: u16,
        creator: Creator,
        exclusive: bool,
        open: OpenMode,
    ) -> Result<Created> {
        let core = self.clone();
        let created = self.names.spawn(async move {
            let mutation = Mutation::Create {
                parent,
                name,
                mode,
                creator,
                exclusive,
            };
            core.create_now(mutation, open).await
        });
        let result = created.await;
        result.unwrap_or_else(|e| Err(Error::new(ErrorCode::Internal, e.to_string())))
    }

    async fn create_now(self: &Arc<Self>, mutation: Mutation, mode: OpenMode) -> Result<Created> {
        let (mutated, since, up, names) = self.mutate_here(mutation).await?;
        let attr = mutated.attr.ok_or_else(|| {
            Error::new(
                ErrorCode::Internal,
                "a create was answered without attributes",
            )
        })?;
        let inode = self.inodes.entry(attr.inode);
        // The directory has recorded an open of the session. For a file that was there before, a
        // close of an earlier open may have come behind that: then it is asked for again.
        let handle = if mutated.created {
            inode.state().open_in(up.session.life);
            self.opened(&inode, mode)
        } else {
            self.open_now(attr.inode, mode).await?
        };
        if let Some(grant) = &mutated.lease {
            self.accept_created(&handle.0.inode, grant, &up, since, mutated.created)
                .await;
        }
        let answer = match self.attr_kept(attr.inode) {
            Some(kept) => kept,
            None => {
                let keep = Keep::Nothing;
                self.present(Seen { attr, keep }, since, &up).await?
            }
        };
        Ok(Created {
            handle,
            attr: answer,
            created: mutated.created,
            names,
        })
    }

    async fn accept_created(
        &self,
        inode: &super::inode::Inode,
        grant: &LeaseGrant,
        up: &Up,
        since: Since,
        created: bool,
    ) {
        let accepted = self.accept_grant(inode, grant, up, since).await;
        let mut state = inode.state();
        let held = state.lease.held();
        if accepted && created && held.map(|h: Held| h.grant) == Some(grant.grant) {
            // Nobody can have written a file that was not there.
            state.others_synced = true;
        }
    }
}

pub(super) fn expect_attr(answer: Option<AttrAnswer>, inode: InodeId) -> Result<AttrAnswer> {
    answer.ok_or_else(|| {
        Error::new(
            ErrorCode::Internal,
            format!("{inode}: a change was answered without attributes"),
        )
    })
}
