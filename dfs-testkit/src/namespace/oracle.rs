//! Whether a tree is what a local file system makes of the same calls: everything that can be seen
//! but inode numbers, and of the times which of them have changed, and those that were set.

use super::look::{Look, Seen, Time};
use super::model::ACCESSED;
use super::perform::Answer;
use std::collections::BTreeMap;

/// Times nearer to now than this are of a clock; others were set.
const RECENT: i64 = 24 * 3600;

/// A local file system's clock may stand still for so long (nanoseconds).
const COARSE: i64 = 12_000_000;

/// What both sides showed before a call.
#[derive(Debug, Default)]
pub struct Before {
    ours: BTreeMap<u64, [Time; 3]>,
    theirs: BTreeMap<u64, [Time; 3]>,
}

/// What each side answered and showed after a call, and when it began on the local one.
#[derive(Clone, Copy, Debug)]
pub struct After<'a> {
    pub answers: (&'a Answer, &'a Answer),
    pub looks: (&'a Look, &'a Look),
    pub began: Time,
}

fn times(look: &Look) -> BTreeMap<u64, [Time; 3]> {
    look.values()
        .map(|seen| (seen.number, seen.times))
        .collect()
}

impl Before {
    /// Compares, and takes what is seen now as what was there before the next call.
    pub fn compare(&mut self, after: After<'_>) -> Result<(), String> {
        let (ours, theirs) = after.looks;
        let (our, their) = after.answers;
        if our != their {
            return Err(format!("answered {our:?}, and on the local one {their:?}"));
        }
        let (here, there): (Vec<&String>, Vec<&String>) =
            (ours.keys().collect(), theirs.keys().collect());
        if here != there {
            return Err(format!("there is {here:?}, and on the local one {there:?}"));
        }
        for (place, seen) in ours {
            let local = &theirs[place];
            self.compare_inode(seen, local, after.began)
                .map_err(|what| format!("{place}: {what}:\n  {seen:?}\n  {local:?}"))?;
        }
        (self.ours, self.theirs) = (times(ours), times(theirs));
        Ok(())
    }

    fn compare_inode(&self, ours: &Seen, theirs: &Seen, began: Time) -> Result<(), String> {
        let mut alike = theirs.clone();
        (alike.number, alike.times) = (ours.number, ours.times);
        if !ours.xattrs.is_empty() {
            // A local file system may want a block for them.
            alike.blocks = ours.blocks;
        }
        let removed = ours.is_removed_dir();
        if removed {
            // Exception: what a removed dir shows to those who have it open (docs/semantics.md).
            alike.xattrs.clone_from(&ours.xattrs);
        }
        if *ours != alike {
            return Err("is another one on the local one".to_owned());
        }
        if removed {
            return Ok(());
        }
        let (our_before, their_before) =
            (self.ours.get(&ours.number), self.theirs.get(&theirs.number));
        for (which, name) in ["access", "modification", "change"].into_iter().enumerate() {
            let (our, their) = (ours.times[which], theirs.times[which]);
            let changed =
                |now: Time, before: Option<&[Time; 3]>| before.is_none_or(|b| b[which] != now);
            let our_changed = changed(our, our_before);
            let their_changed = changed(their, their_before);
            // Exception: reads leave the time of access as it is (docs/semantics.md).
            if which == ACCESSED && !our_changed {
                continue;
            }
            let recent = |time: Time| (time.0 - began.0).abs() < RECENT;
            if recent(our) != recent(their) || (!recent(our) && our != their) {
                return Err(format!("the time of {name} is {our:?}, not {their:?}"));
            }
            let unsure = !their_changed && recent(their) && is_near(their, began);
            if our_changed != their_changed && !unsure {
                let did = if our_changed { "must not" } else { "must" };
                return Err(format!("the time of {name} {did} change"));
            }
        }
        Ok(())
    }
}

/// Whether a clock that stands still between ticks may have shown this when the call began.
fn is_near(time: Time, began: Time) -> bool {
    let apart = (began.0 - time.0).saturating_mul(1_000_000_000) + (began.1 - time.1);
    apart < COARSE
}
