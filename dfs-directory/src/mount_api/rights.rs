//! Rights to keep what was answered about names and attributes; telling their holders of changes.
//!
//! The order of every change of a dir: the log has it; everybody else who has the dir's right is
//! told, and answers when neither it nor its kernel serves what was there before; the change is
//! answered. A holder that does not answer is waited for until its right to cache is over, or its
//! session has ended. A right is recorded before what is answered under it is read: so whoever
//! read the state before a change is told of it.

use super::dispatch::Delivery;
use super::{MountApi, next_change};
use crate::lease::dir_rights::{Holder, RightId};
use crate::namespace::{Changed, read};
use dfs_proto::attr::{FileAttr, FileKind, Keep};
use dfs_proto::error::{ErrorCode, Result};
use dfs_proto::ids::{InodeId, SessionId};
use dfs_proto::msg::callback::{DirChange, NamesChanged};
use dfs_proto::msg::namespace::{DirPage, DirPageEntry, Mutation, Seen};
use dfs_proto::msg::session::LeaseKind;
use dfs_proto::name::FileName;
use dfs_proto::payload::Payload;
use dfs_proto::timing::{RECALL_DEADLINE, RETRY_DELAY_MAX, SLOW_WAIT};
use dfs_proto::transport::Connection;
use std::collections::BTreeMap;
use std::time::Duration;

/// How often a holder that does not answer is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// One telling; a mount answers within milliseconds.
const ANSWER_DEADLINE: Duration = Duration::from_millis(1_000);

/// Entries of a listing that rights are given for while the leader's memory is locked.
const GRANTS_AT_ONCE: usize = 64;

/// Dirs that a mutation has changed, with the names in them (none: the dir's attributes only), and
/// dirs that are gone.
#[derive(Default, Debug)]
pub(super) struct DirChanges {
    changed: BTreeMap<InodeId, Vec<FileName>>,
    removed: Option<InodeId>,
}

/// What a mutation that was carried out has changed in dirs.
pub(super) fn dir_changes(mutation: &Mutation, changed: &Changed) -> DirChanges {
    let mut changes: BTreeMap<InodeId, Vec<FileName>> = BTreeMap::new();
    let mut removed = None;
    let named_dir = changed
        .attr
        .filter(|attr| attr.kind == FileKind::Dir)
        .map(|attr| attr.inode);
    match mutation {
        Mutation::Create { .. } if !changed.created => {}
        Mutation::SetSize { .. } | Mutation::Punch { .. } => {}
        Mutation::SetAttr { .. } | Mutation::SetXattr { .. } | Mutation::RemoveXattr { .. } => {
            changes.extend(named_dir.map(|dir| (dir, Vec::new())));
        }
        Mutation::Create { parent, name, .. }
        | Mutation::MakeNode { parent, name, .. }
        | Mutation::MakeDir { parent, name, .. }
        | Mutation::Symlink { parent, name, .. }
        | Mutation::Link { parent, name, .. }
        | Mutation::Unlink { parent, name, .. } => {
            changes.insert(*parent, vec![name.clone()]);
        }
        Mutation::RemoveDir { parent, name, .. } => {
            changes.insert(*parent, vec![name.clone()]);
            removed = named_dir.or(changed.orphaned);
        }
        Mutation::Rename {
            parent,
            name,
            new_parent,
            new_name,
            flags,
            ..
        } => {
            changes.entry(*parent).or_default().push(name.clone());
            changes
                .entry(*new_parent)
                .or_default()
                .push(new_name.clone());
            // A dir that moves or is replaced changes itself; for a file nobody has this right.
            let met = changed.replaced;
            for inode in named_dir.into_iter().chain(met.filter(|_| flags.exchange)) {
                changes.entry(inode).or_default();
            }
            removed = met.filter(|_| !flags.exchange);
        }
    }
    DirChanges {
        changed: changes,
        removed,
    }
}

impl MountApi {
    /// The right of a dir, if it is to be had: what is read after this may be kept.
    pub(super) fn keep_dir(&self, session: SessionId, dir: InodeId) -> Result<bool> {
        let mut core = self.alive(session)?;
        let (granted, ended) = core.rights.grant(self.now(), session, dir);
        let life = core.life;
        drop(core);
        if let Some((dir, holder)) = ended {
            self.end_right(life, dir, holder);
        }
        Ok(granted)
    }

    fn end_right(&self, life: u64, dir: InodeId, holder: Holder) {
        let news = vec![(dir, Vec::new(), holder)];
        let api = self.clone();
        tokio::spawn(async move { api.tell(life, holder.session, news).await });
    }

    /// What the session may keep of an inode: `attr` was read, and confirmed, before.
    pub(super) async fn see(
        &self,
        session: SessionId,
        attr: FileAttr,
        pushes: u64,
        delivery: &mut Delivery,
    ) -> Result<Seen> {
        let keep = self.keep_inode(session, &attr, delivery)?;
        if keep == Keep::Nothing {
            return self.see_only(session, attr, pushes).await;
        }
        // Read once more: the right counts from now on. No need to confirm the lead again: who
        // has lost it meanwhile grants what runs out before the next leader lets anything change.
        match self.reread(&attr) {
            Ok(Some(attr)) => Ok(Seen { attr, keep }),
            // The session may have held the lease before, so it stays: a holder that does not know
            // of it gives it back when it is asked.
            Ok(None) | Err(_) => self.see_only(session, attr, pushes).await,
        }
    }

    /// Attributes that are true at the answer, and not to be kept.
    async fn see_only(&self, session: SessionId, attr: FileAttr, pushes: u64) -> Result<Seen> {
        let quiet = attr.kind != FileKind::Regular || {
            let core = self.leading()?;
            let holder = core.leases.exclusive_holder(attr.inode);
            // A holder may have pushed and gone after the look: then it was too early.
            holder.is_none_or(|(holder, _)| holder == session)
                && core.pushes == pushes
                && !core.grace.blocks(attr.inode)
        };
        let attr = match quiet {
            true => attr,
            false => self.true_attr(session, attr.inode).await?,
        };
        Ok(Seen {
            attr,
            keep: Keep::Nothing,
        })
    }

    fn keep_inode(
        &self,
        session: SessionId,
        attr: &FileAttr,
        delivery: &mut Delivery,
    ) -> Result<Keep> {
        if attr.kind == FileKind::Dir {
            if attr.links == 0 {
                // Removed, and still open somewhere.
                return Ok(Keep::Nothing);
            }
            return Ok(match self.keep_dir(session, attr.inode)? {
                true => Keep::Dir,
                false => Keep::Nothing,
            });
        }
        let mut core = self.alive(session)?;
        let full = core.leases.held(session) >= super::core::SESSION_HOLDS_MAX;
        if full || core.grace.blocks(attr.inode) {
            return Ok(Keep::Nothing);
        }
        let granted = core
            .leases
            .try_lease(session, attr.inode, LeaseKind::Shared);
        // Under its own exclusive lease the session knows better itself.
        let granted = granted.filter(|granted| granted.kind == LeaseKind::Shared);
        Ok(match granted {
            Some(granted) => {
                delivery.0.push((session, attr.inode, granted.grant));
                Keep::Lease {
                    grant: granted.grant,
                    map_version: self.placement().map().version,
                }
            }
            None => Keep::Nothing,
        })
    }

    /// The recorded attributes now; `None` if the inode is gone, or a cut of it is not made yet:
    /// no lease is given out before it is.
    fn reread(&self, attr: &FileAttr) -> Result<Option<FileAttr>> {
        let (inode, kind) = (attr.inode, attr.kind);
        self.raft().read_local(move |tables| {
            if kind == FileKind::Regular && !read::intents_of(tables, inode)?.is_empty() {
                return Ok(None);
            }
            Ok(read::attr(tables, inode)?.ok())
        })
    }

    /// Gives what may be kept of the inodes of a page, and their attributes under it.
    pub(super) async fn keep_page(
        &self,
        session: SessionId,
        page: &mut DirPage,
        delivery: &mut Delivery,
    ) -> Result<()> {
        for entries in page.entries.chunks_mut(GRANTS_AT_ONCE) {
            for entry in entries {
                let DirPageEntry::Entry(entry) = entry else {
                    continue;
                };
                let Some(attr) = entry.attr else { continue };
                let keep = self.keep_inode(session, &attr, delivery)?;
                if keep == Keep::Nothing {
                    continue;
                }
                // Else the lease stays, as in `see`.
                if let Ok(Some(attr)) = self.reread(&attr) {
                    entry.attr = Some(attr);
                    entry.keep = keep;
                }
            }
            // A long page leaves the others their turn.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// The dirs among the changed ones whose right the session has, as they are now.
    pub(super) fn parents_for(
        &self,
        session: SessionId,
        mutation: &Mutation,
    ) -> [Option<FileAttr>; 2] {
        let dirs = match mutation {
            Mutation::Rename {
                parent, new_parent, ..
            } => [
                Some(*parent),
                Some(*new_parent).filter(|other| other != parent),
            ],
            Mutation::Create { parent, .. }
            | Mutation::MakeNode { parent, .. }
            | Mutation::MakeDir { parent, .. }
            | Mutation::Symlink { parent, .. }
            | Mutation::Link { parent, .. }
            | Mutation::Unlink { parent, .. }
            | Mutation::RemoveDir { parent, .. } => [Some(*parent), None],
            Mutation::SetAttr { .. }
            | Mutation::SetSize { .. }
            | Mutation::Punch { .. }
            | Mutation::SetXattr { .. }
            | Mutation::RemoveXattr { .. } => [None, None],
        };
        dirs.map(|dir| {
            let dir = dir.filter(|dir| self.core().rights.holds(session, *dir))?;
            let read = self
                .raft()
                .read_local(move |tables| Ok(read::attr(tables, dir)?.ok()));
            // Without them the mount asks.
            read.ok().flatten()
        })
    }

    /// Tells everybody who may keep what was changed, and waits until it is kept no more.
    pub(super) async fn tell_changes(&self, by: SessionId, changes: DirChanges) -> Result<()> {
        let DirChanges { changed, removed } = changes;
        if changed.is_empty() && removed.is_none() {
            return Ok(());
        }
        let mut told: BTreeMap<SessionId, Vec<(InodeId, Vec<FileName>, Holder)>> = BTreeMap::new();
        let life = {
            let mut core = self.leading()?;
            for (dir, names) in changed {
                for holder in core.rights.changed(self.now(), by, dir) {
                    let news = told.entry(holder.session).or_default();
                    news.push((dir, names.clone(), holder));
                }
            }
            if let Some(dir) = removed {
                for holder in core.rights.removed(by, dir) {
                    let news = told.entry(holder.session).or_default();
                    news.push((dir, Vec::new(), holder));
                }
            }
            core.life
        };
        let mut telling = tokio::task::JoinSet::new();
        let mut told = told.into_iter();
        let last = told.next_back();
        for (session, news) in told {
            let api = self.clone();
            telling.spawn(async move { api.tell(life, session, news).await });
        }
        if let Some((session, news)) = last {
            self.tell(life, session, news).await;
        }
        while telling.join_next().await.is_some() {}
        self.caches_of_earlier_leaders(life).await
    }

    /// Waits until nobody can serve what was cached under an earlier leader.
    async fn caches_of_earlier_leaders(&self, life: u64) -> Result<()> {
        let mut changes = self.changes();
        loop {
            let left = {
                let core = self.leading()?;
                if core.life != life {
                    // Another life began: who it told of this change is not known.
                    return Err(ErrorCode::NotLeader.into());
                }
                match core.grace.next_deadline(self.now()) {
                    None => return Ok(()),
                    Some(until) => until.saturating_sub(self.now()),
                }
            };
            let tick = Duration::from_millis(1);
            next_change(&mut changes, left.clamp(tick, RETRY_DELAY_MAX)).await;
        }
    }

    /// Tells one session; ends when it has answered, or when nothing of it counts any more.
    async fn tell(
        &self,
        life: u64,
        session: SessionId,
        news: Vec<(InodeId, Vec<FileName>, Holder)>,
    ) {
        let begun = self.now();
        let mut slow = false;
        let mut changes = self.changes();
        let rights: Vec<(InodeId, RightId, bool)> = news
            .iter()
            .map(|(dir, _, holder)| (*dir, holder.right, holder.keep))
            .collect();
        let request = NamesChanged {
            changes: news
                .into_iter()
                .map(|(dir, names, holder)| DirChange {
                    dir,
                    names,
                    keep: holder.keep,
                })
                .collect(),
        };
        while let Some(connection) = self.tell_target(life, session, &rights) {
            if let Some(connection) = connection {
                match connection
                    .call(&request, Payload::default(), ANSWER_DEADLINE)
                    .await
                {
                    Ok(_) => {
                        let mut core = self.core();
                        for (dir, right, _) in rights.iter().filter(|(_, _, keep)| !keep) {
                            core.rights.told_to_end(self.now(), session, *dir, *right);
                        }
                        return;
                    }
                    Err(e) => log::debug!("telling {session} of changed names: {e}"),
                }
            }
            let waited = self.now().saturating_sub(begun);
            if waited >= RECALL_DEADLINE {
                let why = format!("it has not answered for {waited:?} that names have changed");
                self.end_session(session, &why);
            }
            self.press(session, "a change of names");
            if !slow && waited >= SLOW_WAIT {
                slow = true;
                log::warn!("a change of names waits for {session}, which may still show old ones");
            }
            next_change(&mut changes, LOOK).await;
        }
    }

    /// Where to tell it; `None` when nothing is kept under these rights any more.
    fn tell_target(
        &self,
        life: u64,
        session: SessionId,
        rights: &[(InodeId, RightId, bool)],
    ) -> Option<Option<Connection>> {
        let core = self.core();
        let kept = rights
            .iter()
            .any(|(dir, right, _)| core.rights.counts(session, *dir, *right));
        (core.life == life && kept).then(|| core.connection(session))
    }
}
