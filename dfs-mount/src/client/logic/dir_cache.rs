//! What the mount keeps of names and dirs, under the rights that the directory has given. Pure.
//!
//! Everything here is about one question: may an answer be kept? It may if the right of its dir
//! is held, and if nothing was heard of a change of the dir since the question was *asked*: the
//! directory tells every change to whoever may have read the state before it, so an answer that
//! is older than a change was asked for before the change was heard of. Whether the answer or the
//! news comes first on the wire does not matter. An answer that does not bring the right itself, as
//! that of an own change, counts only if the right was held already when it was asked for: before,
//! nobody told this mount of anything.
//!
//! Nobody tells this mount of its own changes, either: while one is under way, of two answers the
//! earlier one may have come last. A name that is being changed here is asked for each time.
//!
//! Moments are counted, not timed: each news raises one counter; a question remembers the count.
//! The same check guards what the kernel is given to keep (`may_keep`), at the moment of the reply.

use dfs_proto::attr::FileAttr;
use dfs_proto::ids::InodeId;
use dfs_proto::name::FileName;
use std::collections::{BTreeMap, BTreeSet};

/// When a question was asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Asked(u64);

/// What is known of a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Name {
    Is(InodeId),
    Absent,
    Unknown,
}

/// A listing that is being read from its start.
#[derive(Clone, Copy, Debug)]
struct Listing {
    asked: Asked,
    next: u64,
}

#[derive(Debug, Default)]
struct Dir {
    /// When something of it changed last.
    changed: u64,
    right: bool,
    /// When the right came.
    right_since: u64,
    attr: Option<FileAttr>,
    names: BTreeMap<FileName, Name>,
    /// Names that are not in `names` are absent.
    complete: bool,
    listing: Option<Listing>,
    used: u64,
}

impl Dir {
    fn forget(&mut self) {
        self.attr = None;
        self.names.clear();
        self.complete = false;
        self.listing = None;
    }
}

/// What is kept of all dirs.
#[derive(Debug)]
pub struct DirCache {
    dirs: BTreeMap<InodeId, Dir>,
    /// Counts news.
    count: u64,
    /// What is not in `dirs` any more may have changed then.
    floor: u64,
    /// Names that are kept, and how many may be.
    names: usize,
    most_names: usize,
    uses: u64,
    by_use: BTreeSet<(u64, InodeId)>,
    /// Own changes of names that are under way.
    changing: BTreeMap<(InodeId, FileName), u32>,
}

impl DirCache {
    /// Nothing; room for `most_names` names.
    pub fn new(most_names: usize) -> Self {
        Self {
            dirs: BTreeMap::new(),
            count: 0,
            floor: 0,
            names: 0,
            most_names,
            uses: 0,
            by_use: BTreeSet::new(),
            changing: BTreeMap::new(),
        }
    }

    /// Before a question is sent.
    pub fn ask(&self) -> Asked {
        Asked(self.count)
    }

    /// Before a request that changes these names is sent; `changed_here` tells for each of them what
    /// has come of it.
    pub fn begin_change(&mut self, names: &[(InodeId, FileName)]) {
        for key in names {
            *self.changing.entry(key.clone()).or_default() += 1;
        }
    }

    fn end_change(&mut self, dir: InodeId, name: &FileName) {
        let key = (dir, name.clone());
        if let Some(more) = self.changing.get_mut(&key) {
            *more -= 1;
            if *more == 0 {
                self.changing.remove(&key);
            }
        }
    }

    fn is_changing(&self, dir: InodeId, name: &FileName) -> bool {
        !self.changing.is_empty() && self.changing.contains_key(&(dir, name.clone()))
    }

    fn changed_at(&self, dir: InodeId) -> u64 {
        self.dirs.get(&dir).map_or(self.floor, |at| at.changed)
    }

    /// The answer to a question says that the right of the dir is held. Returns whether what else
    /// the answer says of the dir may be kept.
    pub fn granted(&mut self, dir: InodeId, asked: Asked) -> bool {
        if self.changed_at(dir) > asked.0 {
            return false;
        }
        let (floor, at) = (self.floor, self.dirs.entry(dir));
        let at = at.or_insert_with(|| Dir {
            changed: floor,
            ..Dir::default()
        });
        if !at.right {
            self.count += 1;
            at.right = true;
            at.right_since = self.count;
        }
        self.touch(dir);
        true
    }

    /// Whether what was asked for then may be kept now.
    pub fn may_keep(&self, dir: InodeId, asked: Asked) -> bool {
        self.dirs
            .get(&dir)
            .is_some_and(|at| at.right && at.changed <= asked.0)
    }

    /// An answer: what a name is. Not kept if it may be of the past.
    pub fn learn_name(&mut self, dir: InodeId, name: FileName, is: Name, asked: Asked) {
        if !self.may_keep(dir, asked) || self.is_changing(dir, &name) {
            return;
        }
        self.put(dir, name, is);
        self.make_room(dir);
    }

    /// An answer: the attributes of a dir itself.
    pub fn learn_attr(&mut self, attr: &FileAttr, asked: Asked) {
        if self.may_keep(attr.inode, asked)
            && let Some(at) = self.dirs.get_mut(&attr.inode)
        {
            at.attr = Some(*attr);
        }
    }

    /// A dir that this mount has just made: nothing is in it.
    pub fn learn_empty(&mut self, dir: InodeId, asked: Asked) {
        if self.may_keep(dir, asked)
            && let Some(at) = self.dirs.get_mut(&dir)
        {
            at.complete = true;
        }
    }

    /// A page of a listing after the cookie `from`, up to the cookie `to`; its names were learnt
    /// before. A listing that was read from the start to the end leaves no name unknown.
    pub fn learn_page(&mut self, dir: InodeId, from: u64, to: u64, end: bool, asked: Asked) {
        if !self.may_keep(dir, asked) {
            return;
        }
        let Some(at) = self.dirs.get_mut(&dir) else {
            return;
        };
        let listing = match at.listing.take() {
            _ if from == 0 => Listing { asked, next: to },
            Some(listing) if listing.next == from && at.changed <= listing.asked.0 => Listing {
                next: to,
                ..listing
            },
            _ => return,
        };
        if end {
            at.complete = true;
        } else {
            at.listing = Some(listing);
        }
    }

    /// News from the directory: these names of the dir, and its attributes, have changed. Without
    /// `keep` the right is gone.
    pub fn changed(&mut self, dir: InodeId, names: &[FileName], keep: bool) {
        self.count += 1;
        let count = self.count;
        let at = self.dirs.entry(dir).or_default();
        at.changed = count;
        at.attr = None;
        at.listing = None;
        if keep {
            for name in names {
                self.unlearn(dir, name);
            }
        } else {
            self.drop_dir(dir);
        }
        self.prune();
    }

    /// This mount has changed the dir itself, by a request that was asked for then: what the names
    /// are now, and the dir's attributes. Anything that was heard in between may be newer or older
    /// than that, and so may what was found out under a right that came in between: then nothing is known
    /// of them. If it is, the answer of the request may be kept
    /// as if it had been asked for at the moment that is returned.
    pub fn changed_here(
        &mut self,
        dir: InodeId,
        names: &[(FileName, Name)],
        attr: Option<FileAttr>,
        asked: Asked,
    ) -> Option<Asked> {
        self.count += 1;
        for (name, _) in names {
            self.end_change(dir, name);
        }
        let heard = self.changed_at(dir) > asked.0;
        let count = self.count;
        let Some(at) = self.dirs.get_mut(&dir) else {
            // Questions about it may be under way.
            self.floor = count;
            return None;
        };
        at.changed = count;
        at.listing = None;
        let keeps = at.right && at.right_since <= asked.0 && !heard;
        at.attr = attr.filter(|_| keeps);
        for (name, is) in names {
            match keeps {
                true => self.put(dir, name.clone(), *is),
                false => self.unlearn(dir, name),
            }
        }
        self.make_room(dir);
        keeps.then(|| self.ask())
    }

    /// The dir was moved or removed by this mount: what is known of itself is of the past.
    pub fn unlearn_attr(&mut self, dir: InodeId) {
        self.count += 1;
        let count = self.count;
        if let Some(at) = self.dirs.get_mut(&dir) {
            at.changed = count;
            at.attr = None;
        } else {
            self.floor = count;
        }
    }

    /// The directory does not have this inode any more. It says so before it answers whoever
    /// removed its last name, who may be this mount: names that lead to it are asked for again.
    pub fn unlearn_inode(&mut self, inode: InodeId) {
        let leading = |(dir, at): (&InodeId, &Dir)| {
            let names = at.names.iter().filter(|(_, is)| **is == Name::Is(inode));
            let names: Vec<FileName> = names.map(|(name, _)| name.clone()).collect();
            (!names.is_empty()).then_some((*dir, names))
        };
        let found: Vec<_> = self.dirs.iter().filter_map(leading).collect();
        for (dir, names) in found {
            self.changed(dir, &names, true);
        }
    }

    /// The dir was removed by this mount: the directory has forgotten its right.
    pub fn removed(&mut self, dir: InodeId) {
        self.count += 1;
        self.floor = self.count;
        self.drop_dir(dir);
        if let Some(at) = self.dirs.remove(&dir) {
            self.by_use.remove(&(at.used, dir));
        }
    }

    /// All rights are gone. Returns the dirs of which there was one.
    pub fn lose_all(&mut self) -> Vec<InodeId> {
        self.count += 1;
        self.floor = self.count;
        self.names = 0;
        self.by_use.clear();
        let dirs = std::mem::take(&mut self.dirs);
        let held = dirs.into_iter().filter(|(_, at)| at.right);
        held.map(|(dir, _)| dir).collect()
    }

    /// What is known of a name, and since when.
    pub fn name(&mut self, dir: InodeId, name: &FileName) -> (Name, Asked) {
        let asked = self.ask();
        let known = !self.is_changing(dir, name);
        let Some(at) = self.dirs.get(&dir).filter(|at| at.right && known) else {
            return (Name::Unknown, asked);
        };
        let is = match at.names.get(name) {
            Some(is) => *is,
            None if at.complete => Name::Absent,
            None => Name::Unknown,
        };
        self.touch(dir);
        (is, asked)
    }

    /// The attributes of a dir, and since when.
    pub fn attr(&self, dir: InodeId) -> Option<(FileAttr, Asked)> {
        let at = self.dirs.get(&dir).filter(|at| at.right)?;
        at.attr.map(|attr| (attr, self.ask()))
    }

    fn put(&mut self, dir: InodeId, name: FileName, is: Name) {
        if let Some(at) = self.dirs.get_mut(&dir) {
            let complete = at.complete;
            let before = at.names.len();
            match is {
                // What is not there needs no room where everything else is known.
                Name::Absent if complete => {
                    at.names.remove(&name);
                }
                _ => {
                    at.names.insert(name, is);
                }
            }
            self.names = self.names + at.names.len() - before;
        }
    }

    fn unlearn(&mut self, dir: InodeId, name: &FileName) {
        let Some(at) = self.dirs.get_mut(&dir) else {
            return;
        };
        if at.complete {
            self.put(dir, name.clone(), Name::Unknown);
        } else if at.names.remove(name).is_some() {
            self.names -= 1;
        }
    }

    fn drop_dir(&mut self, dir: InodeId) {
        if let Some(at) = self.dirs.get_mut(&dir) {
            self.names -= at.names.len();
            at.forget();
            at.right = false;
        }
    }

    fn touch(&mut self, dir: InodeId) {
        self.uses += 1;
        if let Some(at) = self.dirs.get_mut(&dir) {
            self.by_use.remove(&(at.used, dir));
            at.used = self.uses;
            self.by_use.insert((at.used, dir));
        }
    }

    /// Forgets names, those of the least recently used dirs first, until there is room. The rights
    /// stay: what the kernel has of them is true.
    fn make_room(&mut self, used: InodeId) {
        while self.names > self.most_names {
            let oldest = self.by_use.iter().find(|(_, dir)| *dir != used).copied();
            let (_, dir) = match oldest {
                Some(oldest) => {
                    self.by_use.remove(&oldest);
                    oldest
                }
                None => (0, used),
            };
            if let Some(at) = self.dirs.get_mut(&dir) {
                self.names -= at.names.len();
                at.names.clear();
                at.complete = false;
                at.listing = None;
            }
            if dir == used {
                return;
            }
        }
    }

    /// Dirs without a right stay only for the questions under way; from time to time they go.
    fn prune(&mut self) {
        const WITHOUT_RIGHT_MAX: usize = 4096;
        if self.dirs.len() <= WITHOUT_RIGHT_MAX || !self.count.is_multiple_of(1024) {
            return;
        }
        self.dirs.retain(|_, at| at.right);
        let dirs = &self.dirs;
        self.by_use.retain(|(_, dir)| dirs.contains_key(dir));
        self.floor = self.count;
    }
}

#[cfg(test)]
mod tests {
    use super::super::authority::test_attr;
    use super::*;

    const D: InodeId = InodeId(1);
    const F: InodeId = InodeId(7);
    const G: InodeId = InodeId(8);

    fn name(text: &str) -> FileName {
        FileName::new(text.as_bytes()).expect("a name")
    }

    fn is(cache: &mut DirCache, text: &str) -> Name {
        cache.name(D, &name(text)).0
    }

    #[test]
    fn an_answer_that_was_asked_for_before_the_news_is_not_kept() {
        let mut cache = DirCache::new(100);
        let early = cache.ask();
        // The news may come before the first answer that grants the right at all.
        cache.changed(D, &[name("x")], true);
        assert!(!cache.granted(D, early));
        cache.learn_name(D, name("x"), Name::Is(F), early);
        assert_eq!(is(&mut cache, "x"), Name::Unknown);
        let late = cache.ask();
        assert!(cache.granted(D, late));
        cache.learn_name(D, name("x"), Name::Absent, late);
        assert_eq!(is(&mut cache, "x"), Name::Absent);
        assert!(cache.may_keep(D, late));
        cache.changed(D, &[name("x")], true);
        assert!(!cache.may_keep(D, late));
        assert_eq!(is(&mut cache, "x"), Name::Unknown);
    }

    #[test]
    fn names_that_did_not_change_stay() {
        let mut cache = DirCache::new(100);
        let asked = cache.ask();
        cache.granted(D, asked);
        cache.learn_name(D, name("x"), Name::Is(F), asked);
        cache.learn_name(D, name("y"), Name::Absent, asked);
        cache.changed(D, &[name("z")], true);
        assert_eq!(is(&mut cache, "x"), Name::Is(F));
        assert_eq!(is(&mut cache, "y"), Name::Absent);
        cache.changed(D, &[], false);
        assert_eq!(is(&mut cache, "x"), Name::Unknown);
    }

    #[test]
    fn names_of_an_inode_that_is_gone_are_asked_for_again() {
        let mut cache = DirCache::new(100);
        let asked = cache.ask();
        cache.granted(D, asked);
        cache.learn_name(D, name("x"), Name::Is(F), asked);
        cache.learn_name(D, name("link"), Name::Is(F), asked);
        cache.learn_name(D, name("y"), Name::Is(InodeId(77)), asked);
        cache.unlearn_inode(F);
        assert_eq!(is(&mut cache, "x"), Name::Unknown);
        assert_eq!(is(&mut cache, "link"), Name::Unknown);
        assert_eq!(is(&mut cache, "y"), Name::Is(InodeId(77)));
        assert!(!cache.may_keep(D, asked), "nor is it given to the kernel");
        let later = cache.ask();
        assert!(cache.may_keep(D, later));
        cache.unlearn_inode(F);
        assert!(cache.may_keep(D, later), "nothing was known of it");
    }

    #[test]
    fn own_changes_are_known_unless_others_came_in_between() {
        let mut cache = DirCache::new(100);
        let asked = cache.ask();
        cache.granted(D, asked);
        cache.learn_empty(D, asked);
        assert_eq!(is(&mut cache, "x"), Name::Absent);
        let look = cache.ask();
        let made = cache.ask();
        cache.changed_here(D, &[(name("x"), Name::Is(F))], Some(test_attr(0)), made);
        assert_eq!(is(&mut cache, "x"), Name::Is(F));
        // A look that was on its way before may have missed it.
        cache.learn_name(D, name("x"), Name::Absent, look);
        assert_eq!(is(&mut cache, "x"), Name::Is(F));
        let removed = cache.ask();
        cache.changed(D, &[name("other")], true);
        cache.changed_here(D, &[(name("x"), Name::Absent)], Some(test_attr(0)), removed);
        assert_eq!(is(&mut cache, "x"), Name::Unknown);
        assert!(cache.attr(D).is_none());
        assert_eq!(is(&mut cache, "never seen"), Name::Absent);
        assert_eq!(is(&mut cache, "other"), Name::Unknown);
    }

    #[test]
    fn a_whole_listing_leaves_nothing_unknown() {
        let mut cache = DirCache::new(100);
        let asked = cache.ask();
        cache.granted(D, asked);
        cache.learn_name(D, name("x"), Name::Is(F), asked);
        cache.learn_page(D, 0, 10, false, asked);
        cache.learn_page(D, 10, 20, true, cache.ask());
        assert_eq!(is(&mut cache, "y"), Name::Absent);
        // One that was changed in the middle is not whole.
        cache.changed(D, &[name("x")], false);
        let asked = cache.ask();
        cache.granted(D, asked);
        cache.learn_page(D, 0, 10, false, asked);
        cache.changed(D, &[name("x")], true);
        cache.learn_page(D, 10, 20, true, cache.ask());
        assert_eq!(is(&mut cache, "y"), Name::Unknown);
    }

    #[test]
    fn room_is_made_by_the_least_recently_used_dir() {
        let mut cache = DirCache::new(4);
        let asked = cache.ask();
        for dir in [D, F, G] {
            cache.granted(dir, asked);
        }
        cache.learn_name(F, name("a"), Name::Absent, asked);
        cache.learn_name(G, name("a"), Name::Absent, asked);
        cache.name(F, &name("a"));
        for text in ["p", "q", "r"] {
            cache.learn_name(D, name(text), Name::Absent, asked);
        }
        assert_eq!(cache.name(G, &name("a")).0, Name::Unknown);
        assert_eq!(cache.name(F, &name("a")).0, Name::Absent);
        assert!(cache.may_keep(G, asked), "the right stays");
        assert_eq!(cache.lose_all().len(), 3);
        assert!(!cache.may_keep(D, asked));
        assert!(!cache.granted(D, asked));
    }

    #[test]
    fn an_own_change_is_not_known_under_a_right_that_came_later() {
        let mut cache = DirCache::new(100);
        // "x" is removed here, then made by another mount, which tells nobody: there is no right.
        let removed = cache.ask();
        let look = cache.ask();
        assert!(cache.granted(D, look));
        cache.learn_name(D, name("y"), Name::Is(G), look);
        cache.changed_here(D, &[(name("x"), Name::Absent)], Some(test_attr(0)), removed);
        assert_eq!(is(&mut cache, "x"), Name::Unknown);
        assert_eq!(is(&mut cache, "y"), Name::Is(G));
        assert!(cache.attr(D).is_none());
    }

    #[test]
    fn what_is_seen_of_a_name_that_is_being_changed_here_does_not_go_back() {
        let mut cache = DirCache::new(100);
        let asked = cache.ask();
        cache.granted(D, asked);
        cache.learn_name(D, name("x"), Name::Is(F), asked);
        let removed = cache.ask();
        cache.begin_change(&[(D, name("x"))]);
        let (early, late) = (cache.ask(), cache.ask());
        // The look of after the removal is answered first.
        cache.learn_name(D, name("x"), Name::Absent, late);
        assert_eq!(is(&mut cache, "x"), Name::Unknown, "nor what was kept");
        cache.learn_name(D, name("x"), Name::Is(F), early);
        assert_eq!(is(&mut cache, "x"), Name::Unknown);
        cache.changed_here(D, &[(name("x"), Name::Absent)], None, removed);
        assert_eq!(is(&mut cache, "x"), Name::Absent);
        // One that is refused ends as well.
        let refused = cache.ask();
        cache.begin_change(&[(D, name("x")), (D, name("y"))]);
        let unknown = [(name("x"), Name::Unknown), (name("y"), Name::Unknown)];
        cache.changed_here(D, &unknown, None, refused);
        let again = cache.ask();
        cache.learn_name(D, name("x"), Name::Absent, again);
        assert_eq!(is(&mut cache, "x"), Name::Absent);
        assert!(cache.changing.is_empty());
    }

    fn random(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    /// A directory with one dir, and the wire between: answers and news in any order.
    #[test]
    fn nothing_that_was_changed_elsewhere_is_served_after_its_news() {
        let texts = ["a", "b", "c"];
        for seed in 1..300u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut cache = DirCache::new(2 + (seed % 5) as usize);
            let mut truth: BTreeMap<&str, Name> = BTreeMap::new();
            let mut right = false;
            // Answers on their way, news on their way, own changes on their way.
            let mut answers: Vec<(&str, Name, Asked)> = Vec::new();
            let mut news: Vec<&str> = Vec::new();
            let mut own: Vec<(&str, Name, Asked)> = Vec::new();
            for step in 0..300 {
                let text = texts[(random(&mut state) % 3) as usize];
                match random(&mut state) % 11 {
                    0..=2 => {
                        right = true;
                        let is = truth.get(text).copied().unwrap_or(Name::Absent);
                        answers.push((text, is, cache.ask()));
                    }
                    3..=4 if !answers.is_empty() => {
                        let at = random(&mut state) as usize % answers.len();
                        let (text, is, asked) = answers.swap_remove(at);
                        if cache.granted(D, asked) {
                            cache.learn_name(D, name(text), is, asked);
                        }
                    }
                    5 => {
                        let inode = Name::Is(InodeId(100 + step));
                        let is = [inode, Name::Absent][(random(&mut state) % 2) as usize];
                        truth.insert(text, is);
                        if right {
                            news.push(text);
                        }
                    }
                    6 if !news.is_empty() => {
                        let at = random(&mut state) as usize % news.len();
                        cache.changed(D, &[name(news.swap_remove(at))], true);
                    }
                    // The right is taken away when the mount has heard that: what is asked for
                    // meanwhile is under the old one.
                    10 if right && answers.is_empty() && news.is_empty() => {
                        cache.changed(D, &[], false);
                        right = false;
                    }
                    7 => {
                        let is = Name::Is(InodeId(1_000 + step));
                        own.push((text, is, cache.ask()));
                        truth.insert(text, is);
                    }
                    8 if !own.is_empty() => {
                        let at = random(&mut state) as usize % own.len();
                        let (text, is, asked) = own.swap_remove(at);
                        cache.changed_here(D, &[(name(text), is)], None, asked);
                    }
                    _ => {}
                }
                for text in texts {
                    let is = is(&mut cache, text);
                    let quiet = !news.contains(&text) && own.iter().all(|(t, _, _)| *t != text);
                    let present = truth.get(text).copied().unwrap_or(Name::Absent);
                    if quiet && is != Name::Unknown {
                        assert_eq!(is, present, "seed {seed}, step {step}, {text}");
                    }
                }
            }
        }
    }
}
