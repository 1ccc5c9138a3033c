//! When this member was last in touch with a leader, and what that bounds.
//!
//! Two questions are answered from it:
//!
//! * *Is it time for an election?* Who follows a leader counts the time since it last took
//!   something from it.
//! * *Until when can an earlier leader have proved its lead?* A proof that began at some moment was
//!   answered, after that moment, by a majority. The votes of a new leader come from a majority, too,
//!   so one voter has done both, and it had heard the earlier leader no later than it says with its
//!   vote. From then on the new leader waits for what a proof can have extended (`lease::grace`):
//!   that time has begun at the last contact, and not at the election.
//!
//! A leader is its own follower: what it notes at the beginning of each of its proofs counts as
//! contact. A member that starts does not know what it heard before: it heard it no later than now.
//!
//! Pure; times are those of a clock that never goes back, and may stand still while the machine
//! sleeps: then a contact looks later than it was, which is the safe side.

use std::collections::BTreeMap;
use std::time::Duration;

/// The contacts of one run of a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Contact {
    /// The last time that anything came from a leader, or that this one began to prove its lead.
    heard: Duration,
    /// The last time that it took over what a leader sent. `None` in a run that never did: then
    /// there is nobody to be patient with.
    followed: Option<Duration>,
    /// For each term in which it stood for election: the latest contact of those who voted for it.
    votes: BTreeMap<u64, Duration>,
}

impl Contact {
    pub(super) fn begin(now: Duration) -> Self {
        Self {
            heard: now,
            followed: None,
            votes: BTreeMap::new(),
        }
    }

    /// Something came from a leader, present or past: said before it is looked at.
    pub(super) fn hear(&mut self, now: Duration) {
        self.heard = self.heard.max(now);
    }

    /// It was taken over, or this member leads.
    pub(super) fn follow(&mut self, now: Duration) {
        self.followed = self.followed.max(Some(now));
    }

    /// How long no leader has been followed; `None`: never.
    pub(super) fn silence(&self, now: Duration) -> Option<Duration> {
        self.followed.map(|at| now.saturating_sub(at))
    }

    /// How long ago it heard a leader at the latest: told with every vote.
    pub(super) fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.heard)
    }

    /// Somebody voted for this member in `term`, and had heard a leader `age` before it said so.
    pub(super) fn voted(&mut self, term: u64, age: Duration, now: Duration) {
        let at = now.saturating_sub(age);
        let known = self.votes.entry(term).or_default();
        *known = at.max(*known);
        // Terms rise: an older election is over.
        self.votes.retain(|other, _| *other >= term);
    }

    /// This member has been elected in `term`: when a proof of an earlier leader can have begun at
    /// the latest. To be asked before it proves its own lead.
    pub(super) fn led_until(&self, term: u64) -> Duration {
        let voters = self.votes.get(&term).copied().unwrap_or_default();
        self.heard.max(voters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_member_that_starts_knows_nothing_and_has_nobody_to_wait_for() {
        let mut contact = Contact::begin(at(500));
        assert_eq!(contact.silence(at(600)), None);
        assert_eq!(contact.age(at(600)), at(100));
        assert_eq!(contact.led_until(3), at(500));
        contact.follow(at(700));
        assert_eq!(contact.silence(at(900)), Some(at(200)));
    }

    #[test]
    fn what_is_refused_is_heard_all_the_same() {
        let mut contact = Contact::begin(at(0));
        contact.hear(at(100));
        contact.follow(at(100));
        // Of a leader that is deposed by now.
        contact.hear(at(800));
        assert_eq!(contact.silence(at(1000)), Some(at(900)));
        assert_eq!(contact.age(at(1000)), at(200));
    }

    #[test]
    fn the_latest_contact_of_a_voter_counts() {
        let mut contact = Contact::begin(at(0));
        contact.hear(at(1_000));
        contact.voted(4, at(100), at(1_900));
        contact.voted(5, at(700), at(2_000));
        contact.voted(5, at(900), at(2_100));
        assert_eq!(contact.led_until(5), at(1_300));
        // Own contact, if that was later.
        contact.hear(at(1_400));
        assert_eq!(contact.led_until(5), at(1_400));
        // A late vote of an older term changes nothing of the later one.
        contact.voted(4, at(0), at(2_200));
        assert_eq!(contact.led_until(5), at(1_400));
    }
}
