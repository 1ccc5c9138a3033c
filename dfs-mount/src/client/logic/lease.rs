//! The lease of one inode as its holder sees it: what is held, who uses it, what is asked for,
//! what is being recalled. Pure; the waiting is done by `client::lease_use`.
//!
//! A right is told by its grant id. Ids rise for an inode, so everything up to the last one that
//! was given back or lost (`voided`) is refused for ever: a grant that arrives late must not
//! bring a right back that the directory has already taken. A grant of which a recall has left
//! a shared right goes on under its id, but is refused as an exclusive one (`downgraded`).

use dfs_proto::ids::GrantId;
use dfs_proto::msg::session::LeaseKind;

/// A right that is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    pub grant: GrantId,
    pub kind: LeaseKind,
}

/// What somebody who wants to use the lease does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Enter {
    /// Go on; `leave` at the end. The era tells later whether the right was lost meanwhile.
    Ready { era: u64, held: Held },
    /// Ask the directory, under this number; then enter again.
    Ask(u64),
    /// Wait for a change (of the ask with this number, if one is under way), then enter again.
    Wait(Option<u64>),
}

/// What a recall finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecallFound {
    /// New users wait from now on. Empty the caches, then `flip`.
    Begin,
    /// It is being worked on already.
    InProgress,
    /// Not held (any more): nothing to do.
    NotHeld,
    /// Perhaps a grant whose answer is being processed: look again in a moment, then `refuse`.
    NotYet,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Recalling {
    grant: GrantId,
    keep: Option<LeaseKind>,
}

/// The state of one inode's lease.
#[derive(Debug, Default)]
pub struct LeaseState {
    held: Option<Held>,
    voided: GrantId,
    downgraded: GrantId,
    users: u32,
    asking: Option<u64>,
    asks: u64,
    recall: Option<Recalling>,
    era: u64,
}

impl LeaseState {
    /// What is held now, also while it is being recalled.
    pub fn held(&self) -> Option<Held> {
        self.held
    }

    /// What is held and not being recalled: it protects what the kernel caches.
    pub fn settled(&self) -> Option<Held> {
        self.held.filter(|_| self.recall.is_none())
    }

    pub fn holds_exclusive(&self) -> bool {
        self.held.is_some_and(|h| h.kind == LeaseKind::Exclusive)
    }

    /// The grant that is being given back.
    pub fn recalling(&self) -> Option<GrantId> {
        self.recall.map(|recall| recall.grant)
    }

    /// Nobody uses it, asks for it or gives it back.
    pub fn is_idle(&self) -> bool {
        self.users == 0 && self.asking.is_none() && self.recall.is_none()
    }

    /// Tells later, by `is_valid`, whether the right was lost meanwhile.
    pub fn era(&self) -> u64 {
        self.era
    }

    /// Whether the right of an `Enter::Ready` is still the same.
    pub fn is_valid(&self, era: u64) -> bool {
        self.era == era
    }

    /// Wants to use a lease of at least `kind`. With `unblock` a recall in progress is not
    /// waited for: the right is used as long as it is held, and when it was lost in the recall
    /// another one is asked for, since the recall waits for this user.
    pub fn enter(&mut self, kind: LeaseKind, unblock: bool) -> Enter {
        if let Some(held) = self.held.filter(|held| held.kind >= kind)
            && (unblock || self.recall.is_none())
        {
            self.users += 1;
            return Enter::Ready {
                era: self.era,
                held,
            };
        }
        let recall_waits = unblock && self.held.is_none();
        if self.asking.is_some() || (self.recall.is_some() && !recall_waits) {
            return Enter::Wait(self.asking);
        }
        self.asks += 1;
        self.asking = Some(self.asks);
        Enter::Ask(self.asks)
    }

    /// A user is done.
    pub fn leave(&mut self) {
        self.users -= 1;
    }

    /// A grant has come, asked for or with another answer. False: it is of the past.
    pub fn granted(&mut self, grant: Held) -> bool {
        let voided = match grant.kind {
            LeaseKind::Shared => self.voided,
            LeaseKind::Exclusive => self.voided.max(self.downgraded),
        };
        if grant.grant <= voided || self.held.is_some_and(|held| held.grant > grant.grant) {
            return false;
        }
        self.held = Some(grant);
        true
    }

    /// The ask has ended, granted or not.
    pub fn ask_ended(&mut self, ask: u64) {
        if self.asking == Some(ask) {
            self.asking = None;
        }
    }

    /// The directory wants a grant back. A grant that has not come may still be on its way.
    pub fn recall(&mut self, grant: GrantId, keep: Option<LeaseKind>) -> RecallFound {
        let unseen = self.held.is_none_or(|held| held.grant < grant);
        let kept = keep.is_some() && grant <= self.downgraded;
        if unseen && grant > self.voided && !kept && self.asking.is_some() {
            return RecallFound::NotYet;
        }
        self.refuse(grant, keep)
    }

    /// The same, when a grant that has not come is not waited for (any more): its answer will
    /// not be accepted. An older grant that is held goes with it, since the directory knows only
    /// the last one: it is given back as if it were the one that is recalled.
    pub fn refuse(&mut self, grant: GrantId, keep: Option<LeaseKind>) -> RecallFound {
        match self.held {
            Some(held) if held.grant > grant => RecallFound::NotHeld,
            Some(held) if held.grant == grant && keep >= Some(held.kind) => RecallFound::NotHeld,
            Some(_) => match &mut self.recall {
                Some(recall) => {
                    recall.grant = recall.grant.max(grant);
                    recall.keep = recall.keep.min(keep);
                    RecallFound::InProgress
                }
                None => {
                    self.recall = Some(Recalling { grant, keep });
                    RecallFound::Begin
                }
            },
            None => {
                self.give_up(grant, keep);
                RecallFound::NotHeld
            }
        }
    }

    /// What a recall takes of a grant is refused from now on. What it leaves is not: the
    /// directory goes on with it under the same id, whether its answer has come or not.
    fn give_up(&mut self, grant: GrantId, keep: Option<LeaseKind>) {
        match keep {
            None => self.voided = self.voided.max(grant),
            Some(_) => self.downgraded = self.downgraded.max(grant),
        }
    }

    /// Whether the last user has gone and the recall can go on.
    pub fn is_drained(&self) -> bool {
        self.users == 0
    }

    /// What the recall in progress leaves.
    pub fn recall_keeps(&self) -> Option<LeaseKind> {
        self.recall.and_then(|r| r.keep)
    }

    /// Ends the recall in progress: the right is gone, or is a shared one now. False, and
    /// nothing changes, while somebody uses it.
    pub fn flip(&mut self) -> bool {
        if self.users > 0 {
            return false;
        }
        if let Some(recall) = self.recall.take()
            && let Some(held) = self.held.filter(|held| held.grant <= recall.grant)
        {
            self.give_up(recall.grant, recall.keep);
            let left = recall.keep.map(|kind| Held {
                grant: recall.grant,
                kind: kind.min(held.kind),
            });
            self.held = left;
            self.era += u64::from(left.is_none());
        }
        true
    }

    /// The right has lapsed (shared ones, with the session's right to cache).
    pub fn lose_shared(&mut self) -> bool {
        self.lose(LeaseKind::Shared)
    }

    /// Everything is lost: the session has ended.
    pub fn lose_all(&mut self) -> bool {
        self.lose(LeaseKind::Exclusive)
    }

    /// The directory may not have noticed, and then grants under the same id again: so the id
    /// stays acceptable. Answers to older asks are told by their asker.
    fn lose(&mut self, up_to: LeaseKind) -> bool {
        if self.held.is_none_or(|held| held.kind > up_to) {
            return false;
        }
        self.held = None;
        self.era += 1;
        true
    }

    /// A new leader of the directory goes on with the exclusive lease under a new grant, or
    /// (`None`) does not. Returns whether it is still held. What the old leader wanted back is of the
    /// past; the new one may want its grant back before we have heard of it.
    pub fn reclaimed(&mut self, grant: Option<Held>) -> bool {
        let new = grant.map(|held| held.grant);
        self.recall = self
            .recall
            .filter(|recall| new.is_some_and(|new| recall.grant >= new));
        match grant {
            Some(grant) => {
                self.held = Some(grant);
                true
            }
            None => {
                self.lose_all();
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use LeaseKind::{Exclusive, Shared};

    fn held(grant: u64, kind: LeaseKind) -> Held {
        Held {
            grant: GrantId(grant),
            kind,
        }
    }

    fn holding(grant: u64, kind: LeaseKind) -> LeaseState {
        let mut lease = LeaseState::default();
        let Enter::Ask(ask) = lease.enter(kind, false) else {
            panic!("nothing is held yet");
        };
        assert!(lease.granted(held(grant, kind)));
        lease.ask_ended(ask);
        lease
    }

    #[test]
    fn one_ask_at_a_time_and_users_share_the_grant() {
        let mut lease = LeaseState::default();
        assert_eq!(lease.enter(Shared, false), Enter::Ask(1));
        assert_eq!(lease.enter(Exclusive, false), Enter::Wait(Some(1)));
        assert!(lease.granted(held(5, Shared)));
        lease.ask_ended(1);
        assert!(matches!(lease.enter(Shared, false), Enter::Ready { .. }));
        assert_eq!(lease.enter(Exclusive, false), Enter::Ask(2));
        // While the upgrade is under way, the shared right goes on to be used.
        assert!(matches!(lease.enter(Shared, false), Enter::Ready { .. }));
        assert!(lease.granted(held(6, Exclusive)));
        lease.ask_ended(2);
        assert!(matches!(lease.enter(Exclusive, false), Enter::Ready { .. }));
    }

    #[test]
    fn a_recall_parks_new_users_and_waits_for_the_old() {
        let mut lease = holding(5, Exclusive);
        assert!(matches!(lease.enter(Exclusive, false), Enter::Ready { .. }));
        assert_eq!(lease.recall(GrantId(5), None), RecallFound::Begin);
        assert_eq!(lease.recall(GrantId(5), None), RecallFound::InProgress);
        assert_eq!(lease.enter(Shared, false), Enter::Wait(None));
        assert!(matches!(lease.enter(Shared, true), Enter::Ready { .. }));
        assert!(!lease.flip());
        lease.leave();
        lease.leave();
        assert!(lease.flip());
        assert_eq!(lease.held(), None);
        assert_eq!(lease.recall(GrantId(5), None), RecallFound::NotHeld);
    }

    #[test]
    fn a_late_grant_does_not_bring_the_right_back() {
        let mut lease = holding(5, Shared);
        assert_eq!(lease.recall(GrantId(5), None), RecallFound::Begin);
        assert!(lease.flip());
        assert!(!lease.granted(held(5, Shared)));
        assert!(!lease.granted(held(4, Exclusive)));
        assert!(lease.granted(held(6, Shared)));
    }

    #[test]
    fn a_recall_of_a_grant_on_its_way_waits_for_it() {
        let mut lease = LeaseState::default();
        assert_eq!(lease.enter(Shared, false), Enter::Ask(1));
        assert_eq!(lease.recall(GrantId(9), None), RecallFound::NotYet);
        assert!(lease.granted(held(9, Shared)));
        lease.ask_ended(1);
        assert_eq!(lease.recall(GrantId(9), None), RecallFound::Begin);
        let mut lease = LeaseState::default();
        assert_eq!(lease.enter(Shared, false), Enter::Ask(1));
        assert_eq!(lease.recall(GrantId(9), None), RecallFound::NotYet);
        lease.refuse(GrantId(9), None);
        assert!(!lease.granted(held(9, Shared)));
    }

    #[test]
    fn an_unknown_grant_is_refused_for_ever() {
        let mut lease = LeaseState::default();
        assert_eq!(lease.recall(GrantId(9), None), RecallFound::NotHeld);
        assert!(!lease.granted(held(9, Exclusive)));
    }

    #[test]
    fn a_downgrade_keeps_the_shared_right() {
        let mut lease = holding(5, Exclusive);
        assert_eq!(lease.recall(GrantId(5), Some(Shared)), RecallFound::Begin);
        assert!(lease.flip());
        assert_eq!(lease.held(), Some(held(5, Shared)));
        assert_eq!(
            lease.recall(GrantId(5), Some(Shared)),
            RecallFound::NotHeld,
            "a repeat finds it done"
        );
        assert_eq!(lease.recall(GrantId(5), None), RecallFound::Begin);
    }

    #[test]
    fn a_late_grant_does_not_undo_a_downgrade() {
        let mut lease = holding(5, Exclusive);
        assert_eq!(lease.recall(GrantId(5), Some(Shared)), RecallFound::Begin);
        assert!(lease.flip());
        assert!(
            !lease.granted(held(5, Exclusive)),
            "another answer with the old grant"
        );
        assert_eq!(lease.held(), Some(held(5, Shared)));
    }

    #[test]
    fn what_a_downgrade_of_an_unseen_grant_leaves_is_accepted() {
        // The directory's answer was lost; it takes the recall's answer for a downgrade and
        // from then on grants the same id, shared, to every ask.
        let mut lease = LeaseState::default();
        assert_eq!(lease.recall(GrantId(9), Some(Shared)), RecallFound::NotHeld);
        assert!(!lease.granted(held(9, Exclusive)), "the lost answer, late");
        assert!(lease.granted(held(9, Shared)));

        let mut lease = LeaseState::default();
        assert_eq!(lease.enter(Exclusive, false), Enter::Ask(1));
        assert_eq!(lease.recall(GrantId(9), Some(Shared)), RecallFound::NotYet);
        lease.refuse(GrantId(9), Some(Shared));
        assert!(!lease.granted(held(9, Exclusive)));
        assert!(lease.granted(held(9, Shared)));
        assert_eq!(lease.recall(GrantId(9), None), RecallFound::Begin);
    }

    #[test]
    fn a_recall_of_an_unseen_upgrade_takes_what_it_replaced() {
        // The answer with the exclusive grant is lost: the directory knows grant 6 only.
        let mut lease = holding(5, Shared);
        let Enter::Ready { era, .. } = lease.enter(Shared, false) else {
            panic!("held");
        };
        assert_eq!(lease.enter(Exclusive, false), Enter::Ask(2));
        assert_eq!(lease.recall(GrantId(6), None), RecallFound::NotYet);
        assert_eq!(lease.refuse(GrantId(6), None), RecallFound::Begin);
        assert_eq!(lease.recalling(), Some(GrantId(6)));
        assert!(!lease.flip(), "somebody reads under the old grant");
        lease.leave();
        assert!(lease.flip());
        assert_eq!(lease.held(), None);
        assert!(!lease.is_valid(era));
        assert!(!lease.granted(held(6, Exclusive)));

        let mut lease = holding(5, Shared);
        assert_eq!(lease.recall(GrantId(6), Some(Shared)), RecallFound::Begin);
        assert!(lease.flip());
        assert_eq!(lease.held(), Some(held(6, Shared)));
    }

    #[test]
    fn whoever_a_recall_waits_for_asks_anew_when_the_right_is_lost_in_it() {
        let mut lease = holding(5, Shared);
        assert_eq!(lease.recall(GrantId(5), None), RecallFound::Begin);
        assert!(lease.lose_shared());
        assert_eq!(lease.enter(Shared, false), Enter::Wait(None));
        assert_eq!(lease.enter(Shared, true), Enter::Ask(2));
        // The directory goes on asking for the lost one, and hears that it is gone.
        lease.refuse(GrantId(5), None);
        assert!(lease.granted(held(6, Shared)));
        lease.ask_ended(2);
        assert!(matches!(lease.enter(Shared, true), Enter::Ready { .. }));
        lease.leave();
        assert!(lease.flip());
        assert_eq!(lease.held(), Some(held(6, Shared)));
    }

    #[test]
    fn a_lapse_takes_shared_rights_only_and_users_notice() {
        let mut lease = holding(5, Shared);
        let Enter::Ready { era, .. } = lease.enter(Shared, false) else {
            panic!("held");
        };
        assert!(lease.lose_shared());
        assert!(!lease.is_valid(era));
        assert!(matches!(lease.enter(Shared, false), Enter::Ask(_)));
        // The directory has not noticed, and grants the same once more.
        assert!(lease.granted(held(5, Shared)));
        assert!(!lease.is_valid(era));
        let mut lease = holding(5, Exclusive);
        assert!(!lease.lose_shared());
        assert!(lease.holds_exclusive());
    }

    #[test]
    fn a_new_leader_may_recall_before_its_grant_has_come() {
        let mut lease = holding(5, Exclusive);
        assert_eq!(lease.recall(GrantId(60), None), RecallFound::Begin);
        assert!(lease.reclaimed(Some(held(60, Exclusive))));
        assert_eq!(lease.recalling(), Some(GrantId(60)), "not forgotten");
        assert!(lease.flip());
        assert_eq!(lease.held(), None);
    }

    #[test]
    fn a_reclaimed_lease_goes_on_under_its_new_grant() {
        let mut lease = holding(50, Exclusive);
        assert_eq!(lease.recall(GrantId(50), None), RecallFound::Begin);
        assert!(lease.reclaimed(Some(held(60, Exclusive))));
        assert!(lease.flip(), "the old recall has nothing to take any more");
        assert!(lease.holds_exclusive());
        assert_eq!(lease.recall(GrantId(60), None), RecallFound::Begin);
        let mut lease = holding(50, Exclusive);
        assert!(!lease.reclaimed(None));
        assert_eq!(lease.held(), None);
    }
}
