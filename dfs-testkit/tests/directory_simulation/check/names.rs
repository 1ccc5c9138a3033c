//! Names: a reference model that follows the log, and what mounts were answered.
//!
//! The order of the log is the order of the changes, so nothing has to be searched for: each change
//! is executed once, its answer is what the model says at its place in the log, and it
//! is committed between the call and the answer. A look at a name is answered with what the name was at
//! some place of the log: not before the last change of it that had been answered to anybody when the look
//! began, not after the end of the log when it ended, and for one mount never before what it has
//! seen already.

use dfs_directory::namespace::{Changed, NamespaceCommand, NamespaceOutcome, read};
use dfs_directory::state::memory::MemoryTables;
use dfs_directory::state::{Change, Outcome};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{InodeId, Sequence, SessionId};
use dfs_proto::msg::namespace::Mutation;
use dfs_proto::msg::session::Stamp;
use dfs_proto::name::FileName;
use std::collections::BTreeMap;
use std::time::Duration;

/// A name in a dir.
pub(crate) type Key = (InodeId, FileName);

/// What a change came to, as far as its caller is told.
pub(crate) type Answer = Result<Option<InodeId>, ErrorCode>;

#[derive(Debug)]
struct Executed {
    index: usize,
    outcome: NamespaceOutcome,
}

/// What a name was, from a place in the log on.
#[derive(Debug, Default)]
struct Name {
    versions: Vec<(usize, Option<InodeId>)>,
    /// The last change that somebody was answered.
    answered: usize,
}

impl Name {
    fn present(&self) -> Option<InodeId> {
        self.versions.last().and_then(|(_, inode)| *inode)
    }
}

/// A look at a name, since its beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    floor: usize,
}

/// The log as the model reads it.
#[derive(Debug, Default)]
pub(crate) struct Commits {
    outcomes: Vec<Outcome>,
    times: BTreeMap<usize, Duration>,
    executed: BTreeMap<(SessionId, Sequence), Executed>,
    names: BTreeMap<Key, Name>,
    /// What each run of a mount has seen of a name.
    seen: BTreeMap<(u64, Key), usize>,
    /// Changes that came to the log more than once.
    pub(crate) repeats: u64,
    pub(crate) looks: u64,
    pub(crate) changes: u64,
}

fn is_executed(result: &Result<Changed, ErrorCode>) -> bool {
    !matches!(
        result,
        Err(ErrorCode::SessionEnded
            | ErrorCode::SequenceForgotten
            | ErrorCode::Overloaded
            | ErrorCode::InvalidArgument)
    )
}

fn inode_of(changed: &Changed) -> Option<InodeId> {
    changed.attr.map(|attr| attr.inode)
}

impl Commits {
    /// A change is in the log from now on.
    pub(crate) fn committed(&mut self, index: usize, now: Duration) {
        self.times.insert(index, now);
    }

    /// A member has applied a change.
    pub(crate) fn applied(
        &mut self,
        index: usize,
        now: Duration,
        change: &Change,
        outcome: &Outcome,
    ) -> Result<(), String> {
        self.times.entry(index).or_insert(now);
        if let Some(first) = self.outcomes.get(index) {
            return match first == outcome {
                true => Ok(()),
                false => Err(format!(
                    "members differ at {index}: {change:?} gave {first:?} and {outcome:?}"
                )),
            };
        }
        self.outcomes.push(outcome.clone());
        let (
            Change::Namespace(NamespaceCommand::Mutate { stamp, mutation }),
            Outcome::Namespace(outcome),
        ) = (change, outcome)
        else {
            return Ok(());
        };
        let key = (stamp.session, stamp.sequence);
        if let Some(first) = self.executed.get(&key) {
            self.repeats += 1;
            let same = first.outcome == *outcome || !is_executed(&outcome.0);
            return match same {
                true => Ok(()),
                false => Err(format!(
                    "{mutation:?} of {stamp:?} was executed twice: {:?} at {}, {outcome:?} at {index}",
                    first.outcome, first.index
                )),
            };
        }
        if !is_executed(&outcome.0) {
            return Ok(());
        }
        let outcome = *outcome;
        self.executed.insert(key, Executed { index, outcome });
        self.changes += 1;
        self.follow(index, mutation, &outcome.0)
            .map_err(|why| format!("{mutation:?} at {index} gave {outcome:?}, but {why}"))
    }

    fn present(&self, key: &Key) -> Option<InodeId> {
        self.names.get(key).and_then(Name::present)
    }

    fn set(&mut self, index: usize, key: Key, inode: Option<InodeId>) {
        let name = self.names.entry(key).or_default();
        name.versions.push((index, inode));
    }

    /// Carries a change out in the model.
    fn follow(
        &mut self,
        index: usize,
        mutation: &Mutation,
        result: &Result<Changed, ErrorCode>,
    ) -> Result<(), String> {
        use Mutation as M;
        let expect = |is: bool, why: &str| if is { Ok(()) } else { Err(why.to_owned()) };
        let keys = keys_of(mutation);
        let Some(key) = keys.first().cloned() else {
            return Ok(());
        };
        let present = self.present(&key);
        match (mutation, result) {
            (M::Create { .. }, Ok(changed)) if !changed.created => {
                expect(present == inode_of(changed), "the name was another's")
            }
            (M::Create { .. } | M::MakeNode { .. } | M::MakeDir { .. }, Ok(changed)) => {
                self.set(index, key, inode_of(changed));
                expect(present.is_none(), "the name was there")
            }
            (M::Link { inode, .. }, Ok(changed)) => {
                self.set(index, key, inode_of(changed));
                expect(present.is_none(), "the name was there")?;
                expect(inode_of(changed) == Some(*inode), "another was linked")
            }
            (
                M::Create { .. } | M::MakeNode { .. } | M::MakeDir { .. } | M::Link { .. },
                Err(ErrorCode::Exists),
            ) => expect(present.is_some(), "the name was not there"),
            (M::Link { inode, .. }, Err(ErrorCode::Stale | ErrorCode::NotFound)) => {
                let named = self.names.values().any(|n| n.present() == Some(*inode));
                expect(!named, "the inode had a name")
            }
            (M::Unlink { .. }, Ok(_)) => {
                self.set(index, key, None);
                expect(present.is_some(), "the name was not there")
            }
            (M::Unlink { .. } | M::Rename { .. }, Err(ErrorCode::NotFound)) => {
                expect(present.is_none(), "the name was there")
            }
            (M::Rename { .. }, Ok(_)) => {
                let target = keys[1].clone();
                if present != self.present(&target) {
                    self.set(index, target, present);
                    self.set(index, key, None);
                }
                expect(present.is_some(), "the name was not there")
            }
            (_, Err(code)) => Err(format!("{code:?} has no reason")),
            _ => Ok(()),
        }
    }

    /// A mount has been answered. `None`: it never will be.
    pub(crate) fn answered(
        &mut self,
        stamp: Stamp,
        run: u64,
        mutation: &Mutation,
        invoked: Duration,
        answer: Answer,
    ) -> Result<(), String> {
        let Some(first) = self.executed.get(&(stamp.session, stamp.sequence)) else {
            return match answer {
                Ok(_) => Err(format!("{mutation:?} was answered and is not in the log")),
                Err(_) => Ok(()),
            };
        };
        let index = first.index;
        let recorded = first.outcome.0.map(|changed| inode_of(&changed));
        let same = match (&answer, &recorded) {
            (Ok(told), Ok(is)) => told.is_none() || told == is,
            // In doubt for ever.
            (Err(ErrorCode::SessionEnded), _) => true,
            (Err(told), Err(is)) => told == is,
            // What was changed may be gone when its attributes are looked at.
            (Err(ErrorCode::Stale), Ok(_)) => true,
            _ => false,
        };
        if !same {
            return Err(format!(
                "{mutation:?} was answered {answer:?}, the log says {recorded:?} at {index}"
            ));
        }
        let at = self.times.get(&index).copied().unwrap_or_default();
        if at < invoked {
            return Err(format!(
                "{mutation:?} was in the log before it was asked for"
            ));
        }
        if answer.is_ok() {
            for key in keys_of(mutation) {
                let seen = self.seen.entry((run, key.clone())).or_default();
                *seen = index.max(*seen);
                let name = self.names.entry(key).or_default();
                name.answered = name.answered.max(index);
            }
        }
        Ok(())
    }

    /// A mount takes a change for one that was never executed, and does it again.
    pub(crate) fn never_executed(&self, stamp: Stamp) -> Result<(), String> {
        match self.executed.get(&(stamp.session, stamp.sequence)) {
            None => Ok(()),
            Some(first) => Err(format!(
                "{stamp:?} was executed at {}, {:?}, and its mount does it again",
                first.index, first.outcome
            )),
        }
    }

    /// A look begins.
    pub(crate) fn look(&self, run: u64, key: &Key) -> Look {
        let answered = self.names.get(key).map_or(0, |name| name.answered);
        let seen = self.seen.get(&(run, key.clone())).copied();
        Look {
            floor: answered.max(seen.unwrap_or_default()),
        }
    }

    /// A look has ended with this.
    pub(crate) fn looked(
        &mut self,
        look: Look,
        run: u64,
        key: &Key,
        found: Option<InodeId>,
    ) -> Result<(), String> {
        self.looks += 1;
        let Some(name) = self.names.get(key) else {
            return match found {
                None => Ok(()),
                Some(inode) => Err(format!("{key:?} was seen as {inode} and never was")),
            };
        };
        let before = name.versions.iter().rev().find(|(at, _)| *at <= look.floor);
        let first = before.map_or((0, None), |(at, inode)| (*at, *inode));
        let later = name.versions.iter().filter(|(at, _)| *at > look.floor);
        let mut fitting = std::iter::once(first).chain(later.copied());
        match fitting.find(|(_, inode)| *inode == found) {
            Some((at, _)) => {
                let seen = self.seen.entry((run, key.clone())).or_default();
                *seen = at.max(*seen);
                Ok(())
            }
            None => Err(format!(
                "{key:?} was seen as {found:?}; it was {first:?} at {}, when the look began, and then {:?}",
                look.floor,
                name.versions
                    .iter()
                    .filter(|(at, _)| *at > look.floor)
                    .collect::<Vec<_>>()
            )),
        }
    }

    /// In the end the tables hold what the model holds.
    pub(crate) fn compare(&self, tables: &MemoryTables) -> Result<(), String> {
        for ((dir, name), is) in &self.names {
            let found = read::lookup(tables, *dir, Some(name)).map_err(|e| e.to_string())?;
            let found = found.ok().map(|attr| attr.inode);
            if found != is.present() {
                return Err(format!(
                    "{name:?} in {dir} is {found:?} in the end, {:?} in the model",
                    is.present()
                ));
            }
        }
        Ok(())
    }
}

/// The names that a change is about.
pub(crate) fn keys_of(mutation: &Mutation) -> Vec<Key> {
    match mutation {
        Mutation::Create { parent, name, .. }
        | Mutation::MakeNode { parent, name, .. }
        | Mutation::MakeDir { parent, name, .. }
        | Mutation::Link { parent, name, .. }
        | Mutation::Unlink { parent, name, .. } => vec![(*parent, name.clone())],
        Mutation::Rename {
            parent,
            name,
            new_parent,
            new_name,
            ..
        } => vec![(*parent, name.clone()), (*new_parent, new_name.clone())],
        _ => Vec::new(),
    }
}
