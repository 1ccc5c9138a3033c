//! Changes of names and looks at them: as `client::changes` and `client::names` of the product.

use super::Mount;
use super::calls::{Since, Wait};
use crate::check::names::{Key, keys_of};
use crate::world::locked;
use dfs_mount::client::dir_cache::Name;
use dfs_mount::client::lease::Held;
use dfs_proto::attr::FileKind;
use dfs_proto::error::Result;
use dfs_proto::ids::InodeId;
use dfs_proto::msg::namespace::{Lookup, Mutate, Mutated, Mutation};
use dfs_proto::msg::session::{LeaseKind, Stamp};

/// What the names are after a change was carried out, in the order of `keys_of`.
fn names_after(mutation: &Mutation, mutated: &Mutated) -> Vec<Name> {
    let inode = mutated.attr.map(|attr| attr.inode);
    let is = inode.map_or(Name::Unknown, Name::Is);
    match mutation {
        Mutation::Create { .. } if !mutated.created => vec![Name::Unknown],
        Mutation::Unlink { .. } => vec![Name::Absent],
        Mutation::Rename { .. } => {
            // Between two names of one inode nothing happens: then both are still there.
            let linked = mutated
                .attr
                .is_none_or(|attr| attr.kind != FileKind::Dir && attr.links > 1);
            match linked {
                true => vec![Name::Unknown, Name::Unknown],
                false => vec![Name::Absent, is],
            }
        }
        _ => vec![is],
    }
}

impl Mount {
    /// Changes names, exactly once whatever is lost.
    pub(crate) async fn change(&self, mutation: Mutation) -> Result<Option<InodeId>> {
        let world = &self.cluster.world;
        loop {
            let since = self.since();
            let stamped = self.begin().await?;
            self.state().dirs.begin_change(&keys_of(&mutation));
            let invoked = world.now();
            let mutate = |stamp| Mutate {
                stamp,
                mutation: mutation.clone(),
            };
            let answer = self.repeat(stamped, Wait::Long, mutate).await;
            let stamp = Stamp {
                session: stamped.session,
                sequence: stamped.sequence,
                lowest_unanswered: stamped.sequence,
            };
            // What is said of it must be so, before anybody can see more.
            let told = match &answer {
                Ok(Some((mutated, _))) => Some(Ok(mutated.attr.map(|attr| attr.inode))),
                Ok(None) => None,
                // A dead process is told nothing.
                Err(error) if !self.is_alive() => return Err(error.clone()),
                Err(error) => Some(Err(error.code)),
            };
            world.trace(|| format!("mount {}: {mutation:?} is {told:?}", self.number));
            let mut commits = locked(&self.cluster.group.commits);
            let checked = match told {
                Some(told) => commits.answered(stamp, self.run, &mutation, invoked, told),
                // It is done again in another session.
                None => commits.never_executed(stamp),
            };
            drop(commits);
            world.check(checked);
            self.finish(stamped);
            match answer {
                Ok(None) => self.nothing_is_known(&mutation, since),
                Ok(Some((mutated, up))) => {
                    let grants = self.state().grants(&up, since);
                    self.note_change(&mutation, &mutated, since, grants);
                    return Ok(mutated.attr.map(|attr| attr.inode));
                }
                Err(error) => {
                    // Refused, or in doubt: what was known of the names was wrong, or may be now.
                    self.nothing_is_known(&mutation, since);
                    return Err(error);
                }
            }
        }
    }

    fn nothing_is_known(&self, mutation: &Mutation, since: Since) {
        let mut state = self.state();
        for (dir, name) in keys_of(mutation) {
            let unknown = [(name, Name::Unknown)];
            state.dirs.changed_here(dir, &unknown, None, since.names);
        }
    }

    fn note_change(&self, mutation: &Mutation, mutated: &Mutated, since: Since, grants: bool) {
        let after = names_after(mutation, mutated);
        let named = keys_of(mutation).into_iter().zip(after);
        let mut state = self.state();
        let named: Vec<_> = named.map(|((dir, name), is)| (dir, (name, is))).collect();
        let same_dir = named.len() == 2 && named[0].0 == named[1].0;
        if same_dir {
            let dir = named[0].0;
            let both: Vec<_> = named.into_iter().map(|(_, name)| name).collect();
            state.dirs.changed_here(dir, &both, None, since.names);
        } else {
            for (dir, name) in named {
                state.dirs.changed_here(dir, &[name], None, since.names);
            }
        }
        if let Some(grant) = &mutated.lease
            && grants
        {
            let lease = state.leases.entry(grant.attr.inode).or_default();
            lease.state.granted(Held {
                grant: grant.grant,
                kind: LeaseKind::min(grant.kind, LeaseKind::Exclusive),
            });
        }
    }

    /// Looks at a name: from what is kept, else at the directory.
    pub(crate) async fn look(&self, key: &Key) -> Result<Option<InodeId>> {
        self.awake().await?;
        let look = locked(&self.cluster.group.commits).look(self.run, key);
        let found = self.find(key).await?;
        let looked = locked(&self.cluster.group.commits).looked(look, self.run, key, found);
        self.cluster
            .world
            .check(looked.map_err(|why| format!("mount {}: {why}", self.number)));
        Ok(found)
    }

    async fn find(&self, (dir, name): &Key) -> Result<Option<InodeId>> {
        let kept = {
            let mut state = self.state();
            match self.has_right(&state) {
                true => state.dirs.name(*dir, name).0,
                false => Name::Unknown,
            }
        };
        match kept {
            Name::Is(inode) => return Ok(Some(inode)),
            Name::Absent => return Ok(None),
            Name::Unknown => {}
        }
        let since = self.since();
        let asked = self.ask(Wait::Long, |session| Lookup {
            session,
            parent: *dir,
            name: Some(name.clone()),
        });
        let (answer, up) = asked.await?;
        let found = answer.seen.map(|seen| seen.attr.inode);
        let mut state = self.state();
        if answer.names && state.grants(&up, since) && state.dirs.granted(*dir, since.names) {
            let is = found.map_or(Name::Absent, Name::Is);
            state.dirs.learn_name(*dir, name.clone(), is, since.names);
        }
        Ok(found)
    }
}
