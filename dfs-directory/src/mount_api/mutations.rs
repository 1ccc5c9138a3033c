//! Changes of the namespace.
//!
//! A change of names or of a dir is told to whoever may keep them before it is answered
//! (`rights`). A change of an existing inode's attributes first takes the leases of other sessions on it out
//! of the way (`hold`), so that nobody uses cached attributes once the change is visible. For a
//! name the inode is looked up first; should the log then find another one behind the name, that
//! one's leases are taken out of the way before the answer.

use super::MountApi;
use super::dispatch::Delivery;
use super::holds::Hold;
use super::rights::dir_changes;
use crate::namespace::{Changed, NamespaceCommand, NamespaceOutcome, read};
use crate::state::{Change, Outcome};
use dfs_proto::attr::{FileAttr, FileKind, Keep};
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{InodeId, MapVersion, SessionId};
use dfs_proto::msg::namespace::{Mutate, Mutated, Mutation};
use dfs_proto::msg::session::{LeaseGrant, LeaseKind};
use dfs_proto::name::FileName;
use std::collections::BTreeSet;

impl MountApi {
    /// Commits a namespace command; a refusal becomes the error.
    pub(super) async fn commit_namespace(&self, command: NamespaceCommand) -> Result<Changed> {
        match self.raft().commit(Change::Namespace(command)).await? {
            Outcome::Namespace(NamespaceOutcome(result)) => result.map_err(Error::from),
            other => Err(Error::new(
                ErrorCode::Internal,
                format!("answered with {other:?}"),
            )),
        }
    }

    pub(super) async fn mutate(self, request: Mutate) -> (Result<Mutated>, Delivery) {
        let mut delivery = Delivery::default();
        let result = Box::pin(self.try_mutate(request, &mut delivery)).await;
        (result, delivery)
    }

    async fn try_mutate(&self, request: Mutate, delivery: &mut Delivery) -> Result<Mutated> {
        let session = request.stamp.session;
        drop(self.alive(session)?);
        let resolved = self.resolve(&request.mutation).await?;
        // In the order of their numbers, so that two changes never wait for each other.
        let mut holds: Vec<Hold> = Vec::new();
        for inode in &resolved {
            holds.push(self.hold(session, *inode).await?);
        }
        match &request.mutation {
            Mutation::Create { .. } => return self.create(request, delivery).await,
            Mutation::SetSize { inode, .. } | Mutation::Punch { inode, .. } => {
                // An answer to a question that is on its way may be older than this.
                let mut core = self.core();
                if core.asks.is_asking(*inode) {
                    core.overtaken.insert(*inode);
                }
            }
            _ => {}
        }
        let Mutate { stamp, mutation } = request;
        let command = NamespaceCommand::Mutate {
            stamp,
            mutation: mutation.clone(),
        };
        let changed = self.commit_namespace(command).await?;
        self.follow(session, &mutation, changed, (resolved, holds), delivery)
            .await
            .map_err(executed)
    }

    /// What follows from a change that is in the log, and its answer.
    async fn follow(
        &self,
        session: SessionId,
        mutation: &Mutation,
        changed: Changed,
        (resolved, mut holds): (BTreeSet<InodeId>, Vec<Hold>),
        delivery: &mut Delivery,
    ) -> Result<Mutated> {
        let mut map_version = MapVersion(0);
        if let (Some(generation), Some(attr)) = (changed.cut, &changed.attr) {
            self.placement().intents_changed();
            self.placement().cut_done(attr.inode, generation).await?;
            map_version = self.placement().map().version;
        }
        if removed_name(mutation) {
            let touched = touched_by_name(&changed);
            if !touched.is_subset(&resolved) {
                // Another inode came behind the name in between.
                holds.clear();
                for inode in touched.difference(&resolved) {
                    holds.push(self.hold(session, *inode).await?);
                }
            }
        }
        drop(holds);
        if let Some(inode) = changed.orphaned {
            self.orphaned(inode);
        }
        self.tell_changes(session, dir_changes(mutation, &changed))
            .await?;
        let parents = self.parents_for(session, mutation);
        let mut mutated = Mutated {
            parents,
            replaced: changed.replaced,
            map_version,
            ..plain(changed.attr)
        };
        if let Some(attr) = changed.attr
            && makes_inode(mutation)
        {
            self.keep_made(session, attr, &mut mutated, delivery)
                .await?;
        }
        Ok(mutated)
    }

    /// What was made is looked at next: its maker may keep it.
    async fn keep_made(
        &self,
        session: SessionId,
        attr: FileAttr,
        mutated: &mut Mutated,
        delivery: &mut Delivery,
    ) -> Result<()> {
        let pushes = self.alive(session)?.pushes;
        match self.see(session, attr, pushes, delivery).await {
            Ok(seen) => {
                mutated.attr = Some(seen.attr);
                mutated.dir = seen.keep == Keep::Dir;
                if let Keep::Lease { grant, map_version } = seen.keep {
                    mutated.lease = Some(LeaseGrant {
                        grant,
                        kind: LeaseKind::Shared,
                        attr: seen.attr,
                        map_version,
                        contended: false,
                    });
                }
                Ok(())
            }
            // Somebody has removed it already; it was made all the same.
            Err(e) if e.code == ErrorCode::Stale => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// The inodes whose attributes the mutation changes, as far as the names lead to them now.
    async fn resolve(&self, mutation: &Mutation) -> Result<BTreeSet<InodeId>> {
        let names: Vec<(InodeId, FileName)> = match mutation {
            Mutation::SetAttr { inode, .. }
            | Mutation::SetSize { inode, .. }
            | Mutation::Punch { inode, .. }
            | Mutation::SetXattr { inode, .. }
            | Mutation::RemoveXattr { inode, .. }
            | Mutation::Link { inode, .. } => return Ok(BTreeSet::from([*inode])),
            Mutation::Unlink { parent, name, .. } => vec![(*parent, name.clone())],
            Mutation::Rename {
                parent,
                name,
                new_parent,
                new_name,
                ..
            } => {
                vec![(*parent, name.clone()), (*new_parent, new_name.clone())]
            }
            Mutation::Create { .. }
            | Mutation::MakeNode { .. }
            | Mutation::MakeDir { .. }
            | Mutation::Symlink { .. }
            | Mutation::RemoveDir { .. } => return Ok(BTreeSet::new()),
        };
        self.look(move |tables| {
            let mut inodes = BTreeSet::new();
            for (parent, name) in names {
                // What is not there is for the command to refuse, and to remember.
                if let Ok(attr) = read::lookup(tables, parent, Some(&name))?
                    && attr.kind != FileKind::Dir
                {
                    inodes.insert(attr.inode);
                }
            }
            Ok(Ok(inodes))
        })
        .await
    }

    async fn create(&self, request: Mutate, delivery: &mut Delivery) -> Result<Mutated> {
        let Mutate { stamp, mutation } = request;
        let session = stamp.session;
        let command = NamespaceCommand::Mutate {
            stamp,
            mutation: mutation.clone(),
        };
        let changed = self.commit_namespace(command).await?;
        self.follow_create(session, &mutation, changed, delivery)
            .await
            .map_err(executed)
    }

    /// The same for a file that was made or found, and is open now.
    async fn follow_create(
        &self,
        session: SessionId,
        mutation: &Mutation,
        changed: Changed,
        delivery: &mut Delivery,
    ) -> Result<Mutated> {
        let attr: FileAttr = changed.attr.ok_or(ErrorCode::Stale)?;
        let inode = attr.inode;
        self.record_open(session, inode)?;
        if !changed.created {
            return match self.true_attr(session, inode).await {
                Ok(attr) => Ok(plain(Some(attr))),
                Err(e) => {
                    if e.code == ErrorCode::Stale {
                        self.core().opens.close(session, inode);
                    }
                    Err(e)
                }
            };
        }
        let granted = {
            let mut core = self.alive(session)?;
            // The command has recorded the interest; nobody can have cached a new inode.
            core.interest.logged(session, inode);
            core.leases.try_lease(session, inode, LeaseKind::Exclusive)
        };
        self.tell_changes(session, dir_changes(mutation, &changed))
            .await?;
        let parents = self.parents_for(session, mutation);
        let lease = match granted {
            Some(granted) => Some(self.grant_answer(session, inode, granted, delivery).await?),
            None => None,
        };
        let attr = match &lease {
            Some(lease) => lease.attr,
            None => self.true_attr(session, inode).await?,
        };
        Ok(Mutated {
            created: true,
            lease,
            parents,
            ..plain(Some(attr))
        })
    }

    /// An inode has lost its last name.
    fn orphaned(&self, inode: InodeId) {
        self.core().orphans.insert(inode);
        self.shared.orphans.notify_one();
    }
}

/// A failure after the change was executed. Who hears that this is not the leader, or that the session
/// has ended, takes it for a change that never was, and may make it again under a new session.
fn executed(error: Error) -> Error {
    match error.code {
        ErrorCode::NotLeader | ErrorCode::SessionEnded => {
            Error::new(ErrorCode::AnswerLost, error.to_string())
        }
        _ => error,
    }
}

fn plain(attr: Option<FileAttr>) -> Mutated {
    Mutated {
        attr,
        created: false,
        lease: None,
        dir: false,
        parents: [None, None],
        replaced: None,
        map_version: MapVersion(0),
    }
}

/// Whether what was made is likely to be looked at by its maker, without a lease so far.
fn makes_inode(mutation: &Mutation) -> bool {
    matches!(
        mutation,
        Mutation::MakeDir { .. } | Mutation::Symlink { .. }
    )
}

/// Whether the mutation reaches inodes through names.
fn removed_name(mutation: &Mutation) -> bool {
    matches!(mutation, Mutation::Unlink { .. } | Mutation::Rename { .. })
}

/// The inodes, other than dirs, whose attributes the change through names has changed.
fn touched_by_name(changed: &Changed) -> BTreeSet<InodeId> {
    let named = changed
        .attr
        .filter(|attr| attr.kind != FileKind::Dir)
        .map(|attr| attr.inode);
    let replaced = changed
        .replaced
        .filter(|_| changed.attr.is_some_and(|attr| attr.kind != FileKind::Dir));
    named.into_iter().chain(replaced).collect()
}
