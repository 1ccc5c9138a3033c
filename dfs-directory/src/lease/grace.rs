//! What waits for whom after a change of the directory's leader.
//!
//! Leases, locks and opens were in the old leader's memory. The interest records of the log say
//! which sessions may have changed which inodes; the mounts re-assert what they hold. Until
//! then:
//!
//! | wants | waits |
//! | --- | --- |
//! | anything on an inode with a record of a session that has not reclaimed | for that session to reclaim or to end |
//! | what only an absence of readers permits (exclusive lease, operation, the answer to a change of names) | until all sessions have reclaimed, or cached rights are certainly over |
//! | to free an orphan | until every session alive at the start has reclaimed or ended |

use super::Moment;
use dfs_proto::ids::{InodeId, SessionId};
use dfs_proto::timing::{CACHE_RIGHT, DRIFT_MARGIN};
use std::collections::{BTreeMap, BTreeSet};

/// The grace period of one leader's life.
#[derive(Debug)]
pub struct Grace {
    /// From here on no mount uses a cached right of an earlier leader's life.
    caches_over: Moment,
    /// Sessions alive at the start that have neither reclaimed nor ended.
    missing: BTreeSet<SessionId>,
    /// Their interest records.
    interest: BTreeMap<InodeId, BTreeSet<SessionId>>,
}

impl Grace {
    /// Begins with the sessions and interest records of the log. `led_until`: no earlier leader has
    /// proved its lead by anything that began later, so no right to cache was extended by a heartbeat
    /// that was sent later.
    pub fn begin(
        led_until: Moment,
        sessions: impl IntoIterator<Item = SessionId>,
        records: impl IntoIterator<Item = (SessionId, InodeId)>,
    ) -> Self {
        let missing: BTreeSet<SessionId> = sessions.into_iter().collect();
        let mut interest: BTreeMap<InodeId, BTreeSet<SessionId>> = BTreeMap::new();
        for (session, inode) in records {
            if missing.contains(&session) {
                interest.entry(inode).or_default().insert(session);
            }
        }
        Self {
            caches_over: led_until + CACHE_RIGHT + DRIFT_MARGIN,
            missing,
            interest,
        }
    }

    /// The session has reclaimed everything, or has ended. `true` if it was waited for.
    pub fn settle(&mut self, session: SessionId) -> bool {
        if !self.missing.remove(&session) {
            return false;
        }
        self.interest.retain(|_, sessions| {
            sessions.remove(&session);
            !sessions.is_empty()
        });
        true
    }

    /// Whether the session still has to reclaim.
    pub fn is_missing(&self, session: SessionId) -> bool {
        self.missing.contains(&session)
    }

    /// Sessions that must reclaim or end before anything of this inode is decided.
    pub fn awaited(&self, inode: InodeId) -> impl Iterator<Item = SessionId> {
        self.interest.get(&inode).into_iter().flatten().copied()
    }

    /// Whether reads, shared leases and locks of this inode have to wait.
    pub fn blocks(&self, inode: InodeId) -> bool {
        self.interest.contains_key(&inode)
    }

    /// Whether an exclusive lease or an operation on this inode has to wait.
    pub fn blocks_exclusive(&self, inode: InodeId, now: Moment) -> bool {
        self.blocks(inode) || self.caches_live(now)
    }

    /// Whether mounts may still use what they cached under an earlier leader.
    pub fn caches_live(&self, now: Moment) -> bool {
        !self.missing.is_empty() && now < self.caches_over
    }

    /// Whether orphans may be freed.
    pub fn is_over(&self) -> bool {
        self.missing.is_empty()
    }

    /// When waiting for cached rights ends, if it is still going on at `now`.
    pub fn next_deadline(&self, now: Moment) -> Option<Moment> {
        self.caches_live(now).then_some(self.caches_over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionId = SessionId(1);
    const B: SessionId = SessionId(2);
    const F: InodeId = InodeId(10);
    const G: InodeId = InodeId(11);

    fn at(ms: u64) -> Moment {
        Moment::from_millis(ms)
    }

    #[test]
    fn a_first_start_waits_for_nobody() {
        let grace = Grace::begin(at(0), [], []);
        assert!(grace.is_over());
        assert!(!grace.blocks(F) && !grace.blocks_exclusive(F, at(0)));
    }

    #[test]
    fn an_inode_with_a_record_waits_for_its_session_only() {
        let mut grace = Grace::begin(at(0), [A, B], [(A, F)]);
        assert!(grace.blocks(F) && !grace.blocks(G));
        assert_eq!(grace.awaited(F).collect::<Vec<_>>(), [A]);
        assert!(grace.settle(A));
        assert!(!grace.settle(A));
        assert!(!grace.blocks(F));
        assert!(!grace.is_over());
        assert!(grace.settle(B));
        assert!(grace.is_over());
    }

    #[test]
    fn exclusive_rights_wait_for_cached_ones_to_run_out() {
        let mut grace = Grace::begin(at(0), [A, B], [(A, F)]);
        assert!(grace.blocks_exclusive(G, at(2_199)));
        assert!(!grace.blocks_exclusive(G, at(2_200)));
        assert!(grace.blocks_exclusive(F, at(60_000)));
        grace.settle(A);
        assert!(grace.blocks_exclusive(G, at(2_000)));
        grace.settle(B);
        assert!(!grace.blocks_exclusive(G, at(2_000)));
    }

    #[test]
    fn records_of_sessions_that_are_gone_block_nobody() {
        let grace = Grace::begin(at(0), [B], [(A, F)]);
        assert!(!grace.blocks(F));
    }
}
