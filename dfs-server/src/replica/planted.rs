//! Bugs that can be planted on purpose, to prove that the simulation finds them.
//!
//! Compiled only with the feature `planted-bugs`; without it `Planted::is` is always false.

/// A deliberate violation of one rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Planted {
    #[default]
    None,
    /// Writes are answered when the primary alone has them.
    #[cfg(feature = "planted-bugs")]
    AckBeforeBackups,
    /// Requests of any epoch are accepted.
    #[cfg(feature = "planted-bugs")]
    SkipEpochCheck,
    /// A repeated write is executed again.
    #[cfg(feature = "planted-bugs")]
    ForgetRecords,
}

impl Planted {
    pub(super) fn acks_before_backups(self) -> bool {
        #[cfg(feature = "planted-bugs")]
        return self == Self::AckBeforeBackups;
        #[cfg(not(feature = "planted-bugs"))]
        false
    }

    pub(super) fn skips_epoch_check(self) -> bool {
        #[cfg(feature = "planted-bugs")]
        return self == Self::SkipEpochCheck;
        #[cfg(not(feature = "planted-bugs"))]
        false
    }

    pub(super) fn forgets_records(self) -> bool {
        #[cfg(feature = "planted-bugs")]
        return self == Self::ForgetRecords;
        #[cfg(not(feature = "planted-bugs"))]
        false
    }
}
