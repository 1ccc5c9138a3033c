//! Bugs that can be planted on purpose, to prove that the simulation and
//! the exploration find them.
//!
//! They exist only with the feature `planted-bugs`; without it every question here is answered
//! with no.

macro_rules! bugs {
    ($( $(#[$doc:meta])* $bug:ident, $planted:ident; )*) => {
        /// A deliberate violation of one rule.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub enum Planted {
            #[default]
            None,
            $( $(#[$doc])* #[cfg(feature = "planted-bugs")] $bug, )*
        }

        impl Planted {
            $( pub(super) fn $planted(self) -> bool {
                #[cfg(feature = "planted-bugs")]
                return self == Self::$bug;
                #[cfg(not(feature = "planted-bugs"))]
                false
            } )*
        }
    };
}

bugs! {
    /// Writes are answered when the primary alone has them.
    AckBeforeBackups, acks_before_backups;
    /// Requests of any epoch are accepted.
    SkipEpochCheck, skips_epoch_check;
    /// A repeated write is executed again.
    ForgetRecords, forgets_records;
    /// A primary that members of a later epoch refuse answers without them.
    ServeWhenVotedOut, serves_when_voted_out;
    /// A joining member is proposed before anything was compared or copied.
    PromoteEarly, promotes_early;
    /// The members of a new epoch are not made equal.
    SkipEqualising, skips_equalising;
    /// An epoch serves as soon as this member has adopted it.
    ServeBeforeEffective, serves_before_effective;
    /// A sync does not look whether what it names is here.
    HideLostWrites, hides_lost_writes;
    /// A sync that fails is answered as if it had not.
    HideFailedSyncs, hides_failed_syncs;
    /// The sessions that are over, as an adoption names them, are not taken over.
    ForgetFences, forgets_fences;
    /// An adoption does not wait for what the disk is at.
    AdoptUndrained, adopts_undrained;
    /// Writes that may not be everywhere are not remembered.
    ForgetMarks, forgets_marks;
    /// Writes are answered when most members have them.
    AckByMajority, acks_by_majority;
    /// A read that names another epoch is served.
    ReadAnyEpoch, serves_any_epoch;
    /// A read that names an older epoch is served.
    ReadOlderEpoch, serves_older_epochs;
    /// A joining member serves reads.
    ReadFromJoining, serves_while_joining;
    /// A forwarded write of an older epoch is applied.
    OldForwards, takes_old_forwards;
    /// Of the writes in flight only those of the epoch before are remembered.
    ForgetOlderMarks, forgets_older_marks;
    /// A joining member does not receive the writes that are made meanwhile.
    LeaveJoiningOut, leaves_joining_out;
    /// A proposed member that misses a write holds nobody up.
    DropProposed, drops_proposed;
    /// A repeat is answered while the write is in flight.
    AnswerRepeats, answers_repeats;
    /// A member that has fenced the session counts as having the write.
    CountFenced, counts_fenced;
    /// A fence is answered while writes of its sessions are in progress.
    FenceEarly, fences_early;
}
