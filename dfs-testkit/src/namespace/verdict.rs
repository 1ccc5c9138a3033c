//! Whether what is seen of a tree is what the model says.

use super::call::{Act, Call, Special};
use super::look::{Look, Seen, Time};
use super::model::{Inode, Kind, Model, Number, ROOT, Touch};
use super::perform::{device, digest};
use rustix::fs::FileType;
use std::collections::BTreeMap;

/// What clocks and the directory's idea of the time may be apart.
const SLACK: i64 = 2;

/// The time that a step took, and the beginning of all.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub began: Time,
    pub from: Time,
    pub to: Time,
}

impl Window {
    fn holds(&self, time: Time, from: Time) -> bool {
        let (from, to) = ((from.0 - SLACK, from.1), (self.to.0 + SLACK, self.to.1));
        from <= time && time <= to
    }
}

/// Whether these two calls may be made at the same moment: their outcome is then that of one order
/// or the other. Not so where one call is several requests on several names, by the kernel's own
/// way of doing them: two calls with two names each may both find what was there before; a read of
/// several pages may mix what was there before and after; who gives a file away with a setuid bit
/// sets the mode that was looked at before.
pub fn may_overlap(one: &Act, other: &Act) -> bool {
    let names = |act: &Act| matches!(act, Act::Rename(..) | Act::Link(..) | Act::Symlink(..));
    let reads = |act: &Act| matches!(act, Act::Read(_));
    let writes = |act: &Act| {
        matches!(
            act,
            Act::Write(..) | Act::SetLen(..) | Act::Truncate(..) | Act::Open(..)
        )
    };
    let modes = |act: &Act| matches!(act, Act::Chmod(..) | Act::Chown(..));
    let either = |one_is: bool, other_is: bool| one_is && other_is;
    !either(names(one), names(other))
        && !either(reads(one), writes(other))
        && !either(writes(one), reads(other))
        && !either(modes(one), modes(other) || writes(other))
        && !either(writes(one), modes(other))
}

/// The calls that are made at once, in order: two of different mounts that follow each other.
pub fn steps(calls: &[Call]) -> Vec<&[Call]> {
    let mut steps = Vec::new();
    let mut rest = calls;
    while !rest.is_empty() {
        let pair = matches!(rest, [one, other, ..]
            if one.mount != other.mount && may_overlap(&one.act, &other.act));
        let (step, after) = rest.split_at(if pair { 2 } else { 1 });
        steps.push(step);
        rest = after;
    }
    steps
}

impl Model {
    /// Compares what each mount shows with the tree, and takes over the times that a clock has
    /// given. An error says what differs.
    pub fn verdict(&mut self, looks: &[Look], window: Window) -> Result<(), String> {
        let places = self.places();
        for (mount, look) in looks.iter().enumerate() {
            let here: Vec<&String> = look.keys().collect();
            let expected: Vec<&String> = places.keys().collect();
            if here != expected {
                return Err(format!("mount {mount} has {here:?}, not {expected:?}"));
            }
            for (place, seen) in look {
                let (number, same_as) = &places[place];
                self.compare(*number, same_as, seen, window)
                    .map_err(|what| format!("mount {mount}, {place}: {what}: {seen:?}"))?;
            }
        }
        for (place, (number, _)) in &places {
            let all: Vec<[Time; 3]> = looks.iter().map(|look| look[place].times).collect();
            let inode = self.at_mut(*number);
            for which in 0..3 {
                if inode.touched[which] == Touch::Perhaps {
                    continue;
                }
                let first = all[0][which];
                if all.iter().any(|times| times[which] != first) {
                    return Err(format!("{place}: the mounts show different times: {all:?}"));
                }
                inode.times[which] = first;
            }
        }
        for inode in self.inodes.values_mut() {
            for touched in &mut inode.touched {
                if *touched == Touch::Now {
                    *touched = Touch::Not;
                }
            }
        }
        Ok(())
    }

    /// What is where, with the first place of the same inode.
    fn places(&self) -> BTreeMap<String, (Number, String)> {
        let mut found = Vec::new();
        self.walk_all(ROOT, ".", &mut found);
        for (mount, slots) in self.held.iter().enumerate() {
            for (slot, held) in slots.iter().enumerate() {
                if let Some(held) = held {
                    found.push((format!("#{mount}.{slot}"), held.inode));
                }
            }
        }
        let mut firsts: BTreeMap<Number, String> = BTreeMap::new();
        found
            .into_iter()
            .map(|(place, number)| {
                let first = firsts.entry(number).or_insert_with(|| place.clone());
                (place, (number, first.clone()))
            })
            .collect()
    }

    fn walk_all(&self, number: Number, place: &str, found: &mut Vec<(String, Number)>) {
        found.push((place.to_owned(), number));
        let Kind::Dir { entries, .. } = &self.at(number).kind else {
            return;
        };
        for (name, inside) in entries {
            let below = match place {
                "." => name.clone(),
                _ => format!("{place}/{name}"),
            };
            self.walk_all(*inside, &below, found);
        }
    }

    fn compare(
        &self,
        number: Number,
        same_as: &str,
        seen: &Seen,
        window: Window,
    ) -> Result<(), String> {
        let inode = self.at(number);
        let mut expected = Seen {
            kind: FileType::Directory,
            mode: inode.mode,
            links: self.links(number),
            uid: inode.uid,
            gid: inode.gid,
            device: 0,
            size: None,
            // The model does not count them; the mounts show the same (`differences`).
            blocks: seen.blocks,
            target: None,
            xattrs: inode.xattrs.clone(),
            content: None,
            same_as: same_as.to_owned(),
            number: seen.number,
            times: seen.times,
        };
        match &inode.kind {
            Kind::Dir { .. } => {}
            Kind::File(bytes) => {
                expected.kind = FileType::RegularFile;
                expected.size = Some(bytes.len() as u64);
                expected.content = seen.content.map(|_| digest(bytes));
            }
            Kind::Link(target) => {
                expected.kind = FileType::Symlink;
                expected.size = Some(target.len() as u64);
                expected.target = Some(target.clone());
            }
            Kind::Special(Special::Fifo) => expected.kind = FileType::Fifo,
            Kind::Special(Special::Socket) => expected.kind = FileType::Socket,
            Kind::Special(Special::Device) => {
                expected.kind = FileType::CharacterDevice;
                expected.device = device();
            }
        }
        if *seen != expected {
            return Err(format!("not as in the model: {expected:?}"));
        }
        let names = ["access", "modification", "change"];
        for (which, name) in names.iter().enumerate() {
            inode
                .is_time(which, seen.times[which], window)
                .map_err(|what| format!("the time of {name} {what}"))?;
        }
        Ok(())
    }
}

impl Inode {
    fn is_time(&self, which: usize, seen: Time, window: Window) -> Result<(), String> {
        let before = self.times[which];
        match self.touched[which] {
            Touch::Not if seen != before => Err(format!("was {before:?}, and nothing changed it")),
            Touch::Now if seen == before => Err("did not change".to_owned()),
            Touch::Now if !window.holds(seen, window.from) => {
                Err(format!("is not of this step, {window:?}"))
            }
            Touch::Perhaps if seen != before && !window.holds(seen, window.began) => {
                Err(format!("was {before:?}, and is not of a call"))
            }
            _ => Ok(()),
        }
    }
}
