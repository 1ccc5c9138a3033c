//! What a few names refer to, and what each mount may still be shown of them.
//!
//! The newest version of a name is what the directory has; a change of the namespace begins with it.
//! A call that is answered from what a mount and its kernel keep may see an older one, as long as
//! the change that replaced it was not answered when the call began, and only if this mount has
//! not seen the replacement.

use std::time::Duration;

/// Names of a history.
pub(super) const NAMES: usize = 3;

/// The number of a mount, from 0.
pub(super) type Mount = usize;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Version {
    content: Option<u64>,
    /// When the change that made it was answered.
    answered: Duration,
    /// The mounts that have seen this or a later one, a bit for each.
    seen: u32,
}

/// One name: its versions, the newest last.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Name(Vec<Version>);

impl Default for Name {
    fn default() -> Self {
        Self(vec![Version {
            content: None,
            answered: Duration::ZERO,
            seen: 0,
        }])
    }
}

/// All names.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Names([Name; NAMES]);

impl Names {
    /// What the directory has.
    pub(super) fn newest(&self, name: usize) -> Option<u64> {
        self.0[name].0.last().and_then(|version| version.content)
    }

    /// What the directory has of all of them.
    pub(super) fn all(&self) -> [Option<u64>; NAMES] {
        std::array::from_fn(|name| self.newest(name))
    }

    /// A change whose answer came at `answered`.
    pub(super) fn change(&mut self, name: usize, content: Option<u64>, answered: Duration) {
        self.0[name].0.push(Version {
            content,
            answered,
            seen: 0,
        });
    }

    /// The states after a look from `mount`, begun at `called`, that has found something that `fits`.
    pub(super) fn looked(
        &self,
        name: usize,
        (mount, called): (Mount, Duration),
        fits: impl Fn(Option<u64>) -> bool,
    ) -> Vec<Self> {
        let mut after = Vec::new();
        for (at, version) in self.0[name].0.iter().enumerate().rev() {
            if fits(version.content) {
                let mut seen = self.clone();
                seen.0[name].0[at].seen |= 1 << mount;
                after.push(seen);
            }
            if version.answered < called || version.seen & (1 << mount) != 0 {
                break;
            }
        }
        after
    }

    /// Forgets what no call can see any more that was begun at `horizon` or later.
    pub(super) fn forget_before(&mut self, horizon: Duration) {
        for name in &mut self.0 {
            let versions = &mut name.0;
            let last = versions.iter().rposition(|v| v.answered < horizon);
            versions.drain(..last.unwrap_or(0));
            // Whoever has seen it or not, from now on all do.
            if let Some(oldest) = versions.first_mut() {
                oldest.answered = Duration::ZERO;
                oldest.seen = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn found(names: &Names, mount: Mount, called: u32, content: Option<u64>) -> Vec<Names> {
        names.looked(0, (mount, MS * called), |found| found == content)
    }

    #[test]
    fn until_a_change_is_answered_mounts_may_differ_and_none_goes_back() {
        let mut names = Names::default();
        names.change(0, Some(7), MS * 10);
        // Both are possible at 5 ms; when mount 0 has seen the new one, it stays so there.
        assert_eq!(found(&names, 0, 5, None).len(), 1);
        let seen = found(&names, 0, 5, Some(7)).remove(0);
        assert!(found(&seen, 0, 6, None).is_empty());
        assert_eq!(found(&seen, 1, 6, None).len(), 1);
        // At 11 ms it has been answered.
        assert!(found(&names, 1, 11, None).is_empty());
        assert_eq!(found(&names, 1, 11, Some(7)).len(), 1);
    }

    #[test]
    fn what_is_forgotten_could_not_be_seen() {
        let mut names = Names::default();
        names.change(0, Some(1), MS * 10);
        names.change(0, Some(2), MS * 20);
        let mut later = names.clone();
        later.forget_before(MS * 15);
        for called in [15, 21] {
            for content in [None, Some(1), Some(2)] {
                let before = !found(&names, 0, called, content).is_empty();
                let after = !found(&later, 0, called, content).is_empty();
                assert_eq!(before, after, "{content:?} at {called}");
            }
        }
        later.forget_before(MS * 30);
        assert_eq!(later.0[0].0.len(), 1);
    }
}
