//! Which session has which inode open: a deleted inode lives until the last of them closes it.

use dfs_proto::ids::{InodeId, SessionId};
use std::collections::{BTreeMap, BTreeSet};

/// Open inodes, by session. A session counts once for an inode, however many descriptors its
/// programs have.
#[derive(Default, Debug)]
pub struct OpenTable {
    by_inode: BTreeSet<(InodeId, SessionId)>,
    by_session: BTreeSet<(SessionId, InodeId)>,
    counts: BTreeMap<SessionId, u64>,
}

impl OpenTable {
    /// The session has the inode open; tells whether that is new.
    pub fn open(&mut self, session: SessionId, inode: InodeId) -> bool {
        if !self.by_session.insert((session, inode)) {
            return false;
        }
        *self.counts.entry(session).or_default() += 1;
        self.by_inode.insert((inode, session))
    }

    /// The session has closed the inode; tells whether nobody has it open any more.
    pub fn close(&mut self, session: SessionId, inode: InodeId) -> bool {
        if self.by_session.remove(&(session, inode))
            && let Some(count) = self.counts.get_mut(&session)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&session);
            }
        }
        self.by_inode.remove(&(inode, session));
        !self.is_open(inode)
    }

    /// Whether any session has it open.
    pub fn is_open(&self, inode: InodeId) -> bool {
        let from = (inode, SessionId(0));
        self.by_inode
            .range(from..)
            .next()
            .is_some_and(|(i, _)| *i == inode)
    }

    /// Number of inodes that the session has open.
    pub fn count(&self, session: SessionId) -> u64 {
        self.counts.get(&session).copied().unwrap_or_default()
    }

    /// The session has ended: the inodes that nobody has open any more.
    pub fn end_session(&mut self, session: SessionId) -> Vec<InodeId> {
        let inodes: Vec<InodeId> = self.of(session).collect();
        inodes
            .into_iter()
            .filter(|inode| self.close(session, *inode))
            .collect()
    }

    fn of(&self, session: SessionId) -> impl Iterator<Item = InodeId> {
        self.by_session
            .range((session, InodeId(0))..)
            .take_while(move |(s, _)| *s == session)
            .map(|(_, inode)| *inode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionId = SessionId(1);
    const B: SessionId = SessionId(2);

    #[test]
    fn an_inode_is_open_until_the_last_session_closes_it() {
        let mut opens = OpenTable::default();
        assert!(opens.open(A, InodeId(5)));
        assert!(!opens.open(A, InodeId(5)));
        assert!(opens.open(B, InodeId(5)));
        assert!(!opens.close(A, InodeId(5)));
        assert!(opens.is_open(InodeId(5)));
        assert!(!opens.is_open(InodeId(4)) && !opens.is_open(InodeId(6)));
        assert!(opens.close(B, InodeId(5)));
    }

    #[test]
    fn the_end_of_a_session_closes_what_only_it_had_open() {
        let mut opens = OpenTable::default();
        opens.open(A, InodeId(5));
        opens.open(A, InodeId(6));
        opens.open(B, InodeId(6));
        assert_eq!(opens.count(A), 2);
        assert_eq!(opens.end_session(A), [InodeId(5)]);
        assert_eq!(opens.count(A), 0);
        assert!(opens.is_open(InodeId(6)));
    }
}
